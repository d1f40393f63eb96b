"""The judgement on a channel's word about a refund, and the order of taking, as tables."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from estation.outside.pay_channels import Channel, RefundReport, RefundStatus
from estation.payments import refund_rules as rules
from estation.payments.refund_rules import RefundNow, RefundVerdict, Share
from estation.payments.rules import (
    REFUND_MOVES,
    IllegalMove,
    IncidentKind,
    OutcomeKind,
    RefundCause,
    RefundState,
)
from tests.payments.fakes import NOW

A, B = UUID(int=1), UUID(int=2)


def refund(state: RefundState, *, is_redirected: bool = False) -> RefundNow:
    return RefundNow(uuid4(), "R1", "wechat_pay:1", "T1", 100, state, is_redirected)


def said(status: RefundStatus, **changes: Any) -> RefundReport:
    values: dict[str, Any] = {
        "channel": Channel.WECHAT_PAY,
        "account_id": "wechat_pay:1",
        "out_trade_no": "T1",
        "refund_no": "R1",
        "status": status,
        "amount_fen": 100,
        "at": NOW if status is RefundStatus.SUCCESS else None,
    }
    return RefundReport(**{**values, **changes})


def only(kind: IncidentKind) -> RefundVerdict:
    return RefundVerdict(OutcomeKind.INCIDENT, incident=kind)


NOTED, REPEATED = RefundVerdict(OutcomeKind.NOTED), RefundVerdict(OutcomeKind.REPEATED)
DONE = RefundVerdict(OutcomeKind.APPLIED, RefundState.SUCCEEDED)
LATE_SUCCESS = RefundVerdict(
    OutcomeKind.INCIDENT, RefundState.SUCCEEDED, IncidentKind.CONTRADICTING_NEWS, again=True
)
ENDED = RefundVerdict(OutcomeKind.CLOSED, RefundState.CLOSED, IncidentKind.REFUND_CLOSED)
STUCK = RefundVerdict(OutcomeKind.INCIDENT, RefundState.ABNORMAL, IncidentKind.REFUND_ABNORMAL)
UNDER_WAY = RefundVerdict(OutcomeKind.NOTED, RefundState.PROCESSING)
CONTRADICTION = only(IncidentKind.CONTRADICTING_NEWS)
UNEXPECTED = only(IncidentKind.UNEXPECTED_REFUND)

TABLE: dict[RefundState, tuple[RefundVerdict, ...]] = {
    #                         SUCCESS       CLOSED         ABNORMAL       PROCESSING
    RefundState.ASKED: (UNEXPECTED, UNEXPECTED, UNEXPECTED, UNEXPECTED),
    RefundState.REJECTED: (UNEXPECTED, UNEXPECTED, UNEXPECTED, UNEXPECTED),
    RefundState.APPROVED: (DONE, ENDED, STUCK, UNDER_WAY),
    RefundState.PROCESSING: (DONE, ENDED, STUCK, REPEATED),
    RefundState.ABNORMAL: (DONE, ENDED, REPEATED, UNDER_WAY),
    RefundState.SUCCEEDED: (REPEATED, CONTRADICTION, CONTRADICTION, NOTED),
    RefundState.CLOSED: (LATE_SUCCESS, REPEATED, CONTRADICTION, NOTED),
}
STATUSES = (
    RefundStatus.SUCCESS,
    RefundStatus.CLOSED,
    RefundStatus.ABNORMAL,
    RefundStatus.PROCESSING,
)


@pytest.mark.parametrize("state", RefundState)
@pytest.mark.parametrize("place", range(len(STATUSES)))
def test_each_word_in_each_state_has_its_meaning(state: RefundState, place: int) -> None:
    verdict = rules.judge_refund(said(STATUSES[place]), refund(state))

    assert verdict == TABLE[state][place]
    assert verdict.to is None or verdict.to in REFUND_MOVES[state]


REDIRECTED: dict[RefundState, tuple[RefundVerdict, ...]] = {
    **TABLE,
    # The failure that was answered by redirecting is known; that nothing was given back is not.
    RefundState.SUCCEEDED: (REPEATED, CONTRADICTION, REPEATED, NOTED),
}


@pytest.mark.parametrize("state", RefundState)
@pytest.mark.parametrize("place", range(len(STATUSES)))
def test_once_redirected_only_the_failure_it_was_redirected_for_is_old_news(
    state: RefundState, place: int
) -> None:
    verdict = rules.judge_refund(said(STATUSES[place]), refund(state, is_redirected=True))

    assert verdict == REDIRECTED[state][place]


@pytest.mark.parametrize(
    "changes", [{"amount_fen": 99}, {"account_id": "wechat_pay:2"}, {"out_trade_no": "T2"}]
)
def test_a_failure_of_other_money_is_no_old_news_of_a_redirected_refund(
    changes: dict[str, Any],
) -> None:
    redirected = refund(RefundState.SUCCEEDED, is_redirected=True)

    assert rules.judge_refund(said(RefundStatus.ABNORMAL, **changes), redirected) == UNEXPECTED


@pytest.mark.parametrize("state", sorted(rules.IN_FLIGHT))
def test_a_refund_that_arrives_as_expected_needs_nobody_and_reserves_nothing_anew(
    state: RefundState,
) -> None:
    verdict = rules.judge_refund(said(RefundStatus.SUCCESS), refund(state))

    assert (verdict.to, verdict.incident, verdict.again) == (RefundState.SUCCEEDED, None, False)


@pytest.mark.parametrize("state", RefundState)
def test_not_found_moves_nothing(state: RefundState) -> None:
    assert rules.judge_refund(said(RefundStatus.NOT_FOUND), refund(state)) == NOTED
    assert rules.judge_refund(said(RefundStatus.NOT_FOUND), None) == NOTED


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"amount_fen": 99}, UNEXPECTED),
        ({"amount_fen": 101}, UNEXPECTED),
        ({"account_id": "wechat_pay:2"}, UNEXPECTED),
        ({"out_trade_no": "T2"}, UNEXPECTED),
        ({"amount_fen": None}, only(IncidentKind.INCOMPLETE_NEWS)),
        ({"at": None}, only(IncidentKind.INCOMPLETE_NEWS)),
        ({"out_trade_no": ""}, DONE),
    ],
)
def test_a_success_must_be_of_this_very_money(
    changes: dict[str, Any], verdict: RefundVerdict
) -> None:
    report = said(RefundStatus.SUCCESS, **changes)

    assert rules.judge_refund(report, refund(RefundState.PROCESSING)) == verdict


@pytest.mark.parametrize("status", STATUSES)
def test_a_number_we_never_gave_is_somebody_elses_doing(status: RefundStatus) -> None:
    assert rules.judge_refund(said(status), None) == UNEXPECTED


@pytest.mark.parametrize("state", RefundState)
@pytest.mark.parametrize("to", RefundState)
def test_a_refund_moves_as_the_table_says_and_anything_else_is_a_bug(
    state: RefundState, to: RefundState
) -> None:
    moving = refund(state)

    if to in REFUND_MOVES[state]:
        moving.move(to)
        assert moving.state is to
    else:
        with pytest.raises(IllegalMove, match=f"^refund {state} -> {to}$"):
            moving.move(to)
        assert moving.state is state


def test_every_state_and_cause_is_classified() -> None:
    assert set(REFUND_MOVES) == set(RefundState)
    assert rules.IN_FLIGHT < rules.UNFINISHED < rules.RESERVES < set(RefundState)
    assert {state for state, to in REFUND_MOVES.items() if not to} == {
        RefundState.REJECTED,
        RefundState.SUCCEEDED,
    }
    automatic = set(RefundCause) - {RefundCause.STAFF, RefundCause.CENTRE}
    assert set(rules.AUTOMATIC_REASON) == set(rules.AUTOMATIC.values()) == automatic
    assert all(0 < len(words) <= rules.MAX_REASON for words in rules.AUTOMATIC_REASON.values())
    assert set(rules.LIMITS) == set(Channel)


@pytest.mark.parametrize(
    ("amount_fen", "taken"),
    [
        (1, [("non_tax", A, 1)]),
        (80, [("non_tax", A, 80)]),
        (81, [("non_tax", A, 80), ("non_tax", B, 1)]),
        (101, [("non_tax", A, 80), ("non_tax", B, 20), ("maintenance_fund", A, 1)]),
        (
            155,
            [
                ("non_tax", A, 80),
                ("non_tax", B, 20),
                ("maintenance_fund", A, 50),
                ("school_fund", A, 3),
                ("treasury", A, 2),
            ],
        ),
    ],
)
def test_a_part_is_taken_payee_by_payee_the_treasury_last(
    amount_fen: int, taken: list[tuple[str, UUID, int]]
) -> None:
    left = [
        Share(A, "treasury", 900),
        Share(B, "non_tax", 20),
        Share(A, "maintenance_fund", 50),
        Share(A, "school_fund", 3),
        Share(A, "non_tax", 80),
    ]

    shares = rules.take_in_order(amount_fen, left)

    assert [(s.payee_code, s.bill_id, s.amount_fen) for s in shares] == taken


def test_payees_nobody_named_stand_before_the_treasury_whatever_they_are_called() -> None:
    codes = ["treasury", "z_fund", "maintenance_fund", "a_fund", "non_tax"]

    taken = rules.take_in_order(5, [Share(A, code, 1) for code in codes])

    assert [share.payee_code for share in taken] == [
        "non_tax",
        "maintenance_fund",
        "a_fund",
        "z_fund",
        "treasury",
    ]


@pytest.mark.parametrize("amount_fen", [0, -1, 11])
def test_what_is_not_there_cannot_be_taken(amount_fen: int) -> None:
    with pytest.raises(ValueError, match="cannot be taken"):
        rules.take_in_order(amount_fen, [Share(A, "treasury", 10)])


def test_any_row_of_parts_takes_exactly_what_was_there() -> None:
    """Sums are exact, no payee gives more than it got, and the order of the rows is no matter."""
    chance = random.Random(19)  # noqa: S311 - cases, not secrets
    for _ in range(2_000):
        got = [
            Share(bill_id, payee, chance.choice([1, 7, 8_000, chance.randint(1, 10**11)]))
            for bill_id in (A, B)
            for payee in chance.sample(["treasury", "non_tax", "maintenance_fund", "x", "y"], 3)
        ]
        left, parts = list(got), []
        while left:
            assert len(parts) < 9, "what was taken is still there"
            rest = sum(share.amount_fen for share in left)
            amount_fen = chance.choice([1, rest, chance.randint(1, rest), chance.randint(1, rest)])
            if len(parts) > 6:
                amount_fen = rest
            taken = rules.take_in_order(amount_fen, left)
            shuffled = chance.sample(left, len(left))

            assert sum(share.amount_fen for share in taken) == amount_fen
            assert rules.take_in_order(amount_fen, shuffled) == taken
            assert rules.covers(left, taken)
            parts.append(taken)
            left = rules.left_of(left, taken)
        given: dict[tuple[UUID, str], int] = {}
        for share in (share for taken in parts for share in taken):
            key = (share.bill_id, share.payee_code)
            given[key] = given.get(key, 0) + share.amount_fen
        assert given == {(s.bill_id, s.payee_code): s.amount_fen for s in got}


def test_what_was_taken_in_several_parts_is_all_gone() -> None:
    got = [Share(A, "treasury", 10), Share(B, "treasury", 10), Share(A, "non_tax", 10)]
    taken = [Share(A, "treasury", 3), Share(A, "treasury", 4), Share(B, "treasury", 10)]

    assert rules.left_of(got, taken) == [Share(A, "treasury", 3), Share(A, "non_tax", 10)]


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ([Share(A, "treasury", 10)], True),
        ([Share(A, "treasury", 11)], False),
        ([Share(A, "treasury", 0)], False),
        ([Share(A, "treasury", -1)], False),
        ([Share(A, "treasury", 5), Share(A, "treasury", 5)], False),
        ([Share(B, "treasury", 1)], False),
        ([Share(A, "non_tax", 1)], False),
    ],
)
def test_wanted_shares_must_be_there(wanted: list[Share], fits: bool) -> None:
    assert rules.covers([Share(A, "treasury", 10)], wanted) is fits


@pytest.mark.parametrize("state", RefundState)
def test_what_is_promised_is_not_refundable_again(state: RefundState) -> None:
    gone = state not in (RefundState.REJECTED, RefundState.CLOSED)

    assert rules.refundable_fen(100, [(state, 30)]) == (70 if gone else 100)


@pytest.mark.parametrize("state", RefundState)
def test_only_what_two_persons_or_a_channel_sent_off_has_left_suspense(state: RefundState) -> None:
    gone = state not in (RefundState.ASKED, RefundState.REJECTED, RefundState.CLOSED)

    assert rules.unsettled_fen(100, [(state, 30)], 0) == (70 if gone else 100)
    assert rules.unsettled_fen(100, [(state, 30), (RefundState.SUCCEEDED, 5)], 64) == (
        1 if gone else 31
    )


@pytest.mark.parametrize(("settled_fen", "left_fen"), [(99, 1), (100, 0), (101, 0)])
def test_no_less_than_nothing_is_left_in_suspense(settled_fen: int, left_fen: int) -> None:
    assert rules.unsettled_fen(100, [], settled_fen) == left_fen


@pytest.mark.parametrize(
    ("channel", "age", "so_far", "why"),
    [
        (Channel.WECHAT_PAY, timedelta(days=365), 49, None),
        (Channel.WECHAT_PAY, timedelta(days=365), 50, rules.Hindrance.TOO_MANY),
        (Channel.WECHAT_PAY, timedelta(days=365, seconds=1), 0, rules.Hindrance.TOO_OLD),
        (Channel.ALIPAY, timedelta(days=365), 5_000, None),
        (Channel.ALIPAY, timedelta(days=366), 0, rules.Hindrance.TOO_OLD),
    ],
)
def test_the_channels_limits(
    channel: Channel, age: timedelta, so_far: int, why: rules.Hindrance | None
) -> None:
    found = rules.hindrance(channel, paid_at=NOW - age, refunds_so_far=so_far, now=NOW)

    assert found is why


@pytest.mark.parametrize(
    ("tries", "look", "money"),
    [(1, 10, 120), (2, 20, 240), (5, 160, 1_800), (7, 600, 1_800), (10_000, 600, 1_800)],
)
def test_pauses_grow_and_end_never(tries: int, look: int, money: int) -> None:
    assert rules.next_look(tries, now=NOW) - NOW == timedelta(seconds=look)
    assert rules.next_try_for_money(tries, now=NOW) - NOW == timedelta(seconds=money)


@pytest.mark.parametrize(
    ("code", "short"),
    [
        ("NOT_ENOUGH", True),
        ("ACQ.SELLER_BALANCE_NOT_ENOUGH", True),
        ("INVALID_REQUEST", False),
        ("", False),
    ],
)
def test_both_channels_words_for_short_of_money(code: str, short: bool) -> None:
    assert rules.is_short_of_money(code) is short


def test_after_exactly_a_day_an_unfinished_refund_is_somebodys() -> None:
    day = timedelta(hours=24)

    assert rules.is_unfinished_too_long(NOW, now=NOW + day)
    assert not rules.is_unfinished_too_long(NOW, now=NOW + day - timedelta(microseconds=1))


def test_keys_name_the_refund_and_what_it_does() -> None:
    assert rules.start_key("R1") == "refund_start:R1"
    assert rules.start_key("R1", again=True) == "refund_start:R1:again"
    assert (rules.refund_key("R1"), rules.reversal_key("R1")) == (
        "refund:R1",
        "refund_reversal:R1",
    )
    keys = [rules.start_key("R1"), rules.start_key("R1", again=True), rules.refund_key("R1")]
    assert {rules.refund_no_of(key) for key in keys} == {"R1"}
    assert rules.refund_no_of("by hand") == ""


def test_every_incident_may_be_taken_and_resolved() -> None:
    for kind in IncidentKind:
        assert {rules.Deed.TAKE, rules.Deed.RESOLVE} <= rules.legal_deeds(kind)
    assert rules.Deed.APPLY in rules.legal_deeds("paid_after_expiry")
    assert rules.Deed.APPLY not in rules.legal_deeds("wrong_amount")
    assert rules.Deed.REDIRECT_REFUND in rules.legal_deeds("refund_abnormal")
