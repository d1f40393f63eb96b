"""What a party may ask about cases; every answer is a plain value."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise

from estation.cases.errors import CaseNotFound
from estation.cases.rules import ROLES, STAGE_STATES, STAGES
from estation.identity.api import Tier, masked_parties
from estation.outside.gate.replicas import in_use
from estation.shared.crypto import Vault

MOST_CASES = 100
MOST_EVENTS = 500
BEGUN = frozenset({"done", "returned"})
"""Of these the beginning is told apart from `at`."""


@dataclass(frozen=True, slots=True)
class StageView:
    """One box of the flow chart: since when it is as it is, and when work on it began."""

    stage: str
    state: str
    at: datetime | None
    note: str
    begun_at: datetime | None = None

    @property
    def name(self) -> str:
        """The stage in the citizen's words."""
        return STAGES[self.stage]

    @property
    def word(self) -> str:
        """The state in the citizen's words."""
        return STAGE_STATES[self.state]


@dataclass(frozen=True, slots=True)
class PartyView:
    """Another party, masked for a party of the same case."""

    role: str
    role_word: str
    name: str


@dataclass(frozen=True, slots=True)
class CaseView:
    """A case as one of its parties sees it; `parties` (the others) only in `case_of`."""

    id: UUID
    source: str
    source_id: str
    case_no: str
    matter: str
    hall: str
    unit_code: str
    address: str
    state: str
    stages: tuple[StageView, ...]
    my_roles: tuple[str, ...]
    opened_at: datetime
    data_as_of: datetime
    parties: tuple[PartyView, ...] = ()


_CASES = f"""
select c.id, c.source, c.source_id, c.case_no, c.matter, c.hall, c.unit_code, c.address, c.state,
       c.stages::text as stages, c.opened_at, c.data_as_of,
       array_agg(p.role order by p.role) as roles
from case_record c join case_party p on p.case_id = c.id
where p.person_id = $1 and {in_use("case", "c")}
"""  # noqa: S608 - names of our own


async def cases_of(person_id: UUID) -> list[CaseView]:
    """The person's cases, newest first."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"{_CASES} group by c.id order by c.opened_at desc, c.id limit {MOST_CASES}", [person_id]
    )
    return [_view(row, (), []) for row in rows]


async def case_of(person_id: UUID, case_id: UUID, *, vault: Vault) -> CaseView:
    """One case with its other parties masked. Raises CaseNotFound, also for non-parties."""
    db = Tortoise.get_connection("default")
    rows = await db.execute_query_dict(
        f"{_CASES} and c.id = $2 group by c.id", [person_id, case_id]
    )
    if not rows:
        raise CaseNotFound
    others = await db.execute_query_dict(
        "select person_id, role from case_party where case_id = $1 and person_id <> $2"
        " order by role, person_id",
        [case_id, person_id],
    )
    masked = await masked_parties(
        [other["person_id"] for other in others], tier=Tier.PARTY, vault=vault
    )
    events = await db.execute_query_dict(
        f"""select e.stage, e.state, e.at from case_event e
             join case_record c on c.source = e.source and c.source_id = e.case_source_id
           where c.id = $1 and e.stage <> '' and {in_use("case_event", "e")}
           order by e.seq desc, e.id limit $2""",  # noqa: S608 - names of our own
        [case_id, MOST_EVENTS],
    )
    return _view(
        rows[0],
        tuple(
            PartyView(
                other["role"],
                ROLES.get(other["role"], "当事人"),
                masked[other["person_id"]].name,
            )
            for other in others
        ),
        events,
    )


def _view(
    row: dict[str, Any], parties: tuple[PartyView, ...], events: list[dict[str, Any]]
) -> CaseView:
    """`events` of the stages, newest first. They know when work began; the case itself only
    knows the last change of each box."""
    stages = orjson.loads(row["stages"])
    newest: dict[tuple[str, str], datetime] = {}
    for event in events:
        newest.setdefault((event["stage"], event["state"]), event["at"])
    return CaseView(
        **{
            **{name: row[name] for name in row if name != "roles"},
            "stages": tuple(
                StageView(
                    stage["stage"],
                    stage["state"],
                    datetime.fromisoformat(stage["at"])
                    if stage["at"]
                    else newest.get((stage["stage"], stage["state"])),
                    stage["note"],
                    newest.get((stage["stage"], "doing")) if stage["state"] in BEGUN else None,
                )
                for stage in stages
            ),
        },
        my_roles=tuple(ROLES.get(role, "当事人") for role in row["roles"]),
        parties=parties,
    )
