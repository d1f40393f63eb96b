"""One payment for several payees at once: all parts are applied, or none, and no fen is lost."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from estation.ledger.api import balance
from estation.outside.pay_channels import (
    COMBINED_SCENES,
    Channel,
    ChannelReport,
    ChannelState,
    ReportPart,
    Scene,
)
from estation.payments import api, combining, jobs, rules, staff_queries
from estation.payments.api import AttemptState, IncidentKind, OrderState, OutcomeKind, SettleItem
from estation.payments.combining import Route, route_of
from estation.payments.invariants import broken_invariants
from estation.payments.models import PayAttempt
from estation.payments.rules import Arrival, AttemptNow, BillNow, OrderNow, Part, Posting
from estation.shared.replies import json_reply
from tests.payments.city import (
    COMBINING,
    MERCHANTS,
    MONEY,
    TOTAL,
    City,
    count,
    later,
    make_bill,
    rows,
)
from tests.payments.fakes import NOW, CombiningChannel, FakeChannel
from tests.payments.plants import by_hand

NUMBER = "20260803ABCDEFGHJKMNPQRS"


@pytest.mark.parametrize(
    ("sums", "merchants", "scene", "combining_account", "route"),
    [
        ({"a": 5}, {}, Scene.NATIVE, "comb", Route("city")),
        ({"a": 5}, {"a": "m-a"}, Scene.NATIVE, "comb", Route("m-a")),
        ({"a": 5}, {"a": "m-a"}, Scene.H5, None, Route("m-a")),
        ({"a": 5, "b": 0}, {"a": "m-a"}, Scene.NATIVE, "comb", Route("m-a")),
        ({"a": 5, "b": 7}, {"a": "m-a"}, Scene.NATIVE, "comb", Route("city")),
        ({"a": 5, "b": 7}, {"a": "m-a", "b": "m-b"}, Scene.NATIVE, None, Route("city")),
        ({"a": 5, "b": 7}, {"a": "m-a", "b": "m-b"}, Scene.H5, "comb", Route("city")),
        ({"a": 5, "b": 7}, {"a": "m-a", "b": "m-b"}, Scene.WAP, "comb", Route("city")),
        ({}, {"a": "m-a"}, Scene.NATIVE, "comb", Route("city")),
        (
            {"b": 7, "a": 5},
            {"a": "m-a", "b": "m-b"},
            Scene.JSAPI,
            "comb",
            Route("comb", (Part("a", "m-a", "T-01", 5), Part("b", "m-b", "T-02", 7))),
        ),
        (
            {f"p{n:02d}": 1 for n in range(51)},
            {f"p{n:02d}": "m" for n in range(51)},
            Scene.NATIVE,
            "comb",
            Route("city"),
        ),
    ],
)
def test_money_goes_straight_to_the_payees_where_it_can(
    sums: dict[str, int],
    merchants: dict[str, str],
    scene: Scene,
    combining_account: str | None,
    route: Route,
) -> None:
    assert route == route_of(
        sums,
        scene=scene,
        out_trade_no="T",
        merchants=merchants,
        collecting="city",
        combining=combining_account,
    )


def test_fifty_parts_are_combined_under_numbers_the_channel_takes() -> None:
    payees = {f"p{n:02d}": n + 1 for n in range(50)}

    route = route_of(
        payees,
        scene=Scene.NATIVE,
        out_trade_no=NUMBER,
        merchants=dict.fromkeys(payees, "wechat_pay:1"),
        collecting="city",
        combining="comb",
    )

    numbers = [part.out_trade_no for part in route.parts]
    assert len(set(numbers)) == 50
    assert max(map(len, numbers)) <= 32
    assert {combining.whole_number(number) for number in numbers} == {NUMBER}
    assert sum(part.amount_fen for part in route.parts) == sum(payees.values())
    assert combining.whole_number(NUMBER) == NUMBER


ASKED = (Part("a", "m-a", "T-01", 60), Part("b", "m-b", "T-02", 40))


def said(turn: int, **changes: Any) -> ReportPart:
    part = ASKED[turn - 1]
    one = ReportPart(
        part.account_id, part.out_trade_no, ChannelState.PAID, f"4200-{turn}", part.amount_fen, NOW
    )
    return dataclasses.replace(one, **changes)


def report(*parts: ReportPart, **changes: Any) -> ChannelReport:
    paid = [part.paid_fen or 0 for part in parts if part.state is ChannelState.PAID]
    one = ChannelReport(
        Channel.WECHAT_PAY, "comb", "T", ChannelState.PAID, "T", sum(paid), NOW, parts=parts
    )
    return dataclasses.replace(one, **changes)


def judged(
    news: ChannelReport,
    *,
    attempt: AttemptNow | None = None,
    bill: BillNow = BillNow.AS_SEEN,
    order: OrderState = OrderState.OPEN,
    arrivals: dict[str, Arrival] | None = None,
    known: bool = True,
) -> combining.CombinedVerdict:
    ours = attempt or AttemptNow(
        uuid4(), Channel.WECHAT_PAY, "comb", 100, AttemptState.OPEN, parts=ASKED
    )
    return combining.judge_combined(
        news,
        attempt=ours if known else None,
        order=OrderNow(uuid4(), order, "expired" if order is OrderState.CLOSED else "")
        if known
        else None,
        bills=[bill],
        arrivals=arrivals or {},
    )


def test_what_was_asked_and_wholly_paid_is_applied() -> None:
    answer = judged(report(said(1), said(2)))

    assert (answer.verdict, len(answer.post), answer.tell) == (rules.APPLIED, 2, ())


UNPAID = {"state": ChannelState.NOT_PAID, "channel_trade_no": None, "paid_fen": None}


@pytest.mark.parametrize(
    ("news", "kind", "posted"),
    [
        (report(said(1), said(2, **UNPAID)), IncidentKind.WRONG_AMOUNT, 1),
        (report(said(1)), IncidentKind.WRONG_AMOUNT, 1),
        (report(said(1), said(2, paid_fen=39)), IncidentKind.WRONG_AMOUNT, 2),
        (report(said(1, paid_fen=40), said(2, paid_fen=60)), IncidentKind.WRONG_AMOUNT, 2),
        (report(said(1), said(2), paid_fen=99), IncidentKind.WRONG_AMOUNT, 2),
        (report(said(1), said(2, account_id="m-x")), IncidentKind.WRONG_ACCOUNT, 2),
        (report(said(1, account_id="m-b"), said(2)), IncidentKind.WRONG_ACCOUNT, 2),
        (report(said(1), said(2, out_trade_no="T-03")), IncidentKind.CONTRADICTING_NEWS, 2),
        (
            report(said(1), said(2), said(2, out_trade_no="T-03", channel_trade_no="4200-3")),
            IncidentKind.CONTRADICTING_NEWS,
            3,
        ),
    ],
)
def test_parts_unlike_those_asked_for_are_kept_aside_each_with_its_incident(
    news: ChannelReport, kind: IncidentKind, posted: int
) -> None:
    answer = judged(news)

    assert answer.verdict.incident is kind
    assert answer.verdict.posting is Posting.SUSPENSE
    assert answer.verdict.attempt_to is AttemptState.PAID
    assert answer.verdict.order_to is OrderState.CLOSED
    assert len(answer.post) == posted
    assert answer.tell == answer.post


@pytest.mark.parametrize(
    "news",
    [
        report(),
        report(said(1), said(2, channel_trade_no=None)),
        report(said(1), said(2, paid_at=None)),
        report(said(1), said(2, paid_fen=0)),
        report(said(1), said(2, account_id="m-a", channel_trade_no="4200-1")),
        report(said(1), said(2), channel_trade_no=None),
    ],
)
def test_a_success_that_does_not_name_its_money_moves_nothing(news: ChannelReport) -> None:
    answer = judged(news)

    assert answer.verdict.incident is IncidentKind.INCOMPLETE_NEWS
    assert answer.verdict.posting is answer.verdict.attempt_to is answer.verdict.order_to is None
    assert answer.post == answer.tell == ()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"known": False}, IncidentKind.UNKNOWN_ORDER),
        ({"order": OrderState.PAID}, IncidentKind.DOUBLE_PAYMENT),
        ({"order": OrderState.CLOSED}, IncidentKind.PAID_AFTER_EXPIRY),
        ({"bill": BillNow.REVISED}, IncidentKind.BILL_REVISED),
        ({"bill": BillNow.WITHDRAWN}, IncidentKind.BILL_WITHDRAWN),
        (
            {"attempt": AttemptNow(uuid4(), Channel.WECHAT_PAY, "city", 100, AttemptState.OPEN)},
            IncidentKind.WRONG_ACCOUNT,
        ),
        (
            {"attempt": AttemptNow(uuid4(), Channel.WECHAT_PAY, "comb", 100, AttemptState.OPEN)},
            IncidentKind.CONTRADICTING_NEWS,
        ),
    ],
)
def test_what_is_in_the_way_of_one_is_in_the_way_of_all(
    changes: dict[str, Any], kind: IncidentKind
) -> None:
    answer = judged(report(said(1), said(2)), **changes)

    assert answer.verdict.incident is kind
    assert len(answer.post) == len(answer.tell) == 2


def paid_attempt(paid_fen: int) -> AttemptNow:
    return AttemptNow(
        uuid4(), Channel.WECHAT_PAY, "comb", 100, AttemptState.PAID, "T", paid_fen, ASKED
    )


FIRST, SECOND = "arrival:m-a:4200-1", "arrival:m-b:4200-2"


@pytest.mark.parametrize(
    ("paid_fen", "arrivals", "outcome", "kind", "posted"),
    [
        (100, {FIRST: 60, SECOND: 40}, OutcomeKind.REPEATED, None, 0),
        (100, {FIRST: 60}, OutcomeKind.INCIDENT, IncidentKind.DOUBLE_PAYMENT, 1),
        (60, {FIRST: 60}, OutcomeKind.INCIDENT, IncidentKind.WRONG_AMOUNT, 1),
        (100, {FIRST: 61, SECOND: 40}, OutcomeKind.INCIDENT, IncidentKind.CONTRADICTING_NEWS, 0),
        (None, {FIRST: 60}, OutcomeKind.INCIDENT, IncidentKind.UNKNOWN_ORDER, 1),
        (None, {FIRST: 60, SECOND: 40}, OutcomeKind.INCIDENT, IncidentKind.UNKNOWN_ORDER, 0),
    ],
)
def test_parts_that_are_on_the_books_are_not_posted_again(
    paid_fen: int | None,
    arrivals: dict[str, int],
    outcome: OutcomeKind,
    kind: IncidentKind | None,
    posted: int,
) -> None:
    answer = judged(
        report(said(1), said(2)),
        attempt=paid_attempt(paid_fen) if paid_fen else None,
        arrivals={key: Arrival(fen) for key, fen in arrivals.items()},
    )

    assert (answer.verdict.outcome, answer.verdict.incident) == (outcome, kind)
    assert len(answer.post) == posted


def test_only_scenes_that_can_combine_do() -> None:
    assert {Scene.NATIVE, Scene.JSAPI} == COMBINED_SCENES


# --- against the database


@pytest.fixture
def city() -> City:
    """Both payees have a merchant of their own at WeChat Pay."""
    merchants = [FakeChannel(account_id=account) for account in MERCHANTS.values()]
    return City(merchants=MERCHANTS, others=[CombiningChannel(), *merchants])


def channel_of(city: City) -> CombiningChannel:
    one = city.others[0]
    assert isinstance(one, CombiningChannel)
    return one


async def settle(*reports: ChannelReport) -> list[api.Outcome]:
    return await api.settle_batch([api.from_report(one) for one in reports], now=later(seconds=30))


async def paid_report(city: City) -> tuple[api.OrderView, ChannelReport]:
    _, order, number = await city.opened()
    channel_of(city).pay(number)
    return order, channel_of(city).report(number)


async def test_an_order_of_two_payees_is_asked_for_in_parts(database: str, city: City) -> None:
    _, _, number = await city.opened()

    request = channel_of(city).trades[number].request
    assert [(p.account_id, p.out_trade_no, p.amount_fen) for p in request.parts] == [
        ("wechat_pay:1900000202", f"{number}-01", 8_000),
        ("wechat_pay:1900000201", f"{number}-02", 817_524),
    ]
    assert request.notify_url.endswith("/notices/wechat-combine/1900000100")
    assert city.wechat.asked == []


async def test_programs_are_told_who_gets_what(database: str, city: City) -> None:
    order = await city.order(await make_bill(city.person_id))

    said = json_reply(await city.attempt(order)).body

    assert said is not None
    parts = json.loads(said)["parts"]
    assert {part["payee_code"]: part["amount_fen"] for part in parts} == {
        "non_tax": 8_000,
        "treasury": 817_524,
    }


async def test_parts_are_summed_over_the_bills_of_an_order(database: str, city: City) -> None:
    bills = [await make_bill(city.person_id), await make_bill(city.person_id)]
    order = await city.order(*bills)

    number = (await city.attempt(order)).out_trade_no

    request = channel_of(city).trades[number].request
    assert sorted(part.amount_fen for part in request.parts) == [16_000, 1_635_048]
    channel_of(city).pay(number)
    (outcome,) = await settle(channel_of(city).report(number))
    assert outcome.kind is OutcomeKind.APPLIED
    assert await count("outbox_message") == 2
    assert await broken_invariants() == {}


async def test_a_single_payee_with_a_merchant_is_paid_there_directly(
    database: str, city: City
) -> None:
    _, order, number = await city.opened({"treasury": 500})
    merchant = next(one for one in city.others if one.account_id == MERCHANTS["treasury"])
    merchant.pay(number)

    (outcome,) = await settle(merchant.report(number))

    assert outcome.kind is OutcomeKind.APPLIED
    assert merchant.trades[number].request.notify_url.endswith("/notices/wechat-pay/1900000201")
    assert await balance("channel_clearing:wechat_pay:1900000201") == 500
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    assert await broken_invariants() == {}


async def test_scenes_that_cannot_combine_go_to_the_collecting_account(
    database: str, city: City
) -> None:
    order = await city.order(await make_bill(city.person_id))

    attempt = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)

    assert attempt.out_trade_no in city.alipay.trades
    assert attempt.parts == ()


async def test_each_part_is_a_transfer_from_its_merchant_to_its_payee(
    database: str, city: City
) -> None:
    order, news = await paid_report(city)

    (outcome,) = await settle(news)

    assert outcome.kind is OutcomeKind.APPLIED
    assert await balance("channel_clearing:wechat_pay:1900000201") == 817_524
    assert await balance("channel_clearing:wechat_pay:1900000202") == 8_000
    assert await balance(f"channel_clearing:{COMBINING}") == 0
    assert await balance("payee_payable:treasury") == -817_524
    assert await balance("payee_payable:non_tax") == -8_000
    transfers = await rows(f"select * from ledger_transfer where {MONEY} order by our_no")
    assert [t["our_no"] for t in transfers] == [part.out_trade_no for part in news.parts]
    assert [t["idempotency_key"] for t in transfers] == [
        f"arrival:{part.account_id}:{part.channel_trade_no}" for part in news.parts
    ]
    assert {t["order_id"] for t in transfers} == {order.id}
    assert await broken_invariants() == {}


async def test_the_receipt_says_where_each_payees_money_lies(database: str, city: City) -> None:
    order, news = await paid_report(city)

    await settle(news)

    (message,) = await rows("select body::text as body from outbox_message")
    body = json.loads(message["body"])
    assert body["out_trade_no"] == body["channel_trade_no"] == news.out_trade_no
    told = {s["payee_code"]: (s["account_id"], s["channel_trade_no"]) for s in body["splits"]}
    assert told == {
        "non_tax": (news.parts[0].account_id, news.parts[0].channel_trade_no),
        "treasury": (news.parts[1].account_id, news.parts[1].channel_trade_no),
    }
    paid = await api.order_of(city.person_id, order.id)
    assert paid.paid_attempt is not None
    assert paid.paid_attempt.channel_trade_no == news.out_trade_no
    assert {(s.out_trade_no, s.channel_trade_no) for s in paid.splits} == {
        (part.out_trade_no, part.channel_trade_no) for part in news.parts
    }


async def test_combined_news_ten_times_at_once_moves_money_once(database: str, city: City) -> None:
    _, news = await paid_report(city)

    answers = await asyncio.gather(*(settle(news) for _ in range(10)))

    assert sorted(one.kind for (one,) in answers) == ["applied"] + ["repeated"] * 9
    assert await count("ledger_transfer", MONEY) == 2
    assert await count("outbox_message") == 1
    assert await count("incident") == 0
    assert await broken_invariants() == {}


async def test_a_lost_callback_is_found_by_asking(database: str, city: City) -> None:
    order, _ = await paid_report(city)

    await jobs.query_silent_attempts(city.services, now=later(seconds=10))

    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


Spoil = Callable[[ChannelReport], ChannelReport]


def _part(news: ChannelReport, turn: int, **changes: Any) -> ChannelReport:
    parts = list(news.parts)
    parts[turn] = dataclasses.replace(parts[turn], **changes)
    paid = sum(part.paid_fen or 0 for part in parts)
    return dataclasses.replace(news, parts=tuple(parts), paid_fen=paid)


@pytest.mark.parametrize(
    ("spoil", "kind", "kept_fen"),
    [
        (lambda news: _part(news, 0, **UNPAID), "wrong_amount", 817_524),
        (lambda news: _part(news, 1, paid_fen=817_523), "wrong_amount", TOTAL - 1),
        (lambda news: _part(news, 1, account_id="wechat_pay:9"), "wrong_account", TOTAL),
        (lambda news: _part(news, 1, out_trade_no="elsewhere"), "contradicting_news", TOTAL),
    ],
)
async def test_every_paid_part_of_odd_news_is_in_suspense_and_owned(
    database: str, city: City, spoil: Spoil, kind: str, kept_fen: int
) -> None:
    order, news = await paid_report(city)

    (outcome,) = await settle(spoil(news))

    assert (outcome.kind, outcome.incident) == (OutcomeKind.INCIDENT, kind)
    suspense = await rows(
        """select t.channel_no, e.credit_fen from ledger_transfer t
           join ledger_entry e on e.transfer_id = t.id and starts_with(e.account, 'suspense:')"""
    )
    incidents = await rows("select channel_trade_no, amount_fen from incident")
    assert {(t["channel_no"], t["credit_fen"]) for t in suspense} == {
        (i["channel_trade_no"], i["amount_fen"]) for i in incidents
    }
    assert sum(t["credit_fen"] for t in suspense) == kept_fen
    assert await count("ledger_transfer", "kind = 'payment'") == 0
    assert await count("bill", "state = 'paid'") == await count("outbox_message") == 0
    assert (await api.order_of(city.person_id, order.id)).close_reason == kind
    assert await broken_invariants() == {}


async def test_the_missing_part_that_comes_later_is_kept_too(database: str, city: City) -> None:
    _, news = await paid_report(city)
    await settle(_part(news, 0, **UNPAID))

    (outcome,) = await settle(news)

    assert (outcome.kind, outcome.incident) == (OutcomeKind.INCIDENT, IncidentKind.WRONG_AMOUNT)
    assert await balance("suspense:wechat_pay:1900000202") == -8_000
    assert await count("incident") == await count("ledger_transfer", MONEY) == 2
    assert await broken_invariants() == {}


async def test_a_part_the_books_already_know_is_not_booked_twice(database: str, city: City) -> None:
    """Its merchant's own news came first, before anybody knew the number."""
    order, news = await paid_report(city)
    early = news.parts[0]
    stranger = ChannelReport(
        Channel.WECHAT_PAY,
        early.account_id,
        early.out_trade_no,
        ChannelState.PAID,
        early.channel_trade_no,
        early.paid_fen,
        early.paid_at,
    )
    await settle(stranger)

    (outcome,) = await settle(news)

    assert (outcome.kind, outcome.incident) == (OutcomeKind.INCIDENT, IncidentKind.UNKNOWN_ORDER)
    assert await count("ledger_transfer", "kind = 'suspense'") == 2
    assert await count("ledger_transfer", "kind = 'payment'") == 0
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.CLOSED
    assert await broken_invariants() == {}


async def test_a_merchants_own_news_of_an_applied_part_changes_nothing(
    database: str, city: City
) -> None:
    _, news = await paid_report(city)
    await settle(news)
    part = news.parts[1]

    (outcome,) = await settle(
        ChannelReport(
            Channel.WECHAT_PAY,
            part.account_id,
            part.out_trade_no,
            ChannelState.PAID,
            part.channel_trade_no,
            part.paid_fen,
            part.paid_at,
        )
    )

    assert outcome.kind is OutcomeKind.REPEATED
    assert await count("incident") == 0


async def test_a_success_without_parts_never_pays_a_combined_order(
    database: str, city: City
) -> None:
    order, news = await paid_report(city)

    (outcome,) = await settle(dataclasses.replace(news, parts=()))

    assert outcome.incident is IncidentKind.INCOMPLETE_NEWS
    assert await count("ledger_transfer", MONEY) == 0
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN
    (whole,) = await settle(news)
    assert whole.kind is OutcomeKind.APPLIED


async def test_parts_never_pay_a_plain_order(database: str) -> None:
    city = City()
    _, order, number = await city.opened()
    parts = (
        ReportPart("wechat_pay:1", f"{number}-01", ChannelState.PAID, "42-1", 817_524, NOW),
        ReportPart("wechat_pay:2", f"{number}-02", ChannelState.PAID, "42-2", 8_000, NOW),
    )
    news = ChannelReport(
        Channel.WECHAT_PAY, COMBINING, number, ChannelState.PAID, number, TOTAL, NOW, parts=parts
    )

    (outcome,) = await settle(news)

    assert outcome.incident is IncidentKind.WRONG_ACCOUNT
    assert await count("ledger_transfer", "kind = 'suspense'") == await count("incident") == 2
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN
    assert await broken_invariants() == {}


async def test_paid_after_cancelling_keeps_every_part(database: str, city: City) -> None:
    _, news = await paid_report(city)
    await rows("update pay_attempt set state = 'closed', closed_at = now(), next_query_at = null")
    await rows(
        "update pay_order set state = 'closed', closed_at = now(), close_reason = 'cancelled'"
    )
    await rows("update pay_order_bill set is_open = false")

    (outcome,) = await settle(news)

    assert outcome.incident is IncidentKind.PAID_AFTER_CLOSE
    assert await count("incident") == 2
    refunds = await rows("select account_id, amount_fen, channel_trade_no from pay_refund")
    assert {(one["account_id"], one["amount_fen"], one["channel_trade_no"]) for one in refunds} == {
        (part.account_id, part.paid_fen, part.channel_trade_no) for part in news.parts
    }
    assert await broken_invariants() == {}


async def test_a_lost_part_is_not_hidden_by_what_another_attempt_brought(
    database: str, city: City
) -> None:
    """The payer paid in parts, and by Alipay besides; then the books lose one of the parts."""
    order, news = await paid_report(city)
    await settle(news)
    first = news.parts[0]
    await PayAttempt(
        id=uuid4(), order_id=order.id, channel=Channel.ALIPAY, out_trade_no=NUMBER,
        account_id="alipay:2021000000000109", scene=Scene.PRECREATE, amount_fen=TOTAL, parts=None,
        payer_mark="", state=AttemptState.ABANDONED, created_at=NOW, expires_at=NOW,
        next_query_at=NOW,
    ).save(force_create=True)  # fmt: skip
    await settle(
        ChannelReport(
            Channel.ALIPAY,
            "alipay:2021000000000109",
            NUMBER,
            ChannelState.PAID,
            "2026080322001",
            TOTAL,
            later(seconds=50),
        )
    )
    whole = await broken_invariants()

    await by_hand(
        "delete from ledger_entry where transfer_id = (select id from ledger_transfer"
        f" where kind = 'payment' and our_no = '{first.out_trade_no}')",
        f"delete from ledger_transfer where kind = 'payment' and our_no = '{first.out_trade_no}'",
    )

    assert await count("ledger_transfer", "kind = 'suspense'") == 1
    assert whole == {}
    assert (await broken_invariants())["every_paid_combined_attempt_has_its_arrivals"] == [
        news.out_trade_no
    ]


async def test_switching_wallets_closes_the_combined_order_first(database: str, city: City) -> None:
    order = await city.order(await make_bill(city.person_id))
    first = await city.attempt(order)

    await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)

    assert "close" in channel_of(city).verbs(first.out_trade_no)
    states = {one.out_trade_no: one.state for one in await api.attempts_of_order(order.id)}
    assert states[first.out_trade_no] is AttemptState.CLOSED


async def test_a_closed_combined_order_is_known_by_its_parts_numbers(
    database: str, city: City
) -> None:
    """The channel's bill names the parts only."""
    _, order, number = await city.opened()
    await api.cancel_order(
        person_id=city.person_id, order_id=order.id, services=city.services, now=NOW
    )

    found = await api.ended_unpaid([f"{number}-01", f"{number}-02", "elsewhere-01"])

    assert sorted(found) == [f"{number}-01", f"{number}-02"]


async def test_the_staffs_story_of_a_part_shows_the_whole(database: str, city: City) -> None:
    _, news = await paid_report(city)
    item = SettleItem(
        Channel.WECHAT_PAY, COMBINING, _part(news, 0, **UNPAID), channel_of(city).notice(news)
    )
    await api.settle_batch([item], now=later(seconds=30))
    (one,) = await api.list_incidents()

    story = await staff_queries.story_of(one)

    assert one.out_trade_no == news.parts[1].out_trade_no
    assert [transfer.channel_no for transfer in story.transfers] == [one.channel_trade_no]
    assert "收到通知" in {moment.what for moment in story.timeline}
    assert story.order_no


async def test_news_of_a_plain_and_a_combined_order_settle_in_one_batch(
    database: str, city: City
) -> None:
    _, news = await paid_report(city)
    _, _, other = await city.opened({"treasury": 100})
    merchant = next(one for one in city.others if one.account_id == MERCHANTS["treasury"])
    merchant.pay(other, at=NOW + timedelta(seconds=1))

    outcomes = await settle(merchant.report(other), news, news)

    assert [one.kind for one in outcomes] == ["applied", "applied", "repeated"]
    assert await broken_invariants() == {}
