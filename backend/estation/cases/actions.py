"""Replicated cases and their events: set-based, idempotent, newer versions win."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import orjson
import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.cases.rules import stage_order
from estation.outside.gate import replicas
from estation.outside.gate.rows import AsSent, CaseEventRow, CaseRow
from estation.shared import ids
from estation.shared.bulk import copy_rows, staged
from estation.shared.crypto import Vault
from estation.shared.resealing import SealedTable

log = structlog.get_logger()

K = TypeVar("K")

SEALED: Final = (
    SealedTable("case_version", ("body_sealed",)),
    SealedTable("case_event", ("body_sealed",)),
)
"""For `shared.resealing`."""

_HEAD = ("id", "source", "source_id", "version", "region", "data_as_of", "row_digest")
_CASE = (
    *_HEAD, "case_no", "matter", "hall", "unit_code", "address", "state", "stages", "opened_at",
)  # fmt: skip
_VERSION = (*_HEAD, "body_sealed")
_EVENT = (*_HEAD, "case_source_id", "seq", "what", "stage", "state", "at", "note", "body_sealed")

_MERGE_CASES = """
merge into case_record c using stage_case_record s
    on c.source = s.source and c.source_id = s.source_id
when matched and (c.version < s.version or $1::boolean) then update set
    version = s.version, region = s.region, case_no = s.case_no, matter = s.matter,
    hall = s.hall, unit_code = s.unit_code, address = s.address, state = s.state,
    stages = s.stages, opened_at = s.opened_at, data_as_of = s.data_as_of,
    row_digest = s.row_digest
when not matched then insert ({columns}) values ({values})
returning c.id, c.source, c.source_id
""".format(columns=", ".join(_CASE), values=", ".join(f"s.{name}" for name in _CASE))  # noqa: S608 - names of our own

_KNOWN_VERSIONS = """
select v.source, v.source_id, v.version, v.row_digest
from case_version v
join unnest($1::text[], $2::text[], $3::int[]) as t(source, source_id, version)
    using (source, source_id, version)
"""

_FORGET_VERSIONS = """
delete from case_version v
using unnest($1::text[], $2::text[], $3::int[]) as t(source, source_id, version)
where v.source = t.source and v.source_id = t.source_id and v.version = t.version
"""

_KNOWN_EVENTS = """
select e.source, e.source_id, e.row_digest
from case_event e join unnest($1::text[], $2::text[]) as t(source, source_id)
    using (source, source_id)
"""


class IncomingCase(NamedTuple):
    """A case as it came through the gate; `parties` are (person, role)."""

    row: CaseRow
    sent: AsSent
    parties: Sequence[tuple[UUID, str]]


class IncomingEvent(NamedTuple):
    """An event as it came through the gate."""

    row: CaseEventRow
    sent: AsSent


async def merge_cases(
    db: BaseDBAsyncClient,
    cases: Sequence[IncomingCase],
    *,
    vault: Vault,
    data_as_of: datetime,
    repairs: bool = False,
) -> None:
    """Keep every version, show the newest. Older versions and repeats change nothing shown,
    unless they repair what is.

    A handful of statements however many cases.
    """
    newest = {(case.row.source, case.row.source_id): case for case in sorted(cases, key=_version)}
    await replicas.write_as_sent(db, "case", newest)
    await _keep_versions(db, cases, vault=vault, data_as_of=data_as_of, repairs=repairs)
    heads = _cases([newest[key] for key in sorted(newest)], data_as_of)
    async with staged(db, "case_record", _CASE, heads):
        changed = await db.execute_query_dict(_MERGE_CASES, [repairs])
    parties = [
        (row["id"], person_id, role)
        for row in changed
        for person_id, role in dict.fromkeys(newest[row["source"], row["source_id"]].parties)
    ]
    # A party may stay from version to version: delete and insert are two statements.
    case_ids = [row["id"] for row in changed]
    await db.execute_query("delete from case_party where case_id = any($1::uuid[])", [case_ids])
    row_ids = ids.row_id_texts(data_as_of, len(parties))
    await copy_rows(
        db,
        "case_party",
        ("id", "case_id", "person_id", "role"),
        ((row_id, *party) for row_id, party in zip(row_ids, parties, strict=True)),
    )


async def merge_events(
    db: BaseDBAsyncClient,
    events: Sequence[IncomingEvent],
    *,
    vault: Vault,
    data_as_of: datetime,
    repairs: bool = False,
) -> int:
    """Keep the events that are not here yet, each once; how many. Those that repair replace what
    is here."""
    given = {(event.row.source, event.row.source_id): event for event in events}
    await replicas.write_as_sent(db, "case_event", given)
    if repairs:
        await db.execute_query(
            """delete from case_event e using unnest($1::text[], $2::text[]) as t(source, source_id)
               where e.source = t.source and e.source_id = t.source_id""",
            [[key[0] for key in given], [key[1] for key in given]],
        )
    rows = await db.execute_query_dict(
        _KNOWN_EVENTS, [[key[0] for key in given], [key[1] for key in given]]
    )
    known = {(row["source"], row["source_id"]): bytes(row["row_digest"]) for row in rows}
    _note_contradictions(
        "case_event", {key: event.sent.digest for key, event in given.items()}, known
    )
    new = [given[key] for key in sorted(given) if key not in known]
    await copy_rows(db, "case_event", _EVENT, _events(new, vault, data_as_of))
    return len(new)


async def _keep_versions(
    db: BaseDBAsyncClient,
    cases: Sequence[IncomingCase],
    *,
    vault: Vault,
    data_as_of: datetime,
    repairs: bool,
) -> None:
    """Those we do not have yet; those that repair replace what is here. Only the importer, one
    per source, adds any."""
    given = {(case.row.source, case.row.source_id, case.row.version): case for case in cases}
    rows = await db.execute_query_dict(
        _KNOWN_VERSIONS, [[key[0] for key in given], [k[1] for k in given], [k[2] for k in given]]
    )
    known = {(r["source"], r["source_id"], r["version"]): bytes(r["row_digest"]) for r in rows}
    if repairs and known:
        await db.execute_query(
            _FORGET_VERSIONS, [list(column) for column in zip(*known, strict=True)]
        )
        known = {}
    _note_contradictions("case", {key: case.sent.digest for key, case in given.items()}, known)
    new = [given[key] for key in sorted(given) if key not in known]
    row_ids = ids.row_id_texts(data_as_of, len(new))
    await copy_rows(
        db,
        "case_version",
        _VERSION,
        (
            (*_head(row_id, case.row, case.sent, data_as_of), vault.seal(case.sent.body.decode()))
            for row_id, case in zip(row_ids, new, strict=True)
        ),
    )


def _note_contradictions(topic: str, given: Mapping[K, bytes], known: Mapping[K, bytes]) -> None:
    """What came first stands; the proof of equality finds and heals the row."""
    contradicted = sum(given[key] != digest for key, digest in known.items())
    if contradicted:
        log.error("replica_contradicted", topic=topic, rows=contradicted)


def _head(
    row_id: str, row: CaseRow | CaseEventRow, sent: AsSent, data_as_of: datetime
) -> tuple[object, ...]:
    return row_id, row.source, row.source_id, row.version, row.region, data_as_of, sent.digest


def _cases(cases: Sequence[IncomingCase], data_as_of: datetime) -> Iterator[tuple[object, ...]]:
    """The columns `_CASE`."""
    for row_id, case in zip(ids.row_id_texts(data_as_of, len(cases)), cases, strict=True):
        row = case.row
        yield (
            *_head(row_id, row, case.sent, data_as_of),
            row.case_no,
            row.matter,
            row.hall,
            row.unit_code,
            row.address,
            row.state,
            _stages(row),
            row.opened_at,
        )


def _stages(row: CaseRow) -> str:
    """The boxes in the chart's order, as JSON."""
    return orjson.dumps(
        [
            {
                "stage": stage.stage,
                "state": stage.state,
                "at": stage.at.isoformat() if stage.at else None,
                "note": stage.note,
            }
            for stage in sorted(row.stages, key=lambda stage: stage_order(stage.stage))
        ]
    ).decode()


def _events(
    events: Sequence[IncomingEvent], vault: Vault, data_as_of: datetime
) -> Iterator[tuple[object, ...]]:
    """The columns `_EVENT`."""
    for row_id, event in zip(ids.row_id_texts(data_as_of, len(events)), events, strict=True):
        row = event.row
        yield (
            *_head(row_id, row, event.sent, data_as_of),
            row.case_source_id,
            row.seq,
            row.what,
            row.stage,
            row.state,
            row.at,
            row.note,
            vault.seal(event.sent.body.decode()),
        )


def _version(case: IncomingCase) -> int:
    return case.row.version
