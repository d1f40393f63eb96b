"""Brings a database to the newest migration, one process at a time."""

from typing import Any

import asyncpg
from tortoise import Tortoise
from tortoise.migrations import Migration
from tortoise.migrations import operations as ops
from tortoise.migrations.api import migrate
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_generator.state import State

_LOCK = 0x65737461
"""Advisory lock: two programs starting together must not both migrate."""
_LOCK_NOT_AVAILABLE = "55P03"

_ONLY_FORWARD: frozenset[type[ops.Operation]] = frozenset(
    {ops.CreateModel, ops.AddField, ops.AddIndex, ops.AlterModelOptions, ops.RunSQL}
)
"""Operations that never ask what the models were before them; nobody's subclass is meant."""


class SwiftMigration(Migration):
    """Tortoise's, without a copy of all models before an operation that has no use for it.

    Those copies were two thirds of what an empty database waits for (14 s of 135 operations).
    """

    async def apply(
        self,
        state: State,
        *,
        dry_run: bool = False,
        schema_editor: BaseSchemaEditor | None = None,
        collect_sql: bool = False,
    ) -> State:
        if dry_run or collect_sql or schema_editor is None:
            return await super().apply(
                state, dry_run=dry_run, schema_editor=schema_editor, collect_sql=collect_sql
            )
        in_transactions = schema_editor.client.capabilities.supports_transactions
        for operation in self.operations:
            before = state if type(operation) in _ONLY_FORWARD else state.clone()
            operation.state_forward(self.app_label, state)
            await self._run_database_forward(
                operation, before, state, schema_editor, in_transactions
            )
        state.validate_relations_initialized()
        return state


class TablesBusy(Exception):
    """A table that a migration changes was in use for longer than we wait for a lock."""


async def migrate_to_newest(config: dict[str, Any], *, dsn: str) -> None:
    """Apply what is missing. `dsn` is the same database for asyncpg.

    An index over years of bookings takes as long as it takes; for a lock it waits no longer than
    everybody, because all others queue behind who waits. Raises TablesBusy then: what was applied
    before stays, and the next call goes on behind it.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("select pg_advisory_lock($1)", _LOCK)
        try:
            await migrate(config=_patient(config))
        except Exception as failure:
            if _is_about_a_lock(failure):
                raise TablesBusy from failure
            raise
        finally:
            await Tortoise.close_connections()
    finally:
        await connection.close()


def _patient(config: dict[str, Any]) -> dict[str, Any]:
    """The same, whose statements may take their time."""
    connections = {}
    for name, entry in config["connections"].items():
        credentials = entry["credentials"]
        waits = {**credentials.get("server_settings", {}), "statement_timeout": "0"}
        connections[name] = {**entry, "credentials": {**credentials, "server_settings": waits}}
    return {**config, "connections": connections}


def _is_about_a_lock(failure: Exception) -> bool:
    causes = (failure, failure.__cause__, *failure.args)
    return any(getattr(one, "sqlstate", None) == _LOCK_NOT_AVAILABLE for one in causes)


def asyncpg_dsn(url: str) -> str:
    """Tortoise's database address in asyncpg's spelling."""
    return url.replace("asyncpg://", "postgresql://", 1)
