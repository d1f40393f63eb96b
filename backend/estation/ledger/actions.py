"""Posting: the only way money enters the books."""

from collections.abc import Sequence
from datetime import datetime

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger import queries, rules
from estation.ledger.errors import LedgerConflict
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
    transaction may be committed. Raises NotATransfer before anything is written.
    """
    if not transfers:
        return []
    db = db or Tortoise.get_connection("default")
    for transfer in transfers:
        rules.check(transfer)
    hashes = [rules.input_hash(transfer) for transfer in transfers]
    rows = await db.execute_query_dict(
        _POST, [_transfers_json(transfers, hashes), _legs_json(transfers, now), now, len(transfers)]
    )
    if rows[0]["is_all"]:
        return [transfer.id for transfer in transfers]
    return await _with_replays(transfers, hashes, set(rows[0]["ids"] or ()))


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
