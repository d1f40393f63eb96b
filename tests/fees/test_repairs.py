"""A copy of bills that was changed past the gate is mended; what was paid is never touched."""

from typing import Any

import msgspec
import pytest

from estation.fees import packets
from estation.fees.actions import PaidMark, lock_bills, mark_refunded
from estation.fees.models import Bill, BillItem
from estation.fees.repairing import withdraw_bills
from estation.outside.gate import merkle, replicas, rows
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import FeeBillRow
from estation.shared.transactions import in_transaction
from tests.fees.marking import mark_paid
from tests.fees.test_packets import PAYEES, arrive, bill, item
from tests.identity.people import NOW, VAULT
from tests.inner.desk import query

pytestmark = pytest.mark.usefixtures("database")

TOUCHED = b"\0" * 32


async def repair(*given: FeeBillRow) -> None:
    handler = packets.make_handler(VAULT, payees=PAYEES)
    async with in_transaction():
        await handler(given, Arrival("jc-online", 9, NOW, repairs=True))


async def pay(row: Bill) -> None:
    async with in_transaction():
        await lock_bills([row.id])
        await mark_paid([PaidMark(row.id, row.version, NOW)])


async def digest_is_right(row: FeeBillRow) -> bool:
    kept = await Bill.get(source_id=row.source_id)
    return kept.row_digest == rows.digest(msgspec.json.encode(row))


async def everything() -> list[Any]:
    """Of the bills and items, but for the ids of items."""
    bills = await query("select * from bill order by source_id")
    items = await query(
        "select bill_id, version, seq, code, name, payee_code, base_fen, amount_fen, note"
        " from bill_item order by 1, 2, 3"
    )
    return [bills, items]


@pytest.mark.parametrize(
    "tampering",
    [
        "update bill set total_fen = 1",
        "update bill set payer_id = gen_random_uuid()",
        "update bill set version = 7",
        "update bill_item set amount_fen = amount_fen + 100 where seq = 1",
        "update bill_item set payee_code = 'non_tax'",
        "delete from bill_item where seq = 2",
        "delete from bill_item; delete from bill",
    ],
)
async def test_whatever_is_changed_past_the_gate_voids_the_digest_and_is_mended(
    tampering: str,
) -> None:
    await arrive(bill())
    before = await everything()
    for statement in tampering.split(";"):
        await query(statement)
    voided = await query("select row_digest from bill")

    await repair(bill())

    assert voided in ([], [{"row_digest": TOUCHED}])
    assert await digest_is_right(bill())
    after = await everything()
    if voided:
        assert after == before
    else:
        assert [row["amount_fen"] for row in after[1]] == [850_000, 8_000]


async def test_what_this_side_does_with_a_bill_is_no_tampering() -> None:
    await arrive(bill(1), bill(2))
    await arrive(bill(1, version=2, total_fen=8_000, items=[item(1, 8_000)]))
    await pay(await Bill.get(source_id="b2"))

    assert await digest_is_right(bill(1, version=2, total_fen=8_000, items=[item(1, 8_000)]))
    assert await digest_is_right(bill(2))


async def test_a_repair_of_a_paid_bill_confirms_it_and_changes_nothing() -> None:
    await arrive(bill())
    await pay(await Bill.get())
    before = await everything()
    await query("update bill set row_digest = null")

    await repair(bill())

    assert await everything() == before


@pytest.mark.parametrize(
    "tampering",
    [
        "update bill set total_fen = 1",
        "update bill_item set amount_fen = amount_fen + 100 where seq = 1",
        "delete from bill_item where seq = 2",
    ],
)
async def test_a_paid_bill_that_was_changed_stays_and_stays_unproven(tampering: str) -> None:
    await arrive(bill())
    await pay(await Bill.get())
    await query(tampering)
    before = await everything()

    await repair(bill())

    assert await everything() == before
    assert (await Bill.get()).row_digest == TOUCHED


async def test_a_snapshot_or_a_repair_never_reopens_a_paid_bill() -> None:
    await arrive(bill())
    await pay(await Bill.get())
    newer = bill(version=2, total_fen=8_000, items=[item(1, 8_000)])

    await repair(newer)
    await repair(newer)

    kept = await Bill.get()
    assert (kept.state, kept.paid_version, kept.total_fen) == ("paid", 1, 858_000)
    assert (await query("select count(*) as told from outbox_message"))[0]["told"] == 1
    assert await digest_is_right(newer)


@pytest.mark.parametrize(
    "tampering", ["delete from bill_noted", "update bill_noted set total_fen = 1"]
)
async def test_what_was_noted_after_a_payment_is_as_sent_again(tampering: str) -> None:
    await arrive(bill())
    row = await Bill.get()
    await pay(row)
    newer = bill(version=2, total_fen=8_000, items=[item(1, 8_000)])
    await arrive(newer)
    await query(tampering)

    await repair(newer)
    async with in_transaction():
        await lock_bills([row.id])
        await mark_refunded([(row.id, 1)])

    kept = await Bill.get()
    assert (kept.state, kept.version, kept.total_fen) == ("payable", 2, 8_000)
    assert await digest_is_right(newer)


async def test_a_bill_brought_back_after_its_refund_is_no_tampering() -> None:
    await arrive(bill())
    row = await Bill.get()
    await pay(row)
    newer = bill(version=2, state="withdrawn", total_fen=8_000, items=[item(1, 8_000)], title="改")
    await arrive(newer)
    noted = await digest_is_right(newer)

    async with in_transaction():
        await lock_bills([row.id])
        await mark_refunded([(row.id, 1)])

    assert noted
    assert await digest_is_right(newer), "the content came with its own digest"
    assert (await Bill.get()).state == "withdrawn"


async def test_a_bill_the_centre_never_issued_cannot_be_paid_and_a_paid_one_stays() -> None:
    await arrive(bill(1), bill(2), bill(3))
    await pay(await Bill.get(source_id="b2"))

    await withdraw_bills("jc", ["b1", "b2"], NOW)

    states = {row.source_id: str(row.state) for row in await Bill.all()}
    assert states == {"b1": "withdrawn", "b2": "paid", "b3": "payable"}
    assert await BillItem.all().count() == 6


async def test_the_copy_of_bills_is_proved_by_the_digest_of_what_came() -> None:
    await arrive(bill(1), bill(2))
    ours = await merkle.tree_of_replica(await _db(), replicas.REPLICAS["fee_bill"], "jc")
    await query("update bill set title = 'x' where source_id = 'b2'")
    touched = await merkle.tree_of_replica(await _db(), replicas.REPLICAS["fee_bill"], "jc")

    assert (ours.rows, touched.rows) == (2, 2)
    assert len(ours.differing(touched.buckets)) == 1


async def _db() -> Any:
    from tortoise import Tortoise

    return Tortoise.get_connection("default")
