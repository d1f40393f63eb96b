"""What the inner program's `/metrics` says of the gate, under the same names as the online side's.

There is no table of incidents here: the gauges, `estation gate status --side inner` and the line
on every page are how this side says that somebody is needed.
"""

from datetime import datetime

import structlog
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from estation.outside.gate import metrics, signals, trust_metrics
from estation.shared.signals import DATABASE_UP, read

log = structlog.get_logger()

SIGNALS = (signals.LAG, signals.STOPPED, signals.WAITING, signals.NO_ROOM, signals.FINDINGS)


async def exposition(*, now: datetime) -> bytes:
    """Prometheus text. Without the database it says that, and nothing old."""
    registry = CollectorRegistry()
    is_up = Gauge(DATABASE_UP, "1 when the database answers", registry=registry)
    try:
        await metrics.refresh(now)
        await trust_metrics.refresh(now)
        for signal in SIGNALS:
            (await read(signal, now=now)).tell(registry)
        for of_gate in (*metrics.ALL, *trust_metrics.ALL):
            registry.register(of_gate)
        is_up.set(1)
    except Exception as failure:
        log.error("signals_unreadable", error=repr(failure))
        is_up.set(0)
    return generate_latest(registry)
