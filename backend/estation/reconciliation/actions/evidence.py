"""What the day's bills prove of single payments, for the centres whose bills were paid."""

from collections.abc import Collection
from datetime import date, datetime, timedelta
from itertools import chain
from uuid import UUID

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import APPLIED_LATER
from estation.payments.api import ProvenLine, put_evidence, untold_late
from estation.reconciliation.actions.locking import take_day
from estation.reconciliation.rules import MATCHED, Kind, LegState
from estation.shared.clock import beijing_day
from estation.shared.crypto import Vault
from estation.shared.transactions import in_transaction

LOOK_BACK = timedelta(days=366)
"""How old an incident may be whose money is applied and told of at once; what is older is told
when its day is reconciled again."""

MOST_LATE = 500
"""Payments without evidence that one round looks at, the newest first."""

_PROVEN = """
select o.transfer_id, o.order_id, t.account_id, t.channel, t.out_trade_no, t.channel_trade_no,
       t.amount_fen, t.at, t.day, f.sha256 as file_digest, t.line_no as file_line,
       $3::timestamptz as proved_at
from claim c join theirs t using (line_id) join ours o using (transfer_id)
  join channel_bill_line l on l.id = t.line_id join channel_bill_file f on f.id = l.bill_file_id
where t.day = $1 and o.kind = 'payment' and o.order_id is not null and t.fate = any($2::text[])
order by o.transfer_id
"""

# The run found the line's money in suspense, by number, sum and merchant, and said so.
_PROVEN_LATE = f"""
with leg as (
    select distinct on (r.day, one ->> 'account_id') r.id as run_id, r.day, r.started_at,
           one ->> 'account_id' as account_id, one ->> 'sha256' as file_digest
    from reconciliation_run r, jsonb_array_elements(r.legs) one
    where r.day = any($1::date[]) and ($2::uuid is null or r.id = $2) and one ->> 'state' = $3
    order by r.day, one ->> 'account_id', r.started_at desc, r.id desc)
select a.transfer_id, a.order_id, d.account_id, d.channel, d.out_trade_no,
       d.evidence #>> '{{theirs,channel_trade_no}}' as channel_trade_no, d.their_fen as amount_fen,
       (d.evidence #>> '{{theirs,at}}')::timestamptz as at, leg.day, leg.file_digest,
       (d.evidence #>> '{{theirs,line_no}}')::int as file_line, leg.started_at as proved_at
from leg join reconciliation_difference d
    on d.run_id = leg.run_id and d.account_id = leg.account_id and d.kind = any($4::text[])
  join ({APPLIED_LATER}) a on a.arrival_id = (d.evidence #>> '{{ours,transfer_id}}')::uuid
where (d.evidence #>> '{{theirs,day}}')::date = leg.day
order by a.transfer_id
"""  # noqa: S608  (our own constants)


async def tell_centres(
    db: BaseDBAsyncClient, day: date, run_id: UUID, *, vault: Vault, now: datetime
) -> int:
    """Of every payment that the day's lines match in number, amount and merchant; how many rows.
    Also of those that are paid by now with money that was in suspense on its day.

    Reads the tables `matching` left and the differences of the run; joins the caller's transaction.
    """
    rows = await db.execute_query_dict(_PROVEN, [day, [MATCHED, Kind.DAY_BOUNDARY.value], now])
    late = await _proven_late(db, [day], run_id)
    lines = chain((ProvenLine(**row) for row in rows), late)
    return await put_evidence(db, lines, vault=vault, now=now)


async def tell_of_late(*, vault: Vault, now: datetime) -> int:
    """Of payments with money that waited in suspense, was found there when its day was reconciled,
    and was applied to its bill since; how many rows. What is told already is left alone: another
    file of its day is told by the run that reads it."""
    db = Tortoise.get_connection("default")
    told = 0
    for day in sorted({line.day for line in await _untold(db, now)}):
        async with in_transaction() as tx:
            # A run of this day at the moment tells them itself, or leaves them to the next round.
            if await take_day(tx, day):
                due = [line for line in await _untold(tx, now) if line.day == day]
                told += await put_evidence(tx, due, vault=vault, now=now)
    return told


async def _untold(db: BaseDBAsyncClient, now: datetime) -> list[ProvenLine]:
    """A line each. By the clocks of two sides the line may be in the bill of a neighbouring day."""
    waiting = await untold_late(since=now - LOOK_BACK, limit=MOST_LATE)
    days = {
        beijing_day(arrived) + timedelta(days=shift)
        for arrived in waiting.values()
        for shift in (-1, 0, 1)
    }
    found = await _proven_late(db, days) if waiting else []
    return [line for line in found if line.transfer_id in waiting]


async def _proven_late(
    db: BaseDBAsyncClient, days: Collection[date], run_id: UUID | None = None
) -> list[ProvenLine]:
    """By this run, or the newest of each day that had the account's bill."""
    rows = await db.execute_query_dict(
        _PROVEN_LATE,
        [
            sorted(days),
            run_id,
            LegState.PROVEN.value,
            [Kind.IN_SUSPENSE.value, Kind.DAY_BOUNDARY.value],
        ],
    )
    return [ProvenLine(**row) for row in rows]
