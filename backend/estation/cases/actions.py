"""Replicated cases: set-based, idempotent, newer versions win."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import orjson
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.shared import ids

_MERGE = """
with news as (
    select distinct on (source, source_id) * from jsonb_to_recordset($1::jsonb) as t(
        id uuid, source text, source_id text, version int, region text, case_no text, matter text,
        hall text, unit_code text, address text, state text, stages jsonb, opened_at timestamptz)
    order by source, source_id, version desc
)
insert into case_record as c (id, source, source_id, version, region, case_no, matter, hall,
                              unit_code, address, state, stages, opened_at, data_as_of)
select id, source, source_id, version, region, case_no, matter, hall, unit_code, address, state,
       stages, opened_at, $2::timestamptz
from news order by source, source_id
on conflict (source, source_id) do update set
    version = excluded.version, region = excluded.region, case_no = excluded.case_no,
    matter = excluded.matter, hall = excluded.hall, unit_code = excluded.unit_code,
    address = excluded.address, state = excluded.state, stages = excluded.stages,
    opened_at = excluded.opened_at, data_as_of = excluded.data_as_of
where c.version < excluded.version
returning id, source, source_id
"""


@dataclass(frozen=True, slots=True)
class IncomingCase:
    """A case as it came through the gate; `parties` are (person, role)."""

    source: str
    source_id: str
    version: int
    region: str
    case_no: str
    matter: str
    hall: str
    unit_code: str
    address: str
    state: str
    stages: list[dict[str, object]]
    opened_at: datetime
    parties: list[tuple[UUID, str]]


async def merge_cases(
    db: BaseDBAsyncClient, cases: Sequence[IncomingCase], *, data_as_of: datetime
) -> None:
    """Three statements however many cases. Older versions and repeats change nothing."""
    newest = {(case.source, case.source_id): case for case in sorted(cases, key=_by_version)}
    heads = [
        {**asdict(case), "id": ids.row_id(data_as_of), "parties": None} for case in newest.values()
    ]
    changed = await db.execute_query_dict(_MERGE, [orjson.dumps(heads).decode(), data_as_of])
    parties = [
        (row["id"], person_id, role)
        for row in changed
        for person_id, role in newest[row["source"], row["source_id"]].parties
    ]
    # A party may stay from version to version: delete and insert are two statements.
    case_ids = [row["id"] for row in changed]
    await db.execute_query("delete from case_party where case_id = any($1::uuid[])", [case_ids])
    await db.execute_query(
        """insert into case_party (id, case_id, person_id, role)
           select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[])
           on conflict (case_id, person_id, role) do nothing""",
        [
            ids.row_ids(data_as_of, len(parties)),
            [party[0] for party in parties],
            [party[1] for party in parties],
            [party[2] for party in parties],
        ],
    )


def _by_version(case: IncomingCase) -> int:
    return case.version
