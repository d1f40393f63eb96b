"""Further folders for a stream's files: each gets all of them, none waits for another."""

import asyncio
from datetime import datetime
from pathlib import Path

import structlog
from tortoise import Tortoise

from estation.outside.gate import folders
from estation.outside.gate import format as packets
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

MAX_WRITES_PER_CALL = 200


async def write_missing(stream: str, folder: Path) -> None:
    """Write what this destination lacks, oldest first. Raises OSError when it cannot be written."""
    written = 0
    while written < MAX_WRITES_PER_CALL and await _write_next(stream, folder):
        written += 1


async def note_failure(stream: str, folder: Path, failure: str, *, now: datetime) -> None:
    """What keeps the folder from being written; "" for nothing. Written only when it is news."""
    changed = await Tortoise.get_connection("default").execute_query_dict(
        """update gate_destination
           set failure = $3, failed_at = case when $3 = '' then null else $4::timestamptz end
           where stream = $1 and folder = $2 and failure <> $3 returning failure""",
        [stream, str(folder), failure[:128], now],
    )
    if changed and failure:
        log.error("gate_destination_failed", stream=stream, folder=str(folder), error=failure)


async def _write_next(stream: str, folder: Path) -> bool:
    async with in_transaction() as tx:
        # The lock keeps two workers from writing the same temporary file.
        found = await tx.execute_query_dict(
            """select d.id, d.written_seq, p.seq, p.manifest, p.body
               from gate_destination d
                 left join lateral (select seq, manifest, body from gate_outgoing_packet
                                    where stream = d.stream and seq > d.written_seq
                                    order by seq limit 1) p on true
               where d.stream = $1 and d.folder = $2 for update of d""",
            [stream, str(folder)],
        )
        if not found or found[0]["seq"] is None:
            return False
        row = found[0]
        name = packets.file_name(stream, row["seq"])
        parts = [row["manifest"], b"\n", row["body"]]
        await asyncio.to_thread(folders.write_atomically, folder, name, parts)
        await tx.execute_query(
            """update gate_destination set written_seq = $2, passed_over = passed_over + $3
               where id = $1""",
            [row["id"], row["seq"], row["seq"] - row["written_seq"] - 1],
        )
    return True
