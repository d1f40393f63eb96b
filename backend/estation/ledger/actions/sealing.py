"""Sealing: committed transfers are chained into blocks per book, off the hot path.

What is new is found by the database's own order of transactions, see `_horizon` and DECISIONS 17:
a transfer is in no block until it is in exactly one, however late its transaction commits.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger import queries, rules
from estation.ledger.queries import POSTED, posted
from estation.ledger.rules import Block, PostedTransfer
from estation.shared.jsonb import jsonb_text
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

PASS_TRANSFERS = 2000
PASSES = 50
_SEALING = 0x65737463
"""Advisory lock: one sealer at a time. The horizon is one for all books, so is the lock."""

_UNSEALED = f"""
select {POSTED}, t.posted_xid::text as posted_xid from ledger_transfer t
where t.posted_xid >= $1::text::xid8
  and (select s.block_id from ledger_sealed_transfer s where s.transfer_id = t.id limit 1) is null
order by t.posted_xid, t.id limit $2
"""  # noqa: S608  (our own constants)
# A scalar subquery, not `not exists`: the planner would hash the whole table of sealed transfers
# to look up a few.

_SEAL = """
with blocks as (
    insert into ledger_block (book, height, first_transfer_id, last_transfer_id, transfer_count,
                              debit_fen, root, previous_digest, digest, sealed_at, floor_xid)
    select book, height, first_transfer_id, last_transfer_id, transfer_count, debit_fen, root,
           previous_digest, digest, sealed_at, $3::text::xid8
    from json_to_recordset($1::json) as b(
        book text, height int, first_transfer_id uuid, last_transfer_id uuid, transfer_count int,
        debit_fen bigint, root text, previous_digest text, digest text, sealed_at timestamptz)
    order by book
    returning id, book
)
insert into ledger_sealed_transfer (transfer_id, block_id, position, digest)
select m.transfer_id, blocks.id, m.position, decode(m.digest, 'hex')
from json_to_recordset($2::json) as m(transfer_id uuid, book text, position int, digest text)
join blocks on blocks.book = m.book
"""

_LIST_HOLDS = """
with listed as (
    insert into ledger_open_hold (transfer_id, order_id, order_no, occurred_at)
    select t.id, t.order_id, t.our_no, t.occurred_at from ledger_transfer t
    where t.id = any($1::uuid[])
      and (select r.id from ledger_transfer r where r.reverses_id = t.id) is null
    on conflict do nothing
)
delete from ledger_open_hold where transfer_id = any($2::uuid[])
"""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one call put into blocks."""

    blocks: int = 0
    transfers: int = 0


async def seal(now: datetime) -> Sealed | None:
    """Chain all committed transfers that are in no block yet; None while another sealer works.

    One transaction per PASS_TRANSFERS; after PASSES of them the rest waits for the next call.
    """
    blocks = transfers = 0
    for _ in range(PASSES):
        done = await _seal_once(now)
        if done is None:
            return None
        blocks, transfers = blocks + done.blocks, transfers + done.transfers
        if done.transfers < PASS_TRANSFERS:
            break
    return Sealed(blocks, transfers)


async def _seal_once(now: datetime) -> Sealed | None:
    async with in_transaction() as db:
        got = await db.execute_query_dict("select pg_try_advisory_xact_lock($1) as got", [_SEALING])
        if not got[0]["got"]:
            return None
        horizon = await _horizon(db)
        rows = await db.execute_query_dict(_UNSEALED, [str(horizon.floor), PASS_TRANSFERS])
        if not rows:
            return Sealed()
        floor = rules.sealed_floor(
            oldest_running=horizon.oldest_running,
            last_taken=int(rows[-1]["posted_xid"]) if len(rows) == PASS_TRANSFERS else None,
        )
        books = await _write(db, [posted(row) for row in rows], floor=floor, now=now)
        return Sealed(books, len(rows))


@dataclass(frozen=True, slots=True)
class _Horizon:
    """Transaction numbers: all unsealed transfers are at or above `floor`; all transactions below
    `oldest_running` have ended."""

    floor: int
    oldest_running: int


async def _horizon(db: BaseDBAsyncClient) -> _Horizon:
    """Read before the transfers are: whatever ended by now, the next statement sees.

    A database restored from a dump counts its transactions anew; then everything is looked
    through once, for a number from before says nothing.
    """
    rows = await db.execute_query_dict(
        """select pg_snapshot_xmin(now.snapshot)::text as oldest,
                  coalesce(b.floor_xid, '0'::xid8)::text as floor,
                  coalesce(b.floor_xid > pg_snapshot_xmax(now.snapshot), false) as is_ahead
           from (select pg_current_snapshot() as snapshot) now
           left join (select floor_xid from ledger_block order by id desc limit 1) b on true"""
    )
    floor, oldest = int(rows[0]["floor"]), int(rows[0]["oldest"])
    if rows[0]["is_ahead"]:
        log.warning("ledger_transactions_counted_anew", floor=floor, oldest_running=oldest)
        await db.execute_query("set local statement_timeout = '30min'")
        floor = 0
    return _Horizon(floor, oldest)


async def _write(
    db: BaseDBAsyncClient, transfers: Sequence[PostedTransfer], *, floor: int, now: datetime
) -> int:
    """One block per book; how many."""
    by_book: dict[str, list[PostedTransfer]] = defaultdict(list)
    for transfer in transfers:
        by_book[transfer.region].append(transfer)
    tops = await queries.tops_of(db, list(by_book))
    blocks: list[dict[str, Any]] = []
    members: list[dict[str, Any]] = []
    for book, those in by_book.items():
        height, previous = tops.get(book, (0, rules.GENESIS))
        digests = [rules.transfer_digest(transfer) for transfer in those]
        block = Block(
            book=book,
            height=height + 1,
            first_transfer_id=those[0].id,
            last_transfer_id=those[-1].id,
            transfer_count=len(those),
            debit_fen=sum(transfer.debit_fen for transfer in those),
            root=rules.merkle_root(digests),
            previous_digest=previous,
            sealed_at=now,
        )
        said = {name: getattr(block, name) for name in Block.__struct_fields__}
        blocks.append({**said, "digest": rules.block_digest(block)})
        members += [
            {"transfer_id": transfer.id, "book": book, "position": at, "digest": digest.hex()}
            for at, (transfer, digest) in enumerate(zip(those, digests, strict=True))
        ]
    await db.execute_query_dict(
        _SEAL + " returning 1", [jsonb_text(blocks), jsonb_text(members), str(floor)]
    )
    await _list_holds(db, transfers)
    return len(blocks)


async def _list_holds(db: BaseDBAsyncClient, transfers: Sequence[PostedTransfer]) -> None:
    """Keep the list of unreleased holds: every transfer passes here exactly once."""
    holds = [transfer.id for transfer in transfers if transfer.kind == rules.HOLD_KIND]
    undone = [transfer.reverses_id for transfer in transfers if transfer.reverses_id]
    if holds or undone:
        await db.execute_query_dict(_LIST_HOLDS + " returning 1", [holds, undone])
