"""A seed tells the same story, word for word, and leaves the same books on any machine, however
busy it is."""

import os
import random
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from estation.simulation import running, seeded
from estation.simulation.kills import Fate
from estation.simulation.running import Result, cohort_of

STEPS = 8
"""So few that the test is soon over; each of them is the same as in a whole world."""

MORE_STEPS = 14
"""Enough for tasks to meet at the connection."""


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")


def played_afresh(cluster: Path, *, processes: int, hash_seed: int) -> subprocess.Popen[str]:
    """The cohorts of two worlds, by a program of their own."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.simulation.playing",
            str(cluster), str(processes), str(STEPS), "427", "0",
        ],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_two_programs_tell_the_same_worlds_word_for_word_and_leave_the_same_books(
    cluster: Path,
) -> None:
    """One plays both cohorts one after the other, the other at once; all on one busy machine."""
    one = played_afresh(cluster, processes=1, hash_seed=1)
    other = played_afresh(cluster, processes=2, hash_seed=2)

    (told, trouble), (again, _) = one.communicate(), other.communicate()

    assert one.returncode == other.returncode == 0, trouble
    assert told == again
    assert [f"world {number}, " in told for number in (0, 24, 400, 427, 449)] == [
        True, True, False, True, True,
    ]  # fmt: skip


def unseeded(repeatable: Callable[..., Any]) -> Callable[..., Any]:
    """The numbers of orders and rows come from the machine."""
    noise = os.urandom

    @contextmanager
    def almost(seed: str, fate: Fate) -> Iterator[None]:
        with repeatable(seed, fate), pytest.MonkeyPatch.context() as patch:
            patch.setattr(random, "_urandom", noise)
            yield

    return almost


def overtaking(seconds: float) -> Callable[..., Any]:
    """The database is so fast, or we are so slow, that its answer comes before the next turn."""

    def select(self: Any, timeout: float | None = None) -> Any:
        return selectors.DefaultSelector.select(self, seconds if timeout == 0 else timeout)

    return select


@pytest.fixture(scope="module")
def played(cluster: Path) -> Result:
    """A cohort in which two tasks soon want the connection at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTATION_ENVIRONMENT", "local")
        return once_more(cluster)


def once_more(cluster: Path) -> Result:
    return running.run_here(cohort_of(150), seed=1, steps=MORE_STEPS, cluster=cluster)


@pytest.mark.timeout(300)
def test_without_the_seed_of_its_numbers_a_cohort_leaves_other_books(
    played: Result, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "repeatable", unseeded(running.repeatable))

    assert once_more(cluster).books != played.books


@pytest.mark.timeout(300)
def test_with_answers_that_overtake_a_cohort_leaves_other_books(
    played: Result, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = set()
    for seconds in (0.001, 0.01):  # on a busy machine PostgreSQL needs longer
        monkeypatch.setattr(seeded._Patient, "select", overtaking(seconds))
        books.add(once_more(cluster).books)
        if books != {played.books}:
            break

    assert books != {played.books}
