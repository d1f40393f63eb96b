"""The background program of the internal side: what came is applied, what waits is packed.

Each round is idempotent and every step a transaction of its own, so the program may be killed
at any moment and started again, also twice at once.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime

import structlog
from tortoise import Tortoise

from estation.inner import database, packets
from estation.outside.gate import bounds as limits
from estation.outside.gate import files, peering, peers, rounds, symbols, upkeep
from estation.outside.gate.arriving import Handler
from estation.outside.gate.peers import Peer
from estation.outside.gate.receiving import ReceiveReport
from estation.settings import InnerSettings
from estation.shared.clock import Clock, system_clock
from estation.shared.collecting import calm_the_collector
from estation.shared.looping import repeat, stop_on_signals
from estation.shared.turns import TurnsFailed

log = structlog.get_logger()

POLL_SECONDS = 0.3
UPKEEP_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did."""

    received: ReceiveReport
    packed: list[int]


class GateSide:
    """This side's end of the gate: one peer, the online side, that the settings name."""

    def __init__(self, settings: InnerSettings) -> None:
        self._settings = settings
        self._bounds = limits.from_settings(settings.gate)
        self._cutting = symbols.from_settings(settings.gate)

    async def prepare(self, now: datetime) -> None:
        """The peer is in the table. What comes from it concerns this centre's own rows only."""
        await peering.keep_first_peer(
            self._settings.gate,
            title="线上平台",
            sources=[self._settings.source],
            secret=self._settings.secret,
            now=now,
        )

    async def pack(self, peer: Peer, now: datetime) -> list[int]:
        """Pack what waits into `outgoing/`; also the heartbeat when it is due."""
        return await rounds.pack_for(
            peer,
            secret=self._settings.secret,
            max_rows=self._settings.gate.pack_max_rows,
            bounds=self._bounds,
            cutting=self._cutting,
            now=now,
        )

    async def receive(self, peer: Peer, now: datetime) -> ReceiveReport:
        """Apply what lies in `incoming/`.

        No alarm: there are no incidents here. Findings are kept (`gate_event`) and logged, and
        what still needs somebody is on every page, in `/metrics` and in `gate status`.
        """
        return await rounds.receive_from(
            peer,
            handlers=self._handlers(now),
            bounds=self._bounds,
            now=now,
        )

    def _handlers(self, now: datetime) -> dict[str, Handler]:
        return packets.make_handlers(source=self._settings.source, now=now)

    async def look_after_files(self, now: datetime) -> None:
        """Of topics that carry some. No alarm, as in `receive`."""
        await files.look_after_all(self._handlers(now), alarm=None, now=now)

    async def look_after(self, peer: Peer, now: datetime) -> list[int]:
        """Lost packets again, proofs and snapshots by the clock."""
        gate = self._settings.gate
        schedule = upkeep.schedule_of(
            snapshot_hours=gate.snapshot_hours, prove_minutes=gate.prove_minutes
        )
        return await rounds.look_after(
            peer, schedule=schedule, bounds=self._bounds, now=now, cutting=self._cutting
        )


async def run_once(settings: InnerSettings, now: datetime) -> Round:
    """One round on an initialised database, for tests and tools: apply, then pack. Each is
    bounded; call again for more."""
    side = GateSide(settings)
    await side.prepare(now)
    name, _ = peering.ends(settings.gate)
    peer = await peers.peer_named(name)
    received = await side.receive(peer, now)
    return Round(received, await side.pack(peer, now))


async def work(settings: InnerSettings, *, clock: Clock = system_clock) -> None:
    """Round after round until SIGTERM or SIGINT, then finish the one at hand."""
    stopping = stop_on_signals()
    rounds.use_enough_threads()
    calm_the_collector()
    side = GateSide(settings)
    turns = rounds.Rounds(
        prepare=side.prepare, pack=side.pack, receive=side.receive, look_after=side.look_after
    )
    await Tortoise.init(
        config=database.database(settings.database_url), _enable_global_fallback=True
    )
    try:
        log.info("inner_worker_started")
        await asyncio.gather(
            *(
                repeat(name, run, every_seconds=seconds, clock=clock, stopping=stopping)
                for name, seconds, run in (
                    ("gate_in", POLL_SECONDS, turns.receive),
                    ("gate_out", POLL_SECONDS, turns.pack),
                    ("gate_upkeep", UPKEEP_SECONDS, turns.look_after),
                    ("gate_files", UPKEEP_SECONDS, side.look_after_files),
                )
            )
        )
        with contextlib.suppress(TurnsFailed):  # it was logged when it happened
            await turns.finish()
    finally:
        await Tortoise.close_connections()
        log.info("inner_worker_stopped")
