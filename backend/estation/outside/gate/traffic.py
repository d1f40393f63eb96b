"""How much passed, minute by minute, counted from the packets that are kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tortoise import Tortoise

MINUTES = 60


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rows of one stream in each of the last MINUTES minutes, oldest first.

    `minutes_known`: packets older than that are no longer kept, so the rate is of this span.
    """

    rows: tuple[int, ...]
    minutes_known: int

    @property
    def rows_per_minute(self) -> float:
        return sum(self.rows) / max(1, self.minutes_known)


NONE = Traffic((0,) * MINUTES, MINUTES)


async def traffic(now: datetime) -> dict[tuple[str, str], Traffic]:
    """(direction, stream) -> traffic; streams without packets in the hour are left out."""
    since = now - timedelta(minutes=MINUTES)
    found = await Tortoise.get_connection("default").execute_query_dict(
        """with packet as (
             select 'in' as direction, stream, received_at as at, rows from gate_incoming_file
             where state = 'applied' and received_at > $1 and received_at <= $2
             union all
             select 'out', stream, created_at, rows from gate_outgoing_packet
             where created_at > $1 and created_at <= $2),
           trimmed as (  -- out of the outgoing packets the old ones are forgotten
             select 'out' as direction, stream, min(created_at) as first from gate_outgoing_packet
             group by stream having min(seq) > 1)
           select p.direction, p.stream,
                  floor(extract(epoch from p.at - $1) / 60)::int as minute,
                  sum(p.rows)::bigint as rows,
                  greatest(t.first, $1) as known_since
           from packet p left join trimmed t using (direction, stream)
           group by p.direction, p.stream, minute, t.first""",
        [since, now],
    )
    counts: dict[tuple[str, str], list[int]] = {}
    known: dict[tuple[str, str], int] = {}
    for row in found:
        key = row["direction"], row["stream"]
        # The newest moment itself belongs to the last minute.
        counts.setdefault(key, [0] * MINUTES)[min(row["minute"], MINUTES - 1)] += row["rows"]
        known[key] = max(1, (now - row["known_since"]) // timedelta(minutes=1))
    return {key: Traffic(tuple(rows), known[key]) for key, rows in counts.items()}
