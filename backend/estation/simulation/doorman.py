"""The count of askings at the door, with a Redis that is lost for whole stretches.

Redis holds nothing but this count: sessions, orders and locks are in PostgreSQL. Losing it must
turn nobody away and change no money. How long a lost one is left alone is told by the city's
clock: by the machine's own, a slow machine would count other askings than a fast one.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from redis.exceptions import ConnectionError as RedisConnectionError

from estation.limits import ALLOWANCES
from estation.shared.errors import TooManyRequests
from estation.shared.limiting import Limiter


class FickleRedis:
    """Knows the one command our programs ever send; any other use of it fails the run."""

    def __init__(self) -> None:
        self.is_lost = False

    async def eval(self, *_: Any) -> None:
        if self.is_lost:
            raise RedisConnectionError("lost")


class Doorman:
    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.redis = FickleRedis()
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Our program was killed: what a worker counted by itself is gone."""
        self._limiter = Limiter(
            cast("Any", self.redis), monotonic=lambda: self._clock().timestamp()
        )

    async def let_in(self, person_id: UUID) -> None:
        """Raises TooManyRequests."""
        limit = ALLOWANCES["attempt"].viewer
        wait = await self._limiter.take(f"attempt:by:{person_id}", limit, now=self._clock())
        if wait:
            raise TooManyRequests(retry_after_seconds=wait)
