"""The checker's word on a refund."""

from collections.abc import Callable, Sequence
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
    RefundableChanged,
    RefundAlreadyDecided,
    RefundNotFound,
    SecondPersonNeeded,
)
from estation.payments.models import Refund, RefundShare
from estation.payments.persons import Person, is_same, person
from estation.payments.refund_rules import MAX_NOTE
from estation.payments.rules import RefundState
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text

APPROVED = "refund_approved"


async def approve_refund(
    *, request_id: UUID, by: str, by_id: UUID | None = None, note: str = "", now: datetime
) -> None:
    """Every refund of the request: its money is reserved and the channel will be asked.

    Refuses RefundNotFound, RefundAlreadyDecided, SecondPersonNeeded (the maker may not check),
    RefundNotPossible (too late for the channel by now), RefundableChanged (less is left than the
    maker knew), InvalidInput; nothing is changed then.
    """
    checker = person(by, by_id)
    said = typed_text("note", note, most=MAX_NOTE, least=0)

    def approve(writing: RefundWriting, refund: LockedRefund) -> None:
        writing.approve(refund, by=checker, note=said)

    await _decide(request_id, checker, now, approve, deed=APPROVED, note=said)


async def reject_refund(
    *, request_id: UUID, by: str, by_id: UUID | None = None, note: str, now: datetime
) -> None:
    """The checker's no, with its reason. Refuses as `approve_refund`, and InvalidInput."""
    checker = person(by, by_id)
    said = typed_text("note", note, most=MAX_NOTE)

    def reject(writing: RefundWriting, refund: LockedRefund) -> None:
        writing.reject(refund, by=checker, note=said)

    await _decide(request_id, checker, now, reject, deed="refund_rejected", note=said)


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
            _check_left(refunds, standings)
            await _check_nothing_came_back(db, request_id, refunds, standings)
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


def _check_left(refunds: Sequence[LockedRefund], standings: Sequence[Standing]) -> None:
    """What was asked is still there. Raises RefundableChanged with what is, this request apart."""
    short = [standing for standing in standings if standing.rest_fen < 0]
    if short:
        raise RefundableChanged(refundable_fen=_left_without(refunds, standings))


_CAME_BACK = """
select 1 from pay_refund mine
join pay_refund other on other.arrival_id = mine.arrival_id and other.id <> mine.id
    and other.state = 'succeeded' and other.ended_at >= mine.asked_at
join ledger_transfer t on t.idempotency_key = 'refund_start:' || other.refund_no || ':again'
where mine.request_id = $1 limit 1
"""


async def _check_nothing_came_back(
    db: BaseDBAsyncClient,
    request_id: UUID,
    refunds: Sequence[LockedRefund],
    standings: Sequence[Standing],
) -> None:
    """A refund the maker took for closed gave the money back after all: whether this one still is
    meant, even if there is enough for both, he must say anew. Raises RefundableChanged."""
    if await db.execute_query_dict(_CAME_BACK, [request_id]):
        raise RefundableChanged(refundable_fen=_left_without(refunds, standings))


def _left_without(refunds: Sequence[LockedRefund], standings: Sequence[Standing]) -> int:
    own = sum(refund.now.amount_fen for refund in refunds)
    return max(sum(standing.rest_fen for standing in standings) + own, 0)


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
