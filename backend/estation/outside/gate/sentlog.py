"""The newest version of everything ever sent, kept by the sender for whoever has to prove it.

Written in the transaction that queues the rows, so that at any moment the log is exactly what
the peer holds once all waiting rows have crossed.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import merkle, rows
from estation.shared.transactions import in_transaction

_BACKFILL_ROWS = 2000

_KEEP = (
    """
insert into gate_sent_row as s (stream, topic, source, key, version, digest, body, at, bucket)
select distinct on (topic, source, key) $1, topic, source, key, version, digest, body::jsonb, at,
       """
    + merkle.BUCKET_OF.format(key="key")
    + """
from {given}
order by topic, source, key, version desc, place desc
on conflict (stream, topic, source, key) do update set
    version = excluded.version, digest = excluded.digest, body = excluded.body, at = excluded.at
where s.version <= excluded.version
"""
)
# In the order of the keys, so that two writers never wait for each other in a circle.

# Who puts the first row of a source waits for nobody else who does: one of them is enough.
_PUT = """
with given as (
    select $2::varchar as topic, body, place, source, key, version, digest, $3::timestamptz as at
    from unnest($4::text[], $5::text[], $6::text[], $7::bigint[], $8::bytea[]) with ordinality
        as t(body, source, key, version, digest, place)
), queued as (
    insert into gate_outgoing_row (stream, topic, body, created_at, is_canonical)
    select $1, topic, body, at, true from given order by place
), known as (
    insert into gate_sent_source (stream, topic, source)
    select $1, topic, source
    from (select distinct topic, source from given where key is not null) as of_given
    where case when exists (
        select from gate_sent_source k where k.stream = $1 and k.topic = of_given.topic
          and k.source = of_given.source) then false
      else pg_try_advisory_xact_lock(hashtextextended(
        concat_ws(chr(1), 'gate_sent_source', $1, topic, source), 0)) end
    on conflict do nothing
)
""" + _KEEP.format(given="given where key is not null")  # noqa: S608 - no value in it

_KEEP_OLD = _KEEP.format(
    given="""unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::text[],
                    $8::timestamptz[]) with ordinality
             as given (topic, source, key, version, digest, body, at, place)"""
)


class LogRow(NamedTuple):
    """One row of the log; `body` is JSON."""

    topic: str
    source: str
    key: str
    version: int
    body: bytes


async def ever_sent(tx: BaseDBAsyncClient, stream: str) -> list[tuple[str, str]]:
    """Every (topic, source) of the stream, also those of which nothing is in the log."""
    found = await tx.execute_query_dict(
        "select topic, source from gate_sent_source where stream = $1 order by topic, source",
        [stream],
    )
    return [(row["topic"], row["source"]) for row in found]


async def queue_and_keep(
    stream: str, topic: str, given: Sequence[Struct], bodies: Sequence[bytes], *, now: datetime
) -> None:
    """Queue rows and keep them in the log, in one statement of the caller's transaction.

    A newer version replaces the kept one, and so does the same version sent again.
    """
    names = [rows.identity(topic, row) for row in given]
    await Tortoise.get_connection("default").execute_query(
        _PUT,
        [
            stream,
            topic,
            now,
            [body.decode() for body in bodies],
            [name.source if name else None for name in names],
            [name.key if name else None for name in names],
            [name.version if name else None for name in names],
            [rows.digest(body) if name else None for name, body in zip(names, bodies, strict=True)],
        ],
    )


async def backfill(stream: str) -> bool:
    """Keep some more of the rows that were sent before there was a log; False when all are.

    Until then nothing is proved and no snapshot ends. Each call commits its piece.
    """
    async with in_transaction() as tx:
        found = await tx.execute_query_dict(
            "select backfill_id from gate_upkeep where stream = $1 for update", [stream]
        )
        if not found or found[0]["backfill_id"] is None:
            return False
        old = await tx.execute_query_dict(
            """select id, topic, body, created_at from gate_outgoing_row
               where stream = $1 and id > $2 order by id limit $3""",
            [stream, found[0]["backfill_id"], _BACKFILL_ROWS],
        )
        named = [
            (row, name)
            for row in old
            if row["topic"] in rows.TOPICS
            and (name := rows.identity(row["topic"], rows.decode_row(row["topic"], row["body"])))
        ]
        await tx.execute_query(
            _KEEP_OLD,
            [
                stream,
                [row["topic"] for row, _ in named],
                [name.source for _, name in named],
                [name.key for _, name in named],
                [name.version for _, name in named],
                [rows.digest(row["body"].encode()) for row, _ in named],
                [row["body"] for row, _ in named],
                [row["created_at"] for row, _ in named],
            ],
        )
        await tx.execute_query(
            "update gate_upkeep set backfill_id = $2 where stream = $1",
            [stream, old[-1]["id"] if old else None],
        )
    return bool(old)


async def read_after(
    tx: BaseDBAsyncClient,
    stream: str,
    after: tuple[str, str, str],
    *,
    limit: int,
    max_bytes: int,
) -> tuple[list[LogRow], bool]:
    """Rows of the log after (topic, source, key), as many as fit; whether these were the last."""
    found = await tx.execute_query_dict(
        """select topic, source, key, version, body::text as body from (
             select *, sum(octet_length(body::text) + 64) over (order by topic, source, key)
                       as size
             from (select topic, source, key, version, body from gate_sent_row
                   where stream = $1 and (topic, source, key) > ($2, $3, $4)
                   order by topic, source, key limit $5) as next_rows) as sized
           where size <= $6 order by topic, source, key""",
        [stream, *after, limit, max_bytes],
    )
    more = await tx.execute_query_dict(
        """select exists (select from gate_sent_row
                          where stream = $1 and (topic, source, key) > ($2, $3, $4)) as found""",
        [
            stream,
            *((found[-1]["topic"], found[-1]["source"], found[-1]["key"]) if found else after),
        ],
    )
    return [LogRow(**{**row, "body": row["body"].encode()}) for row in found], not more[0]["found"]
