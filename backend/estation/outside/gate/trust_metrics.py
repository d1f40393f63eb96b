"""What Prometheus is told of how far the gate can be trusted: pauses, proofs, losses."""

from datetime import datetime

from prometheus_client import Gauge

from estation.outside.gate.peers import peers
from estation.outside.gate.status import StreamStatus, stream_status

PAUSED = Gauge(
    "estation_gate_paused", "1 while nothing is packed into a stream", ["stream", "reason"]
)
UNCONFIRMED_BYTES = Gauge(
    "estation_gate_unconfirmed_bytes", "Sealed and not known to have arrived", ["stream"]
)
CONTRADICTED = Gauge(
    "estation_gate_contradicted",
    "1 while a peer says that it received something else than we sent",
    ["stream", "trouble"],
)
PROOF_EQUAL = Gauge(
    "estation_gate_proof_equal", "1 when all copies of a stream were equal at their last proof",
    ["stream"],
)  # fmt: skip
PHANTOMS = Gauge("estation_gate_phantoms", "Rows here that their source does not know", ["stream"])
REFUSED_ROWS = Gauge(
    "estation_gate_refused_rows", "Single rows that are set aside until they can be taken in",
    ["stream"],
)  # fmt: skip
LAST_JUMP = Gauge(
    "estation_gate_last_jump_seconds",
    "When a snapshot last took the place of lost packets, in Unix time",
    ["stream"],
)
UNCONFIRMED_SECONDS = Gauge(
    "estation_gate_unconfirmed_seconds",
    "Age of the oldest packet with content that is not known to have arrived; 0: none",
    ["stream"],
)
LAST_PROOF = Gauge(
    "estation_gate_last_proof_seconds",
    "When the copies of a stream were last compared, or it began if they never were, in Unix time",
    ["stream"],
)
LAST_SNAPSHOT = Gauge(
    "estation_gate_last_snapshot_seconds",
    "When a stream's last complete snapshot left, or it began if none ever did, in Unix time",
    ["stream"],
)
DISK_FREE = Gauge(
    "estation_gate_disk_free_bytes",
    "Room on the fullest disk of a peer's folder and destinations, at the last look",
    ["peer"],
)  # fmt: skip
ALL = (
    PAUSED,
    CONTRADICTED,
    UNCONFIRMED_BYTES,
    UNCONFIRMED_SECONDS,
    PROOF_EQUAL,
    LAST_PROOF,
    LAST_SNAPSHOT,
    PHANTOMS,
    REFUSED_ROWS,
    LAST_JUMP,
    DISK_FREE,
)


async def refresh(now: datetime) -> None:
    """Before each scrape. When the database cannot say, nothing is said rather than old news."""
    for gauge in ALL:
        gauge.clear()
    for status in await stream_status():
        _tell(status, now)
    for peer in await peers(only_active=True):
        if peer.disk_free is not None:
            DISK_FREE.labels(peer.name).set(peer.disk_free)


def _tell(status: StreamStatus, now: datetime) -> None:
    if status.direction == "out":
        PAUSED.labels(status.stream, status.paused_reason).set(1 if status.paused_reason else 0)
        CONTRADICTED.labels(status.stream, status.peer_trouble).set(int(bool(status.peer_trouble)))
        UNCONFIRMED_BYTES.labels(status.stream).set(status.unconfirmed_bytes)
        since = status.unconfirmed_since or now
        UNCONFIRMED_SECONDS.labels(status.stream).set(max(0.0, (now - since).total_seconds()))
        _set(LAST_SNAPSHOT, status, status.last_snapshot_at or status.begun_at)
        return
    PHANTOMS.labels(status.stream).set(status.phantoms)
    REFUSED_ROWS.labels(status.stream).set(status.refused_rows)
    if status.last_proof_equal is not None:
        PROOF_EQUAL.labels(status.stream).set(int(status.last_proof_equal))
    # Of what never was, since when it could have been: an alarm on its age must fire, too.
    _set(LAST_PROOF, status, status.last_proof_at or status.begun_at)
    _set(LAST_JUMP, status, status.last_jump_at)


def _set(gauge: Gauge, status: StreamStatus, moment: datetime | None) -> None:
    if moment is not None:
        gauge.labels(status.stream).set(moment.timestamp())
