"""Persons as the counter registered them."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.identity.actions.indexes import require_all_found
from estation.identity.errors import BadPerson
from estation.identity.queries import number_text
from estation.identity.rules import clean_id_no, clean_phone, person_fault
from estation.shared import ids
from estation.shared.bulk import staged
from estation.shared.clock import beijing_day
from estation.shared.crypto import DataKey, DataKeys, Vault
from estation.shared.transactions import in_transaction

_CHANGING: Final = 0x7065_7273_6F6E
"""An advisory lock: persons are put while the key of personal data is being changed."""

PersonKey = tuple[str, str]
"""(id_type, id_no) as the row has it"""

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
select count(*) as put, array_agg(put.id_type) filter (where s.id is null) as id_types,
       array_agg(put.id_no_index) filter (where s.id is null) as id_no_indexes,
       array_agg(put.id) filter (where s.id is null) as ids
from put left join stage_person s on s.id = put.id
"""
# Of those that were new the caller made the ids itself. (And Tortoise hands out no rows of a
# statement that begins with its insert.)

# A person whom we know under another key's index is the same person: found by that, it stands
# under this one from now on. In one order, so that two peers never wait for each other.
_TAKE_OVER = """
with known as (
    select p.id, s.id_no_index, s.id_no_sealed, s.id_tail_index
    from unnest($1::text[], $2::text[], $3::text[]) as f(id_type, id_no_index, former)
    join person p on p.id_type = f.id_type and p.id_no_index = f.former
    join stage_person s on s.id_type = f.id_type and s.id_no_index = f.id_no_index
    where not exists (
        select from person q where q.id_type = f.id_type and q.id_no_index = f.id_no_index)
    order by p.id_type, p.id_no_index for update of p
)
update person p set id_no_index = known.id_no_index, id_no_sealed = known.id_no_sealed,
                    id_tail_index = known.id_tail_index
from known where p.id = known.id
"""

_IDS = """
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


class PersonColumns(NamedTuple):
    """A row of `person` behind its id, sealed."""

    id_type: str
    id_no_index: str
    id_no_sealed: bytes
    id_tail_index: str
    name_sealed: bytes
    phone_index: str
    phone_sealed: bytes
    updated_at: datetime
    said_by: str
    reach: int


@dataclass(frozen=True, slots=True)
class SealedPersons:
    """Persons ready for the table, and each party's key. Ids are given when they are put: who
    seals in a thread draws none."""

    keys: Sequence[PersonKey]
    indexes: Mapping[PersonKey, tuple[str, ...]]  # the one they get first, then other keys'
    rows: Mapping[PersonKey, PersonColumns]
    said_at: datetime
    by_keys: DataKeys


def seal_persons(
    parties: Sequence[Party], *, vault: Vault, by: Speaker, now: datetime
) -> SealedPersons:
    """All that needs no database. The last of several rows of one person wins.

    Raises BadPerson with the position of a party that cannot be a person.
    """
    keys = [(party.id_type, clean_id_no(party.id_no)) for party in parties]
    _require_persons(parties, keys, now)
    unique = dict(zip(keys, parties, strict=True))
    by_keys = vault.keys  # the same for all of them, whatever becomes of the file
    in_turn = by_keys.in_turn
    indexes = {
        key: tuple(one.index(text) for one in in_turn)
        for key, text in ((key, number_text(*key)) for key in unique)
    }
    rows = dict(zip(unique, _persons(unique, indexes, in_turn[0], by, now), strict=True))
    return SealedPersons(keys, indexes, rows, now, by_keys)


async def upsert_persons(
    parties: Sequence[Party], *, vault: Vault, by: Speaker, now: datetime
) -> dict[PersonKey, UUID]:
    """Make or refresh these persons in the caller's transaction; their ids by type and number as
    the parties have them. As `seal_persons` and `put_persons`."""
    put = await put_persons(seal_persons(parties, vault=vault, by=by, now=now))
    return {
        (party.id_type, party.id_no): UUID(str(person_id))
        for party, person_id in zip(parties, put, strict=True)
    }


async def put_persons(persons: SealedPersons) -> list[UUID | str]:
    """Make or refresh them, set-based, in the caller's transaction; the id of each party's, as
    text where it is new.

    Older news never overwrites newer. A person whom another peer registered keeps its name and
    phone, unless `by` has a wider reach: what `by` says is kept as its word, by which nobody
    logs in.

    Raises FormerKeyMissing while persons stand under a key that is not in our file: who is
    there already would be made a second time.
    """
    if not persons.rows:
        return []
    await require_all_found(persons.by_keys)
    row_ids = ids.row_id_texts(persons.said_at, len(persons.rows))
    given = ((row_id, *row) for row_id, row in zip(row_ids, persons.rows.values(), strict=True))
    # A savepoint of the caller's transaction: the staged rows must stay on one connection.
    async with (
        in_transaction() as tx,
        _one_after_the_other(tx, persons.by_keys),
        staged(tx, "person", ("id", *PersonColumns._fields), given),
    ):
        for former in _formers(persons):
            await tx.execute_query(_TAKE_OVER, former)
        _, ((put, *known),) = await tx.execute_query(_UPSERT)
        if put < len(persons.rows):
            await tx.execute_query(_KEEP_WORDS)
    found: dict[PersonKey, UUID | str] = dict(zip(persons.rows, row_ids, strict=True))
    if put < len(persons.rows):  # of those we know newer news, nothing was returned
        found |= await _found(persons)
    elif known[0]:
        of = _by_index(persons)
        found |= {
            of[id_type, index]: person_id for id_type, index, person_id in zip(*known, strict=True)
        }
    return [found[key] for key in persons.keys]


def _by_index(persons: SealedPersons) -> dict[tuple[str, str], PersonKey]:
    """As the table knows them: type and blind index."""
    return {(key[0], persons.indexes[key][0]): key for key in persons.rows}


async def _found(persons: SealedPersons) -> dict[PersonKey, UUID | str]:
    of = _by_index(persons)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _IDS, [[id_type for id_type, _ in of], [index for _, index in of]]
    )
    return {of[row["id_type"], row["id_no_index"]]: row["id"] for row in rows}


@asynccontextmanager
async def _one_after_the_other(db: BaseDBAsyncClient, keys: DataKeys) -> AsyncIterator[None]:
    """To the end of the caller's transaction, while the key is being changed: two peers whose
    programs make with different keys would each not see the person that the other one makes."""
    if len(keys.held) > 1:
        await db.execute_query("select pg_advisory_xact_lock($1)", [_CHANGING])
    yield


def _formers(persons: SealedPersons) -> Iterator[list[list[str]]]:
    """For each other key: types, indexes, and what they are under that key. None but while the
    key of personal data is being changed."""
    id_types = [id_type for id_type, _ in persons.indexes]
    making, *others = zip(*persons.indexes.values(), strict=True)
    for former in others:
        yield [id_types, list(making), list(former)]


def _persons(
    unique: Mapping[PersonKey, Party],
    indexes: Mapping[PersonKey, tuple[str, ...]],
    making: DataKey,
    by: Speaker,
    now: datetime,
) -> Iterator[PersonColumns]:
    phones = [clean_phone(party.phone) for party in unique.values()]
    index, seal_all = making.index, making.seal_all
    for key, phone, id_no_sealed, name_sealed, phone_sealed in zip(
        unique,
        phones,
        seal_all([id_no.encode() for _, id_no in unique]),
        seal_all([party.name.encode() for party in unique.values()]),
        seal_all([phone.encode() for phone in phones]),
        strict=True,
    ):
        yield PersonColumns(
            key[0],
            indexes[key][0],
            id_no_sealed,
            index(f"tail:{key[1][-6:]}"),
            name_sealed,
            index(f"phone:{phone}"),
            phone_sealed,
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
