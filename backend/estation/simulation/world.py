"""One world: a citizen, the centre that issues bills, two wallets, and a clerk; a story by seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Protocol
from uuid import UUID, uuid5

from estation.fees import actions as fees
from estation.fees.api import BillView, bill_of
from estation.outside.gate.rows import FeeBillRow, FeeItemRow, PartyRow
from estation.outside.pay_channels import Channel, ChannelState, Scene, VerifiedNotice
from estation.payments import api
from estation.payments.api import BillChoice, OrderState, OrderView, RefundState
from estation.services import Services
from estation.shared.clock import BEIJING
from estation.shared.errors import Refused
from estation.shared.transactions import in_transaction
from estation.simulation import desk
from estation.simulation.channels import SimChannel, SimTrade
from estation.simulation.hazards import Crash, CrashPlan, Weather, crash_at

PEOPLE: Final = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
SOURCE: Final = "jc-center"
REGION: Final = "360101"

EVENTS: Final[Mapping[str, Mapping[str, int]]] = {
    "no order": {
        "start_order": 10, "new_bill": 2, "revise": 1, "withdraw": 1, "replay_old_news": 1,
        "pay_old_code": 2, "look": 1, "ask_refund": 3, "decide_refund": 3, "centre_refund": 1,
        "redirect_refund": 1, "settle_outside": 1,
    },
    "no code": {"choose_wallet": 10, "cancel": 1, "look": 1, "revise": 1, "pay_old_code": 2},
    "a code": {
        "pay": 12, "choose_wallet": 4, "pay_old_code": 3, "look": 3, "hesitate": 3, "cancel": 2,
        "revise": 1, "withdraw": 1, "nothing": 2, "replay_old_news": 1, "ask_refund": 1,
        "decide_refund": 1,
    },
}  # fmt: skip
"""What may happen next, by what the citizen has before him, and how often."""

WALLETS: Final = (
    (Channel.WECHAT_PAY, Scene.NATIVE),
    (Channel.WECHAT_PAY, Scene.JSAPI),
    (Channel.ALIPAY, Scene.PRECREATE),
    (Channel.ALIPAY, Scene.WAP),
)


@dataclass(slots=True)
class CentreBill:
    """A bill as the centre knows it: versions it issued, and what they came to."""

    source_id: str
    version: int
    shares: dict[str, int]
    state: str

    @property
    def total_fen(self) -> int:
        return sum(self.shares.values())


@dataclass(frozen=True, slots=True)
class Letter:
    """A notice on its way to our door."""

    world: "World"
    channel: Channel
    account_id: str
    notice: VerifiedNotice
    due_at: datetime
    tries: int = 0


class Surroundings(Protocol):
    """What a world needs of its city."""

    services: Services
    channels: dict[str, SimChannel]

    def now(self) -> datetime: ...

    def elapsed(self) -> str: ...

    def post(self, letter: Letter) -> None: ...

    async def payable_bills(self, person_id: UUID) -> list[BillView]: ...


class World:
    """Owns its trades at the channels; every draw comes from its own seed."""

    def __init__(self, number: int, seed: int, city: "Surroundings") -> None:
        self.number = number
        self.chance = random.Random(f"{seed}:{number}")
        self.weather = Weather(random.Random(f"weather:{seed}:{number}"))
        self.city = city
        self.person_id = uuid5(PEOPLE, f"{seed}:{number}")
        self.story: list[str] = []
        self.bills: list[CentreBill] = []
        self.orders: list[UUID] = []
        self.numbers: list[str] = []  # out_trade_nos the citizen ever saw a code of
        self.heard: list[Letter] = []
        self.steps = 0
        self.centre_refunds = 0
        self.phase = "no order"

    async def step(self) -> None:
        """One event, perhaps with our program killed in the middle of it."""
        events = EVENTS[self.phase]
        (event,) = self.chance.choices(list(events), weights=list(events.values()))
        self.steps += 1
        self.tell(event)
        plan = self._crash_plan()
        token = crash_at.set(plan)
        try:
            await getattr(self, event)()
        except Refused as refusal:
            self.story[-1] += f" -> {refusal.code}"
            if refusal.code in ("order_not_open", "bill_changed", "bill_not_payable"):
                self.phase = "no order"
        except Crash as crash:
            self.story[-1] += f" -> killed {crash}"
            self.weather.note(f"crash_{'after' if plan and plan.after else 'before'}_commit")
        finally:
            crash_at.reset(token)

    def tell(self, words: str) -> None:
        self.story.append(f"{self.city.elapsed()} {words}")

    def hear(self, channel: Channel, account_id: str, notice: VerifiedNotice) -> None:
        """The channel sends news: lost, doubled, late, or in time."""
        now = self.city.now()
        if self.weather.strikes("notice_dropped"):
            self.story.append(f"{self.city.elapsed()}   news lost: {notice.kind}")
            return
        for _ in range(2 if self.weather.strikes("notice_doubled") else 1):
            letter = Letter(self, channel, account_id, notice, now + self._delay())
            self.heard.append(letter)
            self.city.post(letter)

    def _delay(self) -> timedelta:
        if self.weather.strikes("notice_delayed_25_hours"):
            return timedelta(hours=25)
        if self.weather.strikes("notice_delayed"):
            return timedelta(seconds=self.chance.choice([5, 40, 300, 1200, 7200]))
        return timedelta()

    def _crash_plan(self) -> CrashPlan | None:
        for when in ("before", "after"):
            if not self.weather.is_calm and self.chance.random() < 0.03:
                return CrashPlan(self.chance.choice([1, 1, 2, 3]), after=when == "after")
        return None

    # What the centre does.

    async def new_bill(self) -> None:
        number = len(self.bills) + 1
        bill = CentreBill(f"w{self.number}-{number}", 0, {}, "issued")
        self.bills.append(bill)
        await self._issue(bill, "issued")

    async def revise(self) -> None:
        if bill := self._some_bill():
            await self._issue(bill, "issued")

    async def withdraw(self) -> None:
        if bill := self._some_bill():
            await self._issue(bill, "withdrawn")

    async def _issue(self, bill: CentreBill, state: str) -> None:
        """The centre knows nothing of payments yet: it may revise what is being paid."""
        if bill.version:
            self.weather.note(f"bill_{'revised' if state == 'issued' else state}")
        bill.version += 1
        bill.state = state
        payees = self.chance.sample(["treasury", "non_tax", "maintenance_fund"], k=2)
        bill.shares = {payee: self.chance.randint(1, 2_000_000) for payee in payees}
        row = bill_row(bill, self.number, self.city.now())
        async with in_transaction() as db:
            await fees.merge_bills(
                db, [fees.IncomingBill(row, self.person_id)], data_as_of=self.city.now()
            )

    # What the citizen does.

    async def start_order(self) -> None:
        if not self.bills:
            await self.new_bill()
        shown = await self.city.payable_bills(self.person_id)
        if not shown:
            return
        chosen = self.chance.sample(shown, k=min(len(shown), self.chance.choice([1, 1, 1, 2, 3])))
        order = await api.start_order(
            person_id=self.person_id,
            bills=[BillChoice(bill.id, bill.version) for bill in chosen],
            expected_fen=sum(bill.total_fen for bill in chosen),
            settings=self.city.services.settings,
            now=self.city.now(),
        )
        self.orders.append(order.id)
        self.phase = "no code"
        if self.chance.random() < 0.5:
            await self.choose_wallet()

    async def choose_wallet(self) -> None:
        if not self.orders:
            await self.start_order()
        if not self.orders:
            return
        channel, scene = self.chance.choice(WALLETS)
        self.story[-1] += f" {channel} {scene}"
        attempt = await api.open_attempt(
            person_id=self.person_id,
            order_id=self.orders[-1],
            channel=channel,
            scene=scene,
            services=self.city.services,
            payer_ip="127.0.0.1",
            openid="openid-of-the-city",
            now=self.city.now(),
        )
        if attempt.out_trade_no not in self.numbers:
            self.numbers.append(attempt.out_trade_no)
        self.phase = "a code"

    async def pay(self) -> None:
        """The newest code on the screen."""
        if self._pay(self.numbers[-1:]) and self.chance.random() < 0.6:
            self.phase = "no order"  # the others keep the paid order's page open and try more

    async def pay_old_code(self) -> None:
        """A code seen earlier: a printed one, another tab, the other wallet."""
        if self._pay(self.chance.sample(self.numbers, k=min(1, len(self.numbers)))):
            self.weather.note("paid_an_old_code")

    def _pay(self, numbers: Sequence[str]) -> bool:
        for channel in self.city.channels.values():
            for number in numbers:
                if number in channel.trades and channel.may_be_paid(number):
                    self._pay_at(channel, number)
                    return True
        return False

    def _pay_at(self, channel: SimChannel, number: str) -> None:
        amount = channel.trades[number].request.amount_fen
        if self.weather.strikes("wrong_amount"):
            amount = max(1, amount + self.chance.choice([-1, 1]))
        at = self.city.now()
        if self.weather.strikes("channel_clock_ahead"):
            at += timedelta(minutes=4)
        elif self.weather.strikes("channel_clock_behind"):
            at -= timedelta(minutes=4)
        channel.pay(number, amount_fen=amount, at=at)
        self.story[-1] += f" {self.name_of(number)} {amount}"

    async def cancel(self) -> None:
        if self.orders:
            self.phase = "no order"
            await api.cancel_order(
                person_id=self.person_id,
                order_id=self.chance.choice(self.orders),
                services=self.city.services,
                now=self.city.now(),
            )

    async def look(self) -> None:
        """The status page: it may ask the channel, and ends what is over."""
        if self.orders:
            await api.refresh_order(
                person_id=self.person_id,
                order_id=self.chance.choice(self.orders),
                services=self.city.services,
                now=self.city.now(),
            )

    async def hesitate(self) -> None:
        """Scanned, and at the password box: the channel will not close now."""
        for trade in self._open_trades():
            if trade.state is ChannelState.NOT_FOUND:
                trade.state = ChannelState.NOT_PAID
            trade.is_busy = self.weather.strikes("payer_at_the_password_box")

    async def replay_old_news(self) -> None:
        """The channel delivers something again that we were told long ago."""
        if self.heard:
            self.city.post(self.chance.choice(self.heard))
            self.weather.note("old_news_replayed")

    # What the staff does about this citizen's money.

    async def ask_refund(self) -> None:
        if order := await self._an_order():
            asked = await desk.ask(order, chance=self.chance, now=self.city.now())
            self.story[-1] += f" {asked}"
            if asked:
                self.weather.note("refund_asked")

    async def decide_refund(self) -> None:
        for asked in (await desk.refunds_in(RefundState.ASKED, self.orders))[:1]:
            self.story[-1] += " " + await desk.decide(
                asked, chance=self.chance, now=self.city.now()
            )

    async def redirect_refund(self) -> None:
        for abnormal in (await desk.refunds_in(RefundState.ABNORMAL, self.orders))[:1]:
            await desk.redirect(abnormal, self.city.services, now=self.city.now())
            self.weather.note("abnormal_refund_redirected")

    async def settle_outside(self) -> None:
        """What no rule gives back by itself waits for the office."""
        mine = [one for one in await api.list_incidents(limit=1000) if one.order_id in self.orders]
        for incident in mine[:1]:
            self.story[-1] += f" {incident.kind}"
            done = await desk.settle_outside(incident, chance=self.chance, now=self.city.now())
            self.story[-1] += f" {done}"
            self.weather.note(f"incident_{done}".replace(" ", "_"))

    async def centre_refund(self) -> None:
        order = await self._an_order()
        if order is None or order.state is not OrderState.PAID:
            return
        bill = await bill_of(self.person_id, self.chance.choice(order.bills).bill_id)
        self.centre_refunds += 1
        amount = await desk.centre_orders(
            order, bill, number=self.centre_refunds, chance=self.chance, now=self.city.now()
        )
        self.story[-1] += f" {amount}"
        self.weather.note("refund_ordered_by_the_centre")

    async def _an_order(self) -> OrderView | None:
        if not self.orders:
            return None
        return await api.order_of(self.person_id, self.chance.choice(self.orders))

    async def nothing(self) -> None:
        """Time passes."""

    def name_of(self, number: str) -> str:
        """Numbers are long: the story calls them by their order of appearance."""
        return f"A{self.numbers.index(number) + 1}" if number in self.numbers else number

    def bill_numbers(self) -> list[str]:
        return [f"B{bill.source_id}" for bill in self.bills]

    def _open_trades(self) -> list[SimTrade]:
        return [
            channel.trades[number]
            for channel in self.city.channels.values()
            for number in self.numbers[-1:]
            if number in channel.trades
            and channel.trades[number].state in (ChannelState.NOT_FOUND, ChannelState.NOT_PAID)
        ]

    def _some_bill(self) -> CentreBill | None:
        return self.chance.choice(self.bills) if self.bills else None


def bill_row(bill: CentreBill, world: int, now: datetime) -> FeeBillRow:
    return FeeBillRow(
        source=SOURCE,
        source_id=bill.source_id,
        version=bill.version,
        region=REGION,
        bill_no=f"B{bill.source_id}"[:32],
        case_source_id=f"case-{world}",
        title="存量房买卖税费",
        payer=PartyRow(role="buyer", name="林晓舟", id_type="1", id_no="sim", phone="13800000001"),
        state="withdrawn" if bill.state == "withdrawn" else "issued",
        issued_at=now,
        due_on=date(2030, 1, 1) if now.astimezone(BEIJING).year < 2030 else None,
        total_fen=bill.total_fen,
        items=[
            FeeItemRow(
                seq=seq, code="deed_tax", name="契税", payee_code=payee, base_fen=None, rate="",
                relief_fen=0, amount_fen=amount_fen, formula="", legal_basis="",
            )
            for seq, (payee, amount_fen) in enumerate(bill.shares.items(), start=1)
        ],
    )  # fmt: skip
