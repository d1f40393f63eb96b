"""What the books say."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import orjson
from tortoise import Tortoise

from estation.ledger import rules
from estation.shared.clock import day_bounds

CHANNEL_RECEIPTS = f"""
select t.id as transfer_id, t.kind, t.order_id, t.our_no as out_trade_no,
       t.channel_no as channel_trade_no, e.debit_fen as amount_fen, t.occurred_at,
       substr(e.account, {len(rules.CLEARING) + 2}) as account_id
from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
where t.occurred_at >= $1 and t.occurred_at < $2 and e.debit_fen > 0
  and starts_with(e.account, '{rules.CLEARING}:') and t.kind in ('payment', 'suspense')
"""  # noqa: S608  (our own constants)
"""The rows of `channel_receipts` for all merchant accounts in [$1, $2), as a query to join with:
a reconciled day stays in the database."""


@dataclass(frozen=True, slots=True)
class StandingTransfer:
    """A posted transfer; `amount_fen` is the sum of its debits."""

    id: UUID
    idempotency_key: str
    input_hash: str
    kind: str
    amount_fen: int


@dataclass(frozen=True, slots=True)
class ChannelReceipt:
    """Money that arrived at a merchant account: kind is payment (applied) or suspense."""

    transfer_id: UUID
    kind: str
    order_id: UUID | None
    out_trade_no: str
    channel_trade_no: str
    amount_fen: int
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class TransferView:
    """A posted transfer with its legs (account, debit fen, credit fen), for staff."""

    id: UUID
    kind: str
    channel_no: str
    occurred_at: datetime
    posted_at: datetime
    legs: list[tuple[str, int, int]]


@dataclass(frozen=True, slots=True)
class PaymentNumbers:
    """Which payment it was: our out_trade_no and the channel's trade number."""

    our_no: str
    channel_no: str


async def transfers_about(our_no: str, *, limit: int = 50) -> list[TransferView]:
    """The transfers under one number of ours, oldest first."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id, t.kind, t.channel_no, t.occurred_at, t.posted_at,
                  (select json_agg(json_build_array(e.account, e.debit_fen, e.credit_fen)
                                   order by e.credit_fen > 0, e.account)::text
                   from ledger_entry e where e.transfer_id = t.id) as legs
           from ledger_transfer t where t.our_no = $1 order by t.posted_at, t.id limit $2""",
        [our_no, limit],
    )
    return [
        TransferView(**{**row, "legs": [tuple(leg) for leg in orjson.loads(row["legs"] or "[]")]})
        for row in rows
    ]


async def payment_of(order_id: UUID) -> PaymentNumbers | None:
    """The numbers of the payment that was applied to an order; None when none was."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select our_no, channel_no from ledger_transfer
           where order_id = $1 and kind = 'payment'""",
        [order_id],
    )
    return PaymentNumbers(**rows[0]) if rows else None


async def transfers_by_key(keys: Sequence[str]) -> dict[str, StandingTransfer]:
    """The transfers standing under these idempotency keys; joins the caller's transaction."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id, t.idempotency_key, t.input_hash, t.kind,
                  (select sum(e.debit_fen) from ledger_entry e where e.transfer_id = t.id)::bigint
                      as amount_fen
           from ledger_transfer t where t.idempotency_key = any($1::text[])""",
        [list(keys)],
    )
    return {row["idempotency_key"]: StandingTransfer(**row) for row in rows}


async def balance(account: str) -> int:
    """Debits less credits of an account in fen."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(debit_fen), 0)::bigint - coalesce(sum(credit_fen), 0)::bigint as fen
           from ledger_entry where account = $1""",
        [account],
    )
    return int(rows[0]["fen"])


async def channel_receipts(day: date, account_id: str) -> list[ChannelReceipt]:
    """All money that arrived at `account_id` on a Beijing day by the channel's clock.

    Suspense is included: the channel's bill names that money too. Ordered by out_trade_no.
    """
    start, end = day_bounds(day)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id as transfer_id, t.kind, t.order_id, t.our_no as out_trade_no,
                  t.channel_no as channel_trade_no, e.debit_fen as amount_fen, t.occurred_at
           from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
           where t.occurred_at >= $1 and t.occurred_at < $2
             and e.account = $3 and e.debit_fen > 0 and t.kind in ('payment', 'suspense')
           order by t.our_no, t.channel_no""",
        [start, end, rules.clearing(account_id)],
    )
    return [ChannelReceipt(**row) for row in rows]


async def unbalanced_transfers(*, limit: int = 100) -> list[UUID]:
    """Invariant: no rows. Transfers whose entries do not sum to zero, or that have none."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id from ledger_transfer t left join ledger_entry e on e.transfer_id = t.id
           group by t.id
           having count(e.id) < 2 or sum(e.debit_fen) <> sum(e.credit_fen) limit $1""",
        [limit],
    )
    return [row["id"] for row in rows]
