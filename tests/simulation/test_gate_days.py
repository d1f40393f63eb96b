"""The gate's simulator finds both sides equal after every fault, and sees a row that is lost."""

import os
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import pytest

from estation.fees import packets
from estation.outside.gate.errors import Reason
from estation.simulation.gate import day
from estation.simulation.gate.program import Start, run
from estation.simulation.gate.records import differences

HOURS = float(os.environ.get("SIMULATED_GATE_HOURS", "0.5"))
SEED = int(os.environ.get("SIMULATED_SEED", "1"))


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_the_faults_all_sides_are_equal_and_a_fork_stops_its_stream_only() -> None:
    seen: list[day.Seen] = []

    ending = day.play_here(SEED, HOURS, told=seen.append)

    assert ending.broken == "", ending.story
    assert ending.rows["fee_bill"] > 0
    assert ending.rows["receipt"] > 0
    assert ending.rows["payment_evidence"] > 0
    assert all(is_equal for _, _, is_equal in ending.roots.values())
    assert {topic for _, topic, _ in ending.roots} >= {
        "fee_bill", "case", "right", "receipt", "payment_evidence",
    }  # fmt: skip
    assert seen[0].doing == "jc-center opens"
    assert 0 < seen[-1].applied <= ending.did["packets applied"]
    assert seen[-1].lost > 0
    assert [one.share for one in seen] == sorted(one.share for one in seen)
    assert ending.met["file lost"] > 0
    assert ending.met["file cut short"] > 0
    assert ending.healed["packets written again"] > 0
    assert ending.did["misspell"] > 0
    assert 0 < ending.healed["row_refused"] == ending.healed["row_taken_in"]
    assert Reason.fork in ending.fork


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_side_that_never_takes_in_certain_rows_is_not_called_equal() -> None:
    ending = day.play_here(
        SEED,
        0.1,
        told=lambda seen: None,
        program=deaf_to_some_bills,
        longest_peace=timedelta(minutes=5),
    )

    assert "fee_bill" in ending.broken


def deaf_to_some_bills(start: Start, pipe: Connection) -> None:
    """The online side's program with a bug: bills of certain numbers are passed over in silence,
    also when the centre repairs."""
    merge = packets.merge_bills

    async def merge_some(db: Any, incoming: Sequence[Any], **values: Any) -> Any:
        heard = [one for one in incoming if not one.row.source_id.endswith("7")]
        return await merge(db, heard, **values)

    with mock.patch.object(packets, "merge_bills", merge_some):
        run(start, pipe)


def test_a_row_that_one_side_lost_or_holds_otherwise_is_named() -> None:
    centre = {"case": {"C1": (2, "open"), "C2": (1, "open")}, "unit": {"U1": (1, "here")}}
    online = {"case": {"C1": (1, "open")}, "unit": {"U1": (1, "here")}}

    found = differences(centre, online)

    assert found == ["case: 2 differ, C1 is (2, 'open') at the centre and (1, 'open') online"]
