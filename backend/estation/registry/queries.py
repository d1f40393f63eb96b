"""What other contexts may ask about the register; every answer is a plain value.

Rows that are none of their source's are left out, but for their history (`versions_of`).
Names and numbers of holders come out as they are: whoever shows them masks them for the viewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise

from estation.identity.api import number_indexes
from estation.outside.gate.replicas import in_use
from estation.registry.errors import CertificateNotFound, UnitNotFound
from estation.registry.rules import certificate_key, clean_number, clean_unit_code
from estation.shared.crypto import Vault

MOST_ROWS = 500
"""Rights or restrictions of one unit, holdings of one person; a list is never unbounded."""


@dataclass(frozen=True, slots=True)
class UnitView:
    """One unit; areas in 1/10000 m², usage and structure by code (FWYT, FWJG)."""

    id: UUID
    source: str
    source_id: str
    version: int
    region: str
    unit_code: str
    parcel_code: str
    natural_building: str
    logical_building: str
    floor: str
    actual_floor: int | None
    room: str
    address: str
    usage: str
    structure: str
    building_area: int | None
    inner_area: int | None
    shared_area: int | None
    house_code: str
    project: str
    state: str
    data_as_of: datetime


@dataclass(frozen=True, slots=True)
class HolderView:
    """Personal data, open. `share` counts of 按份共有, 0 and 0 otherwise."""

    name: str
    id_type: str
    id_no: str
    kind: str
    share_numerator: int
    share_denominator: int


@dataclass(frozen=True, slots=True)
class RightView:
    """One right; the fields as in `rows.RightRow`."""

    id: UUID
    source: str
    source_id: str
    version: int
    region: str
    kind: str
    national_code: str
    unit_code: str
    holding: str
    certificate_no: str
    registered_at: datetime
    until: date | None
    state: str
    case_source_id: str
    secured_fen: int | None
    maximum: bool
    debt_from: date | None
    debt_until: date | None
    rank: int | None
    transfer_limited: bool | None
    data_as_of: datetime
    holders: tuple[HolderView, ...]


@dataclass(frozen=True, slots=True)
class RestrictionView:
    """One restriction as it was registered; whether its time has run out is for the asker."""

    id: UUID
    source: str
    source_id: str
    version: int
    region: str
    unit_code: str
    kind: str
    organ: str
    document_no: str
    since: date
    until: date | None
    scope: str
    queue_position: int
    state: str
    registered_at: datetime
    lifted_at: datetime | None
    lifted_by: str
    lifted_document_no: str
    data_as_of: datetime


@dataclass(frozen=True, slots=True)
class CertificateView:
    """One certificate or proof, its number as it was issued."""

    id: UUID
    source: str
    source_id: str
    version: int
    region: str
    number: str
    kind: str
    print_no: str
    unit_codes: tuple[str, ...]
    issued_at: datetime
    state: str
    data_as_of: datetime
    holders: tuple[HolderView, ...]


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version as it came: `body` is its JSON, fields we do not know included."""

    version: int
    body: bytes
    row_digest: bytes
    data_as_of: datetime


def _columns(view: type) -> str:
    return ", ".join(name for name in view.__annotations__ if name != "holders")


async def unit_by_code(unit_code: str) -> UnitView:
    """By its 28 characters, in groups or not. Raises UnitNotFound."""
    rows = await _query(
        f"""select {_columns(UnitView)} from registry_unit
            where unit_code = $1 and {in_use("unit", "registry_unit")}
            order by state = 'current' desc, data_as_of desc, id limit 1""",  # noqa: S608 - names of our own
        clean_unit_code(unit_code),
    )
    if not rows:
        raise UnitNotFound
    return UnitView(**rows[0])


async def rights_of_unit(unit_code: str, *, vault: Vault) -> list[RightView]:
    """All of them, present ones first, then newest first; empty when none has come."""
    return await _rights("unit_code = $1", clean_unit_code(unit_code), vault=vault)


async def rights_of_holder(id_type: str, id_no: str, *, vault: Vault) -> list[RightView]:
    """What is registered for this paper, by its blind index, in the order of `rights_of_unit`."""
    return await _rights(
        """id in (select owner_id from registry_holder
                  where id_no_index = any($1::text[]) and id_type = $2)""",
        list(number_indexes(id_type, clean_number(id_no), vault=vault)),
        id_type,
        vault=vault,
    )


async def restrictions_of_unit(unit_code: str) -> list[RestrictionView]:
    """All of them, lifted ones too, as they wait for each other."""
    rows = await _query(
        f"""select {_columns(RestrictionView)} from registry_restriction
            where unit_code = $1 and {in_use("restriction", "registry_restriction")}
            order by queue_position, registered_at, id limit {MOST_ROWS}""",  # noqa: S608 - names of our own
        clean_unit_code(unit_code),
    )
    return [RestrictionView(**row) for row in rows]


async def certificate_by_number(number: str, *, vault: Vault) -> CertificateView:
    """By its number in any usual spelling. Raises CertificateNotFound."""
    rows = await _query(
        f"""select {_columns(CertificateView).replace("unit_codes", "unit_codes::text")}
            from registry_certificate
            where number_key = $1 and {in_use("certificate", "registry_certificate")}
            order by state = 'valid' desc, issued_at desc, id limit 1""",  # noqa: S608 - names of our own
        certificate_key(number),
    )
    if not rows:
        raise CertificateNotFound
    holders = await _holders([rows[0]["id"]], vault)
    return CertificateView(
        **{**rows[0], "unit_codes": tuple(orjson.loads(rows[0]["unit_codes"]))},
        holders=holders.get(rows[0]["id"], ()),
    )


async def versions_of(kind: str, source: str, source_id: str, *, vault: Vault) -> list[VersionView]:
    """The history of one unit, right, restriction or certificate (`kind`), oldest first."""
    rows = await _query(
        f"""select version, body_sealed, row_digest, data_as_of from registry_version
            where kind = $1 and source = $2 and source_id = $3
            order by version limit {MOST_ROWS}""",  # noqa: S608 - a number of our own
        kind,
        source,
        source_id,
    )
    return [
        VersionView(
            row["version"],
            vault.open(row["body_sealed"]).encode(),
            bytes(row["row_digest"]),
            row["data_as_of"],
        )
        for row in rows
    ]


async def _rights(where: str, *values: Any, vault: Vault) -> list[RightView]:
    rows = await _query(
        f"""select {_columns(RightView)} from registry_right
            where {where} and {in_use("right", "registry_right")}
            order by state in ('current', 'provisional') desc, registered_at desc, id
            limit {MOST_ROWS}""",  # noqa: S608 - text of our own
        *values,
    )
    holders = await _holders([row["id"] for row in rows], vault)
    return [RightView(**row, holders=holders.get(row["id"], ())) for row in rows]


async def _holders(owner_ids: Sequence[UUID], vault: Vault) -> dict[UUID, tuple[HolderView, ...]]:
    rows = await _query(
        "select * from registry_holder where owner_id = any($1::uuid[]) order by owner_id, seq",
        list(owner_ids),
    )
    found: dict[UUID, tuple[HolderView, ...]] = {}
    for row in rows:
        view = HolderView(
            name=vault.open(row["name_sealed"]),
            id_type=row["id_type"],
            id_no=vault.open(row["id_no_sealed"]),
            kind=row["kind"],
            share_numerator=row["share_numerator"],
            share_denominator=row["share_denominator"],
        )
        found[row["owner_id"]] = (*found.get(row["owner_id"], ()), view)
    return found


async def _query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows
