"""One day at the gate: three sides, four one-way media, every fault; at last both sides equal."""

import asyncio
import multiprocessing
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from estation import settings as settings_module
from estation.demo import places as places_module
from estation.demo.places import COUNTY, Places
from estation.inner import database as inner_database
from estation.local import LocalPostgres
from estation.outside.gate import keys
from estation.outside.gate.errors import Reason
from estation.shared.clock import BEIJING
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest
from estation.simulation.gate import records
from estation.simulation.gate.faults import KILLED
from estation.simulation.gate.media import Medium
from estation.simulation.gate.program import ONLINE, Answer, Order, Start, run
from estation.simulation.running import FAST

CENTRE: Final = "jc-center"
INNER: Final = (CENTRE, COUNTY)
SIDES: Final = (ONLINE, *INNER)
MORNING: Final = datetime(2026, 8, 3, 0, 0, tzinfo=UTC)  # 8:00 in Beijing
STEPS: Final = (5, 10, 20, 20, 30, 30, 60, 60, 120)
USUAL_STEP: Final = timedelta(seconds=40)
"""What a step of the day takes on the average; faults come by the hour, however long one is."""
NIGHT_STEPS: Final = (60, 120, 120, 180, 300)
OFFICE_HOURS: Final = range(8, 20)
WORK, NIGHT_WORK, NIGHT_DESKS = 0.35, 0.15, 0.0
"""How often somebody works in a step. By night the desks are closed and few citizens pay; the
programs, their media and their faults know no night."""
PEACE_STEP: Final = timedelta(seconds=20)
LONGEST_PEACE: Final = timedelta(hours=6)
PATIENCE_SECONDS: Final = 120
DATABASES: Final[Mapping[str, str]] = {ONLINE: "online", CENTRE: "inner", COUNTY: "inner_county"}
KILLS: Final = 0.02
MOST_POINTS: Final = 30
DISKS: Final = 0.002
CLOCKS: Final = 0.002
SERVER: Final = {**FAST, "autovacuum": "on"}
"""A day is long enough for tables that change all the time to be mostly dead rows."""
PRELOADED: Final = ("estation.cli", "estation.simulation.gate.program")
"""What a side's process finds ready: it is started again after every death."""
LONGEST_TROUBLE: Final = timedelta(hours=1)
FARTHEST_CLOCK: Final = timedelta(hours=2)


Program = Callable[[Start, Connection], None]
"""What runs in a side's process; tests plant a fault in it."""


class NotEqual(Exception):
    """The faults are over and the sides are not the same: what differs, and the day's story."""


class ProgramFailed(Exception):
    """A side's program ended or hung although nobody killed it."""


@dataclass(slots=True)
class Ending:
    """Of a day: what was met, done and healed, and how the two sides of each stream ended."""

    seed: int
    hours: float
    met: Counter[str] = field(default_factory=Counter)
    did: Counter[str] = field(default_factory=Counter)
    healed: Counter[str] = field(default_factory=Counter)
    peace: timedelta = timedelta()
    rows: Counter[str] = field(default_factory=Counter)
    roots: dict[tuple[str, str, str], tuple[int, str, bool]] = field(default_factory=dict)
    fork: str = ""  # what the online side says of the stream that two senders wrote
    broken: str = ""
    story: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a day is. `share`: of what is to be played, the peace behind it not counted; `lost`:
    files that did not come, or came damaged; `healed`: packets written again for them."""

    doing: str
    clock: timedelta
    share: float
    sealed: int
    applied: int
    lost: int
    healed: int
    kills: int


Told = Callable[[Seen], None]
LOST: Final = ("file lost", "file lost in the dark", "file cut short", "bit turned over")


@dataclass(slots=True)
class _Trouble:
    """What a side lives with until a moment."""

    until: datetime = MORNING
    disk: str = "roomy"
    clock: timedelta = timedelta()


class _Side:
    """The process of a side; started again when it was killed."""

    def __init__(self, name: str, seed: str, environment: dict[str, str], program: Program) -> None:
        self.name = name
        self._program = program
        self._seed = seed
        self._environment = environment
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._lives = 0
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self.trouble = _Trouble()

    def tell(self, what: str, now: datetime, *, count: int = 0, kill_in: int = 0) -> Answer:
        """Give an order and wait for what came of it. Raises ProgramFailed when the program
        failed by itself."""
        pipe = self._started()
        order = Order(what, now + self.trouble.clock, count, kill_in, self.trouble.disk)
        pipe.send(order)
        if not pipe.poll(PATIENCE_SECONDS):
            raise ProgramFailed(f"{self.name} did not answer: {what}")
        try:
            answer: Answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise ProgramFailed(f"{self.name} failed at {what}: {self._end()}") from None
        if answer.killed_at and self._end() != KILLED:
            raise ProgramFailed(f"{self.name} was to be killed at {answer.killed_at}")
        return answer

    def stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._end()

    def _started(self) -> Connection:
        if self._pipe is None:
            self._lives += 1
            self._pipe, theirs = self._context.Pipe()
            start = Start(self.name, self._environment, f"{self._seed}:{self.name}:{self._lives}")
            self._process = self._context.Process(
                target=self._program, args=(start, theirs), daemon=True
            )
            self._process.start()
            theirs.close()
        return self._pipe

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if process is None:
            return None
        process.join(PATIENCE_SECONDS)
        return process.exitcode


class Day:
    """`play` goes through the hours, ends the faults, and compares. One seed, one day."""

    def __init__(
        self,
        seed: int,
        hours: float,
        places: Places,
        postgres: LocalPostgres,
        *,
        program: Program = run,
        longest_peace: timedelta = LONGEST_PEACE,
    ) -> None:
        self._chance = random.Random(f"gate:{seed}")
        self._now = MORNING
        self._until = MORNING + timedelta(hours=hours)
        self._longest_peace = longest_peace
        self._told: Told = lambda seen: None
        self.ending = Ending(seed, hours)
        self._sides = {
            name: _Side(name, str(seed), _environment(name, places, postgres), program)
            for name in SIDES
        }
        self._media = [
            Medium(name, ends, random.Random(f"medium:{seed}:{name}"))
            for name, ends in _ways(places).items()
        ]

    def play(self, told: Told) -> Ending:
        """`told` hears after every step how far the day is. A day that does not end with equal
        sides says so in `broken`; nothing of the program is allowed to fail."""
        self._told = told
        try:
            self._open()
            while self._now < self._until:
                self._step()
                self._tell("the faults go on")
            self._make_peace()
            self._break_trust()
        except NotEqual as difference:
            self.ending.broken = str(difference)
        except ProgramFailed as failure:
            self.ending.broken = f"{self._clock()}: {failure}"
        else:
            for side in self._sides.values():
                self.ending.healed += side.tell("healed", self._now).events
        finally:
            self._sum_up()
            for side in self._sides.values():
                side.stop()
        return self.ending

    def _open(self) -> None:
        for name in INNER:
            self._tell(f"{name} opens")
            self._sides[name].tell("open", self._now)
        self._sides[ONLINE].tell("add_county", self._now)

    def _step(self) -> None:
        is_night = self._now.astimezone(BEIJING).hour not in OFFICE_HOURS
        passed = timedelta(seconds=self._chance.choice(NIGHT_STEPS if is_night else STEPS))
        share = passed / USUAL_STEP
        self._now += passed
        for name in self._chance.sample(SIDES, len(SIDES)):
            side = self._sides[name]
            self._visit_trouble(side, share)
            work = (NIGHT_WORK if name == ONLINE else NIGHT_DESKS) if is_night else WORK
            if self._chance.random() < work:
                did = side.tell("work", self._now, count=self._chance.randint(1, 4))
                self.ending.did += did.events
            self._give_turn(side, share)
        for medium in self._media:
            self._say(medium.carry(self._now, passed))

    def _give_turn(self, side: _Side, share: float) -> None:
        is_struck = self._chance.random() < KILLS * share
        kill_in = self._chance.randint(1, MOST_POINTS) if is_struck else 0
        answer = side.tell("turn", self._now, kill_in=kill_in)
        self._note(answer)
        if answer.killed_at:
            self.ending.met[f"killed, {answer.killed_at}".replace("_", " ")] += 1
            self._say(f"{side.name}: killed, {answer.killed_at}")

    def _visit_trouble(self, side: _Side, share: float) -> None:
        """A full disk or a clock that jumps, for a while; then all is well again."""
        trouble = side.trouble
        if self._now >= trouble.until and (trouble.disk != "roomy" or trouble.clock):
            self._say(f"{side.name}: disk and clock are well again")
            side.trouble = _Trouble()
        elif self._now >= trouble.until and self._chance.random() < DISKS * share:
            side.trouble = _Trouble(self._end(), disk=self._chance.choice(["full", "low"]))
            self.ending.met[f"disk {side.trouble.disk}"] += 1
            self._say(f"{side.name}: the disk is {side.trouble.disk}")
        elif self._now >= trouble.until and self._chance.random() < CLOCKS * share:
            jump = FARTHEST_CLOCK * (2 * self._chance.random() - 1)
            side.trouble = _Trouble(self._end(), clock=jump)
            self.ending.met[f"clock jumped {'ahead' if jump > timedelta() else 'back'}"] += 1
            self._say(f"{side.name}: the clock jumped by {jump}")

    def _end(self) -> datetime:
        return self._now + LONGEST_TROUBLE * self._chance.random()

    def _make_peace(self) -> None:
        """Nothing is lost any more; nobody lends a hand. Raises NotEqual."""
        began = self._now
        for medium in self._media:
            medium.is_calm = True
        for side in self._sides.values():
            side.trouble = _Trouble()
        for name in INNER:
            self._note(self._sides[name].tell("mend", self._now))
        self._say("the faults are over")
        while faults := self._what_differs():
            if self._now - began > self._longest_peace:
                raise NotEqual("\n".join(faults))
            for _ in range(5):
                self._quiet_step()
        self.ending.peace = self._now - began
        self._say(f"all sides are equal after {self.ending.peace}")
        self._prove()

    def _quiet_step(self) -> None:
        self._now += PEACE_STEP
        for side in self._sides.values():
            self._note(side.tell("turn", self._now))
        for medium in self._media:
            medium.carry(self._now, PEACE_STEP)
        self._tell("the faults are over, the sides become equal")

    def _tell(self, doing: str) -> None:
        media = sum((medium.summary() for medium in self._media), Counter[str]())
        did, met = self.ending.did, self.ending.met
        self._told(
            Seen(
                doing,
                self._now - MORNING,
                min(1.0, (self._now - MORNING) / (self._until - MORNING)),
                sealed=did["packets sealed"],
                applied=did["packets applied"],
                lost=sum(media[fate] for fate in LOST),
                healed=did["packets written again"],
                kills=sum(times for fault, times in met.items() if fault.startswith("killed")),
            )
        )

    def _what_differs(self) -> list[str]:
        faults = []
        for side in self._sides.values():
            for stream in side.tell("status", self._now).value:
                if stream.state != "running" or stream.waiting_rows or stream.unwritten_files:
                    faults.append(
                        f"{side.name}: {stream.stream} {stream.direction} is {stream.state}"
                        f" {stream.reason}, {stream.waiting_rows} rows wait"
                    )
        online = self._sides[ONLINE].tell("has", self._now).value
        self.ending.rows = Counter()
        for name in INNER:
            centre = self._sides[name].tell("has", self._now).value[name]
            self.ending.rows += Counter({topic: len(rows) for topic, rows in centre.items()})
            faults += [
                f"{name}: {fault}" for fault in records.differences(centre, online.get(name, {}))
            ]
        return faults

    def _prove(self) -> None:
        """Proofs of everything cross, and all of them find the same. Raises NotEqual."""
        for side in self._sides.values():
            side.tell("prove", self._now)
        for _ in range(20):
            self._quiet_step()
        for side in self._sides.values():
            self.ending.roots |= side.tell("roots", self._now).value
        different = [key for key, (_, _, is_equal) in self.ending.roots.items() if not is_equal]
        if different or not self.ending.roots:
            raise NotEqual(f"proofs found other rows: {different}")

    def _break_trust(self) -> None:
        """Two senders use the county's key: its stream stops and says why, the city's goes on.
        Raises NotEqual when it does not."""
        county, online = self._sides[COUNTY], self._sides[ONLINE]
        county.tell("impostor", self._now)
        self._carry_and_receive()
        for _ in range(3):
            self._now += PEACE_STEP
            county.tell("turn", self._now)
            self._carry_and_receive()
        for name in INNER:
            self._sides[name].tell("work", self._now, count=3)
        for _ in range(10):
            self._quiet_step()
        streams = {
            stream.stream: stream
            for stream in online.tell("status", self._now).value
            if stream.direction == "in"
        }
        forked, well = streams[f"{COUNTY}-online"], streams[f"{CENTRE}-online"]
        if forked.stopped_reason != Reason.fork or not well.healthy:
            raise NotEqual(f"after a fork: {forked.reason or 'running'}; {well.reason}")
        self.ending.met["two senders with one key"] += 1
        self.ending.fork = f"{forked.stream}: {forked.reason}"
        self._say(f"online says: {self.ending.fork}")

    def _carry_and_receive(self) -> None:
        for medium in self._media:
            medium.carry(self._now, PEACE_STEP)
        self._sides[ONLINE].tell("turn", self._now)

    def _note(self, answer: Answer) -> None:
        self.ending.did += answer.events

    def _sum_up(self) -> None:
        for medium in self._media:
            self.ending.met += medium.summary()
        self.ending.healed["packets written again"] = self.ending.did.pop(
            "packets written again", 0
        )

    def _say(self, words: str) -> None:
        if words:
            self.ending.story.append(f"{self._clock()} {words}")

    def _clock(self) -> str:
        return str(self._now - MORNING)


def play_here(seed: int, hours: float, *, told: Told, **options: Any) -> Ending:
    """One day with a PostgreSQL and folders of its own, which are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="estation-gate-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's unprivileged user walks through it
        return play(seed, hours, folder=Path(folder), told=told, **options)


def play(seed: int, hours: float, *, folder: Path, told: Told, **options: Any) -> Ending:
    """The same below `folder`, for whoever wants to look at what is left."""
    places = Places(folder, 1, 2, 3, has_county=True)
    _make(places)
    with _postgres(folder / "pg") as postgres:
        return Day(seed, hours, places, postgres, **options).play(told)


@contextmanager
def _postgres(folder: Path) -> Iterator[LocalPostgres]:
    server = LocalPostgres(folder, settings=SERVER).start()
    try:
        for side in (ONLINE, CENTRE):
            server.create_database(DATABASES[side])
            asyncio.run(_migrate(side, server.url(DATABASES[side])))
        # The same program as the centre's: its empty tables are copied in a moment.
        server.create_database(DATABASES[COUNTY], template=DATABASES[CENTRE])
        # Whoever opens a database next in this process gets the tables that all sides have.
        inner_database.release_shared_models()
        yield server
    finally:
        server.stop(mode="immediate")


async def _migrate(side: str, url: str) -> None:
    inner_database.release_shared_models()
    config = settings_module.database(url) if side == ONLINE else inner_database.database(url)
    await migrate_to_newest(config, dsn=asyncpg_dsn(url))


def _make(places: Places) -> None:
    places_module.make_folders(places)
    places_module.make_data_key(places)
    for side in SIDES:
        keys.make_pair(
            private=places.secrets / "gate" / f"{side}_key.pem",
            public=places.secrets / "gate" / f"{side}_public.pem",
        )


def _environment(side: str, places: Places, postgres: LocalPostgres) -> dict[str, str]:
    common = places_module.child_environment(
        places,
        online_db=postgres.url(DATABASES[ONLINE]),
        inner_db=postgres.url(DATABASES[CENTRE]),
        redis="redis://127.0.0.1:1",
    )
    if side == COUNTY:
        common |= places_module.county_environment(places, database=postgres.url(DATABASES[COUNTY]))
    return common


def _ways(places: Places) -> dict[str, tuple[Path, Path]]:
    """Name -> from and to, each direction of each internal platform."""
    gates: dict[str, tuple[Path, Path]] = {
        CENTRE: (places.inner_gate, places.online_gate),
        COUNTY: (places.county_gate, places.county_peer),
    }
    found: dict[str, tuple[Path, Path]] = {}
    for name, (inner, online) in gates.items():
        found[f"{name} to online"] = (inner / "outgoing", online / "incoming")
        found[f"online to {name}"] = (online / "outgoing", inner / "incoming")
    return found
