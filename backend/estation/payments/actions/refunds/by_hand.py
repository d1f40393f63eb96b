"""A refund that was redirected to our own card is paid out to the payer by transfer (转付): asked
by a maker with the bank's receipt, booked by a checker. Words alone do not end it."""

from datetime import datetime
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import (
    Leg,
    TransferInput,
    post_many,
    received_outside,
    settled_outside,
)
from estation.payments.actions.refund_locking import LockedRefund, lock_refunds
from estation.payments.actions.refund_writing import ENDS_WITH_SUCCESS, refund_incident_key
from estation.payments.actions.storing import A_MOMENT, note_deed_of
from estation.payments.errors import (
    HandPaymentNotAsked,
    PaidByHandAlready,
    RefundNotFound,
    RefundNotRedirected,
    SecondPersonNeeded,
)
from estation.payments.models import IncidentAction, Refund
from estation.payments.persons import Person, is_same, person
from estation.payments.refund_rules import MAX_NOTE, PAID_BY_HAND
from estation.payments.rules import IncidentKind, RefundState
from estation.shared import ids
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text

MAX_DOCUMENT_NO = 64

ASKED, REJECTED = "hand_asked", "hand_rejected"
WORDS = (ASKED, REJECTED, PAID_BY_HAND)
"""What was said about paying a refund out by hand, in its incident's history."""


async def ask_paying_by_hand(
    *, refund_id: UUID, document_no: str, by: str, by_id: UUID | None = None, now: datetime
) -> None:
    """A maker says by which bank receipt finance has paid the payer; only the history changes.

    Refuses RefundNotFound, RefundNotRedirected (or not arrived at our card yet),
    PaidByHandAlready, InvalidInput.
    """
    number = typed_text("document_no", document_no, most=MAX_DOCUMENT_NO)
    async with in_transaction() as db:
        refund = await _lock(db, refund_id)
        await _note(db, refund, ASKED, person(by, by_id), number, now)


async def approve_paying_by_hand(
    *, refund_id: UUID, by: str, by_id: UUID | None = None, now: datetime
) -> str:
    """The checker's yes: finance received the refund at our own card, and paid the payer; the
    transfer's id. The refund's incidents are resolved by it. One transaction.

    Refuses as asking, HandPaymentNotAsked, SecondPersonNeeded; nothing is changed then.
    """
    async with in_transaction() as db:
        refund = await _lock(db, refund_id)
        checker = person(by, by_id)
        document_no = await _check_second(refund, checker)
        (transfer_id,) = await post_many([_transfer(refund, now)], now=now)
        await _note(db, refund, PAID_BY_HAND, checker, document_no, now, UUID(transfer_id))
        await _resolve(db, refund, document_no, checker, transfer_id, now)
    return transfer_id


async def reject_paying_by_hand(
    *, refund_id: UUID, by: str, by_id: UUID | None = None, note: str, now: datetime
) -> None:
    """The checker's no, with its reason. Refuses as `approve_paying_by_hand`, and InvalidInput."""
    said = typed_text("note", note, most=MAX_NOTE)
    async with in_transaction() as db:
        refund = await _lock(db, refund_id)
        checker = person(by, by_id)
        await _check_second(refund, checker)
        await _note(db, refund, REJECTED, checker, said, now)


async def pay_by_hand(
    *,
    refund_id: UUID,
    document_no: str,
    asked_by: str,
    asked_by_id: UUID,
    approved_by: str,
    approved_by_id: UUID,
    now: datetime,
) -> str:
    """Both persons' words in one transaction, for who has both before him; the transfer's id.
    Refuses as `ask_paying_by_hand` and `approve_paying_by_hand`; nothing is changed then."""
    async with in_transaction():
        await ask_paying_by_hand(
            refund_id=refund_id,
            document_no=document_no,
            by=asked_by,
            by_id=asked_by_id,
            now=now,
        )
        return await approve_paying_by_hand(
            refund_id=refund_id, by=approved_by, by_id=approved_by_id, now=now + A_MOMENT
        )


async def last_said(refund_id: UUID) -> IncidentAction | None:
    """The last of WORDS about this refund."""
    return (
        await IncidentAction.filter(refund_id=refund_id, action__in=list(WORDS))
        .order_by("-at", "-id")
        .first()
    )


async def _lock(db: BaseDBAsyncClient, refund_id: UUID) -> LockedRefund:
    found = await Refund.get_or_none(id=refund_id)
    if found is None:
        raise RefundNotFound(refund_id=str(refund_id))
    refund = (await lock_refunds(db, [found.refund_no]))[found.refund_no]
    if refund.now.state is not RefundState.SUCCEEDED or not refund.now.is_redirected:
        raise RefundNotRedirected(state=refund.now.state)
    last = await last_said(refund_id)
    if last is not None and last.action == PAID_BY_HAND:
        raise PaidByHandAlready
    return refund


async def _check_second(refund: LockedRefund, by: Person) -> str:
    """The receipt that another person named."""
    last = await last_said(refund.now.id)
    if last is None or last.action != ASKED:
        raise HandPaymentNotAsked
    if is_same(Person(last.by, last.by_id), by):
        raise SecondPersonNeeded
    return last.note


def _transfer(refund: LockedRefund, now: datetime) -> TransferInput:
    """It left the merchant account by the refund's own transfer."""
    account_id, fen = refund.now.account_id, refund.now.amount_fen
    return TransferInput(
        id=str(ids.row_id(now)),
        idempotency_key=f"paid_by_hand:{refund.now.refund_no}",
        kind=PAID_BY_HAND,
        region=refund.region,
        order_id=refund.order_id,
        our_no=refund.now.out_trade_no,
        channel_no=refund.channel_trade_no,
        occurred_at=now,
        legs=[
            Leg(received_outside(account_id), debit_fen=fen),
            Leg(settled_outside(account_id), credit_fen=fen),
        ],
    )


async def _note(
    db: BaseDBAsyncClient,
    refund: LockedRefund,
    deed: str,
    by: Person,
    note: str,
    now: datetime,
    transfer_id: UUID | None = None,
) -> None:
    key = refund_incident_key(IncidentKind.REFUND_ABNORMAL, refund.now)
    await note_deed_of(
        db, key, deed, by, note, now, refund_id=refund.now.id, transfer_id=transfer_id
    )


async def _resolve(
    db: BaseDBAsyncClient,
    refund: LockedRefund,
    document_no: str,
    by: Person,
    transfer_id: str,
    now: datetime,
) -> None:
    """The refund's own incidents, and the one it was asked under when it was about no more."""
    await db.execute_query_dict(
        """update incident set state = 'resolved', resolved_at = $1::timestamptz,
           resolved_by = $2, resolution = $3
           where state = 'open' and (dedupe_key = any($4::text[])
              or dedupe_key = $5 and amount_fen <= $6)""",
        [
            now,
            by.shown,
            f"改退的钱已转付付款人（{document_no}），凭证 {transfer_id}",
            [refund_incident_key(kind, refund.now) for kind in ENDS_WITH_SUCCESS],
            refund.incident_key,
            refund.now.amount_fen,
        ],
    )
