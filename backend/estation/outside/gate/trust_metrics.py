"""What Prometheus is told of how far the gate can be trusted: pauses, proofs, losses."""

from prometheus_client import Gauge

from estation.outside.gate.status import StreamStatus, stream_status

PAUSED = Gauge(
    "estation_gate_paused", "1 while nothing is packed into a stream", ["stream", "reason"]
)
UNCONFIRMED_BYTES = Gauge(
    "estation_gate_unconfirmed_bytes", "Sealed and not known to have arrived", ["stream"]
)
PROOF_EQUAL = Gauge(
    "estation_gate_proof_equal", "1 when all copies of a stream were equal at their last proof",
    ["stream"],
)  # fmt: skip
PHANTOMS = Gauge("estation_gate_phantoms", "Rows here that their source does not know", ["stream"])
LAST_JUMP = Gauge(
    "estation_gate_last_jump_seconds",
    "When a snapshot last took the place of lost packets, in Unix time",
    ["stream"],
)
ALL = (PAUSED, UNCONFIRMED_BYTES, PROOF_EQUAL, PHANTOMS, LAST_JUMP)


async def refresh() -> None:
    """Before each scrape. When the database cannot say, nothing is said rather than old news."""
    for gauge in ALL:
        gauge.clear()
    for status in await stream_status():
        _tell(status)


def _tell(status: StreamStatus) -> None:
    if status.direction == "out":
        PAUSED.labels(status.stream, status.paused_reason).set(1 if status.paused_reason else 0)
        UNCONFIRMED_BYTES.labels(status.stream).set(status.unconfirmed_bytes)
        return
    PHANTOMS.labels(status.stream).set(status.phantoms)
    if status.last_proof_equal is not None:
        PROOF_EQUAL.labels(status.stream).set(int(status.last_proof_equal))
    if status.last_jump_at is not None:
        LAST_JUMP.labels(status.stream).set(status.last_jump_at.timestamp())
