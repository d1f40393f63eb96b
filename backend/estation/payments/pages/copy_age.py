"""How old the replicated data is that a page shows."""

from datetime import datetime, timedelta
from typing import Any

from estation.outside.gate.status import stream_status
from estation.services import OnlineRequest

STALE_AFTER = timedelta(minutes=10)
"""The sender packs a heartbeat every few seconds; ten minutes of silence is not normal."""


async def copy_age(request: OnlineRequest, *, now: datetime) -> dict[str, Any]:
    """Values for templates/shared/as_of.html; no watermark yet means nothing to say."""
    stream = request.app.ctx.settings.gate.stream_in
    known = {status.stream: status for status in await stream_status()}
    watermark = known[stream].watermark if stream in known else None
    return {
        "data_as_of": watermark,
        "data_is_stale": watermark is not None and now - watermark > STALE_AFTER,
    }
