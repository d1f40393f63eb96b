"""Files the medium lost are written again, without anybody asking for them.

The peer's own words say how far it came. As long as it is behind, the window after it, and the
snapshot it may jump to, are written again with growing pauses; and because its words may be what
is lost, the newest packets are written again now and then whatever it says.
"""

import asyncio
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import bounds as limits
from estation.outside.gate import destinations, folders
from estation.outside.gate import format as packets
from estation.outside.gate.bounds import MIB, Bounds
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

BEHIND_AFTER = timedelta(seconds=20)
FIRST_PAUSE_SECONDS = 20
MAX_PAUSE_SECONDS = 600
ALIVE_PAUSE_SECONDS = 60
"""The longest pause while files of the peer do come: its word may only be held up by a gap."""
WINDOW_PACKETS = 200
WINDOW_BYTES = 64 * MIB
BLIND_EVERY = timedelta(minutes=30)
BLIND_PACKETS = 50


async def resend_due(
    stream: str, *, folder: Path, bounds: Bounds, now: datetime, further: Sequence[Path] = ()
) -> list[int]:
    """Write packets again that are due; their seqs. Those still lying in a folder are left alone.

    `further`: the stream's other destinations that answer. Each folder gets what is due up to
    where it stands, at most WINDOW_PACKETS packets and about WINDOW_BYTES; none while its disk
    is nearly full. An OSError of `folder` is raised after the others had theirs; theirs are
    kept in the table.
    """
    if not (folders_with_room := await _with_room([folder, *further], bounds)):
        return []
    due = await _due(stream, now)
    written: set[int] = set()
    failure: OSError | None = None
    for one in folders_with_room if due else ():
        try:
            written.update(await _write_to(stream, one, due, is_further=one is not folder))
        except OSError as problem:
            if one is folder:
                failure = problem
            else:
                await destinations.note_failure(
                    stream, one, problem.strerror or type(problem).__name__, now=now
                )
    if written:
        log.info("gate_resent", stream=stream, first=min(written), packets=len(written))
    if failure is not None:
        raise failure
    return sorted(written)


async def _with_room(given: Sequence[Path], bounds: Bounds) -> list[Path]:
    return [
        folder
        for folder in given
        if await asyncio.to_thread(limits.free_bytes, folder) >= bounds.disk_reserve
    ]


async def _due(stream: str, now: datetime) -> list[range]:
    """The packets to write again now. When the next are due is committed with it: a crash before
    they are written only leaves them to the next time."""
    async with in_transaction() as tx:
        found = await tx.execute_query_dict(
            """select u.*, greatest(s.written_seq, (select max(d.written_seq)
                                                    from gate_destination d
                                                    where d.stream = s.stream)) as written_seq
               from gate_outgoing_stream s join gate_upkeep u using (stream)
               where s.stream = $1 for update""",
            [stream],
        )
        if not found:
            return []
        state = found[0]
        due: list[range] = []
        if await _is_behind(tx, stream, state, now):
            first = state["peer_seq"] + 1
            due.append(range(first, first + WINDOW_PACKETS))
            due += await _snapshot_beyond(tx, stream, state, now)
            await _pause(tx, stream, state, now)
        if state["blind_at"] is None or not _lately(state["blind_at"], BLIND_EVERY, now):
            if state["blind_at"] is not None:
                last = state["written_seq"]
                due.append(range(max(1, last - BLIND_PACKETS + 1), last + 1))
            await tx.execute_query(
                "update gate_upkeep set blind_at = $2 where stream = $1", [stream, now]
            )
    return due


async def _is_behind(
    tx: BaseDBAsyncClient, stream: str, state: dict[str, Any], now: datetime
) -> bool:
    """Something with content was sent a while ago and not received, or the peer says so itself.

    Mere heartbeats are never confirmed in time: the peer does not speak of them.
    """
    if state["peer_seq"] >= state["written_seq"]:
        return False
    is_same = state["resend_at"] is not None and state["resent_from"] == state["peer_seq"]
    if is_same and now < state["resend_at"] <= now + timedelta(seconds=MAX_PAUSE_SECONDS):
        return False
    if state["peer_is_behind"] and not _lately(state["peer_since"], BEHIND_AFTER, now):
        return True
    found = await tx.execute_query_dict(
        """select exists (
             select from gate_outgoing_packet old
               left join gate_outgoing_packet known on known.stream = $1 and known.seq = $2
             where old.stream = $1 and old.seq > $2
               and (old.created_at <= $3 or old.created_at > $4)
               and old.contents_upto > coalesce(known.contents_upto, 0)) as found""",
        [stream, state["peer_seq"], now - BEHIND_AFTER, now],
    )
    return bool(found[0]["found"])


async def _snapshot_beyond(
    tx: BaseDBAsyncClient, stream: str, state: dict[str, Any], now: datetime
) -> list[range]:
    """The newest snapshot, or a window of it that the moment chooses: a peer that stands at what
    never comes, or what it refuses, goes on behind it once it has all of its packets."""
    found = await tx.execute_query_dict(
        """select first_seq, last_seq from gate_snapshot
           where stream = $1 and state = 'done' and first_seq > $2
           order by last_seq desc limit 1""",
        [stream, state["peer_seq"]],
    )
    if not found or not state["peer_is_behind"]:
        return []
    run = range(found[0]["first_seq"], found[0]["last_seq"] + 1)
    windows = -(-len(run) // WINDOW_PACKETS)
    start = zlib.crc32(now.isoformat().encode()) % windows * WINDOW_PACKETS
    return [run[start : start + WINDOW_PACKETS]]


def _lately(moment: datetime, span: timedelta, now: datetime) -> bool:
    """Within the last `span`. A moment in the future was written by a clock that was wrong."""
    return now - span < moment <= now


async def _pause(tx: BaseDBAsyncClient, stream: str, state: dict[str, Any], now: datetime) -> None:
    """Twice as long as the last time, unless the peer has moved since."""
    is_same = state["resent_from"] == state["peer_seq"] and state["resend_at"] is not None
    pause = min(2 * state["resend_pause_seconds"], MAX_PAUSE_SECONDS) if is_same else 0
    pause = max(pause, FIRST_PAUSE_SECONDS)
    if await _is_alive(tx, stream, now):
        pause = min(pause, ALIVE_PAUSE_SECONDS)
    await tx.execute_query(
        """update gate_upkeep set resent_from = $2, resend_pause_seconds = $3, resend_at = $4
           where stream = $1""",
        [stream, state["peer_seq"], pause, now + timedelta(seconds=pause)],
    )


async def _is_alive(tx: BaseDBAsyncClient, stream: str, now: datetime) -> bool:
    """Whether anything came from the peer lately, be it that it waits behind a gap."""
    found = await tx.execute_query_dict(
        """select exists (select from gate_peer p join gate_incoming_stream i
                            on i.stream = p.stream_in
                          where p.stream_out = $1
                            and (i.parked_files > 0 or i.applied_at > $2)) as found""",
        [stream, now - timedelta(seconds=MAX_PAUSE_SECONDS)],
    )
    return bool(found[0]["found"])


async def _write_to(
    stream: str, folder: Path, due: Sequence[range], *, is_further: bool
) -> list[int]:
    async with in_transaction() as tx:
        # The lock keeps two workers from writing the same temporary file.
        found = await tx.execute_query_dict(
            """select written_seq from gate_destination
               where stream = $1 and folder = $2 for update"""
            if is_further
            else "select written_seq from gate_outgoing_stream where stream = $1 for update",
            [stream, str(folder)] if is_further else [stream],
        )
        upto = found[0]["written_seq"] if found else 0
        return [
            seq
            for window in due
            for seq in await _write(tx, stream, folder, window.start, min(window.stop - 1, upto))
        ]


async def _write(
    tx: BaseDBAsyncClient, stream: str, folder: Path, first: int, last: int
) -> list[int]:
    written = []
    size = 0
    for seq in range(first, last + 1):
        path = folder / packets.file_name(stream, seq)
        if await asyncio.to_thread(path.exists):
            continue
        found = await tx.execute_query_dict(
            "select manifest, body from gate_outgoing_packet where stream = $1 and seq = $2",
            [stream, seq],
        )
        if not found:
            continue
        parts = [found[0]["manifest"], b"\n", found[0]["body"]]
        await asyncio.to_thread(folders.write_atomically, folder, path.name, parts)
        written.append(seq)
        size += len(found[0]["body"])
        if size >= WINDOW_BYTES:
            break
    return written
