"""The incoming side's disk: what the device brings may not fill it.

Applying needs no space in the folder, so it always goes on; what can be had again gives way.
"""

import asyncio
import contextlib
import os
from datetime import datetime
from pathlib import Path

import structlog

from estation.outside.gate import bounds, events, folders, shortage
from estation.outside.gate import format as packets
from estation.outside.gate.events import Alarm
from estation.outside.gate.folders import Listing
from estation.outside.gate.shortage import Where

log = structlog.get_logger()

KEEP_NEXT = 10
"""So many of the packets that are applied next are never given up."""


async def make_room(
    stream: str,
    folder: Path,
    listing: Listing,
    *,
    disk_reserve: int,
    alarm: Alarm | None = None,
    now: datetime,
) -> None:
    """While the disk is nearly full: old quarantined files go, then symbols and packets farthest
    ahead.

    Nothing is lost by either: refused files are recorded, and packets we have not applied are
    unconfirmed, so that the sender writes them again. What went is taken from `listing` and kept
    as an event; somebody is told until there is room again (`shortage`).
    """
    if await asyncio.to_thread(bounds.free_bytes, folder) >= disk_reserve:
        return
    evidence = await asyncio.to_thread(folders.drop_quarantined, folder, disk_reserve)
    pieces = await asyncio.to_thread(_drop_symbols, folder, listing, disk_reserve)
    ahead = await asyncio.to_thread(_drop_ahead, folder, listing, disk_reserve)
    log.error(
        "gate_disk_low", stream=stream, quarantined=evidence, symbols=pieces, ahead=len(ahead)
    )
    await shortage.begins(
        stream, Where.disk, detail={"disk_reserve": disk_reserve}, alarm=alarm, now=now
    )
    if evidence or pieces or ahead:
        await events.record(
            stream,
            "disk_low",
            now=now,
            first_seq=min(ahead, default=None),
            last_seq=max(ahead, default=None),
            reason="disk_low",
            detail={
                "quarantined_files": evidence,
                "symbols": pieces,
                "packets_ahead": len(ahead),
            },
        )


def _drop_symbols(folder: Path, listing: Listing, disk_reserve: int) -> int:
    """Those of the next packets stay."""
    names: dict[int, list[str]] = {}
    for name in listing.symbols:
        parsed = packets.parse_symbol_name(name)
        if parsed is not None:
            names.setdefault(parsed.seq, []).append(name)
    dropped: set[str] = set()
    for seq in sorted(names, reverse=True)[:-KEEP_NEXT]:
        if bounds.free_bytes(folder) >= disk_reserve:
            break
        for name in names[seq]:
            folders.remove(folder / name)
        dropped.update(names[seq])
    listing.symbols[:] = [name for name in listing.symbols if name not in dropped]
    return len(dropped)


def _drop_ahead(folder: Path, listing: Listing, disk_reserve: int) -> list[int]:
    dropped = []
    for seq in sorted(listing.packets, reverse=True)[:-KEEP_NEXT]:
        if bounds.free_bytes(folder) >= disk_reserve:
            break
        with contextlib.suppress(OSError):
            os.unlink(folder / listing.packets[seq])
        del listing.packets[seq]
        dropped.append(seq)
    return dropped
