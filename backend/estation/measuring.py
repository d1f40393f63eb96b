"""What `/metrics` and `estation signals` say: our counters, and facts of the database."""

from datetime import datetime

import structlog
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.registry import REGISTRY

from estation.ledger import metrics as ledger_metrics
from estation.outside.gate import metrics as gate_metrics
from estation.outside.gate import trust_metrics
from estation.payments.signals import SIGNALS, read_signals
from estation.shared.signals import DATABASE_UP

log = structlog.get_logger()


async def exposition(*, now: datetime) -> bytes:
    """Prometheus text. Without the database it says so, and the counters are told all the same."""
    told = await facts(now=now)
    return generate_latest(REGISTRY) + told


async def facts(*, now: datetime, with_books: bool = False) -> bytes:
    """What the database says, and whether it does. The gauges of the books and of the gate
    stand with this process's counters; `with_books` tells them here too."""
    registry = CollectorRegistry()
    if with_books:
        registry.register(ledger_metrics.BLOCKS)
        registry.register(ledger_metrics.UNSEALED_AGE)
        for of_gate in (*gate_metrics.ALL, *trust_metrics.ALL):
            registry.register(of_gate)
    is_up = Gauge(DATABASE_UP, "1 when the database answers", registry=registry)
    try:
        await ledger_metrics.refresh(now)
        await gate_metrics.refresh(now)
        await trust_metrics.refresh(now)
        for reading in await read_signals(now=now):
            reading.tell(registry)
        is_up.set(1)
    except Exception as failure:
        # Whatever keeps the facts away, an alarm must come of it and not a broken page.
        log.error("signals_unreadable", error=repr(failure))
        is_up.set(0)
    return generate_latest(registry)


def exported_names() -> set[str]:
    """Every metric name a scrape may show; the alert rules are tested against it."""
    names = {DATABASE_UP, *(signal.name for signal in SIGNALS)}
    for family in REGISTRY.collect():
        names.update({family.name, *(sample.name for sample in family.samples)})
        if family.type == "counter":
            names.add(f"{family.name}_total")
        if family.type == "histogram":
            names.update(f"{family.name}_{part}" for part in ("bucket", "sum", "count"))
    return names
