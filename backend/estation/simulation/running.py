"""Runs cohorts of worlds in processes of their own, each with a PostgreSQL of its own."""

import asyncio
import logging
import multiprocessing
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from tortoise import Tortoise

from estation import settings as settings_module
from estation.local import LocalPostgres
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest
from estation.simulation.city import STEPS, City, InvariantBroken
from estation.simulation.kills import Fate
from estation.simulation.orderings import EVENTS, Explored, explore
from estation.simulation.seeded import repeatable

COHORT: Final = 25
FAST: Final = {
    # Nothing here outlives the run, and kills are played by us, not by pulling the plug.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "shared_buffers": "64MB",
}


@dataclass(slots=True)
class Result:
    """Of one cohort; `broken` is the story when something did not hold."""

    first: int
    worlds: int
    steps: int
    checks: int
    successes: int
    hazards: Counter[str] = field(default_factory=Counter)
    blows: Counter[tuple[str, str]] = field(default_factory=Counter)  # (commit, kills.Blow)
    commits: Counter[str] = field(default_factory=Counter)  # reached, by name
    ends: Counter[str] = field(default_factory=Counter)
    broken: str = ""


def cohort_of(world: int) -> range:
    """A world always meets the same others, so that its story is told again word for word."""
    first = world - world % COHORT
    return range(first, first + COHORT)


def cohorts(worlds: int) -> list[range]:
    """At least so many worlds, from number 0 on, in whole cohorts."""
    return [cohort_of(first) for first in range(0, worlds, COHORT)]


def run_all(
    numbers: Iterable[range],
    *,
    seed: int,
    processes: int,
    told: Callable[[Result], None],
    steps: int = STEPS,
) -> list[Result]:
    """Play every cohort; `told` hears of each as it ends. Stops early after a broken one."""
    results: list[Result] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="estation-simulate-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's unprivileged user walks through it
        with ProcessPoolExecutor(
            processes, mp_context=context, initializer=_begin, initargs=(folder,)
        ) as pool:
            waiting: set[Future[Result]] = {
                pool.submit(_play, cohort, seed, steps) for cohort in numbers
            }
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    results.append(future.result())
                    told(results[-1])
                if any(result.broken for result in results):
                    for future in waiting:
                        future.cancel()
                    break
    return results


def run_here(cohort: range, *, seed: int, steps: int = STEPS) -> Result:
    """One cohort in this process, for tests and for replaying a story."""
    with tempfile.TemporaryDirectory(prefix="estation-simulate-") as folder:
        Path(folder).chmod(0o711)
        with _postgres(Path(folder)) as url:
            return asyncio.run(play(cohort, seed=seed, url=url, steps=steps))


def explore_here(*, length: int = sum(EVENTS.values())) -> Explored:
    """Every ordering of one order's events. Raises orderings.WrongMoney with the history."""
    with tempfile.TemporaryDirectory(prefix="estation-simulate-") as folder:
        Path(folder).chmod(0o711)
        with _postgres(Path(folder)) as url:
            return asyncio.run(_explore(url, length))


async def _explore(url: str, length: int) -> Explored:
    await _open(url)
    try:
        with repeatable("orderings", Fate(random.Random(0))):
            return await explore(length=length)
    finally:
        await Tortoise.close_connections()


async def _open(url: str) -> None:
    config = settings_module.database(url)
    # One connection: whatever order the program's tasks take, it is the same at each replay.
    credentials = config["connections"]["default"]["credentials"]
    credentials["maxsize"] = 1
    # Every statement of the program is prepared once, the long one of the invariants too.
    credentials |= {"statement_cache_size": 2000, "max_cacheable_statement_size": 0}
    await Tortoise.init(config=config, _enable_global_fallback=True)


async def play(cohort: range, *, seed: int, url: str, steps: int = STEPS) -> Result:
    """One cohort in the migrated database at `url`, which is emptied first."""
    await _open(url)
    city = City(seed, cohort, steps=steps)
    broken = ""
    try:
        await _empty()
        with repeatable(f"{seed}:{cohort.start}", city.fate):
            await city.run()
    except InvariantBroken as breach:
        broken = str(breach)
    finally:
        ends = Counter[str]()
        if not broken:
            ends = await _ends()
        await Tortoise.close_connections()
    return Result(
        first=cohort.start,
        worlds=len(cohort),
        steps=sum(world.steps for world in city.worlds),
        checks=city.checks,
        successes=len(city.paid),
        hazards=city.met(),
        blows=city.fate.blows,
        commits=city.fate.reached,
        ends=ends,
        broken=broken,
    )


_server: dict[str, Any] = {}


def _begin(folder: str) -> None:
    """A pool process starts: its own cluster, migrated once; ended with the process."""
    keeper = _postgres(Path(folder) / str(os.getpid()))
    _server["url"] = keeper.__enter__()
    multiprocessing.util.Finalize(None, keeper.__exit__, (None, None, None), exitpriority=10)


def _play(cohort: range, seed: int, steps: int) -> Result:
    return asyncio.run(play(cohort, seed=seed, url=_server["url"], steps=steps))


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    # Thousands of troubles are the point here; their stories are told by the worlds.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)
    server = LocalPostgres(folder / "pg", settings=FAST).start()
    try:
        server.create_database("worlds")
        url = server.url("worlds")
        asyncio.run(migrate_to_newest(settings_module.database(url), dsn=asyncpg_dsn(url)))
        yield url
    finally:
        server.stop(mode="immediate")


async def _empty() -> None:
    db = Tortoise.get_connection("default")
    rows = await db.execute_query_dict(
        "select tablename from pg_tables where schemaname = 'public'"
        " and tablename <> 'tortoise_migrations'"
    )
    tables = ", ".join(f'"{row["tablename"]}"' for row in rows)
    await db.execute_script(f"truncate {tables}")


async def _ends() -> Counter[str]:
    """What became of the money: applied, and incidents and refunds by kind and state."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select 'applied' as name, count(*) as n from ledger_transfer where kind = 'payment'
           union all select 'refund ' || cause || ' ' || state, count(*) from pay_refund
               group by cause, state
           union all select 'incident ' || kind || ' ' || state, count(*) from incident
               group by kind, state"""
    )
    return Counter({row["name"]: row["n"] for row in rows if row["n"]})
