"""The checker's word on a refund."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import LockedBill, lock_bills
from estation.ledger.api import arrivals_by_id
from estation.payments.actions.refund_locking import LockedRefund, read_refunds
from estation.payments.actions.refund_writing import RefundWriting
from estation.payments.actions.refunds.ask import Standing, check_channel, lock_standings
from estation.payments.actions.storing import note_deed
from estation.payments.errors import (
    RefundAlreadyDecided,
    RefundNotFound,
    SecondPersonNeeded,
)
from estation.payments.models import Refund, RefundShare
from estation.payments.persons import Person, is_same, person
from estation.payments.rules import RefundState
from estation.shared.errors import InvalidInput
from estation.shared.jsonb import clean_text
from estation.shared.transactions import in_transaction

APPROVED = "refund_approved"


async def approve_refund(
    *, request_id: UUID, by: str, by_id: UUID | None = None, note: str = "", now: datetime
) -> None:
    """Every refund of the request: its money is reserved and the channel will be asked.

    Refuses RefundNotFound, RefundAlreadyDecided, SecondPersonNeeded (the maker may not check),
    RefundNotPossible (too late for the channel by now); nothing is changed then.
    """

    checker = person(by, by_id)

    def approve(writing: RefundWriting, refund: LockedRefund) -> None:
        writing.approve(refund, by=checker, note=clean_text(note, 200))

    await _decide(request_id, checker, now, approve, deed=APPROVED, note=note)


async def reject_refund(
    *, request_id: UUID, by: str, by_id: UUID | None = None, note: str, now: datetime
) -> None:
    """The checker's no, with its reason. Refuses as `approve_refund`, and InvalidInput."""
    if not note.strip():
        raise InvalidInput(field="note")
    checker = person(by, by_id)

    def reject(writing: RefundWriting, refund: LockedRefund) -> None:
        writing.reject(refund, by=checker, note=clean_text(note.strip(), 200))

    await _decide(request_id, checker, now, reject, deed="refund_rejected", note=note)


async def _decide(
    request_id: UUID,
    by: Person,
    now: datetime,
    decide: Callable[[RefundWriting, LockedRefund], None],
    *,
    deed: str,
    note: str,
) -> None:
    async with in_transaction() as db:
        bills, standings = await _lock_request(db, request_id, by)
        refunds = await read_refunds(db, "r.request_id = $1", request_id)
        for refund in refunds:
            if refund.now.state is not RefundState.ASKED:
                raise RefundAlreadyDecided(state=refund.now.state)
        writing = RefundWriting(now, {str(bill.id): bill for bill in bills})
        for refund in refunds:
            decide(writing, refund)
        if deed == APPROVED:
            for standing in standings:
                check_channel(standing, now=now, own=1)
        await writing.post_and_write(db)
        for refund in refunds:
            await note_deed(
                db,
                refund.incident_key,
                deed=deed,
                by=by.shown,
                by_id=by.account,
                now=now,
                note=note,
                refund_id=refund.now.id,
            )


async def _lock_request(
    db: BaseDBAsyncClient, request_id: UUID, by: Person
) -> tuple[list[LockedBill], list[Standing]]:
    """The request's bills and arrivals, locked in this order. Raises RefundNotFound,
    SecondPersonNeeded."""
    asked = await Refund.filter(request_id=request_id).order_by("id")
    if not asked:
        raise RefundNotFound(request_id=str(request_id))
    if any(is_same(Person(one.asked_by, one.asked_by_id), by) for one in asked):
        raise SecondPersonNeeded
    shares = await RefundShare.filter(refund_id__in=[refund.id for refund in asked])
    bill_ids = sorted({share.bill_id for share in shares})
    bills = await lock_bills(bill_ids, with_split=False) if bill_ids else []
    money = await arrivals_by_id([refund.arrival_id for refund in asked])
    return bills, await lock_standings(db, money, [])
