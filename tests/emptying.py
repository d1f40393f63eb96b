"""Empties a test's database for the next one."""

from tortoise.backends.base.client import BaseDBAsyncClient

_USED = """
select quote_ident(c.relname) as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind = 'r' and c.relname <> 'tortoise_migrations'
      and pg_relation_size(c.oid) > 0
"""


async def empty_tables(connection: BaseDBAsyncClient) -> None:
    """Only tables that were written to since they were emptied last, with those that refer to
    them: sixty empty ones cost more than most tests."""
    rows = await connection.execute_query_dict(_USED)
    if rows:
        await connection.execute_script(
            f"truncate {', '.join(row['name'] for row in rows)} cascade"
        )
