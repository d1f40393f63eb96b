"""Every ordering of a payment's events ends in the same money.

The events of one order are played in every order there is, up to all eight of them. Histories
that meet in the same state (rows, channel, time, what is still to come) go on alike, so each
state is explored once and counted for all the histories that lead there. After every history
peace is made, and the books must be the channel's.
"""

import contextlib
import copy
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID, uuid4

import orjson
from tortoise import Tortoise

from estation.fees import actions as fees
from estation.fees.api import bills_of
from estation.ledger.api import seal
from estation.outside.pay_channels import (
    Channel,
    RefundStatus,
    Scene,
    VerifiedNotice,
)
from estation.payments import api, jobs
from estation.payments.actions.refunds import send
from estation.payments.api import BillChoice, RefundState
from estation.payments.invariants import broken_invariants
from estation.services import Services
from estation.shared.errors import Refused
from estation.shared.transactions import in_transaction
from estation.simulation import books, desk
from estation.simulation.bills import (
    COMBINING,
    OWN_MERCHANTS,
    CentreBill,
    bill_row,
    settings_of,
)
from estation.simulation.channels import Paid, SimChannel, SimTrade
from estation.simulation.city import DAWN
from estation.simulation.hazards import Weather

EVENTS: Final[Mapping[str, int]] = {
    "pay": 1,
    "callback": 2,
    "query": 1,
    "close": 1,
    "expire": 1,
    "refund": 1,
    "refund_notice": 1,
}
"""What happens to the order, and how often."""


@dataclass(frozen=True, slots=True)
class Family:
    """Orders that are paid the same way. `merchants`: a kind of OWN_MERCHANTS."""

    channel: Channel
    scene: Scene
    merchants: str = "collected"


FAMILIES: Final[Mapping[str, Family]] = {
    "wechat_pay": Family(Channel.WECHAT_PAY, Scene.NATIVE),
    "alipay": Family(Channel.ALIPAY, Scene.PRECREATE),
    "combined": Family(Channel.WECHAT_PAY, Scene.NATIVE, "partly combined"),
}
"""WeChat's code is void once it is closed; Alipay's, which knows no trade before it is scanned,
cannot be closed and is paid after the end of its order; a combined order (合单) pays two payees
at their own merchants, and is given back at each."""

SHARES: Final = {"treasury": 817_524, "non_tax": 8_000}
AFTER_THE_END: Final = timedelta(minutes=16)
PEACE_ROUNDS: Final = 4

_STATE: Final = """
select json_build_array(
    (select json_agg(json_build_array(state, close_reason)) from pay_order),
    (select json_agg(json_build_array(state, paid_fen, close_reason, next_query_at, queries))
     from pay_attempt),
    (select json_agg(json_build_array(kind, outcome, handled_at is null, tries) order by kind)
     from pay_notice),
    (select json_agg(json_build_array(kind, state, amount_fen) order by kind, state) from incident),
    (select json_agg(json_build_array(t.kind, e.account, e.debit_fen, e.credit_fen)
                     order by t.kind, e.account)
     from ledger_transfer t join ledger_entry e on e.transfer_id = t.id),
    (select json_agg(json_build_array(state, version, paid_version)) from bill),
    (select json_agg(json_build_array(state, cause, amount_fen, tries, next_try_at)
                     order by state, amount_fen) from pay_refund),
    (select json_agg(json_build_array(topic, sent_at is null, body->>'state')
                     order by topic, body->>'state') from outbox_message))::text as state
"""


class WrongMoney(Exception):
    """A history that ended in other money; the text tells it."""


class _Undo(Exception):
    """Leaves a savepoint without keeping anything."""


@dataclass(slots=True)
class Explored:
    """`histories`: orderings of every length up to the longest; `outcomes`: the ends they met."""

    histories: int = 0
    complete: int = 0
    states: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


async def explore(*, length: int = sum(EVENTS.values()), family: str = "wechat_pay") -> Explored:
    """Play every ordering of up to `length` events of an order of this family in the open
    database, leaving it as it was.

    Raises WrongMoney telling the first history whose end is wrong.
    """
    found = Explored()
    try:
        async with in_transaction():
            await _Desk(found, FAMILIES[family]).begin(Counter(dict(EVENTS)), length)
            raise _Undo
    except _Undo:
        return found


class _Calm:
    """Owner of the one trade: nothing is lost here by chance, only by the order of events."""

    def __init__(self) -> None:
        self.weather = Weather(random.Random(0))
        self.weather.is_calm = True
        self.heard: list[VerifiedNotice] = []

    def hear(
        self, channel: Channel, account_id: str, notice: VerifiedNotice, *, surely: bool = False
    ) -> None:
        """News waits until the history delivers it."""


class _Desk:
    def __init__(self, found: Explored, family: Family) -> None:
        self._found = found
        self._family = family
        self._now = DAWN
        self._known: dict[str, tuple[int, int]] = {}
        self._money: dict[str, str] = {}
        self._calm = _Calm()
        self._person = uuid4()
        self._order: UUID = self._person
        settings = settings_of(family.merchants)
        self._payees = {
            merchant: payee for payee, merchant in OWN_MERCHANTS[family.merchants].items()
        }
        asked = COMBINING if self._payees else settings.collecting_accounts[family.channel]
        paid: dict[str, Paid] = {}
        self._channels = {
            account: SimChannel(
                family.channel, account, lambda: self._now, lambda: self._calm, paid
            )
            for account in (asked, *self._payees)
        }
        self._channel = self._channels[asked]
        nobody: Any = SimpleNamespace()
        self._services = Services(
            settings=settings,
            clock=lambda: self._now,
            vault=nobody,
            pay_code_keys=tuple,
            receipt_keys=tuple,
            channels=cast("dict[str, Any]", self._channels),
            wechat=nobody,
            sms=nobody,
            redis=None,
        )

    async def begin(self, events: Counter[str], length: int) -> None:
        """A bill, an order, an open code; then everything that may follow."""
        bill = CentreBill("orderings-1", 1, SHARES, "issued")
        async with in_transaction() as db:
            row = bill_row(bill, 0, self._now)
            await fees.merge_bills(db, [fees.IncomingBill(row, self._person)], data_as_of=self._now)
        (shown,) = await bills_of(self._person)
        order = await api.start_order(
            person_id=self._person,
            bills=[BillChoice(shown.id, shown.version)],
            expected_fen=shown.total_fen,
            settings=self._services.settings,
            now=self._now,
        )
        self._order = order.id
        attempt = await api.open_attempt(
            person_id=self._person, order_id=order.id, channel=self._family.channel,
            scene=self._family.scene, services=self._services, payer_ip=None, openid=None,
            now=self._now,
        )  # fmt: skip
        self._number = attempt.out_trade_no
        self._now += timedelta(seconds=20)
        self._found.histories, self._found.complete = await self._explore(events, length, ())
        self._found.states = len(self._known)

    async def _explore(
        self, left: Counter[str], length: int, story: tuple[str, ...]
    ) -> tuple[int, int]:
        """How many histories (and complete ones) begin here, the one that ends here included."""
        state = await self._state(left, length)
        if state in self._known:
            return self._known[state]
        await self._make_peace(story)
        histories, complete = 1, 1 if length == 0 or not left.total() else 0
        if length:
            for event in sorted(event for event, times in left.items() if times):
                async with self._undone():
                    await self._play(event, story)
                    below = await self._explore(
                        left - Counter([event]), length - 1, (*story, event)
                    )
                histories, complete = histories + below[0], complete + below[1]
        self._known[state] = histories, complete
        return histories, complete

    async def _play(self, event: str, story: tuple[str, ...]) -> None:
        events: dict[str, Callable[[], Awaitable[None]]] = {
            "pay": self._pay,
            "callback": self._callback,
            "query": self._look,
            "close": self._cancel,
            "expire": self._expire,
            "refund": self._refund,
            "refund_notice": self._refund_notice,
        }
        with contextlib.suppress(Refused):  # a clear no is an answer; what counts is the money
            await events[event]()
        broken = await broken_invariants()
        if broken:
            raise WrongMoney(f"{' '.join((*story, event))}: {broken}")

    async def _pay(self) -> None:
        if self._channel.may_be_paid(self._number):
            amount = self._channel.trades[self._number].request.amount_fen
            self._channel.pay(self._number, amount_fen=amount, at=self._now)

    async def _callback(self) -> None:
        if self._channel.trades[self._number].paid:
            await self._settle(self._channel.payment_notice(self._number), at=self._channel)

    async def _settle(self, notice: VerifiedNotice, *, at: SimChannel) -> None:
        item = api.from_notice(notice, channel=at.channel, account_id=at.account_id)
        await api.settle_batch([item], now=self._now)

    async def _look(self) -> None:
        await api.refresh_order(
            person_id=self._person, order_id=self._order, services=self._services, now=self._now
        )

    async def _cancel(self) -> None:
        await api.cancel_order(
            person_id=self._person, order_id=self._order, services=self._services, now=self._now
        )

    async def _expire(self) -> None:
        self._now += AFTER_THE_END
        await jobs.query_silent_attempts(self._services, now=self._now)
        await jobs.close_due_orders(self._services, now=self._now)

    async def _refund(self) -> None:
        order = await api.order_of(self._person, self._order)
        left = sum(one.refundable_fen for one in await api.refundable_of(order_id=order.id))
        await api.ask_refund(
            order_id=order.id, amount_fen=left, believed_refundable_fen=left,
            reason="登记撤回", by=desk.MAKER, now=self._now,
        )  # fmt: skip
        for asked in await desk.refunds_in(RefundState.ASKED, [order.id]):
            await api.approve_refund(request_id=asked.request_id, by=desk.CHECKER, now=self._now)
        await self._send_refunds()

    async def _refund_notice(self) -> None:
        trade = self._channel.trades[self._number]
        for paid in trade.paid:
            for refund in paid.refunds.values():
                refund.status, refund.at = RefundStatus.SUCCESS, self._now
                there = self._channels[paid.account_id]
                await self._settle(there.refund_notice(trade, paid, refund), at=there)

    async def _send_refunds(self) -> None:
        """As `jobs.send_refunds`, account after account: a history has one connection."""
        now = self._now
        for account_id in await send.accounts_due(now):
            await send.send_account(account_id, self._services, clock=lambda: now, limit=32)

    async def _make_peace(self, story: tuple[str, ...]) -> None:
        """No more news, only our own janitor and time: the end must follow from the channel."""
        async with self._undone():
            for _ in range(PEACE_ROUNDS):
                self._now += AFTER_THE_END
                await jobs.query_silent_attempts(self._services, now=self._now)
                await jobs.close_due_orders(self._services, now=self._now)
                await self._send_refunds()
                self._channel.let_refunds_end()
            await seal(self._now)
            await jobs.release_holds(now=self._now)
            successes = list(self._channel.paid.values())
            noes = {number for channel in self._channels.values() for number in channel.noes}
            faults = await books.faults(successes, payees=self._payees, noes=noes)
            faults += [str(broken)] if (broken := await broken_invariants()) else []
            given_back = any(paid.given_back_fen() for paid in successes)
            end = "refunded" if given_back else "paid" if successes else "nothing"
            money = await _balances()
            if faults or self._money.setdefault(end, money) != money:
                raise WrongMoney(f"{' '.join(story)}: {end}: {faults or (money, self._money[end])}")
            self._found.outcomes[end] += 1

    @asynccontextmanager
    async def _undone(self) -> AsyncIterator[None]:
        """Database, channel and clock are afterwards as before."""
        now, trades, paid = self._now, self._channel.trades, self._channel.paid
        memo: dict[int, Any] = {id(self._calm): self._calm}
        self._put_back(*copy.deepcopy((trades, paid), memo))
        try:
            async with in_transaction():
                yield
                raise _Undo
        except _Undo:
            pass
        finally:
            self._now = now
            self._put_back(trades, paid)

    def _put_back(self, trades: dict[str, SimTrade], paid: dict[str, Paid]) -> None:
        """What was asked at one account, and what it brought to each."""
        self._channel.trades = trades
        for channel in self._channels.values():
            channel.paid = paid

    async def _state(self, left: Counter[str], length: int) -> str:
        (row,) = await _rows(_STATE)
        trade = self._channel.trades[self._number]
        told = [
            row["state"], str(trade.state), [
                [paid.amount_fen, sorted(str(r.status) for r in paid.refunds.values())]
                for paid in trade.paid
            ], self._now.isoformat(), sorted(left.items()), length,
        ]  # fmt: skip
        return hashlib.sha256(orjson.dumps(told)).hexdigest()


async def _balances() -> str:
    rows = await _rows(
        """select account, (sum(debit_fen) - sum(credit_fen))::bigint as fen from ledger_entry
           group by account having sum(debit_fen) <> sum(credit_fen) order by account"""
    )
    return orjson.dumps(rows).decode()


async def _rows(sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(sql)
    return found


def orders_of_length(events: Mapping[str, int], length: int) -> int:
    """How many different sequences of exactly `length` of these events there are."""
    ways = {0: 1}
    for times in events.values():
        ways = {
            total: sum(
                ways[total - used] * _choose(total, used)
                for used in range(min(times, total) + 1)
                if total - used in ways
            )
            for total in range(length + 1)
        }
    return ways[length]


def _choose(total: int, used: int) -> int:
    result = 1
    for step in range(used):
        result = result * (total - step) // (step + 1)
    return result
