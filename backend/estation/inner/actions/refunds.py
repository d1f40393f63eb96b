"""Ordering a payment back: asked by a clerk, approved by another officer, followed online."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog
from tortoise import Tortoise

from estation.inner import outgoing, rules
from estation.inner.actions.numbers import take_numbers
from estation.inner.errors import (
    BillNotFound,
    BillNotPaid,
    RefundableChanged,
    RefundAlreadyDecided,
    RefundNotFound,
    RefundTooMuch,
    SecondPersonNeeded,
    UnknownPayee,
)
from estation.inner.models import FeeBill, FeeReceipt, RefundNews, RefundOrder
from estation.inner.rules import BillMove, BillState, Decision, RefundAttention, RefundState
from estation.outside.gate.rows import RefundRow
from estation.settings import InnerSettings
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

KEY = "source_id || ':' || case refund_no when '' then ':' || order_source_id else refund_no end"
"""SQL: what the gate calls news of a refund of a source."""
Share = tuple[str, int]
"""payee code, fen"""


@dataclass(frozen=True, slots=True)
class Refundable:
    """What of a bill's payment can still be ordered back, and of which payee."""

    order_no: str
    amount_fen: int
    shares: dict[str, int]


async def ask_refund(
    bill_no: str,
    *,
    amount_fen: int,
    believed_refundable_fen: int,
    reason: str,
    asked_by: str,
    now: datetime,
    shares: Sequence[Share] = (),
) -> str:
    """A clerk asks; the order's number. One transaction, nothing leaves yet.

    Raises BillNotFound, BillNotPaid, RefundableChanged (412, with the present sum),
    RefundTooMuch, UnknownPayee, TextMissing, TextTooLong.
    """
    rules.require_text(reason, "reason", 80, may_be_empty=False)
    async with in_transaction():
        bill = await _lock_bill(bill_no=bill_no)
        if bill is None:
            raise BillNotFound()
        there = await refundable_of(bill)
        if there is None:
            raise BillNotPaid()
        if there.amount_fen != believed_refundable_fen:
            raise RefundableChanged(refundable_fen=there.amount_fen)
        _check_amount(amount_fen, shares, there)
        (number,) = await take_numbers("TK", [now])
        await RefundOrder(
            id=ids.row_id(now),
            refund_no=number,
            bill_id=bill.id,
            order_no=there.order_no,
            amount_fen=amount_fen,
            believed_refundable_fen=believed_refundable_fen,
            shares=[{"payee_code": payee, "amount_fen": fen} for payee, fen in shares],
            reason=reason.strip(),
            state=RefundState.ASKED,
            asked_by=asked_by,
            asked_at=now,
            changed_at=now,
        ).save(force_create=True)
    log.info("refund_asked", bill_no=bill_no, refund_no=number, amount_fen=amount_fen)
    return number


async def decide_refund(
    refund_no: str,
    decision: Decision,
    *,
    note: str,
    decided_by: str,
    settings: InnerSettings,
    now: datetime,
) -> None:
    """Another officer's word. An approved order leaves through the gate in this transaction.

    Raises RefundNotFound, SecondPersonNeeded, RefundAlreadyDecided, BillNotPaid,
    RefundableChanged (the payment changed meanwhile), TextMissing (a no needs its reason).
    """
    rules.require_text(note, "note", 256, may_be_empty=decision is Decision.APPROVE)
    async with in_transaction():
        asked = await RefundOrder.get_or_none(refund_no=refund_no)
        if asked is None:
            raise RefundNotFound()
        bill = await _lock_bill(bill_id=asked.bill_id)
        order = await RefundOrder.get(id=asked.id)
        if order.asked_by == decided_by:
            raise SecondPersonNeeded()
        after = rules.DECISIONS.get((order.state, decision))
        if bill is None or after is None:
            raise RefundAlreadyDecided()
        order.state, order.decided_by, order.decided_at = after, decided_by, now
        order.decision_note, order.changed_at = note, now
        if after is RefundState.ORDERED:
            order.believed_refundable_fen = await _online_refundable(bill, order)
            await outgoing.send_refund_order(
                order,
                bill_no=bill.bill_no,
                region=await _region(bill),
                settings=settings,
                now=now,
            )
        await order.save()
    log.info("refund_decided", refund_no=refund_no, state=after.value)


async def refundable_of(bill: FeeBill) -> Refundable | None:
    """Of the payment that paid this bill; None when none did. For an answer to rely on, the
    caller holds the bill's lock."""
    return await _refundable(bill, besides=None)


async def _refundable(bill: FeeBill, *, besides: UUID | None) -> Refundable | None:
    if bill.state is not BillState.PAID:
        return None
    receipt = await FeeReceipt.filter(
        bill_id=bill.id, bill_version=bill.paid_version, attention=""
    ).first()
    if receipt is None:
        return None
    told = await RefundNews.filter(bill_id=bill.id, order_no=receipt.order_no)
    orders = [
        order
        for order in await RefundOrder.filter(bill_id=bill.id, order_no=receipt.order_no)
        if order.id != besides
    ]
    amount_fen = rules.refundable_fen(
        receipt.amount_fen,
        told=[(news.state, news.amount_fen) for news in told],
        ordered=[(order.state, order.amount_fen) for order in orders],
    )
    shares = {split["payee_code"]: int(split["amount_fen"]) for split in receipt.splits}
    gone = [news.shares for news in told if news.state in rules.NEWS_HOLDS]
    gone += [order.shares for order in orders if order.state in rules.HOLDS]
    for share in (share for taken in gone for share in taken):
        shares[share["payee_code"]] = shares.get(share["payee_code"], 0) - share["amount_fen"]
    return Refundable(receipt.order_no, amount_fen, shares)


async def _online_refundable(bill: FeeBill, order: RefundOrder) -> int:
    """What the online side should find when the order comes: it knows nothing of orders that
    still wait here, and those ordered before come before."""
    there = await _refundable(bill, besides=order.id)
    if there is None:
        raise BillNotPaid()
    waiting = await RefundOrder.filter(
        bill_id=bill.id, order_no=order.order_no, state=RefundState.ASKED
    )
    held = sum(other.amount_fen for other in waiting if other.id != order.id)
    if there.order_no != order.order_no or order.amount_fen > there.amount_fen:
        raise RefundableChanged(refundable_fen=there.amount_fen)
    return there.amount_fen + held


def _check_amount(amount_fen: int, shares: Sequence[Share], there: Refundable) -> None:
    if not 0 < amount_fen <= there.amount_fen:
        raise RefundTooMuch(refundable_fen=there.amount_fen)
    for payee, fen in shares:
        if payee not in there.shares:
            raise UnknownPayee(field="payee_code")
        if not 0 < fen <= there.shares[payee]:
            raise RefundTooMuch(refundable_fen=there.amount_fen)
    if shares and (sum(fen for _, fen in shares) != amount_fen or len(dict(shares)) != len(shares)):
        raise RefundTooMuch(refundable_fen=there.amount_fen)


async def keep_refunds(
    rows: Sequence[RefundRow],
    *,
    source: str,
    packet_seq: int,
    now: datetime,
    digests: Sequence[bytes] = (),
    repairs: bool = False,
) -> None:
    """Keep the newest word on each refund, move our orders and bills by it; joins the caller's
    transaction. Older words change nothing; what contradicts or fits nothing is kept and shown.
    What `repairs` ours replaces it. `digests`: of the rows as they came.
    """
    bill_nos = sorted({row.source_id for row in rows if row.source == source})
    found = await Tortoise.get_connection("default").execute_query_dict(
        "select id from fee_bill where bill_no = any($1::text[]) order by id for update", [bill_nos]
    )
    bills = {
        bill.bill_no: bill for bill in await FeeBill.filter(id__in=[row["id"] for row in found])
    }
    for row, digest in itertools.zip_longest(rows, digests):
        bill = bills.get(row.source_id) if row.source == source else None
        word = _Word(row, digest, packet_seq, repairs)
        if await _keep(word, bill, now=now):
            await _follow_order(row, now)
            if bill is not None:
                await _follow_bill(bill, row.order_no, now)


async def set_aside(source: str, keys: Sequence[str], *, now: datetime) -> None:
    """News of refunds the online side does not know waits for a person. What followed from it
    stays: whether money went back is not a program's to say.

    `keys`: as the gate names them. Joins the caller's transaction.
    """
    await Tortoise.get_connection("default").execute_query(
        f"""update fee_refund_news set attention = $1
           where source = $2 and {KEY} = any($3::text[])""",  # noqa: S608 - names of our own
        [RefundAttention.NEVER_SENT.value, source, list(keys)],
    )
    log.error("refund_news_never_sent", source=source, news=len(keys), at=now.isoformat())


@dataclass(frozen=True, slots=True)
class _Word:
    """A row as it came."""

    row: RefundRow
    digest: bytes | None
    packet_seq: int
    repairs: bool


async def _keep(word: _Word, bill: FeeBill | None, *, now: datetime) -> bool:
    """False when this word was heard, or a newer one."""
    row = word.row
    before = await RefundNews.get_or_none(
        source=row.source,
        source_id=row.source_id,
        refund_no=row.refund_no,
        order_source_id=row.order_source_id,
    )
    is_known = before is not None and before.attention != RefundAttention.NEVER_SENT
    if before is not None and is_known and row.version <= before.version and not word.repairs:
        if row.version == before.version and not _same(before, row):
            log.error("refund_contradicted", refund_no=row.refund_no)
            before.attention = RefundAttention.CONTRADICTED.value
            await before.save(update_fields=["attention"])
        return False
    said = {**_said(row), "packet_seq": word.packet_seq, "row_digest": word.digest}
    attention = await _attention(row, bill)
    if before is not None:
        was = before.attention if before.attention != RefundAttention.NEVER_SENT else ""
        kept = was or attention
        await RefundNews.filter(id=before.id).update(**said, attention=kept, received_at=now)
    else:
        await RefundNews(
            id=ids.row_id(now),
            source=row.source,
            source_id=row.source_id,
            refund_no=row.refund_no,
            order_source_id=row.order_source_id,
            bill_id=bill.id if bill else None,
            received_at=now,
            attention=attention,
            **said,
        ).save(force_create=True)
    log.info("refund_kept", refund_no=row.refund_no, state=row.state, attention=attention)
    return True


_FIELDS = (
    "order_no",
    "version",
    "state",
    "amount_fen",
    "channel",
    "channel_refund_no",
    "transfer_id",
    "reason",
    "why_not",
    "at",
)


def _said(row: RefundRow) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _FIELDS},
        "shares": msgspec.to_builtins(row.shares),
    }


def _same(before: RefundNews, row: RefundRow) -> bool:
    said = _said(row)
    return all(getattr(before, name) == said[name] for name in (*_FIELDS, "shares"))


async def _attention(row: RefundRow, bill: FeeBill | None) -> str:
    if row.state == "refused":
        return RefundAttention.NONE.value
    receipt = (
        await FeeReceipt.filter(bill_id=bill.id, order_no=row.order_no).first() if bill else None
    )
    if bill is None or receipt is None:
        return RefundAttention.UNKNOWN_PAYMENT.value
    others = [
        (news.state, news.amount_fen)
        for news in await RefundNews.filter(bill_id=bill.id, order_no=row.order_no)
        if news.refund_no != row.refund_no
    ]
    gone = sum(
        fen for state, fen in [*others, (row.state, row.amount_fen)] if state in rules.NEWS_HOLDS
    )
    more = gone > receipt.amount_fen
    return (RefundAttention.MORE_THAN_PAID if more else RefundAttention.NONE).value


async def _follow_order(row: RefundRow, now: datetime) -> None:
    """Our own order is as the online side says."""
    order = await RefundOrder.get_or_none(refund_no=row.order_source_id)
    if order is None or order.state in (RefundState.ASKED, RefundState.REJECTED):
        return
    told = await RefundNews.filter(source=row.source, order_source_id=order.refund_no)
    order.state = rules.state_of_order(
        order.amount_fen, [(news.state, news.amount_fen) for news in told]
    )
    order.why_not = row.why_not
    order.changed_at = now
    await order.save()


async def _follow_bill(bill: FeeBill, order_no: str, now: datetime) -> None:
    """Refunded once all of the payment that paid it came back."""
    if bill.state is not BillState.PAID:
        return
    receipt = await FeeReceipt.filter(
        bill_id=bill.id, bill_version=bill.paid_version, attention="", order_no=order_no
    ).first()
    told = await RefundNews.filter(bill_id=bill.id, order_no=order_no, state="refunded")
    if receipt is None or sum(news.amount_fen for news in told) != receipt.amount_fen:
        return
    bill.state = rules.state_after(bill.state, BillMove.REFUND)
    bill.changed_at = now
    await bill.save()
    log.info("bill_refunded", bill_no=bill.bill_no)


async def _lock_bill(*, bill_no: str = "", bill_id: UUID | None = None) -> FeeBill | None:
    locked = FeeBill.select_for_update()
    return await (
        locked.get_or_none(id=bill_id) if bill_id else locked.get_or_none(bill_no=bill_no)
    )


async def _region(bill: FeeBill) -> str:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select u.district_id as region from case_file c
           join unit u on u.unit_code = c.unit_id where c.id = $1""",
        [bill.case_id],
    )
    return str(rows[0]["region"])
