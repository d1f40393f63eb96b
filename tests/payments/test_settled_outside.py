"""Money is not talked away: an incident ends in words only when none of its money is in suspense,
and what was dealt with outside leaves the books by two persons and a document."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from estation.ledger.api import balance, transfers_about
from estation.outside.pay_channels import RefundStatus
from estation.payments import api
from estation.payments.actions import incidents
from estation.payments.errors import (
    IncidentAlreadyResolved,
    IncidentNotFound,
    MoneyInSuspense,
    NothingToApply,
    NothingToSettleOutside,
    OutsideAlreadyAsked,
    OutsideNotAsked,
    RefundableChanged,
    RefundTooMuch,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from estation.payments.models import OutsideSettlement
from estation.shared.errors import InvalidInput
from tests.payments.city import TOTAL, City, count, later, rows
from tests.payments.fakes import NOW
from tests.payments.office import open_office
from tests.payments.test_asked_refunds import approve, give_back, paid, send

CLEARING = "channel_clearing:wechat_pay:1900000109"
SUSPENSE = "suspense:wechat_pay:1900000109"
OUTSIDE = "settled_outside:wechat_pay:1900000109"
FEN = 5_000


@pytest.fixture
async def city(database: str) -> City:
    return City()


async def odd_money(city: City, fen: int = FEN) -> UUID:
    """A payment of another amount: in suspense, with its incident."""
    _, _, number = await city.opened()
    report = city.paid(number, amount_fen=fen)
    await api.settle_batch([api.from_report(report)], now=later(seconds=30))
    (found,) = await rows("select id from incident where kind = 'wrong_amount'")
    return UUID(str(found["id"]))


async def two_incidents(city: City) -> tuple[UUID, UUID]:
    """The channel names another sum of money that is in suspense already."""
    first = await odd_money(city)
    (attempt,) = await rows("select out_trade_no from pay_attempt")
    said = replace(city.wechat.report(attempt["out_trade_no"]), paid_fen=FEN + 1)
    await api.settle_batch([api.from_report(said)], now=later(minutes=1))
    (found,) = await rows("select id from incident where kind = 'contradicting_news'")
    return first, UUID(str(found["id"]))


async def resolve(incident_id: UUID, at: datetime = NOW) -> None:
    await api.resolve_incident(
        incident_id=incident_id, by="officer", resolution="已与市民说明", now=at
    )


async def ask(incident_id: UUID, believed_fen: int = FEN, **changes: Any) -> UUID:
    values: dict[str, Any] = {
        "reason": "已由基本户转账退还付款人",
        "document_no": "江财支〔2026〕118号",
        "by": "maker",
        "now": later(hours=1),
    }
    return await api.ask_to_settle_outside(
        incident_id=incident_id, believed_fen=believed_fen, **{**values, **changes}
    )


async def book(incident_id: UUID, believed_fen: int = FEN, **changes: Any) -> str:
    values: dict[str, Any] = {"by": "checker", "now": later(hours=2)}
    return await api.approve_settling_outside(
        incident_id=incident_id, believed_fen=believed_fen, **{**values, **changes}
    )


async def ask_refund(incident_id: UUID, fen: int, left: int, by: str = "maker") -> UUID:
    return await api.ask_refund(
        incident_id=incident_id,
        amount_fen=fen,
        believed_refundable_fen=left,
        reason="原路退回",
        by=by,
        now=later(hours=1),
    )


async def everything() -> Sequence[Any]:
    """What a refusal must leave as it is."""
    return [
        await rows(f"select * from {table} order by 1, 2")
        for table in ("incident", "incident_action", "ledger_transfer", "outside_settlement")
    ]


class TestWords:
    async def test_do_not_end_an_incident_whose_money_is_in_suspense(self, city: City) -> None:
        incident_id = await odd_money(city)
        before = await everything()

        with pytest.raises(MoneyInSuspense) as refused:
            await resolve(incident_id)

        assert (refused.value.code, refused.value.http_status) == ("money_in_suspense", 409)
        assert "¥ 50.00" in refused.value.message
        assert refused.value.details == {"suspense_fen": FEN}
        assert await everything() == before

    async def test_do_not_end_it_while_a_refund_is_only_asked_for(self, city: City) -> None:
        """The checker may say no, and then nobody would look after the money."""
        incident_id = await odd_money(city)
        await ask_refund(incident_id, FEN, FEN)

        with pytest.raises(MoneyInSuspense):
            await resolve(incident_id)

    async def test_do_not_end_it_while_only_a_part_is_on_its_way(self, city: City) -> None:
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, 2_000, FEN))

        with pytest.raises(MoneyInSuspense, match="money_in_suspense") as refused:
            await resolve(incident_id)

        assert refused.value.details == {"suspense_fen": 3_000}

    async def test_may_end_it_once_all_of_it_is_on_its_way_by_two_persons(self, city: City) -> None:
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, FEN, FEN))

        await resolve(incident_id, later(hours=2))

        assert (await api.incident(incident_id)).state == "resolved"
        assert await broken_invariants() == {}

    async def test_it_opens_again_when_the_channel_gives_nothing_back(self, city: City) -> None:
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, FEN, FEN))
        await resolve(incident_id, later(hours=2))
        await send(city, later(hours=2))
        (number,) = city.wechat.refunds
        closed = city.wechat.finish(number, RefundStatus.CLOSED)

        await api.settle_batch([api.from_refund(closed)], now=later(hours=3))

        assert (await api.incident(incident_id)).state == "open"
        for row in await rows("select id from incident where state = 'open'"):
            with pytest.raises(MoneyInSuspense):
                await resolve(row["id"], later(hours=4))
        assert await broken_invariants() == {}

    async def test_end_an_incident_without_money_as_before(self, city: City) -> None:
        await paid(city)
        await incidents.open_incident(
            kind="silent_attempt", channel="wechat_pay", account_id="wechat_pay:1900000109",
            out_trade_no="x", distinction="x", evidence={}, now=NOW,
        )  # fmt: skip
        (found,) = await api.list_incidents()

        await resolve(found.id)

        assert (await api.incident(found.id)).state == "resolved"

    async def test_a_refund_that_ends_meanwhile_is_waited_for(self, city: City) -> None:
        """Closing in words and the channel's no at once: whichever is first, nothing is lost."""
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, FEN, FEN))
        await send(city, later(hours=2))
        (number,) = city.wechat.refunds
        closed = api.from_refund(city.wechat.finish(number, RefundStatus.CLOSED))

        await asyncio.gather(
            resolve(incident_id, later(hours=3)),
            api.settle_batch([closed], now=later(hours=3)),
            return_exceptions=True,
        )

        assert (await api.incident(incident_id)).state == "open"
        assert await broken_invariants() == {}


class TestSettledOutside:
    async def test_it_leaves_suspense_by_a_transfer_and_resolves_the_incident(
        self, city: City
    ) -> None:
        incident_id = await odd_money(city)
        wish = await ask(incident_id)
        asked = (await balance(SUSPENSE), (await api.incident(incident_id)).state)

        transfer_id = await book(incident_id)

        assert asked == (-FEN, "open"), "one person moves nothing"
        assert (await balance(SUSPENSE), await balance(OUTSIDE)) == (0, -FEN)
        assert await balance(CLEARING) == FEN, "the money itself stands at the channel"
        shown = await api.incident(incident_id)
        assert (shown.state, shown.resolved_by) == ("resolved", "checker")
        assert "江财支〔2026〕118号" in shown.resolution
        (transfer,) = [
            one
            for one in await transfers_about(shown.out_trade_no)
            if one.kind == "settled_outside"
        ]
        assert str(transfer.id) == transfer_id
        row = await OutsideSettlement.get(id=wish)
        assert (row.state, str(row.transfer_id)) == ("approved", transfer_id)
        deeds = await rows("select action, by, note, transfer_id from incident_action order by at")
        assert [(deed["action"], deed["by"]) for deed in deeds] == [
            ("outside_asked", "maker"),
            ("settled_outside", "checker"),
        ]
        assert str(deeds[1]["transfer_id"]) == transfer_id
        assert await broken_invariants() == {}

    async def test_what_was_settled_is_neither_refunded_nor_applied_nor_settled_again(
        self, city: City
    ) -> None:
        incident_id = await odd_money(city)
        await ask(incident_id)
        await book(incident_id)
        (arrival,) = await rows("select id from ledger_transfer where kind = 'suspense'")

        with pytest.raises(RefundTooMuch):
            await ask_refund(incident_id, FEN, 0)
        with pytest.raises(IncidentAlreadyResolved):
            await ask(incident_id, 0)
        with pytest.raises(IncidentAlreadyResolved):
            await book(incident_id)
        (view,) = await api.refundable_of(arrival_id=arrival["id"])
        assert (view.refundable_fen, view.suspense_fen) == (0, 0)

    async def test_late_money_that_was_settled_does_not_pay_its_bill_any_more(
        self, city: City
    ) -> None:
        incident_id = await late_money(city)
        await ask(incident_id, TOTAL)
        await api.ask_to_apply(incident_id=incident_id, by="maker", now=later(hours=5))
        await book(incident_id, TOTAL, now=later(hours=6))
        await rows("update incident set state = 'open', resolved_at = null returning id")

        with pytest.raises(NothingToApply) as refused:
            await api.approve_applying(incident_id=incident_id, by="checker", now=later(hours=7))

        assert refused.value.details == {"why": "settled_outside"}

    async def test_money_that_was_applied_is_not_settled_outside(self, city: City) -> None:
        incident_id = await late_money(city)
        await ask(incident_id, TOTAL)
        await api.ask_to_apply(incident_id=incident_id, by="maker", now=later(hours=5))
        await api.approve_applying(incident_id=incident_id, by="checker", now=later(hours=6))

        with pytest.raises(IncidentAlreadyResolved):
            await book(incident_id, TOTAL)

        assert await balance(OUTSIDE) == 0
        assert await broken_invariants() == {}

    async def test_the_maker_may_not_check(self, city: City) -> None:
        incident_id = await odd_money(city)
        await ask(incident_id)
        before = await everything()

        with pytest.raises(SecondPersonNeeded):
            await book(incident_id, by="maker")
        with pytest.raises(SecondPersonNeeded):
            await api.reject_settling_outside(
                incident_id=incident_id, by="maker", note="x", now=later(hours=2)
            )

        assert await everything() == before

    async def test_a_stale_belief_is_told_the_present_sum(self, city: City) -> None:
        incident_id = await odd_money(city)
        with pytest.raises(RefundableChanged) as asked:
            await ask(incident_id, FEN - 1)
        await ask(incident_id)
        before = await everything()
        with pytest.raises(RefundableChanged) as seen:
            await book(incident_id, FEN - 1)
        await approve(await ask_refund(incident_id, 2_000, FEN))
        with pytest.raises(RefundableChanged) as left:
            await book(incident_id)

        assert (asked.value.http_status, asked.value.details) == (412, {"refundable_fen": FEN})
        assert seen.value.details == {"refundable_fen": FEN}
        assert left.value.details == {"refundable_fen": 3_000}
        assert (await everything())[3] == before[3]
        assert await balance(OUTSIDE) == 0

    async def test_a_no_needs_its_reason_and_leaves_the_money_where_it_was(
        self, city: City
    ) -> None:
        incident_id = await odd_money(city)
        await ask(incident_id)
        with pytest.raises(InvalidInput):
            await api.reject_settling_outside(
                incident_id=incident_id, by="checker", note=" ", now=later(hours=2)
            )

        await api.reject_settling_outside(
            incident_id=incident_id, by="checker", note="回单未附", now=later(hours=2)
        )

        assert await balance(SUSPENSE) == -FEN
        with pytest.raises(OutsideNotAsked):
            await book(incident_id)
        with pytest.raises(MoneyInSuspense):
            await resolve(incident_id)
        await ask(incident_id, now=later(hours=3))
        await book(incident_id, now=later(hours=4))
        assert await balance(OUTSIDE) == -FEN

    async def test_the_rest_is_settled_while_a_part_goes_back(self, city: City) -> None:
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, 2_000, FEN))
        await ask(incident_id, 3_000)
        await book(incident_id, 3_000)
        between = (await api.incident(incident_id)).state

        await give_back(city, later(hours=3))

        assert between == "resolved", "all of it has two persons' word"
        assert (await balance(SUSPENSE), await balance(OUTSIDE)) == (0, -3_000)
        assert await balance(CLEARING) == 3_000
        assert await broken_invariants() == {}

    async def test_a_refund_still_to_be_checked_keeps_the_incident_open(self, city: City) -> None:
        incident_id = await odd_money(city)
        request = await ask_refund(incident_id, 2_000, FEN)
        await ask(incident_id, 3_000)
        await book(incident_id, 3_000)
        between = (await api.incident(incident_id)).state

        await approve(request)
        await give_back(city, later(hours=3))

        assert between == "open"
        shown = await api.incident(incident_id)
        assert (shown.state, shown.resolved_by) == ("resolved", "system"), "the rest proves it"
        assert await broken_invariants() == {}

    async def test_a_wish_under_an_incident_that_was_resolved_is_answered_from_another(
        self, city: City
    ) -> None:
        """Two incidents of the same money: the wish is about the money."""
        first, second = await two_incidents(city)
        await ask(first)
        await approve(await ask_refund(second, FEN, FEN))
        await resolve(first, later(hours=2))
        await send(city, later(hours=2))
        (number,) = city.wechat.refunds
        closed = city.wechat.finish(number, RefundStatus.CLOSED)
        await api.settle_batch([api.from_refund(closed)], now=later(hours=3))
        states = [(await api.incident(one)).state for one in (first, second)]
        with pytest.raises(OutsideAlreadyAsked):
            await ask(second, now=later(hours=4))
        with pytest.raises(SecondPersonNeeded):
            await book(second, by="maker", now=later(hours=4))

        await book(second, now=later(hours=5))

        assert states == ["resolved", "open"]
        assert (await balance(SUSPENSE), await balance(OUTSIDE)) == (0, -FEN)
        assert (await api.incident(second)).state == "resolved"
        assert await broken_invariants() == {}

    async def test_a_wish_is_rejected_from_another_incident_of_the_money_too(
        self, city: City
    ) -> None:
        first, second = await two_incidents(city)
        wish = await ask(first)
        async with open_office(city) as office:
            await office.sit_down("checker")
            assert await office.get(f"/staff/incidents/{second}") == 200
            assert f"/staff/incidents/{second}/outside/approve" in office.text

        await api.reject_settling_outside(
            incident_id=second, by="checker", note="回单未附", now=later(hours=2)
        )

        assert (await OutsideSettlement.get(id=wish)).state == "rejected"
        await ask(second, now=later(hours=3))

    async def test_what_the_channel_did_not_give_back_can_be_settled_too(self, city: City) -> None:
        """The refund is closed long after the rest was settled: its incident asks for more."""
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, 2_000, FEN))
        await ask(incident_id, 3_000)
        await book(incident_id, 3_000)
        await send(city, later(hours=3))
        (number,) = city.wechat.refunds
        closed = city.wechat.finish(number, RefundStatus.CLOSED)
        await api.settle_batch([api.from_refund(closed)], now=later(hours=4))
        between = (await api.incident(incident_id)).state

        await ask(incident_id, 2_000, now=later(hours=5))
        await book(incident_id, 2_000, now=later(hours=6))

        assert between == "open", "what was resolved is not, any more"

        assert (await balance(SUSPENSE), await balance(OUTSIDE)) == (0, -FEN)
        assert await count("incident", "state = 'open'") == 0
        assert await broken_invariants() == {}

    async def test_ten_checkers_at_once_book_it_once(self, city: City) -> None:
        incident_id = await odd_money(city)
        await ask(incident_id)

        answers = await asyncio.gather(
            *(book(incident_id, by=f"checker {n}") for n in range(10)), return_exceptions=True
        )

        assert sum(isinstance(answer, str) for answer in answers) == 1
        assert await balance(OUTSIDE) == -FEN
        assert await broken_invariants() == {}

    async def test_a_refund_and_a_settlement_at_once_never_give_it_away_twice(
        self, city: City
    ) -> None:
        incident_id = await odd_money(city)
        await ask(incident_id)

        await asyncio.gather(
            book(incident_id),
            ask_refund(incident_id, FEN, FEN, by="other maker"),
            return_exceptions=True,
        )

        for row in await rows("select request_id from pay_refund"):
            await approve(row["request_id"])
        assert await balance(SUSPENSE) == 0
        assert await broken_invariants() == {}

    async def test_there_is_one_wish_at_a_time(self, city: City) -> None:
        incident_id = await odd_money(city)
        await ask(incident_id)

        with pytest.raises(OutsideAlreadyAsked):
            await ask(incident_id, by="other")

        assert await OutsideSettlement.all().count() == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"reason": " "},
            {"reason": "字" * 201},
            {"document_no": ""},
            {"document_no": "x" * 65},
            {"reason": "\x00"},
            {"document_no": "回单\x00118"},
        ],
    )
    async def test_a_reason_and_a_document_are_needed(
        self, city: City, wrong: dict[str, str]
    ) -> None:
        incident_id = await odd_money(city)
        before = await everything()

        with pytest.raises(InvalidInput) as refused:
            await ask(incident_id, **wrong)

        assert refused.value.details == {"field": next(iter(wrong))}
        assert await everything() == before

    async def test_there_is_nothing_to_settle_without_suspense(self, city: City) -> None:
        with pytest.raises(IncidentNotFound):
            await ask(uuid4())
        await incidents.open_incident(
            kind="silent_attempt", channel="wechat_pay", account_id="wechat_pay:1900000109",
            out_trade_no="x", distinction="x", evidence={}, now=NOW,
        )  # fmt: skip
        (found,) = await api.list_incidents()
        with pytest.raises(NothingToSettleOutside):
            await ask(found.id)
        incident_id = await odd_money(city)
        await approve(await ask_refund(incident_id, FEN, FEN))
        with pytest.raises(NothingToSettleOutside):
            await ask(incident_id, 0)


async def test_money_talked_away_before_is_found_and_gets_an_incident_again(city: City) -> None:
    incident_id = await odd_money(city)
    await rows(
        "update incident set state = 'resolved', resolved_at = now(), resolved_by = '何敏',"
        " resolution = '已与市民说明' returning id"
    )
    (arrival,) = await rows("select id::text from ledger_transfer where kind = 'suspense'")

    found = await broken_invariants()
    adopted = await incidents.adopt_unowned(now=later(hours=1))
    again = await incidents.adopt_unowned(now=later(hours=1))

    assert found == {"every_suspense_has_an_incident": [arrival["id"]]}
    assert (adopted, again) == (1, 0)
    assert await broken_invariants() == {}
    (new,) = await api.list_incidents()
    assert (new.kind, new.id != incident_id) == ("unowned_suspense", True)
    await ask(new.id)
    await book(new.id)
    assert await balance(OUTSIDE) == -FEN


async def late_money(city: City) -> UUID:
    """Paid after the order was cancelled, and not given back by the channel."""
    _, order, number = await city.opened()
    await api.cancel_order(
        person_id=city.person_id, order_id=order.id, services=city.services, now=NOW
    )
    city.wechat.pay(number)
    await api.settle_batch([api.from_report(city.wechat.report(number))], now=NOW)
    await send(city, later(minutes=5))
    (refund_no,) = city.wechat.refunds
    closed = city.wechat.finish(refund_no, RefundStatus.CLOSED)
    await api.settle_batch([api.from_refund(closed)], now=later(minutes=10))
    (found,) = await rows("select id from incident where kind = 'paid_after_close'")
    return UUID(str(found["id"]))
