"""One row that cannot be taken in is set aside; ten thousand others go on, and nothing is lost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs

from estation import worker
from estation.outside.gate import (
    age,
    attention,
    conformance,
    device,
    keys,
    merkle,
    overview,
    refused,
    rows,
    sending,
    snapshots,
    upkeep,
)
from estation.outside.gate.receiving import ReceiveReport
from estation.outside.gate.rows import OnBadRow
from estation.outside.gate.status import StreamStatus, stream_status
from estation.payments import api, jobs, staff_words
from estation.payments.errors import StreamStillStopped
from estation.registry import packets as registry_packets
from estation.registry.api import unit_by_code
from tests.identity.people import VAULT
from tests.outside.gate_link import proofs
from tests.outside.gate_side import BACK, PUBLIC, STREAM, T0, bill, position, query
from tests.outside.test_gate_copies import CASE, Copies
from tests.registry import rows as register

SOURCE = "jc-center"


@dataclass
class Aside(Copies):
    """As the worker receives: somebody hears of it, and what the rows say is hidden."""

    async def arrive(self, **_: Any) -> ReceiveReport:
        return await super().arrive(alarm=worker.open_gate_incident, seal=VAULT.seal)

    async def put(self, *given: Any) -> None:
        for row in given:
            topic = next(t for t, kind in rows.TOPICS.items() if kind is type(row))
            await sending.put_rows(STREAM, topic, [row], now=self.now)

    async def send(self, *given: Any) -> None:
        await self.put(*given)
        await self.exchange()


@pytest.fixture
async def link(database: str, tmp_path: Path) -> Aside:
    return Aside(tmp_path)


def unit(name: str, version: int = 1, **changes: Any) -> rows.UnitRow:
    return register.unit(source=SOURCE, source_id=name, version=version, **changes)


def wrong(name: str, version: int = 1) -> rows.UnitRow:
    """Fits its schema, and breaks a rule of the register."""
    return unit(name, version, parcel_code="360102001001GB00013")


async def spoil(name: str, **fields: Any) -> None:
    """The sender's program has written nonsense: into the row that waits, and into its log."""
    await query(
        """update gate_outgoing_row set body = (body::jsonb || $2::jsonb)::text,
             is_canonical = false where body::jsonb ->> 'source_id' = $1""",
        name,
        json.dumps(fields),
    )
    (row,) = await query("select body::text as body from gate_sent_row where key = $1", name)
    body = json.dumps({**json.loads(row["body"]), **fields}).encode()
    await query(
        "update gate_sent_row set body = $2::jsonb, digest = $3, version = $4 where key = $1",
        name, body.decode(), rows.digest(body), fields.get("version", json.loads(body)["version"]),
    )  # fmt: skip


async def held() -> dict[str, int]:
    found = await query("select source_id, version from registry_unit order by source_id")
    return {row["source_id"]: row["version"] for row in found}


async def open_rows() -> list[tuple[str, int]]:
    found = await query(
        "select key, version from gate_refused_row where healed_at is null order by key"
    )
    return [(row["key"], row["version"]) for row in found]


async def incidents() -> list[dict[str, Any]]:
    return await query("select id, kind, owner, state, resolution, evidence from incident")


async def incoming_status() -> StreamStatus:
    return next(
        one for one in await stream_status() if (one.stream, one.direction) == (STREAM, "in")
    )


async def newest_proof() -> tuple[bool, bool, int]:
    found = await query(
        """select is_equal, is_known, refused_rows from gate_proof where topic = 'unit'
           order by seq desc, id desc limit 1"""
    )
    return found[0]["is_equal"], found[0]["is_known"], found[0]["refused_rows"]


async def prove_once(link: Aside) -> None:
    await upkeep.prove(STREAM)
    await link.exchange()


async def test_an_unreadable_unit_is_set_aside_and_told_while_all_others_go_on(
    link: Aside,
) -> None:
    await link.put(*(unit(f"R{number}") for number in range(50)))
    await spoil("R7", state="ruined")
    await link.exchange()
    await link.send(unit("R50"))

    assert (len(await held()), "R7" in await held()) == (50, False)
    assert await position() == (2, "")
    (opened,) = await incidents()
    assert (opened["kind"], opened["owner"], opened["state"]) == (
        "gate_row_refused", "operator", "open",
    )  # fmt: skip
    told = json.loads(opened["evidence"])
    assert (told["topic"], told["source"], told["keys"], told["version"]) == (
        "unit", SOURCE, ["R7"], 1,
    )  # fmt: skip
    assert "state" in told["why"]
    assert "ruined" not in opened["evidence"]
    (kept,) = await query("select body_sealed, reason, times from gate_refused_row")
    assert json.loads(VAULT.open(kept["body_sealed"]))["state"] == "ruined"
    assert (kept["reason"], kept["times"]) == (told["why"], 1)
    status = await incoming_status()
    assert (status.refused_rows, status.state, status.healthy) == (1, "running", False)
    assert [words for words in await attention.attention(link.now) if "row_refused" in words]
    (seen,) = (await overview.overview(link.now)).refused_rows
    assert (seen.topic, seen.key, seen.version, seen.reason) == ("unit", "R7", 1, told["why"])
    assert "gate_row_refused" in staff_words.INCIDENT_WORDS
    with pytest.raises(StreamStillStopped):
        await api.resolve_incident(incident_id=opened["id"], by="丁一", resolution="好", now=T0)


async def test_a_proof_knows_the_difference_of_just_that_row_and_asks_for_nothing(
    link: Aside,
) -> None:
    await link.send(unit("R1"), unit("R2"))
    await link.send(wrong("R2", 2))

    await prove_once(link)
    await link.exchange(2)

    assert await newest_proof() == (False, True, 1)
    assert await query("select 1 from gate_repair") == []
    status = await incoming_status()
    assert (status.last_proof_equal, status.known_differences, status.differing_buckets) == (
        True, 1, 0,
    )  # fmt: skip
    await query("update registry_unit set row_digest = $1 where source_id = 'R1'", bytes(32))
    await prove_once(link)
    assert await newest_proof() == (False, False, 1)
    await link.exchange(2)
    assert await newest_proof() == (False, True, 1)


async def test_a_corrected_version_heals_it_and_ends_the_incident(link: Aside) -> None:
    await link.send(unit("R1"))
    await link.send(wrong("R1", 2))
    waiting = await open_rows()

    await link.send(unit("R1", 3, project="更正"))
    await jobs.end_gate_stops(now=link.now)

    assert waiting == [("R1", 2)]
    assert await held() == {"R1": 3}
    assert await open_rows() == []
    assert [(one["state"], one["resolution"]) for one in await incidents()] == [
        ("resolved", "这一行已有可以接收的版本")
    ]
    await prove_once(link)
    assert await newest_proof() == (True, False, 0)
    assert (await incoming_status()).healthy


async def test_a_later_version_is_not_held_up_and_an_older_one_never_comes_back(
    link: Aside,
) -> None:
    await link.send(unit("R1"))
    await link.put(unit("R1", 3), wrong("R1", 2))
    await link.exchange()

    assert await held() == {"R1": 3}
    assert await open_rows() == []
    assert await incidents() == []
    (kept,) = await query("select version, healed_by, reason from gate_refused_row")
    assert (kept["version"], kept["healed_by"]) == (2, "older")
    await link.send(wrong("R1", 4))
    await link.send(wrong("R1", 5))
    assert await held() == {"R1": 3}
    assert await open_rows() == [("R1", 5)]
    await jobs.end_gate_stops(now=link.now)
    assert [one["state"] for one in await incidents()] == ["open"]


@pytest.mark.parametrize(
    ("row", "bad"),
    [
        (register.unit(source=SOURCE, source_id="X1"), {"actual_floor": "twelve"}),
        (register.unit(source=SOURCE, source_id="X1"), {"parcel_code": "360102001001GB00013"}),
        (register.certificate(source=SOURCE, source_id="X1"), {"kind": "proof"}),
        (structs.replace(CASE, source_id="X1"), {"stages": "none"}),
        (structs.replace(CASE, source_id="X1"), {"state": " "}),
    ],
    ids=["unit_schema", "unit_rule", "certificate_rule", "case_schema", "case_rule"],
)
async def test_each_topic_that_skips_does(link: Aside, row: Struct, bad: Mapping[str, Any]) -> None:
    await link.put(row, unit("R1"))
    await spoil("X1", **bad)

    await link.exchange()

    assert await position() == (1, "")
    assert await open_rows() == [("X1", 1)]
    assert await held() == {"R1": 1}
    await link.send(structs.replace(row, version=2))
    assert await open_rows() == []


async def test_an_event_of_a_case_has_one_version_and_is_healed_when_it_comes_again(
    link: Aside,
) -> None:
    event = rows.CaseEventRow(
        source=SOURCE, source_id="E1", region="360101", case_source_id="C1", seq=1,
        what="stage_moved", stage="tax", state="doing", at=T0, note="",
    )  # fmt: skip
    await link.put(event, structs.replace(event, source_id="E2", seq=2))
    await spoil("E1", seq="first")
    await link.exchange()
    before = await open_rows()

    await link.send(event)

    assert before == [("E1", 1)]
    assert await open_rows() == []
    found = await query("select source_id from case_event order by source_id")
    assert [row["source_id"] for row in found] == ["E1", "E2"]


STOPPING = {
    "fee_bill": bill(1),
    "restriction": register.restriction(source=SOURCE),
    "right": register.right(source=SOURCE),
}


@pytest.mark.parametrize("topic", STOPPING)
async def test_money_restrictions_and_rights_stop_their_stream(link: Aside, topic: str) -> None:
    row: Any = STOPPING[topic]
    await link.put(unit("R1"), row)
    await spoil(row.source_id, region=7)

    await link.exchange()

    assert rows.ON_BAD_ROW[topic] is OnBadRow.stop
    assert await position() == (0, "bad_row")
    assert (await held(), await open_rows()) == ({}, [])


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "lj-county", "state": "x"},
        {"source_id": "R1:2", "state": "x"},
        {"source_id": 7},
        {"version": 0},
        {"version": None},
        {"state": "x", "more": 0.5},
    ],
)
async def test_a_row_that_does_not_say_which_of_the_senders_things_it_is_stops(
    link: Aside, fields: dict[str, Any]
) -> None:
    await link.put(unit("R1"), unit("R2"))
    await query(
        """update gate_outgoing_row set body = (body::jsonb || $1::jsonb)::text,
             is_canonical = false where body::jsonb ->> 'source_id' = 'R2'""",
        json.dumps(fields),
    )

    await link.exchange()

    assert await position() == (0, "bad_row")
    assert (await held(), await open_rows()) == ({}, [])


async def test_many_bad_rows_in_one_packet_are_no_single_mistakes(link: Aside) -> None:
    await link.put(*(wrong(f"R{number}") for number in range(refused.MAX_OF_PACKET + 1)))
    await link.exchange()

    assert await position() == (0, "bad_row")
    assert (await open_rows(), [one["kind"] for one in await incidents()]) == (
        [], ["gate_stopped"],
    )  # fmt: skip


async def test_too_many_open_ones_stop_the_stream(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "MAX_OPEN", 2)
    await link.send(wrong("R1"), wrong("R2"))
    await link.send(wrong("R3"))

    assert await position() == (1, "bad_row")
    assert await open_rows() == [("R1", 1), ("R2", 1)]


async def test_what_no_table_holds_is_found_among_the_others(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says which row it was: the database only refuses the packet's rows as a whole."""
    merge = registry_packets.merge_rows

    async def merge_what_fits(db: Any, kind: Any, incoming: Any, **values: Any) -> Any:
        if any(one.row.project == "zu lang" for one in incoming):
            await query("select repeat('x', 10)::int")
        return await merge(db, kind, incoming, **values)

    monkeypatch.setattr(registry_packets, "merge_rows", merge_what_fits)
    given = [unit(f"R{number}") for number in range(9)]
    given[5] = unit("R5", project="zu lang")
    await link.send(*given)

    assert await position() == (1, "")
    assert await open_rows() == [("R5", 1)]
    assert len(await held()) == 8


async def test_a_snapshot_heals_what_the_receiver_has_learned_to_read(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.send(unit("R1"), wrong("R2"))
    await snapshots.plan(STREAM, snapshots.Why.asked, now=link.now)
    await link.exchange()
    (repeated,) = await query("select times from gate_refused_row")
    monkeypatch.setitem(registry_packets._FAULTS, "unit", lambda row, today: "")

    await snapshots.plan(STREAM, snapshots.Why.asked, now=link.now)
    await link.exchange()

    assert repeated["times"] == 2
    assert await held() == {"R1": 1, "R2": 1}
    assert await open_rows() == []
    assert await newest_proof() == (True, False, 0)


async def test_a_jump_goes_over_a_snapshot_with_such_a_row(link: Aside) -> None:
    await link.send(unit("R1"))
    await link.put(unit("R2"), unit("R4"))
    await spoil("R4", state="ruined")
    await link.pack()
    link.outgoing_file(2).unlink()
    await link.put(wrong("R3"))
    await link.pack()
    link.carry()
    await link.arrive()
    link.later(200)

    await snapshots.plan(STREAM, snapshots.Why.asked, now=link.now)
    await link.pack()
    link.carry()
    await link.arrive()

    assert len(await query("select 1 from gate_event where kind = 'jumped'")) == 1
    assert (await position())[1] == ""
    assert await held() == {"R1": 1, "R2": 1}
    assert await open_rows() == [("R3", 1), ("R4", 1)]
    assert await newest_proof() == (False, True, 2)
    await link.send(unit("R3", 2), unit("R4", 2))
    await prove_once(link)
    assert await newest_proof() == (True, False, 0)


async def refused_beside_another(link: Aside) -> int:
    """R1 is set aside, and another unit of its bucket, which is told, is not."""
    bucket = merkle.bucket_of("R1")
    other = next(f"S{n}" for n in range(10_000) if merkle.bucket_of(f"S{n}") == bucket)
    await link.put(unit("R1"), unit(other))
    await spoil("R1", state="ruined")
    await link.exchange()
    return bucket


async def test_a_repair_mends_the_others_of_its_bucket(link: Aside) -> None:
    bucket = await refused_beside_another(link)
    await query("update registry_unit set usage = '9', row_digest = $1", bytes(32))

    await prove_once(link)
    await link.exchange(2)

    assert (await proofs())[0][1:] == (False, [bucket])
    assert await query("select usage from registry_unit") == [{"usage": "11"}]
    assert await open_rows() == [("R1", 1)]
    assert await newest_proof() == (False, True, 1)
    assert (await position())[1] == ""


async def test_pages_say_that_something_of_what_they_show_is_missing(link: Aside) -> None:
    await link.send(unit("R1"))
    await query(
        """insert into gate_peer (name, title, folder, stream_in, stream_out, regions,
             late_after_seconds, state, trouble, created_at, changed_at)
           values ($1, '市中心', '/x', $2, $3, '[]', 600, 'active', '', $4, $4)""",
        SOURCE, STREAM, BACK, T0,
    )  # fmt: skip
    await query("insert into gate_peer_source (source, peer) values ($1, $1)", SOURCE)
    await link.send(wrong("R1", 2))
    of_units = await age.copy_age([SOURCE], now=link.now, topics=["unit"])
    whole = await age.copy_age([SOURCE], now=link.now, topics=age.OF_CASES)
    await link.put(structs.replace(CASE, state=" "))
    await link.exchange()

    lacking = await age.copy_age([SOURCE], now=link.now, topics=age.OF_CASES)
    of_money = await age.copy_age([SOURCE], now=link.now)

    assert of_units["copy"].lacking == lacking["copy"].lacking == ("市中心",)
    assert whole["copy"].lacking == of_money["copy"].lacking == ()
    shown = await unit_by_code(register.UNIT)
    assert shown.source_id == "R1"


async def test_the_kit_lets_a_repair_pass_whose_bad_row_is_set_aside(link: Aside) -> None:
    await refused_beside_another(link)
    await query("update registry_unit set row_digest = $1", bytes(32))
    await prove_once(link)
    await link.pack()

    report = conformance.conform(link.outgoing, [keys.load_peer_key(PUBLIC)])

    (stream,) = report.streams
    assert stream.findings == []
    assert any("only this row is set aside" in note for note in stream.notes)


async def test_the_kit_counts_rows_that_were_set_aside_before_no_more(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "MAX_OF_PACKET", 1)
    for name in ("R1", "R2"):
        await link.put(unit(name))
        await spoil(name, state="ruined")
        await link.pack()
    await snapshots.plan(STREAM, snapshots.Why.asked, now=link.now)
    await link.pack()

    report = conformance.conform(link.outgoing, [keys.load_peer_key(PUBLIC)])

    (stream,) = report.streams
    assert {one.rule for one in stream.findings} == {"bad_row"}
    assert stream.snapshots == 1


async def test_the_kit_says_what_only_sets_a_row_aside_and_judges_on(link: Aside) -> None:
    await link.put(unit("R1"), unit("R2"))
    await spoil("R2", state="ruined")
    await link.pack()
    await upkeep.prove(STREAM)
    await link.pack()
    await link.put(bill(1))
    await spoil("F000001", state="lost")
    await link.pack()

    report = conformance.conform(link.outgoing, [keys.load_peer_key(PUBLIC)])

    (stream,) = report.streams
    assert [(one.rule, one.seq) for one in stream.findings] == [("bad_row", 1), ("bad_row", 3)]
    assert "only this row is set aside" in stream.findings[0].detail
    assert "the stream stops" in stream.findings[1].detail
    assert stream.proofs == 1
    assert device.move_once(link.outgoing, link.incoming) == 3
