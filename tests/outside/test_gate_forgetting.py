"""What happened at the gate is kept for as long as somebody asks about it, and no longer."""

from datetime import timedelta
from pathlib import Path

import pytest

from estation.outside.gate import events, refused, upkeep
from tests.outside.gate_side import STREAM, query
from tests.outside.test_gate_refused import Aside, unit, wrong


@pytest.fixture
async def link(database: str, tmp_path: Path) -> Aside:
    return Aside(tmp_path)


async def test_old_events_and_rows_that_are_over_go_and_open_ones_stay(link: Aside) -> None:
    await link.send(wrong("R1"), wrong("R2"))
    await link.send(unit("R2", 2))
    for kind, days, about in (
        ("repaired", 31, "a"), ("repaired", 29, "b"), ("stopped", 399, "c"), ("stopped", 401, "d"),
        ("jumped", 399, "e"), ("no_room", 500, "still"), ("no_room", 500, "over"),
        ("room_again", 499, "over"),
    ):  # fmt: skip
        at = link.now - timedelta(days=days)
        await events.record(STREAM, kind, now=at, distinction=about, detail={})
    await upkeep.look_after(STREAM, folder=link.outgoing, now=link.now)

    link.later(2 * 3600)
    await upkeep.look_after(STREAM, folder=link.outgoing, now=link.now)

    found = await query("select distinction from gate_event where kind not like 'row%' order by 1")
    kept = {row["distinction"] for row in found}
    assert kept - {"over"} == {"b", "c", "e", "still"}
    link.later(2 * 3600)
    await upkeep.look_after(STREAM, folder=link.outgoing, now=link.now)
    found = await query("select distinction from gate_event where kind not like 'row%' order by 1")
    assert {row["distinction"] for row in found} == {"b", "c", "e", "still"}
    link.later(91 * 86400)
    await refused.forget(now=link.now)
    assert [row["key"] for row in await query("select key from gate_refused_row")] == ["R1"]


async def test_events_go_in_batches(link: Aside) -> None:
    for number in range(7):
        at = link.now - timedelta(days=100 - number)
        await events.record(STREAM, "repaired", now=at, distinction=str(number), detail={})

    gone = await events.forget(now=link.now, limit=3)

    assert gone == 3
    left = await query("select distinction from gate_event order by at")
    assert [row["distinction"] for row in left] == ["3", "4", "5", "6"]
