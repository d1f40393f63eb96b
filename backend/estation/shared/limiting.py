"""How often somebody may ask: a sliding minute in Redis, and in the process while Redis is away.

The minute slides by weighing: the count of the minute before fades evenly while this one fills.
One small row for each asker; even askers are held within a fifth of the allowance, and somebody
who plays with the boundary gets the fading part twice, never two allowances at once. Refused
askings are not counted: whoever keeps trying is let in as soon as the allowance is.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger()

WINDOW_SECONDS: Final = 60
KEPT_IN_PROCESS: Final = 20_000
"""Askers remembered by one worker; the one known longest makes room."""

AT_ONCE: Final = 16
"""Connections to Redis that one worker opens for this: a burst must not open hundreds."""

ANSWER_SECONDS: Final = 0.25
AWAY_SECONDS: Final = 5.0
"""After a failure Redis is left alone for so long: nobody waits for it at each click."""

WITHOUT_REDIS = Counter("estation_limits_without_redis", "Askings counted by one worker alone")

# The same arithmetic as `taken` below; a test holds them together.
_TAKE: Final = """
local now, limit, window = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'window', 'count', 'before')
local this, into = math.floor(now / window), now % window
local at, count = tonumber(known[1]) or this, tonumber(known[2]) or 0
local before = tonumber(known[3]) or 0
if at > this then this, into = at, 0 end
if at == this - 1 then count, before = 0, count elseif at < this - 1 then count, before = 0, 0 end
if before * (window - into) / window + count + 1 > limit then
  return {this, count, before, tostring(into)}
end
redis.call('HSET', KEYS[1], 'window', this, 'count', count + 1, 'before', before)
redis.call('EXPIRE', KEYS[1], 2 * window)
return false
"""


class Tally(NamedTuple):
    """One asker's askings: in the window counted from the epoch, and in the one before."""

    window: int
    asked: int
    before: int


def taken(tally: Tally | None, *, now: float, limit: int) -> tuple[Tally | None, int]:
    """The tally with one more asking and 0, or the old tally and the seconds to wait."""
    this, into = int(now // WINDOW_SECONDS), now % WINDOW_SECONDS
    at, count, before = tally or Tally(this, 0, 0)
    if at > this:  # Another worker's clock is ahead: its window counts.
        this, into = at, 0.0
    if at == this - 1:
        count, before = 0, count
    elif at < this - 1:
        count, before = 0, 0
    if before * (WINDOW_SECONDS - into) / WINDOW_SECONDS + count + 1 > limit:
        return tally, wait_seconds(count, before, into, limit)
    return Tally(this, count + 1, before), 0


def wait_seconds(count: int, before: int, into: float, limit: int) -> int:
    """Until one more fits: in this window when the one before fades enough, else in the next."""
    if count + 1 <= limit:
        fades_at = WINDOW_SECONDS * (1 - (limit - 1 - count) / before)
        return max(1, math.ceil(fades_at - into))
    fades_at = WINDOW_SECONDS * (1 - (limit - 1) / count)
    return max(1, math.ceil(WINDOW_SECONDS - into + fades_at))


class Limiter:
    """Counts askings under a key, for all workers together while Redis answers.

    Losing Redis never refuses anybody and never fails: each worker then counts alone.
    `monotonic` tells, in seconds, when a lost one is asked again: no clock that may be put back.
    """

    def __init__(
        self, redis: Redis | None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._monotonic = monotonic
        self._own: dict[str, Tally] = {}
        self._away_until = 0.0
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def take(self, key: str, limit: int, *, now: datetime) -> int:
        """0 when `key` may ask once more in this minute, else the seconds to wait."""
        redis, at = self._redis, self._monotonic()
        if redis is not None and at >= self._away_until:
            try:
                async with asyncio.timeout(ANSWER_SECONDS), self._gate:
                    return await _take_in_redis(redis, key, limit, now.timestamp())
            except (RedisError, OSError, TimeoutError) as failure:
                self._away_until = at + AWAY_SECONDS
                log.warning("limits_without_redis", error=type(failure).__name__)
        WITHOUT_REDIS.inc()
        return self._take_here(key, limit, now.timestamp())

    def _take_here(self, key: str, limit: int, now: float) -> int:
        tally, wait = taken(self._own.pop(key, None), now=now, limit=limit)
        if tally is not None:
            self._own[key] = tally
        _make_room(self._own)
        return wait


async def _take_in_redis(redis: Redis, key: str, limit: int, now: float) -> int:
    # Digested: no address and no person stands readable in Redis, and every key is short.
    name = "limit:" + hashlib.blake2b(key.encode(errors="replace"), digest_size=16).hexdigest()
    full = await cast(
        "Awaitable[list[bytes] | None]",
        redis.eval(_TAKE, 1, name, repr(now), str(limit), str(WINDOW_SECONDS)),
    )
    if full is None:
        return 0
    return wait_seconds(int(full[1]), int(full[2]), float(full[3]), limit)


class FloodBound:
    """Who sends what nobody believes: a bucket of patience for each sender, in this process.

    A sender who was believed lately is never cut off, whoever else shares the address: the
    bound saves work and must cost no good message.
    """

    PATIENCE: Final = 600
    BACK_PER_SECOND: Final = 10
    TRUSTED_SECONDS: Final = 24 * 3600
    NOTED_SECONDS: Final = 60
    """So long a sender just believed is not written down again."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # patience, and when it was counted
        self._believed: dict[str, float] = {}

    def is_flooding(self, sender: str, *, now: datetime) -> bool:
        """True when the next message of this sender should be turned away unread."""
        if sender not in self._left:
            return False
        return self._patience(sender, now.timestamp()) < 1 and not self._is_trusted(sender, now)

    def note_refused(self, sender: str, *, now: datetime) -> None:
        left = self._patience(sender, now.timestamp()) - 1
        self._left.pop(sender, None)
        self._left[sender] = (max(0.0, left), now.timestamp())
        _make_room(self._left)

    def note_believed(self, sender: str, *, now: datetime) -> None:
        at, before = now.timestamp(), self._believed.get(sender)
        if before is not None and 0 <= at - before < self.NOTED_SECONDS:
            return
        self._believed.pop(sender, None)
        self._believed[sender] = at
        _make_room(self._believed)

    def _patience(self, sender: str, now: float) -> float:
        left, counted_at = self._left.get(sender, (float(self.PATIENCE), now))
        return min(self.PATIENCE, left + max(0.0, now - counted_at) * self.BACK_PER_SECOND)

    def _is_trusted(self, sender: str, now: datetime) -> bool:
        believed_at = self._believed.get(sender)
        return believed_at is not None and now.timestamp() - believed_at < self.TRUSTED_SECONDS


def _make_room(known: dict[str, Any]) -> None:
    """The one known longest goes first (whoever is counted again moves to the end)."""
    while len(known) > KEPT_IN_PROCESS:
        del known[next(iter(known))]
