"""What is here of another side's rows, and what of it its source does not know."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import merkle
from estation.outside.gate.events import Alarm, Finding, raise_finding
from estation.outside.gate.replicas import Replica
from estation.shared import ids

MAX_HELD = 200_000


@dataclass(frozen=True, slots=True)
class Held:
    """One row here; `is_phantom`: known to be none of the source's."""

    bucket: int
    version: int
    digest: bytes | None
    is_phantom: bool


async def held_in(replica: Replica, source: str, buckets: Collection[int]) -> dict[str, Held]:
    """The rows of these buckets by key, at most MAX_HELD."""
    found = await _db().execute_query_dict(
        f"""select *, exists (select from gate_phantom p where p.topic = $1 and p.source = $2
                              and p.key = held.key) as is_phantom
            from ({_held(replica)}) as held where bucket = any($3::int[]) limit {MAX_HELD}""",  # noqa: S608
        [replica.topic, source, list(buckets)],
    )
    return {
        row["key"]: Held(row["bucket"], row["version"], row["digest"], row["is_phantom"])
        for row in found
    }


async def vanished_from(tx: BaseDBAsyncClient, replica: Replica, source: str) -> list[str]:
    """Rows here that a complete snapshot (`gate_newest`) does not have, at most MAX_HELD keys."""
    found = await tx.execute_query_dict(
        f"""select key from ({merkle.rows_of(replica)}) as held
            where not exists (select from gate_newest n where n.topic = $1 and n.source = $2
                              and n.key = held.key) order by key limit {MAX_HELD}""",  # noqa: S608
        [replica.topic, source],
    )
    return [row["key"] for row in found]


async def name_phantoms(
    replica: Replica,
    source: str,
    keys: Sequence[str],
    *,
    stream: str,
    seq: int,
    complete: bool,
    alarm: Alarm | None,
    now: datetime,
) -> None:
    """These rows are none of the source's. They stay, named, and are taken out of use.

    Not out of use while the sender's log does not reach back to its first row: what it does not
    list may be right all the same, and a person has to say.
    """
    if not keys:
        return
    if complete:
        await _db().execute_query(
            """insert into gate_phantom (id, stream, topic, source, key, named_at)
               select id, $1, $2, $3, key, $4 from unnest($5::uuid[], $6::text[]) as t(id, key)
               on conflict do nothing""",
            [stream, replica.topic, source, now, ids.row_ids(now, len(keys)), list(keys)],
        )
        if replica.withdraw is not None:
            await replica.withdraw(source, keys, now)
    await raise_finding(
        Finding(
            "phantom", stream, seq, replica.topic, source, len(keys), keys,
            {"withdrawn": complete and replica.takes_out_of_use},
        ),
        alarm,
        now=now,
    )  # fmt: skip


async def no_phantoms_any_more(topic: str, source: str, keys: Sequence[str]) -> None:
    """The source has them after all."""
    await _db().execute_query(
        "delete from gate_phantom where topic = $1 and source = $2 and key = any($3::text[])",
        [topic, source, list(keys)],
    )


def _held(replica: Replica) -> str:
    """SQL over $1 topic, $2 source."""
    narrowed = f"and ({replica.where})" if replica.where else ""
    bucket = merkle.BUCKET_OF.format(key=replica.key)
    return f"""
        select $1::text as topic, {replica.key} as key, {bucket} as bucket,
               ({replica.version})::bigint as version, row_digest as digest
        from {replica.table} where source = $2::text {narrowed}
        """  # noqa: S608 - names of our own


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
