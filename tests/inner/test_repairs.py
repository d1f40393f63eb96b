"""Receipts here that are not what the online side sent become so, and pay nothing twice."""

from typing import Any

import msgspec
import pytest
from tortoise import Tortoise

from estation.inner import catalogue, packets
from estation.inner.actions import refunds
from estation.inner.errors import BillNotPaid
from estation.outside.gate import merkle, replicas, rows
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import ReceiptRow
from estation.shared.transactions import in_transaction
from tests.inner.desk import Desk, query


async def arrive(desk: Desk, row: ReceiptRow, *, repairs: bool = False) -> None:
    handler = packets.make_handlers(source=desk.settings.source, now=desk.now)["receipt"]
    async with in_transaction():
        await handler([row], Arrival("online-jc-center", 1, desk.now, repairs=repairs))


async def receipt() -> dict[str, Any]:
    found = await query(
        "select bill_no, order_no, amount_fen, channel, attention, row_digest from fee_receipt"
    )
    return found[0]


@pytest.mark.parametrize(
    "tampering", ["update fee_receipt set amount_fen = 1", "delete from fee_receipt"]
)
async def test_a_receipt_changed_past_the_gate_is_mended_and_the_bill_stays_paid(
    desk: Desk, tampering: str
) -> None:
    bill_no = await desk.issue()
    row = desk.receipt(bill_no)
    await arrive(desk, row)
    before = await receipt()
    bill = await query("select * from fee_bill")
    await query(tampering)
    voided = await query("select row_digest from fee_receipt")

    await arrive(desk, row, repairs=True)

    assert voided in ([], [{"row_digest": b"\0" * 32}])
    assert before["row_digest"] == rows.digest(msgspec.json.encode(row))
    assert await receipt() == before
    assert await query("select * from fee_bill") == bill


async def test_a_lost_second_receipt_of_a_paid_bill_still_wants_a_person(desk: Desk) -> None:
    bill_no = await desk.issue()
    await arrive(desk, desk.receipt(bill_no))
    second = desk.receipt(bill_no, order_no="20261123ORDER002")

    await arrive(desk, second, repairs=True)

    found = await query("select attention from fee_receipt order by order_no")
    assert [row["attention"] for row in found] == ["", "already_paid"]


async def test_receipts_are_a_copy_that_can_be_proved(desk: Desk) -> None:
    row = desk.receipt(await desk.issue())
    await arrive(desk, row)

    tree = await merkle.tree_of_replica(
        Tortoise.get_connection("default"), replicas.REPLICAS["receipt"], row.source
    )

    assert tree.rows == 1
    assert rows.identity("receipt", row) == (row.source, f"{row.source_id}:{row.order_no}", 1)


async def set_aside(desk: Desk, topic: str, *keys: str) -> None:
    replica = replicas.REPLICAS[topic]
    assert replica.withdraw is not None
    async with in_transaction():
        await replica.withdraw(desk.settings.source, keys, desk.now)


async def test_a_receipt_the_online_side_does_not_know_proves_nothing_and_waits_for_a_person(
    desk: Desk,
) -> None:
    row = desk.receipt(await desk.issue())
    await arrive(desk, row)
    bill = await query("select * from fee_bill")

    await set_aside(desk, "receipt", f"{row.source_id}:{row.order_no}")

    found = await query("select attention, handled_at from fee_receipt")
    assert found == [{"attention": "never_sent", "handled_at": None}]
    assert catalogue.ATTENTION["never_sent"]
    assert await query("select * from fee_bill") == bill
    with pytest.raises(BillNotPaid):
        await refunds.ask_refund(
            row.source_id,
            amount_fen=1,
            believed_refundable_fen=row.amount_fen,
            reason="多收",
            asked_by="yan",
            now=desk.now,
        )


@pytest.mark.parametrize("repairs", [True, False])
async def test_a_receipt_that_was_sent_after_all_pays_its_bill_again_once(
    desk: Desk, repairs: bool
) -> None:
    row = desk.receipt(await desk.issue())
    await arrive(desk, row)
    before, bill = await receipt(), await query("select * from fee_bill")
    await set_aside(desk, "receipt", f"{row.source_id}:{row.order_no}")

    for _ in range(2):
        await arrive(desk, row, repairs=repairs)

    assert await receipt() == before
    assert await query("select * from fee_bill") == bill


async def test_another_receipt_of_the_source_is_left_as_it_is(desk: Desk) -> None:
    row = desk.receipt(await desk.issue())
    await arrive(desk, row)

    await set_aside(desk, "receipt", f"{row.source_id}:other", row.order_no, row.source_id)

    assert (await receipt())["attention"] == ""
