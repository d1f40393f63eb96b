"""What a topic that carries files needs beside its schema: a handler that gives each part to
`take`, registered as `WithFiles`. Whoever receives looks after its files (`look_after_all`)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import UUID

import structlog
from msgspec import Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import events, peers, positions, rows, shortage
from estation.outside.gate.arriving import Arrival, Handler, Seal, Unseal
from estation.outside.gate.errors import RowRefused, is_about_a_value
from estation.outside.gate.events import MAX_NAMED, Alarm, Finding, raise_finding
from estation.outside.gate.shortage import Where
from estation.outside.gate.spool import Overdue, Part, Spool, SpoolFull
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

MAX_KEPT_BACK_BYTES = 2 * 1024 * 1024 * 1024
"""Of parts without room, of one stream and topic. Beyond it the stream waits with its packets,
which the sender keeps: more in the database would only move the want of room there."""
_PER_CALL = 1000
_KEPT_BACK = "line < 0"
"""SQL: of parts that were kept back. Lines of packets, and places in a run that was jumped to, are
counted from 0 on."""
_REFUSED = "refused:"
_NOT_REFUSED = f"""not exists (
  select from gate_event e where e.stream = p.stream and e.kind = 'file_incomplete'
    and e.distinction = '{_REFUSED}' || encode(p.digest, 'hex'))"""


class NoRoomAtAll(Exception):
    """Neither for the file nor for keeping its parts back: the packet is tried again later."""


@dataclass(frozen=True, slots=True)
class WithFiles:
    """The handler of a topic that carries files, which lie in `files` until they are whole."""

    files: Spool
    handle: Handler

    async def __call__(self, topic_rows: Sequence[Struct], arrival: Arrival) -> None:
        await self.handle(topic_rows, arrival)


async def look_after_all(
    handlers: Mapping[str, Handler],
    *,
    alarm: Alarm | None,
    now: datetime,
    unseal: Unseal | None = None,
) -> None:
    """`look_after` for each topic that carries files; a job."""
    for topic, handler in handlers.items():
        if isinstance(handler, WithFiles):
            await look_after(
                handler.files, topic=topic, alarm=alarm, now=now, handler=handler, unseal=unseal
            )


async def take(
    files: Spool,
    part: Part,
    *,
    topic: str,
    body: bytes,
    arrival: Arrival,
    alarm: Alarm | None,
    seal: Seal | None = None,
) -> Path | None:
    """As `Spool.take`; a part without room is kept back (its row's JSON, `body`, sealed where the
    side seals), told, and taken by `look_after` when there is some. Joins the packet's transaction.

    Raises BadPart, OSError, NoRoomAtAll; SpoolFull for a part that was kept back already.
    """
    try:
        return await asyncio.to_thread(files.take, part, now=arrival.watermark)
    except SpoolFull:
        if arrival.is_kept_back:
            raise
        await _keep_back(topic, body, arrival, seal)
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
    unseal: Unseal | None = None,
) -> int:
    """Tell of files that are still not whole, give up what is too old, and give the topic's
    `handler` what was kept back for want of room, or came when nobody handled the topic yet; how
    many files were told of. `unseal`: for what came then, on a side that seals.

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
        await _bring_in(topic, handler, alarm, unseal, now)
    return len(overdue)


async def _keep_back(topic: str, body: bytes, arrival: Arrival, seal: Seal | None) -> None:
    db = _db()
    (held,) = await db.execute_query_dict(
        f"""select coalesce(sum(coalesce(octet_length(body), octet_length(body_sealed))), 0) as size
            from gate_parked_row where stream = $1 and topic = $2 and {_KEPT_BACK}""",  # noqa: S608 - constants
        [arrival.stream, topic],
    )
    if held["size"] + len(body) > MAX_KEPT_BACK_BYTES:
        raise NoRoomAtAll(topic)
    (lowest,) = await db.execute_query_dict(
        "select least(min(line), 0) as line from gate_parked_row where stream = $1 and seq = $2",
        [arrival.stream, arrival.seq],
    )
    kept = (arrival.seq, lowest["line"] - 1, topic, body.decode())
    await positions.park_bodies(db, arrival.stream, [kept], now=arrival.watermark, seal=seal)


async def _bring_in(
    topic: str, handler: Handler, alarm: Alarm | None, unseal: Unseal | None, now: datetime
) -> None:
    """What was tried longest ago first: a file that has no room for long holds up no other."""
    waiting = await _db().execute_query_dict(
        f"""select id, stream from gate_parked_row p where topic = $1 and {_NOT_REFUSED}
            order by id limit $2""",  # noqa: S608 - constants
        [topic, _PER_CALL],
    )
    scopes = {peer.stream_in: peer.scope for peer in await peers.peers()}
    for row in waiting:
        scope = scopes.get(row["stream"])
        template = Arrival(
            row["stream"],
            0,
            now,
            regions=scope.regions if scope else (),
            sources=scope.sources if scope else (),
            is_kept_back=True,
        )
        try:
            await _bring_in_one(topic, row["id"], handler, unseal, template)
        except SpoolFull:
            await _put_behind(row["id"], now)
        except (RowRefused, rows.BadRow) as refused:
            await _tell_refused(row["id"], str(refused), alarm, now)
        except Exception as failure:
            if not is_about_a_value(failure):
                raise
            await _tell_refused(row["id"], type(failure).__name__, alarm, now)
    await _end_shortages(now)


async def _bring_in_one(
    topic: str, row_id: UUID, handler: Handler, unseal: Unseal | None, template: Arrival
) -> None:
    async with in_transaction() as tx:
        for row in await tx.execute_query_dict(
            "delete from gate_parked_row where id = $1 returning seq, body, body_sealed", [row_id]
        ):
            read, sent = rows.read(topic, positions.body_of(row, unseal))
            await handler([read], replace(template, seq=row["seq"], sent=[sent]))


async def _put_behind(row_id: UUID, now: datetime) -> None:
    await _db().execute_query(
        "update gate_parked_row set id = $2 where id = $1", [row_id, ids.row_id(now)]
    )


async def _tell_refused(row_id: UUID, why: str, alarm: Alarm | None, now: datetime) -> None:
    """Its packet went by long ago: it stops no stream, and stays for whoever looks into it."""
    async with in_transaction() as tx:
        for row in await tx.execute_query_dict(
            """select stream, seq, topic, encode(digest, 'hex') as digest
               from gate_parked_row where id = $1""",
            [row_id],
        ):
            finding = Finding(
                "file_incomplete",
                row["stream"],
                row["seq"],
                topic=row["topic"],
                count=1,
                detail={"why": why},
                about=f"{_REFUSED}{row['digest']}",
            )
            if not await events.is_told(row["stream"], finding.kind, finding.distinction):
                await raise_finding(finding, alarm, now=now)


async def _end_shortages(now: datetime) -> None:
    """Of streams of which nothing is kept back any more."""
    over = await _db().execute_query_dict(
        f"""select distinct e.stream from {shortage.OPEN} and e.detail ->> 'where' = $1
              and not exists (select from gate_parked_row p where p.stream = e.stream
                                and p.{_KEPT_BACK} and {_NOT_REFUSED})""",  # noqa: S608 - constants
        [Where.files.value],
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
