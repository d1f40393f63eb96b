"""Many rows at once by PostgreSQL's COPY, on the caller's own transaction.

Rows are streamed: a generator is never held whole in memory, and there is no 1 GB or 256 MB
ceiling as for one big JSON parameter.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient


async def copy_rows(
    db: BaseDBAsyncClient, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Append rows. asyncpg's types: UUIDs may be text, jsonb is text, bytea is bytes."""
    async with db.acquire_connection() as connection:
        await connection.copy_records_to_table(table, columns=list(columns), records=rows)


@asynccontextmanager
async def staged(
    db: BaseDBAsyncClient, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> AsyncIterator[str]:
    """Rows in a temporary table with these columns of `table`, for one MERGE; its name.

    Gone again on leaving, so that a second use in one transaction begins empty.
    """
    stage = f"stage_{table}"
    wanted = ", ".join(columns)
    await db.execute_query(
        f"create temporary table {stage} on commit drop as"  # noqa: S608 - names of our own
        f" select {wanted} from {table} with no data"
    )
    await copy_rows(db, stage, columns, rows)
    yield stage
    # Not in a `finally`: after an error the transaction ends, and the table with it.
    await db.execute_query(f"drop table {stage}")
