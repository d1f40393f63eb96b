"""A receipt whose message was lost is made again exactly as it was, however the order was paid."""

import json
from dataclasses import replace
from typing import Any

import pytest

from estation.payments import api
from estation.payments.actions.receipts import resend_receipts
from estation.payments.errors import OrderNotFound, ReceiptNotKnown
from tests.payments.city import MERCHANTS, City, count, later, make_bill, rows
from tests.payments.fakes import NOW, CombiningChannel, FakeChannel


async def receipts() -> list[dict[str, Any]]:
    """The bodies that wait for the centre, by bill."""
    found = await rows(
        "select body::text as body from outbox_message where topic = 'receipt'"
        " order by body->>'bill_no'"
    )
    return [json.loads(row["body"]) for row in found]


async def lose(*, but: str = "") -> None:
    await rows("delete from outbox_message where topic = 'receipt' and body->>'bill_no' <> $1", but)


def combined_city() -> tuple[City, CombiningChannel]:
    merchants = [FakeChannel(account_id=account) for account in MERCHANTS.values()]
    combining = CombiningChannel()
    return City(merchants=MERCHANTS, others=[combining, *merchants]), combining


async def paid_combined(city: City, combining: CombiningChannel) -> str:
    """Two bills paid together, each with two payees, in one payment of two parts."""
    bills = [await make_bill(city.person_id) for _ in range(2)]
    order = await city.order(*bills)
    attempt = await city.attempt(order)
    combining.pay(attempt.out_trade_no)
    await api.settle_batch([api.from_report(combining.report(attempt.out_trade_no))], now=NOW)
    return order.order_no


async def test_receipts_of_a_payment_in_several_parts_are_made_again_as_they_were(
    database: str,
) -> None:
    order_no = await paid_combined(*combined_city())
    before = await receipts()
    await lose()

    queued = await resend_receipts(order_no=order_no, now=later(days=1))

    assert await count("ledger_transfer", "kind = 'payment'") == 2
    assert queued == len(before) == 2
    assert await receipts() == before
    assert {one["account_id"] for receipt in before for one in receipt["splits"]} == set(
        MERCHANTS.values()
    )


async def test_only_what_is_missing_is_queued(database: str) -> None:
    order_no = await paid_combined(*combined_city())
    before = await receipts()
    await lose(but=before[0]["bill_no"])

    first = await resend_receipts(order_no=order_no, now=later(days=1))
    again = await resend_receipts(order_no=order_no, now=later(days=1))

    assert (first, again) == (1, 0)
    assert await receipts() == before


async def test_a_payment_beside_a_double_one_is_told_by_itself(database: str) -> None:
    city = City()
    _, order, number = await city.opened()
    await api.settle_batch([api.from_report(city.paid(number))], now=NOW)
    double = replace(city.paid(number), channel_trade_no="4200000000000000000000001234")
    await api.settle_batch([api.from_report(double)], now=NOW)
    assert await count("ledger_transfer", "kind <> 'hold'") > 1
    before = await receipts()
    await lose()

    assert await resend_receipts(order_no=order.order_no, now=later(days=1)) == 1
    assert await receipts() == before


async def test_what_the_books_do_not_hold_whole_is_refused(database: str) -> None:
    order_no = await paid_combined(*combined_city())
    await lose()
    await rows("update pay_attempt set parts = jsonb_build_array(parts->0)")

    with pytest.raises(ReceiptNotKnown):
        await resend_receipts(order_no=order_no, now=later(days=1))
    with pytest.raises(OrderNotFound):
        await resend_receipts(order_no="NONE", now=later(days=1))

    assert await receipts() == []
