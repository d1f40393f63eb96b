"""Seals the openids of sessions and bindings that are older than their sealing."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.identity.queries import openid_index
from estation.shared.crypto import Vault
from estation.shared.sealing import Batch, Step

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
_INDEX: Final = "update wechat_binding set openid_index = $2, openid = null where id = $1"
_NEXT_SESSIONS: Final = """
select id, openid from session
where openid is not null and id > $1 order by id limit $2 for update
"""


async def index_binding(db: BaseDBAsyncClient, binding_id: UUID, index: str) -> None:
    """A locked binding in clear words becomes, or gives way to, the one of the index."""
    for statement in (_TAKE_NEWER, _DROP_DOUBLE, _INDEX):
        await db.execute_query(statement, [binding_id, index])


def walks_over_openids(vault: Vault) -> Mapping[str, Step]:
    """For `shared.sealing`."""

    async def bindings(db: BaseDBAsyncClient, after: UUID) -> Batch:
        rows = await db.execute_query_dict(_NEXT_BINDINGS, [after, ROWS_AT_ONCE])
        for row in rows:
            await index_binding(db, row["id"], openid_index(row["openid"], vault=vault))
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
