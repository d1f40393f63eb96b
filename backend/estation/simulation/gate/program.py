"""One side of the gate as a process of its own, told what to do and when, that may be killed."""

import asyncio
import logging
import os
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any, Final, Protocol
from unittest import mock

import structlog
from tortoise import Tortoise

from estation import settings as settings_module
from estation import worker
from estation.inner import database as inner_database
from estation.inner import worker as inner_worker
from estation.outside.gate import folders, keys, peers, upkeep
from estation.outside.gate import format as packets
from estation.outside.gate.errors import PeerUnknown
from estation.outside.gate.peers import Peer
from estation.outside.gate.receiving import ReceiveReport
from estation.outside.gate.status import StreamStatus, stream_status
from estation.settings import InnerSettings
from estation.shared import ids
from estation.simulation.gate import records
from estation.simulation.gate.centre import Desks
from estation.simulation.gate.faults import Faults, met_by
from estation.simulation.gate.payers import Payers
from estation.simulation.seeded import SeededSecrets

ONLINE: Final = "online"


@dataclass(frozen=True, slots=True)
class Start:
    """Who this is, its environment, and the seed of everything it decides."""

    side: str
    environment: dict[str, str]
    seed: str


@dataclass(frozen=True, slots=True)
class Order:
    """`what` is a method of a side; `kill_in` and `disk` as in `faults.Faults`."""

    what: str
    now: datetime
    count: int = 0
    kill_in: int = 0
    disk: str = "roomy"


@dataclass(slots=True)
class Answer:
    """What came of an order: events by name with their numbers, or a value that was asked for."""

    events: Counter[str] = field(default_factory=Counter)
    value: Any = None
    killed_at: str = ""


class Gate(Protocol):
    """`worker.GateSide` and `inner.worker.GateSide`."""

    async def prepare(self, now: datetime) -> None: ...
    async def pack(self, peer: Peer, now: datetime) -> list[int]: ...
    async def receive(self, peer: Peer, now: datetime) -> ReceiveReport: ...
    async def look_after(self, peer: Peer, now: datetime) -> list[int]: ...


def run(start: Start, pipe: Connection) -> None:
    """The process: answers orders, one after the other, until the pipe ends."""
    os.environ.clear()
    os.environ.update(start.environment)
    # Troubles are the point here; the day tells them.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    faults = Faults(tell=lambda point: pipe.send(Answer(killed_at=point)))
    secrets = SeededSecrets(random.Random(f"ids:{start.seed}"))
    with mock.patch.object(ids, "secrets", secrets), met_by(faults):
        asyncio.run(_serve(start, pipe, faults))


async def _serve(start: Start, pipe: Connection, faults: Faults) -> None:
    chance = random.Random(start.seed)
    if start.side == ONLINE:
        side: _Side = _OnlineSide(chance)
    else:
        side = _InnerSide(chance)
    await Tortoise.init(config=side.database(), _enable_global_fallback=True)
    try:
        while True:
            try:
                order: Order = pipe.recv()
            except EOFError:
                return
            faults.kill_in, faults.disk = order.kill_in, order.disk
            answer = await getattr(side, order.what)(order)
            faults.kill_in, faults.disk = 0, "roomy"
            pipe.send(answer)
    finally:
        await Tortoise.close_connections()


class _Side(ABC):
    """What both kinds of sides can be told."""

    gate: Gate

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._is_prepared = False

    @abstractmethod
    def database(self) -> dict[str, Any]:
        """For `Tortoise.init`."""

    async def turn(self, order: Order) -> Answer:
        """What the worker does every second or two: receive, pack, look after, for every peer."""
        answer = Answer()
        if not self._is_prepared:
            await self.gate.prepare(order.now)
            self._is_prepared = True
        for peer in await peers.peers(only_active=True):
            received = await self._try(answer, self.gate.receive, peer, order.now)
            if received is not None:
                answer.events["packets applied"] += len(received.applied)
                answer.events["rows applied"] += received.rows
                answer.events["repeats passed over"] += received.duplicates
                for _, reason in received.quarantined:
                    answer.events[f"refused: {reason}"] += 1
            packed = await self._try(answer, self.gate.pack, peer, order.now)
            answer.events["packets sealed"] += len(packed or ())
            again = await self._try(answer, self.gate.look_after, peer, order.now)
            answer.events["packets written again"] += len(again or ())
        return answer

    async def _try(
        self,
        answer: Answer,
        work: Callable[[Peer, datetime], Awaitable[Any]],
        peer: Peer,
        now: datetime,
    ) -> Any:
        """A disk that is full fails a turn, and the next one goes on; so does a clock that was put
        back before the day on which our key begins."""
        try:
            return await work(peer, now)
        except OSError as problem:
            answer.events[f"a turn failed: {problem.strerror}"] += 1
        except PeerUnknown:
            answer.events["a turn failed: no key of ours is valid yet"] += 1
        return None

    async def prove(self, order: Order) -> Answer:
        """A proof of everything leaves in every outgoing stream."""
        for peer in await peers.peers(only_active=True):
            await upkeep.prove(peer.stream_out)
        return Answer()

    async def status(self, order: Order) -> Answer:
        found: list[StreamStatus] = await stream_status()
        return Answer(value=found)

    async def healed(self, order: Order) -> Answer:
        """What the gate kept about its own healing, by kind."""
        return Answer(events=await records.events())

    async def roots(self, order: Order) -> Answer:
        """(stream, topic, source) -> (rows, root, equal) of the newest proof that came."""
        return Answer(value=await records.newest_proofs())


class _InnerSide(_Side):
    """A centre: the desks, and its end of the gate."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._settings = InnerSettings.read()
        self.gate = inner_worker.GateSide(self._settings)
        self._desks = Desks(self._settings, chance)

    def database(self) -> dict[str, Any]:
        return inner_database.database(self._settings.database_url)

    async def open(self, order: Order) -> Answer:
        await self._desks.open(order.now)
        return Answer()

    async def work(self, order: Order) -> Answer:
        return Answer(events=Counter(await self._desks.work(order.count, order.now)))

    async def mend(self, order: Order) -> Answer:
        """What the centre's program wrote wrongly leaves once more, rightly."""
        return Answer(events=Counter({"mend": await self._desks.mend_all(order.now)}))

    async def impostor(self, order: Order) -> Answer:
        """Somebody else who has this centre's key writes the next packet of its stream."""
        (peer,) = await peers.peers(only_active=True)
        last = await records.newest_packet(peer.stream_out)
        built = packets.build(
            stream=peer.stream_out,
            seq=last["last_seq"] + 1,
            previous=last["last_digest"],
            lines=[],
            watermark=order.now,
            created_at=order.now,
            key=keys.load_seal_key(self._settings.secret(peer.signing_key(order.now).file)),
        )
        name = packets.file_name(peer.stream_out, last["last_seq"] + 1)
        folders.write_atomically(peer.outgoing, name, [built.manifest, b"\n", built.body])
        return Answer(value=name)

    async def has(self, order: Order) -> Answer:
        """What this side knows: its own records, and what came back."""
        return Answer(value=await records.of_centre(self._settings.source))


class _OnlineSide(_Side):
    """The online platform: citizens who pay, and its end of the gate for every source."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._payers = Payers(chance)
        self.gate = worker.GateSide(self._payers.services)

    def database(self) -> dict[str, Any]:
        return settings_module.database(self._payers.services.settings.database_url)

    async def add_county(self, order: Order) -> Answer:
        """The county joins by its key, as an operator does it."""
        await self.gate.prepare(order.now)
        await records.add_county(self._payers.services.settings, now=order.now)
        return Answer()

    async def work(self, order: Order) -> Answer:
        return Answer(events=Counter(await self._payers.work(order.count, order.now)))

    async def turn(self, order: Order) -> Answer:
        await self._payers.look_after_money(order.now)
        return await super().turn(order)

    async def has(self, order: Order) -> Answer:
        """What came from every source, and what was paid here."""
        return Answer(value=await records.of_online())
