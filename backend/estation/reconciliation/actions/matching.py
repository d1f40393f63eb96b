"""Matches a day's bill lines with the ledger's receipts, set-based, inside one transaction.

Three days stand in temporary tables, so that what fell on the neighbouring day is found there
and is not taken from a line that has its own partner. Claims are exclusive by unique keys. Equal
lines are paired by their content, never by their place in the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import CHANNEL_RECEIPTS, REFUND_BY_NUMBER
from estation.reconciliation.rules import (
    BLOCKED,
    FAILED_REFUND_STATES,
    MATCHED,
    REFUND_MATCHED,
    Kind,
)
from estation.shared.clock import day_bounds

_TABLES = """
create temp table theirs (line_id bigint primary key, account_id text not null,
    channel text not null, day date not null, line_no int not null, kind text not null,
    out_trade_no text not null, channel_trade_no text not null, refund_no text,
    amount_fen bigint not null, fee_fen_e3 bigint not null, at timestamptz not null,
    state text not null, our_refund_fen bigint, fate text) on commit drop;
create temp table ours (transfer_id uuid primary key, account_id text not null,
    day date not null, kind text not null, order_id uuid, out_trade_no text not null,
    channel_trade_no text not null, amount_fen bigint not null,
    occurred_at timestamptz not null, fate text) on commit drop;
create temp table claim (line_id bigint not null unique, transfer_id uuid not null unique,
    how text not null) on commit drop;
""".replace(" text", ' text collate "C"')
# Byte order, so that no server's language decides which of two equal lines is left over.


@dataclass(frozen=True, slots=True)
class Pass:
    """One round of claiming among what is still free: from certain to doubtful."""

    how: str
    day_shift: int  # the bill's day less the ledger's
    same_amount: bool
    same_number: bool


PASSES = (
    Pass(MATCHED, 0, same_amount=True, same_number=True),
    Pass(Kind.DAY_BOUNDARY, 1, same_amount=True, same_number=True),
    Pass(Kind.DAY_BOUNDARY, -1, same_amount=True, same_number=True),
    Pass(Kind.TRADE_NO_DIFFERS, 0, same_amount=True, same_number=False),
    Pass(Kind.TRADE_NO_DIFFERS, 1, same_amount=True, same_number=False),
    Pass(Kind.TRADE_NO_DIFFERS, -1, same_amount=True, same_number=False),
    Pass(Kind.AMOUNT_DIFFERS, 0, same_amount=False, same_number=False),
    Pass(Kind.AMOUNT_DIFFERS, 1, same_amount=False, same_number=False),
    Pass(Kind.AMOUNT_DIFFERS, -1, same_amount=False, same_number=False),
)


async def stage(
    db: BaseDBAsyncClient, day: date, *, file_ids: Sequence[UUID], usable: Sequence[str]
) -> None:
    """Fill `theirs` from the files (of the day and its neighbours) and `ours` from the ledger.

    `usable` are the accounts whose bill of the day may be believed.
    """
    await db.execute_script(_TABLES)
    await db.execute_query(
        """insert into theirs (line_id, account_id, channel, day, line_no, kind, out_trade_no,
               channel_trade_no, refund_no, amount_fen, fee_fen_e3, at, state)
           select l.id, f.account_id, f.channel, f.day, l.line_no, l.kind, l.out_trade_no,
                  l.channel_trade_no, l.refund_no, l.amount_fen, l.fee_fen_e3, l.at, l.state
           from channel_bill_line l join channel_bill_file f on f.id = l.bill_file_id
           where f.id = any($1::uuid[])""",
        [list(file_ids)],
    )
    start, _ = day_bounds(day - timedelta(days=1))
    _, end = day_bounds(day + timedelta(days=1))
    await db.execute_query(
        f"""insert into ours
            select transfer_id, account_id,
                   (occurred_at at time zone 'Asia/Shanghai')::date, kind, order_id,
                   out_trade_no, channel_trade_no, amount_fen, occurred_at,
                   case when not account_id = any($3::text[]) then '{BLOCKED}' end
            from ({CHANNEL_RECEIPTS}) receipts""",  # noqa: S608  (our own constants)
        [start, end, list(usable)],
    )
    # Nobody else analyses temporary tables, and without figures the joins become loops.
    await db.execute_script("analyze theirs; analyze ours;")


async def claim(db: BaseDBAsyncClient) -> None:
    """Pair both sides, each line and each receipt at most once."""
    for step in PASSES:
        await db.execute_query(_claiming(step), [step.how, step.day_shift])
        await db.execute_script("analyze claim;")


def _claiming(step: Pass) -> str:
    """Only constants of this file reach the text. Lines with an equal key are numbered on both
    sides in the order of their content and paired number by number."""
    amount = ", amount_fen" if step.same_amount else ""
    number = ", channel_trade_no" if step.same_number else ""
    key = f"account_id, out_trade_no, day{amount}{number}"
    return f"""
        insert into claim (line_id, transfer_id, how)
        select t.line_id, o.transfer_id, $1
        from (select *, row_number() over (partition by {key}
                  order by amount_fen, channel_trade_no, at, line_no) as turn
              from theirs where kind = 'payment'
                and not exists (select from claim c where c.line_id = theirs.line_id)) t
        join (select *, row_number() over (partition by {key}
                  order by kind, amount_fen, channel_trade_no, occurred_at, transfer_id) as turn
              from ours where fate is null
                and not exists (select from claim c where c.transfer_id = ours.transfer_id)) o
          on o.account_id = t.account_id and o.out_trade_no = t.out_trade_no
             and t.day = o.day + $2::int and o.turn = t.turn
             {"and o.amount_fen = t.amount_fen" if step.same_amount else ""}
             {"and o.channel_trade_no = t.channel_trade_no" if step.same_number else ""}
        """  # noqa: S608


async def decide(db: BaseDBAsyncClient, *, configured: Sequence[str]) -> None:
    """Give every line and every receipt exactly one fate: matched, or a kind of difference."""
    await db.execute_query(
        f"""
        update ours o set fate = case when c.how = '{MATCHED}' and o.kind = 'suspense'
                                      then '{Kind.IN_SUSPENSE}' else c.how end
        from claim c where c.transfer_id = o.transfer_id
        """  # noqa: S608
    )
    await db.execute_query(
        """
        update theirs t set fate = o.fate
        from claim c join ours o on o.transfer_id = c.transfer_id where c.line_id = t.line_id
        """
    )
    await db.execute_query(
        f"update ours set fate = '{Kind.UNKNOWN_MERCHANT}' where not account_id = any($1::text[])",  # noqa: S608
        [list(configured)],
    )
    await db.execute_query(_REFUNDS, [list(FAILED_REFUND_STATES)])
    await db.execute_query(_LEFT_AT_CHANNEL)
    await db.execute_query(_LEFT_IN_LEDGER)


_REFUNDS = f"""
update theirs t set our_refund_fen = m.our_fen, fate = case
    when m.our_fen is null then '{Kind.REFUND_NOT_IN_LEDGER}'
    when m.turn > 1 or m.our_account <> t.account_id or m.our_fen <> t.amount_fen
        or m.is_ended_otherwise then '{Kind.REFUND_DIFFERS}'
    else '{REFUND_MATCHED}' end
from (select x.line_id, r.account_id as our_account, r.amount_fen as our_fen,
             row_number() over (partition by x.account_id, x.refund_no
                 order by x.day, x.amount_fen, x.channel_trade_no, x.at, x.line_no) as turn,
             case when x.state = any($1::text[]) then r.is_done
                  else r.is_reversed and not r.is_done end as is_ended_otherwise
      from theirs x left join lateral (
          {REFUND_BY_NUMBER} and t.idempotency_key = 'refund_start:' || x.refund_no) r on true
      where x.kind = 'refund') m
where m.line_id = t.line_id
"""  # noqa: S608  (our own constants)
# By number on whatever day: a channel's bill has a refund on the day it was accepted, our ledger
# on the day it arrived; until then it stands in flight.

_LEFT_AT_CHANNEL = f"""
update theirs t set fate = case when s.paired > 0 or s.turn > 1
    then '{Kind.DUPLICATE_IN_BILL}' else '{Kind.MISSING_IN_LEDGER}' end
from (select line_id, fate,
             count(fate) over (partition by account_id, out_trade_no) as paired,
             row_number() over (partition by account_id, out_trade_no, fate is null
                 order by day, amount_fen, channel_trade_no, at, line_no) as turn
      from theirs where kind = 'payment') s
where s.line_id = t.line_id and s.fate is null
"""  # noqa: S608

_LEFT_IN_LEDGER = f"""
update ours o set fate = case when s.paired > 0 or s.turn > 1
    then '{Kind.DUPLICATE_IN_LEDGER}' else '{Kind.MISSING_AT_CHANNEL}' end
from (select transfer_id, fate,
             count(fate) over (partition by account_id, out_trade_no) as paired,
             row_number() over (partition by account_id, out_trade_no, fate is null
                 order by day, kind, amount_fen, channel_trade_no, occurred_at, transfer_id)
                 as turn
      from ours) s
where s.transfer_id = o.transfer_id and s.fate is null
"""  # noqa: S608


async def unpaired_at_channel(db: BaseDBAsyncClient, day: date) -> list[str]:
    """Our numbers on the day's bills that the ledger does not have."""
    rows = await db.execute_query_dict(
        "select distinct out_trade_no from theirs where day = $1 and fate = $2",
        [day, Kind.MISSING_IN_LEDGER],
    )
    return [row["out_trade_no"] for row in rows]


async def mark_status_conflicts(db: BaseDBAsyncClient, ended: Sequence[str]) -> None:
    """`ended` are numbers of ours that are closed or refused here, though the bill has money."""
    await db.execute_query(
        "update theirs set fate = $1 where fate = $2 and out_trade_no = any($3::text[])",
        [Kind.STATUS_DIFFERS, Kind.MISSING_IN_LEDGER, list(ended)],
    )
