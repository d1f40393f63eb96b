"""Which replicated bills can be right, and what each means for the one we have. Pure."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estation.fees.rules import STATE_OF_ROW, BillState, Change, fault_of, judge
from estation.outside.gate.rows import FeeItemRow
from tests.fees.test_packets import PAYEES, bill, item

MOST = 10_000_000_000


@pytest.mark.parametrize(
    ("version", "ours", "state", "change"),
    [
        (1, None, None, Change.NEW),
        (7, None, None, Change.NEW),
        (1, 1, BillState.PAYABLE, Change.REPEATED),
        (1, 2, BillState.PAYABLE, Change.REPEATED),
        (2, 1, BillState.PAYABLE, Change.NEWER),
        (3, 1, BillState.WITHDRAWN, Change.NEWER),
        (1, 1, BillState.PAID, Change.REPEATED),
        (2, 1, BillState.PAID, Change.AFTER_PAYMENT),
        (2, 2, BillState.PAID, Change.REPEATED),
        (2, 1, BillState.REFUNDED, Change.NEWER),
        (1, 1, BillState.REFUNDED, Change.REPEATED),
    ],
)
def test_what_a_row_means_for_the_bill_we_have(
    version: int, ours: int | None, state: BillState | None, change: Change
) -> None:
    assert judge(version=version, ours=ours, state=state) is change


def test_every_state_of_a_bill_is_judged() -> None:
    assert {judge(version=2, ours=1, state=state) for state in BillState} == {
        Change.NEWER,
        Change.AFTER_PAYMENT,
    }


def test_the_centre_can_neither_pay_nor_refund_a_bill_here() -> None:
    assert dict(STATE_OF_ROW) == {
        "issued": BillState.PAYABLE,
        "withdrawn": BillState.WITHDRAWN,
    }


def changed(one: FeeItemRow, **changes: Any) -> FeeItemRow:
    return msgspec.structs.replace(one, **changes)


def fault(**changes: Any) -> str:
    return fault_of(bill(**changes), payees=PAYEES, most_fen=MOST)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version": 1},
        {"total_fen": 0, "items": [item(1, 0)]},
        {"total_fen": MOST, "items": [item(1, MOST)]},
        {"total_fen": 1, "items": [changed(item(1, 1), relief_fen=MOST, base_fen=MOST)]},
        {"total_fen": 1, "items": [changed(item(1, 1), relief_fen=0, base_fen=0)]},
        {"total_fen": 1, "items": [changed(item(1, 1), base_fen=None)]},
        {"total_fen": 2, "items": [item(7, 1), item(3, 1)]},
    ],
)
def test_a_bill_that_can_be_right_has_no_fault(changes: dict[str, Any]) -> None:
    assert fault(**changes) == ""


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"version": 0}, "version"),
        ({"version": -1}, "version"),
        ({"items": []}, "items"),
        ({"total_fen": 0, "items": []}, "items"),
        ({"total_fen": 2, "items": [item(1, 1), item(1, 1)]}, "items"),
        ({"total_fen": -1, "items": [item(1, 1)]}, "amount"),
        ({"total_fen": MOST + 1, "items": [item(1, 1)]}, "amount"),
        ({"total_fen": 0, "items": [item(1, -1), item(2, 1)]}, "amount"),
        ({"total_fen": 1, "items": [item(1, 1), item(2, MOST + 1)]}, "amount"),
        ({"total_fen": 1, "items": [changed(item(1, 1), relief_fen=-1)]}, "amount"),
        ({"total_fen": 1, "items": [changed(item(1, 1), relief_fen=MOST + 1)]}, "amount"),
        ({"total_fen": 1, "items": [changed(item(1, 1), base_fen=-1)]}, "amount"),
        ({"total_fen": 1, "items": [changed(item(1, 1), base_fen=MOST + 1)]}, "amount"),
        ({"total_fen": 3, "items": [item(1, 1), item(2, 1)]}, "total"),
        ({"total_fen": 1, "items": [item(1, 1), item(2, 1)]}, "total"),
        ({"total_fen": 2, "items": [item(1, 1), item(2, 1, "somebody")]}, "payee"),
        ({"total_fen": 2, "items": [item(1, 1, ""), item(2, 1)]}, "payee"),
    ],
)
def test_a_bill_that_can_never_be_right_is_named_by_its_fault(
    changes: dict[str, Any], word: str
) -> None:
    assert fault(**changes) == word


def test_an_item_without_a_base_counts_as_nothing() -> None:
    row = bill(total_fen=0, items=[changed(item(1, 0), base_fen=None)])

    assert fault_of(row, payees=PAYEES, most_fen=0) == ""


@given(
    amounts=st.lists(st.integers(0, MOST // 10), min_size=1, max_size=8),
    wrong_by=st.integers(-3, 3),
)
def test_only_the_exact_sum_is_a_total(amounts: list[int], wrong_by: int) -> None:
    total = sum(amounts)
    row = bill(
        total_fen=total + wrong_by, items=[item(seq, fen) for seq, fen in enumerate(amounts, 1)]
    )

    found = fault_of(row, payees=PAYEES, most_fen=MOST)

    assert found == ("" if not wrong_by else "amount" if total + wrong_by < 0 else "total")
