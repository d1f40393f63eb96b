"""Check digits by the standards' own examples, and what is near to them but wrong."""

from datetime import date

import pytest

from estation.inner import identifiers, personas
from estation.inner.seed import people
from estation.shared import identity_papers, passwords

TODAY = date(2026, 11, 23)


@pytest.mark.parametrize("number", ["11010519491231002X", "440524188001010014"])
def test_valid_identity_numbers(number: str) -> None:
    assert identity_papers.valid_card(number, today=TODAY)


@pytest.mark.parametrize(
    "number",
    [
        "110105194912310021",  # check digit
        "11010519491231002x",  # lower case
        "110105194913310020",  # no thirteenth month
        "110105203001010015",  # not born yet
        "1101051949123100",
        "",
    ],
)
def test_invalid_identity_numbers(number: str) -> None:
    assert not identity_papers.valid_card(number, today=TODAY)


def test_credit_codes() -> None:
    assert identity_papers.valid_credit_code("91350100M000100Y43")
    assert not identity_papers.valid_credit_code("91350100M000100Y44")
    assert not identity_papers.valid_credit_code("91350100M000100Z43")
    assert identity_papers.organisation_check_digit("D2143569") == "X"


@pytest.mark.parametrize(
    ("code", "valid"),
    [
        ("320802002022GB00069W00000000", True),
        ("320802002022GB00069F00010023", True),
        ("320802002022GX00003F00020115", True),
        ("320802002022GB00069W00000001", False),
        ("320802002022KB00069F00010023", False),
        ("320802002022GB00069F0001002", False),
        ("３20802002022GB00069F00010023", False),
    ],
)
def test_unit_codes(code: str, valid: bool) -> None:
    assert identifiers.valid_unit_code(code) is valid


def test_personas_and_firms_have_right_check_digits() -> None:
    for citizen in (personas.BUYER, personas.SELLER):
        assert identity_papers.valid_card(citizen.id_no, today=TODAY)
    for name in (*people.BANKS, *people.DEVELOPERS):
        assert identity_papers.valid_credit_code(people.organisation("mortgagee", name).id_no)


def test_passwords_are_known_again_and_nothing_else_is() -> None:
    stored = passwords.hash_password("Dengji-2026!")

    assert passwords.verify_password("Dengji-2026!", stored)
    assert not passwords.verify_password("dengji-2026!", stored)
    assert not passwords.verify_password("x" * 1000, stored)
    assert not passwords.verify_password("x", "plain")
    assert passwords.hash_password("Dengji-2026!") != stored
