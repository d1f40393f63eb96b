"""Whether the keys of our file find every person: asked before the first person is put by them."""

from collections.abc import Sequence
from typing import Final

import structlog
from cryptography.exceptions import InvalidTag
from tortoise import Tortoise

from estation.shared.crypto import DataKeys, FormerKeyMissing, KeyNotHeld

log = structlog.get_logger()

PERSON: Final = "person"
LOOKED_AT: Final = 500
"""Of the oldest persons and of the newest, where the index alone cannot say it."""

# Between the marks of our keys nothing may stand: a few looks into the unique index for each type
# of number, however many persons there are. (Behind a mark stand hex digits only.)
_BETWEEN: Final = """
with recursive types as (
    (select id_type from person order by id_type limit 1)
    union all
    select (select p.id_type from person p where p.id_type > t.id_type order by p.id_type limit 1)
    from types t where t.id_type is not null
), marks as (
    select mark, lead(mark) over (order by mark) as following
    from unnest($1::text[]) as m(mark)
)
select exists (
    select from types t where t.id_type is not null and (
        exists (select from person p where p.id_type = t.id_type
                and p.id_no_index < (select min(mark) from marks))
        or exists (select from marks m where exists (
            select from person p where p.id_type = t.id_type and p.id_no_index >= m.mark || 'g'
            and (m.following is null or p.id_no_index < m.following))))) as is_foreign
"""
_AT_BOTH_ENDS: Final = f"""
(select id_no_sealed from person order by id limit {LOOKED_AT})
union all
(select id_no_sealed from person order by id desc limit {LOOKED_AT})
"""  # noqa: S608 - a constant of our own


async def require_all_found(keys: DataKeys) -> None:
    """Raises FormerKeyMissing while a person stands under a key that is not among these.

    Where all have names, every person is asked for in the index. What a key without a name made
    cannot be told from another's there: then the numbers of the oldest persons, whom a walk brings
    to a new key first, and of the newest, whom programs made with it, have to open.
    """
    if PERSON in keys.whole:
        return
    db = Tortoise.get_connection("default")
    if keys.has_nameless:
        rows = await db.execute_query_dict(_AT_BOTH_ENDS)
        is_foreign = _is_any_foreign(keys, [bytes(row["id_no_sealed"]) for row in rows])
    else:
        marks = [key.index_mark for key in keys.held]
        (found,) = await db.execute_query_dict(_BETWEEN, [marks])
        is_foreign = found["is_foreign"]
    if is_foreign:
        log.error("former_data_key_missing", held=[key.key_id for key in keys.held])
        raise FormerKeyMissing
    keys.whole.add(PERSON)


def _is_any_foreign(keys: DataKeys, values: Sequence[bytes]) -> bool:
    """A single altered value is no sign of another key; that none opens is one."""
    opened = 0
    for sealed in values:
        try:
            keys.open(sealed)
        except KeyNotHeld:
            return True
        except InvalidTag:
            continue
        opened += 1
    return bool(values) and not opened
