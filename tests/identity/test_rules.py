"""Masking and checks as tables."""

from datetime import date

import pytest

from estation.identity.rules import (
    Tier,
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
