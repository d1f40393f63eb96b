"""A channel closes a refund and gives the money back after all: what was decided meanwhile, in the
belief that the money was still here, must not give it away a second time."""

from datetime import datetime
from uuid import UUID

import pytest

from estation.outside.pay_channels import RefundStatus
from estation.payments import api
from estation.payments.errors import RefundableChanged
from estation.payments.invariants import broken_invariants
from tests.payments import test_asked_refunds as of_payments
from tests.payments.city import TOTAL, City, later, rows
from tests.payments.test_asked_refunds import approve, paid, send
from tests.payments.test_settled_outside import FEN, ask_refund, odd_money


@pytest.fixture
async def city(database: str) -> City:
    return City()


async def close_the_last(city: City) -> str:
    """What was approved is sent, and the channel closes it; its number."""
    await send(city, later(hours=2))
    number = list(city.wechat.refunds)[-1]
    closed = city.wechat.finish(number, RefundStatus.CLOSED)
    await api.settle_batch([api.from_refund(closed)], now=later(hours=3))
    return number


async def closed_refund(city: City, incident_id: UUID) -> str:
    await approve(await ask_refund(incident_id, FEN, FEN))
    return await close_the_last(city)


async def give_back_after_all(city: City, number: str, at: datetime) -> None:
    city.wechat.refunds[number].status = RefundStatus.PROCESSING
    await api.settle_batch([api.from_refund(city.wechat.finish(number, at=at))], now=at)


async def states() -> list[str]:
    return [row["state"] for row in await rows("select state from pay_refund order by id")]


class TestTheCheckersYes:
    async def test_is_refused_when_the_closed_refund_gave_it_back_meanwhile(
        self, city: City
    ) -> None:
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)
        second = await ask_refund(incident_id, FEN, FEN)
        await give_back_after_all(city, first, later(hours=4))

        with pytest.raises(RefundableChanged) as refused:
            await approve(second, now=later(hours=5))
        await send(city, later(hours=6))

        assert (refused.value.code, refused.value.http_status) == ("refundable_changed", 412)
        assert refused.value.details == {"refundable_fen": 0}
        assert await states() == ["succeeded", "asked"]
        assert list(city.wechat.refunds) == [first]
        await api.reject_refund(request_id=second, by="checker", note="已退", now=later(hours=6))
        assert await broken_invariants() == {}

    async def test_is_refused_for_a_payment_too(self, city: City) -> None:
        _, order, _ = await paid(city)
        await approve(await of_payments.ask(order, TOTAL))
        first = await close_the_last(city)
        second = await of_payments.ask(order, TOTAL, now=later(hours=3))
        await give_back_after_all(city, first, later(hours=4))

        with pytest.raises(RefundableChanged):
            await approve(second, now=later(hours=5))

        assert await states() == ["succeeded", "asked"]

    async def test_is_refused_even_when_there_is_enough_for_both(self, city: City) -> None:
        """The second was meant instead of the first, not beside it."""
        _, order, _ = await paid(city)
        await approve(await of_payments.ask(order, 3_000))
        first = await close_the_last(city)
        second = await of_payments.ask(order, 3_000, now=later(hours=3))
        await give_back_after_all(city, first, later(hours=4))

        with pytest.raises(RefundableChanged) as refused:
            await approve(second, now=later(hours=5))

        assert refused.value.details == {"refundable_fen": TOTAL - 3_000}
        assert await states() == ["succeeded", "asked"]
        assert await broken_invariants() == {}

    async def test_stands_for_two_refunds_that_were_known_of_each_other(self, city: City) -> None:
        _, order, _ = await paid(city)
        one = await of_payments.ask(order, 3_000)
        other = await of_payments.ask(order, 3_000, believed_refundable_fen=TOTAL - 3_000)
        await approve(one)
        await of_payments.give_back(city, later(hours=2))

        await approve(other, now=later(hours=3))

        assert await states() == ["succeeded", "approved"]
