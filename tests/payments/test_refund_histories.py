"""Random histories with refunds, replayable by seed: both sides' books agree at the end."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

from estation.ledger.api import balance
from estation.outside.pay_channels import (
    ChannelRefused,
    ChannelState,
    RefundStatus,
)
from estation.payments import api, jobs
from estation.payments.api import RefundState
from estation.payments.invariants import broken_invariants
from tests.payments.city import count, rows
from tests.payments.fakes import UNKNOWN, FakeChannel
from tests.payments.test_histories import World

STEPS = 50
SEEDS = int(os.environ.get("HISTORY_SEEDS", "20"))


class RefundWorld(World):
    """As before, with a maker, a checker, a sending job, and channels that give back, close, get
    stuck, run short of money, repeat and contradict themselves."""

    verbs = (
        *World.verbs, "pay", "callback", "send", "send", "send", "finish", "finish", "tell", "tell",
        "ask", "ask", "decide", "decide", "short", "lose",
    )  # fmt: skip

    async def send(self) -> None:
        self.city.wechat.now = self.city.alipay.now = self.now
        await jobs.send_refunds(self.city.services, now=self.now)

    async def finish(self) -> None:
        channel, number = self._a_refund()
        if number and channel.refunds[number].status is RefundStatus.PROCESSING:
            ends = [RefundStatus.SUCCESS] * 6 + [RefundStatus.CLOSED, RefundStatus.ABNORMAL]
            channel.finish(number, self.chance.choice(ends), at=self.now)
        elif number and channel.refunds[number].status is RefundStatus.ABNORMAL:
            await self._redirect(number)

    async def _redirect(self, number: str) -> None:
        (refund,) = await rows("select id from pay_refund where refund_no = $1", number)
        await api.ask_redirect(refund_id=refund["id"], by="maker", now=self.now)
        await api.redirect_abnormal(
            refund_id=refund["id"], by="officer", services=self.city.services, now=self.now
        )

    async def tell(self) -> None:
        """A notice, once or twice, in a batch with the payment's own news."""
        channel, number = self._a_refund()
        if not number:
            return
        items = [self._item(channel, channel.refund_notice(channel.refund_report(number)))]
        trade = channel.refunds[number].request.out_trade_no
        items.append(self._item(channel, channel.notice(channel.report(trade))))
        self.chance.shuffle(items)
        await api.settle_batch(items * self.chance.choice([1, 2]), now=self.now)

    async def ask(self) -> None:
        """Of a paid order or of money in suspense; sometimes of more than the asker believes."""
        money = await rows("select id from ledger_transfer where kind in ('payment', 'suspense')")
        if not money:
            return
        (left,) = await api.refundable_of(arrival_id=self.chance.choice(money)["id"])
        stale = self.chance.random() < 0.1
        await api.ask_refund(
            arrival_id=left.arrival_id,
            amount_fen=self.chance.choice([1, max(1, left.refundable_fen), 50]),
            believed_refundable_fen=left.refundable_fen + stale,
            reason="退还",
            by="maker",
            now=self.now,
        )

    async def decide(self) -> None:
        waiting = await api.list_refunds(state=RefundState.ASKED)
        if not waiting.rows:
            return
        request_id = self.chance.choice(waiting.rows).request_id
        if self.chance.random() < 0.2:
            await api.reject_refund(request_id=request_id, by="checker", note="x", now=self.now)
        else:
            await api.approve_refund(request_id=request_id, by="checker", now=self.now)

    async def short(self) -> None:
        channel = self.chance.choice([self.city.wechat, self.city.alipay])
        channel.balance_fen = self.chance.choice([None, None, 50])

    async def lose(self) -> None:
        """The answers to refunds are lost, or say no although the refund landed."""
        channel = self.chance.choice([self.city.wechat, self.city.alipay])
        no = ChannelRefused("INVALID_REQUEST")
        channel.lost = self.chance.choice([{}, {"refund": UNKNOWN}, {"refund": no}])
        if self.chance.random() < 0.3:
            channel.trouble = self.chance.choice([{"refund": UNKNOWN}, {"query_refund": UNKNOWN}])

    async def peace(self) -> None:
        for channel in (self.city.wechat, self.city.alipay):
            channel.lost, channel.balance_fen = {}, None
        await super().peace()
        for _ in range(6):
            self.minutes += 31
            await self.send()
            for channel in (self.city.wechat, self.city.alipay):
                for number, refund in channel.refunds.items():
                    if refund.status is RefundStatus.ABNORMAL:
                        await self._redirect(number)
                    if refund.status is RefundStatus.PROCESSING:
                        channel.finish(number, at=self.now)

    def _a_refund(self) -> tuple[FakeChannel, str | None]:
        channel = self.chance.choice([self.city.wechat, self.city.alipay])
        numbers = list(channel.refunds)
        return channel, self.chance.choice(numbers) if numbers else None

    def _item(self, channel: FakeChannel, notice: Any) -> api.SettleItem:
        return api.from_notice(notice, channel=channel.channel, account_id=channel.account_id)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_the_channels_hold_is_what_the_ledger_says(database: str, seed: int) -> None:
    world = RefundWorld(seed)
    for _ in range(STEPS):
        await world.step()

    await world.peace()

    assert await broken_invariants() == {}
    for channel in (world.city.wechat, world.city.alipay):
        told = "\n".join(world.story)
        held = _paid(channel) - _given_back(channel)
        unseen = await _never_settled(channel)
        assert await balance(f"channel_clearing:{channel.account_id}") == held - unseen, told
        assert await balance(f"refund_in_flight:{channel.account_id}") == 0, told
    unfinished = "state in ('approved', 'processing', 'abnormal')"
    assert await count("pay_refund", unfinished) == 0


def _paid(channel: FakeChannel) -> int:
    paid = [one.paid_fen or 0 for one in channel.trades.values() if one.state is ChannelState.PAID]
    return sum(paid)


def _given_back(channel: FakeChannel) -> int:
    done = [one for one in channel.refunds.values() if one.status is RefundStatus.SUCCESS]
    return sum(one.request.amount_fen for one in done)


async def _never_settled(channel: FakeChannel) -> int:
    """Paid at the channel after we had its word that the number was closed: no news came yet."""
    numbers: Sequence[str] = [
        number for number, one in channel.trades.items() if one.state is ChannelState.PAID
    ]
    known = await rows(
        "select out_trade_no from pay_attempt where out_trade_no = any($1) and state = 'paid'",
        list(numbers),
    )
    seen = {row["out_trade_no"] for row in known}
    return sum(channel.trades[number].paid_fen or 0 for number in numbers if number not in seen)
