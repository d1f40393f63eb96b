"""A sliding minute, the same in Redis and without it; and patience with forgers that ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from redis.asyncio import Redis

from estation.local import LocalValkey
from estation.shared import limiting
from estation.shared.limiting import FloodBound, Limiter, Tally, taken

NOW = datetime(2026, 3, 1, 2, 0, 7, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
async def redis(valkey: LocalValkey) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalValkey]:
    folder = tmp_path_factory.mktemp("mortal")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    server = LocalValkey(folder / "valkey").start()
    yield server
    server.stop()


@pytest.fixture
async def mortal(own_valkey: LocalValkey) -> AsyncIterator[tuple[LocalValkey, Redis]]:
    """A Valkey that a test may kill, and a client as the program makes it."""
    client = Redis.from_url(own_valkey.url, socket_timeout=1, socket_connect_timeout=1)
    yield own_valkey, client
    await client.aclose()


@pytest.fixture(params=["with redis", "without"])
def limiter(request: pytest.FixtureRequest, redis: Redis) -> Limiter:
    return Limiter(redis if request.param == "with redis" else None)


async def test_the_allowance_is_given_and_then_the_wait_is_named(limiter: Limiter) -> None:
    waits = [await limiter.take("anna", 5, now=NOW) for _ in range(7)]

    assert waits[:5] == [0] * 5
    assert 53 <= waits[5] == waits[6] <= 70
    assert await limiter.take("bo", 5, now=NOW) == 0


async def test_who_waits_as_told_is_let_in_and_not_before(limiter: Limiter) -> None:
    for _ in range(5):
        await limiter.take("anna", 5, now=NOW)
    wait = await limiter.take("anna", 5, now=NOW)

    assert await limiter.take("anna", 5, now=at(wait - 2)) > 0
    assert await limiter.take("anna", 5, now=at(wait)) == 0


async def test_two_full_minutes_do_not_meet_at_the_boundary(limiter: Limiter) -> None:
    """A plain minute would give ten in two seconds."""
    end_of_minute, next_minute = at(52), at(54)
    for _ in range(5):
        assert await limiter.take("anna", 5, now=end_of_minute) == 0

    assert await limiter.take("anna", 5, now=next_minute) > 0


async def test_a_hundred_at_once_get_exactly_the_allowance(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiting, "ANSWER_SECONDS", 10)  # a busy machine is not the subject
    waits = await asyncio.gather(*(limiter.take("anna", 20, now=NOW) for _ in range(100)))

    assert waits.count(0) == 20


async def test_redis_and_the_process_count_alike(redis: Redis) -> None:
    shared, own, chance = Limiter(redis), Limiter(None), Random(7)  # noqa: S311 -- no secret
    now = NOW
    for _ in range(400):
        now += timedelta(seconds=chance.choice([0, 0, 0.25, 3, 20, 59, 61, 130]))
        limit = 6
        asked = [await one.take("anna", limit, now=now) for one in (shared, own)]
        assert asked[0] == asked[1], now


async def test_workers_share_the_count_and_redis_holds_no_readable_name(redis: Redis) -> None:
    one, other = Limiter(redis), Limiter(Redis(connection_pool=redis.connection_pool))
    waits = [await worker.take("from:10.0.0.1", 4, now=NOW) for worker in (one, other) * 3]

    keys = await redis.keys("*")

    assert waits.count(0) == 4
    assert [key.startswith(b"limit:") and b"10.0.0.1" not in key for key in keys] == [True]
    assert 0 < await redis.ttl(keys[0]) <= 120


async def test_redis_killed_midway_refuses_nobody_and_the_worker_counts_on(
    mortal: tuple[LocalValkey, Redis],
) -> None:
    server, client = mortal
    limiter = Limiter(client)
    before = [await limiter.take("anna", 5, now=NOW) for _ in range(3)]
    server.stop()

    after = [await limiter.take("anna", 5, now=NOW) for _ in range(8)]

    assert before == [0] * 3
    assert after[:5] == [0] * 5
    assert all(wait > 0 for wait in after[5:])


async def test_a_redis_that_hangs_costs_one_short_wait_and_is_asked_again_later(
    mortal: tuple[LocalValkey, Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = mortal
    limiter, loop = Limiter(client), asyncio.get_running_loop()
    assert await limiter.take("anna", 50, now=NOW) == 0
    pid = server._process.pid if server._process else 0
    os.kill(pid, signal.SIGSTOP)
    began = loop.time()
    try:
        waits = [await limiter.take("anna", 50, now=NOW) for _ in range(20)]
    finally:
        os.kill(pid, signal.SIGCONT)

    assert waits == [0] * 20
    assert loop.time() - began < 3 * limiting.ANSWER_SECONDS
    monkeypatch.setattr(limiter, "_away_until", 0.0)
    assert await limiter.take("anna", 50, now=NOW) == 0
    assert await client.keys("limit:*")


async def test_a_crowd_of_askers_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "KEPT_IN_PROCESS", 100)
    limiter = Limiter(None)
    for n in range(1000):
        await limiter.take(f"asker {n}", 5, now=NOW)

    assert len(limiter._own) == 100


def test_no_minute_gives_even_askers_more_than_a_fifth_above_the_allowance() -> None:
    """The weighed minute against an exact one: random arrivals, worst minute counted."""
    chance = Random(3)  # noqa: S311 -- no secret
    now, tally, let_in = 0.0, None, list[float]()
    for _ in range(20_000):
        now += chance.expovariate(1.0)
        tally, wait = taken(tally, now=now, limit=30)
        if not wait:
            let_in.append(now)

    worst = max(sum(0 <= t - one < 60 for t in let_in[i : i + 80]) for i, one in enumerate(let_in))

    assert 30 <= worst <= 36


def test_a_clock_that_is_behind_does_not_open_a_new_minute() -> None:
    full = Tally(window=100, asked=5, before=0)

    assert taken(full, now=99 * 60 + 59, limit=5)[1] > 0


def test_patience_ends_comes_back_and_is_each_senders_own() -> None:
    bound = FloodBound()
    for _ in range(bound.PATIENCE):
        assert not bound.is_flooding("a", now=NOW)
        bound.note_refused("a", now=NOW)

    assert bound.is_flooding("a", now=NOW)
    assert not bound.is_flooding("b", now=NOW)
    assert not bound.is_flooding("a", now=at(1))


def test_a_sender_who_was_believed_today_is_never_cut_off() -> None:
    bound = FloodBound()
    bound.note_believed("a", now=NOW)
    for _ in range(2 * bound.PATIENCE):
        bound.note_refused("a", now=NOW)

    assert not bound.is_flooding("a", now=NOW)
    bound.note_refused("a", now=at(90_000))
    for _ in range(2 * bound.PATIENCE):
        bound.note_refused("a", now=at(90_000))
    assert bound.is_flooding("a", now=at(90_000))


def test_a_flood_from_everywhere_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "KEPT_IN_PROCESS", 100)
    bound = FloodBound()
    for n in range(1000):
        bound.note_refused(f"sender {n}", now=NOW)

    assert len(bound._left) == 100
