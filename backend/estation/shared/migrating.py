"""Brings a database to the newest migration, one process at a time."""

from typing import Any

import asyncpg
from tortoise import Tortoise
from tortoise.migrations.api import migrate

_LOCK = 0x65737461
"""Advisory lock: two programs starting together must not both migrate."""


async def migrate_to_newest(config: dict[str, Any], *, dsn: str) -> None:
    """Apply what is missing. `dsn` is the same database for asyncpg."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("select pg_advisory_lock($1)", _LOCK)
        try:
            await migrate(config=config)
        finally:
            await Tortoise.close_connections()
    finally:
        await connection.close()


def asyncpg_dsn(url: str) -> str:
    """Tortoise's database address in asyncpg's spelling."""
    return url.replace("asyncpg://", "postgresql://", 1)
