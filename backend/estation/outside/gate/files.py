"""What a topic that carries files needs beside its schema: its handler gives each part to `take`,
and `look_after` runs now and then."""

import asyncio
from datetime import datetime
from pathlib import Path

import structlog
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import format as packets
from estation.outside.gate import positions, rows, shortage
from estation.outside.gate.arriving import Arrival, Handler
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.events import MAX_NAMED, Alarm, Finding, raise_finding
from estation.outside.gate.shortage import Where
from estation.outside.gate.spool import Overdue, Part, Spool, SpoolFull
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

MAX_KEPT_BACK_BYTES = 2 * 1024 * 1024 * 1024
"""Of parts without room, of one stream and topic. Beyond it the stream waits with its packets,
which the sender keeps: more in the database would only move the want of room there."""
KEPT_BACK = packets.MAX_ROWS
"""Lines beyond it are parts that were kept back: no packet has so many."""
_PER_CALL = 1000


class NoRoomAtAll(Exception):
    """Neither for the file nor for keeping its parts back: the packet is tried again later."""


async def take(
    files: Spool, part: Part, *, topic: str, body: bytes, arrival: Arrival, alarm: Alarm | None
) -> Path | None:
    """As `Spool.take`; a part without room is kept back (its row's JSON, `body`), told, and taken
    by `look_after` when there is some. Joins the packet's transaction.

    Raises BadPart, OSError, NoRoomAtAll.
    """
    try:
        return await asyncio.to_thread(files.take, part, now=arrival.watermark)
    except SpoolFull:
        await _keep_back(topic, body, arrival)
    detail = {"topic": topic, "source": part.source, "file": part.file_id}
    await shortage.begins(
        arrival.stream, Where.files, detail=detail, alarm=alarm, now=arrival.watermark
    )
    return None


async def look_after(
    files: Spool,
    *,
    topic: str,
    alarm: Alarm | None,
    now: datetime,
    handler: Handler | None = None,
) -> int:
    """Tell of files that are still not whole, give up what is too old, and give the topic's
    `handler` what was kept back for want of room; how many were told of.

    Parts that the medium lost come again by themselves: their packets are written again, and a
    snapshot brings what was jumped over. What is told here the sender must send again, because
    one side lost its memory. Told once for each file.
    """
    overdue = await asyncio.to_thread(files.overdue, now=now)
    for one in overdue:
        async with in_transaction():
            await raise_finding(await _finding(one, topic), alarm, now=now)
    await asyncio.to_thread(files.collect, now=now)
    if handler is not None:
        await _bring_in(topic, handler, now)
    return len(overdue)


async def _keep_back(topic: str, body: bytes, arrival: Arrival) -> None:
    db = _db()
    (held,) = await db.execute_query_dict(
        """select coalesce(sum(octet_length(body)), 0) as size, count(*) as parts
           from gate_parked_row where stream = $1 and topic = $2 and line > $3""",
        [arrival.stream, topic, KEPT_BACK],
    )
    if held["size"] + len(body) > MAX_KEPT_BACK_BYTES:
        raise NoRoomAtAll(topic)
    (last,) = await db.execute_query_dict(
        "select coalesce(max(line), $3) as line from gate_parked_row"
        " where stream = $1 and seq = $2 and line > $3",
        [arrival.stream, arrival.seq, KEPT_BACK],
    )
    kept = (arrival.seq, last["line"] + 1, topic, body.decode())
    await positions.park_bodies(db, arrival.stream, [kept], now=arrival.watermark)


async def _bring_in(topic: str, handler: Handler, now: datetime) -> None:
    """Each part once, oldest first; what still has no room is kept back again."""
    found = await _db().execute_query_dict(
        """select stream, seq, line from gate_parked_row where topic = $1 and line > $2
           order by stream, seq, line limit $3""",
        [topic, KEPT_BACK, _PER_CALL],
    )
    for row in found:
        try:
            await _bring_in_one(topic, (row["stream"], row["seq"], row["line"]), handler, now)
        except RowRefused as refused:
            log.error("gate_kept_part_refused", stream=row["stream"], why=str(refused))
    await _end_shortages(now)


async def _bring_in_one(
    topic: str, place: tuple[str, int, int], handler: Handler, now: datetime
) -> None:
    stream, seq, line = place
    async with in_transaction() as tx:
        taken = await tx.execute_query_dict(
            """delete from gate_parked_row where stream = $1 and seq = $2 and line = $3
               returning body""",
            [stream, seq, line],
        )
        for row in taken:
            read, sent = rows.read(topic, row["body"].encode())
            await handler([read], Arrival(stream, seq, now, sent=[sent]))


async def _end_shortages(now: datetime) -> None:
    """Of streams of which nothing is kept back any more."""
    over = await _db().execute_query_dict(
        f"""select distinct e.stream from {shortage.OPEN} and e.detail ->> 'where' = $1
              and not exists (select from gate_parked_row p
                              where p.stream = e.stream and p.line > $2)""",  # noqa: S608
        [Where.files.value, KEPT_BACK],
    )
    for row in over:
        await shortage.ends(row["stream"], Where.files, now=now)


async def _finding(one: Overdue, topic: str) -> Finding:
    found = await Tortoise.get_connection("default").execute_query_dict(
        """select p.stream_in, i.last_seq from gate_peer_source s
             join gate_peer p on p.name = s.peer
             left join gate_incoming_stream i on i.stream = p.stream_in
           where s.source = $1""",
        [one.source],
    )
    stream, seq = (found[0]["stream_in"], found[0]["last_seq"]) if found else ("", None)
    return Finding(
        "file_incomplete",
        stream,
        seq or 0,
        topic,
        one.source,
        count=len(one.missing),
        keys=[one.file_id],
        detail={"parts": one.count, "missing": one.missing[:MAX_NAMED]},
        about=f"{one.source}:{one.file_id}",
    )


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
