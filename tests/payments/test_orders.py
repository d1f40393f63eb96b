"""The life of orders and attempts: one open order per bill, one live attempt per order."""

import asyncio
import itertools
from uuid import uuid4

import pytest

from estation.fees.api import BillChanged, BillNotFound, BillNotPayable
from estation.outside.pay_channels import Channel, ChannelRefused, ChannelState, Scene
from estation.payments import api, jobs, rules
from estation.payments.api import AttemptState, BillChoice, OrderState, OutcomeKind
from estation.payments.errors import (
    AmountChanged,
    AnotherAttemptLive,
    ChannelTrouble,
    OrderAlreadyOpen,
    OrderNotFound,
    OrderNotOpen,
    SceneNotOffered,
    TooManyCodes,
)
from estation.payments.invariants import broken_invariants
from estation.shared.errors import InvalidInput, Refused
from tests.payments.city import MONEY, TOTAL, City, count, later, make_bill, make_settings, rows
from tests.payments.fakes import NOW, UNKNOWN


@pytest.fixture
def city() -> City:
    return City()


async def start(city: City, *choices: BillChoice, expected_fen: int = TOTAL) -> api.OrderView:
    return await api.start_order(
        person_id=city.person_id,
        bills=choices,
        expected_fen=expected_fen,
        settings=make_settings(),
        now=NOW,
    )


async def cancel(city: City, order: api.OrderView) -> api.OrderView:
    return await api.cancel_order(
        person_id=city.person_id, order_id=order.id, services=city.services, now=NOW
    )


async def refresh(city: City, order: api.OrderView, **passed: float) -> api.OrderView:
    return await api.refresh_order(
        person_id=city.person_id,
        order_id=order.id,
        services=city.services,
        now=later(**passed),
    )


async def test_an_order_says_who_gets_what(database: str, city: City) -> None:
    bill = await make_bill(city.person_id)

    order = await start(city, BillChoice(bill.id, 1))

    assert (order.state, order.amount_fen) == (OrderState.OPEN, TOTAL)
    assert [(s.payee_code, s.amount_fen) for s in order.splits] == [
        ("non_tax", 8_000),
        ("treasury", 817_524),
    ]
    assert order.splits[1].payee_name.startswith("国家金库")
    assert len({split.receipt_no for split in order.splits}) == 2
    assert (order.bills[0].title, order.bills[0].version) == ("存量房买卖税费", 1)
    assert order.expires_at == later(minutes=15)
    assert await broken_invariants() == {}


async def test_several_bills_make_one_order(database: str, city: City) -> None:
    first, second = await make_bill(city.person_id), await make_bill(city.person_id)

    order = await start(
        city, BillChoice(first.id, 1), BillChoice(second.id, 1), expected_fen=2 * TOTAL
    )

    assert len(order.bills) == 2
    assert len(order.splits) == 4


async def test_refusals_to_start_change_nothing(database: str, city: City) -> None:
    bill = await make_bill(city.person_id)
    free = await make_bill(city.person_id, {"treasury": 0})
    other = await make_bill(uuid4())
    gone = await make_bill(city.person_id)
    await rows("update bill set state = 'withdrawn' where id = $1", gone.id)
    cases: list[tuple[list[BillChoice], int, type[Refused]]] = [
        ([], 0, InvalidInput),
        ([BillChoice(bill.id, 1)] * 2, 2 * TOTAL, InvalidInput),
        ([BillChoice(bill.id, 1)], TOTAL + 1, AmountChanged),
        ([BillChoice(bill.id, 2)], TOTAL, BillChanged),
        ([BillChoice(free.id, 1)], 0, BillNotPayable),
        ([BillChoice(gone.id, 1)], TOTAL, BillNotPayable),
        ([BillChoice(other.id, 1)], TOTAL, BillNotFound),
        ([BillChoice(bill.id, 1), BillChoice(other.id, 1)], 2 * TOTAL, BillNotFound),
        ([BillChoice(uuid4(), 1)], TOTAL, BillNotFound),
    ]

    for choices, expected_fen, refusal in cases:
        with pytest.raises(refusal):
            await start(city, *choices, expected_fen=expected_fen)

    assert await count("pay_order") == 0


async def test_two_tabs_starting_at_once_make_one_order(database: str, city: City) -> None:
    bill = await make_bill(city.person_id)

    answers = await asyncio.gather(
        *(start(city, BillChoice(bill.id, 1)) for _ in range(6)), return_exceptions=True
    )

    made = [answer for answer in answers if isinstance(answer, api.OrderView)]
    told = [answer for answer in answers if isinstance(answer, OrderAlreadyOpen)]
    assert (len(made), len(told)) == (1, 5)
    assert {answer.details["order_id"] for answer in told} == {str(made[0].id)}
    assert await count("pay_order") == 1


async def test_another_persons_order_looks_like_none(database: str, city: City) -> None:
    _, order, _ = await city.opened()
    stranger = City()

    with pytest.raises(OrderNotFound):
        await api.order_of(stranger.person_id, order.id)
    with pytest.raises(OrderNotFound):
        await stranger.attempt(order)
    with pytest.raises(OrderNotFound):
        await cancel(stranger, order)

    assert stranger.wechat.asked == []


async def test_asking_again_for_the_same_scene_gives_the_same_code(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()

    again = await city.attempt(order)

    assert again.out_trade_no == number
    assert again.qr_content == f"code://{number}"
    assert city.wechat.verbs(number) == ["open"]


async def test_two_tabs_asking_at_once_get_the_same_code(database: str, city: City) -> None:
    order = await city.order(await make_bill(city.person_id))

    first, second = await asyncio.gather(city.attempt(order), city.attempt(order))

    assert first.out_trade_no == second.out_trade_no
    assert [verb for verb, _ in city.wechat.asked] == ["open"]


async def test_scenes_that_do_not_fit_are_refused(database: str, city: City) -> None:
    order = await city.order(await make_bill(city.person_id))

    with pytest.raises(SceneNotOffered):
        await city.attempt(order, Channel.ALIPAY, Scene.NATIVE)

    assert await count("pay_attempt") == 0


async def test_switching_the_wallet_closes_the_old_code_at_its_channel_first(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()

    attempt = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)

    assert city.wechat.verbs(number) == ["open", "query", "close", "query"]
    assert attempt.channel is Channel.ALIPAY
    states = {a.state for a in await api.attempts_of_order(order.id)}
    assert states == {AttemptState.CLOSED, AttemptState.OPEN}


async def test_codes_that_nobody_scans_are_not_given_out_without_end(
    database: str, city: City
) -> None:
    """Also not by beginning anew: each is asked about for as long as it could be paid."""
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    scenes = itertools.cycle((Scene.PRECREATE, Scene.WAP))
    for turn in range(rules.MOST_UNSEEN_CODES + 1):
        if turn == 10:
            await api.cancel_order(
                person_id=city.person_id, order_id=order.id, services=city.services, now=NOW
            )
            order = await city.order(bill)
        await city.attempt(order, Channel.ALIPAY, next(scenes))
    before = await rows("select id, state from pay_attempt order by id")

    with pytest.raises(TooManyCodes) as refused:
        await city.attempt(order, Channel.ALIPAY, next(scenes))

    assert refused.value.http_status == 429
    assert await rows("select id, state from pay_attempt order by id") == before
    assert (await api.order_of(city.person_id, order.id)).live_attempt is not None
    assert (await city.attempt(order)).channel is Channel.WECHAT_PAY


async def test_switching_while_the_payer_is_at_it_is_refused(database: str, city: City) -> None:
    _, order, _ = await city.opened()
    city.wechat.busy = True

    with pytest.raises(AnotherAttemptLive):
        await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)

    assert len(await api.attempts_of_order(order.id)) == 1
    assert city.alipay.asked == []


async def test_an_unscanned_alipay_code_leaves_the_screen_but_stays_watched(
    database: str, city: City
) -> None:
    order = await city.order(await make_bill(city.person_id))
    old = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)

    new = await city.attempt(order)

    assert city.alipay.verbs(old.out_trade_no) == ["open", "query", "close", "query"]
    states = {a.state for a in await api.attempts_of_order(order.id)}
    assert states == {AttemptState.ABANDONED, AttemptState.OPEN}
    assert new.channel is Channel.WECHAT_PAY
    await jobs.query_silent_attempts(city.services, now=later(seconds=11))
    assert city.alipay.verbs(old.out_trade_no)[4:] == ["query", "close", "query"]


async def test_money_through_an_abandoned_code_pays_the_order_and_closes_the_other(
    database: str, city: City
) -> None:
    order = await city.order(await make_bill(city.person_id))
    old = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    new = await city.attempt(order)
    city.alipay.pay(old.out_trade_no)

    (outcome,) = await api.settle_batch(
        [api.from_report(city.alipay.report(old.out_trade_no))], now=later(seconds=5)
    )
    await jobs.query_silent_attempts(city.services, now=later(seconds=5))

    assert outcome.kind is OutcomeKind.APPLIED
    assert city.wechat.trades[new.out_trade_no].state is ChannelState.CLOSED
    assert await broken_invariants() == {}


async def test_paying_both_codes_sets_the_second_money_aside(database: str, city: City) -> None:
    """D4: both channels succeed. One pays the order, the other waits for finance."""
    order = await city.order(await make_bill(city.person_id))
    old = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    new = await city.attempt(order)
    city.alipay.pay(old.out_trade_no)
    city.wechat.pay(new.out_trade_no)
    news = [
        api.from_report(city.wechat.report(new.out_trade_no)),
        api.from_report(city.alipay.report(old.out_trade_no)),
    ]

    answers = await asyncio.gather(*(api.settle_batch([n], now=NOW) for n in news))

    assert sorted((a.kind, a.incident) for (a,) in answers) == [
        ("applied", None),
        ("incident", "double_payment"),
    ]
    assert await broken_invariants() == {}


async def test_cancelling_closes_at_the_channel_and_releases_the_bill(
    database: str, city: City
) -> None:
    bill, order, number = await city.opened()

    cancelled = await cancel(city, order)

    assert (cancelled.state, cancelled.close_reason) == (OrderState.CLOSED, "cancelled")
    assert city.wechat.verbs(number) == ["open", "query", "close", "query"]
    assert (await city.order(bill)).state is OrderState.OPEN


async def test_cancelling_a_paid_order_finds_the_money(database: str, city: City) -> None:
    _, order, number = await city.opened()
    city.wechat.pay(number)

    answer = await cancel(city, order)

    assert answer.state is OrderState.PAID
    assert await broken_invariants() == {}


@pytest.mark.parametrize("verb", ["query", "close"])
async def test_paying_in_the_middle_of_cancelling_is_never_lost(
    database: str, city: City, verb: str
) -> None:
    """The payer pays between our query and our close, or between our close and our query."""
    _, order, number = await city.opened()

    async def pays(out_trade_no: str) -> None:
        if city.wechat.verbs(number).count(verb) == 1:
            city.wechat.pay(number)

    city.wechat.during[verb] = pays

    answer = await cancel(city, order)

    assert answer.state is OrderState.PAID
    assert await broken_invariants() == {}


async def test_a_callback_racing_with_a_cancel_has_one_truth(database: str, city: City) -> None:
    _, order, number = await city.opened()
    report = city.paid(number)

    answers = await asyncio.gather(
        cancel(city, order),
        api.settle_batch([api.from_report(report)], now=NOW),
        cancel(city, order),
        return_exceptions=True,
    )

    assert not [a for a in answers if isinstance(a, BaseException)]
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    assert await count("ledger_transfer", MONEY) == 1
    assert await broken_invariants() == {}


async def test_a_channel_that_does_not_answer_leaves_the_order_open(
    database: str, city: City
) -> None:
    _, order, _ = await city.opened()
    city.wechat.trouble["close"] = UNKNOWN

    with pytest.raises(ChannelTrouble):
        await cancel(city, order)

    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN


async def test_a_refused_opening_can_be_tried_again(database: str, city: City) -> None:
    order = await city.order(await make_bill(city.person_id))
    city.wechat.trouble["open"] = ChannelRefused("PARAM_ERROR")

    with pytest.raises(ChannelTrouble):
        await city.attempt(order)
    city.wechat.trouble.clear()
    second = await city.attempt(order)

    states = {a.state for a in await api.attempts_of_order(order.id)}
    assert states == {AttemptState.REFUSED, AttemptState.OPEN}
    assert second.qr_content


async def test_money_under_a_number_that_the_channel_had_refused_pays_the_order(
    database: str, city: City
) -> None:
    """D10: money found after an error. The channel's no was not the last word."""
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    city.wechat.trouble["open"] = ChannelRefused("PARAM_ERROR")
    with pytest.raises(ChannelTrouble):
        await city.attempt(order)
    (refused,) = await api.attempts_of_order(order.id)

    (outcome,) = await api.settle_batch(
        [api.from_report(city.paid(refused.out_trade_no, amount_fen=TOTAL))], now=later(seconds=9)
    )

    assert (refused.state, outcome.kind) == (AttemptState.REFUSED, OutcomeKind.APPLIED)
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    assert (await rows("select state from bill where id = $1", bill.id)) == [{"state": "paid"}]
    assert await broken_invariants() == {}


async def test_an_opening_that_timed_out_is_asked_again_under_the_same_number(
    database: str, city: City
) -> None:
    """A crash or time-out between our commit and the ticket: never two live attempts."""
    order = await city.order(await make_bill(city.person_id))
    city.wechat.trouble["open"] = UNKNOWN
    with pytest.raises(ChannelTrouble):
        await city.attempt(order)
    (stuck,) = await api.attempts_of_order(order.id)
    city.wechat.trouble.clear()

    attempt = await city.attempt(order, now=later(seconds=20))

    assert attempt.out_trade_no == stuck.out_trade_no
    assert attempt.qr_content
    assert city.wechat.verbs(stuck.out_trade_no) == ["open", "open"]


async def test_a_crash_between_commit_and_channel_ends_cleanly(database: str, city: City) -> None:
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    city.wechat.trouble["open"] = KeyboardInterrupt()  # the process dies while asking
    with pytest.raises(KeyboardInterrupt):
        await city.attempt(order)
    city.wechat.trouble.clear()

    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    (unseen,) = await api.attempts_of_order(order.id)
    closed = await jobs.close_due_orders(city.services, now=later(minutes=15))
    await jobs.query_silent_attempts(city.services, now=later(minutes=26))

    assert unseen.state is AttemptState.ABANDONED, "not found is not closed"
    assert closed == {"closed": 1}
    after = await api.order_of(city.person_id, order.id)
    assert after.close_reason == "expired"
    assert (await city.order(bill)).state is OrderState.OPEN


async def test_a_bill_revised_meanwhile_ends_the_order_when_a_code_is_asked(
    database: str, city: City
) -> None:
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    await rows("update bill set version = 2 where id = $1", bill.id)

    with pytest.raises(BillChanged) as told:
        await city.attempt(order)

    assert told.value.details["version"] == 2
    after = await api.order_of(city.person_id, order.id)
    assert (after.state, after.close_reason) == (OrderState.CLOSED, "bill_changed")
    assert city.wechat.asked == []


async def test_a_withdrawn_bill_with_a_live_code_closes_the_code_first(
    database: str, city: City
) -> None:
    bill, order, number = await city.opened()
    await rows("update bill set state = 'withdrawn' where id = $1", bill.id)

    with pytest.raises(BillNotPayable):
        await city.attempt(order)

    assert city.wechat.trades[number].state is ChannelState.CLOSED
    assert (await api.order_of(city.person_id, order.id)).close_reason == "bill_changed"


async def test_no_code_is_given_for_an_ended_order(database: str, city: City) -> None:
    _, order, _ = await city.opened()

    with pytest.raises(OrderNotOpen):
        await city.attempt(order, now=later(minutes=15))
    await cancel(city, order)
    with pytest.raises(OrderNotOpen):
        await city.attempt(order)


async def test_refreshing_asks_the_channel_now_and_then(database: str, city: City) -> None:
    _, order, number = await city.opened()
    await asyncio.gather(*(refresh(city, order, seconds=1) for _ in range(3)))
    too_early = city.wechat.verbs(number)
    await asyncio.gather(*(refresh(city, order, seconds=5) for _ in range(5)))
    city.wechat.pay(number)

    paid = await refresh(city, order, seconds=9)

    assert too_early == ["open"]
    assert city.wechat.verbs(number) == ["open", "query", "query"]
    assert paid.state is OrderState.PAID


async def test_refreshing_survives_a_dead_channel(database: str, city: City) -> None:
    _, order, _ = await city.opened()
    city.wechat.trouble["query"] = UNKNOWN

    assert (await refresh(city, order, seconds=9)).state is OrderState.OPEN


async def test_refreshing_an_expired_order_closes_at_the_channel_and_ends_it(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()

    after = await refresh(city, order, minutes=16)

    assert (after.state, after.close_reason) == (OrderState.CLOSED, "expired")
    assert city.wechat.trades[number].state is ChannelState.CLOSED
