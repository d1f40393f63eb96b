"""Work for several parties side by side: each has its own turns, and none waits for a slow one."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from estation.shared.looping import LONGEST_PAUSE_SECONDS, pause_seconds

log = structlog.get_logger()
P = TypeVar("P")
T = TypeVar("T")

PATIENCE_SECONDS = 0.25
"""A round of quick turns is over before the next one begins."""


class TurnsFailed(Exception):
    """The parties whose last turn failed; each was logged when it did."""


@dataclass(slots=True)
class Pauses:
    """Who failed, how often in a row, and until when each is left alone."""

    failures: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, datetime] = field(default_factory=dict)

    def may_begin(self, party: str, now: datetime) -> bool:
        """Not in the pause after a failure; one beyond any was set by a clock that was wrong."""
        longest = timedelta(seconds=LONGEST_PAUSE_SECONDS)
        return not now < self._not_before.get(party, now) <= now + longest

    def failed(self, party: str, now: datetime) -> int:
        """The party's turn failed, for the n-th time in a row."""
        failures = self.failures[party] = self.failures.get(party, 0) + 1
        self._not_before[party] = now + timedelta(seconds=pause_seconds(failures, 0))
        return failures

    def went_well(self, party: str) -> int:
        """How often its turns had failed before this one."""
        self._not_before.pop(party, None)
        return self.failures.pop(party, 0)


@dataclass(slots=True)
class Turns:
    """`start` is a job: each call gives every party that `waiting` names, and that has no turn
    under way, a turn. A party whose turn failed is left alone for a while."""

    name: str
    waiting: Callable[[datetime], Awaitable[Collection[str]]]
    work: Callable[[str], Awaitable[object]]
    _under_way: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    _pauses: Pauses = field(default_factory=Pauses)

    async def start(self, now: datetime) -> None:
        """Waits a moment for the turns it starts, never for those that take long."""
        started = [
            self._start(party, now)
            for party in sorted(await self.waiting(now))
            if party not in self._under_way and self._pauses.may_begin(party, now)
        ]
        if started:
            await asyncio.wait(started, timeout=PATIENCE_SECONDS)

    async def finish(self, seconds: float = 10) -> None:
        """Let the turns under way end; those that do not are broken off. Raises TurnsFailed."""
        tasks = list(self._under_way.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._pauses.failures:
            raise TurnsFailed(", ".join(sorted(self._pauses.failures)))

    def _start(self, party: str, now: datetime) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._turn(party, now))
        self._under_way[party] = task
        task.add_done_callback(lambda _: self._under_way.pop(party, None))
        return task

    async def _turn(self, party: str, now: datetime) -> None:
        try:
            await self.work(party)
        except Exception:
            failures = self._pauses.failed(party, now)
            log.exception("turn_failed", turns=self.name, party=party, failures=failures)
        else:
            self._pauses.went_well(party)


async def side_by_side(parties: Collection[P], work: Callable[[P], Awaitable[T]]) -> list[T]:
    """One turn of each, together, and wait for all. A failing one is raised when all have ended."""
    ends = await asyncio.gather(*(work(party) for party in parties), return_exceptions=True)
    done: list[T] = []
    for end in ends:
        if isinstance(end, BaseException):
            raise end
        done.append(end)
    return done
