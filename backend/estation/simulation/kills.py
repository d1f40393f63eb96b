"""Blows at commits: our programs are killed, or lose their database, before a commit or after it.

A program is what runs between two awakenings: a citizen's request, a batch of news, a round of
a job. Killed, it commits nothing more, whatever of it was still under way. Having lost its
connection, it lives on and does not know whether what it wrote has stayed.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import FrameType
from typing import Final

from asyncpg.exceptions import ConnectionDoesNotExistError


class Blow(StrEnum):
    """What happens at a commit. Stable: part of the names that are printed."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    FAILED_BEFORE = "failed before"
    FAILED_AFTER = "failed after"

    @property
    def is_before(self) -> bool:
        return self in (Blow.KILLED_BEFORE, Blow.FAILED_BEFORE)

    def strike(self, point: str) -> None:
        """Raises Crash, or what the driver raises when the connection is gone."""
        if self in (Blow.KILLED_BEFORE, Blow.KILLED_AFTER):
            raise Crash(self, point)
        raise Lost(f"{self} {point}")


OFTEN: Final = 0.35
"""Chance of a blow at a commit that has not had each kind of them yet in the cohort."""

SELDOM: Final = 0.02

STILL_AWAY: Final = 0.4
"""Chance that a database that was lost is away at the program's next commit, too."""

_NOT_THE_NAME: Final = ("estation.shared.transactions", "estation.simulation.seeded", __name__)


class Crash(BaseException):
    """The program was killed here. Not an Exception: nothing of ours may catch a kill."""

    def __init__(self, blow: "Blow", point: str) -> None:
        super().__init__(f"{blow} {point}")
        self.blow = blow


class Lost(ConnectionDoesNotExistError):  # type: ignore[misc]  # asyncpg has no types
    """The connection was lost here, because fate would have it: one that is really lost is no part
    of any story, and ends the run."""


class Fate:
    """Decides over all programs of a city, and remembers which commits were struck."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.is_calm = False
        self.commits = 0  # that took effect, ours and the world's; also single statements
        self.blows: Counter[tuple[str, str]] = Counter()  # (point, blow)
        self.reached: Counter[str] = Counter()

    @contextmanager
    def program(self) -> Iterator[None]:
        """What runs inside may be killed; outside nothing is."""
        token = running.set(Program(self))
        try:
            yield
        finally:
            running.reset(token)

    def strikes(self, point: str, *, is_troubled: bool) -> Blow | None:
        """What happens at this commit, if anything."""
        self.reached[point] += 1
        if self.is_calm:
            return None
        if is_troubled and self._chance.random() < STILL_AWAY:
            self.blows[point, Blow.FAILED_BEFORE] += 1
            return Blow.FAILED_BEFORE
        fresh = [blow for blow in Blow if not self.blows[point, blow]]
        if self._chance.random() >= (OFTEN if fresh else SELDOM):
            return None
        blow = self._chance.choice(fresh or list(Blow))
        self.blows[point, blow] += 1
        return blow


class Program:
    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self._is_dead = False
        self._is_troubled = False

    def at(self, point: str) -> Blow | None:
        """The same for this program; a dead one gets no commit through any more."""
        if self._is_dead:
            return Blow.KILLED_BEFORE
        blow = self._fate.strikes(point, is_troubled=self._is_troubled)
        self._is_dead = blow in (Blow.KILLED_BEFORE, Blow.KILLED_AFTER)
        self._is_troubled = blow in (Blow.FAILED_BEFORE, Blow.FAILED_AFTER)
        return blow


running: ContextVar[Program | None] = ContextVar("running", default=None)


async def let_the_rest_end() -> None:
    """What a struck program had under way at the same time ends, if killed at its next commit."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def name_of_commit() -> str:
    """The function of ours whose transaction or statement is being committed."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("estation.") and module not in _NOT_THE_NAME:
            return f"{module.removeprefix('estation.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "unknown"
