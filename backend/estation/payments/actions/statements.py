"""The set-based statement that writes what a batch of news did to our own tables."""

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import MARKING, PaidMark, check_marked, marking_arguments
from estation.ledger.api import POSTING, TransferInput, check_posted, posting_arguments
from estation.shared.columns import array_text, json_lines
from estation.shared.together import Part, statement

_CHANGED = """
attempt as (
    update pay_attempt p
    set state = t.state, next_query_at = null,
        channel_trade_no = coalesce(t.trade_no, p.channel_trade_no),
        paid_fen = coalesce(t.paid_fen, p.paid_fen), paid_at = coalesce(t.paid_at, p.paid_at),
        closed_at = case when t.state = 'closed' then $1::timestamptz else p.closed_at end,
        close_reason = case when t.state = 'closed' then t.reason else p.close_reason end
    from unnest($2::text::uuid[], $3::text::text[], $4::text::text[], $5::text::bigint[],
                $6::text::timestamptz[], $7::text::text[])
        as t(id, state, trade_no, paid_fen, paid_at, reason)
    where p.id = t.id and p.id = any($2::text::uuid[])
), ended as (
    update pay_order o
    set state = t.state, paid_at = t.paid_at, close_reason = t.reason,
        closed_at = case when t.state = 'closed' then $1::timestamptz end
    from unnest($8::text::uuid[], $9::text::text[], $10::text::timestamptz[], $11::text::text[])
        as t(id, state, paid_at, reason)
    where o.id = t.id and o.id = any($8::text::uuid[])
), released as (
    update pay_order_bill b set is_open = false
    where b.order_id = any($8::text::uuid[]) and b.is_open is not false
), told as (
    insert into outbox_message (id, topic, body, created_at, not_before, tries, last_error)
    select t.id, 'receipt', t.body::jsonb, $1::timestamptz, $1::timestamptz, 0, ''
    from unnest($12::text::uuid[], string_to_array($13::text, E'\\n')) as t(id, body)
), kept as (
    insert into pay_notice as n (id, channel, account_id, event_key, kind, out_trade_no, plaintext,
                                 received_at, handled_at, outcome, tries, last_error)
    select t.id, t.channel, t.account_id, t.event_key, t.kind, t.out_trade_no, t.plaintext::jsonb,
           $1::timestamptz, $1::timestamptz, t.outcome, 0, ''
    from unnest($14::text::uuid[], $15::text::text[], $16::text::text[], $17::text::text[],
                $18::text::text[], $19::text::text[], string_to_array($20::text, E'\\n'),
                $21::text::text[])
        as t(id, channel, account_id, event_key, kind, out_trade_no, plaintext, outcome)
    order by t.channel, t.account_id, t.event_key
    on conflict (channel, account_id, event_key) do update
    set handled_at = excluded.handled_at, outcome = excluded.outcome, next_try_at = null
    where n.handled_at is null
    returning n.id
), said as (
    insert into pay_notice_message (id, message_sealed)
    select t.id, substring($24::bytea from t.begins for t.length)
    from unnest($22::text::uuid[], $23::text::int[], $25::text::int[]) as t(id, begins, length)
    where t.id in (select id from kept)
)"""
# `= any` says nothing new; it lets PostgreSQL walk the index once for the whole batch.
# `is not false` keeps it away from the partial index of open bills: where few are open it reads
# that index whole for each batch, with all entries that ended since the last vacuum.
# Only new rows of the inbox keep their message: a repetition's id is nobody's.

_WRITE: Final = statement(
    POSTING, MARKING, Part(_CHANGED, "(select count(*) from kept)", parameters=25)
)
"""In the order of `Writing.write`: transfers and notices are met by key by other batches, too."""

_HURRY = """
update pay_attempt set next_query_at = $1
where order_id = any($2::uuid[]) and state in ('opening', 'open', 'abandoned')
"""


class AttemptChange(NamedTuple):
    """An attempt's new state: paid with its money, or closed for a reason."""

    id: str
    state: str
    trade_no: str | None
    paid_fen: str | None
    paid_at: str | None
    reason: str | None


class OrderChange(NamedTuple):
    """An order's end."""

    id: str
    state: str
    paid_at: str | None
    reason: str


class Told(NamedTuple):
    """A receipt for the outbox; `body` is compact JSON."""

    id: str
    body: str


class HandledNotice(NamedTuple):
    """A notice for the inbox; `plaintext` is compact JSON."""

    id: str
    channel: str
    account_id: str
    event_key: str
    kind: str
    out_trade_no: str
    plaintext: str
    outcome: str


async def write_changes(
    db: BaseDBAsyncClient,
    *,
    transfers: Sequence[TransferInput],
    marks: Sequence[PaidMark],
    attempts: Sequence[AttemptChange],
    orders: Sequence[OrderChange],
    receipts: Sequence[Told],
    notices: Sequence[HandledNotice],
    messages: Sequence[tuple[str, bytes]],
    now: datetime,
) -> None:
    """Post transfers, mark bills paid, move attempts and orders, release bills of ended orders,
    queue receipts, fill the inbox and keep `messages` (ids of `notices` with what came) beside it.

    One statement; rows hold texts in PostgreSQL's spelling. A notice that waited unhandled
    becomes handled. Raises as `post_many` and `mark_paid` do, after writing: nothing of the
    caller's transaction may be committed then.
    """
    if not (transfers or marks or attempts or orders or receipts or notices):
        return
    arguments = [
        *posting_arguments(transfers, now=now),
        *marking_arguments(marks),
        now,
        *_columns(attempts, AttemptChange),
        *_columns(orders, OrderChange),
        *_columns(receipts, Told),
        *_columns(notices, HandledNotice),
        *_slices(messages),
    ]
    _, (answers,) = await db.execute_query(_WRITE, arguments)
    await check_posted(transfers, answers[0])
    check_marked(marks, answers[1])


_JSON: Final = frozenset({"body", "plaintext"})


def _columns(rows: Sequence[tuple[str | None, ...]], kind: Any) -> list[str]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(kind._fields)
    return [
        json_lines(column) if name in _JSON else array_text(column)
        for name, column in zip(kind._fields, columns, strict=True)
    ]


def _slices(messages: Sequence[tuple[str, bytes]]) -> list[str | bytes]:
    """Ids, where each message begins, all of them as one, how long each is: one binary parameter
    costs neither asyncpg's look at every element nor hexadecimal digits."""
    lengths = [len(message) for _, message in messages]
    begins = itertools.accumulate(lengths, initial=1)
    return [
        array_text([notice_id for notice_id, _ in messages]),
        _numbers(itertools.islice(begins, len(lengths))),
        b"".join([message for _, message in messages]),
        _numbers(lengths),
    ]


def _numbers(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


async def hurry_others(db: BaseDBAsyncClient, order_ids: Sequence[UUID], *, now: datetime) -> None:
    """Have the attempts that are still watched closed at their channel without delay, also those
    somebody is asking about: that was begun before the order's end."""
    if order_ids:
        await db.execute_query_dict(_HURRY, [now, list(order_ids)])
