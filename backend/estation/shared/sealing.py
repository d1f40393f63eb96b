"""A walk through the rows of a table that were written before their personal data was sealed.

In order of their numbers, a bounded batch a transaction; what was done is noted with it, so that
a walk broken off goes on where it stood.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from estation.shared.transactions import in_transaction


class SealingWalk(Model):
    """How far the rows of one table that were written before they were sealed are done."""

    walk = fields.CharField(max_length=64, primary_key=True)
    upto = fields.UUIDField(null=True)  # the last row looked at
    looked = fields.BigIntField(default=0)
    sealed = fields.BigIntField(default=0)
    ended_at = fields.DatetimeField(null=True)

    class Meta:
        table = "sealing_walk"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did. `last` is the last row looked at, None when there was none."""

    looked: int
    sealed: int
    last: UUID | None


Step = Callable[[BaseDBAsyncClient, UUID], Awaitable[Batch]]
"""Seals the next rows behind a number, in the transaction given."""

BEFORE_ALL = UUID(int=0)
"""Behind it all rows lie. A number and not null: `$1 is null or id > $1` is no condition of an
index in a plan that serves every batch, and each would read the table from its first row on."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a walk has come."""

    walk: str
    looked: int
    sealed: int
    is_ended: bool


async def walk_on(walk: str, step: Step, *, now: datetime) -> Progress:
    """One batch. A second program waits for the first one's and goes on behind it."""
    async with in_transaction() as db:
        await db.execute_query(
            "insert into sealing_walk (walk, looked, sealed) values ($1, 0, 0)"
            " on conflict (walk) do nothing",
            [walk],
        )
        rows = await db.execute_query_dict(
            "select upto from sealing_walk where walk = $1 for update", [walk]
        )
        batch = await step(db, rows[0]["upto"] or BEFORE_ALL)
        noted = await db.execute_query_dict(
            """update sealing_walk set looked = looked + $2, sealed = sealed + $3,
                   upto = coalesce($4::uuid, upto), ended_at = $5::timestamptz
               where walk = $1 returning looked, sealed""",
            [walk, batch.looked, batch.sealed, batch.last, None if batch.last else now],
        )
    return Progress(walk, noted[0]["looked"], noted[0]["sealed"], batch.last is None)


async def walk_through(
    walks: Mapping[str, Step], *, now: datetime, again: bool, tell: Callable[[Progress], None]
) -> None:
    """Every walk to its end, from where it stood or, with `again`, from the first row; `tell` is
    told after each batch."""
    if again:
        await SealingWalk.filter(walk__in=list(walks)).delete()
    for walk, step in walks.items():
        ended = False
        while not ended:
            progress = await walk_on(walk, step, now=now)
            tell(progress)
            ended = progress.is_ended
