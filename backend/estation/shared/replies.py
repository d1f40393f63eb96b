"""How refusals leave the building: JSON for programs, a page for people."""

from typing import Any
from uuid import UUID

import orjson
from sanic import HTTPResponse, Request
from sanic.response import raw

from estation.shared.errors import Refused
from estation.shared.pages import render, wants_page


def json_reply(body: Any, *, status: int = 200) -> HTTPResponse:
    """orjson over `response.raw`: 20 % above `response.json` (DESIGN §9)."""
    return raw(
        orjson.dumps(body, default=_plain),
        status=status,
        content_type="application/json; charset=utf-8",
    )


def _plain(value: Any) -> str:
    """The database driver's own UUID class, which orjson does not know."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


async def render_refusal(request: Request[Any, Any], refusal: Refused) -> HTTPResponse:
    """The stable code and the citizen's sentence, in the form the asker reads."""
    seconds = refusal.details.get("retry_after_seconds")
    if wants_page(request):
        response = render(
            request,
            "shared/refusal.html",
            status=refusal.http_status,
            title="暂时无法办理",
            message=refusal.message,
            code=refusal.code,
            wait_seconds=seconds,
        )
    else:
        response = json_reply(
            {"code": refusal.code, "message": refusal.message, "details": refusal.details},
            status=refusal.http_status,
        )
    if seconds is not None:
        response.headers["retry-after"] = str(seconds)
    return response
