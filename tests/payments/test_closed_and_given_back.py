"""A channel closes a refund and gives the money back after all: what was decided meanwhile, in the
belief that the money was still here, must not give it away a second time."""

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from estation.ledger.api import balance, open_claim_fen
from estation.outside.pay_channels import ChannelUnknown, RefundStatus
from estation.payments import api
from estation.payments.errors import OverpaidBack, RefundableChanged
from estation.payments.invariants import broken_invariants
from tests.payments import test_asked_refunds as of_payments
from tests.payments.city import TOTAL, City, later, rows
from tests.payments.test_asked_refunds import approve, paid, send
from tests.payments.test_settled_outside import (
    FEN,
    SUSPENSE,
    ask,
    ask_refund,
    book,
    late_money,
    odd_money,
    resolve,
)

SENT = later(hours=2)
CLAIM = "overpaid_back:wechat_pay:1900000109"
BEYOND = "no_arrival_is_given_back_beyond_its_amount"


@pytest.fixture
async def city(database: str) -> City:
    return City()


async def close_the_last(city: City, at: datetime = SENT) -> str:
    """What was approved is sent, and the channel closes it; its number."""
    await send(city, at)
    number = list(city.wechat.refunds)[-1]
    closed = city.wechat.finish(number, RefundStatus.CLOSED)
    await api.settle_batch([api.from_refund(closed)], now=at + timedelta(hours=1))
    return number


async def closed_refund(city: City, incident_id: UUID) -> str:
    await approve(await ask_refund(incident_id, FEN, FEN))
    return await close_the_last(city)


async def give_back_after_all(city: City, number: str, at: datetime) -> None:
    city.wechat.refunds[number].status = RefundStatus.PROCESSING
    await api.settle_batch([api.from_refund(city.wechat.finish(number, at=at))], now=at)


async def states() -> list[str]:
    return sorted(row["state"] for row in await rows("select state from pay_refund"))


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
        assert await states() == ["asked", "succeeded"]
        assert list(city.wechat.refunds) == [first]
        assert await broken_invariants() == {}  # nothing was given back twice: it is only asked
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

        assert await states() == ["asked", "succeeded"]
        assert await broken_invariants() == {}

    async def test_was_asked_for_under_the_first_ones_own_incident(self, city: City) -> None:
        """That incident ends with the first refund, whatever waits for a checker under it."""
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, FEN, FEN))
        city.wechat.trouble["refund"] = ChannelUnknown("NOT_ENOUGH", "filled up later")
        await send(city, later(hours=2))
        (short,) = await rows("select id from incident where kind = 'refund_not_enough'")
        del city.wechat.trouble["refund"]
        first = await close_the_last(city, later(hours=30))
        second = await ask_refund(UUID(str(short["id"])), FEN, FEN)

        await give_back_after_all(city, first, later(hours=40))

        assert await states() == ["asked", "succeeded"]
        assert await broken_invariants() == {}
        await api.reject_refund(request_id=second, by="checker", note="已退", now=later(hours=41))
        assert await broken_invariants() == {}

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
        assert await states() == ["asked", "succeeded"]
        assert await broken_invariants() == {}

    async def test_stands_for_two_refunds_that_were_known_of_each_other(self, city: City) -> None:
        _, order, _ = await paid(city)
        one = await of_payments.ask(order, 3_000)
        other = await of_payments.ask(order, 3_000, believed_refundable_fen=TOTAL - 3_000)
        await approve(one)
        await of_payments.give_back(city, later(hours=2))

        await approve(other, now=later(hours=3))

        assert await states() == ["approved", "succeeded"]


async def another_citizens_money(city: City) -> None:
    """In suspense of the same account: not there to be given to anybody else."""
    _, _, number = await city.opened()
    report = city.paid(number, amount_fen=TOTAL + 1)
    await api.settle_batch([api.from_report(report)], now=later(seconds=40))


async def the_claim() -> tuple[UUID, int]:
    """The open incident that somebody has to get the money again."""
    (found,) = await rows(
        "select id, owner, state, amount_fen from incident where kind = 'refund_overpaid'"
    )
    assert (found["owner"], found["state"]) == ("finance", "open")
    return UUID(str(found["id"])), found["amount_fen"]


class TestMoneyGivenAwayTwice:
    async def test_is_a_claim_when_it_was_settled_outside_meanwhile(self, city: City) -> None:
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)
        await ask(incident_id, now=later(hours=4))
        await book(incident_id, now=later(hours=5))
        await another_citizens_money(city)

        await give_back_after_all(city, first, later(hours=6))

        assert (await balance(SUSPENSE), await balance(CLAIM)) == (-TOTAL - 1, FEN)
        assert (await the_claim())[1] == FEN
        (arrival,) = await rows("select distinct arrival_id::text as id from pay_refund")
        assert await broken_invariants() == {BEYOND: [arrival["id"]]}

    async def test_is_a_claim_when_it_was_applied_to_its_bill_meanwhile(self, city: City) -> None:
        incident_id = await late_money(city)
        (first,) = city.wechat.refunds
        await api.ask_to_apply(incident_id=incident_id, by="maker", now=later(hours=5))
        await api.approve_applying(incident_id=incident_id, by="checker", now=later(hours=6))

        await give_back_after_all(city, first, later(hours=7))

        assert (await balance(SUSPENSE), await balance(CLAIM)) == (0, TOTAL)
        assert (await the_claim())[1] == TOTAL
        assert list(await broken_invariants()) == [BEYOND]

    async def test_is_a_claim_when_a_payment_was_given_back_meanwhile(self, city: City) -> None:
        _, order, _ = await paid(city)
        await approve(await of_payments.ask(order, TOTAL))
        first = await close_the_last(city)
        await approve(await of_payments.ask(order, TOTAL, now=later(hours=3)), now=later(hours=3))
        await of_payments.give_back(city, later(hours=4))

        await give_back_after_all(city, first, later(hours=5))

        assert await balance(CLAIM) == TOTAL
        assert await balance("payee_payable:treasury") == 0
        assert set(await broken_invariants()) == {BEYOND, "no_payee_gives_back_more_than_it_got"}
        claim_id, _ = await the_claim()
        with pytest.raises(OverpaidBack):
            await resolve(claim_id, later(hours=6))

    async def test_is_not_talked_away(self, city: City) -> None:
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)
        await ask(incident_id, now=later(hours=4))
        await book(incident_id, now=later(hours=5))
        await give_back_after_all(city, first, later(hours=6))
        opened = await rows("select id, kind from incident where state = 'open' order by kind")

        for one in opened:
            with pytest.raises(OverpaidBack) as refused:
                await resolve(UUID(str(one["id"])), later(hours=7))

        assert [one["kind"] for one in opened] == ["contradicting_news", "refund_overpaid"]
        assert (refused.value.code, refused.value.http_status) == ("overpaid_back", 409)
        assert refused.value.details == {"claim_fen": FEN}
        assert "¥ 50.00" in refused.value.message
        assert len(await rows("select id from incident where state = 'open'")) == 2

    async def test_is_a_claim_no_more_once_the_other_refund_closes(self, city: City) -> None:
        """Both were on their way; only one of them arrived."""
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)
        await approve(await ask_refund(incident_id, FEN, FEN), now=later(hours=3))
        await send(city, later(hours=3, minutes=5))
        second = list(city.wechat.refunds)[-1]
        await give_back_after_all(city, first, later(hours=4))
        while_both = await balance(CLAIM)

        closed = city.wechat.finish(second, RefundStatus.CLOSED)
        await api.settle_batch([api.from_refund(closed)], now=later(hours=5))

        assert (while_both, await balance(CLAIM), await balance(SUSPENSE)) == (FEN, 0, 0)
        claim_id, _ = await the_claim()
        await resolve(claim_id, later(hours=6))
        assert await broken_invariants() == {}

    async def test_what_comes_back_while_nothing_else_was_decided_is_no_claim(
        self, city: City
    ) -> None:
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)

        await give_back_after_all(city, first, later(hours=4))

        (arrival,) = await rows(
            "select our_no, channel_no from ledger_transfer where kind = 'suspense'"
        )
        assert await open_claim_fen("wechat_pay:1900000109", *arrival.values()) == 0
        assert await rows("select id from incident where kind = 'refund_overpaid'") == []
        assert await broken_invariants() == {}


@pytest.mark.parametrize(("amount_fen", "state"), [(1, "open"), (TOTAL, "resolved")])
async def test_a_part_does_not_end_the_incident_of_the_whole_that_closed(
    city: City, amount_fen: int, state: str
) -> None:
    _, order, _ = await paid(city)
    await approve(await of_payments.ask(order, TOTAL))
    await close_the_last(city)
    (closed,) = await rows("select id from incident where kind = 'refund_closed'")
    incident_id = UUID(str(closed["id"]))
    again = await ask_refund(incident_id, amount_fen, TOTAL)

    await approve(again, now=later(hours=4))
    await of_payments.give_back(city, later(hours=5))

    assert (await api.incident(incident_id)).state == state
    assert await states() == ["closed", "succeeded"]
    assert await broken_invariants() == {}
