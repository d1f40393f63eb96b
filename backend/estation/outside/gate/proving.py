"""What a receiver does with proofs and repairs, at exactly their place in the stream."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec import Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import copies, merkle, refused, repairs, replicas, rows, sending
from estation.outside.gate.arriving import Arrival, Handler, Seal
from estation.outside.gate.copies import Held
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.events import Alarm, Finding, raise_finding
from estation.outside.gate.merkle import Tree
from estation.outside.gate.refused import RefusedRow
from estation.outside.gate.repairs import Sent
from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import ProofRow, RepairRow, RowsWantedRow, SnapshotRow
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

ASK_AGAIN = timedelta(minutes=50)
"""What a repair did not change is not asked for again before this."""
KEEP_PROOFS = timedelta(days=90)
_HAND_OVER = 2000
_MEANWHILE_SECONDS = 0.25


class Prover:
    """The protocol's own topics of one stream. `handlers`: the ordinary ones, which repair."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        reply_stream: str | None,
        alarm: Alarm | None,
        now: datetime,
        seal: Seal | None = None,
    ) -> None:
        self._handlers = handlers
        self._reply_stream = reply_stream
        self._alarm = alarm
        self._now = now
        self._seal = seal
        self._noted: list[tuple[Replica, ProofRow, Arrival]] = []
        self._comparing: asyncio.Task[None] | None = None

    async def note_end(self, marks: Sequence[Struct], arrival: Arrival) -> None:
        """What a complete snapshot's end does not speak of was never sent: it is compared with
        nothing, so that rows put into such a copy past the gate are found like any others."""
        self._noted = []
        for mark in marks:
            if not isinstance(mark, SnapshotRow) or mark.phase != "end" or not mark.complete:
                continue
            said = {(one.topic, one.source) for one in mark.topics}
            self._noted = [
                (replica, _nothing_of(topic, source), arrival)
                for topic, replica in replicas.REPLICAS.items()
                if topic in self._handlers
                for source in arrival.own_sources
                if (topic, source) not in said
            ]

    async def prove(self, proofs: Sequence[Struct], arrival: Arrival) -> None:
        """Note what is to be compared once this packet is applied (`compare`).

        Raises RowRefused for a proof about somebody else's rows, or one that contradicts itself.
        Each copy is compared once, however often a packet speaks of it.
        """
        noted = {
            (proof.topic, proof.source): (replica, proof, given)
            for replica, proof, given in self._noted
            if given.seq == arrival.seq
        }
        for proof in proofs:
            if not isinstance(proof, ProofRow):
                continue
            _check_source(proof.topic, proof.source, arrival)
            if merkle.root_of(proof.buckets) != proof.root:
                raise RowRefused(f"proof of {proof.topic}: root")
            replica = replicas.REPLICAS.get(proof.topic)
            if replica is None:
                log.info("gate_proof_of_no_copy", stream=arrival.stream, topic=proof.topic)
                continue
            noted[proof.topic, proof.source] = replica, proof, arrival
        self._noted = list(noted.values())

    async def compare(self, seq: int) -> None:
        """Begin to compare what the packet `seq`, just committed, said with what is here.

        Returns as soon as that can no longer change under it: a snapshot of the database at
        exactly this position holds still while the next packets are applied. When another
        importer was faster, the next proof has to do.
        """
        noted, self._noted = self._noted, []
        if not noted or noted[0][2].seq != seq:
            return
        while await self.is_comparing():
            pass
        holds_still = asyncio.Event()
        self._comparing = asyncio.create_task(self._compare_all(noted, holds_still))
        waiter = asyncio.create_task(holds_still.wait())
        await asyncio.wait([self._comparing, waiter], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()

    async def is_comparing(self) -> bool:
        """Waits a little while it is. Raises what kept it from comparing."""
        if self._comparing is None:
            return False
        await asyncio.wait([self._comparing], timeout=_MEANWHILE_SECONDS)
        if not self._comparing.done():
            return True
        task, self._comparing = self._comparing, None
        task.result()
        return False

    async def stop(self) -> None:
        """Nothing is compared any more."""
        if self._comparing is not None:
            self._comparing.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._comparing

    async def answer(self, wanted: Sequence[Struct], arrival: Arrival) -> None:
        """The peer holds buckets of ours otherwise: their rows leave with the next packets."""
        for row in wanted:
            if not isinstance(row, RowsWantedRow):
                continue
            if row.stream != self._reply_stream:
                log.error("gate_rows_wanted_of_foreign_stream", stream=row.stream)
                continue
            await _db().execute_query(
                """insert into gate_repair (id, stream, topic, source, buckets, bucket_at,
                                            after_key, rows, asked_at)
                   select $1, $2::varchar, $3::varchar, $4::varchar, $5::jsonb, 0, '', 0, $6
                   where exists (select from gate_sent_source where stream = $2::varchar
                                 and topic = $3::varchar and source = $4::varchar)
                      or exists (select from gate_sent_row where stream = $2::varchar
                                 and topic = $3::varchar and source = $4::varchar)
                   on conflict (stream, topic, source) where done_at is null do nothing""",
                [
                    ids.row_id(self._now),
                    row.stream,
                    row.topic,
                    row.source,
                    msgspec.json.encode(sorted(set(row.buckets))).decode(),
                    self._now,
                ],
            )

    async def repair(self, parts: Sequence[Struct], arrival: Arrival) -> None:
        """Replace what is not as it was sent, name what was never sent.

        Raises RowRefused for parts about somebody else's rows, or that contradict themselves.
        """
        of_copy: dict[tuple[str, str], list[RepairRow]] = {}
        for part in parts:
            if isinstance(part, RepairRow):
                _check_source(part.topic, part.source, arrival)
                of_copy.setdefault((part.topic, part.source), []).append(part)
        for (topic, source), given in of_copy.items():
            replica = replicas.REPLICAS.get(topic)
            if replica is not None and topic in self._handlers:
                await self._repair(replica, source, given, arrival)

    async def _compare_all(
        self, noted: Sequence[tuple[Replica, ProofRow, Arrival]], holds_still: asyncio.Event
    ) -> None:
        arrival = noted[0][2]
        trees = []
        async with in_transaction() as tx:
            await tx.execute_query("set transaction isolation level repeatable read")
            position = await tx.execute_query_dict(
                "select last_seq from gate_incoming_stream where stream = $1", [arrival.stream]
            )
            holds_still.set()
            if position[0]["last_seq"] != arrival.seq:
                log.info("gate_proof_overtaken", stream=arrival.stream, seq=arrival.seq)
                return
            for replica, proof, _ in noted:
                ours = await merkle.tree_of_replica(tx, replica, proof.source)
                aside = await refused.waiting_of(replica.topic, proof.source, tx)
                believed = ours
                if aside and ours.differing(proof.buckets):
                    believed = await merkle.tree_with_refused(tx, replica, proof.source)
                trees.append((ours, believed, aside))
        async with in_transaction():
            for (_, proof, _), (ours, believed, aside) in zip(noted, trees, strict=True):
                differing = set(ours.differing(proof.buckets))
                if proof.complete:
                    # Where all is as it was sent, what was set aside is not what the sender has.
                    over = [one for one in aside if merkle.bucket_of(one.key) not in differing]
                    await refused.end_unchanged(over, "not_sent", now=self._now)
                await self._compare(proof, ours, believed, len(aside) if differing else 0, arrival)

    async def _compare(
        self, proof: ProofRow, ours: Tree, believed: Tree, aside: int, arrival: Arrival
    ) -> None:
        """What is not the same is asked for in the opposite stream.

        `believed`: our rows with those that were set aside in place of what is here of them, so
        many; a difference that is not in it is known, and somebody owns it already.
        """
        differing = ours.differing(proof.buckets)
        unknown = believed.differing(proof.buckets)
        is_known = bool(differing) and not unknown
        asks = bool(unknown) and not await self._was_asked(proof, ours)
        await _db().execute_query(
            """insert into gate_proof (id, stream, seq, topic, source, rows, root, our_rows,
                                       our_root, is_equal, buckets, at, refused_rows, is_known)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12, $13, $14)""",
            [
                ids.row_id(self._now), arrival.stream, arrival.seq, proof.topic, proof.source,
                proof.rows, proof.root, ours.rows, ours.root, not differing,
                msgspec.json.encode(differing).decode(), self._now, aside, is_known,
            ],
        )  # fmt: skip
        await _db().execute_query("delete from gate_proof where at < $1", [self._now - KEEP_PROOFS])
        if not differing:
            log.info("gate_proved", stream=arrival.stream, topic=proof.topic, rows=ours.rows)
            return
        if is_known:
            log.warning(
                "gate_known_difference",
                stream=arrival.stream,
                seq=arrival.seq,
                topic=proof.topic,
                refused_rows=aside,
            )
            return
        log.error(
            "gate_copy_differs",
            stream=arrival.stream,
            seq=arrival.seq,
            topic=proof.topic,
            buckets=len(unknown),
            rows=proof.rows,
            our_rows=ours.rows,
        )
        if asks and self._reply_stream is not None:
            wanted = RowsWantedRow(
                stream=arrival.stream, topic=proof.topic, source=proof.source, buckets=unknown
            )
            await sending.put_rows(self._reply_stream, "rows_wanted", [wanted], now=self._now)

    async def _was_asked(self, proof: ProofRow, ours: Tree) -> bool:
        """The same difference was asked for lately: the answer did not change it."""
        found = await _db().execute_query_dict(
            """select exists (select from gate_proof where topic = $1 and source = $2
               and root = $3 and our_root = $4 and not is_equal and at > $5 and at <= $6)
               as found""",
            [proof.topic, proof.source, proof.root, ours.root, self._now - ASK_AGAIN, self._now],
        )
        return bool(found[0]["found"])

    async def _repair(
        self, replica: Replica, source: str, parts: Sequence[RepairRow], arrival: Arrival
    ) -> None:
        read = {key: item for part in parts for key, item in repairs.read(part).items()}
        sent = {key: item for key, item in read.items() if isinstance(item, Sent)}
        aside = [item for item in read.values() if isinstance(item, RefusedRow)]
        for item in read.values():
            row = item.row if isinstance(item, Sent) else rows.owner_of(item.body)
            region = getattr(row, "region", None)
            if region is not None and not arrival.covers(region):
                raise RowRefused(f"repair of {replica.topic}: region")
        buckets = {part.bucket for part in parts}
        held = await copies.held_in(replica, source, buckets)

        async def take(given: Sequence[Struct], arrival: Arrival) -> None:
            """In the handler's own savepoint: what it refuses stays the stranger it was."""
            names = [rows.identity(replica.topic, row) for row in given]
            keys = [name.key for name in names if name is not None]
            await copies.no_phantoms_any_more(replica.topic, source, keys)
            await self._handlers[replica.topic](given, arrival)

        wrong = [key for key, item in sent.items() if not _is_as_sent(held.get(key), item)]
        for start in range(0, len(wrong), _HAND_OVER):
            batch = [sent[key] for key in wrong[start : start + _HAND_OVER]]
            again = Arrival(
                arrival.stream,
                arrival.seq,
                arrival.watermark,
                [item.as_sent for item in batch],
                arrival.regions,
                arrival.sources,
                repairs=True,
            )
            given = [item.row for item in batch]
            by_handler = await refused.hand_over(take, replica.topic, given, again)
            aside += by_handler
            taken = refused.without(by_handler, replica.topic, given)
            await refused.heal({replica.topic: taken}, now=self._now)
        await refused.keep(
            aside, stream=arrival.stream, seq=arrival.seq, seal=self._seal, alarm=self._alarm,
            now=self._now, is_newest=True,
        )  # fmt: skip
        await self._end_refused(replica.topic, source, parts, read)
        names = {row.name.key for row in aside}
        wrong = [key for key in wrong if key not in names]
        await self._tell(replica, source, wrong, sent, buckets, arrival)
        unknown = [
            key
            for key, row in held.items()
            if key not in read
            and not row.is_phantom
            and any(part.bucket == row.bucket and repairs.covers(part, key) for part in parts)
        ]
        await copies.name_phantoms(
            replica, source, sorted(unknown), stream=arrival.stream, seq=arrival.seq,
            complete=all(part.complete for part in parts), alarm=self._alarm, now=self._now,
        )  # fmt: skip

    async def _end_refused(
        self,
        topic: str,
        source: str,
        parts: Sequence[RepairRow],
        read: Mapping[str, Sent | RefusedRow],
    ) -> None:
        """What was set aside and is not what the sender has now."""
        if not rows.may_skip(topic):
            return
        sent = {
            key: (item.version, item.as_sent.digest)
            for key, item in read.items()
            if isinstance(item, Sent)
        }
        await refused.end_as_sent(topic, source, sent, now=self._now)
        for one in await refused.waiting_of(topic, source):
            if one.key not in read and any(
                part.complete and repairs.covers(part, one.key) for part in parts
            ):
                await refused.end(one, "not_sent", self._now)

    async def _tell(
        self,
        replica: Replica,
        source: str,
        wrong: Sequence[str],
        sent: Mapping[str, Sent],
        buckets: set[int],
        arrival: Arrival,
    ) -> None:
        if not wrong:
            return
        held = await copies.held_in(replica, source, buckets)
        still = [key for key in wrong if not _is_as_sent(held.get(key), sent[key])]
        healed = sorted(set(wrong) - set(still))
        for kind, keys in (("repaired", healed), ("unhealed", sorted(still))):
            if keys:
                finding = Finding(
                    kind, arrival.stream, arrival.seq, replica.topic, source, len(keys), keys
                )
                await raise_finding(finding, self._alarm, now=self._now)


def _nothing_of(topic: str, source: str) -> ProofRow:
    tree = Tree()
    return ProofRow(topic=topic, source=source, rows=0, root=tree.root, buckets=tree.buckets)


def _check_source(topic: str, source: str, arrival: Arrival) -> None:
    if not arrival.is_from(source):
        raise RowRefused(f"{topic}: source")


def _is_as_sent(held: Held | None, item: Sent) -> bool:
    if held is None or held.is_phantom:
        return False  # it is in use again: its handler has to hear of it
    return held.version == item.version and held.digest == item.as_sent.digest


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
