"""What `estation gate status` and staff see of every stream of this side."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from tortoise import Tortoise

from estation.outside.gate import shortage
from estation.outside.gate.errors import Reason


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream. Out: `waiting_rows` not packed yet, `unwritten_files` packed but not yet in
    the folder, `peer_*` what the other side reported. In: `parked_files` ahead of a missing
    one, `parked_rows` of topics nobody handles, why and since when it stands still, when it last
    jumped over lost packets, `phantoms`, rows here that are none of the sender's, and
    `refused_rows`, single rows that were set aside until they can be taken in.
    """

    stream: str
    direction: Literal["out", "in"]
    seq: int
    digest: str
    watermark: datetime | None
    last_at: datetime | None  # last packed, last applied
    begun_at: datetime | None = None  # its peer was registered; its oldest known packet applied
    waiting_rows: int = 0
    waiting_since: datetime | None = None
    unwritten_files: int = 0
    peer_received_seq: int = 0
    peer_received_at: datetime | None = None
    peer_trouble: str = ""
    paused_reason: str = ""  # why nothing is packed (bounds.Pause)
    paused_at: datetime | None = None
    unconfirmed_packets: int = 0  # with content
    unconfirmed_bytes: int = 0
    unconfirmed_since: datetime | None = None  # the oldest of them was made
    last_proof_at: datetime | None = None  # sent; received
    # Of every topic and source, at their last proof; what `refused_rows` explain is no difference.
    last_proof_equal: bool | None = None
    differing_buckets: int = 0  # at those proofs, that nothing explains
    known_differences: int = 0  # at those proofs, topics and sources that only such rows tell apart
    next_proof_at: datetime | None = None
    last_snapshot_at: datetime | None = None
    next_snapshot_at: datetime | None = None
    snapshot_state: str = ""  # planned or running
    last_jump_at: datetime | None = None
    phantoms: int = 0
    refused_rows: int = 0
    parked_files: int = 0
    parked_rows: int = 0
    quarantined_files: int = 0
    duplicates: int = 0
    stopped_reason: str = ""
    stopped_detail: str = ""
    stopped_at: datetime | None = None
    no_room: str = ""  # where something is refused for want of it (shortage.Where), by commas

    def lag(self, now: datetime) -> timedelta | None:
        """How old the newest complete picture is; None before the first packet."""
        return now - self.watermark if self.watermark is not None else None

    @property
    def state(self) -> Literal["running", "waiting", "stopped"]:
        """`waiting`: nothing is wrong with what came, but something before it is missing; or
        nothing is packed for want of space or of the peer's word."""
        if self.stopped_reason == Reason.gap or self.paused_reason:
            return "waiting"
        return "stopped" if self.stopped_reason or self.peer_trouble else "running"

    @property
    def reason(self) -> str:
        return ": ".join(
            filter(
                None,
                (
                    self.stopped_reason or self.peer_trouble or self.paused_reason,
                    self.stopped_detail,
                    f"no_room ({self.no_room})" if self.no_room else "",
                    f"row_refused ({self.refused_rows})" if self.refused_rows else "",
                ),
            )
        )

    @property
    def healthy(self) -> bool:
        return (
            not self.stopped_reason
            and not self.peer_trouble
            and not self.paused_reason
            and not self.no_room
            and not self.refused_rows
            and self.last_proof_equal is not False
        )


COLUMNS = (
    "stream", "direction", "seq", "watermark", "state", "reason", "last_proof_at",
    "last_proof_equal", "next_snapshot_at", "last_jump_at",
)  # fmt: skip
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
    short = f"""(select coalesce(string_agg(distinct e.detail ->> 'where', ','), '')
                 from {shortage.OPEN} and e.stream = s.stream) as no_room"""  # noqa: S608
    outgoing = await db.execute_query_dict(
        f"""select {short}, s.stream, s.last_seq as seq, s.last_digest as digest, s.watermark,
                  s.packed_at as last_at,
                  (select created_at from gate_peer p where p.stream_out = s.stream) as begun_at,
                  s.last_seq - s.written_seq as unwritten_files,
                  s.peer_received_seq, s.peer_received_at, s.peer_trouble,
                  coalesce(w.waiting_rows, 0) as waiting_rows, w.waiting_since,
                  coalesce(u.paused_reason, '') as paused_reason, u.paused_at,
                  u.proved_at as last_proof_at, u.prove_at as next_proof_at,
                  u.snapshot_at as next_snapshot_at,
                  coalesce((select state from gate_snapshot n where n.stream = s.stream
                            and n.state in ('planned', 'running')), '') as snapshot_state,
                  (select max(ended_at) from gate_snapshot n where n.stream = s.stream)
                    as last_snapshot_at,
                  coalesce(newest.contents_upto - oldest.contents_upto + (oldest.rows > 0)::int, 0)
                    as unconfirmed_packets,
                  coalesce(newest.bytes_upto - oldest.bytes_upto + octet_length(oldest.body), 0)
                    as unconfirmed_bytes,
                  (select p.created_at from gate_outgoing_packet p
                   where p.stream = s.stream and p.seq > s.peer_received_seq
                     and p.contents_upto > coalesce(
                       (select known.contents_upto from gate_outgoing_packet known
                        where known.stream = s.stream and known.seq = s.peer_received_seq), 0)
                   order by p.seq limit 1) as unconfirmed_since
           from gate_outgoing_stream s
           left join gate_upkeep u on u.stream = s.stream
           left join gate_outgoing_packet newest
             on newest.stream = s.stream and newest.seq = s.last_seq
           left join gate_outgoing_packet oldest
             on oldest.stream = s.stream and oldest.seq = s.peer_received_seq + 1
           left join (select stream, count(*) as waiting_rows, min(created_at) as waiting_since
                      from gate_outgoing_row where packed_seq is null group by stream) w
             on w.stream = s.stream
           order by s.stream"""  # noqa: S608
    )
    incoming = await db.execute_query_dict(
        f"""select {short}, s.stream, s.last_seq as seq, s.last_digest as digest, s.watermark,
                  s.applied_at as last_at,
                  (select received_at from gate_incoming_file f
                   where f.stream = s.stream and f.state = 'applied' order by seq limit 1)
                    as begun_at,
                  s.parked_files, s.duplicates,
                  s.stopped_reason, s.stopped_detail, s.stopped_at,
                  (select count(*) from gate_parked_row p
                   where p.stream = s.stream and p.line >= 0) as parked_rows,
                  (select count(*) from gate_incoming_file f
                   where f.stream = s.stream and f.state = 'quarantined') as quarantined_files,
                  (select max(at) from gate_proof p where p.stream = s.stream) as last_proof_at,
                  newest.is_equal as last_proof_equal,
                  coalesce(newest.buckets, 0) as differing_buckets,
                  coalesce(newest.known, 0) as known_differences,
                  (select count(*) from gate_refused_row r
                   where r.stream = s.stream and r.healed_at is null) as refused_rows,
                  (select max(at) from gate_event e
                   where e.stream = s.stream and e.kind = 'jumped') as last_jump_at,
                  (select count(*) from gate_phantom p where p.stream = s.stream) as phantoms
           from gate_incoming_stream s
           left join lateral (
             select bool_and(is_equal or is_known) as is_equal,
                    sum(jsonb_array_length(buckets)) filter (where not is_known) as buckets,
                    count(*) filter (where is_known) as known
             from (select distinct on (topic, source) is_equal, is_known, buckets from gate_proof p
                   where p.stream = s.stream order by topic, source, at desc, seq desc) of_copy
           ) newest on true
           order by s.stream"""  # noqa: S608
    )
    return [
        *(StreamStatus(direction="out", **row) for row in outgoing),
        *(StreamStatus(direction="in", **row) for row in incoming),
    ]
