"""Looks for a text in every column of every table, whatever its type."""

from collections.abc import Collection

from tortoise import Tortoise

_TABLES = """
select quote_ident(c.relname) as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind = 'r' order by 1
"""


async def tables_with(texts: Collection[str]) -> set[str]:
    """Those in which any of the texts stands, also within JSON or, by its bytes, in a file."""
    db = Tortoise.get_connection("default")
    written = [form for text in texts for form in (text, text.encode().hex())]
    found = set()
    for row in await db.execute_query_dict(_TABLES):
        table = row["name"]
        hits = await db.execute_query_dict(
            f"select 1 from {table} r, unnest($1::text[]) t where strpos(r::text, t) > 0 limit 1",
            [written],
        )
        if hits:
            found.add(table)
    return found
