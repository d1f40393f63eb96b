"""A maker's wish that waits for a checker: who may answer it, and what the answer leaves in it."""

from datetime import datetime
from uuid import UUID

from estation.payments.errors import SecondPersonNeeded
from estation.payments.models import ClaimSettlement, OutsideSettlement
from estation.payments.persons import Person, is_same
from estation.payments.rules import OutsideState


def require_another(wish: OutsideSettlement | ClaimSettlement, by: Person) -> None:
    """Raises SecondPersonNeeded when the maker would answer their own wish."""
    if is_same(Person(wish.asked_by, wish.asked_by_id), by):
        raise SecondPersonNeeded


async def decide(
    wish: OutsideSettlement | ClaimSettlement,
    to: OutsideState,
    by: Person,
    note: str,
    now: datetime,
    transfer_id: UUID | None = None,
) -> None:
    """Joins the caller's transaction, which holds the lock of the wish's arrival."""
    wish.state, wish.decided_by, wish.decided_by_id = to, by.shown, by.account
    wish.decided_at, wish.decision_note = now, note
    wish.transfer_id = transfer_id
    await wish.save()
