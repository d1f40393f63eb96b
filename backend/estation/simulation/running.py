"""Runs cohorts of worlds in processes of their own, each with a PostgreSQL of its own."""

import asyncio
import hashlib
import logging
import multiprocessing
import os
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
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
from estation.simulation.seeded import repeatable, run

COHORT: Final = 25
FAST: Final = {
    # Nothing here outlives the run, and kills are played by us, not by pulling the plug.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    # Rows without an order come in the same one at each replay.
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
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
    history: str = ""  # SHA-256 of what happened in all its worlds
    books: str = ""  # SHA-256 of all tables as they were left
    told: str = ""  # what happened, where somebody asked for it


def cohort_of(world: int) -> range:
    """A world always meets the same others, so that its story is told again word for word."""
    first = world - world % COHORT
    return range(first, first + COHORT)


def cohorts(worlds: int) -> list[range]:
    """At least so many worlds, from number 0 on, in whole cohorts."""
    return [cohort_of(first) for first in range(0, worlds, COHORT)]


@contextmanager
def migrated() -> Iterator[Path]:
    """A cluster at rest with a migrated database, for several runs to begin with a copy of it:
    migrating takes longer than many a cohort."""
    with _folder() as folder:
        server = LocalPostgres(folder / "pg", settings=FAST).start()
        try:
            server.create_database("worlds")
            url = server.url("worlds")
            asyncio.run(migrate_to_newest(settings_module.database(url), dsn=asyncpg_dsn(url)))
        finally:
            server.stop()
        yield folder / "pg"


def run_all(
    numbers: Iterable[range],
    *,
    seed: int,
    processes: int,
    told: Callable[[Result], None],
    steps: int = STEPS,
    tell: bool = False,
    cluster: Path | None = None,
) -> list[Result]:
    """Play the cohorts in this order; `told` hears of each as it ends, and with `tell` each result
    has its whole history. The last one returned is the first that broke: later ones are not
    played, and are left out where they were. `cluster`: see `migrated`."""
    context = multiprocessing.get_context("spawn")
    with (
        _cluster(cluster) as at_rest,
        _folder() as folder,
        ProcessPoolExecutor(
            processes, mp_context=context, initializer=_begin, initargs=(folder, at_rest)
        ) as pool,
    ):
        playing = [pool.submit(_play, cohort, seed, steps, tell) for cohort in numbers]
        return _up_to_the_first_broken(playing, told)


def _up_to_the_first_broken(
    playing: list[Future[Result]], told: Callable[[Result], None]
) -> list[Result]:
    """Not the one that was seen first: which process is faster is no part of a story."""
    places = {future: place for place, future in enumerate(playing)}
    last = len(playing) - 1
    for future in as_completed(playing):
        if places[future] > last:
            continue
        told(future.result())
        if future.result().broken:
            last = places[future]
            for later in playing[last + 1 :]:
                later.cancel()
    return [future.result() for future in playing[: last + 1]]


def run_here(
    cohort: range,
    *,
    seed: int,
    steps: int = STEPS,
    tell: bool = False,
    cluster: Path | None = None,
) -> Result:
    """One cohort in this process, for tests."""
    with _cluster(cluster) as at_rest, _folder() as folder, _postgres(folder, at_rest) as url:
        return run(play(cohort, seed=seed, url=url, steps=steps, tell=tell))


def explore_here(
    *,
    length: int = sum(EVENTS.values()),
    family: str = "wechat_pay",
    cluster: Path | None = None,
) -> Explored:
    """Every ordering of one order's events. Raises orderings.WrongMoney with the history."""
    with _cluster(cluster) as at_rest, _folder() as folder, _postgres(folder, at_rest) as url:
        return run(_explore(url, length, family))


async def _explore(url: str, length: int, family: str) -> Explored:
    await _open(url)
    try:
        with repeatable("orderings", Fate(random.Random(0))):
            return await explore(length=length, family=family)
    finally:
        await Tortoise.close_connections()


async def _open(url: str) -> None:
    """One connection, whose statements all are prepared once, and which no clock ends: a machine
    that stands still for a minute is no hazard of these worlds."""
    config = settings_module.database(url)
    config["connections"]["default"]["credentials"] |= {
        "maxsize": 1,
        "server_settings": {"search_path": "chance, pg_catalog, public"},
        "statement_cache_size": 2000,
        "max_cacheable_statement_size": 0,
        "max_cached_statement_lifetime": 0,
        "max_inactive_connection_lifetime": 0,
    }
    await Tortoise.init(config=config, _enable_global_fallback=True)


async def play(
    cohort: range, *, seed: int, url: str, steps: int = STEPS, tell: bool = False
) -> Result:
    """One cohort in the migrated database at `url`, which is emptied first."""
    await _open(url)
    city = City(seed, cohort, steps=steps)
    broken = ""
    try:
        await _empty()
        try:
            with repeatable(f"{seed}:{cohort.start}", city.fate):
                await city.run()
        except InvariantBroken as breach:
            broken = str(breach)
        ends = Counter[str]() if broken else await _ends()
        books = await _digest()
    finally:
        await Tortoise.close_connections()
    history = city.history()
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
        history=hashlib.sha256(history.encode()).hexdigest(),
        books=books,
        told=history if tell else "",
    )


_server: dict[str, Any] = {}


def _begin(folder: Path, at_rest: Path) -> None:
    """A pool process starts: its own cluster, ended with the process."""
    keeper = _postgres(folder / str(os.getpid()), at_rest)
    _server["url"] = keeper.__enter__()
    multiprocessing.util.Finalize(None, keeper.__exit__, (None, None, None), exitpriority=10)


def _play(cohort: range, seed: int, steps: int, tell: bool) -> Result:
    return run(play(cohort, seed=seed, url=_server["url"], steps=steps, tell=tell))


@contextmanager
def _folder() -> Iterator[Path]:
    """PostgreSQL's unprivileged user may walk through it."""
    with tempfile.TemporaryDirectory(prefix="estation-simulate-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def _cluster(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with migrated() as made:
        yield made


@contextmanager
def _postgres(folder: Path, at_rest: Path) -> Iterator[str]:
    # Thousands of troubles are the point here; their stories are told by the worlds.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)
    # As its owner, which shutil forgets.
    copying = ["cp", "-a", str(at_rest), str(folder / "pg")]
    subprocess.run(copying, check=True)  # noqa: S603 -- our own folders
    server = LocalPostgres(folder / "pg", settings=FAST).start()
    try:
        yield server.url("worlds")
    finally:
        server.stop(mode="immediate")


_CHANCE: Final = """
drop schema if exists chance cascade;
create schema chance;
create sequence chance.turn;
create function chance.gen_random_uuid() returns uuid language sql volatile
    as $$ select md5('chance ' || nextval('chance.turn'))::uuid $$;
"""
"""Hides PostgreSQL's own random numbers from whoever looks there first."""


async def _empty() -> None:
    """A cohort is the first of its database: also the numbers that it counts begin again."""
    tables = ", ".join(f'"{table}"' for table in await _tables())
    await Tortoise.get_connection("default").execute_script(
        f"truncate {tables} restart identity; {_CHANCE}"
    )


async def _tables() -> dict[str, str]:
    """Each table's columns, but for the cluster's count of transactions, which goes on."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select table_name, string_agg(format('%I', column_name), ', ' order by ordinal_position)
               as columns
           from information_schema.columns join information_schema.tables
               using (table_schema, table_name)
           where table_schema = 'public' and table_type = 'BASE TABLE' and udt_name <> 'xid8'
             and table_name <> 'tortoise_migrations'
           group by table_name order by table_name"""
    )
    return {row["table_name"]: row["columns"] for row in rows}


async def _digest() -> str:
    """SHA-256 of all rows of all tables."""
    said = hashlib.sha256()
    for table, columns in (await _tables()).items():
        rows = await Tortoise.get_connection("default").execute_query_dict(
            f"""select md5(coalesce(string_agg(said, '' order by said), '')) as digest
                from (select md5(row({columns})::text) as said from "{table}") rows"""  # noqa: S608
        )
        said.update(f"{table} {rows[0]['digest']}\n".encode())
    return said.hexdigest()


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
