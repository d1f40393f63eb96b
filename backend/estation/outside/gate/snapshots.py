"""Everything ever sent, once more: what a receiver jumps to that lost more than we can repeat.

A snapshot is a `begin` row, the parts of files that are not confirmed (`loose`), every row of the
log by topic and key, and an `end` row, in ordinary
packets between which ordinary rows go on as ever. It leaves piece by piece; each piece is
committed with its packet and with the place in the log it reached, so that a crash at any point
goes on there. The `end` says how many rows there are and their Merkle roots, at exactly its
position (`exact`): whoever holds all packets of the run can tell that he holds everything.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import structlog
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import format as packets
from estation.outside.gate import loose, merkle, rows, sentlog
from estation.outside.gate.rows import SnapshotRow, TopicRoot
from estation.shared import ids

log = structlog.get_logger()

TOPIC = "snapshot"
PIECE_ROWS = 5000
PIECE_BYTES = 8 * 1024 * 1024
MIN_ROOM = packets.MAX_LINE_BYTES
_FIRST = ("", "", "")


class Why(StrEnum):
    """Why a snapshot leaves."""

    schedule = "schedule"
    asked = "asked"  # by a person
    beyond_kept = "beyond_kept"  # the peer misses packets we have forgotten
    stuck = "stuck"  # the peer stands still although its packets were written again
    unconfirmed = "unconfirmed"  # too much is unconfirmed


async def plan(stream: str, why: Why, *, now: datetime) -> bool:
    """One leaves with the next packets; False when one is planned or on its way already."""
    planned = await Tortoise.get_connection("default").execute_query_dict(
        """insert into gate_snapshot
           (id, stream, why, state, topic, source, key, is_exhausted, rows, planned_at)
           values ($1, $2, $3, 'planned', '', '', '', false, 0, $4)
           on conflict (stream) where state in ('planned', 'running') do nothing
           returning id""",
        [ids.row_id(now), stream, why.value, now],
    )
    if planned:
        log.info("gate_snapshot_planned", stream=stream, why=why.value)
    return bool(planned)


async def next_piece(
    tx: BaseDBAsyncClient, stream: str, seq: int, *, max_rows: int, max_bytes: int, now: datetime
) -> list[bytes]:
    """Lines of the running snapshot for packet `seq`, none when there is no room for more.

    Joins the packet's transaction, which holds the lock on the stream.
    """
    max_rows, max_bytes = min(max_rows - 1, PIECE_ROWS), min(max_bytes - MIN_ROOM, PIECE_BYTES)
    running = await _running(tx, stream)
    if running is None or running["is_exhausted"] or max_rows < 1 or max_bytes < MIN_ROOM:
        return []
    lines = []
    if running["state"] == "planned":
        lines.append(_line(SnapshotRow(snapshot_id=str(running["id"]), phase="begin", as_of=now)))
    if running["topic"] == "":  # the log has not begun: its first topic has a name
        piece = await loose.read_after(
            tx,
            stream,
            running["key"],
            before=running["first_seq"] or seq,
            max_rows=max_rows,
            max_bytes=max_bytes,
        )
        lines += piece.lines
        max_rows -= len(piece.lines)
        max_bytes -= sum(map(len, piece.lines))
        if not piece.is_last or max_rows < 1 or max_bytes < MIN_ROOM:
            await _begin(tx, running["id"], seq, piece.place)
            return lines
    after = (running["topic"], running["source"], running["key"]) if running["topic"] else _FIRST
    found, is_last = await sentlog.read_after(
        tx, stream, after, limit=max_rows, max_bytes=max_bytes
    )
    if found:
        after = found[-1][:3]
        lines += [packets.line(row.topic, rows.respelt(row.topic, row.body)) for row in found]
    await tx.execute_query(
        """update gate_snapshot
           set state = 'running', first_seq = coalesce(first_seq, $2), topic = $3, source = $4,
               key = $5, rows = rows + $6, is_exhausted = $7
           where id = $1""",
        [running["id"], seq, *after, len(found), is_last],
    )
    return lines


async def _begin(tx: BaseDBAsyncClient, snapshot_id: UUID, seq: int, place: str) -> None:
    """It has reached this place among the loose rows."""
    await tx.execute_query(
        """update gate_snapshot
           set state = 'running', first_seq = coalesce(first_seq, $2), key = $3 where id = $1""",
        [snapshot_id, seq, place],
    )


async def end(
    tx: BaseDBAsyncClient,
    stream: str,
    seq: int,
    trees: dict[tuple[str, str], merkle.Tree],
    *,
    complete: bool,
    now: datetime,
) -> bytes:
    """The line that ends the running snapshot at this position, where the log is `trees`."""
    found = await tx.execute_query_dict(
        """update gate_snapshot set state = 'done', last_seq = $2, ended_at = $3
           where stream = $1 and state = 'running' and is_exhausted returning id, rows""",
        [stream, seq, now],
    )
    log.info("gate_snapshot_sent", stream=stream, seq=seq, rows=found[0]["rows"])
    return _line(
        SnapshotRow(
            snapshot_id=str(found[0]["id"]),
            phase="end",
            as_of=now,
            topics=[
                TopicRoot(topic=topic, source=source, rows=tree.rows, root=tree.root)
                for (topic, source), tree in sorted(trees.items())
            ],
            complete=complete,
        )
    )


async def _running(tx: BaseDBAsyncClient, stream: str) -> dict[str, Any] | None:
    found = await tx.execute_query_dict(
        """select id, state, topic, source, key, is_exhausted, first_seq from gate_snapshot
           where stream = $1 and state in ('planned', 'running')""",
        [stream],
    )
    return found[0] if found else None


def _line(row: SnapshotRow) -> bytes:
    return packets.line(TOPIC, rows.encode_row(TOPIC, row))
