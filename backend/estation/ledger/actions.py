"""Posting: the only way money enters the books."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger import queries, rules
from estation.ledger.errors import LedgerConflict
from estation.ledger.rules import TransferInput

_POST = """
with input as (
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::uuid[],
                         $7::text[], $8::text[], $9::timestamptz[])
        as t(id, key, hash, kind, region, order_id, our_no, channel_no, occurred_at)
), posted as (
    insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, order_id, our_no,
                                 channel_no, occurred_at, posted_at)
    select id, key, hash, kind, region, order_id, our_no, channel_no, occurred_at,
           $10::timestamptz
    from input order by key
    on conflict (idempotency_key) do nothing
    returning id
), legs as (
    insert into ledger_entry (id, transfer_id, account, debit_fen, credit_fen)
    select e.id, e.transfer_id, e.account, e.debit_fen, e.credit_fen
    from unnest($11::uuid[], $12::uuid[], $13::text[], $14::bigint[], $15::bigint[])
        as e(id, transfer_id, account, debit_fen, credit_fen)
    join posted on posted.id = e.transfer_id
)
select id from posted
"""


async def post_many(
    transfers: Sequence[TransferInput],
    *,
    now: datetime,
    db: BaseDBAsyncClient | None = None,
) -> list[UUID]:
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
    rows = await db.execute_query_dict(_POST, _columns(transfers, hashes, now))
    posted = {row["id"] for row in rows}
    if len(posted) == len(transfers):
        return [transfer.id for transfer in transfers]
    return await _with_replays(transfers, hashes, posted)


def _columns(transfers: Sequence[TransferInput], hashes: list[str], now: datetime) -> list[object]:
    legs = [
        (UUID(int=transfer.id.int ^ number), transfer.id, leg)
        for transfer in transfers
        for number, leg in enumerate(transfer.legs, start=1)
    ]
    return [
        [transfer.id for transfer in transfers],
        [transfer.idempotency_key for transfer in transfers],
        hashes,
        [transfer.kind for transfer in transfers],
        [transfer.region for transfer in transfers],
        [transfer.order_id for transfer in transfers],
        [transfer.our_no for transfer in transfers],
        [transfer.channel_no for transfer in transfers],
        [transfer.occurred_at for transfer in transfers],
        now,
        [entry_id for entry_id, _, _ in legs],
        [transfer_id for _, transfer_id, _ in legs],
        [leg.account for _, _, leg in legs],
        [leg.debit_fen for _, _, leg in legs],
        [leg.credit_fen for _, _, leg in legs],
    ]


async def _with_replays(
    transfers: Sequence[TransferInput], hashes: list[str], posted: set[UUID]
) -> list[UUID]:
    standing = await queries.transfers_by_key([transfer.idempotency_key for transfer in transfers])
    ids = []
    for transfer, input_hash in zip(transfers, hashes, strict=True):
        known = standing[transfer.idempotency_key]
        if known.input_hash != input_hash:
            raise LedgerConflict(transfer.idempotency_key)
        ids.append(transfer.id if transfer.id in posted else known.id)
    return ids
