"""Callers wait together, fail alone, and never for ever."""

import asyncio
from collections.abc import Sequence

import pytest

from estation.shared.gather import PATIENCE_SECONDS, Gatherer, Overloaded


async def test_items_that_wait_while_a_flush_runs_share_the_next_one() -> None:
    sizes: list[int] = []
    gate = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        await gate.wait()
        return [item * 2 for item in items]

    gatherer = Gatherer(flush, flushers=1, limit=64)
    gatherer.start()
    waiting = [asyncio.create_task(gatherer.submit(n)) for n in range(30)]
    await asyncio.sleep(0.01)
    gate.set()
    answers = await asyncio.gather(*waiting)
    await gatherer.stop()

    assert answers == [n * 2 for n in range(30)]
    assert sum(sizes) == 30
    assert len(sizes) <= 3


async def test_a_poisoned_item_fails_alone() -> None:
    async def flush(items: Sequence[int]) -> Sequence[int]:
        if 7 in items:
            raise ValueError("poison")
        return list(items)

    gatherer = Gatherer(flush, flushers=1)
    gatherer.start()
    answers = await asyncio.gather(*(gatherer.submit(n) for n in range(10)), return_exceptions=True)
    await gatherer.stop()

    assert [n for n, answer in enumerate(answers) if isinstance(answer, ValueError)] == [7]


async def test_a_full_queue_refuses_at_once() -> None:
    async def flush(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(10)
        return list(items)

    gatherer = Gatherer(flush, flushers=1, limit=1, waiting=2)
    gatherer.start()
    waiting = [asyncio.create_task(gatherer.submit(1))]
    await asyncio.sleep(0.01)
    waiting += [asyncio.create_task(gatherer.submit(n)) for n in (2, 3)]
    await asyncio.sleep(0.01)

    with pytest.raises(Overloaded):
        await gatherer.submit(4)

    await gatherer.stop()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


@pytest.mark.parametrize(
    ("running", "enough"),
    [
        (1, 8),  # an eighth of a full batch, and not one item
        (20, 15),
        (33, 24),  # of 64 callers: the other 31 would wait for half a batch until these are done
        (64, 32),  # half a full batch
    ],
)
async def test_a_second_flush_starts_when_enough_wait_beside_the_first(
    running: int, enough: int
) -> None:
    sizes: list[int] = []
    gate = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        await gate.wait()
        return list(items)

    gatherer = Gatherer(flush, flushers=2, limit=64)
    gatherer.start()
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(gatherer.submit(n)) for n in range(running)]
    await asyncio.sleep(0.001)
    waiting += [asyncio.create_task(gatherer.submit(n)) for n in range(enough - 1)]
    await asyncio.sleep(0.001)
    before_enough = list(sizes)
    waiting.append(asyncio.create_task(gatherer.submit(enough - 1)))
    await asyncio.sleep(0.001)
    gate.set()
    answers = await asyncio.gather(*waiting)
    await gatherer.stop()

    assert before_enough == [running]
    assert sizes == [running, enough]
    assert answers == [*range(running), *range(enough)]


async def test_a_third_flusher_serves_while_two_are_held_up() -> None:
    held = asyncio.Event()
    answered: list[int] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        if {1, 2} & set(items):
            await held.wait()
        return list(items)

    gatherer = Gatherer(flush, flushers=3, limit=64)
    gatherer.start()
    loop = asyncio.get_running_loop()
    stuck = []
    for number in (1, 2):
        stuck.append(asyncio.create_task(gatherer.submit(number)))
        await asyncio.sleep(2 * PATIENCE_SECONDS)
    begun = loop.time()
    for number in range(3, 9):
        answered.append(await asyncio.wait_for(gatherer.submit(number), 5))
    elapsed = loop.time() - begun
    still = [task.done() for task in stuck]
    held.set()
    await asyncio.gather(*stuck)
    await gatherer.stop()

    assert answered == list(range(3, 9))
    assert still == [False, False]
    assert elapsed >= PATIENCE_SECONDS, "each waited for company, and no longer than that"


async def test_one_item_does_not_stay_behind_a_flush_that_is_held_up() -> None:
    gate = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        if 0 in items:
            await gate.wait()
        return list(items)

    gatherer = Gatherer(flush, flushers=2, limit=64)
    gatherer.start()
    held = asyncio.create_task(gatherer.submit(0))
    await asyncio.sleep(0.001)

    answer = await asyncio.wait_for(gatherer.submit(1), 5)

    assert answer == 1
    assert not held.done()
    gate.set()
    assert await held == 0
    await gatherer.stop()


async def test_items_that_come_while_a_flush_runs_are_flushed_as_soon_as_it_ends() -> None:
    sizes: list[int] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        await asyncio.sleep(0)
        return list(items)

    gatherer = Gatherer(flush, flushers=2, limit=64)
    gatherer.start()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(300):
        await asyncio.gather(gatherer.submit(number), gatherer.submit(-number))
    elapsed = loop.time() - begun
    await gatherer.stop()

    assert sum(sizes) == 600
    assert elapsed < 300 * PATIENCE_SECONDS / 2
