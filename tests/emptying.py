"""Empties a test's database for the next one."""

from tortoise.backends.base.client import BaseDBAsyncClient

_USED = """
select quote_ident(relname) as name, pg_relation_size(oid) > 65536 as is_large
from pg_class
where relnamespace = 'public'::regnamespace and relkind = 'r'
      and relname <> 'tortoise_migrations' and pg_relation_size(oid) > 0
"""


async def empty_tables(connection: BaseDBAsyncClient) -> None:
    """Only tables that were ever written to, and few rows one by one: a `truncate` makes new files
    for a table and each of its indexes, which costs more than most tests.

    As a replica: triggers that keep rows for ever, and references, do not matter here.
    """
    rows = await connection.execute_query_dict(_USED)
    large = [row["name"] for row in rows if row["is_large"]]
    small = [row["name"] for row in rows if not row["is_large"]]
    statements = [f"truncate {', '.join(large)} cascade"] if large else []
    statements += [f"delete from {name}" for name in small]
    if statements:
        await connection.execute_script(
            f"begin; set local session_replication_role = replica; {'; '.join(statements)}; commit"
        )
