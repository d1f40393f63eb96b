"""Refund lines of a channel's bill against the refunds of our ledger, by refund number."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from estation.ledger import api as ledger
from estation.reconciliation.api import RunView, reconcile_day
from estation.reconciliation.exports import Export
from estation.shared import ids
from tests.reconciliation import days
from tests.reconciliation.days import DAY, NOW, WECHAT, Day, Line

FEN = 300


async def post_refund(
    refund_no: str, *, ends: str = "refund", fen: int = FEN, at: datetime = NOW
) -> None:
    """A refund in the books: started, and then done, reversed or (ends="") under way."""
    flying = ledger.refund_in_flight(WECHAT)
    start = [
        ledger.Leg(ledger.payee_payable("treasury"), debit_fen=fen),
        ledger.Leg(flying, credit_fen=fen),
    ]
    done = [
        ledger.Leg(flying, debit_fen=fen),
        ledger.Leg(ledger.clearing(WECHAT), credit_fen=fen),
    ]
    back = [
        ledger.Leg(flying, debit_fen=fen),
        ledger.Leg(ledger.payee_payable("treasury"), credit_fen=fen),
    ]
    posted = [("refund_start", start)]
    posted += [(ends, done if ends == "refund" else back)] if ends else []
    await ledger.post_many(
        [
            ledger.TransferInput(
                id=str(ids.row_id(NOW)),
                idempotency_key=f"{kind}:{refund_no}",
                kind=kind,
                region="360101",
                order_id=None,
                our_no="P1",
                channel_no="TP1",
                occurred_at=at,
                legs=legs,
            )
            for kind, legs in posted
        ],
        now=NOW,
    )


def day_with(*refunds: Line) -> Day:
    """A payment of the day before its refunds, which the ledger has."""
    day = Day()
    day.bill(WECHAT).extend([Line("P1", 1_000, days.at(8), "TP1"), *refunds])
    day.receipts.append(days.Receipt("P1", 1_000, days.at(8), "TP1"))
    return day


def refund_line(refund_no: str = "R1", **changes: Any) -> Line:
    line = Line("P1", FEN, days.at(9), "TP1", kind="refund", refund_no=refund_no, state="SUCCESS")
    return replace(line, **changes)


async def reconciled(day: Day) -> RunView:
    await days.post(day)
    return await reconcile_day(DAY, services=days.services_for(day, WECHAT), now=NOW)


@pytest.mark.parametrize("ends", ["refund", ""])
async def test_a_refund_of_ours_done_or_under_way_is_no_difference(
    database: str, ends: str
) -> None:
    """The bill has it on the day it was accepted, the ledger on the day it arrived."""
    await post_refund("R1", ends=ends, at=days.at(9, day=days.NEXT))

    view = await reconciled(day_with(refund_line()))

    assert (view.state, view.differences) == ("balanced", [])
    assert view.legs[0]["theirs"]["refund_matched"] == [1, FEN]
    assert view.legs[0]["their_fen"] == view.legs[0]["our_fen"] == 1_000


@pytest.mark.parametrize("fen", [FEN - 1, FEN + 1])
async def test_one_fen_more_or_less_than_we_gave_back_is_a_difference(
    database: str, fen: int
) -> None:
    await post_refund("R1")

    view = await reconciled(day_with(refund_line(fen=fen)))

    (one,) = view.differences
    assert (one.kind, one.our_fen, one.their_fen) == ("refund_differs", FEN, fen)
    assert view.state == "differences"


async def test_a_refund_under_a_number_we_never_gave_is_not_in_the_ledger(
    database: str,
) -> None:
    await post_refund("R1")

    view = await reconciled(day_with(refund_line(), refund_line("R2")))

    (one,) = view.differences
    assert (one.kind, one.our_fen) == ("refund_not_in_ledger", None)


async def test_the_same_refund_twice_in_a_bill_is_a_difference(database: str) -> None:
    await post_refund("R1")

    view = await reconciled(day_with(refund_line(), refund_line()))

    assert [one.kind for one in view.differences] == ["refund_differs"]


@pytest.mark.parametrize(
    ("state", "ends", "kinds"),
    [
        ("FAIL", "refund_reversal", []),
        ("FAIL", "", []),
        ("FAIL", "refund", ["refund_differs"]),
        ("SUCCESS", "refund_reversal", ["refund_differs"]),
    ],
)
async def test_a_refund_that_ended_otherwise_at_the_channel_is_a_difference(
    database: str, state: str, ends: str, kinds: list[str]
) -> None:
    await post_refund("R1", ends=ends)

    view = await reconciled(day_with(refund_line(state=state)))

    assert [one.kind for one in view.differences] == kinds


async def test_a_refund_of_another_account_is_a_difference(database: str) -> None:
    await post_refund("R1")
    day = day_with()
    day.bill(days.ALIPAY).append(refund_line())
    await days.post(day)

    view = await reconcile_day(DAY, services=days.services_for(day), now=NOW)

    assert [one.kind for one in view.differences] == ["refund_differs"]


async def test_refunds_stand_outside_of_the_exports_sums_on_both_sides(database: str) -> None:
    await post_refund("R1")
    view = await reconciled(day_with(refund_line(fen=FEN + 1)))
    export = Export(view)

    export.rows(view.differences)

    assert (export.our_fen, export.our_outside_fen) == (FEN, FEN)
    assert (export.their_fen, export.their_outside_fen) == (FEN + 1, FEN + 1)
