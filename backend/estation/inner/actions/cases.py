"""Opening cases and moving them along the flow chart."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import structlog
from tortoise import Tortoise

from estation.inner import outgoing, rules
from estation.inner.actions.numbers import take_numbers
from estation.inner.errors import (
    BadIdentifier,
    CaseChanged,
    CaseNotFound,
    CaseNotOpen,
    HallNotFound,
    TextMissing,
    UnitNotFound,
)
from estation.inner.models import Case, CaseEvent, CaseParty, CaseStage
from estation.inner.rules import CaseState, Stage, StageState
from estation.settings import InnerSettings
from estation.shared import identity_papers, ids
from estation.shared.clock import beijing_day
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

BATCH = 500


@dataclass(frozen=True, slots=True)
class NewParty:
    """A person or organisation identified at the counter; roles are buyer, seller …"""

    role: str
    name: str
    id_type: str
    id_no: str
    phone: str


@dataclass(frozen=True, slots=True)
class NewStage:
    """Where a box of the flow chart stands when the case is opened or taken over."""

    state: StageState
    at: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class NewCase:
    """A matter as taken in. Boxes missing from `stages` wait."""

    matter: str
    hall_code: str
    unit_code: str
    opened_at: datetime
    parties: Sequence[NewParty]
    stages: dict[Stage, NewStage]
    state: CaseState = CaseState.OPEN


async def open_cases(
    new_cases: Sequence[NewCase], *, settings: InnerSettings, now: datetime
) -> list[str]:
    """Take in cases, all or none; their 受理号, in order. One transaction, gate rows included.

    Raises UnitNotFound, HallNotFound, TextMissing, TextTooLong, BadIdentifier.
    """
    for new in new_cases:
        _check_parties(new.parties, today=beijing_day(now))
    async with in_transaction():
        await _require_places(new_cases)
        numbers = await take_numbers("", [new.opened_at for new in new_cases])
        case_ids = ids.row_ids(now, len(new_cases))
        await Case.bulk_create(
            [
                Case(
                    id=case_id,
                    case_no=number,
                    version=1,
                    matter=new.matter,
                    hall_id=new.hall_code,
                    unit_id=new.unit_code,
                    state=new.state,
                    opened_at=new.opened_at,
                    changed_at=now,
                )
                for case_id, number, new in zip(case_ids, numbers, new_cases, strict=True)
            ],
            batch_size=BATCH,
        )
        await _write_parties(case_ids, new_cases, now)
        await _write_stages(case_ids, new_cases, now)
        events = [
            event
            for case_id, new in zip(case_ids, new_cases, strict=True)
            for event in _events_so_far(case_id, new, now)
        ]
        await CaseEvent.bulk_create(events, batch_size=BATCH)
        await outgoing.send_cases(case_ids, settings=settings, now=now)
        await outgoing.send_events([event.id for event in events], settings=settings, now=now)
    log.info("cases_opened", count=len(numbers), first=numbers[0] if numbers else "")
    return numbers


async def open_case(new: NewCase, *, settings: InnerSettings, now: datetime) -> str:
    """As `open_cases`, for the one at the counter; its 受理号."""
    return (await open_cases([new], settings=settings, now=now))[0]


async def advance_stage(
    case_no: str,
    *,
    stage: Stage,
    to: StageState,
    note: str,
    expected_version: int,
    settings: InnerSettings,
    now: datetime,
) -> None:
    """Move one box of the flow chart; the last one done closes the case. One transaction.

    Raises CaseNotFound, CaseNotOpen, CaseChanged (someone else was faster), and what
    `rules.check_stage_move` raises.
    """
    rules.require_text(note, "note", 512)
    async with in_transaction():
        case = await _lock_case(case_no)
        if case["state"] != CaseState.OPEN:
            raise CaseNotOpen()
        if case["version"] != expected_version:
            raise CaseChanged(version=case["version"])
        stages = await _stages_of(case["id"])
        unpaid = await _unpaid_bills(case["id"])
        rules.check_stage_move(stages, stage, to, unpaid_bills=unpaid)
        stages[stage] = to
        await CaseStage.filter(case_id=case["id"], stage=stage).update(state=to, at=now, note=note)
        state = rules.case_state_after(stages)
        await Case.filter(id=case["id"]).update(
            version=case["version"] + 1, state=state, changed_at=now
        )
        events = await _events_of_move(case["id"], stage, to, note, state, now)
        await CaseEvent.bulk_create(events)
        await outgoing.send_cases([case["id"]], settings=settings, now=now)
        await outgoing.send_events([event.id for event in events], settings=settings, now=now)
    log.info("case_stage_moved", case_no=case_no, stage=stage.value, to=to.value)


def _check_parties(parties: Sequence[NewParty], *, today: date) -> None:
    if not parties:
        raise TextMissing(field="parties")
    for seq, party in enumerate(parties, 1):
        rules.require_text(party.role, "role", 16, seq=seq, may_be_empty=False)
        rules.require_text(party.name, "name", 64, seq=seq, may_be_empty=False)
        rules.require_text(party.phone, "phone", 32, seq=seq, may_be_empty=False)
        if not identity_papers.valid_paper(party.id_type, party.id_no, today=today):
            raise BadIdentifier(seq=seq, field="id_no")


async def _require_places(new_cases: Sequence[NewCase]) -> None:
    db = Tortoise.get_connection("default")
    units = {new.unit_code for new in new_cases}
    halls = {new.hall_code for new in new_cases}
    found = await db.execute_query_dict(
        """select (select count(*) from unit where unit_code = any($1::text[])) as units,
                  (select count(*) from hall where code = any($2::text[])) as halls""",
        [list(units), list(halls)],
    )
    if found[0]["units"] != len(units):
        raise UnitNotFound(field="unit_code")
    if found[0]["halls"] != len(halls):
        raise HallNotFound(field="hall_code")


async def _write_parties(
    case_ids: Sequence[UUID], new_cases: Sequence[NewCase], now: datetime
) -> None:
    await CaseParty.bulk_create(
        [
            CaseParty(
                id=ids.row_id(now),
                case_id=case_id,
                seq=seq,
                role=party.role,
                name=party.name,
                id_type=party.id_type,
                id_no=party.id_no,
                phone=party.phone,
            )
            for case_id, new in zip(case_ids, new_cases, strict=True)
            for seq, party in enumerate(new.parties, 1)
        ],
        batch_size=BATCH,
    )


async def _write_stages(
    case_ids: Sequence[UUID], new_cases: Sequence[NewCase], now: datetime
) -> None:
    waiting = NewStage(StageState.WAITING)
    await CaseStage.bulk_create(
        [
            CaseStage(
                id=ids.row_id(now),
                case_id=case_id,
                seq=seq,
                stage=stage.value,
                state=new.stages.get(stage, waiting).state,
                at=new.stages.get(stage, waiting).at,
                note=new.stages.get(stage, waiting).note,
            )
            for case_id, new in zip(case_ids, new_cases, strict=True)
            for seq, stage in enumerate(Stage, 1)
        ],
        batch_size=BATCH,
    )


def _events_so_far(case_id: UUID, new: NewCase, now: datetime) -> list[CaseEvent]:
    """What is known of a case that is taken in or taken over, in the order it happened."""
    moved = sorted(
        (stage.at, place, name, stage)
        for place, name in enumerate(Stage)
        if (stage := new.stages.get(name)) and stage.at and stage.state is not StageState.WAITING
    )
    events = [_event(case_id, 1, "opened", CaseState.OPEN, new.opened_at, now)]
    for at, _, name, stage in moved:
        seq = len(events) + 1
        events.append(
            _event(case_id, seq, "stage_moved", stage.state, at, now, stage=name, note=stage.note)
        )
    if new.state is not CaseState.OPEN:
        # `closed` and `withdrawn` are the state's own words.
        at = max(event.at for event in events)
        events.append(_event(case_id, len(events) + 1, new.state.value, new.state, at, now))
    return events


async def _events_of_move(
    case_id: UUID, stage: Stage, to: StageState, note: str, state: CaseState, now: datetime
) -> list[CaseEvent]:
    """The case's row is locked, so the numbers have no gap."""
    seq = await CaseEvent.filter(case_id=case_id).count()
    events = [_event(case_id, seq + 1, "stage_moved", to, now, now, stage=stage, note=note)]
    if state is not CaseState.OPEN:
        events.append(_event(case_id, seq + 2, state.value, state, now, now))
    return events


def _event(
    case_id: UUID,
    seq: int,
    what: str,
    state: StageState | CaseState,
    at: datetime,
    now: datetime,
    *,
    stage: Stage | None = None,
    note: str = "",
) -> CaseEvent:
    return CaseEvent(
        id=ids.row_id(now),
        case_id=case_id,
        seq=seq,
        what=what,
        stage=stage.value if stage else "",
        state=state.value,
        at=at,
        note=note,
    )


async def _lock_case(case_no: str) -> dict[str, Any]:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select id, version, state from case_file where case_no = $1 for update", [case_no]
    )
    if not rows:
        raise CaseNotFound()
    return dict(rows[0])


async def _stages_of(case_id: UUID) -> dict[Stage, StageState]:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select stage, state from case_stage where case_id = $1", [case_id]
    )
    return {Stage(row["stage"]): StageState(row["state"]) for row in rows}


async def _unpaid_bills(case_id: UUID) -> int:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select count(*) as unpaid from fee_bill
           where case_id = $1 and state in ('issued', 'refunded')""",
        [case_id],
    )
    unpaid: int = rows[0]["unpaid"]
    return unpaid
