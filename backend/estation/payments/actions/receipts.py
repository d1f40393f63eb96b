"""Receipt messages made again from what is stored, for an order whose messages were lost."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import to_builtins
from tortoise import Tortoise

from estation.outside.gate.rows import ReceiptRow, ReceiptSplitRow
from estation.payments.errors import OrderNotFound, ReceiptNotKnown
from estation.shared import outbox
from estation.shared.transactions import in_transaction

_MISSING = """
select o.id as order_id, o.order_no, b.source, b.source_id, ob.bill_id, ob.bill_no,
       ob.bill_version, ob.amount_fen, t.id as transfer_id, t.our_no, t.channel_no, t.occurred_at,
       a.channel
from pay_order o
join pay_order_bill ob on ob.order_id = o.id
join bill b on b.id = ob.bill_id
join ledger_transfer t on t.order_id = o.id and t.kind = 'payment'
join pay_attempt a on a.out_trade_no = t.our_no
where o.order_no = $1 and o.state = 'paid' and not exists (
    select from outbox_message m where m.topic = 'receipt' and m.id >= o.id
    and m.body->>'order_no' = o.order_no and m.body->>'bill_no' = ob.bill_no)
order by ob.bill_no
"""


async def resend_receipts(*, order_no: str, now: datetime) -> int:
    """Queue the receipt messages that a paid order should have and has not; how many.

    The centre keys receipts by bill and order, so that one too many does no harm there. Refuses
    OrderNotFound, and ReceiptNotKnown when the books hold no single payment to tell of.
    """
    async with in_transaction() as db:
        known = await db.execute_query_dict(
            "select id from pay_order where order_no = $1 and state = 'paid' for update",
            [order_no],
        )
        if not known:
            raise OrderNotFound
        missing = await db.execute_query_dict(_MISSING, [order_no])
        if len({row["transfer_id"] for row in missing}) > 1:
            raise ReceiptNotKnown
        splits = await _splits(known[0]["id"])
        for row in missing:
            await outbox.put("receipt", to_builtins(_receipt(row, splits[row["bill_id"]])), now=now)
    return len(missing)


async def _splits(order_id: UUID) -> dict[UUID, list[ReceiptSplitRow]]:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select bill_id, payee_code, amount_fen, receipt_no from pay_order_split
           where order_id = $1 order by receipt_no""",
        [order_id],
    )
    found: dict[UUID, list[ReceiptSplitRow]] = defaultdict(list)
    for row in rows:
        found[row["bill_id"]].append(
            ReceiptSplitRow(
                payee_code=row["payee_code"],
                amount_fen=row["amount_fen"],
                receipt_no=row["receipt_no"],
            )
        )
    return found


def _receipt(row: dict[str, Any], splits: Sequence[ReceiptSplitRow]) -> ReceiptRow:
    return ReceiptRow(
        source=row["source"],
        source_id=row["source_id"],
        bill_version=row["bill_version"],
        bill_no=row["bill_no"],
        order_no=row["order_no"],
        channel=row["channel"],
        out_trade_no=row["our_no"],
        channel_trade_no=row["channel_no"],
        paid_at=row["occurred_at"],
        amount_fen=row["amount_fen"],
        transfer_id=str(row["transfer_id"]),
        splits=list(splits),
    )
