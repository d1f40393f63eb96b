"""The checker's word on a refund, and the person's word on an abnormal one."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import LockedBill, lock_bills
from estation.ledger.api import arrivals_by_id
from estation.outside.pay_channels import ChannelError
from estation.payments.actions.asking import channel_of
from estation.payments.actions.refund_locking import LockedRefund, read_refunds
from estation.payments.actions.refund_writing import RefundWriting, refund_incident_key
from estation.payments.actions.refunds.ask import Standing, check_channel, lock_standings
from estation.payments.actions.settle import from_refund, settle_batch
from estation.payments.actions.storing import note_deed
from estation.payments.errors import (
    RedirectRefused,
    RefundAlreadyDecided,
    RefundNotAbnormal,
    RefundNotFound,
    SecondPersonNeeded,
)
from estation.payments.models import Refund, RefundShare
from estation.payments.rules import IncidentKind, RefundState
from estation.services import Services
from estation.shared.errors import InvalidInput
from estation.shared.jsonb import clean_text
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

APPROVED = "refund_approved"


async def approve_refund(*, request_id: UUID, by: str, note: str = "", now: datetime) -> None:
    """Every refund of the request: its money is reserved and the channel will be asked.

    Refuses RefundNotFound, RefundAlreadyDecided, SecondPersonNeeded (the maker may not check),
    RefundNotPossible (too late for the channel by now); nothing is changed then.
    """

    def approve(writing: RefundWriting, refund: LockedRefund) -> None:
        writing.approve(refund, by=clean_text(by, 64), note=clean_text(note, 200))

    await _decide(request_id, by, now, approve, deed=APPROVED, note=note)


async def reject_refund(*, request_id: UUID, by: str, note: str, now: datetime) -> None:
    """The checker's no, with its reason. Refuses as `approve_refund`, and InvalidInput."""
    if not note.strip():
        raise InvalidInput(field="note")

    def reject(writing: RefundWriting, refund: LockedRefund) -> None:
        writing.reject(refund, by=clean_text(by, 64), note=clean_text(note.strip(), 200))

    await _decide(request_id, by, now, reject, deed="refund_rejected", note=note)


async def _decide(
    request_id: UUID,
    by: str,
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
                by=by,
                now=now,
                note=note,
                refund_id=refund.now.id,
            )


async def _lock_request(
    db: BaseDBAsyncClient, request_id: UUID, by: str
) -> tuple[list[LockedBill], list[Standing]]:
    """The request's bills and arrivals, locked in this order. Raises RefundNotFound,
    SecondPersonNeeded."""
    asked = await Refund.filter(request_id=request_id).order_by("id")
    if not asked:
        raise RefundNotFound(request_id=str(request_id))
    if any(refund.asked_by == clean_text(by, 64) for refund in asked):
        raise SecondPersonNeeded
    shares = await RefundShare.filter(refund_id__in=[refund.id for refund in asked])
    bill_ids = sorted({share.bill_id for share in shares})
    bills = await lock_bills(bill_ids, with_split=False) if bill_ids else []
    money = await arrivals_by_id([refund.arrival_id for refund in asked])
    return bills, await lock_standings(db, money, [])


async def redirect_abnormal(*, refund_id: UUID, by: str, services: Services, now: datetime) -> None:
    """Have an abnormal refund paid to the merchant's own card, from where finance pays the
    citizen by transfer. The intent is in the incident's history before the channel is asked.

    Refuses RefundNotFound, RefundNotAbnormal, RedirectRefused.
    """
    refund = await Refund.get_or_none(id=refund_id)
    if refund is None:
        raise RefundNotFound(refund_id=str(refund_id))
    if refund.state is not RefundState.ABNORMAL or not refund.channel_refund_no:
        raise RefundNotAbnormal(state=refund.state)
    async with in_transaction() as db:
        (locked,) = await read_refunds(db, "r.id = $1", refund_id)
        await note_deed(
            db,
            refund_incident_key(IncidentKind.REFUND_ABNORMAL, locked.now),
            deed="redirect_refund",
            by=by,
            now=now,
            refund_id=refund_id,
        )
    try:
        report = await channel_of(refund.account_id, services).redirect_refund(
            refund.refund_no, channel_refund_no=refund.channel_refund_no
        )
    except ChannelError as trouble:
        log.warning("redirect_failed", refund_no=refund.refund_no, code=trouble.code)
        raise RedirectRefused(reason=trouble.code) from None
    await settle_batch([from_refund(report)], now=now)
