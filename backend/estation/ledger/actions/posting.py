"""Posting: the only way money enters the books."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError

from estation.ledger import queries, rules
from estation.ledger.errors import AlreadyReversed, LedgerConflict, NoSuchTransfer
from estation.ledger.rules import TransferInput
from estation.shared import ids
from estation.shared.columns import array_text, moment_text
from estation.shared.together import Part, statement

_STEPS = """
posted as (
    insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, order_id, our_no,
                                 channel_no, occurred_at, posted_at)
    select id, key, hash, kind, region, order_id, our_no, channel_no, occurred_at, $1::timestamptz
    from unnest($3::text::uuid[], $4::text::text[], $5::text::text[], $6::text::text[],
                $7::text::text[], $8::text::uuid[], $9::text::text[], $10::text::text[],
                $11::text::timestamptz[])
        as t(id, key, hash, kind, region, order_id, our_no, channel_no, occurred_at)
    order by key
    on conflict (idempotency_key) do nothing
    returning id
), legs as (
    insert into ledger_entry (id, transfer_id, account, debit_fen, credit_fen)
    select e.id, e.transfer_id, e.account, e.debit, e.credit
    from unnest($12::text::uuid[], $13::text::uuid[], $14::text::text[], $15::text::bigint[],
                $16::text::bigint[]) as e(id, transfer_id, account, debit, credit)
    join posted on posted.id = e.transfer_id
)"""
_STEPS_UNDOING = (
    _STEPS.replace("occurred_at, posted_at)", "occurred_at, posted_at, reverses_id)")
    .replace("occurred_at, $1::timestamptz", "occurred_at, $1::timestamptz, reverses_id")
    .replace("$11::text::timestamptz[])", "$11::text::timestamptz[], $17::text::uuid[])")
    .replace(
        "channel_no, occurred_at)\n    order", "channel_no, occurred_at, reverses_id)\n    order"
    )
)
"""The same with one column more: what undoes nothing does not carry it."""

_NEW_IDS = """(select case when count(*) <> $2 then coalesce(array_agg(id::text), '{}') end
        from posted)"""

POSTING: Final = Part(_STEPS, _NEW_IDS, 16)
"""Posting as part of a statement: `posting_arguments` in, the answer to `check_posted`."""

_POST: Final = statement(POSTING)
_POST_UNDOING: Final = statement(Part(_STEPS_UNDOING, _NEW_IDS, 17))


async def post_many(
    transfers: Sequence[TransferInput],
    *,
    now: datetime,
    db: BaseDBAsyncClient | None = None,
) -> list[str]:
    """Post all in the caller's transaction; the ids under which each key stands in the books.

    A key that is already there with the same content is a replay: nothing is written and the
    old id comes back. With other content LedgerConflict is raised and nothing of the caller's
    transaction may be committed. Raises NotATransfer before anything is written, and for what
    undoes a transfer NoSuchTransfer, NotAReversal or AlreadyReversed.
    """
    if not transfers:
        return []
    db = db or Tortoise.get_connection("default")
    arguments = posting_arguments(transfers, now=now)
    undoing = [transfer for transfer in transfers if transfer.reverses_id is not None]
    if undoing:
        return await _post_undoing(db, transfers, undoing, arguments)
    _, rows = await db.execute_query(_POST, arguments)
    return await check_posted(transfers, rows[0][0])


def posting_arguments(transfers: Sequence[TransferInput], *, now: datetime) -> list[Any]:
    """What goes in where POSTING is part of a statement; none of these may undo another one.

    Raises NotATransfer.
    """
    for transfer in transfers:
        rules.check(transfer)
    return [now, len(transfers), *_transfer_columns(transfers), *_leg_columns(transfers, now)]


async def check_posted(transfers: Sequence[TransferInput], new: list[str] | None) -> list[str]:
    """As `post_many`, for what came back where POSTING was part of a statement."""
    if new is None:
        return [transfer.id for transfer in transfers]
    return await _with_replays(transfers, frozenset(new))


async def _post_undoing(
    db: BaseDBAsyncClient,
    transfers: Sequence[TransferInput],
    undoing: Sequence[TransferInput],
    arguments: list[Any],
) -> list[str]:
    """The original must stand; the unique index on `reverses_id` has the last word."""
    standing = await queries.posted_transfers([str(one.reverses_id) for one in undoing])
    for transfer in undoing:
        original = standing.get(str(transfer.reverses_id))
        if original is None:
            raise NoSuchTransfer(str(transfer.reverses_id))
        rules.check_mirror(original, transfer)
    arguments.append(array_text([transfer.reverses_id for transfer in transfers]))
    try:
        _, rows = await db.execute_query(_POST_UNDOING, arguments)
    except IntegrityError as failure:
        if "uq_ledger_transfer_reverses" in str(failure):
            raise AlreadyReversed(str([one.reverses_id for one in undoing])) from failure
        raise
    return await check_posted(transfers, rows[0][0])


def _transfer_columns(transfers: Sequence[TransferInput]) -> list[str]:
    return [
        array_text([transfer.id for transfer in transfers]),
        array_text([transfer.idempotency_key for transfer in transfers]),
        array_text([rules.input_hash(transfer) for transfer in transfers]),
        array_text([transfer.kind for transfer in transfers]),
        array_text([transfer.region for transfer in transfers]),
        array_text([_text(transfer.order_id) for transfer in transfers]),
        array_text([transfer.our_no for transfer in transfers]),
        array_text([transfer.channel_no for transfer in transfers]),
        array_text([moment_text(transfer.occurred_at) for transfer in transfers]),
    ]


def _text(order_id: UUID | None) -> str | None:
    return None if order_id is None else str(order_id)


def _leg_columns(transfers: Sequence[TransferInput], now: datetime) -> list[str]:
    legs = [(transfer.id, leg) for transfer in transfers for leg in transfer.legs]
    return [
        array_text(ids.row_id_texts(now, len(legs))),
        array_text([transfer_id for transfer_id, _ in legs]),
        array_text([leg.account for _, leg in legs]),
        array_text([str(leg.debit_fen) for _, leg in legs]),
        array_text([str(leg.credit_fen) for _, leg in legs]),
    ]


async def _with_replays(transfers: Sequence[TransferInput], posted: frozenset[str]) -> list[str]:
    standing = await queries.transfers_by_key([transfer.idempotency_key for transfer in transfers])
    found = []
    for transfer in transfers:
        known = standing[transfer.idempotency_key]
        if known.input_hash != rules.input_hash(transfer):
            raise LedgerConflict(transfer.idempotency_key)
        found.append(transfer.id if transfer.id in posted else str(known.id))
    return found
