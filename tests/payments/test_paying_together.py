"""一并缴费: several bills ticked on the list, one order, without any script."""

import re
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from estation.fees.models import Bill
from estation.payments import api
from estation.payments.invariants import broken_invariants
from tests.payments.city import City, count, make_bill, rows
from tests.payments.pages import NOW, Browser, Desk, open_desk


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with open_desk(City()) as desk:
        yield desk


async def bills(desk: Desk, number: int) -> list[Bill]:
    return [
        await make_bill(desk.city.person_id, {"treasury": 100 + n, "non_tax": n}, now=NOW)
        for n in range(1, number + 1)
    ]


async def boxes(browser: Browser) -> list[str]:
    """What the list's checkboxes say."""
    _, page, _ = await browser.get("/fees")
    return re.findall(r'type="checkbox" name="bill" value="([^"]+)"', page)


async def test_ticked_bills_become_one_order_with_a_receipt_per_payee(desk: Desk) -> None:
    await bills(desk, 3)
    browser = await desk.citizen()
    ticked = (await boxes(browser))[:2]

    status, _, to = await browser.post("/fees/pay", [("bill", text) for text in ticked])

    assert status == 303
    (order,) = await api.orders_of(desk.city.person_id)
    assert to == f"/pay/{order.id}"
    assert {f"{one.bill_id}.1.{one.amount_fen}" for one in order.bills} == set(ticked)
    assert len({split.receipt_no for split in order.splits}) == 4
    _, page, _ = await browser.get(to)
    assert page.count("存量房买卖税费") == 2
    attempt = await desk.city.attempt(order, now=NOW)
    desk.city.wechat.pay(attempt.out_trade_no)
    await api.settle_batch(
        [api.from_report(desk.city.wechat.report(attempt.out_trade_no))], now=NOW
    )
    assert await count("bill", "state = 'paid'") == await count("outbox_message") == 2
    assert await broken_invariants() == {}


async def test_a_bill_revised_meanwhile_stops_all_and_the_new_sum_is_said(desk: Desk) -> None:
    first, second = await bills(desk, 2)
    browser = await desk.citizen()
    ticked = await boxes(browser)
    await rows("update bill set version = 2, total_fen = 250 where id = $1", first.id)

    status, page, _ = await browser.post("/fees/pay", [("bill", text) for text in ticked])

    assert status == 409
    assert "刚刚有更新" in page
    new_sum = 250 + second.total_fen
    assert f"{new_sum // 100}.{new_sum % 100:02d}" in page
    assert page.count(" checked") == 2
    assert await count("pay_order") == 0


@pytest.mark.parametrize("number", [0, 21])
async def test_none_and_too_many_are_said_at_the_list(desk: Desk, number: int) -> None:
    await bills(desk, max(number, 2))
    browser = await desk.citizen()
    ticked = (await boxes(browser))[:number]

    status, page, _ = await browser.post("/fees/pay", [("bill", text) for text in ticked])

    assert status == 422
    assert ("请先勾选" if number == 0 else "最多一并缴纳 20 笔") in page
    assert await count("pay_order") == 0


async def test_twenty_bills_are_paid_at_once(desk: Desk) -> None:
    await bills(desk, 20)
    browser = await desk.citizen()

    status, _, _ = await browser.post(
        "/fees/pay", [("bill", text) for text in await boxes(browser)]
    )

    assert status == 303
    assert await count("pay_order_bill") == 20


async def test_a_bill_that_is_being_paid_cannot_be_ticked_again(desk: Desk) -> None:
    one, *_ = await bills(desk, 3)
    browser = await desk.citizen()
    every = await boxes(browser)
    await browser.post("/fees/pay", [("bill", f"{one.id}.1.{one.total_fen}")])

    left = await boxes(browser)
    status, _, to = await browser.post("/fees/pay", [("bill", text) for text in every])

    assert len(left) == 2
    (order,) = await api.orders_of(desk.city.person_id)
    assert (status, to) == (303, f"/pay/{order.id}?told=open")
    assert await count("pay_order") == 1


@pytest.mark.parametrize(
    "text", ["x", "1.2.3", "{id}", "{id}.1", "{id}.1.x", "{id}.-1.5", "{id}.1.²"]
)
async def test_a_checkbox_that_is_none_of_ours_is_refused(desk: Desk, text: str) -> None:
    one, _ = await bills(desk, 2)
    browser = await desk.citizen()

    status, _, _ = await browser.post("/fees/pay", [("bill", text.format(id=one.id))])

    assert status == 422
    assert await count("pay_order") == 0


async def test_a_bill_ticked_twice_or_somebody_elses_begins_nothing(desk: Desk) -> None:
    one, _ = await bills(desk, 2)
    others = await make_bill(uuid4(), now=NOW)
    browser = await desk.citizen()
    own = f"{one.id}.1.{one.total_fen}"

    twice, _, _ = await browser.post("/fees/pay", [("bill", own), ("bill", own)])
    foreign, _, _ = await browser.post(
        "/fees/pay", [("bill", own), ("bill", f"{others.id}.1.{others.total_fen}")]
    )

    assert (twice, foreign) == (422, 404)
    assert await count("pay_order") == 0
