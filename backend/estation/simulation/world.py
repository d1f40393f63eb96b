"""One world: a citizen, the centre that issues bills, two wallets, and a clerk; a story by seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID, uuid5

from estation.fees import actions as fees
from estation.fees.api import BillView, bill_of
from estation.outside.pay_channels import Channel, ChannelState, RefundStatus, Scene, VerifiedNotice
from estation.payments import api
from estation.payments.api import BillChoice, OrderState, OrderView, RefundState
from estation.services import Services
from estation.shared.errors import Refused
from estation.shared.transactions import in_transaction
from estation.simulation import desk
from estation.simulation.bills import OWN_MERCHANTS, PAYEES, CentreBill, bill_row
from estation.simulation.channels import SimChannel, SimTrade
from estation.simulation.hazards import Weather
from estation.simulation.kills import Crash, Fate, Lost

PEOPLE: Final = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")

EVENTS: Final[Mapping[str, Mapping[str, int]]] = {
    "no order": {
        "start_order": 14, "new_bill": 3, "revise": 1, "withdraw": 1, "replay_old_news": 1,
        "pay_old_code": 2, "look": 1, "ask_refund": 4, "decide_refund": 8, "centre_refund": 1,
        "redirect_refund": 8, "settle_outside": 8, "give_back_suspense": 3, "apply_late_money": 5,
    },
    "no code": {
        "choose_wallet": 12, "pay_at_both_wallets": 4, "cancel": 1, "look": 1, "revise": 1,
        "withdraw": 1, "pay_old_code": 2,
    },
    "a code": {
        "pay": 20, "choose_wallet": 4, "pay_at_both_wallets": 2, "pay_old_code": 3, "look": 3,
        "hesitate": 3, "cancel": 2, "revise": 2, "withdraw": 1, "nothing": 2,
        "replay_old_news": 1, "ask_refund": 1, "decide_refund": 1,
    },
}  # fmt: skip
"""What may happen next, by what the citizen has before him, and how often."""

DUTIES: Final[Mapping[str, int]] = {
    "give_back_another_way": 60, "end_claim": 60, "pay_by_hand": 60,
}  # fmt: skip
"""What the office does beside all that, and how often, once there is cause for it."""

ASK_US: Final = frozenset({"start_order", "choose_wallet", "pay_at_both_wallets", "cancel", "look"})
"""Events in which the citizen's device asks our program for something."""

Wallet = tuple[Channel, Scene]
CODES_OF_WECHAT: Final[tuple[Wallet, ...]] = (
    (Channel.WECHAT_PAY, Scene.NATIVE),
    (Channel.WECHAT_PAY, Scene.JSAPI),
)
CODE_OF_ALIPAY: Final[tuple[Wallet, ...]] = ((Channel.ALIPAY, Scene.PRECREATE),)
WALLETS: Final[tuple[Wallet, ...]] = (
    *CODES_OF_WECHAT * 3,
    *CODE_OF_ALIPAY * 2,
    (Channel.WECHAT_PAY, Scene.H5),
    (Channel.ALIPAY, Scene.WAP),
    (Channel.ALIPAY, Scene.WAP),
    (Channel.ALIPAY, Scene.PAGE),
)


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

    channels: dict[str, SimChannel]
    fate: Fate

    def services_of(self, kind: str) -> Services: ...

    async def let_in(self, person_id: UUID, weather: Weather) -> None: ...

    async def recover(self, blow: BaseException) -> None: ...

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
        (self.kind,) = self.chance.choices(list(OWN_MERCHANTS), weights=(2, 1, 3))
        self.services = city.services_of(self.kind)
        self.story: list[str] = []
        self.bills: list[CentreBill] = []
        self.orders: list[UUID] = []
        self.numbers: list[str] = []  # out_trade_nos the citizen ever saw a code of
        self.paying: list[str] = []  # source ids of the bills in the newest order
        self.codes: list[str] = []  # out_trade_nos of the newest order
        self.heard: list[Letter] = []
        self.steps = 0
        self.centre_refunds = 0
        self.duties: set[str] = set()  # of DUTIES
        self.phase = "no order"

    async def step(self) -> None:
        """One event, perhaps with our program killed in the middle of it."""
        duties = {duty: DUTIES[duty] for duty in sorted(self.duties)}
        events = {**EVENTS[self.phase], **duties}
        (event,) = self.chance.choices(list(events), weights=list(events.values()))
        self.steps += 1
        self.tell(event)
        try:
            with self.city.fate.program():
                if event in ASK_US:
                    await self.city.let_in(self.person_id, self.weather)
                await getattr(self, event)()
        except Refused as refusal:
            self.story[-1] += f" -> {refusal.code}"
            if refusal.code in ("order_not_open", "bill_changed", "bill_not_payable"):
                self.phase = "no order"
        except (Crash, Lost) as blow:
            self.story[-1] += f" -> {blow}"
            await self.city.recover(blow)

    def tell(self, words: str) -> None:
        self.story.append(f"{self.city.elapsed()} {words}")

    def hear(
        self, channel: Channel, account_id: str, notice: VerifiedNotice, *, surely: bool = False
    ) -> None:
        """The channel sends news: lost (unless it comes `surely`), doubled, late, or in time."""
        now = self.city.now()
        if notice.refund and notice.refund.status is RefundStatus.CLOSED:
            self.duties.add("give_back_another_way")
        if not surely and self.weather.strikes("notice_dropped"):
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

    async def _change_meanwhile(self) -> None:
        """The centre changes a bill, most likely one that is being paid."""
        await (self.revise if self.chance.random() < 0.5 else self.withdraw)()

    async def _issue(self, bill: CentreBill, state: str) -> None:
        """The centre knows nothing of payments yet: it may revise what is being paid."""
        if bill.version and self.phase != "no order" and bill.source_id in self.paying:
            word = "revised" if state == "issued" else state
            self.weather.note(f"bill_{word}_while_being_paid")
            if len(self.paying) > 1:
                self.weather.note("one_of_several_bills_changed_while_being_paid")
        bill.version += 1
        bill.state = state
        payees = self.chance.sample(PAYEES, k=self.chance.choice([1, 2, 2, 3]))
        bill.shares = {payee: self.chance.randint(1, 2_000_000) for payee in payees}
        self.story[-1] += f" B{bill.source_id} v{bill.version} {bill.shares}"
        row = bill_row(bill, self.number, self.city.now())
        async with in_transaction() as db:
            await fees.merge_bills(
                db, [fees.IncomingBill(row, self.person_id)], data_as_of=self.city.now()
            )

    # What the citizen does.

    async def start_order(self) -> None:
        for _ in range(0 if self.bills else self.chance.choice([1, 1, 2, 3])):
            await self.new_bill()
        shown = await self.city.payable_bills(self.person_id)
        if not shown:
            return
        chosen = self.chance.sample(shown, k=min(len(shown), self.chance.choice([1, 1, 1, 2, 3])))
        order = await api.start_order(
            person_id=self.person_id,
            bills=[BillChoice(bill.id, bill.version) for bill in chosen],
            expected_fen=sum(bill.total_fen for bill in chosen),
            settings=self.services.settings,
            now=self.city.now(),
        )
        if len(chosen) > 1:
            self.weather.note("several_bills_in_one_order")
        self.orders.append(order.id)
        self.paying = [bill.bill_no.removeprefix("B") for bill in chosen]
        self.codes = []
        self.phase = "no code"
        if self.chance.random() < 0.5:
            await self.choose_wallet()

    async def choose_wallet(self, wallets: Sequence[Wallet] = WALLETS) -> None:
        if not self.orders:
            await self.start_order()
        if not self.orders:
            return
        channel, scene = self.chance.choice(wallets)
        self.story[-1] += f" {channel} {scene}"
        attempt = await api.open_attempt(
            person_id=self.person_id,
            order_id=self.orders[-1],
            channel=channel,
            scene=scene,
            services=self.services,
            payer_ip="127.0.0.1",
            openid="openid-of-the-city",
            now=self.city.now(),
        )
        for seen in (self.numbers, self.codes):
            if attempt.out_trade_no not in seen:
                seen.append(attempt.out_trade_no)
        self.phase = "a code"

    async def pay(self) -> None:
        """The newest code on the screen."""
        if not self._pay(self.numbers[-1:]):
            return
        if self.chance.random() < 0.15:
            await self._change_meanwhile()  # before any news of the payment has come
        if self.chance.random() < 0.6:
            self.phase = "no order"  # the others keep the paid order's page open and try more

    async def pay_old_code(self) -> None:
        """A code seen earlier: a printed one, another tab, the other wallet."""
        if self._pay(self.chance.sample(self.numbers, k=min(1, len(self.numbers)))):
            self.weather.note("paid_an_old_code")

    async def pay_at_both_wallets(self) -> None:
        """Two telephones: Alipay's code taken off the screen unscanned, and then WeChat's; both
        are paid before any news of it arrives."""
        await self.choose_wallet(CODE_OF_ALIPAY)
        if not self.orders:
            return
        await self.choose_wallet(CODES_OF_WECHAT)
        if self.chance.random() < 0.4:
            await self._change_meanwhile()
        paid = [number for number in self.codes if self._pay([number])]
        if len(paid) > 1:
            self.weather.note("both_wallets_at_once")
        if paid:
            self.phase = "no order"

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
                services=self.services,
                now=self.city.now(),
            )

    async def look(self) -> None:
        """The status page: it may ask the channel, and ends what is over."""
        if self.orders:
            await api.refresh_order(
                person_id=self.person_id,
                order_id=self.chance.choice(self.orders),
                services=self.services,
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
            await desk.redirect(abnormal, self.services, now=self.city.now())
            self.weather.note("abnormal_refund_redirected")
            self.duties.add("pay_by_hand")

    async def settle_outside(self) -> None:
        """What no rule gives back by itself waits for the office."""
        mine = [one for one in await api.list_incidents(limit=1000) if one.order_id in self.orders]
        for incident in mine[:1]:
            self.story[-1] += f" {incident.kind}"
            done = await desk.settle_outside(incident, chance=self.chance, now=self.city.now())
            self.story[-1] += f" {done}"
            self.weather.note(f"incident_{done}".replace(" ", "_"))

    async def give_back_another_way(self) -> None:
        """The office answers a refund that came to nothing; and then it had not."""
        refund = await desk.give_back_another_way(self.orders, now=self.city.now())
        if refund is None:
            return
        self.weather.note("closed_refund_given_back_another_way")
        closed = self.city.channels[refund.account_id].closed_refund(
            refund.refund_no, out_trade_no=refund.out_trade_no
        )
        if closed and self.weather.strikes("given_back_another_way_and_after_all"):
            later = timedelta(minutes=self.chance.choice([1, 1, 5, 30]))
            self.duties.add("end_claim")
            closed.after_all_at = self.city.now() + later
            self.story[-1] += f" after all in {later}"

    async def end_claim(self) -> None:
        """What was given back twice is got again, or given up."""
        for claim in (await desk.claims_of(self.orders))[:1]:
            done = await desk.end_claim(claim, chance=self.chance, now=self.city.now())
            self.story[-1] += f" {done}"
            self.weather.note(done)

    async def pay_by_hand(self) -> None:
        if await desk.pay_by_hand(self.orders, chance=self.chance, now=self.city.now()):
            self.weather.note("redirected_refund_paid_by_hand")

    async def give_back_suspense(self) -> None:
        amount = await desk.give_back_suspense(self.orders, chance=self.chance, now=self.city.now())
        if amount:
            self.story[-1] += f" {amount}"
            self.weather.note("suspense_refund_asked")

    async def apply_late_money(self) -> None:
        if await desk.apply_late_money(self.orders, chance=self.chance, now=self.city.now()):
            self.weather.note("late_money_applied")

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
        """Any bill, though the trouble is with those that are being paid."""
        being_paid = [bill for bill in self.bills if bill.source_id in self.paying]
        if being_paid and self.chance.random() < 0.7:
            return self.chance.choice(being_paid)
        return self.chance.choice(self.bills) if self.bills else None
