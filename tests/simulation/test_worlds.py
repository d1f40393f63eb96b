"""The simulator finds no lost fen, finds planted ones, and tells the same story twice."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from estation.payments import rules
from estation.payments.actions import writing
from estation.payments.rules import OutcomeKind, Posting, Verdict
from estation.simulation import running
from estation.simulation.hazards import LIKELY

WORLDS = int(os.environ.get("SIMULATED_WORLDS", "100"))
SEED = int(os.environ.get("SIMULATED_SEED", "1"))


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_in_every_world_each_success_has_one_end_and_the_books_are_the_channels() -> None:
    results = running.run_all(
        running.cohorts(WORLDS), seed=SEED, processes=2, told=lambda result: None
    )

    assert [result.broken for result in results if result.broken] == []
    assert sum(result.worlds for result in results) >= WORLDS
    assert sum(result.successes for result in results) > WORLDS
    met = sum((result.hazards for result in results), running.Counter[str]())
    assert {hazard for hazard in LIKELY if not met[hazard]} <= RARE
    assert met["crash_before_commit"] > 0
    assert met["crash_after_commit"] > 0


RARE = {hazard for hazard in LIKELY if hazard.startswith("refund_")}
"""So few that a hundred worlds may do without."""


def blind_to_repeats(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """A second payment of a paid order is applied again."""

    def judged(*args: Any, **values: Any) -> Verdict:
        verdict = judge(*args, **values)
        return rules.NOTED if verdict.outcome is OutcomeKind.INCIDENT else verdict

    return judged


def generous(post: Callable[..., str]) -> Callable[..., str]:
    """Money that should wait in suspense is given to the payees."""

    def posted(self: Any, report: Any, attempt: Any, kind: Posting) -> str:
        return post(self, report, attempt, Posting.PAYMENT if attempt else kind)

    return posted


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("sabotage", ["an incident is dropped", "suspense is applied"])
def test_a_planted_fault_is_found_and_its_story_is_told(
    sabotage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sabotage == "an incident is dropped":
        monkeypatch.setattr(rules, "judge", blind_to_repeats(rules.judge))
    else:
        monkeypatch.setattr(writing.Writing, "post", generous(writing.Writing.post))

    result = running.run_here(running.cohort_of(0), seed=SEED)

    assert "start_order" in result.broken


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_failing_seed_replays_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "judge", blind_to_repeats(rules.judge))

    first = running.run_here(running.cohort_of(0), seed=SEED)
    again = running.run_here(running.cohort_of(0), seed=SEED)

    assert first.broken
    assert again == first
