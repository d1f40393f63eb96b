"""Payments that come back are kept once each, and pay exactly the bill they fit."""

from collections.abc import Sequence
from typing import Any

import pytest

from estation.inner import packets
from estation.inner.actions import receipts
from estation.inner.errors import ReceiptAlreadyHandled, ReceiptNotFound, TextMissing
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import ReceiptRow
from estation.shared.transactions import in_transaction
from tests.inner.desk import TOTAL_FEN, Desk, query


async def arrive(desk: Desk, *rows: ReceiptRow, seq: int = 1) -> None:
    """As the gate does it: all rows of a file in the file's transaction."""
    handler = packets.make_handlers(source=desk.settings.source, now=desk.now)["receipt"]
    async with in_transaction():
        await handler(rows, Arrival("online-jc-center", seq, desk.now))


async def bill(bill_no: str) -> tuple[Any, ...]:
    rows = await query("select state, paid_version from fee_bill where bill_no = $1", bill_no)
    return tuple(rows[0].values())


async def kept() -> Sequence[tuple[Any, ...]]:
    rows = await query("select bill_no, order_no, attention from fee_receipt order by order_no")
    return [tuple(row.values()) for row in rows]


async def test_a_receipt_that_fits_pays_its_bill(desk: Desk) -> None:
    bill_no = await desk.issue()

    await arrive(desk, desk.receipt(bill_no))

    assert await bill(bill_no) == ("paid", 1)
    assert await kept() == [(bill_no, "20261123ORDER001", "")]


async def test_the_same_receipt_again_changes_nothing(desk: Desk) -> None:
    bill_no = await desk.issue()
    await arrive(desk, desk.receipt(bill_no), desk.receipt(bill_no))
    before = await query("select * from fee_receipt")
    desk.later(hours=1)

    await arrive(desk, desk.receipt(bill_no, paid_at=before[0]["paid_at"]), seq=2)

    assert await query("select * from fee_receipt") == before
    assert await bill(bill_no) == ("paid", 1)


async def test_a_receipt_for_a_revised_bill_is_kept_and_shown_and_pays_nothing(desk: Desk) -> None:
    bill_no = await desk.issue()
    await desk.revise(bill_no, 1)

    await arrive(desk, desk.receipt(bill_no))

    assert await bill(bill_no) == ("issued", None)
    assert await kept() == [(bill_no, "20261123ORDER001", "other_version")]


async def test_a_receipt_for_a_withdrawn_bill_is_kept_and_shown(desk: Desk) -> None:
    bill_no = await desk.issue()
    await desk.withdraw(bill_no, 1)

    await arrive(desk, desk.receipt(bill_no))

    assert await bill(bill_no) == ("withdrawn", None)
    assert await kept() == [(bill_no, "20261123ORDER001", "withdrawn_bill")]


async def test_a_second_payment_of_one_bill_needs_a_person(desk: Desk) -> None:
    bill_no = await desk.issue()

    await arrive(desk, desk.receipt(bill_no), desk.receipt(bill_no, order_no="20261123ORDER002"))

    assert await bill(bill_no) == ("paid", 1)
    assert [row[2] for row in await kept()] == ["", "already_paid"]


async def test_another_amount_and_an_unknown_bill_need_a_person(desk: Desk) -> None:
    bill_no = await desk.issue()

    await arrive(
        desk,
        desk.receipt(bill_no, amount_fen=TOTAL_FEN - 1),
        desk.receipt("JF209901010001", order_no="20261123ORDER002"),
        desk.receipt(bill_no, source="elsewhere", order_no="20261123ORDER003"),
    )

    assert await bill(bill_no) == ("issued", None)
    assert [row[2] for row in await kept()] == ["other_amount", "unknown_bill", "unknown_bill"]


async def test_contradicting_news_about_a_receipt_is_flagged_and_the_first_stands(
    desk: Desk,
) -> None:
    bill_no = await desk.issue()
    await arrive(desk, desk.receipt(bill_no))

    await arrive(desk, desk.receipt(bill_no, amount_fen=1), seq=2)

    assert await bill(bill_no) == ("paid", 1)
    rows = await query("select attention, amount_fen from fee_receipt")
    assert [tuple(row.values()) for row in rows] == [("contradicted", TOTAL_FEN)]


async def test_contradicting_news_in_one_packet_is_flagged_too(desk: Desk) -> None:
    bill_no = await desk.issue()

    await arrive(desk, desk.receipt(bill_no), desk.receipt(bill_no, amount_fen=1))

    assert [row[2] for row in await kept()] == ["contradicted"]


async def test_a_person_writes_down_what_was_done_once(desk: Desk) -> None:
    bill_no = await desk.issue()
    await desk.withdraw(bill_no, 1)
    await arrive(desk, desk.receipt(bill_no))
    receipt_id = (await query("select id from fee_receipt"))[0]["id"]

    async def handle(note: str) -> None:
        await receipts.mark_handled(receipt_id, note=note, handled_by="shoufei", now=desk.now)

    with pytest.raises(TextMissing):
        await handle(" ")
    await handle("已通知财务退款")
    with pytest.raises(ReceiptAlreadyHandled):
        await handle("再来一次")

    rows = await query("select handled_by, handled_note from fee_receipt")
    assert [tuple(row.values()) for row in rows] == [("shoufei", "已通知财务退款")]


async def test_a_receipt_that_paid_its_bill_needs_no_handling(desk: Desk) -> None:
    bill_no = await desk.issue()
    await arrive(desk, desk.receipt(bill_no))
    receipt_id = (await query("select id from fee_receipt"))[0]["id"]

    with pytest.raises(ReceiptNotFound):
        await receipts.mark_handled(receipt_id, note="x", handled_by="shoufei", now=desk.now)
