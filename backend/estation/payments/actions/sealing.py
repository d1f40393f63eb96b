"""Who paid, in what was kept of channels' words: sealed where it is older than the sealing at the
door, and sealed anew with another key."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.pay_channels.payers import reseal_payers, seal_payers, tokens_of_others
from estation.shared.crypto import DataKey, KeyNotHeld, Vault
from estation.shared.jsonb import jsonb_text
from estation.shared.resealing import (
    NotOpened,
    Resealing,
    SealedTable,
    Unopened,
    all_renewed,
    resealing,
)
from estation.shared.sealing import Batch, Step

ROWS_AT_ONCE: Final = 500

SEALED: Final = (SealedTable("pay_notice_message", ("message_sealed",)),)

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


def resealings_of_payers(vault: Vault) -> list[Resealing]:
    """For `shared.resealing`: the same tables, under the newest key."""
    newest = vault.keys.newest

    def of(table: str, column: str, find: str, seal: str) -> Resealing:
        unopened = Unopened()

        async def step(db: BaseDBAsyncClient, after: UUID) -> Batch:
            rows = await db.execute_query_dict(find, [after, ROWS_AT_ONCE])
            anew = all_renewed(rows, lambda row: _anew(table, row, vault, newest), unopened)
            if anew:
                await db.execute_query_dict(seal, [jsonb_text(anew)])
            return Batch(len(rows), len(anew), rows[-1]["id"] if rows else None)

        needs = f"{column}::text ~ $2"
        return Resealing(table, step, needs, [tokens_of_others(newest)], unopened)

    return [
        of("pay_notice", "plaintext", _NEXT_NOTICES, _SEAL_NOTICES),
        of("incident", "evidence", _NEXT_INCIDENTS, _SEAL_INCIDENTS),
        *(resealing(table, vault) for table in SEALED),
    ]


def _anew(table: str, row: dict[str, Any], vault: Vault, newest: DataKey) -> dict[str, Any] | None:
    said = orjson.loads(row["said"])
    try:
        anew = reseal_payers(vault, newest, said)
    except InvalidTag as failure:
        missing = isinstance(failure, KeyNotHeld)
        raise NotOpened(table, row["id"], is_key_missing=missing) from None
    return None if anew == said else {"id": row["id"], "said": anew}


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
