"""A cohort of worlds in one database: one clock, one doorbell, one janitor, invariants each step.

Worlds of a cohort never touch each other's money; they share what a real city shares, so that a
batch of news holds several citizens' payments and a killed program hits them all.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
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
from estation.payments.api import SettleItem, from_notice, settle_batch
from estation.payments.invariants import broken_invariants
from estation.services import Services
from estation.settings import Settings
from estation.simulation import books
from estation.simulation.channels import Paid, SimChannel
from estation.simulation.hazards import Crash, CrashPlan, Weather, crash_at
from estation.simulation.world import SOURCE, Letter, World

DAWN: Final = datetime(2026, 8, 3, 2, 0, 0, tzinfo=UTC)  # 10:00 in Beijing
STEPS: Final = 30
PEACE_ROUNDS: Final = 40
MOST_DELIVERIES: Final = 3
BATCH: Final = 64
PAUSES: Final = (1, 1, 2, 3, 5, 5, 10, 20, 20, 30, 60, 60, 120, 180, 300, 960, 2400)


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
        self.paid: dict[str, Paid] = {}
        self.services = self._services()
        self.worlds = [World(number, seed, self) for number in numbers]
        self.checks = 0

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
        for _ in range(self._steps):
            self._now += timedelta(seconds=self._chance.choice(PAUSES))
            for world in self.worlds:
                self._acting = world
                await world.step()
            self._acting = None
            await self._the_citys_work(at_ease=False)
            await self._check()
        await self._peace()

    async def _open_the_gate(self) -> None:
        """The centre is a peer: receipts and refunds find their stream. Nothing is packed here."""
        gate = self.services.settings.gate
        await GatePeer(
            name=SOURCE, title=SOURCE, folder="nowhere", stream_in=gate.stream_in,
            stream_out=gate.stream_out, regions=[], late_after_seconds=60, state="active",
            created_at=self._now, changed_at=self._now,
        ).save(force_create=True)  # fmt: skip
        await GatePeerSource(source=SOURCE, peer=SOURCE).save(force_create=True)

    def met(self) -> Counter[str]:
        """Hazards by how often they were met, over all worlds."""
        return sum((world.weather.met for world in self.worlds), self.weather.met.copy())

    async def _peace(self) -> None:
        """Channels answer, nothing is lost any more, time goes on: every success finds its end."""
        for weather in (self.weather, *(world.weather for world in self.worlds)):
            weather.is_calm = True
        for _ in range(PEACE_ROUNDS):
            self._now += timedelta(minutes=12)
            await self._the_citys_work(at_ease=True)
            if not await books.is_anything_unfinished():
                break
        self._now += timedelta(hours=26)  # the latest news
        await self._the_citys_work(at_ease=True)
        await self._check()
        await self._close_the_books()

    async def _the_citys_work(self, *, at_ease: bool) -> None:
        """What runs beside the citizens: the channels' deliveries and our worker's jobs."""
        for channel in self.channels.values():
            channel.let_refunds_end()
        await self._deliver()
        for job in self._jobs():
            if at_ease or self._chance.random() < 0.6:
                await self._survive(job)

    def _jobs(self) -> list[Callable[[], Awaitable[object]]]:
        services, now = self.services, self._now
        return [
            lambda: jobs.redrive_inbox(services, now=now),
            lambda: jobs.query_silent_attempts(services, now=now, limit=500),
            lambda: jobs.close_due_orders(services, now=now, limit=500),
            lambda: jobs.send_refunds(services, now=now, limit=500),
            lambda: worker.dispatch_outbox(services, now),
            lambda: seal(now),
            lambda: jobs.release_holds(now=now, limit=500),
        ]

    async def _survive(self, job: Callable[[], Awaitable[object]]) -> None:
        """A job that may be killed at any commit; the next round comes again."""
        plan = self._crash_plan()
        token = crash_at.set(plan)
        try:
            await job()
        except Crash as crash:
            self.weather.note(f"crash_{crash}".replace(" ", "_"))
        finally:
            crash_at.reset(token)

    def _crash_plan(self) -> CrashPlan | None:
        for hazard in ("crash_before_commit", "crash_after_commit"):
            if not self.weather.is_calm and self._chance.random() < 0.04:
                return CrashPlan(self._chance.randint(1, 4), after=hazard == "crash_after_commit")
        return None

    async def _deliver(self) -> None:
        """Ring the doorbell with all that is due, in any order, gathered as the desk gathers."""
        due = []
        while self._letters and self._letters[0][0] <= self._now:
            due.append(heapq.heappop(self._letters)[2])
        self._chance.shuffle(due)
        for start in range(0, len(due), BATCH):
            await self._ring(due[start : start + BATCH])

    async def _ring(self, letters: Sequence[Letter]) -> None:
        plan = self._crash_plan()
        token = crash_at.set(plan)
        try:
            await settle_batch([_item(letter) for letter in letters], now=self._now)
        except Crash as crash:
            self.weather.note(f"crash_{crash}".replace(" ", "_"))
            for letter in letters:
                self._come_again(letter)
        except Exception as failure:
            if len(letters) == 1:
                await keep_unhandled(_item(letters[0]), error=failure, now=self._now)
                self._come_again(letters[0])
            else:
                for letter in letters:
                    await self._ring([letter])
        finally:
            crash_at.reset(token)

    def _come_again(self, letter: Letter) -> None:
        """No 200 was said: the channel delivers again, a bounded number of times."""
        if letter.tries < MOST_DELIVERIES:
            later = self._now + timedelta(seconds=15 * 4**letter.tries)
            again = Letter(
                letter.world, letter.channel, letter.account_id, letter.notice, later,
                letter.tries + 1,
            )  # fmt: skip
            self.post(again)

    async def _check(self) -> None:
        self.checks += 1
        broken = await broken_invariants()
        if broken:
            raise InvariantBroken(self._stories(str(broken)))

    async def _close_the_books(self) -> None:
        """Our books against the channels' own memory, to the fen."""
        faults = await books.faults(self.paid.values())
        if faults:
            raise InvariantBroken(self._stories("\n".join(faults)))

    def _stories(self, what: str) -> str:
        """The worlds whose order or trade numbers are named; all when none is."""
        guilty = [
            world
            for world in self.worlds
            if any(number in what for number in [*world.numbers, *world.bill_numbers()])
        ]
        told = [
            "\n".join([f"world {world.number} ({world.person_id})", *world.story])
            for world in (guilty or self.worlds)[:3]
        ]
        return "\n\n".join([what, *told])

    def _services(self) -> Services:
        settings = collecting_settings()
        accounts = {
            account: Channel(account.split(":")[0])
            for account in settings.collecting_accounts.values()
        }
        self.channels: dict[str, SimChannel] = {
            account: SimChannel(channel, account, self.now, self._who, self.paid)
            for account, channel in accounts.items()
        }
        nobody: Any = SimpleNamespace()
        return Services(
            settings=settings,
            clock=self.now,
            vault=nobody,
            pay_code_key=b"",
            receipt_key=b"",
            channels=cast("dict[str, Any]", self.channels),
            wechat=nobody,
            sms=nobody,
            redis=None,  # money must not need it
        )

    def _who(self) -> World:
        """Who opens a trade: only a citizen does, and only in the citizen's own step."""
        if self._acting is None:
            raise RuntimeError("a trade was opened by nobody")
        return self._acting


def collecting_settings() -> Settings:
    """The city's settings with all money collected: the world has the collecting accounts only."""
    settings = Settings.read()
    payees = [payee.model_copy(update={"merchants": {}}) for payee in settings.payees]
    return settings.model_copy(update={"payees": payees, "combining_accounts": {}})


def _item(letter: Letter) -> SettleItem:
    return from_notice(letter.notice, channel=letter.channel, account_id=letter.account_id)
