"""Gauges that are facts of the database, read when somebody asks."""

from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge
from tortoise import Tortoise

DATABASE_UP = "estation_database_up"


@dataclass(frozen=True, slots=True)
class Signal:
    """One gauge: a query of label columns and `value`; `$1` is the moment of asking."""

    name: str
    help: str
    labels: tuple[str, ...]
    sql: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one signal says: (label values, value) each."""

    signal: Signal
    values: list[tuple[tuple[str, ...], float]]

    def tell(self, registry: CollectorRegistry) -> None:
        """As a gauge of the registry."""
        told = Gauge(self.signal.name, self.signal.help, self.signal.labels, registry=registry)
        for labels, value in self.values:
            (told.labels(*labels) if labels else told).set(value)


async def read(signal: Signal, *, now: datetime) -> Reading:
    """As of now. Raises what the database raises when it is away."""
    rows = await Tortoise.get_connection("default").execute_query_dict(signal.sql, [now])
    return Reading(
        signal,
        [(tuple(str(row[label]) for label in signal.labels), float(row["value"])) for row in rows],
    )
