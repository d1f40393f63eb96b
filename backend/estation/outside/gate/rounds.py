"""Packing and receiving for every peer side by side: none waits for a slow one.

The peers are looked up in the table every few seconds. Each has at most one turn of a kind under
way; a few turns work at the same time. A folder that does not answer (a hung mount) is noticed
before its turn begins: it holds a thread, but neither a place nor a connection.
"""

import asyncio
import contextlib
import errno
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from tortoise import Tortoise

from estation.outside.gate import bounds as limits
from estation.outside.gate import (
    destinations,
    keys,
    later,
    patience,
    receiving,
    sending,
    shortage,
    symbols,
    upkeep,
)
from estation.outside.gate import peers as peers_module
from estation.outside.gate.arriving import Seal, Unseal
from estation.outside.gate.bounds import Bounds, Pause
from estation.outside.gate.events import Alarm
from estation.outside.gate.peers import Destination, Peer
from estation.outside.gate.receiving import Handler, ReceiveReport
from estation.outside.gate.shortage import Where
from estation.outside.gate.symbols import Cutting
from estation.outside.gate.upkeep import Schedule
from estation.shared.turns import Pauses, TurnsFailed

log = structlog.get_logger()

LOOK_EVERY = timedelta(seconds=2)
AT_WORK = 4
"""Turns of one kind that work at once; each may hold a database connection or two."""
TURN_SECONDS = 900.0
"""The longest turn, after which it is broken off and tried again later; one that jumps to a
snapshot has longer (jumping.SECONDS_A_PACKET)."""
PATIENCE_SECONDS = 0.25
ANSWER_SECONDS = 5.0
NO_ANSWER = "no answer"
THREADS = 64
SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter from the others; Python's own is ten times that."""
_ROOM_STEP = 16 * limits.MIB

Secret = Callable[[str], bytes]
Work = Callable[[Peer, datetime], Awaitable[object]]


def use_enough_threads() -> None:
    """Folders that hang hold threads; the default handful would soon be used up by two peers.

    And the loop, which feeds the database, must not wait 5 ms for a thread that reads a packet
    each time the database has answered.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    sys.setswitchinterval(SWITCH_SECONDS)


async def pack_for(
    peer: Peer,
    *,
    secret: Secret,
    max_rows: int,
    now: datetime,
    bounds: Bounds = limits.DEFAULT,
    cutting: Cutting | None = None,
    alarm: Alarm | None = None,
) -> list[int]:
    """Pack what waits for the peer and write it to its folder and further destinations.

    The files in its folder go on to the device as symbols when `cutting` (the settings') is of
    this folder, or the table says so of the peer; those of a further destination when the table
    says so of it. `alarm` hears of a device that takes none.

    Raises OSError when its own folder or device cannot be written, after the others had theirs.
    """
    key = keys.load_seal_key(secret(peer.signing_key(now).file))
    failure: OSError | None = None
    try:
        packed = await _pack(peer, peer.outgoing, key, max_rows, now, bounds)
    except OSError as problem:
        if not peer.destinations:
            raise
        failure = problem
        packed = await _pack(peer, None, key, max_rows, now, bounds)
    if failure is None and (own := _cutting_of(peer, cutting)) is not None:
        try:
            await _cut(peer, peer.outgoing, own, alarm, now)
        except OSError as problem:
            failure = problem
    for destination in peer.destinations:
        trouble = await _write_further(peer, destination, bounds, alarm, now)
        await destinations.note_failure(peer.stream_out, destination.folder, trouble, now=now)
    if failure is not None:
        raise failure
    return packed


def _cutting_of(peer: Peer, cutting: Cutting | None) -> Cutting | None:
    return cutting if cutting is not None and cutting.of == peer.folder else peer.cutting


async def _write_further(
    peer: Peer, destination: Destination, bounds: Bounds, alarm: Alarm | None, now: datetime
) -> str:
    """What keeps one folder or its device from being written is said, and is nobody else's."""
    troubles: list[str] = []
    try:
        if not await _answers(destination.folder):
            return NO_ANSWER
        if await _free(destination.folder) < bounds.disk_reserve:
            troubles.append(Pause.disk_low)
        else:
            await destinations.write_missing(peer.stream_out, destination.folder)
    except OSError as problem:
        troubles.append(_words_of(problem))
    if destination.cutting is not None:
        try:
            await _cut(peer, destination.folder, destination.cutting, alarm, now)
        except OSError as problem:
            troubles.append(_words_of(problem))
    return "; ".join(dict.fromkeys(troubles))


def _words_of(problem: OSError) -> str:
    return problem.strerror or type(problem).__name__


async def _cut(
    peer: Peer, outgoing: Path, cutting: Cutting, alarm: Alarm | None, now: datetime
) -> None:
    """Raises OSError when the device's folder cannot be written, or hangs."""
    if not await _answers(cutting.folder):
        raise OSError(errno.ETIMEDOUT, NO_ANSWER)
    if await asyncio.to_thread(symbols.device_is_full, cutting.folder):
        detail = {"files": symbols.MAX_WAITING}
        await shortage.begins(peer.stream_out, Where.device, detail=detail, alarm=alarm, now=now)
        return
    await asyncio.to_thread(
        symbols.cut_folder, outgoing, cutting.folder, repair_percent=cutting.repair_percent
    )


async def receive_from(
    peer: Peer,
    *,
    handlers: Mapping[str, Handler],
    now: datetime,
    alarm: Alarm | None = None,
    seal: Seal | None = None,
    unseal: Unseal | None = None,
    bounds: Bounds = limits.DEFAULT,
) -> ReceiveReport:
    """Apply what came from the peer, within what it may write (`seal` and `unseal`: for rows that
    are kept aside), and first what came before this program knew its topic."""
    await later.take_up(
        peer.stream_in, handlers=handlers, scope=peer.scope, now=now, alarm=alarm, seal=seal,
        unseal=unseal,
    )  # fmt: skip
    return await receiving.apply_incoming(
        peer.stream_in,
        folder=peer.incoming,
        peer_key=peer.key_ring(now),
        handlers=handlers,
        now=now,
        reply_stream=peer.stream_out,
        scope=peer.scope,
        alarm=alarm,
        seal=seal,
        disk_reserve=bounds.disk_reserve,
    )


async def look_after(
    peer: Peer,
    *,
    schedule: Schedule,
    bounds: Bounds,
    now: datetime,
    cutting: Cutting | None = None,
) -> list[int]:
    """Write lost packets again, plan proofs and snapshots that are due, note the room left, and
    that there is some again where there was none (`cutting`: as of `pack_for`)."""
    free = await _free(peer.folder)
    further = await _room_of_further(peer)
    await _note_room(peer, min([free, *further.values()]))
    written = await upkeep.look_after(
        peer.stream_out,
        folder=peer.outgoing,
        now=now,
        schedule=schedule,
        bounds=bounds,
        further=list(further),
    )
    # Last: a device's folder that cannot be read holds up nothing above.
    # A quarter more than must be free: else it would begin and end with each packet.
    has_room = free >= bounds.disk_reserve * 5 // 4
    await _end_shortages(peer, _cutting_of(peer, cutting), has_room, now)
    return written


@dataclass(slots=True)
class _Turns:
    """One kind of work over all peers."""

    work: Work
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_WORK))
    under_way: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    pauses: Pauses = field(default_factory=Pauses)


class Rounds:
    """`pack`, `receive` and `look_after` are jobs: each call gives every idle peer its turn and
    does not wait for those that take long. `prepare` runs before the table is first looked at."""

    def __init__(
        self,
        *,
        prepare: Callable[[datetime], Awaitable[None]],
        pack: Work,
        receive: Work,
        look_after: Work | None = None,
    ) -> None:
        self._prepare = prepare
        self._prepared = False
        self._peers: list[Peer] = []
        self._looked_at: datetime | None = None
        self._packing = _Turns(pack)
        self._receiving = _Turns(receive)
        self._looking_after = _Turns(look_after or _nothing)

    async def pack(self, now: datetime) -> None:
        await self._round(self._packing, now)

    async def receive(self, now: datetime) -> None:
        await self._round(self._receiving, now)

    async def look_after(self, now: datetime) -> None:
        await self._round(self._looking_after, now)

    async def finish(self, seconds: float = 10) -> None:
        """Let the turns under way end; those that do not are broken off. Safe at any point:
        every step is a transaction of its own. Raises TurnsFailed."""
        tasks = [task for turns in self._kinds for task in turns.under_way.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        failed = sorted({name for turns in self._kinds for name in turns.pauses.failures})
        if failed:
            raise TurnsFailed(", ".join(failed))

    @property
    def _kinds(self) -> tuple[_Turns, ...]:
        return self._packing, self._receiving, self._looking_after

    async def _round(self, turns: _Turns, now: datetime) -> None:
        started = [
            self._start(turns, peer, now)
            for peer in await self._active_peers(now)
            if peer.name not in turns.under_way and turns.pauses.may_begin(peer.name, now)
        ]
        if started:
            await asyncio.wait(started, timeout=PATIENCE_SECONDS)

    async def _active_peers(self, now: datetime) -> list[Peer]:
        if not self._prepared:
            await self._prepare(now)
            self._prepared = True
        if self._looked_at is None or abs(now - self._looked_at) >= LOOK_EVERY:
            self._peers = await peers_module.peers(only_active=True)
            self._looked_at = now
        return self._peers

    def _start(self, turns: _Turns, peer: Peer, now: datetime) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._turn(turns, peer, now))
        turns.under_way[peer.name] = task
        task.add_done_callback(lambda _: turns.under_way.pop(peer.name, None))
        return task

    async def _turn(self, turns: _Turns, peer: Peer, now: datetime) -> None:
        try:
            await self._wait_for_folder(peer, now)
            async with turns.places, patience.at_most(TURN_SECONDS):
                await turns.work(peer, now)
        except Exception as failure:
            failures = turns.pauses.failed(peer.name, now)
            log.exception("gate_turn_failed", peer=peer.name, failures=failures)
            await _note_trouble(peer.name, _words(failure), now=now)
        else:
            had_trouble = turns.pauses.went_well(peer.name) or peer.trouble
            if had_trouble and not self._fails(peer):
                await _note_trouble(peer.name, "", now=now)

    def _fails(self, peer: Peer) -> bool:
        """In any of them: what one hides the others must not."""
        return any(peer.name in turns.pauses.failures for turns in self._kinds)

    async def _wait_for_folder(self, peer: Peer, now: datetime) -> None:
        """As long as it takes, for this peer only; others see why after a while."""
        asking = asyncio.ensure_future(asyncio.to_thread(_touch, peer.folder))
        done, _ = await asyncio.wait([asking], timeout=ANSWER_SECONDS)
        if not done:
            log.error("gate_folder_silent", peer=peer.name, folder=str(peer.folder))
            await _note_trouble(peer.name, "folder_silent", now=now)
        await asking


async def _nothing(peer: Peer, now: datetime) -> None:
    """For programs that leave the upkeep to another."""


async def _pack(
    peer: Peer,
    folder: Path | None,
    key: keys.SealKey,
    max_rows: int,
    now: datetime,
    bounds: Bounds,
) -> list[int]:
    return await sending.pack_waiting(
        peer.stream_out, folder=folder, key=key, max_rows=max_rows, now=now, bounds=bounds
    )


_asked: dict[Path, "asyncio.Future[None]"] = {}
"""Destinations that have not answered yet: they are not asked again meanwhile."""


async def _answers(folder: Path) -> bool:
    """Whether a destination's folder answers in time. One that refuses has answered."""
    asking = _asked.get(folder)
    if asking is None or asking.done():
        asking = asyncio.ensure_future(asyncio.to_thread(_touch, folder))
        _asked[folder] = asking
        await asyncio.wait([asking], timeout=ANSWER_SECONDS)
    if not asking.done():
        return False
    del _asked[folder]
    asking.exception()  # an OSError is met again, and kept, when the folder is written
    return True


async def _free(folder: Path) -> int:
    return await asyncio.to_thread(limits.free_bytes, folder)


async def _room_of_further(peer: Peer) -> dict[Path, int]:
    """Of the destinations that answer. Not of one that cannot say: `pack_for` notes its failure,
    and it holds up nothing of the others."""
    room: dict[Path, int] = {}
    for folder in [one.folder for one in peer.destinations if await _answers(one.folder)]:
        with contextlib.suppress(OSError):
            room[folder] = await _free(folder)
    return room


async def _note_room(peer: Peer, free: int) -> None:
    """That of the fullest disk, and only when it is news: this runs every two seconds."""
    if peer.disk_free is not None and abs(peer.disk_free - free) < _ROOM_STEP:
        return
    await Tortoise.get_connection("default").execute_query(
        "update gate_peer set disk_free = $2 where name = $1", [peer.name, free]
    )


async def _end_shortages(
    peer: Peer, cutting: Cutting | None, has_room: bool, now: datetime
) -> None:
    found = await shortage.open_of(peer.stream_in)
    if Where.disk in found and has_room:
        await shortage.ends(peer.stream_in, Where.disk, now=now)
    if Where.symbols in found and await asyncio.to_thread(symbols.has_room, peer.incoming):
        await shortage.ends(peer.stream_in, Where.symbols, now=now)
    if Where.device in await shortage.open_of(peer.stream_out):
        devices = [cutting, *(one.cutting for one in peer.destinations)]
        if all([await _device_has_room(one.folder) for one in devices if one is not None]):
            await shortage.ends(peer.stream_out, Where.device, now=now)


async def _device_has_room(folder: Path) -> bool:
    return await _answers(folder) and await asyncio.to_thread(symbols.device_has_room, folder)


def _touch(folder: Path) -> None:
    """Hangs when the folder's mount does. One that does not exist yet is made by its first file."""
    folder.exists()


async def _note_trouble(name: str, trouble: str, *, now: datetime) -> None:
    await Tortoise.get_connection("default").execute_query(
        """update gate_peer
           set trouble = $2, trouble_at = case when $2 = '' then null else $3::timestamptz end
           where name = $1 and trouble <> $2""",
        [name, trouble[:64], now],
    )


def _words(failure: Exception) -> str:
    """Kind only: a database's message may quote personal data."""
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return type(failure).__name__
