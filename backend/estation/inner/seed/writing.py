"""Writes the planned city through the desk's own actions, so that all of it crosses the gate."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from tortoise import Tortoise

from estation.inner import personas
from estation.inner.actions import bills, cases, register
from estation.inner.actions.bills import NewBill
from estation.inner.models import District, Hall, StaffUser, Unit
from estation.inner.rules import Item
from estation.inner.seed import people
from estation.inner.seed.plan import CityPlan, PlannedBill, plan_city
from estation.inner.seed.register import plan_register
from estation.settings import InnerSettings
from estation.shared import ids, passwords
from estation.shared.transactions import in_transaction

Progress = Callable[[str, int, int], None]

_LOCK = 0x6A636974
"""Advisory lock: of two seeding programs the second finds the city finished."""
MADE_BY = personas.FEE_CLERK.login


@dataclass(frozen=True, slots=True)
class SeedReport:
    """How much there is; `made` is False when the city was there already."""

    made: bool
    units: int
    cases: int
    bills: int


async def seed_city(
    *, now: datetime, progress: Progress, settings: InnerSettings | None = None
) -> SeedReport:
    """Bureau, districts, halls, units, officers, cases and bills, all in one transaction.

    A second call does nothing. Needs the initialised and migrated inner database; without
    `settings` they are read as the programs do. `progress` gets (what, done, of).
    """
    settings = settings or InnerSettings.read()
    plan = plan_city(now, region=settings.region)
    async with in_transaction() as tx:
        await tx.execute_query("select pg_advisory_xact_lock($1)", [_LOCK])
        made = not await District.exists()
        if made:
            await _write_places(plan, settings=settings, now=now)
            progress("不动产单元", len(plan.units), len(plan.units))
            await _write_staff(now)
            case_nos = await _write_cases_and_bills(
                plan, settings=settings, now=now, progress=progress
            )
            await _write_register(plan, case_nos, settings=settings, now=now, progress=progress)
    return await _count(made)


async def _write_places(plan: CityPlan, *, settings: InnerSettings, now: datetime) -> None:
    await District.bulk_create([District(code=code, name=name) for code, name in people.DISTRICTS])
    await Hall.bulk_create(
        [Hall(code=code, name=name, district_id=district) for code, name, district in people.HALLS]
    )
    units = [
        Unit(
            unit_code=unit.unit_code,
            district_id=unit.district,
            address=unit.address,
            usage=unit.usage,
            area_m2=Decimal(unit.area_m2),
            project=unit.project,
            floor=unit.floor,
            room=unit.room,
        )
        for unit in plan.units
    ]
    await register.add_units(units, settings=settings, now=now)


async def _write_staff(now: datetime) -> None:
    hashes = [
        await asyncio.to_thread(passwords.hash_password, officer.password)
        for officer in personas.STAFF
    ]
    await StaffUser.bulk_create(
        [
            StaffUser(
                id=ids.row_id(now),
                login=officer.login,
                name=officer.name,
                role=officer.role,
                password_hash=password_hash,
            )
            for officer, password_hash in zip(personas.STAFF, hashes, strict=True)
        ]
    )


async def _write_cases_and_bills(
    plan: CityPlan, *, settings: InnerSettings, now: datetime, progress: Progress
) -> list[str]:
    """The cases' 受理号, in the plan's order."""
    case_nos = await cases.open_cases(
        [planned.case for planned in plan.cases], settings=settings, now=now
    )
    progress("办件", len(case_nos), len(plan.cases))
    planned_bills = [
        (case_no, bill)
        for case_no, planned in zip(case_nos, plan.cases, strict=True)
        for bill in planned.bills
    ]
    planned_bills.sort(key=lambda pair: pair[1].issued_at)
    bill_nos = await bills.issue_bills(
        [_new_bill(case_no, bill, now) for case_no, bill in planned_bills],
        made_by=MADE_BY,
        settings=settings,
        now=now,
    )
    progress("缴费单", len(bill_nos), len(planned_bills))
    for bill_no, (_, bill) in zip(bill_nos, planned_bills, strict=True):
        await _change(bill_no, bill, settings)
    progress("修改与撤回", len(bill_nos), len(planned_bills))
    return case_nos


async def _write_register(
    plan: CityPlan,
    case_nos: list[str],
    *,
    settings: InnerSettings,
    now: datetime,
    progress: Progress,
) -> None:
    entries = plan_register(plan, case_nos, now)
    await register.register_rights(entries.rights, settings=settings, now=now)
    await register.register_restrictions(entries.restrictions, settings=settings, now=now)
    progress("登记簿", len(entries.rights), len(entries.rights))


def _new_bill(case_no: str, bill: PlannedBill, now: datetime) -> NewBill:
    return NewBill(
        bill_id=ids.row_id(now),
        case_no=case_no,
        payer_seq=bill.payer_seq,
        title=bill.worked.title,
        issued_at=bill.issued_at,
        due_on=bill.due_on,
        items=_first_items(bill),
    )


def _first_items(bill: PlannedBill) -> list[Item]:
    return [item for item in bill.worked.items if item.code != bill.first_without]


async def _change(bill_no: str, bill: PlannedBill, settings: InnerSettings) -> None:
    """What happened to the bill some hours after it was issued."""
    if bill.first_without:
        await bills.revise_bill(
            bill_no,
            expected_version=1,
            title=bill.worked.title,
            due_on=bill.due_on,
            items=bill.worked.items,
            reason="首次出具时漏列不动产登记费，补列",
            made_by=MADE_BY,
            settings=settings,
            now=bill.issued_at + timedelta(hours=2),
        )
    if bill.withdrawn:
        await bills.withdraw_bill(
            bill_no,
            expected_version=1,
            reason="买卖双方协商解除合同，撤回缴费单",
            made_by=MADE_BY,
            settings=settings,
            now=bill.issued_at + timedelta(hours=3),
        )


async def _count(made: bool) -> SeedReport:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select (select count(*) from unit) as units, (select count(*) from case_file) as cases,
                  (select count(*) from fee_bill) as bills"""
    )
    return SeedReport(made, rows[0]["units"], rows[0]["cases"], rows[0]["bills"])
