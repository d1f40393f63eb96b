"""What may become of bills, stages and receipts, as tables."""

import itertools

import pytest

from estation.inner import rules
from estation.inner.errors import (
    AmountOutOfRange,
    BillNotPaid,
    BillPaid,
    BillWithdrawn,
    NothingDue,
    StageBeforeNotDone,
    StageNotAllowed,
    TaxNotCleared,
    TextMissing,
    TextTooLong,
    UnknownPayee,
    WrongItemNumbers,
)
from estation.inner.rules import (
    Attention,
    BillFacts,
    BillMove,
    BillState,
    CaseState,
    Stage,
    StageState,
)
from estation.shared.errors import Refused
from estation.shared.fields import MAX_FEN
from tests.inner.desk import item

PAYEES = frozenset({"treasury", "non_tax"})


def test_every_state_and_move_of_a_bill_is_decided() -> None:
    assert set(rules.BILL_MOVES) == set(itertools.product(BillState, BillMove))


@pytest.mark.parametrize(
    ("state", "move", "after"),
    [
        (BillState.ISSUED, BillMove.REVISE, BillState.ISSUED),
        (BillState.ISSUED, BillMove.WITHDRAW, BillState.WITHDRAWN),
        (BillState.ISSUED, BillMove.PAYMENT, BillState.PAID),
    ],
)
def test_an_issued_bill_may_move(state: BillState, move: BillMove, after: BillState) -> None:
    assert rules.state_after(state, move) is after


@pytest.mark.parametrize("move", set(BillMove) - {BillMove.REFUND})
def test_a_paid_or_withdrawn_bill_moves_no_more(move: BillMove) -> None:
    with pytest.raises(BillPaid):
        rules.state_after(BillState.PAID, move)
    with pytest.raises(BillWithdrawn):
        rules.state_after(BillState.WITHDRAWN, move)


def test_only_a_paid_bill_is_refunded_and_a_refunded_one_may_be_issued_anew() -> None:
    assert rules.state_after(BillState.PAID, BillMove.REFUND) is BillState.REFUNDED
    assert rules.state_after(BillState.REFUNDED, BillMove.REVISE) is BillState.ISSUED
    assert rules.state_after(BillState.REFUNDED, BillMove.WITHDRAW) is BillState.WITHDRAWN
    for state in (BillState.ISSUED, BillState.REFUNDED):
        with pytest.raises(BillNotPaid):
            rules.state_after(state, BillMove.REFUND)


def test_the_total_is_the_exact_sum() -> None:
    items = [item(1, "A", "treasury", 1), item(2, "B", "non_tax", 0), item(3, "C", "treasury", 99)]

    assert rules.total_of(items, payee_codes=PAYEES) == 100


@pytest.mark.parametrize(
    ("items", "refusal"),
    [
        ([], WrongItemNumbers),
        ([item(1, "A", "treasury", 1), item(1, "B", "treasury", 1)], WrongItemNumbers),
        ([item(n, "A", "treasury", 1) for n in range(rules.MAX_ITEMS + 1)], WrongItemNumbers),
        ([item(1, "A", "treasury", 0)], NothingDue),
        ([item(1, "A", "treasury", -1)], AmountOutOfRange),
        ([item(1, "A", "treasury", 1, relief_fen=-1)], AmountOutOfRange),
        ([item(1, "A", "treasury", 1, base_fen=-1)], AmountOutOfRange),
        ([item(1, "A", "treasury", MAX_FEN + 1)], AmountOutOfRange),
        ([item(n, "A", "treasury", MAX_FEN) for n in (1, 2)], AmountOutOfRange),
        ([item(1, "A", "my_purse", 1)], UnknownPayee),
        ([item(1, "A", "treasury", 1, name=" ")], TextMissing),
        ([item(1, "A", "treasury", 1, formula="长" * 513)], TextTooLong),
        ([item(1, "A", "treasury", 1, note="\x00")], TextTooLong),
    ],
)
def test_a_bill_that_may_not_be_issued(items: list[rules.Item], refusal: type[Refused]) -> None:
    with pytest.raises(refusal):
        rules.total_of(items, payee_codes=PAYEES)


@pytest.mark.parametrize(
    ("state", "version", "amount_fen", "attention"),
    [
        (BillState.ISSUED, 2, 200, Attention.NONE),
        (BillState.ISSUED, 1, 100, Attention.OTHER_VERSION),
        (BillState.ISSUED, 9, 200, Attention.OTHER_VERSION),
        (BillState.ISSUED, 2, 199, Attention.OTHER_AMOUNT),
        (BillState.PAID, 2, 200, Attention.ALREADY_PAID),
        (BillState.WITHDRAWN, 1, 100, Attention.WITHDRAWN_BILL),
        (BillState.WITHDRAWN, 2, 200, Attention.WITHDRAWN_BILL),
    ],
)
def test_only_the_present_version_in_full_pays_a_bill(
    state: BillState, version: int, amount_fen: int, attention: Attention
) -> None:
    bill = BillFacts(state, 2, {1: 100, 2: 200})

    assert rules.attention_of(bill, version=version, amount_fen=amount_fen) is attention


def test_a_receipt_for_no_bill_of_ours_needs_a_person() -> None:
    assert rules.attention_of(None, version=1, amount_fen=1) is Attention.UNKNOWN_BILL


def test_every_stage_state_has_its_moves() -> None:
    assert set(rules.STAGE_MOVES) == set(StageState)


D, N, R, W = StageState.DONE, StageState.NOT_REQUIRED, StageState.DOING, StageState.WAITING
AT_CONTRACT = (R, W, W, W, W)
AT_TAX = (D, D, D, R, W)
AT_REGISTER = (D, N, D, D, R)


@pytest.mark.parametrize(
    ("states", "stage", "to", "unpaid", "refusal"),
    [
        (AT_CONTRACT, Stage.CONTRACT, D, 0, None),
        (AT_CONTRACT, Stage.ESCROW, R, 0, None),
        (AT_CONTRACT, Stage.ESCROW, D, 0, StageNotAllowed),
        ((R, R, W, W, W), Stage.ESCROW, D, 0, StageBeforeNotDone),
        ((D, W, W, W, W), Stage.CONTRACT, R, 0, StageNotAllowed),
        (AT_TAX, Stage.TAX, D, 0, None),
        (AT_TAX, Stage.TAX, D, 1, TaxNotCleared),
        (AT_TAX, Stage.TAX, N, 1, TaxNotCleared),
        (AT_REGISTER, Stage.REGISTRATION, D, 0, None),
        (AT_REGISTER, Stage.REGISTRATION, D, 1, TaxNotCleared),
        (AT_REGISTER, Stage.REGISTRATION, N, 0, StageNotAllowed),
    ],
)
def test_the_flow_chart_moves_only_forward_and_tax_comes_before_the_register(
    states: tuple[StageState, ...],
    stage: Stage,
    to: StageState,
    unpaid: int,
    refusal: type[Refused] | None,
) -> None:
    stages = dict(zip(Stage, states, strict=True))

    if refusal is None:
        rules.check_stage_move(stages, stage, to, unpaid_bills=unpaid)
    else:
        with pytest.raises(refusal):
            rules.check_stage_move(stages, stage, to, unpaid_bills=unpaid)


def test_a_case_closes_with_its_last_box() -> None:
    assert rules.case_state_after(dict.fromkeys(Stage, D)) is CaseState.CLOSED
    assert rules.case_state_after(dict.fromkeys(Stage, D) | {Stage.REGISTRATION: R}) is (
        CaseState.OPEN
    )
