"""Maker and checker are two accounts, whatever they are called: 经办与复核不得为同一人."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from estation.outside.pay_channels import ChannelRefused, RefundStatus
from estation.payments import api
from estation.payments.errors import (
    RedirectNotAsked,
    RedirectRefused,
    RefundNotAbnormal,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from estation.payments.persons import Person, is_same
from estation.shared.errors import InvalidInput
from tests.payments.city import City, later, rows
from tests.payments.fakes import UNKNOWN
from tests.payments.test_asked_refunds import ask, give_back, paid, send
from tests.payments.test_settled_outside import FEN, late_money, odd_money

ONE, OTHER = uuid4(), uuid4()
ZHANG = "张伟（财务复核）"


@pytest.fixture
async def city(database: str) -> City:
    return City()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Person("张伟", ONE), Person("张伟", OTHER), False),
        (Person("张伟（财务经办）", ONE), Person("张卫（财务复核）", ONE), True),
        (Person("张伟"), Person("张伟", ONE), True),
        (Person("张伟"), Person("张伟"), True),
        (Person("张伟"), Person("李强", ONE), False),
        (Person("张伟"), Person("张伟（财务复核）", ONE), True),
        (Person("张伟（财务经办）"), Person("张伟（财务复核）", ONE), True),
        (Person("张伟（财务经办）"), Person("张伟（财务复"), True),
        (Person("张伟（财务经办）"), Person("李强（财务经办）", ONE), False),
    ],
)
def test_accounts_are_compared_and_words_only_where_one_is_not_known(
    one: Person, other: Person, same: bool
) -> None:
    assert is_same(one, other) is same
    assert is_same(other, one) is same


Deed = Callable[..., Awaitable[Any]]


async def _refund(city: City) -> tuple[Deed, Deed]:
    _, order, _ = await paid(city)
    requests: list[UUID] = []

    async def asked(**who: Any) -> None:
        requests.append(await ask(order, 8_000, **who))

    async def decided(**who: Any) -> None:
        await api.approve_refund(request_id=requests[0], now=later(hours=2), **who)

    return asked, decided


async def _apply(city: City) -> tuple[Deed, Deed]:
    incident_id = await late_money(city)

    async def asked(**who: Any) -> None:
        await api.ask_to_apply(incident_id=incident_id, now=later(hours=1), **who)

    async def decided(**who: Any) -> None:
        await api.approve_applying(incident_id=incident_id, now=later(hours=2), **who)

    return asked, decided


async def _outside(city: City) -> tuple[Deed, Deed]:
    incident_id = await odd_money(city)

    async def asked(**who: Any) -> None:
        await api.ask_to_settle_outside(
            incident_id=incident_id, believed_fen=FEN, reason="已转账", document_no="1号",
            now=later(hours=1), **who,
        )  # fmt: skip

    async def decided(**who: Any) -> None:
        await api.approve_settling_outside(
            incident_id=incident_id, believed_fen=FEN, now=later(hours=2), **who
        )

    return asked, decided


async def _redirect(city: City) -> tuple[Deed, Deed]:
    refund_id = await abnormal(city)

    async def asked(**who: Any) -> None:
        await api.ask_redirect(refund_id=refund_id, now=later(hours=3), **who)

    async def decided(**who: Any) -> None:
        await api.redirect_abnormal(
            refund_id=refund_id, services=city.services, now=later(hours=4), **who
        )

    return asked, decided


async def abnormal(city: City) -> UUID:
    _, order, _ = await paid(city)
    request = await ask(order, 500)
    await api.approve_refund(request_id=request, by="checker", now=later(hours=1))
    await send(city, later(hours=1))
    (refund,) = await rows("select id, refund_no from pay_refund")
    report = city.wechat.finish(refund["refund_no"], RefundStatus.ABNORMAL)
    await api.settle_batch([api.from_refund(report)], now=later(hours=2))
    return UUID(str(refund["id"]))


PAIRS = {"refund": _refund, "apply": _apply, "outside": _outside, "redirect": _redirect}


@pytest.mark.parametrize("pair", PAIRS)
async def test_namesakes_are_two_persons(city: City, pair: str) -> None:
    asked, decided = await PAIRS[pair](city)

    await asked(by=ZHANG, by_id=ONE)
    await decided(by=ZHANG, by_id=OTHER)

    assert await broken_invariants() == {}


@pytest.mark.parametrize("pair", PAIRS)
async def test_who_changed_name_and_post_is_one_person(city: City, pair: str) -> None:
    asked, decided = await PAIRS[pair](city)
    await asked(by="张伟（财务经办）", by_id=ONE)
    before = await state()

    with pytest.raises(SecondPersonNeeded):
        await decided(by="张卫（财务复核）", by_id=ONE)

    assert await state() == before


@pytest.mark.parametrize("pair", PAIRS)
async def test_a_wish_from_before_accounts_were_kept_is_compared_by_its_words(
    city: City, pair: str
) -> None:
    asked, decided = await PAIRS[pair](city)
    await asked(by=ZHANG)

    with pytest.raises(SecondPersonNeeded):
        await decided(by=ZHANG, by_id=ONE)
    await decided(by="李强（财务复核）", by_id=OTHER)


async def state() -> list[Any]:
    return [
        await rows(f"select * from {table} order by 1")
        for table in ("pay_refund", "outside_settlement", "incident", "incident_action")
    ]


class TestRedirecting:
    async def test_nothing_is_asked_of_the_channel_before_a_second_person_agrees(
        self, city: City
    ) -> None:
        refund_id = await abnormal(city)
        with pytest.raises(RedirectNotAsked):
            await order(city, refund_id)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        with pytest.raises(SecondPersonNeeded):
            await order(city, refund_id, by="maker")
        between = (await api.refund_view(refund_id)).state

        await order(city, refund_id)

        assert between == "abnormal"
        assert (await api.refund_view(refund_id)).state == "processing"
        deeds = await rows("select action, by from incident_action order by at, id")
        assert [(deed["action"], deed["by"]) for deed in deeds] == [
            ("redirect_asked", "maker"),
            ("redirect_refund", "checker"),
        ]

    async def test_a_no_needs_its_reason_and_another_wish_is_needed_after_it(
        self, city: City
    ) -> None:
        refund_id = await abnormal(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        for by, note, refusal in (
            ("checker", " ", InvalidInput),
            ("maker", "不同意", SecondPersonNeeded),
        ):
            with pytest.raises(refusal):
                await api.reject_redirect(refund_id=refund_id, by=by, note=note, now=later(hours=4))
        await api.reject_redirect(
            refund_id=refund_id, by="checker", note="先联系付款人", now=later(hours=4)
        )

        with pytest.raises(RedirectNotAsked):
            await order(city, refund_id, by="other checker")

        assert (await api.refund_view(refund_id)).state == "abnormal"

    async def test_what_the_channel_did_not_take_may_be_put_to_it_again(self, city: City) -> None:
        refund_id = await abnormal(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        city.wechat.trouble["redirect_refund"] = UNKNOWN
        with pytest.raises(RedirectRefused):
            await order(city, refund_id)
        del city.wechat.trouble["redirect_refund"]

        await order(city, refund_id)
        await give_back(city, later(hours=6))

        assert (await api.refund_view(refund_id)).state == "succeeded"
        assert await broken_invariants() == {}

    async def test_what_went_to_our_own_card_is_not_told_as_returned_on_any_page(
        self, city: City
    ) -> None:
        refund_id = await abnormal(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        await order(city, refund_id)
        await give_back(city, later(hours=6))

        assert await told(city) == ["abnormal", "abnormal"]

    async def test_what_the_channel_refused_and_then_paid_to_the_payer_is_told_as_returned(
        self, city: City
    ) -> None:
        refund_id = await abnormal(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        city.wechat.trouble["redirect_refund"] = ChannelRefused("INVALID_REQUEST")
        with pytest.raises(RedirectRefused):
            await order(city, refund_id)

        await succeeds(city)

        assert await told(city) == ["refunded", "refunded"]
        assert await rows("select state from incident") == [{"state": "resolved"}]
        deeds = await rows(
            "select action, by, note from incident_action where action like 'redirect_ref%'"
            " order by action"
        )
        assert deeds == [
            {"action": "redirect_refund", "by": "checker", "note": ""},
            {"action": "redirect_refused", "by": "system", "note": "INVALID_REQUEST"},
        ]

    async def test_after_a_silence_a_refusal_of_the_second_order_proves_nothing_of_the_first(
        self, city: City
    ) -> None:
        refund_id = await abnormal(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        for trouble in (UNKNOWN, ChannelRefused("INVALID_REQUEST")):
            city.wechat.trouble["redirect_refund"] = trouble
            with pytest.raises(RedirectRefused):
                await order(city, refund_id)

        await succeeds(city)

        assert await told(city) == ["abnormal", "abnormal"]

    @pytest.mark.parametrize("times", [1, 2])
    async def test_the_failure_told_again_after_it_arrived_by_redirect_is_nobodys_work(
        self, city: City, times: int
    ) -> None:
        refund_id = await abnormal(city)
        failed = late_failure(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        await order(city, refund_id)
        await succeeds(city)
        before = await state()

        outcomes = await api.settle_batch([failed] * times, now=later(hours=7))

        assert [outcome.kind for outcome in outcomes] == ["repeated"] * times
        assert await state() == before
        assert await rows("select kind from incident") == [{"kind": "refund_abnormal"}]
        assert await rows("select kind, outcome from pay_notice") == [
            {"kind": "REFUND.ABNORMAL", "outcome": "repeated"}
        ]
        assert await broken_invariants() == {}

    async def test_the_failure_in_one_batch_with_the_success_is_nobodys_work(
        self, city: City
    ) -> None:
        refund_id = await abnormal(city)
        failed = late_failure(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        await order(city, refund_id)
        (refund_no,) = city.wechat.refunds
        success = api.from_refund(city.wechat.finish(refund_no, at=later(hours=6)))

        await api.settle_batch([success, failed], now=later(hours=6))

        assert await rows("select kind from incident") == [{"kind": "refund_abnormal"}]
        assert (await api.refund_view(refund_id)).state == "succeeded"

    @pytest.mark.parametrize("is_refused", [False, True])
    async def test_a_failure_after_it_arrived_without_a_redirect_is_a_contradiction(
        self, city: City, is_refused: bool
    ) -> None:
        refund_id = await abnormal(city)
        failed = late_failure(city)
        if is_refused:
            await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
            city.wechat.trouble["redirect_refund"] = ChannelRefused("INVALID_REQUEST")
            with pytest.raises(RedirectRefused):
                await order(city, refund_id)
        await succeeds(city)

        await api.settle_batch([failed], now=later(hours=7))

        assert "contradicting_news" in await open_kinds()
        assert (await api.refund_view(refund_id)).state == "succeeded"

    async def test_that_nothing_was_given_back_contradicts_a_redirected_refund_too(
        self, city: City
    ) -> None:
        refund_id = await abnormal(city)
        await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
        await order(city, refund_id)
        await succeeds(city)
        (refund_no,) = city.wechat.refunds
        closed = city.wechat.finish(refund_no, RefundStatus.CLOSED)

        await api.settle_batch([api.from_refund(closed)], now=later(hours=7))

        assert "contradicting_news" in await open_kinds()

    async def test_only_an_abnormal_refund_is_redirected(self, city: City) -> None:
        _, paid_order, _ = await paid(city)
        await ask(paid_order, 500)
        (refund,) = await rows("select id from pay_refund")

        with pytest.raises(RefundNotAbnormal):
            await api.ask_redirect(refund_id=refund["id"], by="maker", now=later(hours=3))

        assert await rows("select * from incident_action") == []


def late_failure(city: City) -> api.SettleItem:
    """The notice of what the channel says now, to be delivered whenever."""
    (refund_no,) = city.wechat.refunds
    notice = city.wechat.refund_notice(city.wechat.refund_report(refund_no))
    return api.from_notice(notice, channel=city.wechat.channel, account_id=city.wechat.account_id)


async def open_kinds() -> list[str]:
    return [row["kind"] for row in await rows("select kind from incident where state = 'open'")]


async def succeeds(city: City) -> None:
    (refund_no,) = city.wechat.refunds
    report = city.wechat.finish(refund_no, at=later(hours=6))
    await api.settle_batch([api.from_refund(report)], now=later(hours=6))


async def told(city: City) -> list[str]:
    """How the payer reads the one refund: on the order's page and in the list."""
    (past,) = (await api.history_of(city.person_id)).rows
    (own,) = await api.refunds_of_order(city.person_id, past.id)
    return [own.state, past.refunds[0].state]


async def order(city: City, refund_id: UUID, by: str = "checker") -> None:
    await api.redirect_abnormal(
        refund_id=refund_id, by=by, services=city.services, now=later(hours=4)
    )
