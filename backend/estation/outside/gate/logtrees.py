"""The trees of what was sent, made while the stream goes on.

A tree over a million rows takes seconds, and a proof must be true behind one packet exactly. So
the trees are made first, in a snapshot of the database that nobody waits for. When the packet is
made and its stream locked, only the buckets are made anew in which something was sent since.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import format as packets
from estation.outside.gate import merkle, rows
from estation.outside.gate.merkle import Tree
from estation.shared.transactions import in_transaction

MAX_CHANGED = 20_000
"""So many rows sent meanwhile are looked at one by one; beyond that all is made anew."""
_ROUNDS = 4
_FEW = 4
_MEANWHILE_SECONDS = 0.25

Trees: TypeAlias = dict[tuple[str, str], Tree]
_Changed: TypeAlias = dict[tuple[str, str], set[int]]


@dataclass(slots=True)
class LogTrees:
    """By (topic, source), as of a moment when `seq` was the stream's last packet."""

    seq: int
    trees: Trees

    async def refresh(self, tx: BaseDBAsyncClient, stream: str) -> int:
        """Make them those of `tx`, a snapshot of the database; how many buckets that took.

        All that changed in the log since waits to be packed or left with a later packet.
        """
        seq = await _last_seq(tx, stream)
        changed = await _sent_since(tx, stream, self.seq, seq)
        if changed is None:
            self.trees = await merkle.trees_of_log(tx, stream)
        for (topic, source), buckets in (changed or {}).items():
            fresh = await merkle.buckets_of_log(tx, stream, topic, source, sorted(buckets))
            self.trees.setdefault((topic, source), Tree()).replace(fresh, buckets)
        self.seq = seq
        if changed is None:
            return merkle.BUCKETS * len(self.trees)
        return sum(map(len, changed.values()))


class Maker:
    """Makes the trees of one stream beside other work, once somebody wants them."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._task: asyncio.Task[LogTrees] | None = None

    @property
    def is_at_work(self) -> bool:
        return self._task is not None and not self._task.done()

    async def wanted(self) -> LogTrees | None:
        """None while they are being made. Small ones are there at once."""
        if self._task is None:
            self._task = asyncio.create_task(make(self._stream))
            await self.wait()
        return self._task.result() if self._task.done() else None

    async def wait(self) -> None:
        """A little, when it is at work."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_MEANWHILE_SECONDS)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._task


async def make(stream: str) -> LogTrees:
    """In a snapshot of the database; what was sent meanwhile, too, until that is little."""
    async with in_transaction() as tx:
        await tx.execute_query("set transaction isolation level repeatable read")
        seq = await _last_seq(tx, stream)
        made = LogTrees(seq, await merkle.trees_of_log(tx, stream))
    for _ in range(_ROUNDS):
        async with in_transaction() as tx:
            await tx.execute_query("set transaction isolation level repeatable read")
            if await made.refresh(tx, stream) <= _FEW:
                break
    return made


async def _last_seq(tx: BaseDBAsyncClient, stream: str) -> int:
    found = await tx.execute_query_dict(
        "select last_seq from gate_outgoing_stream where stream = $1", [stream]
    )
    return int(found[0]["last_seq"]) if found else 0


async def _sent_since(tx: BaseDBAsyncClient, stream: str, seq: int, last: int) -> _Changed | None:
    """The buckets of rows that are in no packet up to `seq`; None when there are too many, when
    not all packets from there up to `last` are kept any more, or when one of the rows can no more
    be read here (it left before this program's rules became stricter)."""
    try:
        return await _buckets_since(tx, stream, seq, last)
    except rows.BadRow:
        return None


async def _buckets_since(
    tx: BaseDBAsyncClient, stream: str, seq: int, last: int
) -> _Changed | None:
    packed = await tx.execute_query_dict(
        """select seq, coalesce(waited, rows) as waited from gate_outgoing_packet
           where stream = $1 and seq > $2 order by seq limit $3""",
        [stream, seq, MAX_CHANGED + 1],
    )
    left = MAX_CHANGED - sum(packet["waited"] for packet in packed)
    if len(packed) != last - seq or left < 0:
        return None
    waiting = await tx.execute_query_dict(
        """select topic, body from gate_outgoing_row
           where stream = $1 and packed_seq is null limit $2""",
        [stream, left + 1],
    )
    if len(waiting) > left:
        return None
    changed: _Changed = {}
    await asyncio.to_thread(
        _note, changed, [(row["topic"], row["body"].encode()) for row in waiting]
    )
    for packet in packed:
        if packet["waited"]:
            sent = await tx.execute_query_dict(
                "select manifest, body from gate_outgoing_packet where stream = $1 and seq = $2",
                [stream, packet["seq"]],
            )
            await asyncio.to_thread(_note_packed, changed, sent[0], packet["waited"])
    return changed


def _note_packed(changed: _Changed, packet: Mapping[str, bytes], count: int) -> None:
    """The first lines of a packet: those that waited."""
    lines = itertools.islice(packets.read_made(packet["manifest"], packet["body"]), count)
    _note(changed, ((line.topic, bytes(line.row)) for line in lines))


def _note(changed: _Changed, sent: Iterable[tuple[str, bytes]]) -> None:
    for topic, body in sent:
        if topic not in rows.TOPICS:
            continue
        name = rows.identity(topic, rows.decode_row(topic, body))
        if name is not None:
            buckets = changed.setdefault((topic, name.source), set())
            buckets.add(merkle.bucket_of(name.key))
