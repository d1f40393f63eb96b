"""Posting: the only way money enters the books."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError

from estation.ledger import queries, rules
from estation.ledger.errors import AlreadyReversed, LedgerConflict, NoSuchTransfer
from estation.ledger.rules import TransferInput
from estation.shared import ids
from estation.shared.columns import array_text

_POST = """
with posted as (
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
)
select count(*) = $2 as is_all,
       case when count(*) <> $2 then array_agg(id::text) end as ids
from posted
"""
_POST_UNDOING = (
    _POST.replace("occurred_at, posted_at)", "occurred_at, posted_at, reverses_id)")
    .replace("occurred_at, $1::timestamptz", "occurred_at, $1::timestamptz, reverses_id")
    .replace("$11::text::timestamptz[])", "$11::text::timestamptz[], $17::text::uuid[])")
    .replace(
        "channel_no, occurred_at)\n    order", "channel_no, occurred_at, reverses_id)\n    order"
    )
)
"""The same with one column more: what undoes nothing does not carry it."""


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
    for transfer in transfers:
        rules.check(transfer)
    hashes = [rules.input_hash(transfer) for transfer in transfers]
    undoing = [transfer for transfer in transfers if transfer.reverses_id is not None]
    posted = (
        await _post_undoing(db, transfers, undoing, hashes, now)
        if undoing
        else await _post(db, _POST, transfers, hashes, now)
    )
    if posted is None:
        return [transfer.id for transfer in transfers]
    return await _with_replays(transfers, hashes, posted)


async def _post(
    db: BaseDBAsyncClient,
    statement: str,
    transfers: Sequence[TransferInput],
    hashes: list[str],
    now: datetime,
) -> set[str] | None:
    """The ids that were new; None when all were."""
    arguments: list[Any] = [
        now,
        len(transfers),
        *_transfer_columns(transfers, hashes),
        *_leg_columns(transfers, now),
    ]
    if statement is _POST_UNDOING:
        arguments.append(array_text([transfer.reverses_id for transfer in transfers]))
    rows = await db.execute_query_dict(statement, arguments)
    return None if rows[0]["is_all"] else set(rows[0]["ids"] or ())


async def _post_undoing(
    db: BaseDBAsyncClient,
    transfers: Sequence[TransferInput],
    undoing: Sequence[TransferInput],
    hashes: list[str],
    now: datetime,
) -> set[str] | None:
    """The original must stand; the unique index on `reverses_id` has the last word."""
    standing = await queries.posted_transfers([str(one.reverses_id) for one in undoing])
    for transfer in undoing:
        original = standing.get(str(transfer.reverses_id))
        if original is None:
            raise NoSuchTransfer(str(transfer.reverses_id))
        rules.check_mirror(original, transfer)
    try:
        return await _post(db, _POST_UNDOING, transfers, hashes, now)
    except IntegrityError as failure:
        if "uq_ledger_transfer_reverses" in str(failure):
            raise AlreadyReversed(str([one.reverses_id for one in undoing])) from failure
        raise


def _transfer_columns(transfers: Sequence[TransferInput], hashes: list[str]) -> list[str]:
    return [
        array_text([transfer.id for transfer in transfers]),
        array_text([transfer.idempotency_key for transfer in transfers]),
        array_text(hashes),
        array_text([transfer.kind for transfer in transfers]),
        array_text([transfer.region for transfer in transfers]),
        array_text([_text(transfer.order_id) for transfer in transfers]),
        array_text([transfer.our_no for transfer in transfers]),
        array_text([transfer.channel_no for transfer in transfers]),
        array_text([transfer.occurred_at.isoformat() for transfer in transfers]),
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


async def _with_replays(
    transfers: Sequence[TransferInput], hashes: list[str], posted: set[str]
) -> list[str]:
    standing = await queries.transfers_by_key([transfer.idempotency_key for transfer in transfers])
    found = []
    for transfer, input_hash in zip(transfers, hashes, strict=True):
        known = standing[transfer.idempotency_key]
        if known.input_hash != input_hash:
            raise LedgerConflict(transfer.idempotency_key)
        found.append(transfer.id if transfer.id in posted else str(known.id))
    return found
