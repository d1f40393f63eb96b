"""The floor of `scripts/bench gate`: the same final rows by COPY and MERGE, nothing verified."""

import time
from pathlib import Path
from typing import Any, Final

import asyncpg

from estation.bench.bills import SOURCE

_TABLES: Final = """
create table floor_bill (like bill including all);
alter table floor_bill set (fillfactor = 80);
create table floor_bill_item (like bill_item including all);
alter table floor_bill_item add foreign key (bill_id) references floor_bill (id);
"""
_BILLS = f"""select * from bill where source = '{SOURCE}' and source_id >= $1 and source_id < $2
             order by id"""  # noqa: S608 - a name of our own
_ITEMS = f"""select i.* from bill_item i join bill b on b.id = i.bill_id
             where b.source = '{SOURCE}' and b.source_id >= $1 and b.source_id < $2
             order by i.bill_id, i.version, i.seq"""  # noqa: S608 - a name of our own


async def make_tables(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_TABLES)
    finally:
        await connection.close()


async def copy_and_merge(dsn: str, folder: Path, first: str, last: str) -> float:
    """Seconds for the bills `first` <= source_id < `last`, from files in COPY's binary form."""
    connection: Any = await asyncpg.connect(dsn)
    bills, items = folder / "floor_bill", folder / "floor_bill_item"
    try:
        await connection.copy_from_query(_BILLS, first, last, output=bills, format="binary")
        await connection.copy_from_query(_ITEMS, first, last, output=items, format="binary")
        columns = {table: await _columns(connection, table) for table in ("bill", "bill_item")}
        begun = time.perf_counter()
        async with connection.transaction():
            for table, file in (("bill", bills), ("bill_item", items)):
                await connection.execute(
                    f"create temporary table floor_stage_{table} on commit drop as"  # noqa: S608
                    f" select * from {table} with no data"
                )
                await connection.copy_to_table(f"floor_stage_{table}", source=file, format="binary")
                await connection.execute(f"analyze floor_stage_{table}")
            await connection.execute(_merge("bill", columns["bill"], ("source", "source_id")))
            await connection.execute(
                _merge("bill_item", columns["bill_item"], ("bill_id", "version", "seq"))
            )
        return time.perf_counter() - begun
    finally:
        bills.unlink(missing_ok=True)
        items.unlink(missing_ok=True)
        await connection.close()


async def _columns(connection: Any, table: str) -> list[str]:
    rows = await connection.fetch(
        """select attname from pg_attribute
           where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum""",
        table,
    )
    return [row["attname"] for row in rows]


def _merge(table: str, columns: list[str], key: tuple[str, ...]) -> str:
    """A newer version replaces; rows without a version of their own are only added."""
    on = " and ".join(f"t.{name} = s.{name}" for name in key)
    matched = ""
    if "version" not in key:
        changes = ", ".join(f"{name} = s.{name}" for name in columns if name not in ("id", *key))
        matched = f"when matched and t.version < s.version then update set {changes}"
    values = ", ".join(f"s.{name}" for name in columns)
    return (
        f"merge into floor_{table} t using floor_stage_{table} s on {on} {matched}"  # noqa: S608
        f" when not matched then insert ({', '.join(columns)}) values ({values})"
    )
