"""What of persons is sealed, and the openids that are older than their sealing."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.identity.queries import number_text, openid_index
from estation.shared.crypto import Vault
from estation.shared.resealing import Indexed, SealedTable
from estation.shared.sealing import Batch, Step
from estation.shared.transactions import in_transaction

ROWS_AT_ONCE: Final = 500

_NEXT_BINDINGS: Final = """
select id, openid from wechat_binding
where openid is not null and id > $1 order by id limit $2 for update
"""
# A program of the release before may have bound a person anew whose openid already has an index:
# the newer word stays.
_TAKE_NEWER: Final = """
update wechat_binding b set person_id = n.person_id, bound_at = n.bound_at
from wechat_binding n
where n.id = $1 and b.appid = n.appid and b.openid_index = $2 and b.bound_at < n.bound_at
"""
_DROP_DOUBLE: Final = """
delete from wechat_binding d where d.id = $1 and exists (
    select from wechat_binding b where b.appid = d.appid and b.openid_index = $2)
"""
_INDEX: Final = (
    "update wechat_binding set openid_index = $2, openid_sealed = $3, openid = null where id = $1"
)
_NEXT_SESSIONS: Final = """
select id, openid from session
where openid is not null and id > $1 order by id limit $2 for update
"""


_PHONE: Final = Indexed("phone_index", "phone_sealed", lambda _, phone: f"phone:{phone}")
SEALED: Final = (
    SealedTable(
        "person",
        ("id_no_sealed", "name_sealed", "phone_sealed"),
        indexed=(
            Indexed("id_no_index", "id_no_sealed", lambda row, no: number_text(row["id_type"], no)),
            Indexed("id_tail_index", "id_no_sealed", lambda _, no: f"tail:{no[-6:]}"),
            _PHONE,
        ),
        needed=("id_type",),
    ),
    SealedTable("person_word", ("name_sealed", "phone_sealed"), indexed=(_PHONE,)),
    SealedTable(
        "wechat_binding",
        ("openid_sealed",),
        indexed=(
            Indexed(
                "openid_index",
                "openid_sealed",
                lambda _, openid: f"openid:{openid}",
                needs_key=True,  # from before openids were kept: only its owner can bring it
            ),
        ),
    ),
    SealedTable("session", ("openid_sealed", "phone_sealed"), indexed=(_PHONE,)),
)
"""For `shared.resealing`. Codes for logging in are not here: what is kept of them goes within a
day."""

_FORGET_BINDINGS: Final = """
with gone as (
    delete from wechat_binding where id = any(array(
        select id from wechat_binding
        where openid_sealed is null and left(openid_index, $1) <> $2 limit $3 for update))
    returning id
)
select count(*) as gone from gone
"""


async def forget_unsealed_bindings(vault: Vault) -> int:
    """Bindings that only a former key finds, and only their owners could bring to the newest: who
    comes back proves phone and person once more. How many went."""
    mark = vault.keys.newest.index_mark
    gone, last = 0, ROWS_AT_ONCE
    while last == ROWS_AT_ONCE:
        async with in_transaction() as db:
            rows = await db.execute_query_dict(_FORGET_BINDINGS, [len(mark), mark, ROWS_AT_ONCE])
        last = rows[0]["gone"]
        gone += last
    return gone


async def index_binding(
    db: BaseDBAsyncClient, binding_id: UUID, index: str, openid_sealed: bytes
) -> None:
    """A locked binding in clear words or under another index becomes, or gives way to, the one of
    this index."""
    await db.execute_query(_TAKE_NEWER, [binding_id, index])
    await db.execute_query(_DROP_DOUBLE, [binding_id, index])
    await db.execute_query(_INDEX, [binding_id, index, openid_sealed])


def walks_over_openids(vault: Vault) -> Mapping[str, Step]:
    """For `shared.sealing`."""

    async def bindings(db: BaseDBAsyncClient, after: UUID) -> Batch:
        rows = await db.execute_query_dict(_NEXT_BINDINGS, [after, ROWS_AT_ONCE])
        for row in rows:
            openid = row["openid"]
            index = openid_index(openid, vault=vault)
            await index_binding(db, row["id"], index, vault.seal(openid))
        return Batch(len(rows), len(rows), rows[-1]["id"] if rows else None)

    async def sessions(db: BaseDBAsyncClient, after: UUID) -> Batch:
        rows = await db.execute_query_dict(_NEXT_SESSIONS, [after, ROWS_AT_ONCE])
        for row in rows:
            await db.execute_query(
                "update session set openid_sealed = $2, openid = null where id = $1",
                [row["id"], vault.seal(row["openid"])],
            )
        return Batch(len(rows), len(rows), rows[-1]["id"] if rows else None)

    return {"wechat_binding": bindings, "session": sessions}
