"""O6: whatever a channel ever told may be told again at any time, and no money moves."""

import random
from datetime import datetime
from typing import Any

import pytest

from estation.ledger.api import newest_blocks, seal
from estation.outside.pay_channels import RefundReport, RefundStatus
from estation.payments import api
from estation.payments.api import SettleItem
from estation.payments.invariants import broken_invariants
from tests.payments.city import City, later, rows
from tests.payments.test_asked_refunds import approve, ask, send


class Told:
    """A city, and all notices its channel has sent so far."""

    def __init__(self) -> None:
        self.city = City()
        self.items: list[SettleItem] = []

    async def payment(self, number: str, at: datetime, **changes: Any) -> None:
        report = self.city.paid(number, **changes)
        notice = self.city.wechat.notice(report)
        await self._hear(
            api.from_notice(notice, channel=report.channel, account_id=report.account_id), at
        )

    async def refund(self, report: RefundReport, at: datetime) -> None:
        notice = self.city.wechat.refund_notice(report)
        await self._hear(
            api.from_notice(notice, channel=report.channel, account_id=report.account_id), at
        )

    async def _hear(self, item: SettleItem, at: datetime) -> None:
        self.items.append(item)
        await api.settle_batch([item], now=at)


@pytest.fixture
async def told(database: str) -> Told:
    """Money applied, unknown, of another amount and given back, once after a no."""
    told = Told()
    city = told.city
    _, order, number = await city.opened()
    await told.payment(number, later(seconds=30))
    await told.payment("20260803UNKNOWN000000001", later(seconds=31))
    _, _, odd = await city.opened()
    await told.payment(odd, later(seconds=32), amount_fen=1)
    for hours, end in ((1, RefundStatus.SUCCESS), (3, RefundStatus.CLOSED)):
        left = sum(one.refundable_fen for one in await api.refundable_of(order_id=order.id))
        asked = await ask(order, 100, believed_refundable_fen=left, now=later(hours=hours))
        await approve(asked, now=later(hours=hours))
        await send(city, later(hours=hours, minutes=1))
        refund_no = list(city.wechat.refunds)[-1]
        await told.refund(city.wechat.finish(refund_no, end), later(hours=hours, minutes=2))
    city.wechat.refunds[refund_no].status = RefundStatus.PROCESSING
    await told.refund(city.wechat.finish(refund_no), later(hours=5))
    return told


async def money() -> list[Any]:
    await seal(later(days=40))
    states = [
        await rows(f"select id, state from {table} order by id")
        for table in ("bill", "pay_order", "pay_attempt", "pay_refund")
    ]
    heads = [(block.book, block.height, block.digest) for block in await newest_blocks()]
    return [heads, *states]


async def test_all_that_was_ever_told_told_twice_more_leaves_the_same_head(told: Told) -> None:
    before = await money()

    for turn in range(2):
        random.Random(turn).shuffle(told.items)  # noqa: S311
        await api.settle_batch(told.items, now=later(days=30))
        for item in told.items:
            await api.settle_batch([item], now=later(days=31))

    assert len(told.items) == 6
    assert await money() == before
    assert await broken_invariants() == {}
