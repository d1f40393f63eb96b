"""Who holds what in the demo city, and what stands in the way: decided by dice, no I/O."""

import random
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from fractions import Fraction

from estation.inner import personas
from estation.inner.actions.cases import NewParty
from estation.inner.actions.register import NewHolder, NewMortgage, NewRestriction, NewRight
from estation.inner.rules import CaseState
from estation.inner.seed import people
from estation.inner.seed.people import Population
from estation.inner.seed.plan import CityPlan, PlannedCase
from estation.shared.clock import BEIJING, beijing_day
from estation.shared.identity_papers import CREDIT_CODE, RESIDENT_CARD

SEED = 360101
MORTGAGED = 12
COUPLES = 20

BEFORE = {
    "RESALE_TRANSFER": "seller",
    "NEW_HOME_TRANSFER": "developer",
    "GIFT": "transferor",
    "MORTGAGE_FIRST": "mortgagor",
    "REISSUE_CERT": "applicant",
}
"""Matter -> the role that holds the unit before it is through."""
AFTER = {"RESALE_TRANSFER": "buyer"}


@dataclass(frozen=True, slots=True)
class RegisterPlan:
    rights: list[NewRight]
    restrictions: list[NewRestriction]


def plan_register(plan: CityPlan, case_nos: list[str], now: datetime) -> RegisterPlan:
    """An owner for every unit; a few mortgages, one seizure, another waiting behind it, a lock.

    The units of cases belong to those who sell, give or mortgage them; once a sale is closed,
    to the buyer. Of the spare ones the first is the buyer persona's, with a mortgage.
    """
    dice = random.Random(SEED)  # noqa: S311 - a believable city, not a secret
    taken = {party.id_no for planned in plan.cases for party in planned.case.parties}
    crowd = Population(dice, taken={*taken, personas.BUYER.id_no, personas.SELLER.id_no})
    of_unit = {
        planned.case.unit_code: (planned, case_no)
        for planned, case_no in zip(plan.cases, case_nos, strict=True)
    }
    spare = [unit.unit_code for unit in plan.units if unit.unit_code not in of_unit]
    rights = [_from_case(planned, case_no, dice, now) for planned, case_no in of_unit.values()]
    for place, code in enumerate(spare):
        if place == 0:
            buyer = personas.BUYER
            holders = [NewHolder(buyer.name, RESIDENT_CARD, buyer.id_no)]
        else:
            owners = 2 if place <= COUPLES else 1
            share = Fraction(1, 2) if owners == 2 and place % 2 else None
            holders = [_holder(crowd.person("owner"), share) for _ in range(owners)]
        rights.append(_ownership(code, holders, _long_ago(dice, now)))
    rights += [_mortgage(code, dice, now) for code in spare[:MORTGAGED]]
    return RegisterPlan(rights, _restrictions(spare[MORTGAGED : MORTGAGED + 2], now))


def _from_case(planned: PlannedCase, case_no: str, dice: random.Random, now: datetime) -> NewRight:
    case = planned.case
    through = case.state is CaseState.CLOSED
    role = AFTER.get(case.matter, BEFORE[case.matter]) if through else BEFORE[case.matter]
    holders = [_holder(party) for party in case.parties if party.role == role]
    moments = [stage.at for stage in case.stages.values() if stage.at]
    at = max(moments) if through else _long_ago(dice, now)
    return _ownership(case.unit_code, holders, at, case_no if through else "")


def _ownership(
    unit_code: str, holders: list[NewHolder], at: datetime, case_no: str = ""
) -> NewRight:
    """House and land together, code 4 of QLLX; dwellings' land runs for seventy years."""
    return NewRight(
        kind="ownership",
        national_code="4",
        unit_code=unit_code,
        holders=holders,
        registered_at=at,
        until=date(2075, 6, 30),
        case_no=case_no,
    )


def _mortgage(unit_code: str, dice: random.Random, now: datetime) -> NewRight:
    bank = people.organisation("mortgagee", dice.choice(people.BANKS))
    at = _long_ago(dice, now)
    begins = beijing_day(at)
    return NewRight(
        kind="mortgage",
        national_code="",
        unit_code=unit_code,
        holders=[_holder(bank)],
        registered_at=at,
        mortgage=NewMortgage(
            secured_fen=dice.randrange(30, 200) * 1_000_000,
            debt_from=begins,
            debt_until=date(begins.year + 20, begins.month, 1),
            transfer_limited=dice.random() < 0.3,
        ),
    )


def _restrictions(unit_codes: list[str], now: datetime) -> list[NewRestriction]:
    seized, locked = unit_codes
    today = beijing_day(now)

    def seizure(organ: str, number: str, days_ago: int, place: int) -> NewRestriction:
        since = today - timedelta(days=days_ago)
        return NewRestriction(
            kind="seizure",
            unit_code=seized,
            organ=organ,
            document_no=number,
            since=since,
            until=since + timedelta(days=3 * 365),
            registered_at=_office(since),
            queue_position=place,
        )

    return [
        seizure("江城市江东区人民法院", f"（{today.year}）赣0102执保118号", 60, 0),
        seizure("江城市滨湖区人民法院", f"（{today.year}）赣0103执保37号", 20, 1),
        NewRestriction(
            kind="lock",
            unit_code=locked,
            organ="江城市自然资源局",
            document_no=f"江自然资锁〔{today.year}〕6号",
            since=today - timedelta(days=10),
            until=None,
            registered_at=_office(today - timedelta(days=10)),
            scope="征收范围内，暂停办理转移、抵押登记",
        ),
    ]


def _holder(party: NewParty, share: Fraction | None = None) -> NewHolder:
    kind = "2" if party.id_type == CREDIT_CODE else "1"
    return NewHolder(party.name, party.id_type, party.id_no, kind, share)


def _long_ago(dice: random.Random, now: datetime) -> datetime:
    """In office hours, one to eight years back."""
    return _office(beijing_day(now) - timedelta(days=dice.randrange(365, 8 * 365)))


def _office(day: date) -> datetime:
    return datetime.combine(day - timedelta(days=max(0, day.weekday() - 4)), time(10), BEIJING)
