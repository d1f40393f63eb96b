"""Packets and payments meet on the same bills: nobody waits in a circle, no news is lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tortoise import Tortoise

from estation.fees import packets
from estation.fees.actions import PaidMark, lock_bills
from estation.fees.models import Bill, BillItem
from estation.fees.queries import bill_of
from estation.fees.rules import BillState
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival
from estation.shared.outbox import OutboxMessage
from estation.shared.transactions import in_transaction
from tests.fees.marking import mark_paid
from tests.fees.test_packets import PAYEES, arrive, bill, item
from tests.identity.people import ANNA, BO, NOW, VAULT

pytestmark = pytest.mark.usefixtures("database")

LATER = NOW + timedelta(hours=1)
BIG = 5_000


async def pay(row: Bill, version: int = 1) -> None:
    async with in_transaction():
        await lock_bills([row.id])
        await mark_paid([PaidMark(row.id, version, NOW)])


async def messages() -> list[dict[str, Any]]:
    told = await OutboxMessage.filter(topic="bill_changed_after_payment")
    return sorted((message.body for message in told), key=lambda body: int(body["version"]))


class TestAfterPayment:
    async def test_the_same_news_again_tells_nobody_a_second_time(self) -> None:
        await arrive(bill())
        await pay(await Bill.get())
        for _ in range(3):
            await arrive(bill(version=2, state="withdrawn"), at=LATER)

        assert len(await messages()) == 1
        await arrive(bill(version=3), at=LATER)
        assert [body["version"] for body in await messages()] == [2, 3]

    async def test_the_payer_still_sees_what_was_paid(self) -> None:
        await arrive(bill())
        row = await Bill.get()
        await pay(row)

        revised = bill(version=2, total_fen=9, items=[item(1, 9)], title="改", payer=BO)
        await arrive(revised, at=LATER)

        shown = await bill_of(row.payer_id, row.id)
        assert (shown.state, shown.version, shown.total_fen) == ("paid", 1, 858_000)
        assert [one.amount_fen for one in shown.items] == [850_000, 8_000]
        async with in_transaction():
            (locked,) = await lock_bills([row.id])
        assert (locked.version, locked.total_fen) == (1, 858_000)
        assert sum(locked.payee_split.values()) == 858_000
        assert await BillItem.filter(version=2).count() == 1

    async def test_news_that_says_what_the_bill_says_after_it(self) -> None:
        await arrive(bill())
        row = await Bill.get()
        await pay(row)

        await arrive(bill(version=2, total_fen=9, items=[item(1, 9)]), at=LATER)

        assert await messages() == [
            {
                "bill_id": str(row.id),
                "bill_no": "JF1",
                "total_fen": 858_000,
                "paid_version": 1,
                "version": 2,
                "state": "payable",
                "new_total_fen": 9,
            }
        ]


async def test_a_withdrawn_bill_can_be_issued_again() -> None:
    await arrive(bill(), bill(version=2, state="withdrawn"))
    await arrive(bill(version=3))

    assert (await Bill.get()).state == BillState.PAYABLE


async def test_an_older_version_that_comes_late_leaves_its_items_as_history() -> None:
    await arrive(bill(version=2, total_fen=9, items=[item(1, 9)]))
    await arrive(bill(version=1))
    await arrive(bill(version=1))

    assert (await Bill.get()).version == 2
    assert await BillItem.filter(version=1).count() == 2


async def test_two_centres_may_use_the_same_number() -> None:
    await arrive(bill())
    async with in_transaction():
        handler = packets.make_handler(VAULT, payees=PAYEES)
        await handler([bill(source="county", version=3)], Arrival("county-online", 1, NOW))

    assert sorted([row.source async for row in Bill.all()]) == ["county", "jc"]
    assert await BillItem.all().count() == 4


async def test_a_refused_row_is_named_without_personal_data() -> None:
    with pytest.raises(RowRefused) as refused:
        await arrive(bill(1), bill(7, version=3, payer=ANNA.__class__(
            role="buyer", name="林晓舟", id_type="1", id_no="110105194912310021", phone="1"
        )))  # fmt: skip

    assert str(refused.value) == "fee_bill b7 v3: payer id_no"


@asynccontextmanager
async def counted_statements() -> AsyncIterator[list[str]]:
    """A transaction and the statements that go through it."""
    statements: list[str] = []
    async with in_transaction() as db:
        for name in ("execute_query", "execute_query_dict"):
            _count(db, name, statements)
        yield statements


def _count(db: Any, name: str, statements: list[str]) -> None:
    original = getattr(db, name)

    async def counting(query: str, *args: Any, **kwargs: Any) -> Any:
        statements.append(query)
        return await original(query, *args, **kwargs)

    setattr(db, name, counting)


async def test_a_big_packet_is_a_handful_of_statements_and_a_repeat_even_fewer() -> None:
    rows = [bill(n, payer=ANNA if n % 2 else BO) for n in range(BIG)]
    handler = packets.make_handler(VAULT, payees=PAYEES)

    async with counted_statements() as first:
        begun = time.perf_counter()
        await handler(rows, Arrival("jc-online", 1, NOW))
        seconds = time.perf_counter() - begun
    async with counted_statements() as again:
        await handler(rows, Arrival("jc-online", 2, LATER))

    assert await Bill.all().count() == BIG
    assert await BillItem.all().count() == 2 * BIG
    assert len(first) <= 6
    assert len(again) <= 4
    assert seconds < 20, seconds  # about one on an idle machine; row by row it is minutes


class TestRaces:
    async def test_two_payers_locking_the_same_bills_in_any_order_both_finish(self) -> None:
        await arrive(*(bill(n) for n in range(20)))
        bill_ids = [row.id async for row in Bill.all()][::-1]

        async def lock_all(seed: int) -> list[UUID]:
            mixed = bill_ids[seed:] + bill_ids[:seed]
            async with in_transaction():
                locked = [one.id for one in await lock_bills(mixed)]
                await asyncio.sleep(0.01)
            return locked

        answers = await asyncio.gather(*(lock_all(seed) for seed in range(6)))

        assert all(answer == sorted(bill_ids) for answer in answers)

    async def test_packets_and_payments_at_once_never_wait_in_a_circle(self) -> None:
        """Source ids run against the order of row ids, so that a wrong order would show."""
        await arrive(*(bill(n) for n in reversed(range(100, 140))))
        bill_ids = [row.id async for row in Bill.all()]

        async def packet(version: int) -> None:
            await arrive(*(bill(n, version=version) for n in range(100, 140)), seq=version)

        async def payment(seed: int) -> None:
            mixed = [*bill_ids[seed % 40 :], *bill_ids[: seed % 40]][:20]
            async with in_transaction():
                locked = await lock_bills(mixed)
                await asyncio.sleep(0)
                await mark_paid(
                    [PaidMark(one.id, one.version, NOW) for one in locked[:2]
                     if one.state is BillState.PAYABLE]
                )  # fmt: skip

        for version in range(2, 8):
            await asyncio.gather(packet(version), *(payment(version * 10 + n) for n in range(4)))

        paid = await Bill.filter(state=BillState.PAID)
        assert all(row.version == 7 for row in await Bill.all())
        assert all(row.paid_version is not None for row in paid)
        told = {body["bill_id"]: body["version"] for body in await messages()}
        assert told == {str(row.id): 7 for row in paid if row.paid_version != 7}

    async def test_a_withdrawal_that_waits_for_a_payment_becomes_news_not_a_loss(self) -> None:
        await arrive(bill())
        row = await Bill.get()
        locked, may_end = asyncio.Event(), asyncio.Event()

        async def settle() -> None:
            async with in_transaction():
                await lock_bills([row.id])
                locked.set()
                await may_end.wait()
                await mark_paid([PaidMark(row.id, 1, NOW)])

        settling = asyncio.create_task(settle())
        await locked.wait()
        arriving = asyncio.create_task(arrive(bill(version=2, state="withdrawn"), at=LATER))
        await _somebody_waits_for_a_lock()
        may_end.set()
        await asyncio.gather(settling, arriving)

        assert (await Bill.get()).state == BillState.PAID
        assert [body["state"] for body in await messages()] == ["withdrawn"]

    async def test_a_payment_that_waits_for_a_withdrawal_sees_it(self) -> None:
        await arrive(bill())
        row = await Bill.get()
        withdrawn, may_end = asyncio.Event(), asyncio.Event()
        handler = packets.make_handler(VAULT, payees=PAYEES)

        async def arriving() -> None:
            async with in_transaction():
                await handler([bill(version=2, state="withdrawn")], Arrival("jc-online", 2, LATER))
                withdrawn.set()
                await may_end.wait()

        async def settling() -> tuple[BillState, int]:
            async with in_transaction():
                (locked,) = await lock_bills([row.id])
            return locked.state, locked.version

        packet = asyncio.create_task(arriving())
        await withdrawn.wait()
        payment = asyncio.create_task(settling())
        await _somebody_waits_for_a_lock()
        may_end.set()
        await packet

        assert await payment == (BillState.WITHDRAWN, 2)


async def _somebody_waits_for_a_lock() -> None:
    db = Tortoise.get_connection("default")
    for _ in range(200):
        rows = await db.execute_query_dict("select count(*) as n from pg_locks where not granted")
        if rows[0]["n"]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")
