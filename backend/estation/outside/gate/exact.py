"""Lines that are true at one position only: proofs, repairs, the end of a snapshot.

`sending` makes their packet in one snapshot of the database and packs all that waits in it, so
that behind this packet the peer must hold exactly what the log says.
"""

from datetime import datetime
from typing import Any

import msgspec
import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import format as packets
from estation.outside.gate import rows, sentlog, snapshots
from estation.outside.gate.logtrees import LogTrees, Trees
from estation.outside.gate.merkle import Tree
from estation.outside.gate.rows import ProofRow, RepairRow

log = structlog.get_logger()

MIN_ROOM = 4 * packets.MAX_LINE_BYTES
MAX_LINES = packets.MAX_ROWS // 2
"""More than all that is due at once: parts of repairs, a proof of each copy, a snapshot's end."""
MAX_PROOFS_BYTES = 4 * 1024 * 1024
"""So many proofs in one packet, about 240; the others of the round follow in the next ones."""
_MAX_PARTS = 4096
_MAX_PROOF_BYTES = 32 * 1024
_MAX_REPAIR_BYTES = packets.MAX_LINE_BYTES // 2
_MAX_REPAIR_ROWS = 10_000


async def lines(
    tx: BaseDBAsyncClient,
    stream: str,
    seq: int,
    log_trees: LogTrees,
    *,
    max_bytes: int,
    now: datetime,
) -> list[bytes]:
    """What is due of this stream, about `max_bytes` of it; the rest comes with a later packet.

    `log_trees` may be older: what is missing in them is added.
    """
    state = await tx.execute_query_dict(
        """select proof_is_due, proved_upto, log_is_complete,
                  exists (select from gate_snapshot n where n.stream = $1
                          and n.state = 'running' and n.is_exhausted) as snapshot_ends
           from gate_upkeep where stream = $1""",
        [stream],
    )
    complete: bool = state[0]["log_is_complete"]
    made, healed = await _repairs(tx, stream, complete, max_bytes=max_bytes, now=now)
    ends: bool = state[0]["snapshot_ends"]
    trees: Trees = {}
    if state[0]["proof_is_due"] or ends or healed:
        await log_trees.refresh(tx, stream)
        # What is gone from the log is proved, too: the peer may still have it.
        gone = {key: Tree() for key in await sentlog.ever_sent(tx, stream)}
        trees = gone | log_trees.trees
    if ends:
        made.append(await snapshots.end(tx, stream, seq, trees, complete=complete, now=now))
    # Those that are repaired with this packet in any case; of a round as many as fit.
    proofs = [_proof(key, trees.get(key, Tree()), complete) for key in healed]
    upto = state[0]["proved_upto"]
    if state[0]["proof_is_due"] or ends:
        room = min(max_bytes - sum(map(len, made)), MAX_PROOFS_BYTES) - sum(map(len, proofs))
        upto = "" if ends else upto
        round_of, upto = _round(trees, upto, set(healed), complete, max_bytes=room)
        proofs += round_of
    await tx.execute_query(
        """update gate_upkeep set proof_is_due = (proof_is_due or $2) and $3 <> '',
                                  proved_upto = $3,
                                  proved_at = case when $4 then $5 else proved_at end
           where stream = $1""",
        [stream, ends, upto, bool(proofs), now],
    )
    return made + proofs


def _round(
    trees: Trees, after: str, but: set[tuple[str, str]], complete: bool, *, max_bytes: int
) -> tuple[list[bytes], str]:
    """The next proofs of all copies, about `max_bytes` of them and at least one, and where the
    next packet goes on; "" when the round is over. Each is true at its own packet's position."""
    made: list[bytes] = []
    size, last = 0, after
    for key in sorted(trees, key=_place):
        if _place(key) <= after or key in but:
            continue
        line = _proof(key, trees[key], complete)
        if made and size + len(line) > max_bytes:
            return made, last
        made.append(line)
        size, last = size + len(line), _place(key)
    return made, ""


def _place(key: tuple[str, str]) -> str:
    return " ".join(key)


def _proof(key: tuple[str, str], tree: Tree, complete: bool) -> bytes:
    topic, source = key
    proof = ProofRow(
        topic=topic,
        source=source,
        rows=tree.rows,
        root=tree.root,
        buckets=tree.buckets,
        complete=complete,
    )
    return packets.line("proof", rows.encode_row("proof", proof))


async def _repairs(
    tx: BaseDBAsyncClient, stream: str, complete: bool, *, max_bytes: int, now: datetime
) -> tuple[list[bytes], list[tuple[str, str]]]:
    """Parts of the buckets the peer asked for; topics and sources that are answered with these."""
    made: list[bytes] = []
    healed: list[tuple[str, str]] = []
    for asked in await tx.execute_query_dict(
        """select id, topic, source, buckets::text as buckets, bucket_at, after_key
           from gate_repair where stream = $1 and done_at is null order by asked_at, id""",
        [stream],
    ):
        # With the proof of each copy that is healed by this packet.
        room = max_bytes - sum(map(len, made)) - _MAX_PROOF_BYTES * (len(healed) + 1)
        if room < MIN_ROOM or len(made) >= _MAX_PARTS:
            break
        parts, at, after = await _parts(
            tx, stream, asked, complete, max_bytes=room // 2, max_parts=_MAX_PARTS - len(made)
        )
        made += [packets.line("repair", rows.encode_row("repair", part)) for part in parts]
        is_done = at == len(msgspec.json.decode(asked["buckets"]))
        await tx.execute_query(
            """update gate_repair set bucket_at = $2, after_key = $3, rows = rows + $4, done_at = $5
               where id = $1""",
            [
                asked["id"],
                at,
                after,
                sum(len(part.keys) for part in parts),
                now if is_done else None,
            ],
        )
        if is_done:
            healed.append((asked["topic"], asked["source"]))
            log.info("gate_repair_sent", stream=stream, topic=asked["topic"])
    return made, healed


async def _parts(
    tx: BaseDBAsyncClient,
    stream: str,
    asked: dict[str, Any],
    complete: bool,
    *,
    max_bytes: int,
    max_parts: int,
) -> tuple[list[RepairRow], int, str]:
    """The next rows of the wanted buckets, as many as fit; which bucket comes next, after what.
    The last bucket may be more parts than one."""
    buckets = sorted(msgspec.json.decode(asked["buckets"], type=list[int]))
    at, after = asked["bucket_at"], asked["after_key"]
    found = await tx.execute_query_dict(
        _WANTED,
        [stream, asked["topic"], asked["source"], buckets[at:], buckets[at], after,
         _MAX_REPAIR_ROWS, max_bytes],
    )  # fmt: skip
    is_last = not found or found[-1]["is_last"]
    of_bucket: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        of_bucket.setdefault(row["bucket"], []).append(row)
    parts: list[RepairRow] = []
    while at < len(buckets) and len(parts) < max_parts:
        is_whole = is_last or buckets[at] < found[-1]["bucket"]
        these = of_bucket.get(buckets[at], [])
        if not is_whole and not these:
            break
        for chunk in _chunks(these):
            upto = chunk[-1]["key"] if chunk else None
            ends = is_whole and (not chunk or chunk[-1] is these[-1])
            parts.append(
                RepairRow(
                    topic=asked["topic"],
                    source=asked["source"],
                    bucket=buckets[at],
                    after=after,
                    upto=None if ends else upto,
                    keys=[row["key"] for row in chunk],
                    rows=[msgspec.Raw(row["body"].encode()) for row in chunk],
                    complete=complete,
                )
            )
            after = upto or ""
        if not is_whole:
            break
        at, after = at + 1, ""
    return parts, at, after


_WANTED = """
select bucket, key, body, count = place as is_last from (
    select *, sum(octet_length(body) + 4 * length(key)) over w - octet_length(body) as size_before,
           row_number() over w as place
    from (
        select bucket, key, body::text as body, count(*) over () as count from gate_sent_row
        where stream = $1 and topic = $2 and source = $3
          and bucket = any($4::smallint[]) and (bucket, key) > ($5, $6)
        order by bucket, key limit $7
    ) as next_rows
    window w as (order by bucket, key)
) as sized
where size_before < $8 order by bucket, key
"""
# The first one always fits: no row is longer than half a line.


def _chunks(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What fits into one line each; one empty chunk for nothing."""
    chunks: list[list[dict[str, Any]]] = [[]]
    size = 0
    for row in found:
        length = len(row["body"].encode()) + 4 * len(row["key"]) + 8
        if chunks[-1] and size + length > _MAX_REPAIR_BYTES:
            chunks.append([])
            size = 0
        size += length
        chunks[-1].append(row)
    return chunks
