"""What `estation simulate` prints."""

from collections import Counter

import pytest

from estation.simulation import main
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
