"""What a receipt stands for now: the payee's share that was paid, and what was given back of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise


@dataclass(frozen=True, slots=True)
class NumberedReceipt:
    """What was paid under a receipt number. `refunded_fen`: given back of it, certainly."""

    receipt_no: str
    order_id: UUID
    payer_id: UUID
    payee_code: str
    payee_name: str
    amount_fen: int
    paid_at: datetime
    refunded_fen: int


async def receipt_numbered(receipt_no: str) -> NumberedReceipt | None:
    """None while nothing was paid under this number: there is no receipt then."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select s.receipt_no, s.order_id, o.payer_id, s.payee_code, s.payee_name, s.amount_fen,
                  o.paid_at,
                  (select coalesce(sum(h.amount_fen), 0)::bigint
                   from pay_refund r join pay_refund_share h on h.refund_id = r.id
                   where r.order_id = s.order_id and r.state = 'succeeded'
                     and h.bill_id = s.bill_id and h.payee_code = s.payee_code) as refunded_fen
           from pay_order_split s join pay_order o on o.id = s.order_id
           where s.receipt_no = $1 and s.amount_fen > 0 and o.state = 'paid'""",
        [receipt_no],
    )
    return NumberedReceipt(**rows[0]) if rows else None


async def given_back_of(order_id: UUID) -> dict[tuple[UUID, str], int]:
    """What each payee has given back of each bill of an order: (bill, payee code) -> fen."""
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        """select h.bill_id, h.payee_code, sum(h.amount_fen)::bigint as fen
           from pay_refund r join pay_refund_share h on h.refund_id = r.id
           where r.order_id = $1 and r.state = 'succeeded'
           group by h.bill_id, h.payee_code""",
        [order_id],
    )
    return {(row["bill_id"], row["payee_code"]): row["fen"] for row in rows}
