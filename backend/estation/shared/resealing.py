"""What was sealed and indexed with a former key of personal data is made anew with the newest.

In order of the rows' numbers, a bounded batch a transaction, as in `shared.sealing`: a walk broken
off goes on where it stood, and each row is at any moment whole under one key or the other. A row
that no key opens is left as it is, and told at the end. Whether
a table still has rows that need another key is asked of the rows themselves, by the key's name
with which they begin.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError

from estation.shared.crypto import MARK, DataKey, KeyNotHeld, Vault
from estation.shared.keyring import ID_BYTES
from estation.shared.sealing import BEFORE_ALL, Batch, Step
from estation.shared.transactions import in_transaction

ROWS_AT_ONCE: Final = 500
LOOKED_AT_ONCE: Final = 20_000
_NAME_BYTES: Final = len(MARK) + ID_BYTES

Row = Mapping[str, Any]

Unopened = dict[UUID, bool]
"""Rows that a walk left as they are and went past, by id; True: made with a key that is not in the
file (as far as its name says: that may have been altered, too), False: altered."""


class NotOpened(Exception):
    """A row that none of the keys in the file opens, or that is not what it was."""

    def __init__(self, table: str, row_id: UUID, *, is_key_missing: bool) -> None:
        super().__init__(f"{table} {row_id}")
        self.table = table
        self.row_id = row_id
        self.is_key_missing = is_key_missing  # else its bytes were altered


class RowsMeet(Exception):
    """Two rows of a table would get the same index: one thing was written twice while programs
    did not all know the new key. Nothing of the batch was changed."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table


@dataclass(frozen=True, slots=True)
class Indexed:
    """A blind index, and of what it is made: of a sealed column's clear text, and the row.

    `needs_key` says of a row whose index no sealed column can renew: it counts as one that needs
    the former key. Others just go out of use soon.
    """

    column: str
    of: str
    text: Callable[[Row, str], str]
    needs_key: bool = False


@dataclass(frozen=True, slots=True)
class SealedTable:
    """A table whose rows are small: sealed columns, their indexes, and what else these need.

    `first` is a statement said at the beginning of each batch's transaction.
    """

    name: str
    sealed: tuple[str, ...]
    indexed: tuple[Indexed, ...] = ()
    needed: tuple[str, ...] = ()
    first: str = ""


@dataclass(frozen=True, slots=True)
class Resealing:
    """A table's walk, and SQL that says whether a row needs another key than the newest.

    `unopened` fills while the walk goes: one row that rotted must not keep all behind it under the
    former key.
    """

    table: str
    step: Step
    needs_former: str
    values: Sequence[object] = field(default=())
    unopened: Unopened = field(default_factory=dict)


def resealing(table: SealedTable, vault: Vault) -> Resealing:
    """With the newest of the vault's keys, also while programs still make with the one before."""
    newest, unopened = vault.keys.newest, Unopened()

    async def step(db: BaseDBAsyncClient, after: UUID) -> Batch:
        if table.first:
            await db.execute_query(table.first)
        rows = await db.execute_query_dict(_next(table), [after, ROWS_AT_ONCE])
        changed = all_renewed(rows, lambda row: _renewed(table, row, vault, newest), unopened)
        if changed:
            await _write(db, table, changed)
        return Batch(len(rows), len(changed), rows[-1]["id"] if rows else None)

    needs = [f"substring({column} from 1 for {_NAME_BYTES}) <> $2" for column in table.sealed]
    needs += [
        f"({one.column} <> '' and left({one.column}, {2 * ID_BYTES}) <> $3"
        + ("" if one.needs_key else f" and {one.of} is not null")
        + ")"
        for one in table.indexed
    ]
    values = [newest.mark, newest.index_mark] if table.indexed else [newest.mark]
    return Resealing(table.name, step, " or ".join(needs), values, unopened)


def all_renewed(
    rows: Sequence[dict[str, Any]],
    renew: Callable[[dict[str, Any]], dict[str, Any] | None],
    unopened: Unopened,
) -> list[dict[str, Any]]:
    """The rows that `renew` made anew; those for which it raises NotOpened are noted."""
    changed = []
    for row in rows:
        try:
            new = renew(row)
        except NotOpened as trouble:
            unopened[row["id"]] = trouble.is_key_missing
            continue
        if new is not None:
            changed.append(new)
    return changed


async def is_unopened(one: Resealing, row_id: UUID) -> bool:
    """Whether the table has this row and no key opens it. Changes nothing."""
    just_before = UUID(int=max(row_id.int - 1, 0))
    with contextlib.suppress(_TakeBack):
        async with in_transaction() as db:
            await one.step(db, just_before)
            raise _TakeBack
    return row_id in one.unopened


class _TakeBack(Exception):
    """Nothing of a trial stays."""


async def needing_former(one: Resealing, *, without: Collection[UUID] = ()) -> int:
    """How many rows of the table need another key than the newest, less those named; a bounded
    part at a time."""
    found, after, place = 0, BEFORE_ALL, len(one.values) + 2
    while after is not None:
        rows = await Tortoise.get_connection("default").execute_query_dict(
            f"""select count(*) filter (where needs and id <> all(${place})) as needing,
                       (array_agg(id order by id desc))[1] as last
                from (select id, {one.needs_former} as needs from {one.table}
                      where id > $1 order by id limit {LOOKED_AT_ONCE}) t""",  # noqa: S608
            [after, *one.values, list(without)],
        )
        found, after = found + rows[0]["needing"], rows[0]["last"]
    return found


def walk_name(one: Resealing, newest: DataKey) -> str:
    """Every key has walks of its own, which a later key's do not go on with."""
    return f"reseal:{newest.key_id}:{one.table}"


def opened(table: str, row: Row, sealed: bytes, vault: Vault) -> bytes:
    """Raises NotOpened, which names the row."""
    try:
        return vault.keys.open(sealed)
    except (InvalidTag, ValueError) as failure:
        missing = isinstance(failure, KeyNotHeld)
        raise NotOpened(table, row["id"], is_key_missing=missing) from None


def _next(table: SealedTable) -> str:
    columns = [*table.sealed, *(one.column for one in table.indexed), *table.needed]
    return (
        f"select id, {', '.join(columns)} from {table.name}"  # noqa: S608 - names of our own
        " where id > $1 order by id limit $2 for update"
    )


def _renewed(
    table: SealedTable, row: dict[str, Any], vault: Vault, newest: DataKey
) -> dict[str, Any] | None:
    """The row's columns under the newest key; None when they are that already."""
    held = {name: bytes(row[name]) for name in table.sealed if row[name] is not None}
    new: dict[str, Any] = {name: row[name] for name in table.sealed}
    new |= {one.column: row[one.column] for one in table.indexed}
    is_old = False
    clear: dict[str, bytes] = {}
    for name, sealed in held.items():
        clear[name] = opened(table.name, row, sealed, vault)
        if not sealed.startswith(newest.mark):
            new[name], is_old = newest.seal(clear[name]), True
    for one in table.indexed:
        if row[one.column] and one.of in clear:
            index = newest.index(one.text(row, clear[one.of].decode()))
            is_old = is_old or index != row[one.column]
            new[one.column] = index
    return {"id": row["id"], **new} if is_old else None


async def _write(
    db: BaseDBAsyncClient, table: SealedTable, changed: Sequence[Mapping[str, Any]]
) -> None:
    names = [*table.sealed, *(one.column for one in table.indexed)]
    kinds = ["bytea"] * len(table.sealed) + ["text"] * len(table.indexed)
    given = ", ".join(f"${at}::{kind}[]" for at, kind in enumerate(kinds, 2))
    sets = ", ".join(f"{name} = s.{name}" for name in names)
    values = [[row["id"] for row in changed], *([row[name] for row in changed] for name in names)]
    try:
        await db.execute_query(
            f"update {table.name} t set {sets}"  # noqa: S608 - names of our own
            f" from unnest($1::uuid[], {given}) as s(id, {', '.join(names)}) where t.id = s.id",
            values,
        )
    except IntegrityError:
        raise RowsMeet(table.name) from None
