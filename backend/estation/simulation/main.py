"""`estation simulate`: plays worlds, prints what was met, exits 1 with a story when money broke."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from estation.simulation import splits
from estation.simulation.city import STEPS
from estation.simulation.gate import day as gate_running
from estation.simulation.gate.day import Ending, Seen
from estation.simulation.hazards import EXPECTED
from estation.simulation.kills import Blow
from estation.simulation.orderings import FAMILIES, WrongMoney
from estation.simulation.running import Result, cohort_of, cohorts, explore_here, run_all

TELL_EVERY_SECONDS = 5.0

console = Console()
simulate = typer.Typer(
    help="Whole worlds under every hazard, replayable by seed.", invoke_without_command=True
)


@simulate.callback()
def payments(
    context: typer.Context,
    worlds: Annotated[int, typer.Option(min=1, max=10_000_000)] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed tells the same stories.")] = 1,
    world: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Replay only the cohort of this world; may be given again."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64)] = os.cpu_count() or 1,
    steps: Annotated[int, typer.Option(min=1, max=10_000)] = STEPS,
    tell: Annotated[bool, typer.Option(help="Print all that happened, word for word.")] = False,
) -> None:
    """Payments: real rules and actions on PostgreSQL, fake channels, invariants at every step.

    Looked at after every step, delivery and job that committed anything. Exit code 0: no
    invariant broke and every success ended applied, refunded or owned.
    """
    if context.invoked_subcommand is not None:
        return
    chosen = list(dict.fromkeys(map(cohort_of, world))) if world else cohorts(worlds)
    results = _with_progress(chosen, seed=seed, processes=processes, steps=steps, tell=tell)
    for result in results:
        if result.told:
            console.print(result.told, "", markup=False, highlight=False, soft_wrap=True, sep="\n")
    _report(results, seed)
    raise typer.Exit(1 if any(result.broken for result in results) else 0)


@simulate.command("orderings")
def all_orderings(
    length: Annotated[int, typer.Option(min=0, max=8, help="Events in a history.")] = 8,
) -> None:
    """Every ordering of pay, callback x2, query, close, expire, refund and refund notice, of a
    code that its channel closes (WeChat Pay), of one that lives on (Alipay), and of a combined
    order."""
    for family in FAMILIES:
        try:
            found = explore_here(length=length, family=family)
        except WrongMoney as wrong:
            console.print(f"{family}: {wrong}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None
        console.print(
            f"{family}: histories up to {length} events: {found.histories}, of full length "
            f"{found.complete}, through {found.states} states; every end is one of "
            f"{dict(found.outcomes)}, and each kind of end is the same money"
        )


@simulate.command("splits")
def random_splits(
    count: Annotated[int, typer.Option(min=1, max=100_000_000)] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed splits the same sums.")] = 1,
) -> None:
    """Random payments shared among payees, their fees, corrections and refunds in parts."""
    try:
        with _progress(count, "splits") as played:
            refunds = splits.run(count=count, seed=seed, told=played)
    except splits.NotExact as wrong:
        console.print(str(wrong), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(f"seed {seed}: splits {count}, refunds in parts {refunds}, not exact 0")


@simulate.command("gate")
def gate_days(
    hours: Annotated[float, typer.Option(min=0.1, max=24 * 31)] = 24,
    seed: Annotated[int, typer.Option(help="The same seed meets the same faults.")] = 1,
    days: Annotated[int, typer.Option(min=1, max=1000, help="With seeds seed, seed + 1, …")] = 1,
) -> None:
    """The gate: three sides and lossy one-way media, programs killed, disks full, clocks wrong.

    Exit code 0: after the faults all sides became equal without anybody's help, and a stream
    that two senders wrote stopped and said so.
    """
    endings = [_play_day(number, hours) for number in range(seed, seed + days)]
    raise typer.Exit(1 if any(ending.broken for ending in endings) else 0)


def _play_day(seed: int, hours: float) -> Ending:
    with _day_progress(seed, hours) as told:
        ending = gate_running.play_here(seed, hours, told=told)
    _report_day(ending)
    return ending


@contextmanager
def _day_progress(
    seed: int, hours: float, *, seconds: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[Seen], None]]:
    """A bar for a person; for a log a line every few seconds, and when something else begins."""
    listener = Console(stderr=True)
    if listener.is_terminal:
        columns = (BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=listener) as progress:
            bar = progress.add_task(f"seed {seed}", total=1.0)
            yield lambda seen: progress.update(
                bar, completed=seen.share, description=_words(seen, hours)
            )
        return
    listener.print(f"seed {seed}: three databases are made", highlight=False)
    said = ("", -TELL_EVERY_SECONDS)

    def told(seen: Seen) -> None:
        nonlocal said
        now = seconds()
        if seen.doing != said[0] or now - said[1] >= TELL_EVERY_SECONDS:
            said = (seen.doing, now)
            listener.print(f"seed {seed}: {_words(seen, hours)}", highlight=False, soft_wrap=True)

    yield told


def _words(seen: Seen, hours: float) -> str:
    clock = f"{seen.clock.total_seconds() / 3600:.2f}"
    return (
        f"hour {clock} of {hours:g}, {seen.doing}: {seen.sealed} packets sealed, "
        f"{seen.applied} applied, {seen.lost} files lost or damaged, "
        f"{seen.healed} written again, {seen.kills} programs killed"
    )


def _report_day(ending: Ending) -> None:
    for title, counted in (
        ("fault met", ending.met), ("what was done", ending.did), ("what healed it", ending.healed),
        ("rows, equal on both sides", ending.rows),
    ):  # fmt: skip
        table = Table(title, "times")
        for name, times in sorted(counted.items()):
            table.add_row(name, str(times))
        console.print(table)
    if ending.broken:
        console.print(f"seed {ending.seed}: the sides are NOT equal", soft_wrap=True)
        for words in (*ending.story, ending.broken):
            console.print(words, markup=False, highlight=False, soft_wrap=True)
        return
    roots = Table("stream", "topic", "source", "rows", "Merkle root")
    for (stream, topic, source), (rows, root, _) in sorted(ending.roots.items()):
        roots.add_row(stream, topic, source, str(rows), root[:16])
    console.print(roots)
    console.print(
        f"seed {ending.seed}: {ending.hours:g} hours, faults met {ending.met.total()}; "
        f"{ending.rows.total()} rows equal on both sides {ending.peace} after the last fault, "
        f"{len(ending.roots)} proofs equal; two senders with one key: {ending.fork}",
        soft_wrap=True,
    )


def _with_progress(
    chosen: list[range], *, seed: int, processes: int, steps: int, tell: bool
) -> list[Result]:
    total = sum(map(len, chosen))
    with _progress(total) as played:
        return run_all(
            chosen,
            seed=seed,
            processes=min(processes, len(chosen)),
            steps=steps,
            tell=tell,
            told=lambda result: played(result.worlds),
        )


@contextmanager
def _progress(total: int, what: str = "worlds") -> Iterator[Callable[[int], None]]:
    """A bar for a person; for a log a line at each twentieth."""
    listener = Console(stderr=True)
    if listener.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=listener) as progress:
            bar = progress.add_task(what, total=total)
            yield lambda worlds: progress.advance(bar, worlds)
        return
    done = 0

    def played(worlds: int) -> None:
        nonlocal done
        before, done = done, done + worlds
        if before * 20 // total != done * 20 // total:
            listener.print(f"{what} {done} of {total}", highlight=False)

    yield played


def _report(results: list[Result], seed: int) -> None:
    """Plain lines that a person and a log reader can both read."""
    broken = [result for result in results if result.broken]
    hazards = sum((result.hazards for result in results), Counter[str]())
    ends = sum((result.ends for result in results), Counter[str]())
    for title, counted in (("hazard met", hazards), ("what became of it", ends)):
        table = Table(title, "times")
        for name, times in sorted(counted.items()):
            table.add_row(name, str(times))
        console.print(table)
    blows = _report_blows(results)
    unmet = sorted(EXPECTED - hazards.keys())
    console.print(f"hazards not met: {', '.join(unmet) or 'none'}", soft_wrap=True)
    console.print(
        f"seed {seed}: worlds {sum(r.worlds for r in results)}, "
        f"steps {sum(r.steps for r in results)}, "
        f"successes at channels {sum(r.successes for r in results)}, "
        f"hazards met {hazards.total()} of {len(EXPECTED) - len(unmet)} kinds, "
        f"blows at commits {blows}, "
        f"invariant checks {sum(r.checks for r in results)}, invariant breaks {len(broken)}",
        soft_wrap=True,
    )
    console.print(
        f"histories {_digest(result.history for result in results)}, "
        f"books {_digest(result.books for result in results)}: "
        "the same wherever the same worlds are played",
        soft_wrap=True,
    )
    for result in broken:
        console.print(f"\ninvariant broken in worlds from {result.first} (--world {result.first}):")
        console.print(result.broken, markup=False, highlight=False, soft_wrap=True)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _report_blows(results: list[Result]) -> int:
    """Every commit of our programs, and how often they were killed or lost their database there."""
    reached = sum((result.commits for result in results), Counter[str]())
    blows = sum((result.blows for result in results), Counter[tuple[str, str]]())
    for name, times in sorted(reached.items()):
        struck = ", ".join(f"{blow} {blows[name, blow]}" for blow in Blow)
        console.print(f"commit of {name}: reached {times}, {struck}", soft_wrap=True)
    return blows.total()
