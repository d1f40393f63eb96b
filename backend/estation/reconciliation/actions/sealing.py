"""Bill files: sealed where they were kept before files were sealed, and sealed anew with another
key."""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import structlog
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.reconciliation.errors import KeptFileChanged
from estation.reconciliation.queries import as_received
from estation.shared.crypto import KeyNotHeld, Vault, seal_file
from estation.shared.resealing import Resealing, Unopened
from estation.shared.sealing import Batch, Step

log = structlog.get_logger()

# One at a time: a file may have a quarter of a gigabyte.
_NEXT: Final = """
select id, sha256, content, is_sealed from channel_bill_file
where not is_sealed and id > $1 order by id limit 1 for update
"""


_NEXT_SEALED: Final = """
select id, sha256, content, is_sealed from channel_bill_file
where is_sealed and id > $1 order by id limit 1 for update
"""


def resealing_of_bills(vault: Vault) -> Resealing:
    """For `shared.resealing`. Each file is proved by its digest on the way, as by
    `walks_over_bills`."""
    newest, unopened = vault.keys.newest, Unopened()

    async def files(db: BaseDBAsyncClient, after: UUID) -> Batch:
        rows = await db.execute_query_dict(_NEXT_SEALED, [after])
        if not rows:
            return Batch(0, 0, None)
        row = rows[0]
        if bytes(row["content"][: len(newest.mark)]) == newest.mark:
            return Batch(1, 0, row["id"])
        try:
            content = await asyncio.to_thread(as_received, row, vault)
        except (KeyNotHeld, KeptFileChanged) as trouble:
            # As it is, it stays evidence of what somebody did.
            unopened[row["id"]] = isinstance(trouble, KeyNotHeld)
            return Batch(1, 0, row["id"])
        sealed = await asyncio.to_thread(seal_file, newest, content)
        await db.execute_query(
            "update channel_bill_file set content = $2 where id = $1", [row["id"], sealed]
        )
        return Batch(1, 1, row["id"])

    needs = "is_sealed and substring(content from 1 for 6) <> $2"
    return Resealing("channel_bill_file", files, needs, [newest.mark], unopened)


def walks_over_bills(vault: Vault) -> Mapping[str, Step]:
    """For `shared.sealing`. A file that is not what its digest says is left as it is (`unsealed`):
    sealing it would hide what somebody did. The walk goes on behind it."""

    async def files(db: BaseDBAsyncClient, after: UUID) -> Batch:
        rows = await db.execute_query_dict(_NEXT, [after])
        if not rows:
            return Batch(0, 0, None)
        try:
            content = await asyncio.to_thread(as_received, rows[0], vault)
        except KeptFileChanged:
            log.error("bill_file_changed", sha256=rows[0]["sha256"])
            return Batch(1, 0, rows[0]["id"])
        sealed = await asyncio.to_thread(vault.seal_file, content)
        await db.execute_query(
            "update channel_bill_file set content = $2, is_sealed = true where id = $1",
            [rows[0]["id"], sealed],
        )
        return Batch(1, 1, rows[0]["id"])

    return {"channel_bill_file": files}


async def unsealed_bills(*, limit: int = 100) -> tuple[int, list[str]]:
    """How many files are not sealed, and the first of their digests. Behind a whole walk these are
    the changed ones: what comes new is sealed at the door."""
    db = Tortoise.get_connection("default")
    (counted,) = await db.execute_query_dict(
        "select count(*) as n from channel_bill_file where not is_sealed"
    )
    rows = await db.execute_query_dict(
        "select sha256 from channel_bill_file where not is_sealed order by id limit $1", [limit]
    )
    return counted["n"], [row["sha256"] for row in rows]
