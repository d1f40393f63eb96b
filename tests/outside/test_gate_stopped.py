"""A stream that stands still because something was refused has an incident, until it goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from estation import worker
from estation.outside.gate import receiving, status
from estation.payments import api, jobs, staff_words
from estation.payments.errors import StreamStillStopped
from tests.outside.gate_side import STREAM, Sides, names, query


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


async def receive(sides: Sides) -> receiving.ReceiveReport:
    return await sides.receive(alarm=worker.open_gate_incident)


async def damage(sides: Sides, number: int) -> bytes:
    """Send it, and flip a bit of it on its way; the file as it was."""
    await sides.send(number)
    good = sides.incoming_file(number).read_bytes()
    sides.incoming_file(number).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    return good


async def fork(sides: Sides) -> None:
    """Packet 1, applied, comes again with another content under the same seal."""
    await sides.send(1)
    await receive(sides)
    await query("delete from gate_outgoing_packet")
    await query("delete from gate_outgoing_stream")
    await sides.send(2)
    await receive(sides)


async def incidents() -> list[dict[str, Any]]:
    found = await query(
        """select id, kind, owner, state, evidence, resolved_by, resolution from incident
           order by opened_at, id"""
    )
    return [{**row, "evidence": json.loads(row["evidence"])} for row in found]


async def test_a_refused_packet_is_one_incident_however_often_it_comes(sides: Sides) -> None:
    await damage(sides, 1)
    bad = sides.incoming_file(1).read_bytes()
    for _ in range(3):
        sides.incoming_file(1).write_bytes(bad)
        await receive(sides)
        sides.later(20)

    (opened,) = await incidents()

    assert (opened["kind"], opened["owner"], opened["state"]) == (
        "gate_stopped", "operator", "open",
    )  # fmt: skip
    evidence = opened["evidence"]
    assert (evidence["stream"], evidence["seq"], evidence["reason"]) == (STREAM, 1, "bad_digest")
    assert not evidence["needs_a_person"]
    assert "gate_stopped" in staff_words.INCIDENT_WORDS


async def test_it_ends_by_itself_when_the_right_packet_has_come(sides: Sides) -> None:
    good = await damage(sides, 1)
    await receive(sides)
    early = await jobs.end_gate_stops(now=sides.now)
    sides.incoming_file(1).write_bytes(good)
    sides.later(20)
    await receive(sides)

    ended = await jobs.end_gate_stops(now=sides.now)
    again = await jobs.end_gate_stops(now=sides.now)

    (over,) = await incidents()
    assert (early, ended, again) == ({"ended": 0}, {"ended": 1}, {"ended": 0})
    assert (over["state"], over["resolved_by"]) == ("resolved", "system")
    assert over["resolution"] != ""
    (deed,) = await query("select action, by from incident_action")
    assert (deed["action"], deed["by"]) == ("resolve", "system")
    assert sides.seen == names(1)


async def test_words_do_not_end_it_while_the_stream_stands(sides: Sides) -> None:
    await fork(sides)
    (opened,) = await incidents()

    with pytest.raises(StreamStillStopped):
        await api.resolve_incident(
            incident_id=opened["id"], by="丁一", resolution="看过了", now=sides.now
        )

    assert [one["state"] for one in await incidents()] == ["open"]
    assert await query("select id from incident_action") == []


async def test_it_may_be_ended_in_words_once_a_person_let_the_stream_go_on(sides: Sides) -> None:
    await fork(sides)
    (opened,) = await incidents()
    await receiving.resume(STREAM)

    await api.resolve_incident(
        incident_id=opened["id"], by="丁一", resolution="两份历史已核对", now=sides.now
    )

    (over,) = await incidents()
    assert opened["evidence"]["needs_a_person"]
    assert (over["state"], over["resolved_by"]) == ("resolved", "丁一")


async def test_the_next_standstill_is_another_incident(sides: Sides) -> None:
    for number in (1, 2):
        good = await damage(sides, number)
        await receive(sides)
        sides.incoming_file(number).write_bytes(good)
        sides.later(20)
        await receive(sides)
        await jobs.end_gate_stops(now=sides.now)

    assert [(one["evidence"]["seq"], one["state"]) for one in await incidents()] == [
        (1, "resolved"), (2, "resolved"),
    ]  # fmt: skip


async def test_a_stream_that_stood_still_before_anybody_was_told_is_told_at_the_next_look(
    sides: Sides,
) -> None:
    await damage(sides, 1)
    await sides.receive()
    await query("delete from gate_event")

    await receive(sides)

    assert [one["kind"] for one in await incidents()] == ["gate_stopped"]


async def test_an_incident_that_cannot_be_opened_is_opened_at_the_next_look(sides: Sides) -> None:
    async def fails(*_: Any) -> None:
        raise ConnectionError

    await damage(sides, 1)
    with pytest.raises(ConnectionError):
        await sides.receive(alarm=fails)

    await receive(sides)

    assert [one["kind"] for one in await incidents()] == ["gate_stopped"]


async def test_a_gap_and_a_fault_of_our_own_accuse_nobody(sides: Sides) -> None:
    async def fails(*_: Any) -> None:
        raise ConnectionError

    await sides.send(1)
    await sides.receive(fails, alarm=worker.open_gate_incident)
    sides.later(120)
    await receive(sides)
    for number in (2, 3):
        await sides.send(number)
    sides.incoming_file(2).unlink()
    await receive(sides)

    (shown,) = [one for one in await status.stream_status() if one.direction == "in"]
    assert shown.stopped_reason == "gap"
    assert await incidents() == []


async def test_strays_and_damaged_repeats_stop_nothing_and_are_no_incident(sides: Sides) -> None:
    await sides.send(1)
    kept = sides.incoming_file(1).read_bytes()
    await receive(sides)
    sides.incoming_file(1).write_bytes(kept[: len(kept) // 2])
    (sides.incoming / "notes.txt").write_text("junk")

    report = await receive(sides)

    assert len(report.quarantined) == 2
    assert await incidents() == []
