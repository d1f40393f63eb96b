"""Which refused rows are news, and what ends them: nothing that is over stands there for ever."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from estation.outside.gate import logtrees, merkle, peering, refused, rows, snapshots
from estation.outside.gate.errors import RowNotSetAside
from estation.payments import jobs
from estation.registry import packets as registry_packets
from estation.shared.transactions import in_transaction
from tests.outside.gate_side import BACK, STREAM, T0, position, query
from tests.outside.test_gate_refused import (
    SOURCE,
    Aside,
    held,
    incidents,
    link,
    newest_proof,
    open_rows,
    prove_once,
    spoil,
    unit,
    wrong,
)

__all__ = ["link"]


def of_one_bucket(count: int) -> list[str]:
    """Names whose rows a repair brings together."""
    bucket = merkle.bucket_of("R1")
    names = (f"R{number}" for number in range(1, 100_000))
    found = (name for name in names if merkle.bucket_of(name) == bucket)
    return [next(found) for _ in range(count)]


async def ended() -> list[tuple[str, int, str]]:
    found = await query(
        """select key, version, healed_by from gate_refused_row where healed_at is not null
           order by key, version"""
    )
    return [(row["key"], row["version"], row["healed_by"]) for row in found]


async def void(name: str) -> None:
    """Somebody changed it past the gate."""
    await query("update registry_unit set row_digest = $1 where source_id = $2", bytes(32), name)


async def send_snapshot(link: Aside) -> None:
    await snapshots.plan(STREAM, snapshots.Why.asked, now=link.now)
    await link.exchange()


async def jump_over(
    link: Aside, *lost: Any, before_end: Callable[[], Awaitable[None]] | None = None
) -> None:
    """These rows' packet is lost, and a snapshot takes its place."""
    await link.put(*(lost or [unit("Z9")]))
    for row in lost:
        if row.project == "spoilt":
            await spoil(row.source_id, state="ruined")
    (seq,) = await link.pack()
    link.outgoing_file(seq).unlink()
    await link.put(unit("Z8"))
    await link.pack()
    link.carry()
    await link.arrive()
    link.later(200)
    await snapshots.plan(STREAM, snapshots.Why.asked, now=link.now)
    if before_end is not None:
        await before_end()
    await link.pack()
    link.carry()
    await link.arrive()


async def restored(name: str, row: rows.UnitRow) -> None:
    """The sender's database is an older one: its log has this row as the newest."""
    body = rows.encode_row("unit", row)
    await query(
        """update gate_sent_row set version = $2, body = $3::jsonb, digest = $4
           where key = $1""",
        name, row.version, body.decode(), rows.digest(body),
    )  # fmt: skip


@pytest.mark.parametrize("is_readable", [True, False])
async def test_rows_refused_one_at_a_time_do_not_stop_the_snapshot_that_brings_them_together(
    link: Aside, monkeypatch: pytest.MonkeyPatch, is_readable: bool
) -> None:
    monkeypatch.setattr(refused, "MAX_OF_PACKET", 2)
    for name in ("R1", "R2", "R3"):
        await link.put(wrong(name))
        if not is_readable:
            await spoil(name, state="ruined")
        await link.exchange()

    await send_snapshot(link)

    assert (await position())[1] == ""
    assert await open_rows() == [("R1", 1), ("R2", 1), ("R3", 1)]
    assert [row["times"] for row in await query("select times from gate_refused_row")] == [2] * 3
    await link.send(wrong("R4"), wrong("R5"), wrong("R6"))
    assert (await position())[1] == "bad_row"
    assert len(await open_rows()) == 3


async def test_a_rule_that_became_stricter_refuses_nothing_that_is_here_as_it_came(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "MAX_OF_PACKET", 1)
    await link.send(unit("R1"), unit("R2"), unit("R3"))
    monkeypatch.setitem(registry_packets._FAULTS, "unit", lambda row, today: "new rule")

    await send_snapshot(link)

    assert (await position())[1] == ""
    assert await query("select 1 from gate_refused_row") == []
    assert await newest_proof() == (True, False, 0)


async def test_a_repair_counts_only_what_is_refused_for_the_first_time(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "MAX_OF_PACKET", 2)
    good, *bad = of_one_bucket(4)
    await link.send(unit(good))
    for name in bad:
        await link.send(wrong(name))
    await void(good)

    await prove_once(link)
    await link.exchange(2)

    assert (await position())[1] == ""
    assert len(await open_rows()) == 3
    assert await newest_proof() == (False, True, 3)


async def test_a_jump_counts_only_what_is_refused_for_the_first_time(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "MAX_OF_PACKET", 1)
    for name in ("R1", "R2", "R3", "R4"):
        await link.send(wrong(name))

    await jump_over(link)

    assert await query("select 1 from gate_event where kind = 'jump_refused'") == []
    assert (await held(), len(await open_rows())) == ({"Z8": 1, "Z9": 1}, 4)


async def test_a_jump_with_more_than_single_mistakes_does_not_happen(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "MAX_OF_PACKET", 1)
    await link.send(unit("R1"))

    await jump_over(link, *(unit(f"S{number}", project="spoilt") for number in range(5)))

    assert len(await query("select 1 from gate_event where kind = 'jump_refused'")) == 1
    assert (await held(), await open_rows()) == ({"R1": 1}, [])


async def test_many_refused_rows_cost_each_row_a_few_looks_only(
    link: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused, "MAX_OF_PACKET", 100)
    fault_of = registry_packets._FAULTS["unit"]
    looked: list[str] = []

    def look(row: Any, today: Any) -> str:
        looked.append(row.source_id)
        return fault_of(row, today)

    monkeypatch.setitem(registry_packets._FAULTS, "unit", look)
    given = [one for n in range(30) for one in (unit(f"A{n}"), unit(f"B{n}"), wrong(f"R{n}"))]

    await link.send(*given)
    first = len(looked)
    await send_snapshot(link)

    assert (len(await held()), len(await open_rows())) == (60, 30)
    assert first <= 3 * len(given)
    assert len(looked) - first <= 3 * len(given)


async def test_a_thing_that_comes_with_another_stream_ends_its_refused_row(link: Aside) -> None:
    await link.send(wrong("R1"))
    await query("update gate_refused_row set stream = 'former-online'")

    await link.send(unit("R1", 2))

    assert await ended() == [("R1", 1, "taken_in")]


async def test_a_version_that_its_topic_does_not_have_is_over_with_the_row(link: Aside) -> None:
    event = rows.CaseEventRow(
        source=SOURCE, source_id="E1", region="360101", case_source_id="C1", seq=1,
        what="stage_moved", stage="tax", state="doing", at=T0, note="",
    )  # fmt: skip
    await link.put(event)
    await spoil("E1", version=2)
    await link.exchange()
    before = await open_rows()

    await link.send(event)

    assert before == [("E1", 2)]
    assert (await open_rows(), await ended()) == ([], [("E1", 2, "taken_in")])


async def test_a_proof_without_the_thing_ends_its_refused_row(link: Aside) -> None:
    await link.send(unit("R1"), wrong("R2"))
    await link.forget("R2")

    await prove_once(link)

    assert await ended() == [("R2", 1, "not_sent")]
    assert await newest_proof() == (True, False, 0)


async def test_an_incomplete_proof_ends_nothing(link: Aside) -> None:
    await link.send(unit("R1"), wrong("R2"))
    await link.forget("R2")
    await query("update gate_upkeep set log_is_complete = false")

    await prove_once(link)

    assert await open_rows() == [("R2", 1)]


async def test_a_repair_without_the_thing_ends_its_refused_row(link: Aside) -> None:
    good, bad = of_one_bucket(2)
    await link.send(unit(good), wrong(bad))
    await link.forget(bad)
    await void(good)

    await prove_once(link)
    await link.exchange(1)

    assert await ended() == [(bad, 1, "not_sent")]


@pytest.mark.parametrize("by", ["proof", "repair"])
async def test_a_sender_that_stands_at_an_older_version_ends_the_refused_row(
    link: Aside, by: str
) -> None:
    good, name = of_one_bucket(2)
    await link.send(unit(good), unit(name))
    await link.send(wrong(name, 2))
    await restored(name, unit(name))
    if by == "repair":
        await void(good)

    await prove_once(link)
    await link.exchange(2)

    assert await ended() == [(name, 2, "not_sent")]
    assert await newest_proof() == (True, False, 0)


async def test_a_jump_ends_what_its_sender_does_not_have(link: Aside) -> None:
    await link.send(unit("R1"))
    await link.send(wrong("R1", 2), wrong("R2"))
    await link.forget("R2")
    await restored("R1", unit("R1"))

    await jump_over(link)

    assert await ended() == [("R1", 2, "not_sent"), ("R2", 1, "not_sent")]
    assert await newest_proof() == (True, False, 0)


async def test_a_refused_row_never_takes_the_place_of_a_newer_one_that_is_here(
    link: Aside,
) -> None:
    here, bad = of_one_bucket(2)
    await link.send(wrong(here))
    await link.send(unit(here, 3), wrong(bad))
    await query("update gate_refused_row set healed_at = null, healed_by = ''")

    await prove_once(link)

    assert await newest_proof() == (False, True, 2)


async def test_a_change_past_the_gate_under_a_refused_row_is_no_known_difference(
    link: Aside,
) -> None:
    await link.send(unit("R1"))
    await link.send(wrong("R1", 2))
    await void("R1")

    await prove_once(link)

    assert (await newest_proof())[:2] == (False, False)


async def test_a_stranger_whose_row_a_repair_refuses_stays_a_stranger(link: Aside) -> None:
    good, name = of_one_bucket(2)
    await link.send(unit(good), unit(name))
    await query(
        """insert into gate_phantom (id, stream, topic, source, key, named_at)
           values (gen_random_uuid(), $1, 'unit', $2, $3, $4)""",
        STREAM, SOURCE, name, T0,
    )  # fmt: skip
    await link.send(wrong(name, 2))
    await void(good)

    await prove_once(link)
    await link.exchange(2)

    assert await query("select key from gate_phantom") == [{"key": name}]
    assert await open_rows() == [(name, 2)]
    await link.send(unit(name, 3))
    assert await query("select key from gate_phantom") == []


async def test_each_further_bad_version_is_the_same_row_and_the_same_incident(
    link: Aside,
) -> None:
    for version in (1, 2, 3):
        await link.send(wrong("R1", version))

    (kept,) = await query("select version, times, healed_by from gate_refused_row")
    assert (kept["version"], kept["times"], kept["healed_by"]) == (3, 3, "")
    assert len(await incidents()) == 1
    assert len(await query("select 1 from gate_event where kind = 'row_refused'")) == 1


async def test_an_older_version_that_comes_again_and_again_is_kept_once(link: Aside) -> None:
    await link.send(unit("R1", 3))
    for _ in range(3):
        await link.send(wrong("R1", 2))

    (kept,) = await query("select times, healed_by from gate_refused_row")
    assert (kept["times"], kept["healed_by"]) == (3, "older")


async def test_a_row_raised_past_the_gate_does_not_hide_what_a_repair_brings(link: Aside) -> None:
    await link.send(unit("R1"))
    await query("update registry_unit set version = 9, row_digest = $1", bytes(32))
    await link.send(wrong("R1", 2))
    before = await open_rows()

    await prove_once(link)
    await link.exchange(2)

    assert (before, await open_rows()) == ([], [("R1", 2)])


async def test_a_stranger_here_hides_no_refused_row(link: Aside) -> None:
    await link.send(unit("R1", 3))
    await query(
        """insert into gate_phantom (id, stream, topic, source, key, named_at)
           values (gen_random_uuid(), $1, 'unit', $2, 'R1', $3)""",
        STREAM, SOURCE, T0,
    )  # fmt: skip

    await link.send(wrong("R1", 2))

    assert await open_rows() == [("R1", 2)]


async def test_a_jump_takes_the_newest_version_that_can_be_taken_in(link: Aside) -> None:
    async def change() -> None:
        await link.put(unit("R1"), unit("R1", 2), wrong("R1", 3))

    await jump_over(link, before_end=change)

    assert await held() == {"R1": 2, "Z8": 1, "Z9": 1}
    assert await open_rows() == [("R1", 3)]


async def test_a_jump_drops_no_row_in_silence(link: Aside) -> None:
    await link.send(unit("R1"))
    said = rows.ReceivedUpToRow(stream=BACK, seq=1, digest="0" * 64, at=T0)

    async def spoil_it() -> None:
        await link.put(said)
        await query(
            """update gate_outgoing_row set is_canonical = false,
                 body = (body::jsonb || '{"more": 0.5}')::text
               where topic = 'received_up_to' and packed_seq is null"""
        )

    await jump_over(link, before_end=spoil_it)

    assert len(await query("select 1 from gate_event where kind = 'jump_refused'")) == 1


async def test_a_person_gives_a_row_up_and_says_why(link: Aside) -> None:
    await link.send(unit("R1"))
    await link.send(wrong("R1", 2), wrong("R2"))
    (row,) = await query("select id from gate_refused_row where key = 'R1'")
    deed = peering.Deed(by="yw01", reason="来源已停用这一编号")

    await peering.give_up_row(row["id"], deed=deed, now=link.now)
    await jobs.end_gate_stops(now=link.now)

    assert (await open_rows(), await ended()) == ([("R2", 1)], [("R1", 2, "given_up")])
    (done,) = await query("select what, about, by, reason from gate_deed")
    assert (done["what"], done["by"], done["reason"]) == (
        "give_up_row", "yw01", "来源已停用这一编号",
    )  # fmt: skip
    assert {(one["state"], one["resolution"]) for one in await incidents()} == {
        ("open", ""), ("resolved", "已由工作人员放弃这一行"),
    }  # fmt: skip
    with pytest.raises(RowNotSetAside):
        await peering.give_up_row(row["id"], deed=deed, now=link.now)


async def test_a_row_that_was_given_up_is_not_told_again_and_is_no_unknown_difference(
    link: Aside,
) -> None:
    await link.send(wrong("R1"))
    (row,) = await query("select id from gate_refused_row")
    deed = peering.Deed(by="yw01", reason="来源已停用这一编号")
    await peering.give_up_row(row["id"], deed=deed, now=link.now)

    await send_snapshot(link)

    assert (await open_rows(), len(await incidents())) == ([], 1)
    assert await newest_proof() == (False, True, 1)
    await link.send(wrong("R1", 2))
    assert (await open_rows(), len(await incidents())) == ([("R1", 2)], 2)
    await link.send(unit("R1", 3))
    await prove_once(link)
    assert await newest_proof() == (True, False, 0)


async def test_what_ends_a_refused_row_is_said_of_its_incident(link: Aside) -> None:
    await link.send(wrong("R1"))
    await link.forget("R1")

    await prove_once(link)
    await jobs.end_gate_stops(now=link.now)

    (one,) = await incidents()
    assert (one["state"], one["resolution"]) == (
        "resolved", "来源现在没有这一行，或没有这一版本",
    )  # fmt: skip


async def test_a_sender_proves_also_what_it_could_not_read_today(link: Aside) -> None:
    await link.send(unit("R1"))
    trees = await logtrees.make(STREAM)
    await link.put(unit("R2"))
    await spoil("R2", state="ruined")

    async with in_transaction() as tx:
        await trees.refresh(tx, STREAM)

    fresh = await logtrees.make(STREAM)
    assert trees.trees["unit", SOURCE].root == fresh.trees["unit", SOURCE].root
    assert trees.trees["unit", SOURCE].rows == 2
