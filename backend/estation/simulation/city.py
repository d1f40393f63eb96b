"""A cohort of worlds in one database: one clock, one doorbell, one janitor.

The invariants are looked at after every step of a world, every delivery of news and every job
that committed anything; one that committed nothing left the rows as they were found good.

Worlds of a cohort never touch each other's money; they share what a real city shares, so that a
batch of news holds several citizens' payments and a killed program hits them all.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, time, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

from estation import worker
from estation.fees.api import BillView, bills_of
from estation.ledger.api import seal
from estation.outside.gate.models import GatePeer, GatePeerSource
from estation.outside.pay_channels import Channel
from estation.payments import jobs
from estation.payments.actions.inbox import keep_unhandled
from estation.payments.actions.replaying import settle_again
from estation.payments.api import SettleItem, from_notice, settle_batch
from estation.payments.invariants import broken_invariants
from estation.payments.staff_queries import open_claims
from estation.reconciliation.api import tell_of_late
from estation.services import Services
from estation.shared.clock import BEIJING, beijing_day
from estation.shared.crypto import Vault
from estation.simulation import books, desk
from estation.simulation.bills import COMBINING, OWN_MERCHANTS, SOURCE, settings_of
from estation.simulation.channels import Paid, SimChannel
from estation.simulation.doorman import Doorman
from estation.simulation.finance import Finance
from estation.simulation.hazards import Weather
from estation.simulation.kills import Crash, Fate, Lost, let_the_rest_end
from estation.simulation.statements import BillDesk
from estation.simulation.world import Letter, World

DAWN: Final = datetime(2026, 8, 3, 2, 0, 0, tzinfo=UTC)  # 10:00 in Beijing
STEPS: Final = 30
PEACE_ROUNDS: Final = 40
QUIET_HOURS: Final = 30
MOST_DELIVERIES: Final = 3
BATCH: Final = 64
PAUSES: Final = (1, 1, 2, 3, 5, 5, 10, 20, 20, 30, 60, 60, 120, 180, 300, 960, 960, 960, 2400)


class InvariantBroken(Exception):
    """What did not hold, and the stories of the worlds that may be to blame."""


class City:
    """`run` plays all worlds to their end. Raises InvariantBroken with the story."""

    def __init__(self, seed: int, numbers: Sequence[int], *, steps: int = STEPS) -> None:
        self._chance = random.Random(f"city:{seed}:{numbers[0]}")
        self._now = DAWN
        self._steps = steps
        self._letters: list[tuple[datetime, int, Letter]] = []
        self._order = itertools.count()
        self._acting: World | None = None
        self.weather = Weather(random.Random(f"city weather:{seed}:{numbers[0]}"))
        self.fate = Fate(random.Random(f"fate:{seed}:{numbers[0]}"))
        self.paid: dict[str, Paid] = {}
        self._bill_weather = Weather(random.Random(f"bill weather:{seed}:{numbers[0]}"))
        chance = random.Random(f"finance:{seed}:{numbers[0]}")
        self._bills = BillDesk(self.paid, self.now, self._bill_weather, chance)
        self._doorman = Doorman(self.now)
        self._services = self._open_services()
        self._finance = Finance(self._services["combined"], self._bills, beijing_day(DAWN), chance)
        self.worlds = [World(number, seed, self) for number in numbers]
        self.checks = 0
        self._commits_checked = 0

    def services_of(self, kind: str) -> Services:
        return self._services[kind]

    async def let_in(self, person_id: UUID, weather: Weather) -> None:
        """Raises TooManyRequests."""
        if self._doorman.redis.is_lost:
            weather.note("asked_without_redis")
        await self._doorman.let_in(person_id)

    def now(self) -> datetime:
        return self._now

    def elapsed(self) -> str:
        return str(self._now - DAWN)

    async def payable_bills(self, person_id: UUID) -> list[BillView]:
        """As the citizen's page shows them, in the order they were issued."""
        shown = await bills_of(person_id)
        payable = [bill for bill in shown if bill.state == "payable" and bill.total_fen > 0]
        return sorted(payable, key=lambda bill: bill.bill_no)

    def post(self, letter: Letter) -> None:
        heapq.heappush(self._letters, (letter.due_at, next(self._order), letter))

    async def run(self) -> None:
        await self._open_the_gate()
        quiet_day_at = self._chance.randrange(self._steps)
        for step in range(self._steps):
            if step == quiet_day_at:
                await self._quiet_day()
            self._now += timedelta(seconds=self._chance.choice(PAUSES))
            self._doorman.redis.is_lost = self.weather.strikes("redis_lost")
            for world in self.worlds:
                self._acting = world
                await world.step()
                await self._check()
            self._acting = None
            await self._the_citys_work(at_ease=False)
        await self._peace()

    async def _quiet_day(self) -> None:
        """No citizen does anything for longer than the latest news takes; our programs work on,
        in the same weather."""
        for _ in range(QUIET_HOURS // 2):
            self._now += timedelta(hours=2)
            await self._the_citys_work(at_ease=False)

    async def _open_the_gate(self) -> None:
        """The centre is a peer: receipts and refunds find their stream. Nothing is packed here."""
        gate = self._services["collected"].settings.gate
        await GatePeer(
            name=SOURCE, title=SOURCE, folder="nowhere", stream_in=gate.stream_in,
            stream_out=gate.stream_out, regions=[], late_after_seconds=60, state="active",
            created_at=self._now, changed_at=self._now,
        ).save(force_create=True)  # fmt: skip
        await GatePeerSource(source=SOURCE, peer=SOURCE).save(force_create=True)

    def history(self) -> str:
        """What happened in every world, word for word."""
        return "\n\n".join(map(_told, self.worlds))

    def met(self) -> Counter[str]:
        """Hazards by how often they were met, over all worlds."""
        met = self.weather.met + self._bill_weather.met
        met = sum((world.weather.met for world in self.worlds), met)
        for (_, blow), times in self.fate.blows.items():
            met[f"{blow.replace(' ', '_')}_a_commit"] += times
        return met

    async def _peace(self) -> None:
        """Channels answer, nothing is lost any more, time goes on: every success finds its end."""
        weathers = [world.weather for world in self.worlds]
        for weather in (self.weather, self._bill_weather, *weathers):
            weather.is_calm = True
        self.fate.is_calm = True
        self._doorman.redis.is_lost = False
        for _ in range(PEACE_ROUNDS):
            self._now += timedelta(minutes=12)
            await self._the_citys_work(at_ease=True)
            if not await books.is_anything_unfinished():
                break
        self._now += timedelta(hours=QUIET_HOURS)  # the latest news
        await self._the_citys_work(at_ease=True)
        await self._end_claims()
        await self._close_the_days()
        await self._check(is_end=True)
        await self._close_the_books()
        await self._hear_all_again()
        self.weather.met += await books.odd_money()

    async def _hear_all_again(self) -> None:
        """Everything that ever came, twice more and in any order: not a row of money changes."""
        before = await books.money()
        letters = [letter for world in self.worlds for letter in world.heard]
        for _ in range(2):
            self._chance.shuffle(letters)
            for start in range(0, len(letters), BATCH):
                batch = letters[start : start + BATCH]
                for answer in await settle_again([_item(one) for one in batch], now=self._now):
                    if isinstance(answer, Exception):
                        raise InvariantBroken(self._stories(repr(answer))) from answer
        changed = [table for table, rows in (await books.money()).items() if rows != before[table]]
        if changed:
            raise InvariantBroken(self._stories(f"news heard again changed {', '.join(changed)}"))

    async def _end_claims(self) -> None:
        """The office gets again, or gives up, all that was given back twice."""
        for _ in range(PEACE_ROUNDS):
            claims, _ = await open_claims(limit=1000)
            if not claims:
                return
            for claim in claims:
                if await desk.end_whole_claim(claim, self._services["combined"], now=self._now):
                    self.weather.note("claim_recovered")
            self._now += timedelta(minutes=12)
            await self._the_citys_work(at_ease=True)

    async def _close_the_days(self) -> None:
        """Finance has the last bills of all days, and instructs the payees of all that came."""
        tomorrow = beijing_day(self._now) + timedelta(days=1)
        self._now = datetime.combine(tomorrow, time(12), tzinfo=BEIJING)
        for day in self._finance.days_over(self._now):
            await self._survive(partial(self._finance.reconcile, day, now=self._now))
        for day in self._finance.days_over(self._now):
            await self._survive(partial(self._finance.instruct, day, now=self._now))
        await self._the_citys_work(at_ease=True)

    async def _the_citys_work(self, *, at_ease: bool) -> None:
        """What runs beside the citizens: the channels' deliveries, our worker's jobs, and now and
        then finance's work on a day that is over."""
        for channel in self.channels.values():
            channel.let_refunds_end()
        await self._deliver()
        for job in self._jobs():
            if at_ease or self._chance.random() < 0.6:
                await self._survive(job)
        for day in self._finance.days_over(self._now):
            if self._finance.is_minded():
                await self._survive(partial(self._finance.reconcile, day, now=self._now))
                await self._survive(partial(self._finance.instruct, day, now=self._now))

    def _jobs(self) -> list[Callable[[], Awaitable[object]]]:
        services, now = self._services["combined"], self._now
        return [
            lambda: jobs.redrive_inbox(services, now=now),
            lambda: jobs.query_silent_attempts(services, now=now, limit=500),
            lambda: jobs.close_due_orders(services, now=now, limit=500),
            lambda: jobs.send_refunds(services, now=now, limit=500),
            lambda: jobs.escalate_overdue(now=now),
            lambda: tell_of_late(vault=services.vault, now=now),
            lambda: worker.dispatch_outbox(services, now),
            lambda: seal(now),
            lambda: jobs.release_holds(now=now, limit=500),
        ]

    async def _survive(self, job: Callable[[], Awaitable[object]]) -> None:
        """A job that may be killed at any commit; the next round comes again."""
        try:
            with self.fate.program():
                await job()
        except (Crash, Lost) as blow:
            await self.recover(blow)
        except Exception as failure:
            raise InvariantBroken(self._stories(repr(failure))) from failure
        await self._check()

    async def recover(self, blow: BaseException) -> None:
        """Our program is started again after a kill; a lost connection ended one request."""
        if isinstance(blow, Crash):
            self._doorman.forget()
        await let_the_rest_end()

    async def _deliver(self) -> None:
        """Ring the doorbell with all that is due, in any order, gathered as the desk gathers."""
        due = []
        while self._letters and self._letters[0][0] <= self._now:
            due.append(heapq.heappop(self._letters)[2])
        posted = list(due)
        self._chance.shuffle(due)
        if due != posted:
            self.weather.note("news_out_of_order")
        for start in range(0, len(due), BATCH):
            await self._ring(due[start : start + BATCH])

    async def _ring(self, letters: Sequence[Letter]) -> None:
        try:
            with self.fate.program():
                await self._settle(letters)
        except (Crash, Lost) as blow:
            await self.recover(blow)
            for letter in letters:
                self._come_again(letter)
        await self._check()

    async def _settle(self, letters: Sequence[Letter]) -> None:
        """As the desk does: together, else one by one; what fails alone is kept and said no to."""
        try:
            await settle_batch([_item(letter) for letter in letters], now=self._now)
        except Exception as failure:
            if len(letters) == 1:
                await keep_unhandled(_item(letters[0]), error=failure, now=self._now)
                self._come_again(letters[0])
                return
            for letter in letters:
                await self._settle([letter])

    def _come_again(self, letter: Letter) -> None:
        """No 200 was said: the channel delivers again, a bounded number of times."""
        if letter.tries < MOST_DELIVERIES:
            later = self._now + timedelta(seconds=15 * 4**letter.tries)
            again = Letter(
                letter.world, letter.channel, letter.account_id, letter.notice, later,
                letter.tries + 1,
            )  # fmt: skip
            self.post(again)

    async def _check(self, *, is_end: bool = False) -> None:
        """Raises InvariantBroken. At the end no claim excuses anything any more."""
        if self.fate.commits == self._commits_checked and not is_end:
            return
        self._commits_checked = self.fate.commits
        self.checks += 1
        broken = await broken_invariants()
        if broken and not is_end:
            broken = await books.not_for_a_claim(broken)
        if broken:
            raise InvariantBroken(self._stories(str(broken)))

    async def _close_the_books(self) -> None:
        """Our books against the channels' own memory, to the fen."""
        payees = {
            account: payee for own in OWN_MERCHANTS.values() for payee, account in own.items()
        }
        noes = {number for channel in self.channels.values() for number in channel.noes}
        fees = {account: self._finance.fees_of(account) for account in self.channels}
        faults = await books.faults(self.paid.values(), payees=payees, noes=noes, fees=fees)
        faults += await self._finance.faults(self.paid.values(), now=self._now)
        if faults:
            raise InvariantBroken(self._stories("\n".join(faults)))

    def _stories(self, what: str) -> str:
        """The worlds whose order or trade numbers are named; all when none is."""
        guilty = [
            world
            for world in self.worlds
            if any(number in what for number in [*world.numbers, *world.bill_numbers()])
        ]
        return "\n\n".join([what, *map(_told, (guilty or self.worlds)[:3])])

    def _open_services(self) -> dict[str, Services]:
        """By kind of world. All know all channels, as our worker does."""
        settings = {kind: settings_of(kind) for kind in OWN_MERCHANTS}
        accounts = {
            *settings["collected"].collecting_accounts.values(),
            *(account for own in OWN_MERCHANTS.values() for account in own.values()),
            COMBINING,
        }
        self.channels: dict[str, SimChannel] = {
            account: SimChannel(
                _channel_of(account),
                account,
                self.now,
                self._who,
                self.paid,
                None if account == COMBINING else self._bills,
            )
            for account in sorted(accounts)
        }
        nobody: Any = SimpleNamespace()
        return {
            kind: Services(
                settings=settings[kind],
                clock=self.now,
                vault=Vault(bytes(32)),
                pay_code_keys=tuple,
                receipt_keys=tuple,
                channels=cast("dict[str, Any]", self.channels),
                wechat=nobody,
                sms=nobody,
                redis=cast("Any", self._doorman.redis),
            )
            for kind in OWN_MERCHANTS
        }

    def _who(self) -> World:
        """Who opens a trade: only a citizen does, and only in the citizen's own step."""
        if self._acting is None:
            raise RuntimeError("a trade was opened by nobody")
        return self._acting


def _told(world: World) -> str:
    return "\n".join([f"world {world.number}, {world.kind} ({world.person_id})", *world.story])


def _channel_of(account_id: str) -> Channel:
    return Channel.ALIPAY if account_id.startswith("alipay:") else Channel.WECHAT_PAY


def _item(letter: Letter) -> SettleItem:
    return from_notice(letter.notice, channel=letter.channel, account_id=letter.account_id)
