"""What still is so is not ended by words: news nobody booked, a refund that reached nobody, money
of the channel's bill that our ledger does not have; and what opens again is looked after anew."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from estation.outside.pay_channels import RefundStatus
from estation.payments import api
from estation.payments.actions import asking, inbox, incidents
from estation.payments.errors import (
    IncidentAlreadyResolved,
    MoneyInSuspense,
    MoneyNotInLedger,
    NewsNotSettled,
    RefundNotPaidOut,
    RefundStillAbnormal,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from estation.payments.rules import MAX_INBOX_TRIES, IncidentKind
from estation.shared.errors import InvalidInput
from tests.payments.city import MERCHANTS, TOTAL, City, count, later, rows
from tests.payments.fakes import NOW, CombiningChannel, FakeChannel
from tests.payments.office import open_office
from tests.payments.test_asked_refunds import approve, send
from tests.payments.test_second_person import abnormal
from tests.payments.test_settled_outside import (
    FEN,
    ask_refund,
    everything,
    odd_money,
    resolve,
    two_incidents,
)

ACCOUNT = "wechat_pay:1900000109"


@pytest.fixture
async def city(database: str) -> City:
    return City()


async def id_of(kind: str) -> UUID:
    (found,) = await rows("select id from incident where kind = $1", kind)
    return UUID(str(found["id"]))


async def given_up(monkeypatch: pytest.MonkeyPatch, news: Any, *, at: datetime) -> None:
    """Settling this news failed as often as it is tried."""
    await inbox.keep_unhandled(news, error=RuntimeError("a bug"), now=NOW)
    await give_up_again(monkeypatch, at=at)


async def give_up_again(monkeypatch: pytest.MonkeyPatch, *, at: datetime) -> None:
    async def fail(items: list[Any], *, now: datetime) -> list[Exception]:
        return [RuntimeError("a bug") for _ in items]

    await rows(
        "update pay_notice set tries = $1, next_try_at = $2 where handled_at is null returning id",
        MAX_INBOX_TRIES - 1,
        NOW,
    )
    with monkeypatch.context() as broken:
        broken.setattr(inbox, "settle_reports", fail)
        assert await inbox.redrive(now=at, limit=10) == (0, 1)


def success(city: City, number: str) -> Any:
    report = city.paid(number, amount_fen=TOTAL)
    return api.from_notice(
        city.wechat.notice(report), channel=report.channel, account_id=report.account_id
    )


class TestNewsGivenUp:
    async def test_of_money_is_booked_by_redriving_and_not_by_words(
        self, city: City, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await given_up(monkeypatch, success(city, "20260803NOBODYKNOWSIT"), at=later(hours=1))
        incident_id = await id_of("unsettled_news")
        before = await everything()

        with pytest.raises(NewsNotSettled) as refused:
            await resolve(incident_id, later(hours=2))

        assert (refused.value.code, refused.value.http_status) == ("news_not_settled", 409)
        assert await everything() == before
        await inbox.hurry(now=later(hours=3), given_up=True)
        assert await inbox.redrive(now=later(hours=3), limit=10) == (1, 0)
        with pytest.raises(MoneyInSuspense):
            await resolve(incident_id, later(hours=4))
        stranger = await id_of("unknown_order")
        request = await api.ask_refund(
            incident_id=stranger, amount_fen=TOTAL, believed_refundable_fen=TOTAL, reason="退还",
            by="maker", now=later(hours=4),
        )  # fmt: skip
        await approve(request, now=later(hours=4))
        await resolve(incident_id, later(hours=5))
        assert (await api.incident(incident_id)).state == "resolved"

    async def test_of_a_refund_is_not_ended_by_words_either(
        self, city: City, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await approve(await ask_refund(await odd_money(city), FEN, FEN))
        await send(city, later(hours=1))
        (number,) = city.wechat.refunds
        news = api.from_refund(city.wechat.finish(number, at=later(hours=1)))
        kept = success(city, "20260803NOBODYKNOWSIT")
        notice = type(kept.notice)(
            event_key="refund-1", kind="REFUND.SUCCESS", out_trade_no=news.refund.out_trade_no,
            report=None, plaintext={}, refund=news.refund,
        )  # fmt: skip
        item = api.from_notice(notice, channel=kept.channel, account_id=kept.account_id)
        await given_up(monkeypatch, item, at=later(hours=2))

        with pytest.raises(NewsNotSettled):
            await resolve(await id_of("unsettled_news"), later(hours=3))

    async def test_of_no_money_may_be_ended_and_opens_again_when_it_fails_again(
        self, city: City, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = success(city, "20260803NOBODYKNOWSIT")
        notice = type(kept.notice)(
            event_key="echo-1", kind="SOMETHING.NEW", out_trade_no="", report=None, plaintext={}
        )
        item = api.from_notice(notice, channel=kept.channel, account_id=kept.account_id)
        await given_up(monkeypatch, item, at=later(hours=1))
        incident_id = await id_of("unsettled_news")

        await resolve(incident_id, later(hours=2))
        assert "every_news_given_up_has_an_incident" not in await broken_invariants()
        await give_up_again(monkeypatch, at=later(hours=3))

        assert (await api.incident(incident_id)).state == "open"

    async def test_that_was_talked_away_before_breaks_the_invariant(
        self, city: City, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await given_up(monkeypatch, success(city, "20260803NOBODYKNOWSIT"), at=later(hours=1))
        calm = await broken_invariants()
        await rows("update incident set state = 'resolved' returning id")
        (notice,) = await rows("select id::text from pay_notice where handled_at is null")

        found = await broken_invariants()

        assert "every_news_given_up_has_an_incident" not in calm
        assert found["every_news_given_up_has_an_incident"] == [notice["id"]]


async def test_an_abnormal_refund_keeps_its_incident_so_that_it_can_be_redirected(
    city: City,
) -> None:
    async with open_office(city) as office:
        refund_id = await abnormal(city)
        incident_id = await id_of(IncidentKind.REFUND_ABNORMAL)
        office.clock[0] = later(hours=3)
        await office.sit_down("clerk")
        path = f"/staff/incidents/{incident_id}"

        assert await office.post(path, resolution="已处理") == 409
        assert RefundStillAbnormal.message in office.text
        assert (await api.incident(incident_id)).state == "open"
        assert await count("incident_action") == 0
        assert await office.post(f"{path}/redirect", note="到基本户") == 303
        await office.sit_down("checker")
        assert await office.post(f"{path}/redirect/approve") == 303
        (number,) = city.wechat.refunds
        news = city.wechat.finish(number, at=later(hours=4))
        await api.settle_batch([api.from_refund(news)], now=later(hours=4))

        with pytest.raises(RefundNotPaidOut):
            await resolve(incident_id, later(hours=5))
        still_open = (await api.incident(incident_id)).state
        await office.sit_down("clerk")
        assert await office.post(f"{path}/by-hand", hand_document_no="回单 7") == 303
        await office.sit_down("checker")
        assert await office.post(f"{path}/by-hand/approve") == 303

        assert still_open == "open"
        assert (await api.refund_view(refund_id)).state == "succeeded"
        assert (await api.incident(incident_id)).state == "resolved"


class TestMoneyOfTheChannelsBill:
    async def missing(self, number: str, kind: str = "missing_in_ledger") -> UUID:
        await incidents.open_incident(
            kind=kind, channel="wechat_pay", account_id=ACCOUNT, out_trade_no=number,
            channel_trade_no="4200000001", distinction="4200000001", evidence={},
            amount_fen=TOTAL, now=NOW,
        )  # fmt: skip
        return await id_of(kind)

    @pytest.mark.parametrize("kind", ["missing_in_ledger", "status_differs"])
    async def test_that_is_of_our_payment_is_booked_before_words_end_it(
        self, city: City, kind: str
    ) -> None:
        _, _, number = await city.opened()
        incident_id = await self.missing(number, kind)
        with pytest.raises(MoneyNotInLedger) as refused:
            await resolve(incident_id)
        assert refused.value.http_status == 409
        assert (await api.incident(incident_id)).state == "open"
        report = city.paid(number)
        await rows(
            "update incident set channel_trade_no = $1 returning id", report.channel_trade_no
        )
        await api.settle_batch([api.from_report(report)], now=later(seconds=30))

        await resolve(incident_id, later(hours=1))

        assert (await api.incident(incident_id)).state == "resolved"

    @pytest.mark.parametrize("part", ["-01", "-02"])
    async def test_that_is_of_a_part_of_a_combined_payment_is_ours_too(
        self, database: str, part: str
    ) -> None:
        """The payee's bill names the part, the channel is asked about the whole."""
        combining = CombiningChannel()
        payees = [FakeChannel(account_id=account) for account in MERCHANTS.values()]
        city = City(merchants=MERCHANTS, others=[combining, *payees])
        _, order, number = await city.opened()
        await rows("update pay_attempt set state = 'closed', next_query_at = null returning id")
        combining.pay(number)
        incident_id = await self.missing(f"{number}{part}")
        with pytest.raises(MoneyNotInLedger):
            await resolve(incident_id)
        assert (await api.incident(incident_id)).state == "open"

        asked = await asking.ask_again(f"{number}{part}", city.services, now=later(hours=30))

        assert (asked.out_trade_no, asked.answer, asked.after) == (number, "paid", "paid")
        assert (await api.order_of(city.person_id, order.id)).state == "paid"

    @pytest.mark.parametrize("number", ["SOMEBODYELSES", "S" * 64])
    async def test_that_is_under_a_strangers_number_is_explained_by_a_person(
        self, city: City, number: str
    ) -> None:
        incident_id = await self.missing(number)

        await resolve(incident_id)

        assert (await api.incident(incident_id)).state == "resolved"


class TestNewsThatNamesMoneyOtherwise:
    """The channel's word and our books differ, or it does not say what it means."""

    async def incomplete(self, city: City) -> UUID:
        _, _, number = await city.opened()
        said = replace(city.paid(number), channel_trade_no=None)
        await api.settle_batch([api.from_report(said)], now=later(seconds=30))
        return await id_of("incomplete_news")

    async def contradicting(self, city: City) -> UUID:
        _, _, number = await city.opened()
        report = city.paid(number)
        for said in (report, replace(report, paid_fen=TOTAL + 1)):
            await api.settle_batch([api.from_report(said)], now=later(seconds=30))
        return await id_of("contradicting_news")

    @pytest.mark.parametrize("kind", ["incomplete", "contradicting"])
    async def test_is_ended_by_no_person_alone(self, city: City, kind: str) -> None:
        incident_id = await getattr(self, kind)(city)

        first = await end(incident_id, "何敏", at=later(hours=1))
        before = await everything()
        with pytest.raises(SecondPersonNeeded):
            await end(incident_id, "何敏", at=later(hours=2))

        assert first.state == "open"
        assert await everything() == before
        second = await end(incident_id, "罗建平", at=later(hours=3))
        assert (second.state, second.resolved_by) == ("resolved", "罗建平")
        history = await rows("select action, by from incident_action order by at")
        assert [(one["action"], one["by"]) for one in history] == [
            ("resolve_asked", "何敏"),
            ("resolve", "罗建平"),
        ]
        assert await broken_invariants() == {}

    async def test_is_ended_at_the_page_by_two_and_the_first_is_told_to_wait(
        self, city: City
    ) -> None:
        async with open_office(city) as office:
            incident_id = await self.contradicting(city)
            path = f"/staff/incidents/{incident_id}"
            await office.sit_down("clerk")
            assert await office.get(path) == 200
            assert "这类异常由两人办结" in office.text

            assert await office.post(path, resolution="渠道账单为准") == 303
            assert await office.get(path) == 200
            assert "须由另一人核对后办结" in office.text
            assert 'name="resolution"' not in office.text
            assert await office.post(path, resolution="再来一次") == 403
            assert SecondPersonNeeded.message in office.text
            assert (await api.incident(incident_id)).state == "open"

            await office.sit_down("checker")
            assert await office.get(path) == 200
            assert "申请办结：渠道账单为准" in office.text
            assert await office.post(path, resolution="已核对") == 303
        assert (await api.incident(incident_id)).state == "resolved"

    async def test_whose_money_is_still_in_suspense_is_ended_by_no_number_of_persons(
        self, city: City
    ) -> None:
        _, incident_id = await two_incidents(city)

        for name in ("何敏", "罗建平"):
            with pytest.raises(MoneyInSuspense):
                await end(incident_id, name, at=later(hours=1))

        assert (await api.incident(incident_id)).state == "open"


async def end(incident_id: UUID, by: str, *, at: datetime) -> api.IncidentView:
    return await api.resolve_incident(
        incident_id=incident_id, by=by, resolution="已与渠道核对", now=at
    )


async def test_what_opened_again_while_it_was_read_is_judged_as_it_stands(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The officer's page saw it resolved; the channel's no opens it before the lock is taken."""
    incident_id = await odd_money(city)
    await approve(await ask_refund(incident_id, FEN, FEN))
    await resolve(incident_id, later(hours=2))
    await send(city, later(hours=2))
    (number,) = city.wechat.refunds
    closed = api.from_refund(city.wechat.finish(number, RefundStatus.CLOSED))
    seen = await api.incident(incident_id)
    await api.settle_batch([closed], now=later(hours=3))

    async def as_seen(_: UUID) -> api.IncidentView:
        return seen

    with monkeypatch.context() as stale:
        stale.setattr(incidents.queries, "incident", as_seen)
        with pytest.raises(MoneyInSuspense):
            await resolve(incident_id, later(hours=3))

    assert seen.state == "resolved"
    assert (await api.incident(incident_id)).state == "open"
    assert await broken_invariants() == {}


async def test_what_is_resolved_is_not_resolved_again(city: City) -> None:
    incident_id = await odd_money(city)
    await approve(await ask_refund(incident_id, FEN, FEN))
    await resolve(incident_id, later(hours=2))
    before = await everything()

    with pytest.raises(IncidentAlreadyResolved):
        await resolve(incident_id, later(hours=3))

    assert await everything() == before


async def test_what_opened_again_is_escalated_again_when_its_new_time_is_over(city: City) -> None:
    incident_id = await odd_money(city)
    assert await incidents.escalate_overdue(now=later(hours=30)) == 1
    await approve(await ask_refund(incident_id, FEN, FEN))
    await resolve(incident_id, later(hours=31))
    await send(city, later(hours=31))
    (number,) = city.wechat.refunds
    closed = api.from_refund(city.wechat.finish(number, RefundStatus.CLOSED))
    await api.settle_batch([closed], now=later(hours=32))
    rule = "an_overdue_incident_is_escalated"
    assert await incidents.escalate_overdue(now=later(hours=55)) == 0
    overdue = await broken_invariants(now=later(hours=57))

    again = await incidents.escalate_overdue(now=later(hours=57))
    twice = await incidents.escalate_overdue(now=later(hours=58))

    assert str(incident_id) in overdue[rule]
    assert (again, twice) == (2, 0), "it and the incident of the refund that was closed"
    assert rule not in await broken_invariants(now=later(hours=58))


async def test_words_that_are_only_a_nul_are_no_words(city: City) -> None:
    incident_id = await odd_money(city)

    with pytest.raises(InvalidInput):
        await api.resolve_incident(incident_id=incident_id, by="x", resolution="\x00", now=NOW)

    assert (await api.incident(incident_id)).state == "open"
