"""A burst enters a few at a time, in order, and others get their turn in between."""

import asyncio
import itertools

import pytest

from estation.shared.gather import Overloaded
from estation.shared.turnstile import Turnstile


async def test_of_a_burst_a_few_enter_with_each_pass_in_the_order_they_came() -> None:
    turnstile, entered = Turnstile(2), list[int]()

    async def caller(number: int) -> None:
        await turnstile.enter()
        entered.append(number)

    callers = [asyncio.create_task(caller(n)) for n in range(7)]
    after_each_pass = []
    for _ in range(12):
        await asyncio.sleep(0)
        after_each_pass.append(len(entered))
    await asyncio.gather(*callers)

    assert entered == list(range(7))
    steps = [after - before for before, after in itertools.pairwise([0, *after_each_pass])]
    assert max(steps) == 2


async def test_a_reply_that_comes_in_the_middle_of_a_burst_is_heard_before_its_end() -> None:
    turnstile, entered = Turnstile(1), list[int]()
    reply = asyncio.get_running_loop().create_future()
    heard_after = 0

    async def caller(number: int) -> None:
        await turnstile.enter()
        entered.append(number)
        if number == 1:
            asyncio.get_running_loop().call_soon(reply.set_result, None)

    async def who_waits_for_the_reply() -> None:
        nonlocal heard_after
        await reply
        heard_after = len(entered)

    await asyncio.gather(who_waits_for_the_reply(), *(caller(n) for n in range(20)))

    assert len(entered) == 20
    assert heard_after < 6


async def test_who_hangs_up_while_waiting_takes_nobodys_place() -> None:
    turnstile, entered = Turnstile(1), list[int]()

    async def caller(number: int) -> None:
        await turnstile.enter()
        entered.append(number)

    callers = [asyncio.create_task(caller(n)) for n in range(4)]
    await asyncio.sleep(0)
    callers[2].cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert entered == [0, 1, 3]


async def test_one_who_comes_alone_later_enters_at_once() -> None:
    turnstile = Turnstile(1)
    for _ in range(3):
        await turnstile.enter()
    for _ in range(3):
        await asyncio.sleep(0)

    entering = turnstile.enter()
    with pytest.raises(StopIteration):
        entering.send(None)


async def test_when_too_many_wait_the_next_one_is_refused_at_once() -> None:
    turnstile = Turnstile(1, waiting=2)
    callers = [asyncio.create_task(turnstile.enter()) for _ in range(4)]

    ends = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(end) for end in ends] == [type(None)] * 3 + [Overloaded]
