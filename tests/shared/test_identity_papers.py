"""What the desk lets in, the online side takes; what one refuses, the other refuses."""

from datetime import date

import pytest

from estation.identity.rules import person_fault
from estation.inner.actions import cases
from estation.inner.actions.cases import NewParty
from estation.inner.errors import BadIdentifier

TODAY = date(2026, 3, 1)

GOOD = [
    ("1", "11010519491231002X"),
    ("1", "440524188001010014"),
    ("3", "E12345678"),
    ("3", "A123456(7)"),
    ("7", "360100000012345"),
    ("8", "91350100M000100Y43"),
    ("99", "HZ-2026/0001"),
]
BAD = [
    ("1", ""),
    ("1", "110105194912310021"),
    ("1", "11010519491231002x"),
    ("1", "110105203001010015"),
    ("1", "１１０１０５19491231002X"),
    ("1", "1101051949123１002X"),
    ("1", "11010519491231002X\n"),
    ("3", "      "),
    ("3", "E123"),
    ("3", "Ｅ12345678"),
    ("3", "E1234 5678"),
    ("3", "E12345678\n"),
    ("3", "-----"),
    ("3", "E" * 33),
    ("8", "91350100M000100Y44"),
    ("8", "９1350100M000100Y43"),
    ("99", "\0\0\0\0\0\0"),
]


def let_in(id_type: str, id_no: str) -> bool:
    """At the desk."""
    party = NewParty("buyer", "林晓舟", id_type, id_no, "13800000001")
    try:
        cases._check_parties([party], today=TODAY)
    except BadIdentifier:
        return False
    return True


def taken(id_type: str, id_no: str) -> bool:
    """Online."""
    return not person_fault(id_type=id_type, id_no=id_no, name="林晓舟", today=TODAY)


@pytest.mark.parametrize(("id_type", "id_no"), GOOD)
def test_both_sides_take_a_possible_number(id_type: str, id_no: str) -> None:
    assert (let_in(id_type, id_no), taken(id_type, id_no)) == (True, True)


@pytest.mark.parametrize(("id_type", "id_no"), BAD)
def test_both_sides_refuse_an_impossible_number(id_type: str, id_no: str) -> None:
    assert (let_in(id_type, id_no), taken(id_type, id_no)) == (False, False)
