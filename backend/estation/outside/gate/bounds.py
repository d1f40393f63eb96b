"""How much a side may pile up before it packs no further, and what it then says."""

import errno
import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

log = structlog.get_logger()

MIB = 1024 * 1024
SNAPSHOTS_BEYOND = 3


class Pause(StrEnum):
    """Why nothing is packed. Stable codes, shown to staff; each ends by itself."""

    disk_low = "disk_low"  # the folder's disk is nearly full
    unconfirmed = "unconfirmed"  # the peer has not said for too long that anything arrived


@dataclass(frozen=True, slots=True)
class Bounds:
    """`packets` and `size`: sealed, with content, and not yet known to have arrived.

    Such packets are kept whatever happens; rows beyond them wait. `disk_reserve`: bytes of the
    gate folder's disk that we leave free.
    """

    packets: int = 20_000
    size: int = 4096 * MIB
    disk_reserve: int = 256 * MIB


DEFAULT = Bounds()


class Limits(Protocol):
    """The settings this is read from."""

    @property
    def max_unconfirmed_packets(self) -> int: ...
    @property
    def max_unconfirmed_mb(self) -> int: ...
    @property
    def disk_reserve_mb(self) -> int: ...


def from_settings(gate: Limits) -> Bounds:
    return Bounds(
        gate.max_unconfirmed_packets, gate.max_unconfirmed_mb * MIB, gate.disk_reserve_mb * MIB
    )


def free_bytes(folder: Path) -> int:
    """Of the disk `folder` is on, or will be when it is made. Blocking."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def is_full(problem: OSError) -> bool:
    """Whether writing failed for want of space."""
    return problem.errno in (errno.ENOSPC, errno.EDQUOT)


async def beyond(tx: BaseDBAsyncClient, stream: str, bounds: Bounds) -> bool:
    """Whether the peer has confirmed too little of what was sealed; two look-ups by key."""
    found = await tx.execute_query_dict(
        """select newest.contents_upto - oldest.contents_upto + (oldest.rows > 0)::int as packets,
                  newest.bytes_upto - oldest.bytes_upto + octet_length(oldest.body) as size
           from gate_outgoing_stream s
             join gate_outgoing_packet newest on newest.stream = $1 and newest.seq = s.last_seq
             join gate_outgoing_packet oldest
               on oldest.stream = $1 and oldest.seq = s.peer_received_seq + 1
           where s.stream = $1""",
        [stream],
    )
    return bool(found) and (
        found[0]["packets"] >= bounds.packets or found[0]["size"] >= bounds.size
    )


async def lets_snapshot_through(tx: BaseDBAsyncClient, stream: str, bounds: Bounds) -> bool:
    """Whether a snapshot, and what waits before it, may leave although we are `beyond`.

    A peer that stands still at a row it refuses waits for the correction, and the correction for
    the peer. So for each of the peer's positions SNAPSHOTS_BEYOND may begin (a correction may
    come after the first), and any a person asks for; one that began always ends.
    """
    found = await tx.execute_query_dict(
        """select exists (
             select from gate_snapshot n
             where n.stream = $1 and (n.state = 'running' or n.state = 'planned' and (
               n.why = 'asked' or $4 > (
                 select count(*)
                 from gate_outgoing_stream s
                   join gate_outgoing_packet oldest
                     on oldest.stream = $1 and oldest.seq = s.peer_received_seq + 1
                   join gate_snapshot done
                     on done.stream = $1 and done.state = 'done' and done.first_seq > oldest.seq
                   join gate_outgoing_packet before
                     on before.stream = $1 and before.seq = done.first_seq - 1
                 where s.stream = $1 and (
                   before.contents_upto - oldest.contents_upto + (oldest.rows > 0)::int >= $2
                   or before.bytes_upto - oldest.bytes_upto + octet_length(oldest.body) >= $3
                 ))))) as found""",
        [stream, bounds.packets, bounds.size, SNAPSHOTS_BEYOND],
    )
    return bool(found[0]["found"])


async def note_pause(stream: str, reason: Pause | None, *, now: datetime) -> None:
    """Say why nothing is packed, or that packing goes on. Logged when it begins and ends."""
    changed = await Tortoise.get_connection("default").execute_query_dict(
        """update gate_upkeep
           set paused_reason = $2, paused_at = case when $2 = '' then null else $3::timestamptz end
           where stream = $1 and paused_reason <> $2 returning stream""",
        [stream, reason.value if reason else "", now],
    )
    if changed and reason:
        log.error("gate_packing_paused", stream=stream, reason=reason.value)
    elif changed:
        log.info("gate_packing_goes_on", stream=stream)
