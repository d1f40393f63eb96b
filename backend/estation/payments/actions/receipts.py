"""Receipt messages made again from what is stored, for an order whose messages were lost."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from msgspec import to_builtins
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate.rows import ReceiptRow, ReceiptSplitRow
from estation.payments.combining import parts_of
from estation.payments.errors import OrderNotFound, ReceiptNotKnown
from estation.shared import ids, outbox
from estation.shared.transactions import in_transaction
from estation.shared.typed import is_text

_PAYING = """
select a.out_trade_no, a.channel, a.channel_trade_no, a.parts::text as parts
from pay_attempt a
where a.order_id = $1 and exists (
    select from ledger_transfer t where t.order_id = $1 and t.kind = 'payment'
    and (t.our_no = a.out_trade_no or t.our_no in (
        select part->>'out_trade_no' from jsonb_array_elements(a.parts) part)))
"""

_ARRIVALS = """
select id, our_no, channel_no, occurred_at from ledger_transfer
where order_id = $1 and kind = 'payment' order by our_no, id
"""

_MISSING = """
select b.source, b.source_id, ob.bill_id, ob.bill_no, ob.bill_version, ob.amount_fen
from pay_order_bill ob join bill b on b.id = ob.bill_id
where ob.order_id = $1 and not exists (
    select from outbox_message m where m.topic = 'receipt' and m.id >= $3
    and m.body->>'order_no' = $2 and m.body->>'bill_no' = ob.bill_no)
order by ob.bill_no
"""


OTHER_CLOCKS = timedelta(minutes=10)
"""The program that settled may have another clock than the one that took the order."""


@dataclass(frozen=True, slots=True)
class _Payment:
    """What paid an order: one arrival, or one for each part of a combined payment."""

    out_trade_no: str
    channel: str
    channel_trade_no: str
    paid_at: datetime
    transfer_id: UUID
    parts: dict[str, tuple[str, str]]  # payee -> its own account and the channel's number there


async def resend_receipts(*, order_no: str, now: datetime) -> int:
    """Queue the receipt messages that a paid order should have and has not; how many.

    The centre keys receipts by bill and order, so that one too many does no harm there. Refuses
    OrderNotFound, and ReceiptNotKnown when the books do not hold exactly the arrivals of one
    attempt to tell of.
    """
    if not is_text(order_no):
        raise OrderNotFound
    async with in_transaction() as db:
        known = await db.execute_query_dict(
            """select id, created_at from pay_order
               where order_no = $1 and state = 'paid' for update""",
            [order_no],
        )
        if not known:
            raise OrderNotFound
        order_id = known[0]["id"]
        payment = await _payment(db, order_id)
        since = ids.earliest_id(known[0]["created_at"] - OTHER_CLOCKS)
        missing = await db.execute_query_dict(_MISSING, [order_id, order_no, since])
        splits = await _splits(order_id, payment)
        for row in missing:
            receipt = _receipt(row, order_no, payment, splits[row["bill_id"]])
            await outbox.put("receipt", to_builtins(receipt), now=now)
    return len(missing)


async def _payment(db: BaseDBAsyncClient, order_id: UUID) -> _Payment:
    attempts = await db.execute_query_dict(_PAYING, [order_id])
    arrivals = await db.execute_query_dict(_ARRIVALS, [order_id])
    if len(attempts) != 1:
        raise ReceiptNotKnown
    (attempt,) = attempts
    numbers = {row["our_no"]: row["channel_no"] for row in arrivals}
    # Money that waited in suspense and was applied later is booked as a whole.
    is_whole = numbers.keys() == {attempt["out_trade_no"]}
    parts = () if is_whole else parts_of(json.loads(attempt["parts"] or "null"))
    wanted = len(parts) or 1
    is_complete = is_whole or numbers.keys() == {part.out_trade_no for part in parts}
    if len(arrivals) != wanted or not is_complete:
        raise ReceiptNotKnown
    return _Payment(
        out_trade_no=attempt["out_trade_no"],
        channel=attempt["channel"],
        channel_trade_no=attempt["channel_trade_no"] if parts else arrivals[0]["channel_no"],
        paid_at=max(row["occurred_at"] for row in arrivals),
        transfer_id=arrivals[0]["id"],
        parts={part.payee_code: (part.account_id, numbers[part.out_trade_no]) for part in parts},
    )


async def _splits(order_id: UUID, payment: _Payment) -> dict[UUID, list[ReceiptSplitRow]]:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select bill_id, payee_code, amount_fen, receipt_no from pay_order_split
           where order_id = $1 order by receipt_no""",
        [order_id],
    )
    found: dict[UUID, list[ReceiptSplitRow]] = defaultdict(list)
    for row in rows:
        account_id, number = payment.parts.get(row["payee_code"], ("", ""))
        found[row["bill_id"]].append(
            ReceiptSplitRow(
                payee_code=row["payee_code"],
                amount_fen=row["amount_fen"],
                receipt_no=row["receipt_no"],
                account_id=account_id,
                channel_trade_no=number,
            )
        )
    return found


def _receipt(
    row: dict[str, Any], order_no: str, payment: _Payment, splits: Sequence[ReceiptSplitRow]
) -> ReceiptRow:
    return ReceiptRow(
        source=row["source"],
        source_id=row["source_id"],
        bill_version=row["bill_version"],
        bill_no=row["bill_no"],
        order_no=order_no,
        channel=payment.channel,
        out_trade_no=payment.out_trade_no,
        channel_trade_no=payment.channel_trade_no,
        paid_at=payment.paid_at,
        amount_fen=row["amount_fen"],
        transfer_id=str(payment.transfer_id),
        splits=list(splits),
    )
