"""What Prometheus is told of the books; asked of the database, so every process says the same."""

import math
from datetime import datetime

from prometheus_client import Gauge

from estation.ledger import queries

BLOCKS = Gauge("estation_ledger_blocks", "Blocks sealed, all books together")
UNSEALED_AGE = Gauge(
    "estation_ledger_unsealed_age_seconds",
    "Age of the oldest transfer that is in no block; 0: none",
)


async def refresh(now: datetime) -> None:
    """Before each scrape. When the database cannot say, the values are NaN rather than old."""
    BLOCKS.set(math.nan)
    UNSEALED_AGE.set(math.nan)
    state = await queries.sealing_state(now)
    BLOCKS.set(state.blocks)
    UNSEALED_AGE.set(state.unsealed_age_seconds)
