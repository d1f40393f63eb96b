"""What `estation simulate` prints."""

from collections import Counter
from datetime import timedelta

import pytest

from estation.simulation import main
from estation.simulation.gate.day import Seen
from estation.simulation.hazards import EXPECTED
from estation.simulation.running import Result


def test_hazards_and_blows_are_counted_and_what_was_not_met_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commit = "payments.actions.refunds.send._tell_of_unfinished"
    met = Counter(EXPECTED - {"redis_lost"})
    results = [
        Result(
            first=first,
            worlds=25,
            steps=750,
            checks=400,
            successes=60,
            hazards=met,
            blows=Counter({(commit, "killed before"): 2, (commit, "failed after"): 1}),
            commits=Counter({commit: 9}),
        )
        for first in (0, 25)
    ]

    main._report(results, seed=7)

    said = capsys.readouterr().out
    assert "hazards not met: redis_lost\n" in said
    assert "seed 7: worlds 50, steps 1500, successes at channels 120" in said
    assert f"of {len(EXPECTED) - 1} kinds, blows at commits 6" in said
    assert "invariant checks 800, invariant breaks 0" in said
    struck = "reached 18, killed before 4, killed after 0, failed before 0, failed after 2"
    assert f"commit of {commit}: {struck}\n" in said


def test_a_log_hears_how_far_the_worlds_are(capsys: pytest.CaptureFixture[str]) -> None:
    with main._progress(1000) as played:
        for _ in range(40):
            played(25)

    said = capsys.readouterr().err.splitlines()
    assert said == [f"worlds {worlds} of 1000" for worlds in range(50, 1001, 50)]


def test_a_log_hears_every_few_seconds_how_far_a_day_at_the_gate_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moments = iter([0.0, 1.0, 4.9, 5.1, 6.0, 6.5])

    with main._day_progress(7, 24, seconds=lambda: next(moments)) as told:
        for minutes in (0, 15, 30, 45):
            told(seen("the faults go on", minutes))
        told(seen("the faults are over", 60))
        told(seen("the faults are over", 75))

    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[1] for line in said.err.splitlines()] == [
        " three databases are made",
        " hour 0.00 of 24, the faults go on",
        " hour 0.75 of 24, the faults go on",
        " hour 1.00 of 24, the faults are over",
    ]
    assert said.err.splitlines()[2].endswith(
        "9 packets sealed, 8 applied, 7 files lost or damaged, 6 written again, 5 programs killed"
    )


def seen(doing: str, minutes: int) -> Seen:
    return Seen(
        doing, timedelta(minutes=minutes), 0.5, sealed=9, applied=8, lost=7, healed=6, kills=5
    )
