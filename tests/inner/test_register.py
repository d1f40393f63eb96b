"""What is written into the register crosses with it, and every move of a case is an event."""

import json
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import asyncpg
import pytest
from tortoise import Tortoise

from estation.cases import rules as case_rules
from estation.inner import personas
from estation.inner.actions import cases, register
from estation.inner.actions.register import NewHolder, NewMortgage, NewRestriction, NewRight
from estation.inner.errors import (
    BadEntry,
    CaseChanged,
    RestrictionLifted,
    RestrictionNotFound,
    RightNotCurrent,
    RightNotFound,
    TextMissing,
    UnitNotFound,
)
from estation.inner.rules import Stage, StageState
from estation.inner.seed import seed_city
from estation.outside.gate.rows import decode_row
from estation.registry import rules as registry_rules
from estation.settings import InnerSettings
from tests.inner.conftest import NOW
from tests.inner.desk import UNIT, Desk, query

BUYER = NewHolder(personas.BUYER.name, "1", personas.BUYER.id_no)
SELLER = NewHolder(personas.SELLER.name, "1", personas.SELLER.id_no)
DEBT = NewMortgage(60_000_000, date(2026, 11, 1), date(2046, 11, 1))


def new_right(**changes: Any) -> NewRight:
    values: dict[str, Any] = {
        "kind": "ownership", "national_code": "4", "unit_code": UNIT, "holders": [SELLER],
        "registered_at": NOW,
    }  # fmt: skip
    return NewRight(**{**values, **changes})


def seizure(place: int = 0, **changes: Any) -> NewRestriction:
    values: dict[str, Any] = {
        "kind": "seizure", "unit_code": UNIT, "organ": "江东区人民法院",
        "document_no": f"执{place}", "since": date(2026, 11, 1), "until": date(2029, 10, 31),
        "registered_at": NOW, "queue_position": place,
    }  # fmt: skip
    return NewRestriction(**{**values, **changes})


async def sent(topic: str) -> list[dict[str, Any]]:
    rows = await query(
        "select body::text as body from gate_outgoing_row where topic = $1 order by id", topic
    )
    return [json.loads(row["body"]) for row in rows]


async def entries() -> list[dict[str, Any]]:
    return await query(
        """select (select count(*) from gate_outgoing_row) as rows,
                  (select json_agg(r order by right_no)::text from right_entry r) as rights,
                  (select json_agg(h)::text from right_holder h) as holders,
                  (select json_agg(c)::text from certificate c) as certificates,
                  (select json_agg(x order by id)::text from restriction_entry x) as restrictions,
                  (select json_agg(n)::text from number_series n) as numbers"""
    )


async def test_a_registered_right_crosses_with_its_holders_and_certificate(desk: Desk) -> None:
    halves = [
        NewHolder(one.name, one.id_type, one.id_no, share=Fraction(1, 2)) for one in (BUYER, SELLER)
    ]
    bank = NewHolder("江城银行股份有限公司", "8", "91350100M000100Y43", "2")

    numbers = await register.register_rights(
        [new_right(holders=halves), new_right(kind="mortgage", holders=[bank], mortgage=DEBT)],
        settings=desk.settings,
        now=desk.now,
    )

    owned, secured = await sent("right")
    title, proof = await sent("certificate")
    assert [owned["source_id"], secured["source_id"]] == numbers
    assert (owned["holding"], secured["holding"]) == ("shares", "sole")
    assert [
        (h["name"], h["share_numerator"], h["share_denominator"]) for h in owned["holders"]
    ] == [
        (BUYER.name, 1, 2),
        (SELLER.name, 1, 2),
    ]
    assert (secured["secured_fen"], secured["transfer_limited"]) == (60_000_000, False)
    assert title["number"] == owned["certificate_no"] == "赣（2026）江城市不动产权第0000001号"
    assert proof["number"] == secured["certificate_no"] == "赣（2026）江城市不动产证明第0000001号"
    assert proof["unit_codes"] == [UNIT]


async def test_a_right_that_ends_takes_its_certificate_along(desk: Desk) -> None:
    (number,) = await register.register_rights([new_right()], settings=desk.settings, now=desk.now)

    version = await register.end_right(number, settings=desk.settings, now=desk.now)

    assert version == 2
    assert [(row["version"], row["state"]) for row in await sent("right")] == [
        (1, "current"),
        (2, "historical"),
    ]
    assert [(row["version"], row["state"]) for row in await sent("certificate")] == [
        (1, "valid"),
        (2, "cancelled"),
    ]


async def test_when_a_seizure_is_lifted_the_next_one_is_in_force(desk: Desk) -> None:
    numbers = await register.register_restrictions(
        [seizure(0), seizure(1), seizure(2)], settings=desk.settings, now=desk.now
    )

    await register.lift_restriction(
        numbers[0], organ="江东区人民法院", document_no="解1", settings=desk.settings, now=desk.now
    )

    news = {row["source_id"]: row for row in (await sent("restriction"))[3:]}
    assert [news[number]["state"] for number in numbers] == ["lifted", "in_force", "queued"]
    assert [news[number]["queue_position"] for number in numbers] == [0, 0, 1]
    assert {row["version"] for row in news.values()} == {2}
    assert news[numbers[0]]["lifted_document_no"] == "解1"


async def test_what_contradicts_itself_is_refused_and_nothing_changes(desk: Desk) -> None:
    settings, now = desk.settings, desk.now
    (number,) = await register.register_rights([new_right()], settings=settings, now=now)
    await register.end_right(number, settings=settings, now=now)
    (lifted,) = await register.register_restrictions([seizure()], settings=settings, now=now)
    lift = {"organ": "法院", "document_no": "解", "settings": settings, "now": now}
    await register.lift_restriction(lifted, **lift)
    before = await entries()
    half = NewHolder(BUYER.name, "1", BUYER.id_no, share=Fraction(2, 3))

    for refusal, wrong in [
        (BadEntry, new_right(holders=[])),
        (BadEntry, new_right(holders=[NewHolder("某人", "1", "360102199203150028")])),
        (TextMissing, new_right(holders=[NewHolder(" ", "1", BUYER.id_no)])),
        (BadEntry, new_right(holders=[half, half])),
        (BadEntry, new_right(holders=[half, SELLER])),
        (BadEntry, new_right(mortgage=DEBT)),
        (BadEntry, new_right(kind="mortgage")),
        (BadEntry, new_right(kind="mortgage", mortgage=NewMortgage(0, NOW.date(), NOW.date()))),
        (UnitNotFound, new_right(unit_code="360102001001GB00001F00019999")),
    ]:
        with pytest.raises(refusal):
            await register.register_rights([new_right(), wrong], settings=settings, now=now)
        assert await entries() == before
    for refusal, bad in [
        (BadEntry, seizure(until=date(2026, 10, 31))),
        (TextMissing, seizure(organ="")),
        (UnitNotFound, seizure(unit_code="360102001001GB00001F00019999")),
    ]:
        with pytest.raises(refusal):
            await register.register_restrictions([seizure(), bad], settings=settings, now=now)
    for refusal, attempt in [
        (RightNotCurrent, register.end_right(number, settings=settings, now=now)),
        (RightNotFound, register.end_right("QL0", settings=settings, now=now)),
        (RestrictionLifted, register.lift_restriction(lifted, **lift)),
        (RestrictionNotFound, register.lift_restriction("XZ0", **lift)),
    ]:
        with pytest.raises(refusal):
            await attempt

    assert await entries() == before


async def test_every_move_of_a_case_is_an_event_and_the_last_one_closes_it(desk: Desk) -> None:
    case_no = await desk.open_case()
    opened = await sent("case_event")
    version = 1
    for stage in Stage:
        state = (await query("select state from case_stage where stage = $1", stage.value))[0][
            "state"
        ]
        for to in (StageState.DOING, StageState.DONE):
            if state in ("done", "not_required") or (state, to) == ("doing", StageState.DOING):
                continue
            desk.later(hours=1)
            await cases.advance_stage(
                case_no, stage=stage, to=to, note="", expected_version=version,
                settings=desk.settings, now=desk.now,
            )  # fmt: skip
            version += 1

    events = await sent("case_event")
    assert opened[0]["what"] == "opened"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["source_id"] for event in events}) == len(events)
    assert (events[-1]["what"], events[-1]["state"]) == ("closed", "closed")
    assert (events[-2]["stage"], events[-2]["state"]) == ("registration", "done")
    assert {event["case_source_id"] for event in events} == {case_no}
    assert events[-1]["at"] > events[0]["at"]


async def test_a_move_that_is_refused_leaves_no_event(desk: Desk) -> None:
    case_no = await desk.open_case()
    before = await sent("case_event")

    with pytest.raises(CaseChanged):
        await cases.advance_stage(
            case_no, stage=Stage.REGISTRATION, to=StageState.DOING, note="", expected_version=7,
            settings=desk.settings, now=desk.now + timedelta(hours=1),
        )  # fmt: skip

    assert await sent("case_event") == before


async def test_an_event_stays_as_it_was(desk: Desk) -> None:
    await desk.open_case()

    with pytest.raises(asyncpg.RaiseError, match="stays as it was"):
        await Tortoise.get_connection("default").execute_script("update case_event set note = 'x'")


async def test_the_personas_own_something_and_one_unit_is_seized(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    await seed_city(now=NOW, progress=lambda *_: None, settings=inner_settings)

    owned = await query(
        """select h.name, r.kind, r.state,
             (select count(*) from right_entry m
              where m.unit_id = r.unit_id and m.kind = 'mortgage') as mortgages
           from right_holder h join right_entry r on r.id = h.right_id
           where h.id_no = any($1::text[]) order by h.name""",
        [personas.BUYER.id_no, personas.SELLER.id_no],
    )
    restrictions = await query("select kind, state from restriction_entry order by restriction_no")
    unowned = await query(
        """select unit_code from unit u where not exists (
             select from right_entry r where r.unit_id = u.unit_code and r.kind = 'ownership')"""
    )
    events = {event["what"] for event in await sent("case_event")}

    assert [tuple(row.values()) for row in owned] == [
        ("周建国", "ownership", "current", 0),
        ("林晓舟", "ownership", "current", 1),
    ]
    assert sorted((row["kind"], row["state"]) for row in restrictions) == [
        ("lock", "in_force"),
        ("seizure", "in_force"),
        ("seizure", "queued"),
    ]
    assert unowned == []
    assert events == {"opened", "stage_moved", "closed", "withdrawn"}


async def test_the_online_side_takes_every_row_of_the_city(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    """The desk's own checks are at least as strict as those on the other side."""
    await seed_city(now=NOW, progress=lambda *_: None, settings=inner_settings)
    today = NOW.date()

    rows = await query("select topic, body::text as body from gate_outgoing_row order by id")
    faults = []
    for row in rows:
        given: Any = decode_row(row["topic"], row["body"])
        match row["topic"]:
            case "unit":
                faults.append(registry_rules.fault_of_unit(given))
            case "right":
                faults.append(registry_rules.fault_of_right(given, today=today))
            case "certificate":
                faults.append(registry_rules.fault_of_certificate(given, today=today))
            case "restriction":
                faults.append(registry_rules.fault_of_restriction(given))
            case "case":
                faults.append(case_rules.fault_of(given))
            case "case_event":
                faults.append(case_rules.fault_of_event(given))

    assert len(faults) > 2_500
    assert set(faults) == {""}
