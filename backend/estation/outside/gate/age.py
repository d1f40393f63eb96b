"""How old the replicated copy is that a page shows."""

from datetime import datetime, timedelta
from typing import TypedDict

from estation.outside.gate.receiving import watermark_of

STALE_AFTER = timedelta(minutes=10)
"""The sender packs a heartbeat far more often; ten minutes of silence is not normal."""


class CopyAge(TypedDict):
    """Values for templates/shared/as_of.html; no watermark yet means nothing to say."""

    data_as_of: datetime | None
    data_is_stale: bool


async def copy_age(stream: str, *, now: datetime) -> CopyAge:
    """The watermark of this incoming stream, and whether it has stood still for too long."""
    mark = await watermark_of(stream)
    return {"data_as_of": mark, "data_is_stale": mark is not None and now - mark > STALE_AFTER}
