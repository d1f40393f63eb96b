"""A migration may take its time, and makes nobody else wait for long."""

from typing import Any

import asyncpg
import pytest
from tortoise import Tortoise
from typer.testing import CliRunner

from estation import settings
from estation.cli import main
from estation.shared import connections, migrating
from estation.shared.migrating import TablesBusy, asyncpg_dsn, migrate_to_newest


def instead_of_migrations(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    async def migrate(*, config: dict[str, Any]) -> None:
        await Tortoise.init(config=config, _enable_global_fallback=True)
        await Tortoise.get_connection("default").execute_query(statement)

    monkeypatch.setattr(migrating, "migrate", migrate)


async def test_a_statement_of_a_migration_is_not_cut_off(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.WAITS, "statement_timeout", "50ms")
    instead_of_migrations(monkeypatch, "select pg_sleep(0.2)")

    await migrate_to_newest(settings.database(own_database_url), dsn=asyncpg_dsn(own_database_url))

    assert connections.WAITS["statement_timeout"] == "50ms"


async def test_a_table_in_use_is_waited_for_as_long_as_by_anybody_and_told(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.WAITS, "lock_timeout", "100ms")
    instead_of_migrations(monkeypatch, "create index ix_bill_again on bill (id)")
    holder = await asyncpg.connect(asyncpg_dsn(own_database_url))
    try:
        async with holder.transaction():
            await holder.execute("lock table bill in row exclusive mode")

            with pytest.raises(TablesBusy):
                await migrate_to_newest(
                    settings.database(own_database_url), dsn=asyncpg_dsn(own_database_url)
                )
    finally:
        await holder.close()


def test_the_operator_is_told_to_come_again(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*args: object, **more: object) -> None:
        raise TablesBusy

    monkeypatch.setenv("ESTATION_DATABASE_URL", own_database_url)
    monkeypatch.setattr("estation.cli.migrate_to_newest", busy)

    result = CliRunner().invoke(main, ["migrate"])

    assert result.exit_code == 1
    assert "再执行一次" in result.output.replace("\n", "")
