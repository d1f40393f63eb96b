"""Puts the internal platform's program together."""

from pathlib import Path
from typing import Any, TypeAlias

import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import SanicException
from sanic.response import raw
from tortoise import Tortoise

from estation.inner import database, measuring, pages
from estation.inner.errors import LoginRequired
from estation.inner.guards import attach_viewer, public
from estation.payees import PayeeWatch
from estation.settings import InnerSettings
from estation.shared.clock import Clock, system_clock
from estation.shared.errors import Refused
from estation.shared.pages import H5, render, wants_page
from estation.shared.replies import json_reply

log = structlog.get_logger()

InnerApp: TypeAlias = Sanic[Any, Any]
MAX_BODY_BYTES = 1024 * 1024
"""Sixty items with long Chinese texts, percent-encoded, fit."""
STYLESHEET = Path(H5 / "templates" / "inner" / "inner.css")

WORDS = {
    400: ("bad_request", "请求的格式不正确，请返回重试。"),
    404: ("not_found", "没有这个页面。"),
    405: ("method_not_allowed", "这个地址不支持这样的操作。"),
    413: ("body_too_large", "提交的内容过大，请减少后重试。"),
    500: ("internal_error", "系统出了点问题，本次操作没有生效，请稍后重试。"),
    503: ("unavailable", "系统正忙，请稍后重试。"),
}


def create_app(*, name: str, settings: InnerSettings, clock: Clock = system_clock) -> InnerApp:
    """The program; the database opens with the server and closes with it."""
    app: InnerApp = Sanic(name, configure_logging=False)
    app.config.REQUEST_MAX_SIZE = MAX_BODY_BYTES
    app.config.REQUEST_TIMEOUT = 15
    app.config.RESPONSE_TIMEOUT = 30
    app.config.ACCESS_LOG = False
    app.ctx.settings = settings
    app.ctx.clock = clock
    app.ctx.stylesheet = STYLESHEET.read_bytes()
    app.blueprint(pages.bp)
    app.add_route(healthz, "/healthz")
    app.add_route(metrics, "/metrics")
    app.add_route(stylesheet, "/inner.css")
    payees = PayeeWatch(settings)

    async def look_for_payees(request: Request[Any, Any]) -> None:
        payees.look()

    app.on_request(look_for_payees)
    app.on_request(attach_viewer)
    app.error_handler.add(Refused, _render_refusal)
    app.error_handler.add(SanicException, _render_http_error)
    app.error_handler.add(Exception, _render_surprise)
    app.register_listener(_open_database, "before_server_start")
    app.register_listener(_close_database, "after_server_stop")
    return app


async def _open_database(app: InnerApp) -> None:
    config = database.database(app.ctx.settings.database_url)
    await Tortoise.init(config=config, _enable_global_fallback=True)


async def _close_database(app: InnerApp) -> None:
    await Tortoise.close_connections()


@public
async def healthz(request: Request[Any, Any]) -> HTTPResponse:
    """200 when the database answers; for the supervisor."""
    await Tortoise.get_connection("default").execute_query("select 1")
    return json_reply({"status": "ok"})


@public
async def metrics(request: Request[Any, Any]) -> HTTPResponse:
    """Prometheus text about the gate; only the monitoring network may reach it."""
    body = await measuring.exposition(now=request.app.ctx.clock())
    return raw(body, content_type=CONTENT_TYPE_LATEST)


@public
async def stylesheet(request: Request[Any, Any]) -> HTTPResponse:
    """The one file the pages need besides themselves."""
    return raw(
        request.app.ctx.stylesheet,
        content_type="text/css; charset=utf-8",
        headers={"cache-control": "no-cache", "x-content-type-options": "nosniff"},
    )


async def _render_refusal(request: Request[Any, Any], refusal: Refused) -> HTTPResponse:
    if wants_page(request):
        return _page(
            request,
            refusal.http_status,
            refusal.code,
            refusal.message,
            isinstance(refusal, LoginRequired),
        )
    return json_reply(
        {"code": refusal.code, "message": refusal.message, "details": refusal.details},
        status=refusal.http_status,
    )


async def _render_http_error(request: Request[Any, Any], error: SanicException) -> HTTPResponse:
    status = error.status_code or 500
    return _words(request, status)


async def _render_surprise(request: Request[Any, Any], error: Exception) -> HTTPResponse:
    log.error("request_failed", path=request.path, method=request.method, exc_info=error)
    return _words(request, 500)


def _words(request: Request[Any, Any], status: int) -> HTTPResponse:
    code, message = WORDS.get(status) or WORDS[500 if status >= 500 else 400]
    if wants_page(request):
        return _page(request, status, code, message, False)
    return json_reply({"code": code, "message": message, "details": {}}, status=status)


def _page(
    request: Request[Any, Any], status: int, code: str, message: str, login: bool
) -> HTTPResponse:
    """Errors before the middleware ran have no viewer; the page must not need one."""
    return render(
        request, "inner/refusal.html", status=status, code=code, message=message, login=login
    )
