"""Who applies for what, and how far it has come: decided by dice with a fixed seed, no I/O."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from estation.inner import personas
from estation.inner.actions.cases import NewCase, NewParty, NewStage
from estation.inner.rules import CaseState, Stage, StageState
from estation.inner.seed import people, worked
from estation.inner.seed.people import Population
from estation.inner.seed.worked import WorkedBill, WorkedCase
from estation.shared.clock import BEIJING, beijing_day
from estation.shared.identity_papers import RESIDENT_CARD

SEED = 360100
UNITS = 500
REVISED = 10
WITHDRAWN = 10
DUE_DAYS = 15
URBAN = ("360102", "360103")
COUNTY = "360121"

ALL_STAGES = tuple(Stage)
ROUTES: dict[str, tuple[Stage, ...]] = {
    "RESALE_TRANSFER": ALL_STAGES,
    "NEW_HOME_TRANSFER": (Stage.CONTRACT, Stage.LOAN, Stage.TAX, Stage.REGISTRATION),
    "GIFT": (Stage.TAX, Stage.REGISTRATION),
    "REISSUE_CERT": (Stage.REGISTRATION,),
    "MORTGAGE_FIRST": (Stage.LOAN, Stage.REGISTRATION),
}
"""The boxes of the flow chart that a matter passes."""

QUOTAS: tuple[tuple[str, Sequence[str], Stage, StageState, CaseState, int], ...] = (
    ("RESALE_TRANSFER", (), Stage.CONTRACT, StageState.DOING, CaseState.OPEN, 28),
    ("RESALE_TRANSFER", (), Stage.CONTRACT, StageState.RETURNED, CaseState.OPEN, 5),
    ("RESALE_TRANSFER", (), Stage.ESCROW, StageState.DOING, CaseState.OPEN, 28),
    ("RESALE_TRANSFER", (), Stage.LOAN, StageState.DOING, CaseState.OPEN, 30),
    ("RESALE_TRANSFER", worked.RESALES, Stage.TAX, StageState.DOING, CaseState.OPEN, 83),
    ("RESALE_TRANSFER", (worked.COUNTY_RESALE,), Stage.TAX, StageState.DOING, CaseState.OPEN, 8),
    ("NEW_HOME_TRANSFER", (worked.NEW_HOME,), Stage.TAX, StageState.DOING, CaseState.OPEN, 14),
    ("GIFT", (worked.GIFT,), Stage.TAX, StageState.DOING, CaseState.OPEN, 5),
    ("REISSUE_CERT", (worked.REISSUE,), Stage.REGISTRATION, StageState.DOING, CaseState.OPEN, 6),
    ("MORTGAGE_FIRST", (worked.MORTGAGE,), Stage.REGISTRATION, StageState.DOING, CaseState.OPEN, 5),
    ("RESALE_TRANSFER", (), Stage.REGISTRATION, StageState.DOING, CaseState.OPEN, 25),
    ("RESALE_TRANSFER", (), Stage.REGISTRATION, StageState.DONE, CaseState.CLOSED, 55),
    ("RESALE_TRANSFER", (), Stage.CONTRACT, StageState.RETURNED, CaseState.WITHDRAWN, 8),
)
"""Matter, worked cases its bills come from, where it stands, how many."""


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    unit_code: str
    district: str
    address: str
    usage: str
    area_m2: str
    project: str = ""
    floor: str = ""
    room: str = ""


@dataclass(frozen=True, slots=True)
class PlannedBill:
    """`first_without` names an item that was forgotten in version 1 and added by a revision."""

    worked: WorkedBill
    payer_seq: int
    issued_at: datetime
    due_on: date
    first_without: str = ""
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class PlannedCase:
    case: NewCase
    bills: list[PlannedBill]


@dataclass(frozen=True, slots=True)
class CityPlan:
    units: list[PlannedUnit]
    cases: list[PlannedCase]

    def only_in(self, district: str) -> "CityPlan":
        units = [unit for unit in self.units if unit.district == district]
        codes = {unit.unit_code for unit in units}
        return CityPlan(units, [one for one in self.cases if one.case.unit_code in codes])


def plan_city(now: datetime, *, region: str = "") -> CityPlan:
    """The same city for the same day; moments lie before `now`. Where `region` is a district
    (a county's own centre), only what lies there, with people of its own."""
    county = region if region in dict(people.DISTRICTS) else ""
    plan = _Planner(now, county).plan()
    return plan.only_in(county) if county else plan


class _Planner:
    def __init__(self, now: datetime, county: str) -> None:
        self._now = now
        self._county = county
        seed = int(county or SEED)
        self._dice = random.Random(seed)  # noqa: S311 - a believable city, not a secret
        taken = {personas.BUYER.id_no, personas.SELLER.id_no}
        first_phone = 13800110001 if county else 13800010001
        self._people = Population(self._dice, taken=taken, first_phone=first_phone)
        self._units: list[PlannedUnit] = []

    def plan(self) -> CityPlan:
        cases = [
            self._case(matter, worked_ids, number, stage, stage_state, state)
            for matter, worked_ids, stage, stage_state, state, count in QUOTAS
            for number in range(count)
        ]
        cases.sort(key=lambda planned: planned.case.opened_at)
        while len(self._units) < UNITS:
            self._building(self._dice.choice((*URBAN, COUNTY)))
        return CityPlan(self._units, self._with_changes(cases))

    def _case(
        self,
        matter: str,
        worked_ids: Sequence[str],
        number: int,
        stage: Stage,
        stage_state: StageState,
        state: CaseState,
    ) -> PlannedCase:
        source = worked.worked_cases()[worked_ids[number % len(worked_ids)]] if worked_ids else None
        parties = self._parties(matter, source, number)
        route = self._route(matter, stage, parties)
        days = self._dice.randrange(3, 10) if source else self._dice.randrange(2, 40)
        if state is CaseState.CLOSED:
            days += 20
        steps = len(
            [passed for passed in route if ALL_STAGES.index(passed) <= ALL_STAGES.index(stage)]
        )
        moments = self._moments(days, steps + 1)
        district = self._district(source)
        unit = self._unit(district, *self._usage(source))
        case = NewCase(
            matter=matter,
            hall_code="JC02" if district == "360103" else "JC01",
            unit_code=unit.unit_code,
            opened_at=moments[0],
            parties=parties,
            stages=_stages(route, stage, stage_state, moments[1:]),
            state=state,
        )
        return PlannedCase(case, self._bills(source, parties, moments[-1]))

    def _parties(self, matter: str, source: WorkedCase | None, number: int) -> list[NewParty]:
        new = self._people.person
        if matter == "NEW_HOME_TRANSFER":
            buyer = _citizen("buyer", personas.BUYER) if number == 0 else new("buyer")
            firm = self._dice.choice(people.DEVELOPERS)
            return [buyer, people.organisation("developer", firm)]
        if matter == "GIFT":
            return [new("transferee"), new("transferor")]
        if matter == "REISSUE_CERT":
            return [new("applicant")]
        bank = people.organisation("mortgagee", self._dice.choice(people.BANKS))
        if matter == "MORTGAGE_FIRST":
            return [bank, new("mortgagor")]
        if source is not None and source.worked_id == "T01" and number == 0:
            return [_citizen("buyer", personas.BUYER), _citizen("seller", personas.SELLER)]
        if self._county and source is not None and number == 0:
            return [_citizen("buyer", personas.BUYER), new("seller")]
        sides = [new("buyer"), new("seller")]
        return [*sides, bank] if self._dice.random() < 0.45 else sides

    def _route(self, matter: str, stage: Stage, parties: Sequence[NewParty]) -> tuple[Stage, ...]:
        """Without a mortgagee nothing is mortgaged, unless the case stands at that very box."""
        route = ROUTES[matter]
        lends = any(party.role == "mortgagee" for party in parties) or stage is Stage.LOAN
        skipped = set() if lends else {Stage.LOAN}
        if matter == "RESALE_TRANSFER" and stage is not Stage.ESCROW and self._dice.random() < 0.3:
            skipped.add(Stage.ESCROW)
        return tuple(passed for passed in route if passed not in skipped)

    def _bills(
        self, source: WorkedCase | None, parties: Sequence[NewParty], assessed_at: datetime
    ) -> list[PlannedBill]:
        if source is None:
            return []
        places = {party.role: seq for seq, party in enumerate(parties, 1)}
        places.setdefault("applicant", 1)
        issued_at = assessed_at + timedelta(minutes=self._dice.randrange(5, 40))
        due_on = beijing_day(self._now) + timedelta(days=self._dice.randrange(6, DUE_DAYS))
        return [
            PlannedBill(bill, places[bill.payer_role], issued_at, due_on) for bill in source.bills
        ]

    def _with_changes(self, cases: list[PlannedCase]) -> list[PlannedCase]:
        """Some buyers' bills forgot an item at first; some were withdrawn. Personas' are plain."""
        ordinary = [
            (place, at)
            for place, planned in enumerate(cases)
            for at, bill in enumerate(planned.bills)
            if bill.worked.worked_id in worked.RESALES
            and bill.worked.payer_role == "buyer"
            and planned.case.parties[0].name != personas.BUYER.name
        ]
        chosen = self._dice.sample(ordinary, REVISED + WITHDRAWN)
        for number, (place, at) in enumerate(chosen):
            bill = cases[place].bills[at]
            revised = number < REVISED
            cases[place].bills[at] = PlannedBill(
                bill.worked,
                bill.payer_seq,
                bill.issued_at,
                bill.due_on,
                first_without="REG" if revised else "",
                withdrawn=not revised,
            )
        return cases

    def _district(self, source: WorkedCase | None) -> str:
        if source is not None:
            county = source.worked_id == worked.COUNTY_RESALE
            return COUNTY if county else self._dice.choice(URBAN)
        return self._dice.choice((*URBAN, COUNTY))

    def _usage(self, source: WorkedCase | None) -> tuple[str, str]:
        if source is not None and source.worked_id == worked.MORTGAGE:
            return "商业服务", "55.00"
        return "住宅", source.area_m2 if source is not None else self._area()

    def _area(self) -> str:
        return f"{self._dice.randrange(45, 180)}.{self._dice.randrange(100):02d}"

    def _unit(self, district: str, usage: str, area_m2: str) -> PlannedUnit:
        """Codes by GB/T 37346; the parcel's serial is the unit's place, so none comes twice."""
        place = len(self._units) + 1
        building, floor, door = (self._dice.randrange(1, limit) for limit in (30, 18, 5))
        code = (
            f"{district}{self._dice.randrange(1, 30):03d}{self._dice.randrange(1, 40):03d}"
            f"GB{place:05d}F{building:04d}{floor * 4 + door:04d}"
        )
        estate = self._dice.choice(people.ESTATES[district])
        name = dict(people.DISTRICTS)[district]
        address = f"江城市{name}{estate}{building}幢{floor}{door:02d}室"
        made = PlannedUnit(
            code, district, address, usage, area_m2, estate, str(floor), f"{floor}{door:02d}"
        )
        self._units.append(made)
        return made

    def _building(self, district: str) -> None:
        """One building of up to ten floors with four flats each, all on one parcel."""
        place = len(self._units) + 1
        parcel = f"{district}{self._dice.randrange(1, 30):03d}{self._dice.randrange(1, 40):03d}"
        estate = self._dice.choice(people.ESTATES[district])
        name = dict(people.DISTRICTS)[district]
        building = self._dice.randrange(30, 60)
        areas = [self._area() for _ in range(4)]
        for flat in range(min(40, UNITS - len(self._units))):
            floor, door = flat // 4 + 1, flat % 4 + 1
            self._units.append(
                PlannedUnit(
                    f"{parcel}GB{place:05d}F{building:04d}{flat + 1:04d}",
                    district,
                    f"江城市{name}{estate}{building}幢{floor}{door:02d}室",
                    "住宅",
                    areas[door - 1],
                    estate,
                    str(floor),
                    f"{floor}{door:02d}",
                )
            )

    def _moments(self, days_ago: int, count: int) -> list[datetime]:
        """`count` moments in office hours, rising, the first `days_ago` days back."""
        days = sorted(self._dice.randrange(1, days_ago + 1) for _ in range(count - 1))
        today = beijing_day(self._now)
        found = []
        for back in [days_ago, *reversed(days)]:
            minutes = self._dice.randrange(0, 7 * 60)
            day = _workday(today - timedelta(days=back))
            at = datetime.combine(day, time(9), tzinfo=BEIJING) + timedelta(minutes=minutes)
            found.append(at)
        return sorted(found)


def _stages(
    route: Sequence[Stage], stage: Stage, state: StageState, moments: Sequence[datetime]
) -> dict[Stage, NewStage]:
    """What lies before `stage` is done, `stage` itself in `state`, what comes after waits."""
    made = {
        left_out: NewStage(StageState.NOT_REQUIRED) for left_out in Stage if left_out not in route
    }
    reached = [passed for passed in route if ALL_STAGES.index(passed) <= ALL_STAGES.index(stage)]
    for passed, at in zip(reached, moments, strict=False):
        last = passed is stage
        note = "材料有误，已退回补正" if last and state is StageState.RETURNED else ""
        made[passed] = NewStage(state if last else StageState.DONE, at, note)
    return made


def _citizen(role: str, persona: personas.Citizen) -> NewParty:
    return NewParty(role, persona.name, RESIDENT_CARD, persona.id_no, persona.phone)


def _workday(day: date) -> date:
    """Saturday and Sunday become the Friday before; holidays are not looked at."""
    return day - timedelta(days=max(0, day.weekday() - 4))
