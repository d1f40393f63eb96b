"""Rows that name no thing of their own: parts of files.

The log keeps the newest version of each thing, and a part is none. But a receiver that jumps over
packets would never get the parts in them; so a snapshot brings those again that the peer has not
confirmed, from the rows kept for their packets. What is confirmed was applied, or came with an
earlier snapshot: whoever stands at a position has all the parts up to it.
"""

from typing import NamedTuple

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import format as packets
from estation.outside.gate import rows

# $1 stream, $2 topics, $3 first packet of the snapshot, $4 $5 the place after which, $6 how many,
# $7 how many bytes
_UNCONFIRMED = """
select packed_seq, id, topic, body, found from (
    select *, sum(octet_length(body) + 64) over (order by packed_seq, id) as size,
           count(*) over () as found
    from (select r.packed_seq, r.id, r.topic, r.body
          from gate_outgoing_row r join gate_outgoing_stream s using (stream)
          where r.stream = $1 and r.topic = any($2::text[])
            and r.packed_seq > s.peer_received_seq and r.packed_seq >= $4 and r.packed_seq < $3
            and (r.packed_seq, r.id) > ($4, $5)
          order by r.packed_seq, r.id limit $6) as next_rows) as sized
where size <= $7 order by packed_seq, id
"""


class Piece(NamedTuple):
    """Lines, where the next ones begin, and whether there are none."""

    lines: list[bytes]
    place: str
    is_last: bool


async def read_after(
    tx: BaseDBAsyncClient,
    stream: str,
    place: str,
    *,
    before: int,
    max_rows: int,
    max_bytes: int,
) -> Piece:
    """The next rows in packets below `before` that the peer has not confirmed, as many as fit.

    `place`: "" for the first, then what the piece before said.
    """
    if not (topics := rows.loose_topics()):
        return Piece([], place, is_last=True)
    seq, row_id = map(int, place.split(":")) if place else (0, 0)
    found = await tx.execute_query_dict(
        _UNCONFIRMED, [stream, topics, before, seq, row_id, max_rows, max_bytes]
    )
    if not found:
        return Piece([], place, is_last=True)
    lines = [
        packets.line(row["topic"], rows.respelt(row["topic"], row["body"].encode()))
        for row in found
    ]
    is_last = len(found) == found[0]["found"] < max_rows
    return Piece(lines, f"{found[-1]['packed_seq']}:{found[-1]['id']}", is_last=is_last)
