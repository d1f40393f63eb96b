"""Everything about the gate that people look at: per peer, stream, key, folder and file."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tortoise import Tortoise

from estation.outside.gate import status as status_module
from estation.outside.gate import traffic as traffic_module
from estation.outside.gate.peers import Peer, peers
from estation.outside.gate.status import StreamStatus, stream_status
from estation.outside.gate.traffic import Traffic

MOST_FILES = 50
MOST_DEEDS = 20


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream with its traffic; `is_late`: the copy is older than the peer's threshold."""

    status: StreamStatus
    traffic: Traffic
    lag: timedelta | None
    is_late: bool
    peer: Peer | None

    @property
    def unconfirmed(self) -> int:
        """Packets made that the other side has not reported as received."""
        return max(0, self.status.seq - self.status.peer_received_seq)


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file in quarantine, and why."""

    stream: str
    seq: int | None
    file_name: str
    reason: str
    detail: str
    times: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Difference:
    """A topic of a source that was not the same here at its last proof. `is_known`: nothing but
    rows that are set aside, `refused_rows` of them, makes the difference."""

    stream: str
    topic: str
    source: str
    rows: int
    our_rows: int
    buckets: list[int]
    at: datetime
    refused_rows: int = 0
    is_known: bool = False


@dataclass(frozen=True, slots=True)
class RefusedRowView:
    """A row that is set aside; `reason` names the field, never the value."""

    id: UUID
    stream: str
    seq: int
    topic: str
    source: str
    key: str
    version: int
    reason: str
    times: int
    at: datetime


@dataclass(frozen=True, slots=True)
class EventView:
    """What happened to a stream by itself. `rows` and `topic` when it concerns rows, the packets
    `first_seq`..`last_seq` when it concerns packets."""

    stream: str
    kind: str
    topic: str
    rows: int | None
    first_seq: int | None
    last_seq: int | None
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeedView:
    peer: str
    what: str
    about: str
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    peers: list[Peer]
    streams: list[StreamView]
    refused: list[RefusedFile]
    refused_count: int
    refused_rows: list[RefusedRowView]
    refused_rows_count: int
    differences: list[Difference]
    events: list[EventView]
    deeds: list[DeedView]


async def overview(now: datetime) -> Overview:
    """The page and `estation gate status`."""
    known = await peers()
    streams = await stream_views(now)
    refused = await _rows(
        """select stream, seq, file_name, reason, detail, times, received_at
           from gate_incoming_file where state = 'quarantined'
           order by received_at desc, id desc limit $1""",
        MOST_FILES,
    )
    differences = await _rows(
        """select stream, topic, source, rows, our_rows, at, refused_rows, is_known,
                  array(select jsonb_array_elements_text(buckets)::int) as buckets
           from (select distinct on (stream, topic, source) * from gate_proof
                 order by stream, topic, source, at desc, seq desc) newest
           where not is_equal order by stream, topic, source limit $1""",
        MOST_FILES,
    )
    aside = await _rows(
        """select id, stream, seq, topic, source, key, version, reason, times, at
           from gate_refused_row where healed_at is null order by at, id limit $1""",
        MOST_FILES,
    )
    events = await _rows(
        """select stream, kind, coalesce(detail ->> 'topic', '') as topic,
                  (detail ->> 'rows')::bigint as rows,
                  coalesce((detail -> 'skipped' ->> 'first')::bigint, first_seq) as first_seq,
                  coalesce((detail -> 'skipped' ->> 'last')::bigint, last_seq) as last_seq,
                  reason, at
           from gate_event order by at desc, id desc limit $1""",
        MOST_DEEDS,
    )
    deeds = await _rows(
        "select peer, what, about, by, reason, at from gate_deed order by at desc, id limit $1",
        MOST_DEEDS,
    )
    return Overview(
        peers=known,
        streams=streams,
        refused=[RefusedFile(**row) for row in refused],
        refused_count=sum(one.status.quarantined_files for one in streams),
        refused_rows=[RefusedRowView(**row) for row in aside],
        refused_rows_count=sum(one.status.refused_rows for one in streams),
        differences=[Difference(**row) for row in differences],
        events=[EventView(**row) for row in events],
        deeds=[DeedView(**row) for row in deeds],
    )


async def stream_views(now: datetime) -> list[StreamView]:
    """Every stream of this side with its lag and traffic."""
    known = await peers()
    passed = await traffic_module.traffic(now)
    return [_view(one, known, passed, now) for one in await stream_status()]


def as_dict(view: StreamView) -> dict[str, Any]:
    """`status.as_dict` and what else is seen, as plain JSON values."""
    return {
        **status_module.as_dict(view.status),
        "peer": view.peer.name if view.peer else None,
        "lag_seconds": view.lag.total_seconds() if view.lag is not None else None,
        "late": view.is_late,
        "unconfirmed": view.unconfirmed if view.status.direction == "out" else 0,
        "rows_per_minute": round(view.traffic.rows_per_minute, 1),
        "destinations": [
            {
                **asdict(one),
                "folder": str(one.folder),
                "failed_at": _moment(one.failed_at),
                "cutting": one.cutting
                and {
                    "folder": str(one.cutting.folder),
                    "repair_percent": one.cutting.repair_percent,
                },
            }
            for one in (view.peer.destinations if view.peer else ())
            if view.status.direction == "out"
        ],
    }


def _view(
    status: StreamStatus,
    known: list[Peer],
    passed: dict[tuple[str, str], Traffic],
    now: datetime,
) -> StreamView:
    peer = next((p for p in known if status.stream in (p.stream_in, p.stream_out)), None)
    lag = status.lag(now)
    late_after = peer.late_after if peer else timedelta(minutes=10)
    return StreamView(
        status=status,
        traffic=passed.get((status.direction, status.stream), traffic_module.NONE),
        lag=lag,
        is_late=status.direction == "in" and lag is not None and lag > late_after,
        peer=peer,
    )


def _moment(value: datetime | None) -> str | None:
    return value.isoformat() if value else None


async def _rows(sql: str, *values: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return [dict(row) for row in found]
