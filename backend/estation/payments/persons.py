"""Who acts, and whether two deeds are one person's: 经办与复核不得为同一人. Pure."""

import re
from dataclasses import dataclass
from uuid import UUID

from estation.shared.jsonb import clean_text

ROLE_WORDS = {"finance_clerk": "财务经办", "finance_checker": "财务复核", "operator": "运维"}

_POST = re.compile(r"（[^（）]*）?$")  # the end may be cut off where a column was full


@dataclass(frozen=True, slots=True)
class Person:
    """`shown` is how traces name somebody at that moment; `account` the staff account, None for
    the system, the centre, and rows older than the column."""

    shown: str
    account: UUID | None = None


def person(shown: str, account: UUID | None) -> Person:
    """As it is stored."""
    return Person(clean_text(shown, 64), account)


def shown_as(name: str, role: str) -> str:
    """姓名（岗位）, as traces name an officer: one at a page and one at the command line alike."""
    return f"{name}（{ROLE_WORDS.get(role, role)}）"[:64]


def is_same(one: Person, other: Person) -> bool:
    """By their accounts: namesakes are two, and who changes name or post stays one. Where an
    account is not known, by the name that was written, with its post or without."""
    if one.account is not None and other.account is not None:
        return one.account == other.account
    return _POST.sub("", one.shown) == _POST.sub("", other.shown)
