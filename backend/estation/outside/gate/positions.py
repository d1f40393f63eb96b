"""The database's side of receiving: where a stream stands, why it stands still, what came.

Every function joins the transaction of the connection it is given.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import format as packets
from estation.outside.gate.arriving import Seal, Unseal
from estation.outside.gate.errors import HEALS_ITSELF, NEEDS_A_PERSON, Reason
from estation.shared import ids

log = structlog.get_logger()

KEEP_APPLIED = 100_000
"""So many applied positions keep their digest, by which a repeat is told from a fork."""
MAX_RETRY = timedelta(seconds=60)
KEEP_QUARANTINED = 5000
"""Records of refused files, several times as many as the files that are kept."""


_SELECT = """select last_seq, last_digest, stopped_reason, stopped_at, failures, retry_at,
                    parked_files, stopped_detail
             from gate_incoming_stream where stream = $1"""
_SELECT_LOCKED = _SELECT + " for update"


class NotOpened(Exception):
    """A parked row is sealed, and whoever asks for it opens none."""


@dataclass(frozen=True, slots=True)
class Position:
    """The row of `gate_incoming_stream`."""

    last_seq: int
    last_digest: str
    stopped_reason: str
    failures: int
    retry_at: datetime | None
    parked_files: int
    stopped_at: datetime | None = None
    stopped_detail: str = ""

    @property
    def needs_a_person(self) -> bool:
        return self.stopped_reason in NEEDS_A_PERSON

    @property
    def is_refused(self) -> bool:
        """Something that came was no good, and nothing moves until something better does."""
        return bool(self.stopped_reason) and self.stopped_reason not in HEALS_ITSELF


async def position_of(db: BaseDBAsyncClient, stream: str, *, lock: bool = False) -> Position:
    """Made at 0 when the stream is new; locked until the transaction ends when asked."""
    query = _SELECT_LOCKED if lock else _SELECT
    found = await db.execute_query_dict(query, [stream])
    if not found:
        await db.execute_query(
            """insert into gate_incoming_stream
               (stream, last_seq, last_digest, stopped_reason, stopped_detail, failures,
                parked_files, duplicates, content_seq, reported_seq)
               values ($1, 0, $2, '', '', 0, 0, 0, 0, 0) on conflict do nothing""",
            [stream, packets.NO_PREVIOUS],
        )
        found = await db.execute_query_dict(query, [stream])
    return Position(**found[0])


async def claim(tx: BaseDBAsyncClient, stream: str) -> bool:
    """Become the only importer of the stream until the transaction ends; False if one is."""
    found = await tx.execute_query_dict(
        "select pg_try_advisory_xact_lock(hashtextextended('gate/' || $1, 0)) as mine", [stream]
    )
    return bool(found[0]["mine"])


def known_up_to(manifest: packets.Manifest, now: datetime) -> datetime:
    """Up to when we know the sender's things: what it says, but nothing of the future.

    A clock that is ahead would else make its rows the newest for ever, and its stream never late.
    """
    return min(manifest.watermark, now)


async def record_applied(
    tx: BaseDBAsyncClient, head: packets.Head, *, content: bool, now: datetime
) -> None:
    """The position moves on to this packet; whatever stopped the stream is over."""
    manifest = head.manifest
    await tx.execute_query(
        """insert into gate_incoming_file
           (id, stream, seq, file_name, digest, state, reason, detail, kept_as, rows, times,
            received_at)
           values ($1, $2, $3, $4, $5, 'applied', '', '', '', $6, 1, $7)""",
        [
            ids.row_id(now),
            manifest.stream,
            manifest.seq,
            packets.file_name(manifest.stream, manifest.seq),
            head.digest,
            manifest.count,
            now,
        ],
    )
    await tx.execute_query(
        """update gate_incoming_stream
           set last_seq = $2, last_digest = $3, watermark = $4, applied_at = $5,
               stopped_reason = '', stopped_detail = '', stopped_at = null,
               failures = 0, retry_at = null,
               content_seq = case when $6 then $2 else content_seq end
           where stream = $1""",
        [manifest.stream, manifest.seq, head.digest, known_up_to(manifest, now), now, content],
    )
    if manifest.seq % 1000 == 0:
        await tx.execute_query(
            """delete from gate_incoming_file
               where stream = $1 and seq between $2 and $3 and state = 'applied'""",
            [manifest.stream, manifest.seq - KEEP_APPLIED - 2000, manifest.seq - KEEP_APPLIED],
        )


async def applied_digest(db: BaseDBAsyncClient, stream: str, seq: int) -> str | None:
    """Of a packet already applied; None when that is so long ago that it is forgotten."""
    found = await db.execute_query_dict(
        """select digest from gate_incoming_file
           where stream = $1 and seq = $2 and state = 'applied'""",
        [stream, seq],
    )
    return found[0]["digest"] if found else None


async def count_duplicate(db: BaseDBAsyncClient, stream: str) -> None:
    await db.execute_query(
        "update gate_incoming_stream set duplicates = duplicates + 1 where stream = $1", [stream]
    )


async def begin_anew(db: BaseDBAsyncClient, stream: str) -> None:
    """As if nothing of the stream had ever been applied; what came of it stays in its tables.

    Rows that are parked make room for those of the packets that come under the same numbers: they
    move below 0, in their order. Joins the caller's transaction.
    """
    await db.execute_query(
        """update gate_incoming_stream
           set last_seq = 0, last_digest = $2, stopped_reason = '', stopped_detail = '',
               stopped_at = null, failures = 0, retry_at = null, parked_files = 0,
               content_seq = 0, reported_seq = 0, reported_at = null
           where stream = $1""",
        [stream, packets.NO_PREVIOUS],
    )
    await db.execute_query(
        "delete from gate_incoming_file where stream = $1 and state = 'applied'", [stream]
    )
    # By more than they span: none moves onto the place of one that has not moved yet.
    await db.execute_query(
        """update gate_parked_row p set seq = p.seq - moved.places
           from (select greatest(max(seq), max(seq) - min(seq)) + 1 as places
                 from gate_parked_row where stream = $1) moved
           where p.stream = $1""",
        [stream],
    )


async def park_rows(
    tx: BaseDBAsyncClient,
    head: packets.Head,
    parked: Sequence[tuple[int, str, bytes]],
    *,
    now: datetime,
    seal: Seal | None = None,
) -> None:
    """Keep rows (line number, topic, JSON) nobody here handles yet."""
    manifest = head.manifest
    await park_bodies(
        tx,
        manifest.stream,
        [(manifest.seq, line, topic, body.decode()) for line, topic, body in parked],
        now=known_up_to(manifest, now),
        seal=seal,
    )


async def park_bodies(
    tx: BaseDBAsyncClient,
    stream: str,
    parked: Sequence[tuple[int, int, str, str]],
    *,
    now: datetime,
    seal: Seal | None = None,
) -> None:
    """As `park_rows`, for rows (seq, line, topic, JSON) of several packets, which tell what was so
    at `now`.

    A row parked before is not parked again: snapshots bring the same ones each day.
    """
    await tx.execute_query(
        """insert into gate_parked_row (id, stream, seq, line, topic, body, body_sealed, created_at,
                                        digest)
           select id, $1, seq, line, topic, body, body_sealed, $2, digest
           from unnest($3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bytea[],
                       $9::bytea[])
             as given (id, seq, line, topic, body, body_sealed, digest)
           on conflict do nothing""",
        [
            stream,
            now,
            ids.row_ids(now, len(parked)),
            [seq for seq, _, _, _ in parked],
            [line for _, line, _, _ in parked],
            [topic for _, _, topic, _ in parked],
            [body if seal is None else None for _, _, _, body in parked],
            [None if seal is None else seal(body) for _, _, _, body in parked],
            [hashlib.sha256(body.encode()).digest() for _, _, _, body in parked],
        ],
    )


def body_of(row: Mapping[str, Any], unseal: Unseal | None) -> bytes:
    """The JSON of a parked row. Raises NotOpened when it is sealed and nobody here opens it."""
    if row["body"] is not None:
        return str(row["body"]).encode()
    if unseal is None:
        raise NotOpened
    return unseal(row["body_sealed"]).encode()


async def stop(
    db: BaseDBAsyncClient, stream: str, reason: Reason, detail: str, *, now: datetime
) -> None:
    """The stream stands still, and says why. A fork is not overwritten.

    `stopped_at` is since when it has not moved, whatever reasons came and went meanwhile.
    """
    await db.execute_query(
        """update gate_incoming_stream
           set stopped_at = case when stopped_at <= $4 then stopped_at else $4 end,
               stopped_reason = $2, stopped_detail = $3
           where stream = $1 and stopped_reason <> all($5::text[])""",
        [stream, reason.value, detail[:500], now, [reason.value for reason in NEEDS_A_PERSON]],
    )


async def stop_and_retry(
    db: BaseDBAsyncClient, stream: str, detail: str, failures: int, *, now: datetime
) -> None:
    """Our own side failed: stand still and try again, later each time (1 s … 60 s)."""
    await stop(db, stream, Reason.handler_failed, detail, now=now)
    delay = min(timedelta(seconds=2 ** min(failures, 10)), MAX_RETRY)
    await db.execute_query(
        "update gate_incoming_stream set failures = $2, retry_at = $3 where stream = $1",
        [stream, failures + 1, now + delay],
    )


async def note_parked_files(
    db: BaseDBAsyncClient, stream: str, before: Position, parked_files: int, *, now: datetime
) -> None:
    """Files ahead of a missing one: say so, unless something worse is already said."""
    if parked_files != before.parked_files:
        await db.execute_query(
            "update gate_incoming_stream set parked_files = $2 where stream = $1",
            [stream, parked_files],
        )
    if parked_files and not before.stopped_reason:
        await stop(db, stream, Reason.gap, f"waiting for seq {before.last_seq + 1}", now=now)


async def record_quarantined(
    db: BaseDBAsyncClient,
    stream: str,
    *,
    seq: int | None,
    file_name: str,
    digest: str,
    reason: Reason,
    detail: str,
    kept_as: str,
    file_id: UUID,
    now: datetime,
) -> str:
    """Remember a refused file; the name to keep it under.

    The same bytes refused again are only counted and keep the name they had.
    """
    if digest:
        repeated: list[dict[str, Any]] = await db.execute_query_dict(
            """update gate_incoming_file set times = times + 1, received_at = $4
               where digest = $1 and stream = $2 and state = 'quarantined' and reason = $3
               returning kept_as""",
            [digest, stream, reason.value, now],
        )
        if repeated:
            return str(repeated[0]["kept_as"])
    await db.execute_query(
        """insert into gate_incoming_file
           (id, stream, seq, file_name, digest, state, reason, detail, kept_as, rows, times,
            received_at)
           values ($1, $2, $3, $4, $5, 'quarantined', $6, $7, $8, 0, 1, $9)""",
        [file_id, stream, seq, file_name, digest, reason.value, detail[:500], kept_as, now],
    )
    return kept_as


async def take_back_quarantined(db: BaseDBAsyncClient, file_id: UUID) -> None:
    """The record of a file that could not be moved: it is not in quarantine."""
    await db.execute_query("delete from gate_incoming_file where id = $1", [file_id])


async def forget_quarantined(db: BaseDBAsyncClient, stream: str) -> None:
    """Records of refused files beyond the newest KEEP_QUARANTINED; their files are long gone."""
    gone = await db.execute_query_dict(
        """delete from gate_incoming_file where id in (
             select id from gate_incoming_file where stream = $1 and state = 'quarantined'
             order by received_at desc, id desc offset $2)
           returning id""",
        [stream, KEEP_QUARANTINED],
    )
    if gone:
        log.warning("gate_quarantine_records_forgotten", stream=stream, records=len(gone))
