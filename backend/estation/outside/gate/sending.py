"""How rows leave: waiting rows become sealed packets, packets become files.

The packet is committed byte for byte together with its position and only then written as a
file, so a file exists for committed positions only, and one lost to a crash (or asked for
again) is written anew from the table, the same to the last bit.
"""

import asyncio
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import bounds as limits
from estation.outside.gate import exact, folders, logtrees, rows, sentlog, snapshots, upkeep
from estation.outside.gate import format as packets
from estation.outside.gate.bounds import Bounds, Pause
from estation.outside.gate.keys import SealKey
from estation.outside.gate.logtrees import LogTrees
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

HEARTBEAT = timedelta(seconds=10)
MAX_PACKETS_PER_CALL = 20
MAX_WRITES_PER_CALL = 200
PACK_BYTES = packets.FREE_LINES_BYTES
KEEP_PACKETS = 1000
_TRIM_EVERY = 100
_TRIM_PACKETS = 500
_EXACT_TRIES = 3
TALK = ("received_up_to",)
"""Reports about the opposite stream: they leave even when nothing else may, or two sides that
wait for each other's word would wait for ever."""


async def put_rows(
    stream: str, topic: str, rows_to_send: Sequence[Struct], *, now: datetime
) -> None:
    """Queue rows in the caller's transaction; they cross exactly when it commits, in this order.

    Raises rows.BadRow for a row the peer would refuse, ValueError for an impossible stream
    name: better this transaction fails than the stream stops.
    """
    if not packets.valid_stream(stream):
        raise ValueError(f"not a stream name: {stream!r}")
    bodies = [rows.encode_row(topic, row) for row in rows_to_send]
    if any(len(packets.line(topic, body)) > packets.MAX_LINE_BYTES // 2 for body in bodies):
        raise rows.BadRow("row too long")
    if not bodies:
        return
    await sentlog.queue_and_keep(stream, topic, rows_to_send, bodies, now=now)


async def pack_waiting(
    stream: str,
    *,
    folder: Path | None,
    key: SealKey,
    max_rows: int = 5000,
    now: datetime,
    heartbeat: bool = False,
    heartbeat_after: timedelta = HEARTBEAT,
    bounds: Bounds = limits.DEFAULT,
) -> list[int]:
    """Make packets of what waits and write them into `folder` (`outgoing/`); their seqs.

    Without a folder they are only made, for when it fails and there are other destinations.
    An empty packet carries the watermark when nothing left for `heartbeat_after`, or at once
    with `heartbeat`. First of all, packets a crash kept from the folder are written. At most
    MAX_PACKETS_PER_CALL packets; call again for more. Safe to run twice at once. Raises
    OSError when the folder cannot be written: nothing is lost, the next call goes on. Packs
    nothing while the disk is nearly full, and only reports while too much is unconfirmed
    (`bounds.Pause`), but for a snapshot that may heal it; both end by themselves.
    """
    if folder and await asyncio.to_thread(limits.free_bytes, folder) < bounds.disk_reserve:
        await upkeep.ensure(_db(), stream)
        await limits.note_pause(stream, Pause.disk_low, now=now)
        return []
    try:
        return await _pack_in_bounds(
            stream,
            folder=folder,
            key=key,
            max_rows=min(max_rows, packets.MAX_ROWS),
            now=now,
            due=lambda packed: (
                now - (timedelta(0) if heartbeat and not packed else heartbeat_after)
            ),
            bounds=bounds,
        )
    except OSError as problem:
        if limits.is_full(problem):
            await limits.note_pause(stream, Pause.disk_low, now=now)
        raise


async def _pack_in_bounds(
    stream: str,
    *,
    folder: Path | None,
    key: SealKey,
    max_rows: int,
    now: datetime,
    due: Callable[[list[int]], datetime],
    bounds: Bounds,
) -> list[int]:
    await _write_if_possible(stream, folder)
    packed: list[int] = []
    pause: Pause | None = None
    maker = logtrees.Maker(stream)
    left = MAX_PACKETS_PER_CALL
    try:
        while left > 0:
            work = await _work(stream, due(packed), now)
            if not work.is_any:
                break
            pause = Pause.unconfirmed if await limits.beyond(_db(), stream, bounds) else None
            only_talk = pause is not None and not await limits.lets_snapshot_through(
                _db(), stream, bounds
            )
            order = _Order(key, max_rows, now, due(packed), only_talk=only_talk)
            wants_trees = work.is_exact and not only_talk
            trees = await maker.wanted() if wants_trees else None
            seq = await _pack_exactly(stream, order, trees) if trees else None
            if seq is None:
                seq = await _pack_one(stream, order)
            if seq is not None:
                packed.append(seq)
                # What waits leaves while trees are made, and takes no place from their packet.
                left -= not maker.is_at_work
                await _write_if_possible(stream, folder)
                if seq % _TRIM_EVERY == 0:
                    await trim_sent(stream)
            elif trees or not wants_trees:
                break
            else:
                await maker.wait()
    finally:
        await maker.stop()
    if packed or pause:
        await limits.note_pause(stream, pause, now=now)
    return packed


async def _write_if_possible(stream: str, folder: Path | None) -> None:
    if folder is not None:
        await write_missing(stream, folder=folder)


async def write_missing(stream: str, *, folder: Path) -> int:
    """Write the files of committed packets that are not in `folder` yet; how many."""
    written = 0
    while written < MAX_WRITES_PER_CALL and await _write_next(stream, folder):
        written += 1
    return written


async def write_again(stream: str, *, folder: Path, first: int, last: int) -> list[int]:
    """Put packets first..last (at most MAX_WRITES_PER_CALL) into `folder` once more.

    Returns the seqs written; those no longer kept are missing from it.
    """
    written = []
    async with in_transaction() as tx:
        head = await tx.execute_query_dict(
            "select written_seq from gate_outgoing_stream where stream = $1 for update", [stream]
        )
        last = min(last, first + MAX_WRITES_PER_CALL - 1, head[0]["written_seq"] if head else 0)
        for seq in range(first, last + 1):
            if await _write_file(tx, stream, seq, folder):
                written.append(seq)
    return written


async def trim_sent(stream: str, *, keep: int = KEEP_PACKETS) -> int:
    """Forget old packets and their rows, some hundred per call; how many packets.

    Only what the peer has reported as received and is not among the newest `keep`: what was
    never confirmed is never forgotten.
    """
    async with in_transaction() as tx:
        gone = await tx.execute_query_dict(
            """delete from gate_outgoing_packet where stream = $1 and seq in (
                 select seq from gate_outgoing_packet join gate_outgoing_stream using (stream)
                 where stream = $1 and seq <= least(peer_received_seq, last_seq - $2)
                 order by seq limit $3)
               returning seq""",
            [stream, keep, _TRIM_PACKETS],
        )
        if gone:
            await tx.execute_query(
                """delete from gate_outgoing_row
                   where stream = $1 and packed_seq = any($2::bigint[])""",
                [stream, [row["seq"] for row in gone]],
            )
    return len(gone)


@dataclass(frozen=True, slots=True)
class _Work:
    """What there is to pack: something at all, and something that must fit its place exactly."""

    is_any: bool
    is_exact: bool


async def _work(stream: str, due: datetime, now: datetime) -> _Work:
    """Looks without locking, so that an idle worker costs one small query."""
    found = await _db().execute_query_dict(
        """select exists (select from gate_outgoing_row where stream = $1 and packed_seq is null)
             or not exists (select from gate_outgoing_stream
                            where stream = $1 and packed_at > $2 and packed_at <= $3)
             or exists (select from gate_snapshot
                        where stream = $1 and state in ('planned', 'running')) as some,
           exists (select from gate_upkeep u where stream = $1 and backfill_id is null and (
             proof_is_due
             or exists (select from gate_repair r where r.stream = $1 and r.done_at is null)
             or exists (select from gate_snapshot n where n.stream = $1
                        and n.state = 'running' and n.is_exhausted))) as exact""",
        [stream, due, now],
    )
    return _Work(found[0]["some"] or found[0]["exact"], found[0]["exact"])


@dataclass(frozen=True, slots=True)
class _Order:
    """How the next packet is to be made."""

    key: SealKey
    max_rows: int
    now: datetime
    due: datetime
    only_talk: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The rows of the next packet, and since when the first one left out has waited.

    `loose_ids`: those of them that are in no log, or of which this program cannot tell.
    """

    row_ids: list[int]
    loose_ids: list[int]
    lines: list[bytes]
    next_created_at: datetime | None
    is_content: bool


async def _pack_one(stream: str, order: _Order) -> int | None:
    """What waits, and behind it as much of a snapshot as fits."""
    async with in_transaction() as tx:
        head = await _lock_stream(tx, stream)
        in_flight = await _oldest_change_in_flight(tx)
        waiting = await _take_waiting(tx, stream, order.max_rows, only_talk=order.only_talk)
        more: list[bytes] = []
        if not order.only_talk and waiting.next_created_at is None:
            more = await snapshots.next_piece(
                tx,
                stream,
                head["last_seq"] + 1,
                max_rows=order.max_rows - len(waiting.lines),
                max_bytes=PACK_BYTES - sum(map(len, waiting.lines)),
                now=order.now,
            )
        if not waiting.lines and not more and _is_recent(head, order):
            return None
        return await _seal(tx, stream, head, in_flight, waiting, more, order)


async def _pack_exactly(stream: str, order: _Order, trees: LogTrees) -> int | None:
    """A packet after which the peer holds exactly what the log says, proofs and repairs in it.

    Everything is read in one snapshot of the database, and all that waits in it is packed. None
    when it does not fit into one packet: then what waits goes first, the rest later.
    """
    for _ in range(_EXACT_TRIES):
        try:
            in_flight = await _oldest_change_in_flight(_db())  # before the snapshot is taken
            async with in_transaction() as tx:
                await tx.execute_query("set transaction isolation level repeatable read")
                head = await _lock_stream(tx, stream)
                max_rows = min(order.max_rows, packets.MAX_ROWS - exact.MAX_LINES)
                waiting = await _take_waiting(tx, stream, max_rows)
                room = PACK_BYTES - sum(map(len, waiting.lines))
                if waiting.next_created_at is not None or room < exact.MIN_ROOM:
                    return None
                more = await exact.lines(
                    tx, stream, head["last_seq"] + 1, trees, max_bytes=room, now=order.now
                )
                if not more and not waiting.lines:
                    return None
                return await _seal(tx, stream, head, in_flight, waiting, more, order)
        except Exception as failure:
            # Somebody changed the stream's row between our snapshot and our lock: look again.
            if not _could_not_serialise(failure):
                raise
    return None


def _could_not_serialise(failure: BaseException) -> bool:
    return "40001" in {
        getattr(one, "sqlstate", "") for one in (failure, failure.__cause__, *failure.args)
    }


def _is_recent(head: dict[str, Any], order: _Order) -> bool:
    """A packet of the future was made when the clock was wrong."""
    return head["packed_at"] is not None and order.due < head["packed_at"] <= order.now


async def _seal(
    tx: BaseDBAsyncClient,
    stream: str,
    head: dict[str, Any],
    in_flight: timedelta,
    waiting: _Waiting,
    more: list[bytes],
    order: _Order,
) -> int:
    seq: int = head["last_seq"] + 1
    watermark = _watermark(
        order.now, in_flight, before=head["watermark"], next_waiting=waiting.next_created_at
    )
    built = await asyncio.to_thread(
        packets.build,
        stream=stream,
        seq=seq,
        previous=head["last_digest"],
        lines=[*waiting.lines, *more],
        watermark=watermark,
        created_at=order.now,
        key=order.key,
    )
    content = waiting.is_content or bool(more)
    await _record(
        tx, stream, seq, built, waiting, watermark, order.now,
        rows=len(waiting.lines) + len(more), content=content,
    )  # fmt: skip
    await _take_out(tx, seq, waiting, keep_all=head["log_lacks_rows"])
    log.info("gate_packed", stream=stream, seq=seq, rows=len(waiting.lines) + len(more))
    return seq


async def _lock_stream(tx: BaseDBAsyncClient, stream: str) -> dict[str, Any]:
    await tx.execute_query(
        """insert into gate_outgoing_stream
           (stream, last_seq, last_digest, written_seq, peer_received_seq, peer_trouble)
           values ($1, 0, $2, 0, 0, '') on conflict do nothing""",
        [stream, packets.NO_PREVIOUS],
    )
    await upkeep.ensure(tx, stream)
    rows_found = await tx.execute_query_dict(
        """select last_seq, last_digest, watermark, packed_at, written_seq,
                  (select backfill_id is not null from gate_upkeep u where u.stream = s.stream)
                    as log_lacks_rows
           from gate_outgoing_stream s where stream = $1 for update""",
        [stream],
    )
    return dict(rows_found[0])


async def _oldest_change_in_flight(tx: BaseDBAsyncClient) -> timedelta:
    """Age of the oldest open transaction that has written something.

    Asked before the rows are read: whatever those do not show yet is at least this young.
    """
    found = await tx.execute_query_dict(
        """select coalesce(max(clock_timestamp() - xact_start), interval '0') as age
           from pg_stat_activity
           where datname = current_database() and backend_type = 'client backend'
             and backend_xid is not null and pid <> pg_backend_pid()"""
    )
    age: timedelta = found[0]["age"]
    return max(age, timedelta(0))


async def _take_waiting(
    tx: BaseDBAsyncClient, stream: str, max_rows: int, *, only_talk: bool = False
) -> _Waiting:
    """By id, as many as fit. One transaction's rows keep their order; so do changes of one
    thing, because whoever changes it holds its row lock until the commit."""
    await tx.execute_query(_IN_ORDER.format(way="off"))
    _, found = await tx.execute_query(
        """select id, topic, body, is_canonical, created_at from (
             select *, sum(size) over (order by id rows unbounded preceding) - size as before
             from (select id, topic, body, is_canonical, created_at, octet_length(body) as size
                   from gate_outgoing_row
                   where stream = $1 and packed_seq is null
                     and (not $4 or topic = any($5::text[]))
                   order by id limit $2) as next_rows
           ) as sized where before <= $3 order by id""",
        [stream, max_rows + 1, PACK_BYTES, only_talk, list(TALK)],
    )
    await tx.execute_query(_IN_ORDER.format(way="on"))
    left = await _oldest_left(tx, stream) if only_talk else None
    return await asyncio.to_thread(_fitting, found, max_rows, left)


_IN_ORDER = """
select set_config('enable_sort', '{way}', true), set_config('enable_bitmapscan', '{way}', true),
       set_config('enable_seqscan', '{way}', true)
"""
"""Of a table that is mostly empty the planner believes that few rows wait, and would read and sort
all that wait, bodies and all, for each packet. The index has them in order."""


def _fitting(found: Sequence[Mapping[str, Any]], max_rows: int, left: datetime | None) -> _Waiting:
    row_ids: list[int] = []
    loose_ids: list[int] = []
    lines: list[bytes] = []
    loose = rows.loose_topics()
    size = 0
    is_content = False
    for row_id, topic, body, is_canonical, created_at in map(_VALUES, found):
        stored = body.encode()
        line = packets.line(topic, stored if is_canonical else rows.respelt(topic, stored))
        size += max(len(line), len(stored)) + 1
        if len(lines) == max_rows or size > PACK_BYTES:
            return _Waiting(row_ids, loose_ids, lines, left or created_at, is_content)
        row_ids.append(row_id)
        if topic in loose or topic not in rows.TOPICS:
            loose_ids.append(row_id)
        lines.append(line)
        is_content = is_content or topic not in TALK
    return _Waiting(row_ids, loose_ids, lines, left, is_content)


_VALUES = operator.itemgetter("id", "topic", "body", "is_canonical", "created_at")


async def _oldest_left(tx: BaseDBAsyncClient, stream: str) -> datetime | None:
    """Since when rows have waited that may not leave: no watermark goes beyond them."""
    found = await tx.execute_query_dict(
        """select min(created_at) as at from gate_outgoing_row
           where stream = $1 and packed_seq is null and topic <> all($2::text[])""",
        [stream, list(TALK)],
    )
    at: datetime | None = found[0]["at"]
    return at


def _watermark(
    now: datetime,
    in_flight: timedelta,
    *,
    before: datetime | None,
    next_waiting: datetime | None,
) -> datetime:
    """Everything that happened up to this moment is in this packet or an earlier one.

    It does not go back, unless the clock itself was ahead.
    """
    complete = now - in_flight
    if next_waiting is not None:
        complete = min(complete, next_waiting)
    return min(now, max(complete, before)) if before is not None else complete


async def _record(
    tx: BaseDBAsyncClient,
    stream: str,
    seq: int,
    built: packets.Built,
    waiting: _Waiting,
    watermark: datetime,
    now: datetime,
    *,
    rows: int,
    content: bool,
) -> None:
    await tx.execute_query(
        """insert into gate_outgoing_packet
           (id, stream, seq, digest, rows, manifest, body, created_at, bytes_upto, contents_upto,
            waited)
           select $1, $2::varchar, $3::bigint, $4, $5, $6, $7, $8,
                  coalesce(max(bytes_upto), 0) + $9, coalesce(max(contents_upto), 0) + $10::int,
                  $11::int
           from gate_outgoing_packet where stream = $2::varchar and seq = $3::bigint - 1""",
        [
            ids.row_id(now),
            stream,
            seq,
            built.digest,
            rows,
            built.manifest,
            built.body,
            now,
            len(built.body),
            int(content),
            len(waiting.row_ids),
        ],
    )
    await tx.execute_query(
        """update gate_outgoing_stream
           set last_seq = $2, last_digest = $3, watermark = $4, packed_at = $5
           where stream = $1""",
        [stream, seq, built.digest, watermark, now],
    )


async def _take_out(tx: BaseDBAsyncClient, seq: int, waiting: _Waiting, *, keep_all: bool) -> None:
    """They wait no more: their packet holds them, byte for byte.

    Rows that a later snapshot must be able to bring again (`loose`) stay with the packet's number
    until it is confirmed, and so do all while the sent log lacks some of before its time.
    """
    kept = waiting.row_ids if keep_all else waiting.loose_ids
    if kept:
        await tx.execute_query(
            "update gate_outgoing_row set packed_seq = $1 where id = any($2::bigint[])",
            [seq, kept],
        )
    if len(kept) < len(waiting.row_ids):
        await tx.execute_query(
            "delete from gate_outgoing_row where id = any($1::bigint[]) and packed_seq is null",
            [waiting.row_ids],
        )


async def _write_next(stream: str, folder: Path) -> bool:
    """Packets the peer got another way, and we have forgotten since, are passed over."""
    async with in_transaction() as tx:
        # The lock keeps two workers from writing the same temporary file.
        found = await tx.execute_query_dict(
            """select s.written_seq, (select min(p.seq) from gate_outgoing_packet p
                                      where p.stream = $1 and p.seq > s.written_seq) as seq
               from gate_outgoing_stream s where s.stream = $1 for update""",
            [stream],
        )
        if not found or found[0]["seq"] is None:
            return False
        seq, before = found[0]["seq"], found[0]["written_seq"]
        if not await _write_file(tx, stream, seq, folder):
            return False
        if seq > before + 1:
            log.warning("gate_passed_over", stream=stream, first=before + 1, last=seq - 1)
        await tx.execute_query(
            "update gate_outgoing_stream set written_seq = $2 where stream = $1", [stream, seq]
        )
    return True


async def _write_file(tx: BaseDBAsyncClient, stream: str, seq: int, folder: Path) -> bool:
    """False when the packet is not kept (not yet made, or forgotten)."""
    found = await tx.execute_query_dict(
        "select manifest, body from gate_outgoing_packet where stream = $1 and seq = $2",
        [stream, seq],
    )
    if not found:
        return False
    parts = [found[0]["manifest"], b"\n", found[0]["body"]]
    name = packets.file_name(stream, seq)
    await asyncio.to_thread(folders.write_atomically, folder, name, parts)
    return True


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
