"""What Prometheus is told of the gate beside what the alarms of payments/signals.py look at;
asked of the database at each scrape, so that a worker that died cannot hide anything."""

from datetime import datetime

from prometheus_client import Gauge

from estation.outside.gate.overview import StreamView, stream_views
from estation.outside.gate.peers import peers

POSITION = Gauge(
    "estation_gate_position", "Last packet made (out) or applied (in)", ["stream", "direction"]
)
WAITING = Gauge("estation_gate_waiting_rows", "Rows not packed yet", ["stream"])
UNCONFIRMED = Gauge(
    "estation_gate_unconfirmed_packets", "Packets the peer has not reported as received", ["stream"]
)
PARKED_FILES = Gauge(
    "estation_gate_parked_files", "Files that wait for a missing one before them", ["stream"]
)
PARKED_ROWS = Gauge(
    "estation_gate_parked_rows", "Rows of topics that nobody here handles", ["stream"]
)
QUARANTINED = Gauge("estation_gate_quarantined_files", "Files refused and kept", ["stream"])
TROUBLE = Gauge(
    "estation_gate_peer_trouble", "1 while a peer's folder or our key for it fails", ["peer"]
)
DESTINATIONS = Gauge(
    "estation_gate_destinations_failing", "Further folders that cannot be written", ["peer"]
)
ALL = (
    POSITION,
    WAITING,
    UNCONFIRMED,
    PARKED_FILES,
    PARKED_ROWS,
    QUARANTINED,
    TROUBLE,
    DESTINATIONS,
)


async def refresh(now: datetime) -> None:
    """Before each scrape. When the database cannot say, nothing is said rather than old news."""
    for gauge in ALL:
        gauge.clear()
    for view in await stream_views(now):
        _tell(view)
    for peer in await peers():
        TROUBLE.labels(peer.name).set(1 if peer.trouble else 0)
        DESTINATIONS.labels(peer.name).set(sum(bool(one.failure) for one in peer.destinations))


def _tell(view: StreamView) -> None:
    status = view.status
    POSITION.labels(status.stream, status.direction).set(status.seq)
    if status.direction == "out":
        WAITING.labels(status.stream).set(status.waiting_rows)
        UNCONFIRMED.labels(status.stream).set(view.unconfirmed)
        return
    PARKED_FILES.labels(status.stream).set(status.parked_files)
    PARKED_ROWS.labels(status.stream).set(status.parked_rows)
    QUARANTINED.labels(status.stream).set(status.quarantined_files)
