"""Every end of a payment and every state of a refund has words of its own, and they fit."""

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from estation.outside.pay_channels import Channel, ChannelReport, ChannelState
from estation.payments.api import (
    CloseReason,
    IncidentKind,
    OrderState,
    PayersRefund,
    RefundCause,
    RefundState,
)
from estation.payments.history_queries import UNDER_REVIEW
from estation.payments.pages.tellings import (
    FULLY_REFUNDED,
    NOT_FOR_THE_PAYER,
    PARTLY_REFUNDED,
    RETRIED,
    SETTLED_OUTSIDE,
    TELLINGS,
    WHY_REFUNDED,
    ending_told,
    standing,
    telling_of,
    tellings_of,
)
from estation.payments.refund_rules import AUTOMATIC, FOR_THE_PAYER
from estation.payments.rules import Arrival, AttemptNow, AttemptState, BillNow, OrderNow, judge

MARKS = {"good", "info", "time", "warn", "bad"}
TONES = {"good", "due", "doing", "quiet", "bad"}
NOW = datetime(2026, 5, 6, tzinfo=UTC)


@dataclass(frozen=True)
class Back:
    state: PayersRefund
    amount_fen: int = 100
    is_of_payment: bool = True


def test_every_reason_incident_and_refund_is_classified() -> None:
    told = {*CloseReason, *IncidentKind, *PayersRefund, *OrderState} - {OrderState.CLOSED}
    own = {RETRIED, PARTLY_REFUNDED, FULLY_REFUNDED, SETTLED_OUTSIDE}

    assert set(TELLINGS) | NOT_FOR_THE_PAYER == told | own
    assert set(TELLINGS) & NOT_FOR_THE_PAYER == set()
    assert set(WHY_REFUNDED) == set(RefundCause)
    assert set(FOR_THE_PAYER) == set(RefundState) - {RefundState.ASKED, RefundState.REJECTED}
    assert set(FOR_THE_PAYER.values()) == set(PayersRefund) - {PayersRefund.PAID_BY_HAND}


def test_no_word_means_two_things() -> None:
    """The table's keys come from several enums, which must not share a value."""
    values = [*CloseReason, *IncidentKind, *PayersRefund, *OrderState]

    assert len(set(map(str, values))) == len(values)


def test_every_incident_that_can_end_an_order_is_told() -> None:
    ends = set()
    for paid_fen, refunded, attempt_state, order_state, bill, trade, known in itertools.product(
        (100, 99),
        (None, 1),
        AttemptState,
        OrderState,
        BillNow,
        ("T1", None),
        (None, Arrival(100), Arrival(50)),
    ):
        verdict = judge(
            ChannelReport(
                channel=Channel.WECHAT_PAY,
                account_id="a",
                out_trade_no="n",
                state=ChannelState.PAID,
                channel_trade_no=trade,
                paid_fen=paid_fen,
                paid_at=NOW,
                refunded_fen=refunded,
            ),
            attempt=AttemptNow(UUID(int=1), Channel.WECHAT_PAY, "a", 100, attempt_state),
            order=OrderNow(UUID(int=2), order_state, "cancelled"),
            bills=[bill],
            arrival=known,
        )
        if verdict.order_to is OrderState.CLOSED:
            ends.add(verdict.incident)

    assert {IncidentKind.WRONG_AMOUNT, IncidentKind.BILL_REVISED} <= ends
    assert {str(kind) for kind in ends} <= set(TELLINGS)
    assert ends & NOT_FOR_THE_PAYER == set()


def test_what_is_said_to_go_back_by_itself_does_and_the_rest_names_a_person() -> None:
    for kind in set(IncidentKind) - NOT_FOR_THE_PAYER:
        telling = TELLINGS[kind]

        assert ("自动原路退回" in telling.sentence) == (kind in AUTOMATIC), kind
        assert telling.asks_a_person == (kind not in AUTOMATIC), kind
    assert UNDER_REVIEW & set(AUTOMATIC) == set()


@pytest.mark.parametrize("key", sorted(TELLINGS))
def test_a_telling_is_whole_sentences_with_what_to_do_next(key: str) -> None:
    telling = TELLINGS[key]

    assert telling.mark in MARKS
    assert telling.tone in TONES
    assert telling.word
    assert telling.title
    assert telling.sentence.endswith("。")
    assert telling.next_step.endswith(("。", "：") if telling.asks_a_person else "。")


@pytest.mark.parametrize(
    "reason", [CloseReason.CANCELLED, CloseReason.EXPIRED, CloseReason.BILL_CHANGED]
)
def test_an_old_code_is_not_called_void_since_an_unscanned_one_can_still_be_paid(
    reason: CloseReason,
) -> None:
    sentence = TELLINGS[reason].sentence

    assert "请不要再用原来的付款码；万一用它付了款，钱会自动原路退回" in sentence
    assert "作废" not in sentence


def test_a_state_nobody_knows_is_looked_into_never_paid_again() -> None:
    telling = telling_of("new_kind_of_trouble")

    assert telling.word == "核实中"
    assert "请不要重复付款" in telling.next_step


@pytest.mark.parametrize(
    ("state", "reason", "refunds", "key"),
    [
        ("open", "", [], OrderState.OPEN),
        ("paid", "", [], OrderState.PAID),
        ("paid", "", [Back(PayersRefund.REFUNDED, 40)], PARTLY_REFUNDED),
        ("paid", "", [Back(PayersRefund.REFUNDED, 40)] * 2, PARTLY_REFUNDED),
        ("paid", "", [Back(PayersRefund.REFUNDED, 50)] * 2, FULLY_REFUNDED),
        ("paid", "", [Back(PayersRefund.REFUNDING, 40)], PayersRefund.REFUNDING),
        (
            "paid",
            "",
            [Back(PayersRefund.REFUNDED, 40), Back(PayersRefund.ABNORMAL, 1)],
            PayersRefund.ABNORMAL,
        ),
        ("paid", "", [Back(PayersRefund.NOT_REFUNDED)], PayersRefund.NOT_REFUNDED),
        (
            "paid",
            "",
            [Back(PayersRefund.NOT_REFUNDED), Back(PayersRefund.REFUNDED)],
            FULLY_REFUNDED,
        ),
        # Money paid twice goes back; what paid the order stays.
        ("paid", "", [Back(PayersRefund.REFUNDED, 100, False)], OrderState.PAID),
        ("paid", "", [Back(PayersRefund.REFUNDING, 100, False)], OrderState.PAID),
        ("closed", "expired", [], CloseReason.EXPIRED),
        ("closed", "wrong_amount", [], IncidentKind.WRONG_AMOUNT),
        ("closed", "expired", [Back(PayersRefund.REFUNDING, 100, False)], PayersRefund.REFUNDING),
        ("closed", "expired", [Back(PayersRefund.REFUNDED, 100, False)], PayersRefund.REFUNDED),
    ],
)
def test_the_headline_says_where_the_money_is(
    state: str, reason: str, refunds: list[Any], key: str
) -> None:
    assert standing(OrderState(state), reason, 100, refunds) is TELLINGS[key]


def test_a_failed_refund_is_past_only_once_another_of_the_same_money_followed() -> None:
    failed, other = Back(PayersRefund.NOT_REFUNDED), Back(PayersRefund.REFUNDED, 100, False)

    assert tellings_of([failed, other])[0] is TELLINGS[PayersRefund.NOT_REFUNDED]
    assert tellings_of([failed, Back(PayersRefund.REFUNDING)])[0] is TELLINGS[RETRIED]
    assert (
        standing(OrderState.PAID, "", 100, [failed, other]) is (TELLINGS[PayersRefund.NOT_REFUNDED])
    )


@pytest.mark.parametrize(
    ("state", "reason", "refunds", "key"),
    [
        ("closed", "wrong_amount", [], SETTLED_OUTSIDE),
        ("closed", "expired", [Back(PayersRefund.NOT_REFUNDED, 100, False)], SETTLED_OUTSIDE),
        ("closed", "expired", [Back(PayersRefund.REFUNDED, 40, False)], SETTLED_OUTSIDE),
        ("paid", "", [Back(PayersRefund.NOT_REFUNDED, 100, False)], OrderState.PAID),
        ("paid", "", [Back(PayersRefund.NOT_REFUNDED)], PayersRefund.NOT_REFUNDED),
    ],
)
def test_what_was_settled_outside_is_no_longer_looked_into(
    state: str, reason: str, refunds: list[Any], key: str
) -> None:
    told = standing(OrderState(state), reason, 100, refunds, is_settled_outside=True)

    assert told is TELLINGS[key]
    assert TELLINGS[SETTLED_OUTSIDE].word == "已线下处理"
    assert TELLINGS[SETTLED_OUTSIDE].asks_a_person


@pytest.mark.parametrize(
    ("reason", "refunds", "facts", "told"),
    [
        ("expired", [], {}, "expired"),
        ("wrong_amount", [], {"under_review": "wrong_amount"}, "wrong_amount"),
        ("wrong_amount", [], {"is_settled_outside": True}, SETTLED_OUTSIDE),
        ("cancelled", [], {"under_review": "wrong_amount"}, "wrong_amount"),
        ("brand_new", [], {}, "unknown_order"),
        ("bill_revised", [Back(PayersRefund.REFUNDING, 9, False)], {}, "bill_revised"),
        ("cancelled", [Back(PayersRefund.REFUNDING, 9, False)], {}, PayersRefund.REFUNDING),
        ("bill_revised", [Back(PayersRefund.REFUNDED, 9, False)], {}, PayersRefund.REFUNDED),
        ("bill_revised", [Back(PayersRefund.ABNORMAL, 9, False)], {}, PayersRefund.ABNORMAL),
        ("expired", [Back(PayersRefund.PAID_BY_HAND, 9, False)], {}, PayersRefund.PAID_BY_HAND),
        (
            "wrong_amount",
            [Back(PayersRefund.REFUNDED, 4, False)],
            {"under_review": "wrong_amount"},
            "wrong_amount",
        ),
        (
            "wrong_amount",
            [Back(PayersRefund.NOT_REFUNDED, 4, False)],
            {"under_review": "wrong_amount"},
            PayersRefund.NOT_REFUNDED,
        ),
        (
            "bill_revised",
            [Back(PayersRefund.NOT_REFUNDED, 9, False)],
            {"is_settled_outside": True},
            SETTLED_OUTSIDE,
        ),
    ],
)
def test_where_a_bill_may_be_paid_again_its_last_order_is_told_by_its_true_end(
    reason: str, refunds: list[Back], facts: dict[str, Any], told: str
) -> None:
    assert ending_told(reason, refunds, **facts) is TELLINGS[told]


def test_a_refund_that_failed_is_past_when_its_money_was_settled_outside() -> None:
    refunds = [Back(PayersRefund.NOT_REFUNDED, 100, False), Back(PayersRefund.NOT_REFUNDED)]

    assert tellings_of(refunds, is_settled_outside=True) == [
        TELLINGS[RETRIED],
        TELLINGS[PayersRefund.NOT_REFUNDED],
    ]
