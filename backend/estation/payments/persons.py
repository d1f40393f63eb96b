"""Who acts, and whether two deeds are one person's: 经办与复核不得为同一人. Pure."""

from dataclasses import dataclass
from uuid import UUID

from estation.shared.jsonb import clean_text


@dataclass(frozen=True, slots=True)
class Person:
    """`shown` is how traces name somebody at that moment; `account` the staff account, None for
    the system, the command line, the centre, and rows older than the column."""

    shown: str
    account: UUID | None = None


def person(shown: str, account: UUID | None) -> Person:
    """As it is stored."""
    return Person(clean_text(shown, 64), account)


def is_same(one: Person, other: Person) -> bool:
    """By their accounts: namesakes are two, and who changes name or post stays one. Where an
    account is not known, by what was written."""
    if one.account is not None and other.account is not None:
        return one.account == other.account
    return one.shown == other.shown
