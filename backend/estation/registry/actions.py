"""Replicated rows of the register: set-based, idempotent, newer versions win."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

import orjson
import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.identity.api import number_index, number_text
from estation.outside.gate import replicas
from estation.outside.gate.rows import (
    AsSent,
    CertificateRow,
    HolderRow,
    RestrictionRow,
    RightRow,
    UnitRow,
)
from estation.registry.rules import certificate_key, clean_number
from estation.shared import ids
from estation.shared.bulk import copy_rows, staged
from estation.shared.crypto import Vault
from estation.shared.resealing import Indexed, SealedTable

log = structlog.get_logger()

SEALED: Final = (
    SealedTable(
        "registry_holder",
        ("name_sealed", "id_no_sealed"),
        indexed=(
            Indexed("name_index", "name_sealed", lambda _, name: f"name:{name}"),
            Indexed("id_no_index", "id_no_sealed", lambda row, no: number_text(row["id_type"], no)),
        ),
        needed=("id_type",),
        # What the holders are stays as their source sent it.
        first="select set_config('estation.writes_as_sent', 'on', true)",
    ),
    SealedTable("registry_version", ("body_sealed",)),
)
"""For `shared.resealing`."""


class Row(Protocol):
    """What every replicated row has."""

    @property
    def source(self) -> str: ...
    @property
    def source_id(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def region(self) -> str: ...


class Incoming(NamedTuple):
    """A row as it came through the gate, and what it means."""

    row: Row
    sent: AsSent


@dataclass(frozen=True, slots=True)
class Kind:
    """One topic's table: which columns follow the head, and what of a row goes into them."""

    topic: str
    table: str
    columns: tuple[str, ...]
    made: Mapping[str, Callable[[Any], object]]
    has_holders: bool = False

    def values(self, row: Row) -> tuple[object, ...]:
        return tuple(
            self.made[name](row) if name in self.made else getattr(row, name)
            for name in self.columns
        )


def _kind(topic: str, row_type: type, made: Mapping[str, Callable[[Any], object]]) -> Kind:
    """The row's own fields, but those of the head, holders and notes, then what is made of it."""
    inside = ("source", "source_id", "version", "region", "holders", "note")
    own: tuple[str, ...] = row_type.__struct_fields__  # type: ignore[attr-defined]
    names = [name for name in own if name not in inside]
    columns = (*names, *(name for name in made if name not in names))
    return Kind(topic, f"registry_{topic}", columns, made, "holders" in own)


KINDS: Mapping[str, Kind] = {
    kind.topic: kind
    for kind in (
        _kind("unit", UnitRow, {}),
        _kind("right", RightRow, {"certificate_key": lambda r: certificate_key(r.certificate_no)}),
        _kind("restriction", RestrictionRow, {}),
        _kind(
            "certificate",
            CertificateRow,
            {
                "number_key": lambda row: certificate_key(row.number),
                "unit_codes": lambda row: orjson.dumps(row.unit_codes).decode(),
            },
        ),
    )
}
"""By topic. A note (附记) may name anybody: it is kept in the sealed version only."""

_HEAD = ("id", "source", "source_id", "version", "region", "data_as_of", "row_digest")
_VERSION = (*_HEAD, "kind", "body_sealed")
_HOLDER = (
    "id", "owner_id", "seq", "name_index", "name_sealed", "id_type", "id_no_index",
    "id_no_sealed", "kind", "share_numerator", "share_denominator",
)  # fmt: skip

_KNOWN_VERSIONS = """
select v.source, v.source_id, v.version, v.row_digest
from registry_version v
join unnest($2::text[], $3::text[], $4::int[]) as t(source, source_id, version)
    using (source, source_id, version)
where v.kind = $1
"""


_FORGET_VERSIONS = """
delete from registry_version v
using unnest($2::text[], $3::text[], $4::int[]) as t(source, source_id, version)
where v.kind = $1 and v.source = t.source and v.source_id = t.source_id
  and v.version = t.version
"""


async def merge_rows(
    db: BaseDBAsyncClient,
    kind: Kind,
    incoming: Sequence[Incoming],
    *,
    vault: Vault,
    data_as_of: datetime,
    repairs: bool = False,
) -> int:
    """Keep every version, show the newest; how many things changed.

    A handful of statements however many rows. Repeats and older versions change nothing that is
    shown, unless the rows repair what is. Joins the caller's transaction.
    """
    newest = {
        (one.row.source, one.row.source_id): one
        for one in sorted(incoming, key=lambda one: one.row.version)
    }
    await replicas.write_as_sent(db, kind.topic, newest)
    await _keep_versions(db, kind, incoming, vault=vault, data_as_of=data_as_of, repairs=repairs)
    columns = (*_HEAD, *kind.columns)
    rows = _rows(kind, [newest[key] for key in sorted(newest)], data_as_of)
    async with staged(db, kind.table, columns, rows):
        changed = await db.execute_query_dict(_merge(kind.table, columns, repairs))
    if kind.has_holders:
        held = {row["id"]: newest[row["source"], row["source_id"]].row for row in changed}
        await _put_holders(db, held, vault=vault, now=data_as_of)
    return len(changed)


async def _keep_versions(
    db: BaseDBAsyncClient,
    kind: Kind,
    incoming: Sequence[Incoming],
    *,
    vault: Vault,
    data_as_of: datetime,
    repairs: bool,
) -> None:
    """Those we do not have yet; those that repair replace what is here. Only the importer, one
    per source, adds any."""
    given = {(one.row.source, one.row.source_id, one.row.version): one for one in incoming}
    rows = await db.execute_query_dict(
        _KNOWN_VERSIONS,
        [kind.topic, [k[0] for k in given], [k[1] for k in given], [k[2] for k in given]],
    )
    known = {(r["source"], r["source_id"], r["version"]): bytes(r["row_digest"]) for r in rows}
    if repairs and known:
        await db.execute_query(
            _FORGET_VERSIONS, [kind.topic, *(list(column) for column in zip(*known, strict=True))]
        )
        known = {}
    new = [given[key] for key in sorted(given) if key not in known]
    contradicted = sum(given[key].sent.digest != digest for key, digest in known.items())
    if contradicted:
        # The version that came first stands; the proof of equality finds and heals the row.
        log.error("registry_version_contradicted", topic=kind.topic, rows=contradicted)
    await copy_rows(
        db,
        "registry_version",
        _VERSION,
        (
            (
                *_head(row_id, one, data_as_of),
                kind.topic,
                vault.seal(one.sent.body.decode()),
            )
            for row_id, one in zip(ids.row_id_texts(data_as_of, len(new)), new, strict=True)
        ),
    )


def _head(row_id: str, one: Incoming, data_as_of: datetime) -> tuple[object, ...]:
    row = one.row
    return (
        row_id, row.source, row.source_id, row.version, row.region, data_as_of, one.sent.digest,
    )  # fmt: skip


def _rows(
    kind: Kind, incoming: Sequence[Incoming], data_as_of: datetime
) -> Iterator[tuple[object, ...]]:
    row_ids = ids.row_id_texts(data_as_of, len(incoming))
    for row_id, one in zip(row_ids, incoming, strict=True):
        yield (*_head(row_id, one, data_as_of), *kind.values(one.row))


def _merge(table: str, columns: Sequence[str], repairs: bool) -> str:
    """The row's id stays what it was when it came first."""
    is_due = "true" if repairs else "t.version < s.version"
    sets = ", ".join(
        f"{name} = s.{name}" for name in columns if name not in ("id", "source", "source_id")
    )
    values = ", ".join(f"s.{name}" for name in columns)
    return f"""
        merge into {table} t using stage_{table} s
            on t.source = s.source and t.source_id = s.source_id
        when matched and {is_due} then update set {sets}
        when not matched then insert ({", ".join(columns)}) values ({values})
        returning t.id, t.source, t.source_id"""  # noqa: S608 - names of our own


async def _put_holders(
    db: BaseDBAsyncClient, held: Mapping[UUID, Any], *, vault: Vault, now: datetime
) -> None:
    """The holders of these rights or certificates are exactly those of the newest version."""
    await db.execute_query(
        "delete from registry_holder where owner_id = any($1::uuid[])", [list(held)]
    )
    await copy_rows(db, "registry_holder", _HOLDER, _holders(held, vault=vault, now=now))


def _holders(
    held: Mapping[UUID, Any], *, vault: Vault, now: datetime
) -> Iterator[tuple[object, ...]]:
    row_ids = iter(ids.row_id_texts(now, sum(len(row.holders) for row in held.values())))
    for owner_id, row in held.items():
        for seq, holder in enumerate(row.holders, 1):
            yield (next(row_ids), owner_id, seq, *_sealed(holder, vault))


def _sealed(holder: HolderRow, vault: Vault) -> tuple[object, ...]:
    number = clean_number(holder.id_no)
    return (
        vault.index(f"name:{holder.name.strip()}"),
        vault.seal(holder.name.strip()),
        holder.id_type,
        number_index(holder.id_type, number, vault=vault) if number else "",
        vault.seal(number),
        holder.kind,
        holder.share_numerator,
        holder.share_denominator,
    )
