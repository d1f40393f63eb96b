"""Seals the bill files that were kept before files were sealed."""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.reconciliation.queries import as_received
from estation.shared.crypto import Vault
from estation.shared.sealing import Batch, Step

# One at a time: a file may have a quarter of a gigabyte.
_NEXT: Final = """
select id, sha256, content, is_sealed from channel_bill_file
where not is_sealed and id > $1 order by id limit 1 for update
"""


def walks_over_bills(vault: Vault) -> Mapping[str, Step]:
    """For `shared.sealing`. A file that is not what its digest says stops the walk with
    KeptFileChanged: sealing it would hide what somebody did."""

    async def files(db: BaseDBAsyncClient, after: UUID) -> Batch:
        rows = await db.execute_query_dict(_NEXT, [after])
        if not rows:
            return Batch(0, 0, None)
        content = await asyncio.to_thread(as_received, rows[0], vault)
        sealed = await asyncio.to_thread(vault.seal_file, content)
        await db.execute_query(
            "update channel_bill_file set content = $2, is_sealed = true where id = $1",
            [rows[0]["id"], sealed],
        )
        return Batch(1, 1, rows[0]["id"])

    return {"channel_bill_file": files}
