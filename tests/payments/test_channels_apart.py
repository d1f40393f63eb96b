"""One channel's outage is its own: the other's money is asked about and given back meanwhile.

Also: a channel that is out is left alone more and more, and nobody asks about the same twice.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from estation.outside.pay_channels import Channel, ChannelUnknown, Scene
from estation.payments import api, jobs
from estation.payments.actions import asking, silent
from estation.payments.actions.refunds import send
from estation.payments.api import OrderState
from estation.payments.invariants import broken_invariants
from tests.payments.city import TOTAL, City, count, later, make_bill, rows
from tests.payments.fakes import NOW, UNKNOWN, FakeChannel

A_MINUTE_LATER = later(minutes=1)
WAIT_SECONDS = 30
"""So long a test waits for what must happen; none waits in vain when all is well."""


@pytest.fixture
def city() -> City:
    return City()


class Hanging:
    """A channel's verb that answers only when it is let go."""

    def __init__(self, channel: FakeChannel, verb: str) -> None:
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()
        channel.during[verb] = self._hang

    async def _hang(self, number: str) -> None:
        self.reached.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await self.let_go.wait()


def ends_of(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> dict[str, asyncio.Event]:
    """Set for an account when its turn, the real one, has ended."""
    ended: dict[str, asyncio.Event] = {}
    real: Callable[..., Awaitable[Any]] = getattr(module, name)

    async def tapped(account_id: str, *args: Any, **more: Any) -> Any:
        try:
            return await real(account_id, *args, **more)
        finally:
            ended.setdefault(account_id, asyncio.Event()).set()

    monkeypatch.setattr(module, name, tapped)
    return ended


async def happens(ended: dict[str, asyncio.Event], account_id: str) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await ended.setdefault(account_id, asyncio.Event()).wait()


async def alipay_order(city: City) -> tuple[UUID, str]:
    order = await city.order(await make_bill(city.person_id))
    attempt = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    return order.id, attempt.out_trade_no


async def given_back_at_both(city: City) -> dict[str, str]:
    """A paid order at each channel, wholly on its way back: account -> refund number."""
    _, wechat_order, number = await city.opened()
    order_id, other = await alipay_order(city)
    city.wechat.pay(number)
    city.alipay.pay(other)
    await api.settle_batch(
        [api.from_report(city.wechat.report(number)), api.from_report(city.alipay.report(other))],
        now=later(seconds=5),
    )
    for one in (wechat_order.id, order_id):
        await asked_back(one, TOTAL)
    found = await rows("select account_id, refund_no from pay_refund")
    return {row["account_id"]: row["refund_no"] for row in found}


async def asked_back(
    order_id: UUID, amount_fen: int, *, approved: bool = True, at: datetime = A_MINUTE_LATER
) -> UUID:
    left = sum(one.refundable_fen for one in await api.refundable_of(order_id=order_id))
    request = await api.ask_refund(
        order_id=order_id,
        amount_fen=amount_fen,
        believed_refundable_fen=left,
        reason="多缴退还",
        by="maker",
        now=at,
    )
    if approved:
        await api.approve_refund(request_id=request, by="checker", now=at)
    return request


async def state_of_refund(refund_no: str) -> str:
    (row,) = await rows("select state from pay_refund where refund_no = $1", refund_no)
    return str(row["state"])


async def test_a_payment_at_one_channel_is_found_while_the_other_hangs(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    await city.opened()
    order_id, number = await alipay_order(city)
    city.alipay.pay(number)
    hanging = Hanging(city.wechat, "query")
    ended = ends_of(monkeypatch, silent, "query_account")

    round_ = asyncio.create_task(jobs.query_silent_attempts(city.services, now=later(seconds=10)))
    await happens(ended, city.alipay.account_id)
    state, is_over = (await api.order_of(city.person_id, order_id)).state, round_.done()
    hanging.let_go.set()
    counts = await round_

    assert (state, is_over) == (OrderState.PAID, False)
    assert (counts["asked"], counts["answered"]) == (2, 2)


async def test_an_order_ends_at_one_channel_while_the_other_hangs(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    await city.opened()
    order_id, _ = await alipay_order(city)
    hanging = Hanging(city.wechat, "close")
    ended = ends_of(monkeypatch, silent, "query_account")

    round_ = asyncio.create_task(jobs.query_silent_attempts(city.services, now=later(minutes=15)))
    await happens(ended, city.alipay.account_id)
    closed = await jobs.close_due_orders(city.services, now=later(minutes=15))
    hanging.let_go.set()
    await round_

    assert closed == {"closed": 1}
    assert (await api.order_of(city.person_id, order_id)).state is OrderState.CLOSED


async def test_money_goes_back_at_one_channel_while_the_other_hangs(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = await given_back_at_both(city)
    hanging = Hanging(city.wechat, "refund")
    ended = ends_of(monkeypatch, send, "send_account")

    round_ = asyncio.create_task(jobs.send_refunds(city.services, now=later(minutes=2)))
    await happens(ended, city.alipay.account_id)
    state, is_over = await state_of_refund(numbers[city.alipay.account_id]), round_.done()
    hanging.let_go.set()
    counts = await round_

    assert (state, is_over) == ("succeeded", False)
    assert counts == {"asked": 2, "answered": 2}
    assert await state_of_refund(numbers[city.wechat.account_id]) == "processing"


async def test_in_the_worker_the_healthy_channel_has_its_next_turns_too(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hung turn is not begun a second time, and ends with its channel's answer."""
    await city.opened()
    hanging = Hanging(city.wechat, "query")
    ended = ends_of(monkeypatch, silent, "query_account")
    moment = later(seconds=10)
    services = city.services
    services.clock = lambda: moment
    turns = jobs.silent_turns(services)

    await turns.start(moment)
    paid = []
    for round_ in range(1, 3):
        order_id, number = await alipay_order(city)
        city.alipay.pay(number)
        moment = later(seconds=10 * round_ + 10)
        ended.clear()
        await turns.start(moment)
        await happens(ended, city.alipay.account_id)
        paid.append((await api.order_of(city.person_id, order_id)).state)
    asked_meanwhile = Counter(verb for verb, _ in city.wechat.asked)
    hanging.let_go.set()
    await turns.finish()

    assert paid == [OrderState.PAID] * 2
    assert asked_meanwhile["query"] == 1


async def test_an_accounts_own_failure_stops_no_other_account(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    await city.opened()
    order_id, number = await alipay_order(city)
    city.alipay.pay(number)
    real = silent._claim

    async def broken(account_id: str, *args: Any) -> Any:
        if account_id == city.wechat.account_id:
            raise ConnectionError("the database was away")
        return await real(account_id, *args)

    monkeypatch.setattr(silent, "_claim", broken)

    with pytest.raises(ConnectionError):
        await jobs.query_silent_attempts(city.services, now=later(seconds=10))

    assert (await api.order_of(city.person_id, order_id)).state is OrderState.PAID


async def test_a_channel_that_never_answers_is_broken_off(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    await city.opened()
    Hanging(city.wechat, "query")
    monkeypatch.setattr(asking, "TALK_SECONDS", 0.01)

    counts = await jobs.query_silent_attempts(city.services, now=later(seconds=10))

    assert (counts["asked"], counts["answered"]) == (1, 0)
    (attempt,) = await rows("select state, next_query_at from pay_attempt")
    assert attempt == {"state": "open", "next_query_at": later(seconds=30)}


async def test_our_own_slowness_is_not_taken_for_the_channels(database: str, city: City) -> None:
    account = city.wechat.account_id
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asking.talking_to(account, city.services, now=NOW):
                raise TimeoutError("no connection was free")

    assert city.services.outages.allowed(account, now=NOW, most=8) == 8


async def test_what_the_channel_said_at_an_end_is_settled_when_the_talk_is_over(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long our own books take: no answer is thrown away as none."""
    _, order, number = await city.opened()
    city.wechat.pay(number)
    real = asking.settle_reports

    async def slow(*args: Any, **more: Any) -> Any:
        await asyncio.sleep(asking.TALK_SECONDS * 1.2)
        return await real(*args, **more)

    monkeypatch.setattr(asking, "TALK_SECONDS", 1.0)
    monkeypatch.setattr(asking, "settle_reports", slow)

    ended = await api.cancel_order(
        person_id=city.person_id, order_id=order.id, services=city.services, now=NOW
    )

    assert ended.state is OrderState.PAID


@pytest.mark.parametrize("first_at", [10.0, 899.0])
async def test_nobody_asks_about_an_attempt_that_another_is_asking_about(
    database: str, city: City, first_at: float
) -> None:
    """Also at the order's end, which comes sooner than any answer may."""
    _, _, number = await city.opened()
    hanging = Hanging(city.wechat, "query")
    lease = asking.LEASE.total_seconds()

    first = asyncio.create_task(
        jobs.query_silent_attempts(city.services, now=later(seconds=first_at))
    )
    async with asyncio.timeout(WAIT_SECONDS):
        await hanging.reached.wait()
    second = [
        await jobs.query_silent_attempts(city.services, now=later(seconds=first_at + passed))
        for passed in (0, 20, lease - 1)
    ]
    hanging.let_go.set()
    await first

    assert [one["asked"] + one["not_ended"] for one in second] == [0, 0, 0]
    assert city.wechat.verbs(number) == ["open", "query"]


async def test_a_page_does_not_ask_what_the_janitor_is_asking(database: str, city: City) -> None:
    _, order, number = await city.opened()
    hanging = Hanging(city.wechat, "query")
    first = asyncio.create_task(jobs.query_silent_attempts(city.services, now=later(seconds=10)))
    async with asyncio.timeout(WAIT_SECONDS):
        await hanging.reached.wait()

    await looked_at(city, order.id, later(seconds=99))
    meanwhile = city.wechat.verbs(number)
    hanging.let_go.set()
    await first
    await looked_at(city, order.id, later(seconds=20))

    assert meanwhile == ["open", "query"]
    assert city.wechat.verbs(number) == ["open", "query", "query"]


async def test_a_page_asks_when_a_killed_janitors_lease_is_over(database: str, city: City) -> None:
    _, order, number = await city.opened()
    await silent._claim(city.wechat.account_id, later(seconds=10), 8)

    await looked_at(city, order.id, later(seconds=100))

    assert city.wechat.verbs(number) == ["open", "query"]


async def test_a_page_does_not_wait_for_a_channel_that_is_out(database: str, city: City) -> None:
    _, order, _ = await city.opened()
    for n in range(7):
        await city.opened({"treasury": 100 + n})
    city.wechat.trouble["query"] = UNKNOWN
    await jobs.query_silent_attempts(city.services, now=later(seconds=10))
    before = len(city.wechat.asked)

    await looked_at(city, order.id, later(seconds=14))
    while_out = len(city.wechat.asked) - before
    await looked_at(city, order.id, later(seconds=15))

    assert (while_out, len(city.wechat.asked) - before) == (0, 1)


async def looked_at(city: City, order_id: UUID, now: datetime) -> None:
    await api.refresh_order(
        person_id=city.person_id, order_id=order_id, services=city.services, now=now
    )


async def test_what_a_killed_worker_was_asking_is_asked_when_its_lease_is_over(
    database: str, city: City
) -> None:
    await city.opened()
    hanging = Hanging(city.wechat, "query")
    killed = asyncio.create_task(jobs.query_silent_attempts(city.services, now=later(seconds=10)))
    async with asyncio.timeout(WAIT_SECONDS):
        await hanging.reached.wait()
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    city.wechat.during.clear()

    too_early = await jobs.query_silent_attempts(city.services, now=later(seconds=99))
    again = await jobs.query_silent_attempts(city.services, now=later(seconds=100))

    assert (too_early["asked"], again["asked"], again["answered"]) == (0, 1, 1)


async def test_nobody_takes_a_refund_to_its_channel_that_another_is_taking(
    database: str, city: City
) -> None:
    numbers = await given_back_at_both(city)
    refund_no = numbers[city.wechat.account_id]
    hanging = Hanging(city.wechat, "refund")
    start, lease = later(minutes=2), asking.LEASE - timedelta(seconds=1)

    first = asyncio.create_task(jobs.send_refunds(city.services, now=start))
    async with asyncio.timeout(WAIT_SECONDS):
        await hanging.reached.wait()
    for passed in (timedelta(), timedelta(seconds=20), lease):
        await jobs.send_refunds(city.services, now=start + passed)
    hanging.let_go.set()
    await first

    assert city.wechat.verbs(refund_no) == ["refund"]
    (row,) = await rows("select next_try_at from pay_refund where refund_no = $1", refund_no)
    assert row["next_try_at"] == start + timedelta(seconds=10)


@pytest.mark.parametrize("is_serial", [True, False])
async def test_two_workers_send_two_refunds_of_one_trade_apart(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch, is_serial: bool
) -> None:
    """The older one is approved while the younger one is being claimed: to the other worker both
    look unsent. With claims that do not follow each other (the control) both are sent at once."""
    if not is_serial:
        monkeypatch.setattr(send, "_ONE_BY_ONE", "select $1::text")
    _, order, number = await city.opened()
    city.wechat.pay(number)
    await api.settle_batch([api.from_report(city.wechat.report(number))], now=later(seconds=5))
    older = await asked_back(order.id, 300, approved=False)
    await asked_back(order.id, 200, at=later(minutes=1, seconds=1))
    claimed, may_commit = _hold_the_first_commit(monkeypatch)

    one = asyncio.create_task(_claimed(city, later(minutes=2)))
    async with asyncio.timeout(WAIT_SECONDS):
        await claimed.wait()
    await api.approve_refund(request_id=older, by="checker", now=later(minutes=2))
    other = asyncio.create_task(_claimed(city, later(minutes=2)))
    if is_serial:
        await _somebody_waits_for_a_lock()
    else:
        await asyncio.wait_for(asyncio.shield(other), WAIT_SECONDS)
    may_commit.set()

    assert len(await one) == 1
    assert len(await other) == (0 if is_serial else 1)
    assert await _claimed(city, later(minutes=3)) == []
    if is_serial:
        assert len(await _claimed(city, later(minutes=3, seconds=15))) == 1


async def _claimed(city: City, at: datetime) -> list[str]:
    """What a worker would send for the first time now."""
    claims = await send._claim(city.wechat.account_id, at, 8)
    return [claim.refund_no for claim in claims if not claim.was_sent]


def _hold_the_first_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[asyncio.Event, asyncio.Event]:
    claimed, may_commit = asyncio.Event(), asyncio.Event()
    real = send.in_transaction

    @asynccontextmanager
    async def held() -> AsyncIterator[Any]:
        async with real() as db:
            yield db
            if not claimed.is_set():
                claimed.set()
                await asyncio.wait_for(may_commit.wait(), WAIT_SECONDS)

    monkeypatch.setattr(send, "in_transaction", held)
    return claimed, may_commit


async def _somebody_waits_for_a_lock() -> None:
    for _ in range(3000):
        if await count("pg_locks", "not granted and locktype = 'advisory'"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def test_a_channel_that_is_out_is_left_alone_more_and_more(database: str, city: City) -> None:
    for n in range(30):
        await city.opened({"treasury": 100 + n})
    city.wechat.trouble["query"] = UNKNOWN
    asked = []
    moment = later(seconds=10)
    for seconds in (0, 1, 4, 1, 4, 5, 1, 19, 40, 80, 120, 120, 119, 1):
        moment += timedelta(seconds=seconds)
        before = len(city.wechat.asked)
        await jobs.query_silent_attempts(city.services, now=moment)
        asked.append(len(city.wechat.asked) - before)

    assert asked == [8, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 0, 1]
    assert await broken_invariants(now=moment) == {}


async def test_a_channel_that_answers_again_is_asked_all_at_once(database: str, city: City) -> None:
    numbers = [(await city.opened({"treasury": 100 + n}))[2] for n in range(12)]
    city.wechat.trouble["query"] = UNKNOWN
    for seconds in (10, 15, 25, 45):
        await jobs.query_silent_attempts(city.services, now=later(seconds=seconds))
    for number in numbers:
        city.wechat.pay(number, at=later(minutes=1))
    city.wechat.trouble.clear()

    still_paused = await jobs.query_silent_attempts(city.services, now=later(seconds=84))
    found = await jobs.query_silent_attempts(city.services, now=later(seconds=85))

    assert (still_paused["asked"], found["answered"]) == (0, 12)
    assert await count("pay_order", "state = 'paid'") == 12


async def test_one_number_the_channel_cannot_answer_keeps_no_other_from_being_tried(
    database: str, city: City
) -> None:
    """The one that was tried in vain is the last to be tried again."""
    poisoned = (await city.opened({"treasury": 99}))[2]
    numbers = [(await city.opened({"treasury": 100 + n}))[2] for n in range(6)]
    city.wechat.trouble["query"] = UNKNOWN
    await jobs.query_silent_attempts(city.services, now=later(seconds=10))
    city.wechat.trouble.clear()

    async def no_answer(number: str) -> None:
        if number == poisoned:
            raise UNKNOWN

    city.wechat.during["query"] = no_answer
    for number in numbers:
        city.wechat.pay(number)
    for minutes in range(1, 5):
        await jobs.query_silent_attempts(city.services, now=later(minutes=minutes))

    assert await count("pay_order", "state = 'paid'") == len(numbers)


async def test_an_outage_of_hours_is_told_though_hardly_anybody_asks(
    database: str, city: City
) -> None:
    for n in range(12):
        await city.opened({"treasury": 100 + n})
    city.wechat.trouble["query"] = UNKNOWN
    for minutes in range(10, 100, 3):
        await jobs.query_silent_attempts(city.services, now=later(minutes=minutes))

    told = await api.list_incidents()

    assert Counter(one.kind for one in told) == {"silent_attempt": 12}
    assert len(city.wechat.asked) < 12 + 8 + 40
    assert await broken_invariants(now=later(minutes=97)) == {}


async def test_refunds_put_off_by_an_outage_were_not_sent_and_go_when_it_is_over(
    database: str, city: City
) -> None:
    refund_no = (await given_back_at_both(city))[city.wechat.account_id]
    for n in range(8):
        await city.opened({"treasury": 100 + n})
    city.wechat.trouble = {"query": UNKNOWN, "refund": UNKNOWN}
    await jobs.query_silent_attempts(city.services, now=later(minutes=2))

    during = await jobs.send_refunds(city.services, now=later(minutes=2, seconds=1))
    (put_off,) = await rows(
        "select sent_at, tries, next_try_at from pay_refund where refund_no = $1", refund_no
    )
    city.wechat.trouble.clear()
    await jobs.send_refunds(city.services, now=later(minutes=2, seconds=5))

    assert during == {"asked": 1, "answered": 1}  # Alipay's
    assert (put_off["sent_at"], put_off["tries"]) == (None, 0)
    assert put_off["next_try_at"] == later(minutes=2, seconds=5)
    assert city.wechat.verbs(refund_no) == ["refund"]
    assert await state_of_refund(refund_no) == "processing"


async def test_an_account_short_of_money_is_no_silence_of_its_channel(
    database: str, city: City
) -> None:
    """It answered: what was paid there meanwhile is asked about as ever."""
    for n in range(8):
        _, order, number = await city.opened({"treasury": 100 + n})
        city.wechat.pay(number)
        await api.settle_batch([api.from_report(city.wechat.report(number))], now=later(seconds=5))
        await asked_back(order.id, 100 + n)
    numbers = [(await city.opened({"treasury": 200 + n}))[2] for n in range(8)]
    city.wechat.trouble["refund"] = ChannelUnknown("NOT_ENOUGH", "filled up later")
    await jobs.send_refunds(city.services, now=later(minutes=2))
    for number in numbers:
        city.wechat.pay(number)

    await jobs.query_silent_attempts(city.services, now=later(minutes=2, seconds=1))

    assert await count("pay_order", "state = 'paid'") == 16
