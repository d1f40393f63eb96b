"""How a receiver gets over packets that are lost for good: by a snapshot it holds completely.

Only when the stream has stood still for a while, and only over packets that all are there,
follow each other, and carry the peer's seal, from a snapshot's `begin` to its `end`. The rows
go beside the live tables first; their number and Merkle roots must be those the `end` says.
Then every topic's ordinary handler gets them, all in one transaction with the new position: to
everybody else the copy changes from the old state to the new one at once, and what a handler
never touches (a paid bill) stays as it is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import (
    copies,
    events,
    merkle,
    parked,
    positions,
    refused,
    replicas,
    rows,
)
from estation.outside.gate import format as packets
from estation.outside.gate.arriving import Arrival, Handler, Seal
from estation.outside.gate.errors import BadPacket, Reason
from estation.outside.gate.events import Alarm, Finding
from estation.outside.gate.keys import KeyRing, PeerKey
from estation.outside.gate.refused import RefusedRow
from estation.outside.gate.rows import AsSent, SnapshotRow
from estation.shared.bulk import copy_rows

log = structlog.get_logger()

JUMP_AFTER = timedelta(minutes=2)
"""So long a gap is left to the files written again, which bring every version."""
SECONDS_A_PACKET = 60.0
"""So long a jump may take for each packet of its run: it is all or nothing, and broken off by the
ordinary bound of a turn a large one would never be done. Measured on a busy two-core machine: a
run of 20,000 bills in five packets in 3.9 s."""
REFUSED = "jump_refused"
STALE = frozenset({"snapshot", "proof", "repair"})
"""Rows that are true at their own position only; those of the end's packet count."""
_HAND_OVER = 2000
_HAND_OVER_BYTES = 8 * 1024 * 1024

# $1 the topic or topics, $2 the place after which, $3 how many
_THINGS = """
select s.place, s.seq, s.topic, s.body from gate_newest n join gate_stage s using (place)
where n.topic = $1 and n.place > $2 order by n.place limit $3
"""
# $1 the topic, $2 sources, $3 keys, $4 versions that could not be taken in
_OLDER = """
select distinct on (s.source, s.key) s.place, s.seq, s.topic, s.body
from gate_stage s join unnest($2::text[], $3::text[], $4::bigint[]) as t(source, key, version)
  on s.source = t.source and s.key = t.key and s.version < t.version
where s.topic = $1 order by s.source, s.key, s.version desc, s.place desc
"""
_LOOSE = """
select place, seq, topic, body from gate_stage
where key is null and topic = $1 and place > $2 order by place limit $3
"""
_UNKNOWN = """
select place, seq, topic, body from gate_stage
where topic <> all($1::text[]) and place > $2 order by place limit $3
"""
_PIECE = """
select place, seq, topic, body from (
    select *, sum(octet_length(body)) over (order by place) - octet_length(body) as before
    from ({rows}) as next_rows
) as sized
where before < $4 order by place
"""
_COLUMNS = ("place", "seq", "topic", "source", "key", "version", "digest", "body")


RequireOwn = Callable[[object, packets.Line, int], None]


class NoJump(Exception):
    """The run is complete by its looks but is not what its end says."""


@dataclass(frozen=True, slots=True)
class Run:
    """Packets `first`..`last` in `incoming/`, from the begin of this snapshot to its end."""

    snapshot_id: str
    first: int
    last: int

    @property
    def seconds_allowed(self) -> float:
        """A bound, however many packets it has: nobody waits for ever for what hangs."""
        return SECONDS_A_PACKET * (self.last - self.first + 1)


def find_run(
    folder: Path, stream: str, found: Mapping[int, str], *, after: int, peer_key: PeerKey | KeyRing
) -> Run | None:
    """The newest complete run beyond position `after`, or None. Blocking.

    Each file is read once, not again at each look.
    """
    run: Run | None = None
    begun: tuple[str, int] | None = None
    before: tuple[int, bytes] | None = None
    for seq in sorted(seq for seq in found if seq > after):
        seen = parked.look(folder / found[seq], stream, seq, peer_key)
        if seen is None or before != (seq - 1, seen.previous):
            begun = None
        before = (seq, seen.digest) if seen else None
        for snapshot_id, phase in seen.marks if seen else ():
            if phase == "begin":
                begun = (snapshot_id, seq)
            else:
                # An end without its own begin right before it is no snapshot at all.
                if begun is not None and begun[0] == snapshot_id:
                    run = Run(snapshot_id, begun[1], seq)
                begun = None
    return run


async def was_refused(stream: str, run: Run) -> bool:
    """Whether this snapshot was tried already and is none."""
    return await events.is_told(stream, REFUSED, run.snapshot_id)


async def note_refusal(stream: str, run: Run, why: str, *, now: datetime) -> None:
    """The stream stays where it is; the next snapshot may do better."""
    log.error("gate_jump_refused", stream=stream, first=run.first, last=run.last, why=why)
    await events.record(
        stream,
        REFUSED,
        now=now,
        distinction=run.snapshot_id,
        first_seq=run.first,
        last_seq=run.last,
        reason="bad_snapshot",
        detail={"why": why[:500]},
    )


class Jump:
    """One run, applied in the caller's transaction."""

    def __init__(
        self,
        run: Run,
        *,
        stream: str,
        folder: Path,
        found: Mapping[int, str],
        peer_key: PeerKey | KeyRing,
        handlers: Mapping[str, Handler],
        template: Arrival,
        require_own: RequireOwn,
        alarm: Alarm | None,
        seal: Seal | None,
        now: datetime,
    ) -> None:
        """`handlers`: the ordinary ones and the protocol's own, in the order they are to run.
        `template`: what every arrival of this stream says, whatever its packet. `require_own`
        raises BadPacket for a row the peer may not write. `seal`: as of `refused.keep`."""
        self._run = run
        self._stream = stream
        self._folder = folder
        self._found = found
        self._peer_key = peer_key
        self._handlers = handlers
        self._template = template
        self._require_own = require_own
        self._alarm = alarm
        self._seal = seal
        self._now = now
        self._most_news = refused.MAX_OF_PACKET * (run.last - run.first + 1)
        self._news = 0

    async def apply(self, tx: BaseDBAsyncClient, position: positions.Position) -> packets.Head:
        """The head of the end's packet, where the stream stands now.

        Raises BadPacket, naming the file, when one is not what it was; NoJump when the rows are
        not all there is; whatever a handler raises.
        """
        await self._make_tables(tx)
        heads, last_lines = await self._stage_packets(tx)
        end = await self._check_whole(tx, last_lines)
        manifest = heads[-1].manifest
        arrival = replace(
            self._template,
            seq=manifest.seq,
            watermark=positions.known_up_to(manifest, self._now),
        )
        await self._hand_over_things(tx, arrival)
        await self._hand_over_others(tx, arrival)
        await self._name_vanished(tx, end, arrival)
        await self._end_refused(tx, end, arrival)
        await self._prove(end, last_lines, arrival)
        await self._record(tx, heads, position)
        await tx.execute_query("drop table gate_stage, gate_newest")
        return heads[-1]

    async def _make_tables(self, tx: BaseDBAsyncClient) -> None:
        await tx.execute_query(
            """create temporary table gate_stage (
                 place bigint, seq bigint, topic text, source text collate "C",
                 key text collate "C", version bigint, digest bytea, body text) on commit drop"""
        )

    async def _stage_packets(
        self, tx: BaseDBAsyncClient
    ) -> tuple[list[packets.Head], list[packets.Line]]:
        """Every row of the run, packet by packet, beside the live tables."""
        heads: list[packets.Head] = []
        lines: list[packets.Line] = []
        place = 0
        for seq in range(self._run.first, self._run.last + 1):
            path = self._folder / self._found[seq]
            head, lines = await asyncio.to_thread(
                parked.read, path, self._stream, seq, self._peer_key
            )
            if heads and head.manifest.previous != heads[-1].digest:
                raise BadPacket(Reason.fork, f"seq {seq} continues another history")
            heads.append(head)
            staged = [self._staged(line, seq, place + at) for at, line in enumerate(lines)]
            place += len(lines)
            await copy_rows(tx, "gate_stage", _COLUMNS, staged)
        await tx.execute_query("create unique index on gate_stage (place)")
        await tx.execute_query(
            """create temporary table gate_newest on commit drop as
               select distinct on (topic, source, key) topic, source, key, version, digest, place
               from gate_stage where key is not null
               order by topic, source, key, version desc, place desc"""
        )
        await tx.execute_query("create index on gate_newest (topic, source, key)")
        await tx.execute_query("analyze gate_newest")
        return heads, lines

    def _staged(self, line: packets.Line, seq: int, place: int) -> tuple[object, ...]:
        """The columns `_COLUMNS`. Raises BadPacket for a row that is none, or another's."""
        body = bytes(line.row)
        source = key = version = digest = None
        try:
            if line.topic in rows.TOPICS:
                known = rows.decode_clean(line.topic, body)
                name = rows.identity(line.topic, known)
                if name is not None:
                    source, key, version = name
                    digest = rows.digest(body)
                row: object = known
            else:
                row = rows.owner_of(body)
        except rows.BadRow as bad:
            aside = refused.set_aside(line.topic, body, str(bad))
            if aside is None or not self._template.is_from(aside.name.source):
                detail = f"seq {seq}, topic {line.topic}: {bad}"
                raise BadPacket(Reason.bad_row, detail) from bad
            # What its sender counts it as; met again when the rows are handed over.
            (source, key, version), digest = aside.name, aside.digest
            row = rows.owner_of(body)
        self._require_own(row, line, place)
        return place, seq, line.topic, source, key, version, digest, body.decode()

    async def _check_whole(
        self, tx: BaseDBAsyncClient, last_lines: Sequence[packets.Line]
    ) -> SnapshotRow:
        ends = [
            row
            for line in last_lines
            if line.topic == "snapshot"
            and isinstance(row := rows.decode_clean("snapshot", line.row), SnapshotRow)
            and (row.snapshot_id, row.phase) == (self._run.snapshot_id, "end")
        ]
        trees = await merkle.trees_of_stage(tx)
        here = {key: (tree.rows, tree.root) for key, tree in trees.items()}
        said = {
            (one.topic, one.source): (one.rows, one.root)
            for one in ends[0].topics
            if one.topic in rows.TOPICS  # what names a thing of another topic we cannot know
            and one.rows  # of which nothing is left in the sender's log
        }
        if here != said:
            topics = {topic for (topic, _), _ in here.items() ^ said.items()}
            raise NoJump(f"rows are not those its end says: {', '.join(sorted(topics))}"[:200])
        return ends[0]

    async def _hand_over_things(self, tx: BaseDBAsyncClient, arrival: Arrival) -> None:
        """The newest version of every thing, topic by topic, in pieces."""
        for topic in [topic for topic in self._handlers if topic in rows.TOPICS]:
            async for batch in self._pieces(tx, _THINGS, topic):
                aside = await self._handle(topic, batch, arrival)
                while aside:  # as packet by packet: an older version that can be taken in is
                    names = zip(*(row.name for row in aside), strict=True)
                    older = await tx.execute_query_dict(_OLDER, [topic, *map(list, names)])
                    if not older:
                        break
                    aside = await self._handle(topic, older, arrival, are_newest=False)

    async def _hand_over_others(self, tx: BaseDBAsyncClient, arrival: Arrival) -> None:
        """Rows that name no thing of their own, in their order; what nobody handles is parked."""
        known = [topic for topic in self._handlers if topic in rows.TOPICS]
        for topic in known:
            if topic not in STALE:
                async for batch in self._pieces(tx, _LOOSE, topic):
                    await self._handle(topic, batch, arrival)
        async for batch in self._pieces(tx, _UNKNOWN, [*known, *STALE]):
            await positions.park_bodies(
                tx,
                self._stream,
                [(row["seq"], row["place"], row["topic"], row["body"]) for row in batch],
                now=arrival.watermark,
                seal=self._seal,
            )

    async def _handle(
        self,
        topic: str,
        batch: Sequence[dict[str, Any]],
        arrival: Arrival,
        *,
        are_newest: bool = True,
    ) -> list[RefusedRow]:
        """Those that were set aside."""
        given: list[Struct] = []
        sent: list[AsSent] = []
        aside: list[RefusedRow] = []
        for staged in batch:
            body = staged["body"].encode()
            try:
                row, as_sent = rows.read(topic, body)
            except rows.BadRow as bad:
                unreadable = refused.set_aside(topic, body, str(bad))
                if unreadable is None:
                    detail = f"seq {staged['seq']}, topic {topic}: {bad}"
                    raise BadPacket(Reason.bad_row, detail) from bad
                aside.append(unreadable)
                continue
            given.append(row)
            sent.append(as_sent)
        handler = self._handlers[topic]
        by_handler = await refused.hand_over(handler, topic, given, replace(arrival, sent=sent))
        aside += by_handler
        taken = refused.without(by_handler, topic, given)
        await refused.heal({topic: taken}, now=self._now)
        self._news += await refused.keep(
            aside, stream=self._stream, seq=arrival.seq, seal=self._seal,
            alarm=self._alarm, now=self._now, is_newest=are_newest,
            most=self._most_news - self._news,
        )  # fmt: skip
        return aside

    async def _pieces(
        self, tx: BaseDBAsyncClient, query: str, what: str | list[str]
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """The staged rows of a query in their order, never more than fit into memory."""
        values: list[Any] = [what, -1, _HAND_OVER, _HAND_OVER_BYTES]
        while batch := await tx.execute_query_dict(_PIECE.format(rows=query), values):
            values[1] = batch[-1]["place"]
            yield batch

    async def _name_vanished(
        self, tx: BaseDBAsyncClient, end: SnapshotRow, arrival: Arrival
    ) -> None:
        """Rows here that the sender has no more: named, never silently left out."""
        for one in end.topics:
            replica = replicas.REPLICAS.get(one.topic)
            if replica is None or not arrival.is_from(one.source):
                continue
            await copies.name_phantoms(
                replica,
                one.source,
                await copies.vanished_from(tx, replica, one.source),
                stream=self._stream,
                seq=arrival.seq,
                complete=end.complete,
                alarm=self._alarm,
                now=self._now,
            )

    async def _end_refused(self, tx: BaseDBAsyncClient, end: SnapshotRow, arrival: Arrival) -> None:
        """What was set aside and is not what the sender has now."""
        for topic in [topic for topic in self._handlers if rows.may_skip(topic)]:
            for source in arrival.own_sources:
                waiting = await refused.waiting_of(topic, source)
                found = await tx.execute_query_dict(
                    """select key, version, digest from gate_newest
                       where topic = $1 and source = $2 and key = any($3::text[])""",
                    [topic, source, [one.key for one in waiting]],
                )
                sent = {row["key"]: (row["version"], bytes(row["digest"])) for row in found}
                await refused.end_as_sent(topic, source, sent, now=self._now)
                for one in waiting:
                    if end.complete and one.key not in sent:
                        await refused.end(one, "not_sent", self._now)

    async def _prove(
        self, end: SnapshotRow, last_lines: Sequence[packets.Line], arrival: Arrival
    ) -> None:
        if "snapshot" in self._handlers:
            await self._handlers["snapshot"]([end], arrival)
        proofs: list[Struct] = [
            rows.decode_clean("proof", line.row) for line in last_lines if line.topic == "proof"
        ]
        if proofs and "proof" in self._handlers:
            await self._handlers["proof"](proofs, arrival)

    async def _record(
        self,
        tx: BaseDBAsyncClient,
        heads: Sequence[packets.Head],
        position: positions.Position,
    ) -> None:
        for head in heads:
            await positions.record_applied(tx, head, content=True, now=self._now)
        missed = {"first": position.last_seq + 1, "last": self._run.first - 1}
        await events.raise_finding(
            Finding(
                "jumped",
                self._stream,
                self._run.last,
                count=missed["last"] - missed["first"] + 1,
                detail={
                    "skipped": missed,
                    "run": {"first": self._run.first, "last": self._run.last},
                    "snapshot_id": self._run.snapshot_id,
                    "why": position.stopped_reason,
                    "healed_by": "snapshot",
                },
            ),
            self._alarm,
            now=self._now,
        )
