"""Every rule is broken once on purpose and found; the round counts, tells and forgets nothing."""

import asyncio
import contextvars
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from estation.payments import api, jobs
from estation.payments.actions import incidents, watching
from estation.payments.invariant_meanings import CRITICAL, MEANINGS, WARNING, incident_kind
from estation.payments.invariants import INVARIANTS, breaches_of, broken_invariants
from estation.payments.models import Incident, InvariantCheck
from estation.payments.staff_words import incident_meaning, incident_name
from estation.shared.clock import BEIJING
from estation.shared.transactions import in_transaction
from tests.payments.city import City, count, rows
from tests.payments.fakes import NOW
from tests.payments.plants import PLANTS, LivedIn, by_hand, incident_rows, lived_in

pytestmark = pytest.mark.usefixtures("database")

RULE = "the_bills_of_a_paid_order_are_paid"
KIND = incident_kind(RULE)


def test_every_rule_says_what_it_means_and_whose_it_is() -> None:
    assert MEANINGS.keys() == INVARIANTS.keys()
    for name, meaning in MEANINGS.items():
        assert meaning.title, name
        assert meaning.words.endswith("。"), name
        assert meaning.doc.endswith("."), name
        assert meaning.owner in {"finance", "operator"}, name
        assert meaning.severity in {CRITICAL, WARNING}, name
        assert incident_name(incident_kind(name)).startswith("自检：")
        assert meaning.words in incident_meaning(incident_kind(name))


def test_there_are_at_least_fifteen_rules_and_each_has_a_plant() -> None:
    assert len(INVARIANTS) >= 15
    assert PLANTS.keys() == INVARIANTS.keys()


async def test_a_healthy_city_breaks_nothing() -> None:
    await lived_in(NOW)

    assert await broken_invariants(now=NOW) == {}
    assert await broken_invariants(now=NOW, since=NOW - watching.RECENT) == {}


@pytest.mark.parametrize("name", INVARIANTS)
async def test_a_planted_breach_is_found(name: str) -> None:
    world = await lived_in(NOW)

    async with undone():
        await PLANTS[name](world)
        everywhere = await breaches_of(name, now=NOW)
        recently = await breaches_of(name, now=NOW, since=NOW - watching.RECENT)

    assert everywhere.total >= 1
    assert len(everywhere.first) == everywhere.total
    assert recently == everywhere


async def test_a_duty_that_has_a_time_is_asked_only_with_a_clock() -> None:
    world = await lived_in(NOW)
    await PLANTS["messages_leave_in_time"](world)

    assert await broken_invariants() == {}
    assert list(await broken_invariants(now=NOW)) == ["messages_leave_in_time"]


async def test_breaches_are_counted_beyond_those_that_are_told() -> None:
    world = await lived_in(NOW)
    for _ in range(5):
        await PLANTS["messages_leave_in_time"](world)

    found = await breaches_of("messages_leave_in_time", now=NOW, limit=2)

    assert found.total == 5
    assert len(found.first) == 2


async def test_a_breach_opens_one_incident_with_its_rows() -> None:
    world = await lived_in(NOW)
    await PLANTS[RULE](world)

    for minutes in (0, 5, 10):
        await watching.check_invariants(now=later(minutes))

    (incident,) = await incident_rows(KIND)
    evidence = json.loads(str(incident["evidence"]))
    (bill_no,) = await _bill_numbers(world)
    assert incident["owner"] == MEANINGS[RULE].owner
    assert evidence["rows"] == [bill_no]
    assert evidence["meaning"] == MEANINGS[RULE].words
    assert (await InvariantCheck.get(name=RULE)).breaches == 1


async def test_another_row_that_breaks_it_is_told_by_another_incident() -> None:
    world = await lived_in(NOW)
    await PLANTS["no_message_is_dead"](world)
    await watching.check_invariants(now=NOW)
    await PLANTS["no_message_is_dead"](world)

    await watching.check_invariants(now=later(5))

    told = await incident_rows(incident_kind("no_message_is_dead"))
    lists = [json.loads(str(one["evidence"]))["rows"] for one in told]
    assert [len(rows) for rows in lists] == [1, 1]
    assert lists[0] != lists[1]


async def test_a_resolved_incident_comes_again_while_the_rule_is_broken() -> None:
    world = await lived_in(NOW)
    await PLANTS[RULE](world)
    await watching.check_invariants(now=NOW)
    incident = await Incident.get(kind=KIND)
    await api.resolve_incident(
        incident_id=incident.id, by="某人", resolution="已核实", now=later(1)
    )

    await watching.check_invariants(now=later(5))

    assert [one["state"] for one in await incident_rows(KIND)] == ["resolved", "open"]


async def test_what_broke_and_was_mended_is_told_anew_when_it_breaks_again() -> None:
    world = await lived_in(NOW)
    await PLANTS[RULE](world)
    await watching.check_invariants(now=NOW)
    await by_hand(
        "update bill b set state = 'paid', paid_at = now(), paid_version = version"
        f" from pay_order_bill ob where ob.bill_id = b.id and ob.order_id = '{world.paid_order}'"
    )
    await watching.check_invariants(now=later(5))
    assert (await InvariantCheck.get(name=RULE)).breaches == 0
    first = await Incident.get(kind=KIND)
    await api.resolve_incident(incident_id=first.id, by="某人", resolution="已更正", now=later(6))
    await PLANTS[RULE](world)

    await watching.check_invariants(now=later(10))

    assert [one["state"] for one in await incident_rows(KIND)] == ["resolved", "open"]


async def test_two_rounds_at_once_tell_a_breach_once() -> None:
    world = await lived_in(NOW)
    await PLANTS[RULE](world)

    rounds = await asyncio.gather(*(watching.check_invariants(now=NOW) for _ in range(6)))

    assert any(one is not None for one in rounds)
    assert len(await incident_rows(KIND)) == 1


async def test_a_second_worker_does_not_repeat_the_round() -> None:
    await lived_in(NOW)

    assert (await jobs.check_invariants(now=NOW))["looked"] == len(INVARIANTS)
    assert (await jobs.check_invariants(now=later(1)))["looked"] == 0
    assert (await jobs.check_invariants(now=later(5)))["looked"] == len(INVARIANTS)


async def test_while_another_worker_looks_nobody_else_does() -> None:
    await lived_in(NOW)
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def holder() -> None:
        async with in_transaction() as db:
            await db.execute_query("select pg_advisory_xact_lock($1)", [watching._LOCK])
            entered.set()
            await go_on.wait()

    holding = asyncio.create_task(holder())
    await entered.wait()

    meanwhile = await watching.check_invariants(now=NOW)
    go_on.set()
    await holding

    assert meanwhile is None
    assert await watching.check_invariants(now=NOW) is not None


async def test_a_settle_that_runs_meanwhile_is_no_false_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A payment settled between two queries of one round: the first saw none of it, and neither
    may the others. Without the snapshot the same moment is an alarm."""
    city, looks, outside = City(), 0, contextvars.copy_context()
    _, _, number = await city.opened()
    item = api.from_report(city.paid(number))

    async def and_meanwhile(name: str, **options: object) -> object:
        nonlocal looks
        looks += 1
        if looks == 2:  # the snapshot is taken
            settling = api.settle_batch([item], now=NOW)
            await asyncio.create_task(settling, context=outside)
        return await breaches_of(name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(watching, "breaches_of", and_meanwhile)

    looked = await watching.check_invariants(now=NOW)

    assert looked is not None
    assert await count("ledger_transfer", "kind = 'payment'") == 1
    assert [one.name for one in looked if one.breaches.total] == []


@pytest.mark.parametrize(
    ("whole_at", "was_broken", "now", "whole"),
    [
        (None, False, (12, 0), True),  # never yet
        ((3, 5), False, (12, 0), False),  # last night
        ((2, 55), False, (2, 58), False),  # yesterday's hour was kept; the night is not there yet
        ((2, 55), False, (3, 1), True),
        ((3, 5), True, (12, 0), True),  # until it holds
    ],
)
def test_everything_is_looked_at_once_a_night_and_while_broken(
    whole_at: tuple[int, int] | None, was_broken: bool, now: tuple[int, int], whole: bool
) -> None:
    at = datetime(2026, 8, 3, *whole_at, tzinfo=BEIJING) if whole_at else None
    moment = datetime(2026, 8, 3, *now, tzinfo=BEIJING)

    assert watching.must_look_whole(whole_at=at, was_broken=was_broken, now=moment) is whole


async def test_an_old_row_is_found_by_the_night_and_kept_in_sight_until_it_holds() -> None:
    world = await lived_in(NOW)
    month_later = NOW + timedelta(days=30)
    await watching.check_invariants(now=month_later)
    await PLANTS[RULE](world)

    by_day = await watching.check_invariants(now=month_later + timedelta(minutes=5))
    at_night = await watching.check_invariants(now=month_later + timedelta(days=1))
    afterwards = await watching.check_invariants(now=month_later + timedelta(days=1, minutes=5))

    def found(round_: list[watching.Looked] | None) -> int:
        return next(one.breaches.total for one in round_ or [] if one.name == RULE)

    assert [found(by_day), found(at_night), found(afterwards)] == [0, 1, 1]


async def test_an_overdue_incident_is_escalated_once() -> None:
    world = await lived_in(NOW)
    await PLANTS["an_overdue_incident_is_escalated"](world)

    escalated = await asyncio.gather(*(incidents.escalate_overdue(now=NOW) for _ in range(4)))

    overdue = await count("incident", f"state = 'open' and due_at < '{NOW.isoformat()}'")
    assert overdue >= 1
    assert sum(escalated) == overdue
    assert await count("incident_action", "action = 'escalate'") == overdue
    assert (await breaches_of("an_overdue_incident_is_escalated", now=NOW)).total == 0


def later(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


@asynccontextmanager
async def undone() -> AsyncIterator[None]:
    """Whatever is done inside never happened, dropped indexes included."""

    class Undo(Exception):
        pass

    try:
        async with in_transaction():
            yield
            raise Undo
    except Undo:
        pass


async def _bill_numbers(world: LivedIn) -> list[str]:
    found = await rows(
        "select bill_no from pay_order_bill where order_id = $1 order by bill_no", world.paid_order
    )
    return [row["bill_no"] for row in found]
