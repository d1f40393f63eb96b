"""Persons as the counter registered them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tortoise import Tortoise

from estation.identity.errors import BadPerson
from estation.identity.queries import number_index
from estation.identity.rules import clean_id_no, clean_phone, person_fault
from estation.shared import ids
from estation.shared.bulk import staged
from estation.shared.clock import beijing_day
from estation.shared.crypto import Vault
from estation.shared.transactions import in_transaction

PersonKey = tuple[str, str]
"""(id_type, id_no) as the row has it"""

_PERSON = (
    "id", "id_type", "id_no_index", "id_no_sealed", "id_tail_index", "name_sealed",
    "phone_index", "phone_sealed", "updated_at", "said_by", "reach",
)  # fmt: skip

# Whoever registered a person goes on speaking for it; who has a wider reach takes that over.
_UPSERT = """
with put as (
insert into person as p (id, id_type, id_no_index, id_no_sealed, id_tail_index, name_sealed,
                         phone_index, phone_sealed, updated_at, said_by, reach)
select id, id_type, id_no_index, id_no_sealed, id_tail_index, name_sealed, phone_index,
       phone_sealed, updated_at, said_by, reach
from stage_person order by id_type, id_no_index
on conflict (id_type, id_no_index) do update set
    name_sealed = excluded.name_sealed, phone_index = excluded.phone_index,
    phone_sealed = excluded.phone_sealed, updated_at = excluded.updated_at,
    said_by = excluded.said_by, reach = excluded.reach
where p.said_by in (excluded.said_by, '') and p.updated_at <= excluded.updated_at
   or p.said_by <> excluded.said_by and p.reach > excluded.reach
returning id, id_type, id_no_index
)
select id, id_type, id_no_index from put
"""
# Tortoise hands out no rows of a statement that begins with its insert.

_IDS_OF_KNOWN = """
select p.id, p.id_type, p.id_no_index
from unnest($1::text[], $2::text[]) as t(id_type, id_no_index)
join person p using (id_type, id_no_index)
"""

_KEEP_WORDS = """
insert into person_word as w (id, person_id, said_by, name_sealed, phone_index, phone_sealed,
                              said_at)
select s.id, p.id, s.said_by, s.name_sealed, s.phone_index, s.phone_sealed, s.updated_at
from stage_person s join person p using (id_type, id_no_index)
where p.said_by <> s.said_by order by p.id
on conflict (person_id, said_by) do update set
    name_sealed = excluded.name_sealed, phone_index = excluded.phone_index,
    phone_sealed = excluded.phone_sealed, said_at = excluded.said_at
where w.said_at <= excluded.said_at
"""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Which peer of the gate speaks of persons, and how many digits its narrowest region code
    has: 0 for everywhere, 4 for a city, 6 for a county."""

    name: str
    reach: int


class Party(Protocol):
    """What the gate's rows say of a person."""

    @property
    def name(self) -> str: ...
    @property
    def id_type(self) -> str: ...
    @property
    def id_no(self) -> str: ...
    @property
    def phone(self) -> str: ...


@dataclass(frozen=True, slots=True)
class SealedPersons:
    """Persons ready for the table: their rows as `_PERSON` has them behind the id, and each
    party's key. Ids are given when they are put: who seals in a thread draws none."""

    keys: Sequence[PersonKey]
    indexes: Mapping[PersonKey, str]
    rows: Mapping[PersonKey, tuple[object, ...]]
    said_at: datetime


def seal_persons(
    parties: Sequence[Party], *, vault: Vault, by: Speaker, now: datetime
) -> SealedPersons:
    """All that needs no database. The last of several rows of one person wins.

    Raises BadPerson with the position of a party that cannot be a person.
    """
    keys = [(party.id_type, clean_id_no(party.id_no)) for party in parties]
    _require_persons(parties, keys, now)
    unique = dict(zip(keys, parties, strict=True))
    indexes = {key: number_index(*key, vault=vault) for key in unique}
    rows = dict(zip(unique, _persons(unique, indexes, vault, by, now), strict=True))
    return SealedPersons(keys, indexes, rows, now)


async def upsert_persons(
    parties: Sequence[Party], *, vault: Vault, by: Speaker, now: datetime
) -> dict[PersonKey, UUID]:
    """Make or refresh these persons in the caller's transaction; their ids by type and number as
    the parties have them. As `seal_persons` and `put_persons`."""
    put = await put_persons(seal_persons(parties, vault=vault, by=by, now=now))
    return {
        (party.id_type, party.id_no): person_id
        for party, person_id in zip(parties, put, strict=True)
    }


async def put_persons(persons: SealedPersons) -> list[UUID]:
    """Make or refresh them, set-based, in the caller's transaction; the id of each party's.

    Older news never overwrites newer. A person whom another peer registered keeps its name and
    phone, unless `by` has a wider reach: what `by` says is kept as its word, by which nobody
    logs in.
    """
    if not persons.rows:
        return []
    row_ids = ids.row_id_texts(persons.said_at, len(persons.rows))
    given = ((row_id, *row) for row_id, row in zip(row_ids, persons.rows.values(), strict=True))
    # A savepoint of the caller's transaction: the staged rows must stay on one connection.
    async with (
        in_transaction() as tx,
        staged(tx, "person", _PERSON, given),
    ):
        _, rows = await tx.execute_query(_UPSERT)
        if len(rows) < len(persons.rows):
            await tx.execute_query(_KEEP_WORDS)
    found = {(row["id_type"], row["id_no_index"]): row["id"] for row in rows}
    wanted = [(key[0], persons.indexes[key]) for key in persons.keys]
    if len(found) < len(persons.rows):  # of those we know newer news, nothing was returned
        missing = {key for key in wanted if key not in found}
        rows = await Tortoise.get_connection("default").execute_query_dict(
            _IDS_OF_KNOWN, [[id_type for id_type, _ in missing], [index for _, index in missing]]
        )
        found |= {(row["id_type"], row["id_no_index"]): row["id"] for row in rows}
    return [found[key] for key in wanted]


def _persons(
    unique: Mapping[PersonKey, Party],
    indexes: Mapping[PersonKey, str],
    vault: Vault,
    by: Speaker,
    now: datetime,
) -> Iterator[tuple[object, ...]]:
    """The columns `_PERSON` behind the id."""
    for key, party in unique.items():
        phone = clean_phone(party.phone)
        yield (
            key[0],
            indexes[key],
            vault.seal(key[1]),
            vault.index(f"tail:{key[1][-6:]}"),
            vault.seal(party.name),
            vault.index(f"phone:{phone}"),
            vault.seal(phone),
            now,
            by.name,
            by.reach,
        )


def _require_persons(parties: Sequence[Party], keys: Sequence[PersonKey], now: datetime) -> None:
    today = beijing_day(now)
    for position, (party, (id_type, id_no)) in enumerate(zip(parties, keys, strict=True)):
        fault = person_fault(id_type=id_type, id_no=id_no, name=party.name, today=today)
        if fault:
            raise BadPerson(fault, position)
