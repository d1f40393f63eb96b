"""Random histories, replayable by seed: whatever the order of news, the money is right."""

import os
import random
from datetime import datetime
from uuid import UUID

import pytest

from estation.outside.pay_channels import Channel, ChannelState, Scene
from estation.payments import api, jobs
from estation.payments.api import OrderState
from estation.payments.invariants import broken_invariants
from estation.shared.errors import Refused
from tests.payments.city import City, count, later, make_bill, rows
from tests.payments.fakes import UNKNOWN, FakeChannel

STEPS = 40
SEEDS = int(os.environ.get("HISTORY_SEEDS", "20"))


class World:
    """One citizen clicking, two channels, lost and doubled callbacks, a janitor."""

    verbs: tuple[str, ...] = (
        "order", "attempt", "attempt", "pay", "pay", "callback", "callback", "callback",
        "query", "close", "cancel", "refresh", "revise", "trouble", "wait",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a story, not a secret
        self.city = City()
        self.minutes = 0.0
        self.story: list[str] = []
        self.bills: list[UUID] = []
        self.orders: list[UUID] = []

    async def step(self) -> None:
        verb = self.chance.choice(self.verbs)
        self.story.append(f"{self.minutes:.1f} {verb}")
        try:
            await getattr(self, verb)()
        except Refused as refusal:
            self.story[-1] += f" -> {refusal.code}"
        broken = await broken_invariants()
        assert broken == {}, "\n".join([*self.story, str(broken)])

    async def order(self) -> None:
        if not self.bills or self.chance.random() < 0.2:
            shares = {"treasury": 100, "non_tax": 7}
            self.bills.append((await make_bill(self.city.person_id, shares)).id)
        bill_id = self.chance.choice(self.bills)
        (bill,) = await rows("select version, total_fen from bill where id = $1", bill_id)
        order = await api.start_order(
            person_id=self.city.person_id,
            bills=[api.BillChoice(bill_id, bill["version"])],
            expected_fen=bill["total_fen"],
            settings=self.city.services.settings,
            now=self.now,
        )
        self.orders.append(order.id)

    async def attempt(self) -> None:
        order = await self._an_order()
        scene = self.chance.choice(
            [(Channel.WECHAT_PAY, Scene.NATIVE), (Channel.ALIPAY, Scene.PRECREATE)]
        )
        if order:
            await self.city.attempt(order, *scene, now=self.now)

    async def pay(self) -> None:
        channel, number = self._a_trade()
        ended = (ChannelState.CLOSED, ChannelState.PAID)
        if number and channel.trades[number].state not in ended:
            wrong = self.chance.random() < 0.1
            channel.pay(number, amount_fen=1 if wrong else None, at=self.now)

    async def callback(self) -> None:
        channel, number = self._a_trade()
        if number and channel.trades[number].state is ChannelState.PAID:
            report = channel.report(number)
            item = api.from_notice(
                channel.notice(report), channel=channel.channel, account_id=channel.account_id
            )
            await api.settle_batch([item] * self.chance.choice([1, 1, 2]), now=self.now)

    async def query(self) -> None:
        await jobs.query_silent_attempts(self.city.services, now=self.now)

    async def close(self) -> None:
        await jobs.close_due_orders(self.city.services, now=self.now)

    async def cancel(self) -> None:
        if order := await self._an_order():
            await api.cancel_order(
                person_id=self.city.person_id,
                order_id=order.id,
                services=self.city.services,
                now=self.now,
            )

    async def refresh(self) -> None:
        if order := await self._an_order():
            await api.refresh_order(
                person_id=self.city.person_id,
                order_id=order.id,
                services=self.city.services,
                now=self.now,
            )

    async def revise(self) -> None:
        if self.bills and self.chance.random() < 0.3:
            bill_id = self.chance.choice(self.bills)
            await rows(
                """with revised as (update bill set version = version + 1, state = $1
                                   where state = 'payable' and id = $2 returning id, version)
                   update bill_item i set version = r.version from revised r
                   where i.bill_id = r.id""",
                self.chance.choice(["payable", "payable", "withdrawn"]),
                bill_id,
            )

    async def trouble(self) -> None:
        channel = self.chance.choice([self.city.wechat, self.city.alipay])
        channel.trouble = self.chance.choice([{}, {}, {"query": UNKNOWN}, {"open": UNKNOWN}])

    async def wait(self) -> None:
        self.minutes += self.chance.choice([0.1, 0.5, 3, 8, 16, 30])

    async def peace(self) -> None:
        """Channels answer again and time goes on: every success must have found its end."""
        self.city.wechat.trouble = self.city.alipay.trouble = {}
        for _ in range(8):
            self.minutes += 15
            await self.query()
            await self.close()

    @property
    def now(self) -> datetime:
        return later(minutes=self.minutes)

    async def _an_order(self) -> api.OrderView | None:
        if not self.orders:
            return None
        return await api.order_of(self.city.person_id, self.chance.choice(self.orders[-3:]))

    def _a_trade(self) -> tuple[FakeChannel, str | None]:
        channel = self.chance.choice([self.city.wechat, self.city.alipay])
        numbers = list(channel.trades)
        return channel, self.chance.choice(numbers) if numbers else None


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_success_ends_applied_or_with_an_owner(database: str, seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        await world.step()

    await world.peace()

    assert await broken_invariants() == {}
    assert await count("pay_order", "state = 'open'") == 0
    successes = 0
    for channel in (world.city.wechat, world.city.alipay):
        for number, trade in channel.trades.items():
            if trade.state is ChannelState.PAID:
                successes += 1
                ends = await rows(
                    """select (select count(*) from ledger_transfer t where t.our_no = $1
                               and t.kind = 'payment') as applied,
                              (select count(*) from incident i where i.out_trade_no = $1
                               and i.amount_fen > 0) as incidents,
                              (select state from pay_attempt where out_trade_no = $1) as state""",
                    number,
                )
                told = "\n".join([*world.story, number, str(ends)])
                watched_no_more = ends[0]["state"] in ("closed", "refused")
                assert ends[0]["applied"] + ends[0]["incidents"] == 1 or watched_no_more, told
    paid = await count("pay_order", f"state = '{OrderState.PAID}'")
    assert paid <= successes
