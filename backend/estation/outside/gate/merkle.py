"""One number for all rows of a topic and source, the same on both sides exactly when they are.

    leaf   = SHA-256(topic 0x00 source 0x00 key 0x00 version (8 bytes) row_digest)
    bucket = first byte of SHA-256(key); its digest: SHA-256 over its leaves in the keys' byte
             order, 32 zero bytes when it is empty
    root   = binary Merkle root over the 256 bucket digests

Leaves and buckets are made by PostgreSQL, which sorts on disk what does not fit into work_mem:
memory stays bounded however many rows there are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate.replicas import Replica

BUCKETS = 256
EMPTY = "0" * 64

BUCKET_OF = "get_byte(sha256(convert_to({key}, 'UTF8')), 0)"
_NOTHING = "decode(repeat('00', 32), 'hex')"

_BUCKETS = """
select topic, source, bucket, count(*) as rows,
       encode(sha256(string_agg(leaf, '' order by key collate "C")), 'hex') as digest
from (
    select topic, source, key, {bucket} as bucket,
           sha256(convert_to(topic, 'UTF8') || '\\x00' || convert_to(source, 'UTF8') || '\\x00'
                  || convert_to(key, 'UTF8') || '\\x00' || int8send(version)
                  || coalesce(digest, {nothing})) as leaf
    from ({rows}) as given
) as leaves
group by topic, source, bucket
"""
# A row without digest counts as another one, so that it is found and healed.

_LOG = """
select topic, source, key, version, digest from gate_sent_row where stream = $1
"""
_STAGED = "select topic, source, key, version, digest from gate_newest"


@dataclass(slots=True)
class Tree:
    """The rows of one topic and source, bucket by bucket."""

    rows: int = 0
    buckets: list[str] = field(default_factory=lambda: [EMPTY] * BUCKETS)

    @property
    def root(self) -> str:
        return root_of(self.buckets)

    def differing(self, theirs: Sequence[str]) -> list[int]:
        """The buckets that are not the same."""
        pairs = zip(self.buckets, theirs, strict=True)
        return [number for number, (mine, their) in enumerate(pairs) if mine != their]


def root_of(buckets: Sequence[str]) -> str:
    """Of hexadecimal digests, a power of two of them."""
    level = [bytes.fromhex(digest) for digest in buckets]
    while len(level) > 1:
        level = [
            hashlib.sha256(left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0].hex()


async def trees_of_log(
    db: BaseDBAsyncClient, stream: str, *, topic: str | None = None, source: str | None = None
) -> dict[tuple[str, str], Tree]:
    """What was sent, by (topic, source): all of it, or of one topic and source."""
    if topic is None:
        return await _trees(db, _LOG, [stream])
    return await _trees(db, _LOG + " and topic = $2 and source = $3", [stream, topic, source])


async def trees_of_stage(db: BaseDBAsyncClient) -> dict[tuple[str, str], Tree]:
    """What a snapshot brought (`jumping`)."""
    return await _trees(db, _STAGED, [])


async def tree_of_replica(db: BaseDBAsyncClient, replica: Replica, source: str) -> Tree:
    """What is here."""
    found = await _trees(db, rows_of(replica), [replica.topic, source])
    return found.get((replica.topic, source), Tree())


def rows_of(replica: Replica) -> str:
    """SQL: topic, source, key, version, digest of a replica's rows; $1 topic, $2 source.

    Rows the sender is known not to have are no part of the copy.
    """
    narrowed = f"and ({replica.where})" if replica.where else ""
    return f"""
        select $1::text as topic, source, key, version, digest from (
            select source, {replica.key} as key, ({replica.version})::bigint as version,
                   row_digest as digest
            from {replica.table} where source = $2::text {narrowed}
        ) as held
        where not exists (select from gate_phantom p
                          where p.topic = $1 and p.source = held.source and p.key = held.key)
        """  # noqa: S608 - names of our own


async def _trees(
    db: BaseDBAsyncClient, rows: str, values: list[Any]
) -> dict[tuple[str, str], Tree]:
    found = await db.execute_query_dict(
        _BUCKETS.format(rows=rows, bucket=BUCKET_OF.format(key="key"), nothing=_NOTHING), values
    )
    trees: dict[tuple[str, str], Tree] = {}
    for row in found:
        tree = trees.setdefault((row["topic"], row["source"]), Tree())
        tree.rows += row["rows"]
        tree.buckets[row["bucket"]] = row["digest"]
    return trees
