"""Messages and jobs that must happen exactly when their transaction commits.

A row beside the business row, claimed in batches with SKIP LOCKED under a lease; the worker
delivers at least once, so handlers are idempotent (DESIGN §9, measured against job libraries).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from estation.shared import ids

LEASE = timedelta(seconds=30)
A_SECOND = 50
"""Messages of a lot that become due in one second: well below what a worker delivers."""
MAX_TRIES = 20
CHANNEL = "outbox"
"""Name for LISTEN/NOTIFY; a wake-up only, the table is the truth."""


class OutboxMessage(Model):
    """One message a worker still has to deliver; `sent_at` is null until then.

    `created_at`: since when it could leave; of a lot that was put at once each has its own moment.
    A message that failed MAX_TRIES times has `dead_at` set and is shown to staff, never dropped.
    """

    id = fields.UUIDField(primary_key=True)
    topic = fields.CharField(max_length=64)
    body = fields.JSONField[dict[str, Any]]()
    created_at = fields.DatetimeField()
    not_before = fields.DatetimeField()
    tries = fields.IntField(default=0)
    last_error = fields.TextField(default="")
    sent_at = fields.DatetimeField(null=True)
    dead_at = fields.DatetimeField(null=True)

    class Meta:
        table = "outbox_message"


async def put(topic: str, body: dict[str, Any], *, now: datetime) -> UUID:
    """Queue a message in the caller's transaction, due at once."""
    message = OutboxMessage(
        id=ids.row_id(now), topic=topic, body=body, created_at=now, not_before=now
    )
    await message.save(force_create=True)
    return message.id


async def put_many(
    topic: str, bodies: Sequence[dict[str, Any]], *, now: datetime, before: int = 0
) -> None:
    """As `put`, for many at once, which become due A_SECOND by second: they are delivered in the
    order in which they are due, and what is put meanwhile does not wait for all of them.

    `before`: how many of the same lot were put by earlier calls.
    """
    numbers = ids.row_ids(now, len(bodies))
    turns = [
        now + timedelta(seconds=place // A_SECOND) for place in range(before, before + len(bodies))
    ]
    await OutboxMessage.bulk_create(
        [
            OutboxMessage(
                id=number,
                topic=topic,
                body=body,
                created_at=due,
                not_before=due,
            )
            for number, body, due in zip(numbers, bodies, turns, strict=True)
        ],
        batch_size=1000,
    )


async def claim(
    db: BaseDBAsyncClient, *, now: datetime, limit: int, topics: list[str]
) -> list[dict[str, Any]]:
    """Lease up to `limit` due messages of these topics: rows of id, topic, body, tries."""
    rows: list[dict[str, Any]] = await db.execute_query_dict(
        """
        update outbox_message m set not_before = $1, tries = tries + 1
        from (select id from outbox_message
              where sent_at is null and dead_at is null and not_before <= $2
                and topic = any($3::text[])
              order by not_before, id limit $4 for update skip locked) due
        where m.id = due.id
        returning m.id, m.topic, m.body, m.tries, m.created_at
        """,
        [now + LEASE, now, topics, limit],
    )
    # asyncpg hands jsonb over as text.
    claimed = [{**row, "body": orjson.loads(row["body"])} for row in rows]
    return sorted(claimed, key=lambda row: str(row["id"]))


async def mark_sent(db: BaseDBAsyncClient, message_id: UUID, *, now: datetime) -> bool:
    """Mark it in the handler's transaction, before the handler works.

    False when another worker delivered it meanwhile (the lease ran out): do nothing then. The
    row stays locked until the transaction ends, so two can never both deliver.
    """
    rows = await db.execute_query_dict(
        "update outbox_message set sent_at = $1 where id = $2 and sent_at is null returning id",
        [now, message_id],
    )
    return bool(rows)


async def mark_failed(
    db: BaseDBAsyncClient, message_id: UUID, *, tries: int, error: str, now: datetime
) -> bool:
    """Try again later (doubling from 2 s to 10 min), or set it aside for staff after MAX_TRIES.

    True when it was set aside: somebody must be told.
    """
    delay = min(timedelta(seconds=2**tries), timedelta(minutes=10))
    await db.execute_query(
        """update outbox_message set not_before = $1, last_error = $2,
           dead_at = case when tries >= $3 then $4::timestamptz end
           where id = $5 and sent_at is null""",
        [now + delay, error[:500], MAX_TRIES, now, message_id],
    )
    return tries >= MAX_TRIES


async def revive_dead(db: BaseDBAsyncClient, *, now: datetime) -> int:
    """Give messages that were set aside another MAX_TRIES, once the cause is mended."""
    rows = await db.execute_query_dict(
        """update outbox_message set dead_at = null, tries = 0, not_before = $1
           where dead_at is not null and sent_at is null returning id""",
        [now],
    )
    return len(rows)


async def dead_messages(*, limit: int) -> list[OutboxMessage]:
    """Messages that failed MAX_TRIES times, oldest first; somebody has to look at them."""
    return await OutboxMessage.filter(dead_at__isnull=False).order_by("dead_at", "id").limit(limit)
