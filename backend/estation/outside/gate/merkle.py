"""One number for all rows of a topic and source, the same on both sides exactly when they are.

    leaf   = SHA-256(topic 0x00 source 0x00 key 0x00 version (8 bytes) row_digest)
    bucket = first byte of SHA-256(key); its digest: SHA-256 over its leaves in the keys' byte
             order, 32 zero bytes when it is empty
    root   = binary Merkle root over the 256 bucket digests

Leaves and buckets are made by PostgreSQL, which sorts on disk what does not fit into work_mem:
memory stays bounded however many rows there are.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import Identity

BUCKETS = 256
EMPTY = "0" * 64

BUCKET_OF = "get_byte(sha256(convert_to({key}, 'UTF8')), 0)"
_NOTHING = "decode(repeat('00', 32), 'hex')"

_BUCKETS = """
select topic, source, bucket, count(*) as rows,
       encode(sha256(string_agg(leaf, '' order by key collate "C")), 'hex') as digest
from (
    select topic, source, key, bucket,
           sha256(convert_to(topic, 'UTF8') || '\\x00' || convert_to(source, 'UTF8') || '\\x00'
                  || convert_to(key, 'UTF8') || '\\x00' || int8send(version)
                  || coalesce(digest, {nothing})) as leaf
    from ({rows}) as given
) as leaves
group by topic, source, bucket
"""
# A row without digest counts as another one, so that it is found and healed.

_LOG = """
select topic, source, key, version, digest, bucket from gate_sent_row where stream = $1
"""
_STAGED = f"select *, {BUCKET_OF.format(key='key')} as bucket from gate_newest"  # noqa: S608


@dataclass(slots=True)
class Tree:
    """The rows of one topic and source, bucket by bucket."""

    rows: int = 0
    buckets: list[str] = field(default_factory=lambda: [EMPTY] * BUCKETS)
    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    @property
    def root(self) -> str:
        return root_of(self.buckets)

    def differing(self, theirs: Sequence[str]) -> list[int]:
        """The buckets that are not the same."""
        pairs = zip(self.buckets, theirs, strict=True)
        return [number for number, (mine, their) in enumerate(pairs) if mine != their]

    def replace(self, fresh: "Tree", numbers: Iterable[int]) -> None:
        """These buckets are now those of another tree."""
        for number in numbers:
            self.put(number, fresh.buckets[number], fresh.counts[number])

    def put(self, number: int, digest: str, count: int) -> None:
        """What is in one bucket now."""
        self.rows += count - self.counts[number]
        self.buckets[number] = digest
        self.counts[number] = count


def root_of(buckets: Sequence[str]) -> str:
    """Of hexadecimal digests, a power of two of them."""
    level = [bytes.fromhex(digest) for digest in buckets]
    while len(level) > 1:
        level = [
            hashlib.sha256(left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0].hex()


def bucket_of(key: str) -> int:
    return hashlib.sha256(key.encode()).digest()[0]


def leaf_of(topic: str, name: Identity, row_digest: bytes) -> bytes:
    """As PostgreSQL makes it, for whoever has no database."""
    names = (topic, name.source, name.key)
    named = b"".join(one.encode() + b"\0" for one in names)
    return hashlib.sha256(named + name.version.to_bytes(8, "big") + row_digest).digest()


async def trees_of_log(db: BaseDBAsyncClient, stream: str) -> dict[tuple[str, str], Tree]:
    """What was sent, by (topic, source)."""
    return await _trees(db, _LOG, [stream])


async def buckets_of_log(
    db: BaseDBAsyncClient, stream: str, topic: str, source: str, buckets: Sequence[int]
) -> Tree:
    """What was sent of one topic and source, in these buckets only."""
    found = await _trees(
        db,
        _LOG + " and topic = $2 and source = $3 and bucket = any($4::smallint[])",
        [stream, topic, source, list(buckets)],
    )
    return found.get((topic, source), Tree())


async def trees_of_stage(db: BaseDBAsyncClient) -> dict[tuple[str, str], Tree]:
    """What a snapshot brought (`jumping`)."""
    return await _trees(db, _STAGED, [])


async def tree_of_replica(db: BaseDBAsyncClient, replica: Replica, source: str) -> Tree:
    """What is here."""
    found = await _trees(db, rows_of(replica), [replica.topic, source])
    return found.get((replica.topic, source), Tree())


STILL_REFUSED = "(healed_at is null or healed_by = 'given_up')"
"""SQL over `gate_refused_row`: nothing of its sender has ended it. What a person gave up is told
and shown no more, but still is the difference that proofs find."""
_WITH_REFUSED = """
with here as materialized ({here}),
aside as (
    select distinct on (key) key, version, digest from gate_refused_row
    where topic = $1 and source = $2 and {refused} order by key, version desc, seen_at desc
)
select topic, source, key, version, digest, bucket from here
where not exists (select from aside where aside.key = here.key and aside.version > here.version
                  and here.digest <> {nothing})
union all
select $1::text, $2::text, key, version, digest, {bucket} from aside
where not exists (select from here where here.key = aside.key and here.version >= aside.version)
"""
# A row whose digest is null or void was changed here: that is no known difference, and so it counts
# beside the refused one.


async def tree_with_refused(db: BaseDBAsyncClient, replica: Replica, source: str) -> Tree:
    """What would be here if the rows that are set aside (`refused`) had been taken in: each in
    place of an older one that is here as it was sent."""
    rows = _WITH_REFUSED.format(
        here=rows_of(replica),
        refused=STILL_REFUSED,
        nothing=_NOTHING,
        bucket=BUCKET_OF.format(key="key"),
    )
    found = await _trees(db, rows, [replica.topic, source])
    return found.get((replica.topic, source), Tree())


def rows_of(replica: Replica) -> str:
    """SQL: topic, source, key, version, digest of a replica's rows; $1 topic, $2 source.

    Rows the sender is known not to have are no part of the copy.
    """
    narrowed = f"and ({replica.where})" if replica.where else ""
    return f"""
        select $1::text as topic, source, key, version, digest, bucket from (
            select source, {replica.key} as key, ({replica.version})::bigint as version,
                   row_digest as digest, {BUCKET_OF.format(key=replica.key)} as bucket
            from {replica.table} where source = $2::text {narrowed}
        ) as held
        where not exists (select from gate_phantom p
                          where p.topic = $1 and p.source = held.source and p.key = held.key)
        """  # noqa: S608 - names of our own


async def _trees(
    db: BaseDBAsyncClient, rows: str, values: list[Any]
) -> dict[tuple[str, str], Tree]:
    found = await db.execute_query_dict(_BUCKETS.format(rows=rows, nothing=_NOTHING), values)
    trees: dict[tuple[str, str], Tree] = {}
    for row in found:
        tree = trees.setdefault((row["topic"], row["source"]), Tree())
        tree.put(row["bucket"], row["digest"], row["rows"])
    return trees
