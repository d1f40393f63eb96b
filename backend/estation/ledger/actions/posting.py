"""Posting: the only way money enters the books."""

from collections.abc import Sequence
from datetime import datetime

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError

from estation.ledger import queries, rules
from estation.ledger.errors import AlreadyReversed, LedgerConflict, NoSuchTransfer
from estation.ledger.rules import TransferInput
from estation.shared import ids
from estation.shared.jsonb import jsonb_text

_POST = """
with posted as (
    insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, order_id, our_no,
                                 channel_no, occurred_at, posted_at)
    select id, key, hash, kind, region, order_id, our_no, channel_no, occurred_at, $3::timestamptz
    from json_to_recordset($1::json) as t(
        id uuid, key text, hash text, kind text, region text, order_id uuid, our_no text,
        channel_no text, occurred_at timestamptz)
    order by key
    on conflict (idempotency_key) do nothing
    returning id
), legs as (
    insert into ledger_entry (id, transfer_id, account, debit_fen, credit_fen)
    select e.id, e.transfer_id, e.account, e.debit, e.credit
    from json_to_recordset($2::json) as e(
        id uuid, transfer_id uuid, account text, debit bigint, credit bigint)
    join posted on posted.id = e.transfer_id
)
select count(*) = $4 as is_all,
       case when count(*) <> $4 then array_agg(id::text) end as ids
from posted
"""
_POST_UNDOING = (
    _POST.replace("occurred_at, posted_at)", "occurred_at, posted_at, reverses_id)")
    .replace("occurred_at, $3::timestamptz", "occurred_at, $3::timestamptz, reverses_id")
    .replace("occurred_at timestamptz)", "occurred_at timestamptz, reverses_id uuid)")
)
"""The same with one column more: what undoes nothing does not carry it."""
# Rows travel as one JSON text each way in: encoding arrays element by element cost more in
# Python than all the rest of settling.


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
    rows = await db.execute_query_dict(
        statement,
        [_transfers_json(transfers, hashes), _legs_json(transfers, now), now, len(transfers)],
    )
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


def _transfers_json(transfers: Sequence[TransferInput], hashes: list[str]) -> str:
    return jsonb_text(
        [
            {
                "id": transfer.id,
                "key": transfer.idempotency_key,
                "hash": input_hash,
                "kind": transfer.kind,
                "region": transfer.region,
                "order_id": transfer.order_id,
                "our_no": transfer.our_no,
                "channel_no": transfer.channel_no,
                "occurred_at": transfer.occurred_at,
                **({"reverses_id": transfer.reverses_id} if transfer.reverses_id else {}),
            }
            for transfer, input_hash in zip(transfers, hashes, strict=True)
        ]
    )


def _legs_json(transfers: Sequence[TransferInput], now: datetime) -> str:
    legs = [(transfer.id, leg) for transfer in transfers for leg in transfer.legs]
    entry_ids = ids.row_id_texts(now, len(legs))
    return jsonb_text(
        [
            {
                "id": entry_id,
                "transfer_id": transfer_id,
                "account": leg.account,
                "debit": leg.debit_fen,
                "credit": leg.credit_fen,
            }
            for entry_id, (transfer_id, leg) in zip(entry_ids, legs, strict=True)
        ]
    )


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
