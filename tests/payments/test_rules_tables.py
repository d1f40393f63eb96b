"""The tables cell by cell: every legal move, every incident's deeds, what a payer may know."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from estation.outside.pay_channels import Channel
from estation.payments import refund_rules, rules
from estation.payments.refund_rules import Deed, PayersRefund
from estation.payments.rules import (
    AttemptState,
    IncidentKind,
    Posting,
    RefundCause,
    RefundState,
)
from tests.payments.test_rules_judging import CASES

ORDERS = """
          open  paid  closed
open      .     x     x
paid      .     .     .
closed    .     x     .
"""
ATTEMPTS = """
           opening  open  abandoned  paid  closed  refused
opening    .        x     x          x     x       x
open       .        .     x          x     x       .
abandoned  .        .     .          x     x       .
paid       .        .     .          .     .       .
closed     .        .     .          x     .       .
refused    .        .     .          x     .       .
"""
REFUNDS = """
            asked  rejected  approved  processing  abnormal  succeeded  closed
asked       .      x         x         .           .         .          .
rejected    .      .         .         .           .         .          .
approved    .      .         .         x           x         x          x
processing  .      .         .         .           x         x          x
abnormal    .      .         .         x           .         x          x
succeeded   .      .         .         .           .         .          .
closed      .      .         .         .           .         x          .
"""


@pytest.mark.parametrize(
    ("moves", "picture"),
    [
        (rules.ORDER_MOVES, ORDERS),
        (rules.ATTEMPT_MOVES, ATTEMPTS),
        (rules.REFUND_MOVES, REFUNDS),
    ],
)
def test_the_moves_are_these_and_no_others(moves: Mapping[Any, Any], picture: str) -> None:
    heads, *lines = [line.split() for line in picture.strip().splitlines()]

    drawn = {
        name: {to for to, cell in zip(heads, cells, strict=True) if cell == "x"}
        for name, *cells in lines
    }

    assert {str(state): {str(to) for to in ends} for state, ends in moves.items()} == drawn


def test_who_is_paying_who_is_asked_about_and_what_uses_up_money() -> None:
    assert {AttemptState.OPENING, AttemptState.OPEN} == rules.LIVE
    assert {AttemptState.OPENING, AttemptState.OPEN, AttemptState.ABANDONED} == rules.WATCHED
    assert {state for state in RefundState if state in refund_rules.IN_FLIGHT} == {
        RefundState.APPROVED,
        RefundState.PROCESSING,
        RefundState.ABNORMAL,
    }
    assert {RefundState.ASKED} == refund_rules.UNFINISHED - refund_rules.IN_FLIGHT


def test_only_an_attempt_that_can_still_get_money_is_asked_about_or_ended() -> None:
    over = set(AttemptState) - rules.WATCHED

    assert all(rules.ATTEMPT_MOVES[state] <= {AttemptState.PAID} for state in over)
    assert all(AttemptState.CLOSED in rules.ATTEMPT_MOVES[state] for state in rules.WATCHED)


def test_a_refund_in_flight_can_always_end_with_or_without_the_money() -> None:
    for state in refund_rules.IN_FLIGHT:
        assert {RefundState.SUCCEEDED, RefundState.CLOSED} <= rules.REFUND_MOVES[state]


BY_ITSELF = {
    IncidentKind.DOUBLE_PAYMENT: RefundCause.DOUBLE_PAYMENT,
    IncidentKind.PAID_AFTER_CLOSE: RefundCause.PAID_LATE,
    IncidentKind.PAID_AFTER_EXPIRY: RefundCause.PAID_LATE,
    IncidentKind.BILL_ALREADY_PAID: RefundCause.BILL_CHANGED,
    IncidentKind.BILL_REVISED: RefundCause.BILL_CHANGED,
    IncidentKind.BILL_WITHDRAWN: RefundCause.BILL_CHANGED,
}
BY_TWO_PERSONS = {
    IncidentKind.WRONG_AMOUNT,
    IncidentKind.WRONG_ACCOUNT,
    IncidentKind.UNKNOWN_ORDER,
    IncidentKind.UNOWNED_SUSPENSE,
    IncidentKind.ALREADY_REFUNDED,
    IncidentKind.CONTRADICTING_NEWS,
    IncidentKind.REFUND_CLOSED,
}


@pytest.mark.parametrize("kind", IncidentKind)
def test_money_of_a_clear_cause_goes_back_by_itself_and_the_rest_by_two_persons(
    kind: IncidentKind,
) -> None:
    assert refund_rules.AUTOMATIC.get(kind) is BY_ITSELF.get(kind)
    ways = {Deed.REFUND, Deed.SETTLE_OUTSIDE} & refund_rules.legal_deeds(kind)
    assert len(ways) == (2 if kind in BY_ITSELF or kind in BY_TWO_PERSONS else 0)


@pytest.mark.parametrize("kind", IncidentKind)
def test_only_late_money_may_be_applied_and_only_a_stuck_refund_redirected(
    kind: IncidentKind,
) -> None:
    own = {
        IncidentKind.PAID_AFTER_CLOSE: {Deed.APPLY},
        IncidentKind.PAID_AFTER_EXPIRY: {Deed.APPLY},
        IncidentKind.REFUND_ABNORMAL: {Deed.REDIRECT_REFUND, Deed.PAY_BY_HAND},
        IncidentKind.REFUND_OVERPAID: {Deed.END_CLAIM},
    }
    deeds = refund_rules.legal_deeds(kind) - {Deed.REFUND, Deed.SETTLE_OUTSIDE}

    assert deeds == {Deed.TAKE, Deed.RESOLVE} | own.get(kind, set())


def test_a_kind_of_tomorrow_may_at_least_be_taken_and_resolved() -> None:
    assert refund_rules.legal_deeds("a kind of tomorrow") == {Deed.TAKE, Deed.RESOLVE}


def test_whatever_is_set_aside_can_be_given_back() -> None:
    """No judgement leads money to where no deed takes it from."""
    kinds = {
        verdict.incident
        for case in CASES
        if (verdict := case.judged()).posting is Posting.SUSPENSE and verdict.incident
    }

    assert len(kinds) > 5
    assert all(Deed.REFUND in refund_rules.legal_deeds(kind) for kind in kinds)


def test_the_payer_reads_why_and_that_it_goes_back_the_way_it_came() -> None:
    words = set(refund_rules.AUTOMATIC_REASON.values())

    assert len(words) == len(refund_rules.AUTOMATIC_REASON)
    assert all(said.endswith("，原路退回") for said in words)


def test_a_payer_learns_of_a_refund_once_it_is_approved() -> None:
    assert refund_rules.FOR_THE_PAYER == {
        RefundState.APPROVED: PayersRefund.REFUNDING,
        RefundState.PROCESSING: PayersRefund.REFUNDING,
        RefundState.ABNORMAL: PayersRefund.ABNORMAL,
        RefundState.SUCCEEDED: PayersRefund.REFUNDED,
        RefundState.CLOSED: PayersRefund.NOT_REFUNDED,
    }


def test_wechat_pays_refunds_of_one_trade_stand_more_than_a_minute_apart() -> None:
    apart = {channel: limits.apart for channel, limits in refund_rules.LIMITS.items()}

    assert apart == {Channel.WECHAT_PAY: timedelta(seconds=75), Channel.ALIPAY: timedelta(0)}


def test_what_still_is_so_is_opened_again_after_words() -> None:
    """A silent channel, a refund without an end, an account without money, money without an
    owner, news nobody could settle: resolving them in words changes nothing."""
    assert set(rules.OPEN_AGAIN) == {
        IncidentKind.SILENT_ATTEMPT,
        IncidentKind.REFUND_ABNORMAL,
        IncidentKind.REFUND_NOT_ENOUGH,
        IncidentKind.REFUND_UNFINISHED,
        IncidentKind.UNOWNED_SUSPENSE,
        IncidentKind.UNSETTLED_NEWS,
    }
    assert timedelta(hours=24) == rules.INCIDENT_DUE


@pytest.mark.parametrize("state", refund_rules.FOR_THE_PAYER)
@pytest.mark.parametrize(
    ("is_redirected", "is_paid_by_hand", "told"),
    [
        (False, False, None),
        (True, False, PayersRefund.ABNORMAL),
        (True, True, PayersRefund.PAID_BY_HAND),
    ],
)
def test_what_went_to_our_own_card_is_with_its_payer_only_once_it_was_paid_out(
    state: RefundState, is_redirected: bool, is_paid_by_hand: bool, told: PayersRefund | None
) -> None:
    found = refund_rules.for_the_payer(
        state, is_redirected=is_redirected, is_paid_by_hand=is_paid_by_hand
    )

    assert found is (told or refund_rules.FOR_THE_PAYER[state])
