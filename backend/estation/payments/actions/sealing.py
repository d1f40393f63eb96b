"""Seals who paid in what was kept of channels' words before they were sealed at the door."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import orjson
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.pay_channels.payers import seal_payers
from estation.shared.crypto import Vault
from estation.shared.jsonb import jsonb_text
from estation.shared.sealing import Batch, Step

ROWS_AT_ONCE: Final = 500

_NEXT_NOTICES: Final = """
select id, plaintext::text as said from pay_notice
where id > $1 order by id limit $2 for update
"""
_SEAL_NOTICES: Final = """
update pay_notice n set plaintext = t.said
from json_to_recordset($1::json) as t(id uuid, said jsonb) where n.id = t.id
"""
_NEXT_INCIDENTS: Final = """
select id, evidence::text as said from incident
where id > $1 order by id limit $2 for update
"""
_SEAL_INCIDENTS: Final = """
update incident i set evidence = t.said
from json_to_recordset($1::json) as t(id uuid, said jsonb) where i.id = t.id
"""


def walks_over_payers(vault: Vault) -> Mapping[str, Step]:
    """For `shared.sealing`: the tables that keep channels' words."""

    async def notices(db: BaseDBAsyncClient, after: UUID) -> Batch:
        return await _step(db, after, vault, _NEXT_NOTICES, _SEAL_NOTICES)

    async def incidents(db: BaseDBAsyncClient, after: UUID) -> Batch:
        return await _step(db, after, vault, _NEXT_INCIDENTS, _SEAL_INCIDENTS)

    return {"pay_notice": notices, "incident": incidents}


async def _step(db: BaseDBAsyncClient, after: UUID, vault: Vault, find: str, seal: str) -> Batch:
    rows = await db.execute_query_dict(find, [after, ROWS_AT_ONCE])
    changed = [changes for row in rows if (changes := _changed(row, vault)) is not None]
    if changed:
        await db.execute_query_dict(seal, [jsonb_text(changed)])
    return Batch(len(rows), len(changed), rows[-1]["id"] if rows else None)


def _changed(row: dict[str, Any], vault: Vault) -> dict[str, Any] | None:
    """None when the row named nobody in clear words."""
    said, before = orjson.loads(row["said"]), orjson.loads(row["said"])
    seal_payers(vault, said)
    return None if said == before else {"id": row["id"], "said": said}
