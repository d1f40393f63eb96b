"""The transition tables are complete, and the judgement is a table of cases."""

import dataclasses
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from estation.outside.pay_channels import Channel, ChannelReport, ChannelState, Scene
from estation.payments import rules
from estation.payments.rules import (
    Arrival,
    AttemptNow,
    AttemptState,
    BillNow,
    IncidentKind,
    OrderNow,
    OrderState,
    OutcomeKind,
    Posting,
)
from tests.payments.fakes import NOW

PAID = ChannelReport(
    channel=Channel.WECHAT_PAY,
    account_id="wechat_pay:1",
    out_trade_no="T1",
    state=ChannelState.PAID,
    channel_trade_no="4200",
    paid_fen=100,
    paid_at=NOW,
)
CLOSED = ChannelReport(Channel.WECHAT_PAY, "wechat_pay:1", "T1", ChannelState.CLOSED)


def attempt(state: AttemptState = AttemptState.OPEN, account: str = "wechat_pay:1") -> AttemptNow:
    return AttemptNow(uuid4(), Channel.WECHAT_PAY, account, 100, state)


def order(state: OrderState = OrderState.OPEN, reason: str = "") -> OrderNow:
    return OrderNow(uuid4(), state, reason)


def test_every_state_is_classified() -> None:
    assert set(rules.ORDER_MOVES) == set(OrderState)
    assert set(rules.ATTEMPT_MOVES) == set(AttemptState)
    assert set(rules.BILL_IN_THE_WAY) == set(BillNow)
    assert rules.LIVE < rules.WATCHED < set(AttemptState)


def test_paid_is_the_end_and_money_reaches_it_from_everywhere_else() -> None:
    assert rules.ATTEMPT_MOVES[AttemptState.PAID] == frozenset()
    assert rules.ORDER_MOVES[OrderState.PAID] == frozenset()
    for state in set(AttemptState) - {AttemptState.PAID}:
        assert AttemptState.PAID in rules.ATTEMPT_MOVES[state]


@pytest.mark.parametrize("state", OrderState)
@pytest.mark.parametrize("to", OrderState)
def test_an_order_moves_as_the_table_says_and_anything_else_is_a_bug(
    state: OrderState, to: OrderState
) -> None:
    moving = order(state)

    if to in rules.ORDER_MOVES[state]:
        moving.move(to)
        assert moving.state is to
    else:
        with pytest.raises(rules.IllegalMove, match=f"^order {state} -> {to}$"):
            moving.move(to)
        assert moving.state is state


@pytest.mark.parametrize("state", AttemptState)
@pytest.mark.parametrize("to", AttemptState)
def test_an_attempt_moves_as_the_table_says_and_anything_else_is_a_bug(
    state: AttemptState, to: AttemptState
) -> None:
    moving = attempt(state)

    if to in rules.ATTEMPT_MOVES[state]:
        moving.move(to)
        assert moving.state is to
    else:
        with pytest.raises(rules.IllegalMove, match=f"^attempt {state} -> {to}$"):
            moving.move(to)
        assert moving.state is state


@pytest.mark.parametrize("state", set(AttemptState) - {AttemptState.PAID})
def test_the_right_money_for_an_open_order_is_applied_from_any_state(state: AttemptState) -> None:
    verdict = rules.judge(
        PAID, attempt=attempt(state), order=order(), bills=[BillNow.AS_SEEN], arrival=None
    )

    assert verdict == rules.APPLIED


@pytest.mark.parametrize(
    ("changes", "the_attempt", "the_order", "bill", "kind"),
    [
        ({}, None, None, None, IncidentKind.UNKNOWN_ORDER),
        ({}, attempt(account="wechat_pay:2"), order(), BillNow.AS_SEEN, IncidentKind.WRONG_ACCOUNT),
        ({"paid_fen": 99}, attempt(), order(), BillNow.AS_SEEN, IncidentKind.WRONG_AMOUNT),
        ({"paid_fen": 101}, attempt(), order(), BillNow.AS_SEEN, IncidentKind.WRONG_AMOUNT),
        ({"refunded_fen": 100}, attempt(), order(), BillNow.AS_SEEN, IncidentKind.ALREADY_REFUNDED),
        (
            {},
            attempt(),
            order(OrderState.PAID),
            BillNow.PAID,
            IncidentKind.DOUBLE_PAYMENT,
        ),
        (
            {},
            attempt(AttemptState.CLOSED),
            order(OrderState.CLOSED, "cancelled"),
            BillNow.AS_SEEN,
            IncidentKind.PAID_AFTER_CLOSE,
        ),
        (
            {},
            attempt(AttemptState.CLOSED),
            order(OrderState.CLOSED, "expired"),
            BillNow.AS_SEEN,
            IncidentKind.PAID_AFTER_EXPIRY,
        ),
        ({}, attempt(), order(), BillNow.REVISED, IncidentKind.BILL_REVISED),
        ({}, attempt(), order(), BillNow.WITHDRAWN, IncidentKind.BILL_WITHDRAWN),
        ({}, attempt(), order(), BillNow.PAID, IncidentKind.BILL_ALREADY_PAID),
        ({}, attempt(AttemptState.PAID), order(OrderState.PAID), None, IncidentKind.DOUBLE_PAYMENT),
    ],
)
def test_money_that_fits_nothing_is_an_incident_and_goes_to_suspense(
    changes: dict[str, Any],
    the_attempt: AttemptNow | None,
    the_order: OrderNow | None,
    bill: BillNow | None,
    kind: IncidentKind,
) -> None:
    verdict = rules.judge(
        dataclasses.replace(PAID, **changes),
        attempt=the_attempt,
        order=the_order,
        bills=[bill] if bill else [],
        arrival=None,
    )

    assert (verdict.outcome, verdict.incident) == (OutcomeKind.INCIDENT, kind)
    assert verdict.posting is Posting.SUSPENSE
    assert verdict.order_to is not OrderState.PAID


@pytest.mark.parametrize("field", ["channel_trade_no", "paid_fen", "paid_at"])
def test_a_success_without_its_facts_posts_nothing(field: str) -> None:
    nothing: dict[str, Any] = {field: None}

    verdict = rules.judge(
        dataclasses.replace(PAID, **nothing),
        attempt=attempt(),
        order=order(),
        bills=[BillNow.AS_SEEN],
        arrival=None,
    )

    assert verdict.incident is IncidentKind.INCOMPLETE_NEWS
    assert (verdict.posting, verdict.attempt_to, verdict.order_to) == (None, None, None)


def test_one_changed_bill_among_several_stops_all() -> None:
    verdict = rules.judge(
        PAID,
        attempt=attempt(),
        order=order(),
        bills=[BillNow.AS_SEEN, BillNow.WITHDRAWN, BillNow.AS_SEEN],
        arrival=None,
    )

    assert verdict.incident is IncidentKind.BILL_WITHDRAWN


def test_money_on_the_books_is_never_posted_again() -> None:
    for state in AttemptState:
        for known in (100, 99):
            verdict = rules.judge(
                PAID,
                attempt=attempt(state),
                order=order(),
                bills=[BillNow.AS_SEEN],
                arrival=Arrival(known),
            )

            assert verdict.posting is None


@pytest.mark.parametrize(
    "state", [ChannelState.NOT_PAID, ChannelState.PAYING, ChannelState.NOT_FOUND]
)
@pytest.mark.parametrize("ours", list(AttemptState))
def test_news_of_no_payment_never_moves_anything(ours: AttemptState, state: ChannelState) -> None:
    """D5: a waiting or unknown answer is not a failure."""
    verdict = rules.judge(
        dataclasses.replace(CLOSED, state=state),
        attempt=attempt(ours),
        order=order(),
        bills=[BillNow.AS_SEEN],
        arrival=None,
    )

    assert verdict == rules.NOTED


@pytest.mark.parametrize("ours", list(AttemptState))
def test_a_closing_is_believed_unless_money_came(ours: AttemptState) -> None:
    verdict = rules.judge(CLOSED, attempt=attempt(ours), order=order(), bills=[], arrival=None)

    expected = {
        AttemptState.PAID: OutcomeKind.INCIDENT,
        AttemptState.CLOSED: OutcomeKind.REPEATED,
        AttemptState.REFUSED: OutcomeKind.REPEATED,
    }
    assert verdict.outcome is expected.get(ours, OutcomeKind.CLOSED)
    assert verdict.order_to is None


@pytest.mark.parametrize(
    ("kind", "incident"),
    [
        ("SECURITY_ECHO.SUCCESS", None),
        ("REFUND.SUCCESS", IncidentKind.UNEXPECTED_REFUND),
        ("TRANSACTION.SUCCESS", IncidentKind.UNREADABLE_NEWS),  # e.g. of a combined order
        ("", IncidentKind.UNREADABLE_NEWS),
    ],
)
def test_other_news_is_looked_at_unless_it_is_harmless(
    kind: str, incident: IncidentKind | None
) -> None:
    assert rules.judge_other_news(kind).incident is incident


def test_a_bill_is_compared_with_what_the_citizen_saw() -> None:
    def judged(version: int, state: str, total_fen: int = 100) -> BillNow:
        return rules.bill_now(
            seen_version=3, version=version, seen_fen=100, total_fen=total_fen, state=state
        )

    assert judged(3, "payable") is BillNow.AS_SEEN
    assert judged(4, "payable") is BillNow.REVISED
    assert judged(4, "withdrawn") is BillNow.WITHDRAWN
    assert judged(3, "paid") is BillNow.PAID
    assert judged(3, "a state of tomorrow") is BillNow.REVISED
    assert judged(3, "payable", 101) is judged(3, "payable", 99) is BillNow.REVISED
    assert judged(3, "paid", 101) is BillNow.PAID


def pauses(end: datetime) -> list[float]:
    return [
        (rules.next_query_at(n, now=NOW, expires_at=end) - NOW).total_seconds() for n in range(300)
    ]


def test_the_pauses_grow_to_ten_minutes_and_never_end() -> None:
    over = pauses(NOW - timedelta(minutes=10))

    assert over[:6] == [10, 20, 40, 80, 160, 320]
    assert set(over[6:]) == {600}


@pytest.mark.parametrize("end", [timedelta(days=30), timedelta(microseconds=1, minutes=-10)])
def test_while_it_may_be_paid_no_pause_is_longer_than_four_minutes(end: timedelta) -> None:
    payable = pauses(NOW + end)

    assert payable[:5] == [10, 20, 40, 80, 160]
    assert set(payable[5:]) == {240}


def test_the_end_of_an_order_is_not_slept_through() -> None:
    end = NOW + timedelta(seconds=100)

    assert rules.next_query_at(9, now=NOW, expires_at=end) == end
    assert rules.next_query_at(9, now=end, expires_at=end) > end


def test_only_what_a_channel_cannot_know_yet_may_be_abandoned() -> None:
    assert rules.may_be_abandoned(AttemptState.OPEN, Scene.PRECREATE)
    assert rules.may_be_abandoned(AttemptState.OPENING, Scene.NATIVE)
    assert not rules.may_be_abandoned(AttemptState.OPEN, Scene.NATIVE)
    assert not rules.may_be_abandoned(AttemptState.PAID, Scene.PRECREATE)
