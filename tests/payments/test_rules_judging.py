"""What every judgement keeps, whatever the news and whatever we have: said of all cases at once."""

import dataclasses
import itertools
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from estation.fees.rules import BillState
from estation.outside.pay_channels import ChannelReport, ChannelState
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
    Verdict,
)
from tests.payments.fakes import NOW
from tests.payments.test_rules import CLOSED, PAID, attempt, order

ELSEWHERE = "wechat_pay:2"


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing a channel may say, and one thing we may have."""

    report: ChannelReport
    attempt: AttemptNow | None
    order: OrderNow | None
    bills: list[BillNow]
    arrival: Arrival | None

    def judged(self) -> Verdict:
        return rules.judge(
            self.report,
            attempt=self.attempt,
            order=self.order,
            bills=self.bills,
            arrival=self.arrival,
        )

    @property
    def is_money(self) -> bool:
        return self.report.state is ChannelState.PAID and self.report.paid_fen != 0

    @property
    def is_right(self) -> bool:
        """Nothing speaks against it: only then may a bill be paid."""
        return (
            self.is_money
            and self.arrival is None
            and self.report.paid_fen == 100
            and not self.report.refunded_fen
            and not self.report.was_refunded
            and self.attempt is not None
            and self.attempt.account_id == self.report.account_id
            and self.attempt.state is not AttemptState.PAID
            and self.order is not None
            and self.order.state is OrderState.OPEN
            and set(self.bills) <= {BillNow.AS_SEEN}
        )


def cases() -> Iterator[Case]:
    reports = [
        dataclasses.replace(CLOSED, state=state)
        for state in set(ChannelState) - {ChannelState.PAID}
    ] + [
        dataclasses.replace(PAID, **changes)
        for changes in (
            *({"paid_fen": fen} for fen in (0, 99, 100)),
            *({"refunded_fen": fen} for fen in (0, 1)),
            {"was_refunded": True},
        )
    ]
    ours = [(None, None)] + [
        (attempt(state, account), order(its))
        for state, account, its in itertools.product(
            AttemptState, (PAID.account_id, ELSEWHERE), OrderState
        )
    ]
    bills = [[BillNow.AS_SEEN], *([BillNow.AS_SEEN, bill] for bill in BillNow)]
    arrivals = [None, Arrival(100), Arrival(99), Arrival(100, 1)]
    for report, (ours_attempt, ours_order), theirs, arrival in itertools.product(
        reports, ours, bills, arrivals
    ):
        yield Case(report, ours_attempt, ours_order, theirs, arrival)


CASES = list(cases())


def test_money_is_applied_exactly_when_nothing_speaks_against_it() -> None:
    assert any(case.is_right for case in CASES)
    for case in CASES:
        assert (case.judged() == rules.APPLIED) == case.is_right, case
        assert (case.judged().order_to is OrderState.PAID) == case.is_right, case


def test_money_is_posted_once_when_it_is_new_and_never_when_it_is_known() -> None:
    for case in CASES:
        is_new = case.is_money and case.arrival is None
        assert (case.judged().posting is not None) == is_new, case


def test_what_is_set_aside_has_an_incident_and_what_is_an_incident_has_a_kind() -> None:
    for case in CASES:
        verdict = case.judged()
        assert (verdict.outcome is OutcomeKind.INCIDENT) == (verdict.incident is not None), case
        if verdict.posting is Posting.SUSPENSE:
            assert verdict.incident is not None, case


def test_every_success_ends_in_applied_repeated_or_an_incident() -> None:
    ends = {OutcomeKind.APPLIED, OutcomeKind.REPEATED, OutcomeKind.INCIDENT}
    for case in CASES:
        if case.report.state is ChannelState.PAID:
            assert case.judged().outcome in ends, case


def test_every_move_that_is_decided_is_a_legal_one() -> None:
    for case in CASES:
        verdict = case.judged()
        if verdict.attempt_to is not None:
            assert case.attempt is not None
            assert verdict.attempt_to in rules.ATTEMPT_MOVES[case.attempt.state], case
        if verdict.order_to is not None:
            assert case.order is not None
            assert verdict.order_to in rules.ORDER_MOVES[case.order.state], case


def test_no_news_of_another_account_moves_an_order_or_an_attempt() -> None:
    for case in CASES:
        if case.attempt is not None and case.attempt.account_id == ELSEWHERE:
            verdict = case.judged()
            assert (verdict.attempt_to, verdict.order_to) == (None, None), case


def test_once_its_money_is_here_an_attempt_is_paid_and_its_order_not_open() -> None:
    """No bill may stay blocked behind money that waits for a person."""
    for case in CASES:
        if not (case.is_money and case.attempt and case.order):
            continue
        if case.attempt.account_id != case.report.account_id:
            continue
        if case.attempt.state is AttemptState.PAID:
            continue  # A second payment under a paid number: the first has ended its order.
        if case.arrival is not None and case.report.paid_fen != case.arrival.amount_fen:
            continue  # The channel contradicts itself about one trade: nothing is believed.
        verdict = case.judged()
        assert verdict.attempt_to is AttemptState.PAID, case
        assert (verdict.order_to or case.order.state) is not OrderState.OPEN, case


@pytest.mark.parametrize("state", set(AttemptState) - {AttemptState.PAID})
@pytest.mark.parametrize(
    ("its", "ends"),
    [(OrderState.OPEN, OrderState.CLOSED), (OrderState.PAID, None), (OrderState.CLOSED, None)],
)
def test_money_that_came_before_its_number_was_known_waits_and_ends_the_order(
    state: AttemptState, its: OrderState, ends: OrderState | None
) -> None:
    verdict = rules.judge(
        PAID, attempt=attempt(state), order=order(its), bills=[], arrival=Arrival(100)
    )

    assert verdict == Verdict(
        OutcomeKind.INCIDENT,
        IncidentKind.UNKNOWN_ORDER,
        posting=None,
        attempt_to=AttemptState.PAID,
        order_to=ends,
    )


@pytest.mark.parametrize(
    ("refunded_fen", "asked_fen", "incident"),
    [
        (None, 0, None),
        (None, 30, None),
        (0, 0, None),
        (30, 30, None),
        (29, 30, None),
        (31, 30, IncidentKind.UNEXPECTED_REFUND),
        (1, 0, IncidentKind.UNEXPECTED_REFUND),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_more_given_back_than_we_asked_for_is_somebody_elses_doing(
    known: bool, refunded_fen: int | None, asked_fen: int, incident: IncidentKind | None
) -> None:
    ours: dict[str, Any] = (
        {"attempt": attempt(AttemptState.PAID), "order": order(OrderState.PAID)}
        if known
        else {"attempt": None, "order": None}
    )

    verdict = rules.judge(
        dataclasses.replace(PAID, refunded_fen=refunded_fen),
        bills=[],
        arrival=Arrival(100, asked_fen),
        **ours,
    )

    assert verdict == (Verdict(OutcomeKind.INCIDENT, incident) if incident else rules.REPEATED)


@pytest.mark.parametrize(("refunded_fen", "is_ours"), [(None, True), (0, True), (1, False)])
def test_of_money_nobody_asked_back_nothing_may_be_given_back(
    refunded_fen: int | None, is_ours: bool
) -> None:
    verdict = rules.judge(
        dataclasses.replace(PAID, refunded_fen=refunded_fen),
        attempt=attempt(AttemptState.PAID),
        order=order(OrderState.PAID),
        bills=[],
        arrival=Arrival(100),
    )

    assert (verdict == rules.REPEATED) is is_ours


@pytest.mark.parametrize("fen", [99, 101])
def test_another_amount_for_the_same_trade_is_a_contradiction_and_moves_nothing(fen: int) -> None:
    verdict = rules.judge(PAID, attempt=attempt(), order=order(), bills=[], arrival=Arrival(fen))

    assert verdict == Verdict(OutcomeKind.INCIDENT, IncidentKind.CONTRADICTING_NEWS)


@pytest.mark.parametrize("ours", [None, attempt(account=ELSEWHERE)])
def test_the_closing_of_a_number_that_is_not_ours_there_is_only_noted(
    ours: AttemptNow | None,
) -> None:
    verdict = rules.judge(CLOSED, attempt=ours, order=None, bills=[], arrival=None)

    assert verdict == rules.NOTED


@pytest.mark.parametrize("state", [AttemptState.OPENING, AttemptState.OPEN, AttemptState.ABANDONED])
def test_a_closing_closes_the_attempt_and_leaves_its_order_to_its_own_end(
    state: AttemptState,
) -> None:
    verdict = rules.judge(CLOSED, attempt=attempt(state), order=order(), bills=[], arrival=None)

    assert verdict == Verdict(OutcomeKind.CLOSED, attempt_to=AttemptState.CLOSED)


def test_a_closing_after_money_is_a_contradiction_and_moves_nothing() -> None:
    verdict = rules.judge(
        CLOSED, attempt=attempt(AttemptState.PAID), order=order(), bills=[], arrival=None
    )

    assert verdict == Verdict(OutcomeKind.INCIDENT, IncidentKind.CONTRADICTING_NEWS)


@pytest.mark.parametrize(
    ("trade_no", "fen", "at", "is_complete"),
    [
        ("4200", 1, NOW, True),
        ("4200", 0, NOW, False),
        ("4200", -1, NOW, False),
        ("4200", None, NOW, False),
        ("", 1, NOW, False),
        (None, 1, NOW, False),
        ("4200", 1, None, False),
    ],
)
def test_a_success_names_its_trade_at_least_one_fen_and_its_moment(
    trade_no: str | None, fen: int | None, at: datetime | None, is_complete: bool
) -> None:
    report = dataclasses.replace(PAID, channel_trade_no=trade_no, paid_fen=fen, paid_at=at)

    assert rules.is_complete(report) is is_complete


def test_every_word_for_a_bills_state_is_compared() -> None:
    """A bill given back in full may only be paid in a newer version."""
    words = {
        state: rules.bill_now(
            seen_version=3, version=3, seen_fen=100, total_fen=100, state=str(state)
        )
        for state in BillState
    }

    assert words == {
        BillState.PAYABLE: BillNow.AS_SEEN,
        BillState.PAID: BillNow.PAID,
        BillState.WITHDRAWN: BillNow.WITHDRAWN,
        BillState.REFUNDED: BillNow.REVISED,
    }


LATE = AttemptNow(
    attempt().id,
    PAID.channel,
    PAID.account_id,
    100,
    AttemptState.PAID,
    channel_trade_no="4200",
    paid_fen=100,
)


def why_not(
    ours: AttemptNow = LATE,
    its: OrderState = OrderState.CLOSED,
    bills: tuple[BillNow, ...] = (BillNow.AS_SEEN,),
    trade_no: str = "4200",
    fen: int = 100,
) -> str:
    return rules.why_not_apply(
        attempt=ours, order=order(its), bills=list(bills), trade_no=trade_no, amount_fen=fen
    )


def test_late_money_may_pay_its_closed_order_while_everything_is_as_it_was() -> None:
    assert why_not() == ""
    assert why_not(bills=(BillNow.AS_SEEN, BillNow.AS_SEEN)) == ""


@pytest.mark.parametrize("state", set(OrderState) - {OrderState.CLOSED})
def test_late_money_is_for_closed_orders_only(state: OrderState) -> None:
    assert why_not(its=state) == "not_closed"


@pytest.mark.parametrize("state", set(AttemptState) - {AttemptState.PAID})
def test_late_money_must_be_that_attempts_own_payment(state: AttemptState) -> None:
    assert why_not(dataclasses.replace(LATE, state=state)) == "other_payment"
    assert why_not(dataclasses.replace(LATE, channel_trade_no="4201")) == "other_payment"
    assert why_not(dataclasses.replace(LATE, channel_trade_no=None)) == "other_payment"
    assert why_not(trade_no="4201") == "other_payment"


@pytest.mark.parametrize("fen", [99, 101])
def test_late_money_must_be_the_amount_asked_for_and_the_amount_paid(fen: int) -> None:
    assert why_not(fen=fen) == "wrong_amount"
    assert why_not(dataclasses.replace(LATE, amount_fen=fen)) == "wrong_amount"
    assert why_not(dataclasses.replace(LATE, paid_fen=fen)) == "wrong_amount"
    assert why_not(dataclasses.replace(LATE, amount_fen=fen, paid_fen=fen)) == "wrong_amount"


@pytest.mark.parametrize("bill", set(BillNow) - {BillNow.AS_SEEN})
def test_late_money_pays_no_bill_that_changed(bill: BillNow) -> None:
    assert why_not(bills=(bill,)) == "bill_changed"
    assert why_not(bills=(BillNow.AS_SEEN, bill)) == "bill_changed"
