"""Money that arrived, transfer by transfer: what refunds are taken from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise

from estation.ledger import rules

_ARRIVALS = f"""
select t.id, t.kind, t.region, t.order_id, t.our_no, t.channel_no, t.occurred_at,
       substr(e.account, strpos(e.account, ':') + 1) as account_id, e.debit_fen as amount_fen,
       (select json_agg(substr(p.account, {len(rules.PAYEE) + 2}) order by p.account)::text
        from ledger_entry p where p.transfer_id = t.id and p.credit_fen > 0
          and starts_with(p.account, '{rules.PAYEE}:')) as payees,
       t.kind = 'suspense' and exists (select from ledger_transfer a
           where a.idempotency_key = 'applied:' || t.idempotency_key) as is_applied
from ledger_transfer t join ledger_entry e on e.transfer_id = t.id and e.debit_fen > 0
    and (starts_with(e.account, '{rules.CLEARING}:') or starts_with(e.account, '{rules.SUSPENSE}:'))
where t.kind in ('payment', 'suspense')
"""  # noqa: S608  (our own constants)

REFUND_BY_NUMBER = f"""
select t.idempotency_key, substr(e.account, {len(rules.REFUND_IN_FLIGHT) + 2}) as account_id,
       e.credit_fen as amount_fen,
       exists (select from ledger_transfer d
               where d.idempotency_key = replace(t.idempotency_key, 'refund_start:', 'refund:'))
           as is_done,
       exists (select from ledger_transfer r where r.idempotency_key =
               replace(t.idempotency_key, 'refund_start:', 'refund_reversal:')) as is_reversed
from ledger_transfer t join ledger_entry e on e.transfer_id = t.id and e.credit_fen > 0
where t.kind = 'refund_start'
"""  # noqa: S608
"""What the books say of the refund started under a key, as a query to join laterally with: for
whose account, how much, and how it ended."""

APPLIED_LATER = """
select a.id as transfer_id, a.order_id, t.id as arrival_id
from ledger_transfer t join ledger_transfer a
    on a.idempotency_key = 'applied:' || t.idempotency_key
where t.kind = 'suspense'
"""
"""Money that waited in suspense (`arrival_id`) and pays its order by a transfer of its own, as a
query to join with."""


@dataclass(frozen=True, slots=True)
class ArrivedMoney:
    """A payment or a suspense transfer. `payees`: whom it was credited to; `is_applied`: this
    suspense was credited to payees later, by a transfer of its own."""

    id: UUID
    kind: str
    region: str
    order_id: UUID | None
    our_no: str
    channel_no: str
    occurred_at: datetime
    account_id: str
    amount_fen: int
    payees: list[str]
    is_applied: bool


async def payments_of_order(order_id: UUID) -> list[ArrivedMoney]:
    """The money that was applied to an order, one transfer per merchant account."""
    return await _arrivals("t.order_id = $1 and t.kind = 'payment'", order_id)


async def arrivals_by_id(transfer_ids: Sequence[UUID]) -> list[ArrivedMoney]:
    """Those of these transfers that are money arriving."""
    return await _arrivals("t.id = any($1::uuid[])", list(transfer_ids))


async def arrival_by_key(key: str) -> ArrivedMoney | None:
    found = await _arrivals("t.idempotency_key = $1", key)
    return found[0] if found else None


async def _arrivals(where: str, value: Any) -> list[ArrivedMoney]:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"{_ARRIVALS} and {where} order by t.id", [value]
    )
    return [ArrivedMoney(**{**row, "payees": orjson.loads(row["payees"] or "[]")}) for row in rows]
