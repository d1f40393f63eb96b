"""The set-based statement that writes what a batch of news did to our own tables."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.shared.jsonb import jsonb_text

_WRITE = """
with attempt as (
    update pay_attempt p
    set state = t.state, next_query_at = null,
        channel_trade_no = coalesce(t.trade_no, p.channel_trade_no),
        paid_fen = coalesce(t.paid_fen, p.paid_fen), paid_at = coalesce(t.paid_at, p.paid_at),
        closed_at = case when t.state = 'closed' then $1::timestamptz else p.closed_at end,
        close_reason = case when t.state = 'closed' then t.reason else p.close_reason end
    from json_to_recordset($2::json) as t(
        id uuid, state text, trade_no text, paid_fen bigint, paid_at timestamptz, reason text)
    where p.id = t.id and p.id = any($6::uuid[])
), ended as (
    update pay_order o
    set state = t.state, paid_at = t.paid_at, close_reason = t.reason,
        closed_at = case when t.state = 'closed' then $1::timestamptz end
    from json_to_recordset($3::json) as t(
        id uuid, state text, paid_at timestamptz, reason text)
    where o.id = t.id and o.id = any($7::uuid[])
), released as (
    update pay_order_bill b set is_open = false
    where b.order_id = any($7::uuid[]) and b.is_open
), told as (
    insert into outbox_message (id, topic, body, created_at, not_before, tries, last_error)
    select t.id, 'receipt', t.body, $1::timestamptz, $1::timestamptz, 0, ''
    from json_to_recordset($4::json) as t(id uuid, body jsonb)
)
insert into pay_notice as n (id, channel, account_id, event_key, kind, out_trade_no, plaintext,
                             received_at, handled_at, outcome, tries, last_error)
select t.id, t.channel, t.account_id, t.event_key, t.kind, t.out_trade_no, t.plaintext,
       $1::timestamptz, $1::timestamptz, t.outcome, 0, ''
from json_to_recordset($5::json) as t(
    id uuid, channel text, account_id text, event_key text, kind text, out_trade_no text,
    plaintext jsonb, outcome text)
order by t.channel, t.account_id, t.event_key
on conflict (channel, account_id, event_key) do update
set handled_at = excluded.handled_at, outcome = excluded.outcome, next_try_at = null
where n.handled_at is null
"""
# The arrays of ids say nothing new; they lead the planner to the indexes whatever it believes
# about the size of a JSON document.

_HURRY = """
update pay_attempt set next_query_at = $1
where order_id = any($2::uuid[]) and state in ('opening', 'open', 'abandoned')
"""


async def write_changes(
    db: BaseDBAsyncClient,
    *,
    attempts: Sequence[dict[str, Any]],
    orders: Sequence[dict[str, Any]],
    receipts: Sequence[dict[str, Any]],
    notices: Sequence[dict[str, Any]],
    now: datetime,
) -> None:
    """Move attempts and orders, release bills of ended orders, queue receipts, fill the inbox.

    One statement; each row names its columns. A notice that waited unhandled becomes handled.
    """
    if attempts or orders or receipts or notices:
        documents = [jsonb_text(rows) for rows in (attempts, orders, receipts, notices)]
        keys = [[row["id"] for row in rows] for rows in (attempts, orders)]
        await db.execute_query_dict(_WRITE, [now, *documents, *keys])


async def hurry_others(db: BaseDBAsyncClient, order_ids: Sequence[UUID], *, now: datetime) -> None:
    """Have the attempts that are still watched closed at their channel without delay."""
    if order_ids:
        await db.execute_query_dict(_HURRY, [now, list(order_ids)])
