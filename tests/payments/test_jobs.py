"""The janitor: asks silent attempts, closes at the channel before it expires, re-drives news."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from estation.fees.models import Bill
from estation.outside.pay_channels import Channel, ChannelState, Scene
from estation.payments import api, jobs
from estation.payments.actions import asking, inbox
from estation.payments.actions.inbox import keep_unhandled
from estation.payments.api import AttemptState, OrderState
from estation.payments.invariants import broken_invariants
from estation.payments.rules import MAX_INBOX_TRIES
from estation.services import Services
from tests.payments.city import City, count, later, make_bill, rows
from tests.payments.fakes import NOW, UNKNOWN


@pytest.fixture
def city() -> City:
    return City()


async def test_a_payment_whose_callback_was_lost_is_found(database: str, city: City) -> None:
    _, order, number = await city.opened()
    city.wechat.pay(number)

    early = await jobs.query_silent_attempts(city.services, now=later(seconds=9))
    done = await jobs.query_silent_attempts(city.services, now=later(seconds=10))

    assert early["asked"] == 0
    assert done["answered"] == 1
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


@pytest.mark.parametrize("by", ["the_janitor", "the_page", "the_end"])
async def test_money_is_settled_though_the_answer_cannot_be_put_down(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    _, order, number = await city.opened()
    city.wechat.pay(number)

    async def broken(*args: object, **kwargs: object) -> None:
        assert await count("pay_order", "state = 'paid'") == 1, "the money goes first"
        raise OSError("the row is held")

    monkeypatch.setattr(asking, "note_heard", broken)
    if by == "the_janitor":
        await jobs.query_silent_attempts(city.services, now=later(seconds=10))
    elif by == "the_page":
        await api.refresh_order(
            person_id=city.person_id, order_id=order.id, services=city.services,
            now=later(seconds=10),
        )  # fmt: skip
    else:
        await asking.close_now(number, city.services, now=later(seconds=10))

    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_questions_become_rarer_and_each_round_is_bounded(database: str, city: City) -> None:
    for n in range(3):
        await city.opened({"treasury": 100 + n})

    first = await jobs.query_silent_attempts(city.services, now=later(seconds=10), limit=2)
    rest = await jobs.query_silent_attempts(city.services, now=later(seconds=10), limit=2)
    none = await jobs.query_silent_attempts(city.services, now=later(seconds=29))
    again = await jobs.query_silent_attempts(city.services, now=later(seconds=30))

    assert [r["asked"] for r in (first, rest, none, again)] == [2, 1, 0, 3]


async def test_two_days_of_unknown_is_still_not_failed(database: str, city: City) -> None:
    """D12"""
    bill, order, number = await city.opened()
    city.wechat.trouble["query"] = UNKNOWN
    for hours in range(1, 49):
        await jobs.query_silent_attempts(city.services, now=later(hours=hours))
        await jobs.close_due_orders(city.services, now=later(hours=hours))
    silent = await api.order_of(city.person_id, order.id)
    city.wechat.trouble.clear()
    city.wechat.pay(number)

    await jobs.query_silent_attempts(city.services, now=later(hours=49))

    assert silent.live_attempt is not None
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    assert str((await Bill.get(id=bill.id)).state) == "paid"


async def test_an_order_expires_only_after_its_code_is_closed_at_the_channel(
    database: str, city: City
) -> None:
    """D2"""
    bill, order, number = await city.opened()

    too_early = await jobs.close_due_orders(city.services, now=later(minutes=15))
    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    closed = await jobs.close_due_orders(city.services, now=later(minutes=15))

    assert (too_early, closed) == ({"closed": 0}, {"closed": 1})
    assert city.wechat.trades[number].state is ChannelState.CLOSED
    assert (await api.order_of(city.person_id, order.id)).close_reason == "expired"
    assert await api.open_order_for_bill(city.person_id, bill.id) is None


async def test_money_paid_a_second_before_the_end_is_applied_by_the_janitor(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()
    city.wechat.pay(number, at=later(minutes=14, seconds=59))

    counts = await jobs.query_silent_attempts(city.services, now=later(minutes=15))

    assert counts["ended"] == 1
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_an_unscanned_code_frees_its_bill_at_the_orders_end_and_stays_watched(
    database: str, city: City
) -> None:
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    attempt = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)

    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    await jobs.close_due_orders(city.services, now=later(minutes=15))
    at_its_end = await api.order_of(city.person_id, order.id)
    (during,) = await rows("select state, close_reason from pay_attempt")
    for minutes in (20, 25, 30, 36):
        await jobs.query_silent_attempts(city.services, now=later(minutes=minutes))

    assert (at_its_end.state, at_its_end.close_reason) == (OrderState.CLOSED, "expired")
    assert await api.open_order_for_bill(city.person_id, bill.id) is None
    assert during == {"state": "abandoned", "close_reason": ""}
    (after,) = await rows("select state, close_reason from pay_attempt")
    assert after == {"state": "closed", "close_reason": "never_seen"}

    city.alipay.pay(attempt.out_trade_no)
    (late,) = await api.settle_batch(
        [api.from_report(city.alipay.report(attempt.out_trade_no))], now=later(hours=1)
    )

    assert late.incident == "paid_after_expiry"
    assert await broken_invariants() == {}


async def test_looking_at_an_order_past_its_end_frees_its_bill_at_once(
    database: str, city: City
) -> None:
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)

    seen = await api.refresh_order(
        person_id=city.person_id,
        order_id=order.id,
        services=city.services,
        now=later(minutes=15),
    )

    assert (seen.state, seen.close_reason) == (OrderState.CLOSED, "expired")
    assert await api.open_order_for_bill(city.person_id, bill.id) is None


async def test_an_account_taken_out_of_the_settings_does_not_stop_the_others(
    database: str, city: City
) -> None:
    """Neither while its codes live nor when they have to end."""
    orphan = await city.order(await make_bill(city.person_id))
    await city.attempt(orphan, Channel.ALIPAY, Scene.PRECREATE)
    _, order, number = await city.opened({"treasury": 100})
    services = city.services
    services = cast(
        Services,
        SimpleNamespace(
            settings=services.settings,
            channels={**services.channels},
            outages=services.outages,
        ),
    )
    cast(dict[str, object], services.channels).pop(city.alipay.account_id)
    city.wechat.pay(number)

    done = await jobs.query_silent_attempts(services, now=later(seconds=10))
    over = await jobs.query_silent_attempts(services, now=later(minutes=15))

    assert (done["asked"], done["answered"]) == (2, 1)
    assert over["not_ended"] == 1
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    assert (await api.order_of(city.person_id, orphan.id)).state is OrderState.OPEN


async def test_one_broken_question_does_not_lose_the_others_answers(
    database: str, city: City
) -> None:
    _, order, number = await city.opened({"treasury": 100})
    await city.attempt(
        await city.order(await make_bill(city.person_id)), Channel.ALIPAY, Scene.PRECREATE
    )
    city.alipay.trouble["query"] = RuntimeError("a bug")
    city.wechat.pay(number)

    done = await jobs.query_silent_attempts(city.services, now=later(seconds=10))

    assert (done["asked"], done["answered"]) == (2, 1)
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_an_attempt_silent_for_an_hour_becomes_one_incident_for_the_operator(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()
    city.wechat.trouble["query"] = UNKNOWN

    await jobs.query_silent_attempts(city.services, now=later(minutes=74))
    early = await api.list_incidents()
    for hours in (2, 3, 4):
        await jobs.query_silent_attempts(city.services, now=later(hours=hours))

    assert early == []
    (incident,) = await api.list_incidents()
    assert (incident.kind, incident.owner) == ("silent_attempt", "operator")
    assert (incident.out_trade_no, incident.order_id) == (number, order.id)
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN


async def test_the_live_code_of_a_paid_order_is_closed_at_its_channel(
    database: str, city: City
) -> None:
    """Money through an old code pays the order; nobody may pay it again through the new one."""
    order = await city.order(await make_bill(city.person_id))
    old = await city.attempt(order)
    new = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    city.alipay.trades[new.out_trade_no].state = ChannelState.NOT_PAID  # scanned
    await api.settle_batch([api.from_report(city.paid(old.out_trade_no))], now=later(seconds=1))

    await jobs.query_silent_attempts(city.services, now=later(seconds=1))

    assert city.alipay.trades[new.out_trade_no].state is ChannelState.CLOSED
    states = {a.state for a in await api.attempts_of_order(order.id)}
    assert states == {AttemptState.PAID, AttemptState.CLOSED}


@pytest.mark.parametrize("change", ["version = 2", "state = 'withdrawn'"])
@pytest.mark.parametrize("is_looked_at", [True, False])
async def test_a_changed_bill_ends_the_live_code_at_its_channel_first(
    database: str, city: City, change: str, is_looked_at: bool
) -> None:
    bill, order, number = await city.opened()
    await rows(f"update bill set {change} where id = $1", bill.id)

    if is_looked_at:
        await api.refresh_order(
            person_id=city.person_id,
            order_id=order.id,
            services=city.services,
            now=later(seconds=10),
        )
    else:
        await jobs.query_silent_attempts(city.services, now=later(seconds=10))

    assert city.wechat.trades[number].state is ChannelState.CLOSED
    after = await api.order_of(city.person_id, order.id)
    assert (after.state, after.close_reason) == (OrderState.CLOSED, "bill_changed")
    assert await broken_invariants() == {}


async def test_an_order_of_a_changed_bill_stays_open_while_somebody_may_be_paying(
    database: str, city: City
) -> None:
    bill, order, number = await city.opened()
    await rows("update bill set version = 2 where id = $1", bill.id)
    city.wechat.busy = True

    await jobs.query_silent_attempts(city.services, now=later(seconds=10))

    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN
    assert city.wechat.verbs(number) == ["open", "query", "close"]


async def test_two_janitors_ask_each_attempt_once(database: str, city: City) -> None:
    numbers = [(await city.opened({"treasury": 100 + n}))[2] for n in range(5)]

    await asyncio.gather(
        *(jobs.query_silent_attempts(city.services, now=later(seconds=10)) for _ in range(3))
    )

    assert [city.wechat.verbs(number) for number in numbers] == [["open", "query"]] * 5


async def test_kept_news_is_settled_later(database: str, city: City) -> None:
    _, order, number = await city.opened()
    report = city.paid(number)
    item = api.from_notice(
        city.wechat.notice(report), channel=report.channel, account_id=report.account_id
    )
    await keep_unhandled(item, error=ConnectionError("lost"), now=NOW)

    early = await jobs.redrive_inbox(city.services, now=later(seconds=1))
    done = await jobs.redrive_inbox(city.services, now=later(seconds=2))
    again = await jobs.redrive_inbox(city.services, now=later(seconds=60))

    assert early == again == {"settled": 0, "failed": 0}
    assert done == {"settled": 1, "failed": 0}
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    (kept,) = await api.notices_about(number)
    assert kept.handled_at is not None
    assert await count("pay_notice") == 1


async def test_news_that_never_settles_is_handed_to_a_person(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, number = await city.opened()
    report = city.paid(number)
    item = api.from_notice(
        city.wechat.notice(report), channel=report.channel, account_id=report.account_id
    )
    await keep_unhandled(item, error=ConnectionError("lost"), now=NOW)

    async def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("estation.payments.actions.settle.lock_for_news", broken)
    rounds = [
        await jobs.redrive_inbox(city.services, now=later(hours=hour))
        for hour in range(1, MAX_INBOX_TRIES + 5)
    ]

    assert sum(r["failed"] for r in rounds) == MAX_INBOX_TRIES
    (incident,) = await api.list_incidents()
    assert (incident.kind, incident.owner) == ("unsettled_news", "operator")
    (kept,) = await api.notices_about(number)
    assert kept.handled_at is None
    assert "a bug" in kept.last_error


@pytest.mark.parametrize("paid_at", [75, 320, 640])
async def test_a_payment_whose_callbacks_were_lost_is_found_within_five_minutes(
    database: str, city: City, paid_at: int
) -> None:
    """P1, D11: also when the page was watched before, and left for the wallet."""
    _, order, number = await city.opened()
    for seconds in range(4, 64, 4):
        await api.refresh_order(
            person_id=city.person_id,
            order_id=order.id,
            services=city.services,
            now=later(seconds=seconds),
        )
    for seconds in range(64, paid_at + 300, 2):
        if seconds == paid_at - paid_at % 2:
            city.wechat.pay(number, at=later(seconds=seconds))
        await jobs.query_silent_attempts(city.services, now=later(seconds=seconds))

    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


@pytest.mark.parametrize("lost", [1, 3])
async def test_news_whose_job_was_lost_settles_by_itself_within_five_minutes(
    database: str, city: City, lost: int
) -> None:
    """D11: the row is stored, and whoever took it died without a trace; no queue but the row."""
    _, order, number = await city.opened()
    report = city.paid(number)
    news = api.from_notice(
        city.wechat.notice(report), channel=report.channel, account_id=report.account_id
    )
    await keep_unhandled(news, error=ConnectionError("the database was away"), now=NOW)
    taken = 0
    for seconds in range(0, 301, 5):
        if taken < lost:
            taken += len(await inbox._claim(later(seconds=seconds), 10))
            continue
        await jobs.redrive_inbox(city.services, now=later(seconds=seconds))

    assert taken == lost
    (kept,) = await api.notices_about(number)
    assert kept.handled_at is not None
    assert kept.handled_at <= later(minutes=5)
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    assert await count("ledger_transfer", "kind = 'payment'") == 1
    assert await broken_invariants() == {}
