"""Masking and checks as tables."""

from collections.abc import Callable
from datetime import date

import pytest

from estation.identity.rules import (
    Tier,
    address_key,
    clean_phone,
    masked_address,
    masked_bank_card,
    masked_certificate_no,
    masked_id_no,
    masked_name,
    masked_phone,
    person_fault,
    safe_next,
)


@pytest.mark.parametrize(
    ("name", "tier", "shown"),
    [
        ("张小丰", Tier.PUBLIC, "张**"),
        ("张小丰", Tier.PARTY, "张*丰"),
        ("张丰", Tier.PARTY, "张*"),
        ("欧阳小丰", Tier.PARTY, "欧**丰"),
        ("张小丰", Tier.SELF, "张小丰"),
    ],
)
def test_names_are_masked_by_tier(name: str, tier: Tier, shown: str) -> None:
    assert masked_name(name, tier) == shown


def test_numbers_keep_their_length_when_masked() -> None:
    id_no = "11010519491231002X"

    assert masked_id_no(id_no, Tier.PARTY) == "110***********002X"
    assert masked_id_no(id_no, Tier.PUBLIC) == "****************2X"
    assert masked_id_no("123", Tier.PARTY) == "***"
    assert masked_phone("13812341234", Tier.PARTY) == "138****1234"


@pytest.mark.parametrize(
    ("id_type", "id_no", "name", "fault"),
    [
        ("1", "11010519491231002X", "张", ""),
        ("1", "440524188001010014", "张", ""),
        ("1", "110105194912310021", "张", "id_no"),
        ("1", "1101051949123100", "张", "id_no"),
        ("1", "110105194902310026", "张", "id_no"),  # 31 February
        ("1", "１１０１０５194912310021", "张", "id_no"),
        ("3", "E12345678", "Ann", ""),
        ("3", "", "Ann", "id_no"),
        ("1", "11010519491231002X", " ", "name"),
    ],
)
def test_impossible_persons_are_named(id_type: str, id_no: str, name: str, fault: str) -> None:
    today = date(2026, 3, 1)

    assert person_fault(id_type=id_type, id_no=id_no, name=name, today=today) == fault


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("/fees", "/fees"),
        ("/fees/1?a=b&c=%2F", "/fees/1?a=b&c=%2F"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\r\nset-cookie: x", "/"),
        (None, "/"),
    ],
)
def test_only_paths_of_this_site_are_followed(given: str | None, taken: str) -> None:
    assert safe_next(given) == taken


CERTIFICATE = "赣(2026)江城市不动产权第0012345号"
HOME = "东湖区滨江路18号锦绣花园3幢2单元1201室"


@pytest.mark.parametrize(
    ("field", "public", "party", "own"),
    [
        (lambda tier: masked_name("张小丰", tier), "张**", "张*丰", "张小丰"),
        (lambda tier: masked_name("买买提·艾力", tier), "买**", "买****力", "买买提·艾力"),
        (lambda tier: masked_name("江城置业公司", tier, id_type="8"), *["江城置业公司"] * 3),
        (
            lambda tier: masked_id_no("11010519491231002X", tier),
            "****************2X",
            "110***********002X",
            "110105********002X",
        ),
        (lambda tier: masked_phone("13812341234", tier), *["138****1234"] * 2, "13812341234"),
        (lambda tier: masked_phone("8634567", tier), *["*******"] * 2, "8634567"),
        (lambda tier: masked_phone("", tier), "", "", ""),
        (lambda tier: masked_bank_card("6222020200112230123"), *["***************0123"] * 3),
        (lambda tier: masked_address(HOME, tier), "东湖区滨江路18号锦绣花园3幢****", HOME, HOME),
        (
            lambda tier: masked_address("滨江路18号1201", tier),
            "滨江路18号****",
            "滨江路18号1201",
            "滨江路18号1201",
        ),
        (
            lambda tier: masked_certificate_no(CERTIFICATE, tier),
            "(2026)****45",
            CERTIFICATE,
            CERTIFICATE,
        ),
    ],
)  # fmt: skip
def test_each_viewer_sees_what_the_table_allows(
    field: Callable[[Tier], str], public: str, party: str, own: str
) -> None:
    assert [field(tier) for tier in Tier] == [public, party, own]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:0:1::5", "20010db800000001/64"),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_user_counts_by_the_network_he_owns(address: str, key: str) -> None:
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("138 0000 0001", "13800000001"),
        ("+86-138-0000-0001", "13800000001"),
        ("008613800000001", "13800000001"),
    ],
)
def test_phones_are_read_as_people_write_them(typed: str, meant: str) -> None:
    assert clean_phone(typed) == meant
