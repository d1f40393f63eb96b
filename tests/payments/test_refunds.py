"""Refunds from the first word to the last: by themselves, at the channel, and through settle."""

import asyncio
import dataclasses
import itertools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from estation.fees.models import Bill
from estation.ledger.api import balance
from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelState,
    ChannelUnknown,
    RefundStatus,
    Scene,
)
from estation.payments import api, jobs
from estation.payments.actions.inbox import keep_unhandled
from estation.payments.api import OrderState, OutcomeKind
from estation.payments.invariants import broken_invariants
from tests.payments.city import TOTAL, City, count, later, make_bill, rows
from tests.payments.fakes import UNKNOWN

CLEARING = "channel_clearing:wechat_pay:1900000109"
SUSPENSE = "suspense:wechat_pay:1900000109"
IN_FLIGHT = "refund_in_flight:wechat_pay:1900000109"


@pytest.fixture
def city() -> City:
    return City()


async def paid_twice(city: City) -> tuple[Bill, str, str]:
    """An order paid by Alipay whose WeChat code was paid as well; the WeChat money goes back.
    The bill, the WeChat number, the refund's number."""
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    first = await city.attempt(order)
    city.wechat.pay(first.out_trade_no)
    report = city.wechat.report(first.out_trade_no)
    city.wechat.trades[first.out_trade_no].state = ChannelState.NOT_PAID
    second = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    city.wechat.pay(first.out_trade_no)
    city.alipay.pay(second.out_trade_no)
    await api.settle_batch(
        [api.from_report(city.alipay.report(second.out_trade_no)), api.from_report(report)],
        now=later(seconds=30),
    )
    (refund,) = await rows("select refund_no from pay_refund")
    return bill, first.out_trade_no, refund["refund_no"]


async def send(city: City, at: datetime) -> dict[str, int]:
    city.wechat.now = city.alipay.now = at
    return await jobs.send_refunds(city.services, now=at)


async def news(city: City, number: str, when: datetime, **changes: Any) -> api.Outcome:
    """The WeChat channel's notice about a refund as it stands there."""
    report = dataclasses.replace(city.wechat.refund_report(number), **changes)
    item = api.from_notice(
        city.wechat.refund_notice(report),
        channel=Channel.WECHAT_PAY,
        account_id=city.wechat.account_id,
    )
    (outcome,) = await api.settle_batch([item], now=when)
    return outcome


async def state_of(refund_no: str) -> str:
    (row,) = await rows("select state from pay_refund where refund_no = $1", refund_no)
    return str(row["state"])


async def incidents() -> dict[str, str]:
    return {row["kind"]: row["state"] for row in await rows("select kind, state from incident")}


async def test_money_paid_twice_is_back_within_five_minutes(database: str, city: City) -> None:
    """P4: and the receipt of the first payment is untouched (D15)."""
    bill, _, refund_no = await paid_twice(city)

    await send(city, later(seconds=31))
    city.wechat.finish(refund_no, at=later(minutes=2))
    await send(city, later(seconds=41))

    assert await state_of(refund_no) == "succeeded"
    assert await balance(CLEARING) == await balance(IN_FLIGHT) == await balance(SUSPENSE) == 0
    assert await incidents() == {"double_payment": "resolved"}
    (incident,) = await rows("select resolved_by, resolution from incident")
    assert incident["resolved_by"] == "system"
    assert refund_no in incident["resolution"]
    (action,) = await rows("select action, refund_id, transfer_id from incident_action")
    assert action["action"] == "refunded"
    assert None not in action.values()
    assert str((await Bill.get(id=bill.id)).state) == "paid"
    assert await rows("select topic from outbox_message") == [{"topic": "receipt"}]
    assert await broken_invariants() == {}


async def test_the_refund_exists_with_the_commit_that_sets_the_money_aside(
    database: str, city: City
) -> None:
    _, number, _ = await paid_twice(city)

    (refund,) = await rows("select * from pay_refund")

    assert (refund["cause"], refund["state"]) == ("double_payment", "approved")
    assert (refund["asked_by"], refund["decided_by"]) == ("system", "system")
    assert (refund["amount_fen"], refund["total_fen"]) == (TOTAL, TOTAL)
    assert (refund["out_trade_no"], refund["taken_from"]) == (number, "suspense")
    assert await balance(IN_FLIGHT) == -TOTAL
    assert city.wechat.refunds == {}, "nobody was asked while the transaction was open"
    assert await broken_invariants() == {}


async def test_the_same_money_reported_again_asks_for_no_second_refund(
    database: str, city: City
) -> None:
    _, number, _ = await paid_twice(city)

    (again,) = await api.settle_batch(
        [api.from_report(city.wechat.report(number))], now=later(minutes=1)
    )

    assert again.kind is OutcomeKind.REPEATED
    assert await count("pay_refund") == 1


@pytest.mark.parametrize("kind", ["wrong_amount", "unknown_order"])
async def test_money_nobody_can_explain_waits_for_a_person(
    database: str, city: City, kind: str
) -> None:
    _, _, number = await city.opened()
    report = city.paid("NOBODYKNOWS" if kind == "unknown_order" else number, amount_fen=1)

    (outcome,) = await api.settle_batch([api.from_report(report)], now=later(seconds=30))

    assert outcome.incident == kind
    assert await count("pay_refund") == 0
    assert await balance(SUSPENSE) == -1


async def test_a_refund_keeps_its_number_when_the_answer_is_lost(database: str, city: City) -> None:
    """D16: it landed; it is asked about, and never asked for under another number."""
    _, _, refund_no = await paid_twice(city)
    city.wechat.lost["refund"] = UNKNOWN

    await send(city, later(seconds=31))
    unsure = await state_of(refund_no)
    city.wechat.lost.clear()
    city.wechat.finish(refund_no)
    await send(city, later(seconds=41))

    assert unsure == "processing"
    assert await state_of(refund_no) == "succeeded"
    assert city.wechat.verbs(refund_no) == ["refund", "query_refund"]
    assert list(city.wechat.refunds) == [refund_no]


async def test_a_request_that_never_landed_is_sent_again_under_its_number(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    city.wechat.trouble["refund"] = UNKNOWN
    await send(city, later(seconds=31))
    city.wechat.trouble.clear()

    await send(city, later(seconds=41))

    assert city.wechat.verbs(refund_no) == ["refund", "query_refund", "refund"]
    assert list(city.wechat.refunds) == [refund_no]


async def test_two_days_of_unknown_is_still_not_failed(database: str, city: City) -> None:
    """D12, and D2 for refunds, which no clock of ours ends: asked for ever, ever more rarely; the
    operator is told after a day."""
    _, _, refund_no = await paid_twice(city)
    city.wechat.trouble["refund"] = city.wechat.trouble["query_refund"] = UNKNOWN
    for hours in range(1, 49):
        await send(city, later(hours=hours))
    told = await rows("select owner from incident where kind = 'refund_unfinished'")
    city.wechat.trouble.clear()

    await send(city, later(hours=49))
    city.wechat.finish(refund_no, at=later(hours=49))
    await send(city, later(hours=50))

    assert told == [{"owner": "operator"}]
    assert await state_of(refund_no) == "succeeded"
    assert set((await incidents()).values()) == {"resolved"}


async def test_questions_become_rarer_and_each_round_is_bounded(database: str, city: City) -> None:
    await paid_twice(city)
    first = [await send(city, later(seconds=31)), await send(city, later(seconds=32))]

    looks = []
    for seconds in range(33, 33 + 3600):
        if await rows("select 1 from pay_refund where next_try_at <= $1", later(seconds=seconds)):
            await send(city, later(seconds=seconds))
            looks.append(seconds)

    assert [one["asked"] for one in first] == [1, 0]
    pauses = [after - before for before, after in itertools.pairwise([31, *looks])]
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600, 600][: len(pauses)]
    assert len(pauses) >= 8


async def test_an_account_short_of_money_is_tried_until_it_has_some(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    city.wechat.balance_fen = 0
    for minutes in (1, 5, 20, 60):
        await send(city, later(minutes=minutes))
    waiting = await state_of(refund_no)
    seen = await incidents()
    city.wechat.balance_fen = None

    await send(city, later(hours=3))
    city.wechat.finish(refund_no, at=later(hours=3))
    await send(city, later(hours=4))

    assert waiting == "approved"
    assert seen == {"double_payment": "open", "refund_not_enough": "open"}
    assert await state_of(refund_no) == "succeeded"
    assert set((await incidents()).values()) == {"resolved"}
    assert await broken_invariants() == {}


async def test_a_certain_no_is_checked_once_and_the_money_is_ours_again(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    city.wechat.trouble["refund"] = ChannelRefused("USER_ACCOUNT_ABNORMAL")

    await send(city, later(seconds=31))
    much_later = await send(city, later(hours=5))

    assert await state_of(refund_no) == "closed"
    assert city.wechat.verbs(refund_no) == ["refund", "query_refund"]
    assert much_later["asked"] == 0
    assert (await balance(SUSPENSE), await balance(IN_FLIGHT)) == (-TOTAL, 0)
    assert await incidents() == {"double_payment": "open"}, "a person's now"
    (kept,) = await rows("select evidence -> 'refund' ->> 'what' as what from incident")
    assert kept["what"] == "refund_closed"
    assert await broken_invariants() == {}


async def test_a_refusal_of_what_had_landed_closes_nothing(database: str, city: City) -> None:
    _, _, refund_no = await paid_twice(city)
    city.wechat.lost["refund"] = ChannelRefused("INVALID_REQUEST", "already refunded")

    await send(city, later(seconds=31))

    assert await state_of(refund_no) == "processing"
    assert await balance(IN_FLIGHT) == -TOTAL


async def test_the_same_refund_news_ten_times_at_once_moves_money_once(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    city.wechat.finish(refund_no)

    answers = await asyncio.gather(*(news(city, refund_no, later(minutes=1)) for _ in range(10)))

    kinds = sorted(answer.kind for answer in answers)
    assert kinds == ["applied"] + ["repeated"] * 9
    assert await count("ledger_transfer", "kind = 'refund'") == 1
    assert await count("pay_notice") == 1
    assert await balance(IN_FLIGHT) == 0


async def test_a_closed_refund_puts_the_money_back_into_suspense(database: str, city: City) -> None:
    _, _, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    city.wechat.finish(refund_no, RefundStatus.CLOSED)

    first = await news(city, refund_no, later(minutes=1))
    again = await news(city, refund_no, later(minutes=2))

    assert (first.kind, again.kind) == (OutcomeKind.CLOSED, OutcomeKind.REPEATED)
    assert await balance(SUSPENSE) == -TOTAL
    assert await incidents() == {"double_payment": "open"}
    assert await broken_invariants() == {}


async def test_a_success_after_closed_is_still_money_that_left(database: str, city: City) -> None:
    _, _, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    city.wechat.finish(refund_no, RefundStatus.CLOSED)
    await news(city, refund_no, later(minutes=1))
    city.wechat.finish(refund_no, RefundStatus.SUCCESS)

    late = await news(city, refund_no, later(minutes=2))
    again = await news(city, refund_no, later(minutes=3))

    assert (late.kind, late.incident) == (OutcomeKind.INCIDENT, "contradicting_news")
    assert again.kind is OutcomeKind.REPEATED
    assert await state_of(refund_no) == "succeeded"
    assert await balance(CLEARING) == await balance(SUSPENSE) == await balance(IN_FLIGHT) == 0
    assert (await incidents())["double_payment"] == "resolved"
    assert await broken_invariants() == {}


async def test_closed_after_success_changes_nothing_and_has_an_owner(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    city.wechat.finish(refund_no)
    await news(city, refund_no, later(minutes=1))

    outcome = await news(
        city, refund_no, later(minutes=2), status=RefundStatus.CLOSED, at=None, amount_fen=None
    )

    assert outcome.incident == "contradicting_news"
    assert await state_of(refund_no) == "succeeded"
    assert await balance(CLEARING) == 0


async def test_an_abnormal_refund_is_a_persons_and_stays_reserved(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    city.wechat.finish(refund_no, RefundStatus.ABNORMAL)

    await news(city, refund_no, later(minutes=1))
    await news(city, refund_no, later(minutes=2))

    assert await state_of(refund_no) == "abnormal"
    assert await balance(IN_FLIGHT) == -TOTAL
    assert await incidents() == {"double_payment": "open", "refund_abnormal": "open"}
    assert await broken_invariants() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"refund_no": "NOTOURS"},
        {"amount_fen": 1},
        {"account_id": "wechat_pay:1900000999"},
        {"out_trade_no": "OTHER"},
    ],
)
async def test_news_of_a_refund_that_is_not_ours_has_an_owner(
    database: str, city: City, changes: dict[str, Any]
) -> None:
    _, _, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    city.wechat.finish(refund_no)

    outcome = await news(city, refund_no, later(minutes=1), **changes)

    assert (outcome.kind, outcome.incident) == (OutcomeKind.INCIDENT, "unexpected_refund")
    assert await state_of(refund_no) == "processing"
    assert await count("ledger_transfer", "kind = 'refund'") == 0
    assert await balance(IN_FLIGHT) == -TOTAL


async def test_alipays_repeated_success_after_our_refund_is_no_news(
    database: str, city: City
) -> None:
    """D14: what we asked for is expected; one fen more is not."""
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    wechat = await city.attempt(order)
    number = (await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)).out_trade_no
    city.alipay.pay(number)
    city.wechat.trades[wechat.out_trade_no].state = ChannelState.NOT_PAID
    await api.settle_batch(
        [
            api.from_report(city.paid(wechat.out_trade_no)),
            api.from_report(city.alipay.report(number)),
        ],
        now=later(seconds=30),
    )
    await send(city, later(seconds=31))
    report = city.alipay.report(number)

    (expected,) = await api.settle_batch([api.from_report(report)], now=later(minutes=1))
    (beyond,) = await api.settle_batch(
        [api.from_report(dataclasses.replace(report, refunded_fen=TOTAL + 1))],
        now=later(minutes=2),
    )

    assert report.refunded_fen == TOTAL
    assert expected.kind is OutcomeKind.REPEATED
    assert beyond.incident == "unexpected_refund"
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_money_paid_after_the_order_ended_goes_back_at_once(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()
    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    await jobs.close_due_orders(city.services, now=later(minutes=15))
    city.wechat.pay(number, at=later(minutes=14, seconds=59))

    (late,) = await api.settle_batch(
        [api.from_report(city.wechat.report(number))], now=later(minutes=16)
    )
    await send(city, later(minutes=16))

    assert late.incident == "paid_after_expiry"
    (refund,) = await rows("select cause, state, order_id from pay_refund")
    assert refund == {"cause": "paid_late", "state": "processing", "order_id": order.id}


CRASHES = ["before_claim", "after_claim", "after_call", "before_settle", "after_settle"]


@pytest.mark.parametrize("moment", CRASHES)
async def test_a_crash_at_any_moment_of_sending_gives_back_once(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """D16: the program dies before or after each commit of the job; the next one goes on."""
    _, _, refund_no = await paid_twice(city)
    with monkeypatch.context() as broken:
        _crash(broken, city, moment)
        with pytest.raises(PowerCut):
            await send(city, later(seconds=31))
    city.wechat.during.clear()

    for minutes in (2, 4, 6):
        await send(city, later(minutes=minutes))
        if refund_no in city.wechat.refunds:
            city.wechat.finish(refund_no, at=later(minutes=minutes))

    assert await state_of(refund_no) == "succeeded"
    assert list(city.wechat.refunds) == [refund_no]
    assert await balance(CLEARING) == 0
    assert await broken_invariants() == {}


class PowerCut(BaseException):
    """Nothing of ours may catch it: the program is gone."""


def _crash(broken: pytest.MonkeyPatch, city: City, moment: str) -> None:
    from estation.payments.actions.refunds import send as sending

    async def die(*args: object, **kwargs: object) -> None:
        raise PowerCut

    async def land_and_die(*args: object, **kwargs: object) -> None:
        await real_settle(*args, **kwargs)  # type: ignore[arg-type]
        raise PowerCut

    real_settle = sending.settle_reports
    if moment == "before_claim":
        broken.setattr(sending, "_CLAIM", "select 1/0 from pay_refund")
        broken.setattr(sending, "_claim", die)
    elif moment == "after_claim":
        broken.setattr(sending, "_word_of", die)
    elif moment == "after_call":
        real = city.wechat.refund

        async def call_and_die(*args: Any) -> None:
            await real(*args)
            raise PowerCut

        broken.setattr(city.wechat, "refund", call_and_die)
    elif moment == "before_settle":
        broken.setattr(sending, "settle_reports", die)
    else:
        broken.setattr(sending, "settle_reports", land_and_die)


async def test_two_workers_send_a_refund_once(database: str, city: City) -> None:
    _, _, refund_no = await paid_twice(city)

    both = await asyncio.gather(send(city, later(seconds=31)), send(city, later(seconds=31)))

    assert sorted(one["asked"] for one in both) == [0, 1]
    assert city.wechat.verbs(refund_no) == ["refund"]


async def test_one_refunds_trouble_leaves_the_others_answers(database: str, city: City) -> None:
    _, _, first = await paid_twice(city)
    other = City(wechat=city.wechat, person_id=city.person_id)
    await paid_twice_again(other)
    real: Callable[..., Any] = city.wechat.refund

    async def sometimes(request: Any) -> Any:
        if request.refund_no == first:
            raise RuntimeError("a bug of ours")
        return await real(request)

    city.wechat.refund = sometimes  # type: ignore[method-assign]

    await send(city, later(seconds=31))

    states = {row["refund_no"]: row for row in await rows("select * from pay_refund")}
    assert states[first]["last_error"] == "a bug of ours"
    assert {row["state"] for row in states.values()} == {"processing"}
    assert await count("pay_refund", "channel_refund_no is not null") == 1


async def paid_twice_again(city: City) -> None:
    _, _, number = await city.opened({"treasury": 300})
    report = city.paid(number)
    await api.settle_batch(
        [
            api.from_report(report),
            api.from_report(dataclasses.replace(report, channel_trade_no="4200777")),
        ],
        now=later(seconds=30),
    )


async def test_an_account_taken_out_of_the_settings_keeps_its_refund(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    services = city.services
    services.channels.clear()  # type: ignore[attr-defined]

    await jobs.send_refunds(services, now=later(seconds=31))

    assert await state_of(refund_no) == "processing"
    (row,) = await rows("select last_error from pay_refund")
    assert "NOT_CONFIGURED" in row["last_error"]
    assert isinstance(UNKNOWN, ChannelUnknown)


async def test_refund_news_that_would_not_settle_is_tried_again(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    notice = city.wechat.refund_notice(city.wechat.finish(refund_no))
    item = api.from_notice(notice, channel=Channel.WECHAT_PAY, account_id=city.wechat.account_id)
    await keep_unhandled(item, error=ConnectionError("gone"), now=later(minutes=1))

    counts = await jobs.redrive_inbox(city.services, now=later(minutes=2))

    assert counts == {"settled": 1, "failed": 0}
    assert await state_of(refund_no) == "succeeded"
    (kept,) = await rows("select outcome from pay_notice where handled_at is not null")
    assert kept["outcome"] == "applied"


async def test_a_notice_that_only_says_something_happened_has_the_number_queried(
    database: str, city: City
) -> None:
    """Alipay's: it repeats the payment, names the refund, and not the refund's own amount."""
    _, number, refund_no = await paid_twice(city)
    await send(city, later(seconds=31))
    done = city.wechat.finish(refund_no)
    vague = dataclasses.replace(done, status=RefundStatus.PROCESSING, amount_fen=None, at=None)
    notice = dataclasses.replace(
        city.wechat.refund_notice(vague),
        report=dataclasses.replace(city.wechat.report(number), refunded_fen=TOTAL),
    )

    (outcome,) = await api.settle_batch(
        [api.from_notice(notice, channel=Channel.WECHAT_PAY, account_id=city.wechat.account_id)],
        now=later(seconds=33),
    )
    counts = await send(city, later(seconds=33))

    assert outcome.kind is OutcomeKind.REPEATED
    assert counts == {"asked": 1, "answered": 1}
    assert await state_of(refund_no) == "succeeded"


async def test_alipays_own_words_for_short_of_money_are_understood(
    database: str, city: City
) -> None:
    _, _, refund_no = await paid_twice(city)
    city.wechat.trouble["refund"] = ChannelUnknown("NOT_ENOUGH", "filled up later")

    await send(city, later(seconds=31))

    assert await state_of(refund_no) == "approved"
    assert "refund_not_enough" in await incidents()


async def test_ordinary_news_pays_nothing_for_refunds(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measured path: no lock, no question and no writing of refunds is in it."""
    _, order, number = await city.opened()

    async def never(*args: Any) -> None:
        raise AssertionError("asked about refunds")

    for name in ("lock_orders_of_news", "lock_refunds", "asked_fen"):
        monkeypatch.setattr(f"estation.payments.actions.locking.{name}", never)
    monkeypatch.setattr("estation.payments.actions.writing.RefundWriting", never)

    report = city.paid(number)
    await api.settle_batch([api.from_report(report)], now=later(seconds=30))
    await api.settle_batch([api.from_report(report)], now=later(seconds=31))

    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
