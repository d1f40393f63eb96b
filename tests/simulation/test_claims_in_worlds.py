"""An open claim excuses what it breaks of its own money, and nothing else; a channel that closed a
refund may give it back after all."""

import random
from datetime import datetime, timedelta

import pytest

from estation.outside.pay_channels import (
    Channel,
    PaymentRequest,
    RefundRequest,
    RefundStatus,
    Scene,
    VerifiedNotice,
)
from estation.payments.invariants import broken_invariants
from estation.simulation import books, channels
from estation.simulation.channels import SimChannel
from estation.simulation.hazards import Weather
from tests.payments import test_asked_refunds as of_payments
from tests.payments.city import TOTAL, City, later
from tests.payments.fakes import NOW
from tests.payments.test_asked_refunds import approve, paid
from tests.payments.test_claims import ask_to_recover, end, open_claim
from tests.payments.test_closed_and_given_back import (
    BEYOND,
    close_the_last,
    give_back_after_all,
    the_claim,
)
from tests.payments.test_settled_outside import FEN

ACCOUNT = "wechat_pay:1900000109"


@pytest.fixture
async def city(database: str) -> City:
    return City()


async def test_an_open_claim_excuses_its_own_arrival(city: City) -> None:
    claim = await open_claim(city)
    broken = await broken_invariants()

    assert list(broken) == [BEYOND]
    assert await books.not_for_a_claim(broken) == {}
    await ask_to_recover(claim)
    await end(claim)
    assert await books.not_for_a_claim(broken) == broken, "it is over, and excuses nothing"


async def test_an_open_claim_on_a_payment_excuses_the_shares_of_its_order(city: City) -> None:
    _, order, _ = await paid(city)
    await approve(await of_payments.ask(order, TOTAL))
    first = await close_the_last(city)
    await approve(await of_payments.ask(order, TOTAL, now=later(hours=3)), now=later(hours=3))
    await of_payments.give_back(city, later(hours=4))
    await give_back_after_all(city, first, later(hours=5))
    broken = await broken_invariants()

    assert set(broken) == {BEYOND, "no_payee_gives_back_more_than_it_got"}
    assert await books.not_for_a_claim(broken) == {}
    assert (await the_claim())[1] == TOTAL


async def test_an_open_claim_excuses_no_other_money_and_no_other_rule(city: City) -> None:
    await open_claim(city)
    (mine,) = (await broken_invariants())[BEYOND]
    other = "00000000-0000-0000-0000-000000000001"

    left = await books.not_for_a_claim({BEYOND: [mine, other], "no_message_is_dead": [mine]})

    assert left == {BEYOND: [other], "no_message_is_dead": [mine]}


class Ear:
    """The owner of one trade, who hears all news of it."""

    def __init__(self) -> None:
        self.weather = Weather(random.Random(0))  # noqa: S311
        self.weather.is_calm = True
        self.news: list[tuple[RefundStatus, bool]] = []

    def hear(
        self, channel: Channel, account_id: str, notice: VerifiedNotice, *, surely: bool = False
    ) -> None:
        if notice.refund:
            self.news.append((notice.refund.status, surely))


async def a_closed_refund(ear: Ear, clock: list[datetime]) -> SimChannel:
    channel = SimChannel(Channel.WECHAT_PAY, ACCOUNT, lambda: clock[0], lambda: ear, {})
    await channel.open_payment(
        Scene.NATIVE, PaymentRequest("A", FEN, "x", NOW + timedelta(hours=1), "https://x")
    )
    channel.pay("A", amount_fen=FEN, at=NOW)
    await channel.refund(RefundRequest("R", "A", "TA", FEN, FEN, "x", "https://x"))
    channel.paid["A"].refunds["R"].ends_as = RefundStatus.CLOSED
    clock[0] += channels.QUICK_REFUND
    channel.let_refunds_end()
    return channel


async def test_a_closed_refund_given_back_after_all_is_told_for_certain_and_is_no_no() -> None:
    ear, clock = Ear(), [NOW]
    channel = await a_closed_refund(ear, clock)
    closed = channel.closed_refund("R", out_trade_no="A")
    assert closed is not None
    noes = set(channel.noes)
    closed.after_all_at = clock[0] + timedelta(minutes=5)
    channel.let_refunds_end()
    too_early = list(ear.news)

    clock[0] += timedelta(minutes=5)
    channel.let_refunds_end()
    channel.let_refunds_end()

    assert (noes, too_early) == ({"R"}, [(RefundStatus.CLOSED, False)])
    assert ear.news == [(RefundStatus.CLOSED, False), (RefundStatus.SUCCESS, True)]
    assert channel.noes == set()
    assert channel.paid["A"].given_back_fen() == FEN
    assert channel.closed_refund("R", out_trade_no="A") is None


async def test_in_calm_weather_a_channel_keeps_its_no() -> None:
    ear, clock = Ear(), [NOW]
    channel = await a_closed_refund(ear, clock)

    for _ in range(500):
        channel.let_refunds_end()

    assert ear.news == [(RefundStatus.CLOSED, False)]
    assert channel.noes == {"R"}
