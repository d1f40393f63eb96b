"""What `estation gate status` and staff see of every stream of this side."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from tortoise import Tortoise

from estation.outside.gate.errors import Reason


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream. Out: `waiting_rows` not packed yet, `unwritten_files` packed but not yet in
    the folder, `peer_*` what the other side reported. In: `parked_files` ahead of a missing
    one, `parked_rows` of topics nobody handles, and why and since when it stands still.
    """

    stream: str
    direction: Literal["out", "in"]
    seq: int
    digest: str
    watermark: datetime | None
    last_at: datetime | None  # last packed, last applied
    waiting_rows: int = 0
    waiting_since: datetime | None = None
    unwritten_files: int = 0
    peer_received_seq: int = 0
    peer_received_at: datetime | None = None
    peer_trouble: str = ""
    parked_files: int = 0
    parked_rows: int = 0
    quarantined_files: int = 0
    duplicates: int = 0
    stopped_reason: str = ""
    stopped_detail: str = ""
    stopped_at: datetime | None = None

    def lag(self, now: datetime) -> timedelta | None:
        """How old the newest complete picture is; None before the first packet."""
        return now - self.watermark if self.watermark is not None else None

    @property
    def state(self) -> Literal["running", "waiting", "stopped"]:
        """`waiting`: nothing is wrong with what came, but something before it is missing."""
        if self.stopped_reason == Reason.gap:
            return "waiting"
        return "running" if self.healthy else "stopped"

    @property
    def reason(self) -> str:
        return ": ".join(
            filter(None, (self.stopped_reason or self.peer_trouble, self.stopped_detail))
        )

    @property
    def healthy(self) -> bool:
        return not self.stopped_reason and not self.peer_trouble


COLUMNS = ("stream", "direction", "seq", "watermark", "state", "reason")
"""What a person looks at first; `as_dict` has it all."""


def as_dict(status: StreamStatus) -> dict[str, Any]:
    """Plain JSON values, moments in RFC 3339, with `state` and `reason` in addition."""
    plain = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(status).items()
    }
    return {**plain, "state": status.state, "reason": status.reason}


async def stream_status() -> list[StreamStatus]:
    """Every stream of this side, outgoing ones first, by name."""
    db = Tortoise.get_connection("default")
    outgoing = await db.execute_query_dict(
        """select s.stream, s.last_seq as seq, s.last_digest as digest, s.watermark,
                  s.packed_at as last_at, s.last_seq - s.written_seq as unwritten_files,
                  s.peer_received_seq, s.peer_received_at, s.peer_trouble,
                  coalesce(w.waiting_rows, 0) as waiting_rows, w.waiting_since
           from gate_outgoing_stream s
           left join (select stream, count(*) as waiting_rows, min(created_at) as waiting_since
                      from gate_outgoing_row where packed_seq is null group by stream) w
             using (stream)
           order by s.stream"""
    )
    incoming = await db.execute_query_dict(
        """select s.stream, s.last_seq as seq, s.last_digest as digest, s.watermark,
                  s.applied_at as last_at, s.parked_files, s.duplicates,
                  s.stopped_reason, s.stopped_detail, s.stopped_at,
                  (select count(*) from gate_parked_row p where p.stream = s.stream)
                    as parked_rows,
                  (select count(*) from gate_incoming_file f
                   where f.stream = s.stream and f.state = 'quarantined') as quarantined_files
           from gate_incoming_stream s order by s.stream"""
    )
    return [
        *(StreamStatus(direction="out", **row) for row in outgoing),
        *(StreamStatus(direction="in", **row) for row in incoming),
    ]
