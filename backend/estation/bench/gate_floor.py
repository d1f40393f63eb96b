"""The floor of `scripts/bench gate`: the same final rows by COPY and MERGE, nothing verified.

A bill ends as rows of three tables: its payer, itself, its items.
"""

import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg

from estation.bench.bills import SOURCE

_TABLES: Final = """
create table floor_person (like person including all);
create table floor_bill (like bill including all);
alter table floor_bill set (fillfactor = 80);
create table floor_bill_item (like bill_item including all);
alter table floor_bill_item add foreign key (bill_id) references floor_bill (id);
"""
_PERSONS = f"""select * from person where id in (
                 select payer_id from bill where source = '{SOURCE}'
                 and source_id >= $1 and source_id < $2) order by id"""  # noqa: S608 - a name of our own
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


_KEYS: Final = {
    "person": ("id_type", "id_no_index"),
    "bill": ("source", "source_id"),
    "bill_item": ("bill_id", "version", "seq"),
}
"""The tables in the order in which rows refer to each other, and by what a row is known."""
_QUERIES: Final = {"person": _PERSONS, "bill": _BILLS, "bill_item": _ITEMS}


class Took(NamedTuple):
    """Seconds."""

    all: float
    payers: float


async def copy_and_merge(dsn: str, folder: Path, first: str, last: str) -> Took:
    """The bills `first` <= source_id < `last`, from files in COPY's binary form."""
    connection: Any = await asyncpg.connect(dsn)
    files = {table: folder / f"floor_{table}" for table in _KEYS}
    try:
        for table, query in _QUERIES.items():
            await connection.copy_from_query(
                query, first, last, output=files[table], format="binary"
            )
        columns = {table: await _columns(connection, table) for table in _KEYS}
        begun = time.perf_counter()
        async with connection.transaction():
            await _copy_and_merge(connection, "person", files["person"], columns["person"])
            payers = time.perf_counter() - begun
            for table in ("bill", "bill_item"):
                await _copy_and_merge(connection, table, files[table], columns[table])
        return Took(time.perf_counter() - begun, payers)
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)
        await connection.close()


async def _copy_and_merge(connection: Any, table: str, file: Path, columns: list[str]) -> None:
    stage = f"floor_stage_{table}"
    await connection.execute(
        f"create temporary table {stage} on commit drop as"  # noqa: S608 - names of our own
        f" select * from {table} with no data"
    )
    await connection.copy_to_table(stage, source=file, format="binary")
    await connection.execute(f"analyze {stage}")
    await connection.execute(_merge(table, columns, _KEYS[table]))


async def _columns(connection: Any, table: str) -> list[str]:
    rows = await connection.fetch(
        """select attname from pg_attribute
           where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum""",
        table,
    )
    return [row["attname"] for row in rows]


_NEWER_BY: Final = {"person": "updated_at", "bill": "version"}


def _merge(table: str, columns: list[str], key: tuple[str, ...]) -> str:
    """A newer row replaces; items, which belong to a version of their bill, are only added."""
    on = " and ".join(f"t.{name} = s.{name}" for name in key)
    matched = ""
    if newer := _NEWER_BY.get(table):
        changes = ", ".join(f"{name} = s.{name}" for name in columns if name not in ("id", *key))
        matched = f"when matched and t.{newer} < s.{newer} then update set {changes}"
    values = ", ".join(f"s.{name}" for name in columns)
    return (
        f"merge into floor_{table} t using floor_stage_{table} s on {on} {matched}"  # noqa: S608
        f" when not matched then insert ({', '.join(columns)}) values ({values})"
    )
