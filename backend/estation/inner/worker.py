"""The background program of the internal side: what came is applied, what waits is packed.

Each round is idempotent and every step a transaction of its own, so the program may be killed
at any moment and started again, also twice at once.
"""

from dataclasses import dataclass
from datetime import datetime

import structlog
from tortoise import Tortoise

from estation.inner import database, packets
from estation.outside.gate import keys, receiving, sending
from estation.outside.gate.receiving import ReceiveReport
from estation.settings import InnerSettings
from estation.shared.clock import Clock, system_clock
from estation.shared.looping import repeat, stop_on_signals

log = structlog.get_logger()

POLL_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did."""

    received: ReceiveReport
    packed: list[int]


class GateSide:
    """This side's end of the gate, with its keys read once."""

    def __init__(self, settings: InnerSettings) -> None:
        self._settings = settings
        self._key = keys.load_seal_key(settings.secret(settings.gate.signing_key_file))
        self._peer = keys.load_peer_key(settings.secret(settings.gate.peer_public_key_file))

    async def run_once(self, now: datetime) -> Round:
        """Apply what lies in `incoming/`, then pack what waits into `outgoing/`.

        Packing also sends the heartbeat when it is due. Each is bounded; call again for more.
        """
        gate = self._settings.gate
        received = await receiving.apply_incoming(
            gate.stream_in,
            folder=gate.folder / "incoming",
            peer_key=self._peer,
            handlers=packets.make_handlers(source=self._settings.source, now=now),
            now=now,
            reply_stream=gate.stream_out,
        )
        packed = await sending.pack_waiting(
            gate.stream_out,
            folder=gate.folder / "outgoing",
            key=self._key,
            max_rows=gate.pack_max_rows,
            now=now,
        )
        return Round(received, packed)


async def run_once(settings: InnerSettings, now: datetime) -> Round:
    """One round on an initialised database, for tests and tools."""
    return await GateSide(settings).run_once(now)


async def work(settings: InnerSettings, *, clock: Clock = system_clock) -> None:
    """Round after round until SIGTERM or SIGINT, then finish the one at hand."""
    stopping = stop_on_signals()
    side = GateSide(settings)
    await Tortoise.init(
        config=database.database(settings.database_url), _enable_global_fallback=True
    )
    try:
        log.info("inner_worker_started")
        await repeat(
            "gate", side.run_once, every_seconds=POLL_SECONDS, clock=clock, stopping=stopping
        )
    finally:
        await Tortoise.close_connections()
        log.info("inner_worker_stopped")
