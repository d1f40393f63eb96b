"""Real PostgreSQL and Valkey for every test, from the same wheels as the demo."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tortoise import Tortoise

from estation import settings
from estation.local import LocalPostgres, LocalValkey
from estation.shared import passwords
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest
from tests.emptying import empty_tables

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """One cluster for the whole run; fsync stays on so that commits mean something.

    Tables are emptied between tests. Statistics taken at such a moment say "no rows" to the next
    test's joins, which then go through everything once for every row: none are taken by chance.
    """
    folder = _reachable(tmp_path_factory)
    settings = {"max_connections": "200", "autovacuum": "off"}
    server = LocalPostgres(folder / "pg", settings=settings).start()
    yield server
    server.stop(mode="immediate")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalValkey]:
    server = LocalValkey(_reachable(tmp_path_factory) / "valkey").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated(postgres: LocalPostgres) -> str:
    """The name of a migrated online database that others are copied from."""
    postgres.create_database("online_template")
    url = postgres.url("online_template")
    asyncio.run(migrate_to_newest(settings.database(url), dsn=asyncpg_dsn(url)))
    return "online_template"


@pytest.fixture(scope="session")
def database_url(postgres: LocalPostgres, migrated: str) -> str:
    """One online database for tests that empty it afterwards (fixture `database`)."""
    postgres.create_database("online_shared", template=migrated)
    return postgres.url("online_shared")


@pytest.fixture(autouse=True, scope="session")
def _quick_passwords() -> Iterator[None]:
    """Hashes that cost next to nothing: what is tried here is who may log in, some thousand times.
    Programs that a test starts keep the real cost, and so does the test of passwords."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_LOG_N", 4)
        yield


@pytest.fixture
def own_database_url(postgres: LocalPostgres, migrated: str) -> str:
    """A database of this test's own, for whole programs."""
    name = f"online_{next(_numbers)}"
    postgres.create_database(name, template=migrated)
    return postgres.url(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[str]:
    """Tortoise on a migrated database, emptied after the test so that concurrency is real."""
    await Tortoise.init(config=settings.database(database_url), _enable_global_fallback=True)
    yield database_url
    await empty_tables(Tortoise.get_connection("default"))
    await Tortoise.close_connections()


def _reachable(factory: pytest.TempPathFactory) -> Path:
    """A folder that the unprivileged server user can walk to."""
    folder = factory.mktemp("servers", numbered=True)
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    return folder
