"""What every page of the desk shows around its own content."""

from datetime import timedelta
from typing import Any

from sanic import HTTPResponse

from estation.inner import catalogue, queries
from estation.inner.guards import DeskRequest, now_of, settings_of
from estation.outside.gate.status import StreamStatus
from estation.shared.pages import render

STALE = timedelta(minutes=2)
"""A watermark older than this is shown as a warning; heartbeats come every ten seconds."""


async def show(
    request: DeskRequest, template: str, *, status: int = 200, **values: Any
) -> HTTPResponse:
    """A page with the head of the desk: who is here, the gate's line, what waits for a person."""
    now = now_of(request)
    streams, waiting, needed = await queries.gate_line(now)
    return render(
        request,
        template,
        status=status,
        words=catalogue,
        payees={payee.code: payee.name for payee in settings_of(request).payees},
        gate=[(stream, _is_stale(stream, now)) for stream in streams],
        gate_needs=needed,
        receipts_waiting=waiting,
        **values,
    )


def number_of(text: str | None) -> int:
    """A page number from a query string; anything unreadable is the first page."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else 1


def _is_stale(stream: StreamStatus, now: Any) -> bool:
    lag = stream.lag(now)
    return stream.direction == "in" and (lag is None or lag > STALE)
