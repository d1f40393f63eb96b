"""Puts the online program together."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from sanic import Blueprint, HTTPResponse, Request, Sanic
from sanic.exceptions import SanicException
from sanic.response import raw
from tortoise import Tortoise
from tortoise.exceptions import DBConnectionError

from estation import measuring
from estation import settings as settings_module
from estation.cases import pages as case_pages
from estation.fees import routes as fee_routes
from estation.identity import pages as identity_pages
from estation.identity import routes as identity_routes
from estation.identity import staff_pages as identity_staff_pages
from estation.identity.api import attach_viewer, public
from estation.identity.errors import Forbidden, FormExpired, LoginRequired
from estation.ledger import routes as ledger_routes
from estation.limits import NOTICE_BODY_BYTES, BoundedRequest, limit_address, limit_viewer
from estation.official_account import routes as official_account_routes
from estation.payees import PayeeWatch
from estation.payments import pages as payment_pages
from estation.payments import routes as payment_routes
from estation.payments import staff_pages as payment_staff_pages
from estation.reconciliation import gate_pages, split_pages
from estation.reconciliation import pages as reconciliation_pages
from estation.services import OnlineApp, Services, open_services
from estation.settings import Settings
from estation.shared.clock import Clock, system_clock
from estation.shared.crypto import KeyNotHeld
from estation.shared.errors import Refused
from estation.shared.openapi import described, document
from estation.shared.pages import H5, render, wants_page
from estation.shared.replies import json_reply, render_refusal

log = structlog.get_logger()

MAX_BODY_BYTES = NOTICE_BODY_BYTES
"""Nothing a citizen or a channel sends us is larger; most routes have less (limits.py)."""

BLUEPRINTS = (
    identity_pages.bp,
    identity_routes.bp,
    identity_staff_pages.bp,
    case_pages.bp,
    fee_routes.bp,
    ledger_routes.bp,
    official_account_routes.bp,
    payment_pages.bp,
    payment_routes.bp,
    payment_staff_pages.bp,
    reconciliation_pages.bp,
    split_pages.bp,
    gate_pages.bp,
)

GUARD_REFUSALS: Mapping[str, tuple[type[Refused], ...]] = {
    "public": (FormExpired,),
    "citizen": (LoginRequired, FormExpired),
    "staff": (LoginRequired, FormExpired, Forbidden),
}
"""What each guard may say before its handler is asked (identity/guards.py)."""

DATABASE_LOST: tuple[type[Exception], ...] = (
    ConnectionError,
    DBConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
"""What asyncpg and Tortoise raise while PostgreSQL is away or somebody holds a row for long."""

WORDS = {
    400: ("bad_request", "请求的格式不正确，请返回重试。"),
    404: ("not_found", "没有找到您要的页面，可能地址有误或内容已不存在。"),
    405: ("method_not_allowed", "这个地址不支持这样的操作。"),
    408: ("request_timeout", "网络较慢，请求没有完成，请重试。"),
    413: ("body_too_large", "提交的内容过大，请减少后重试。"),
    500: ("internal_error", "系统出了点问题，您的办理没有受到影响，请稍后重试。"),
    503: ("unavailable", "系统正忙，请稍后重试。"),
}


def create_app(*, name: str, settings: Settings, clock: Clock = system_clock) -> OnlineApp:
    """The program; services and database open with each worker and close with it."""
    # The services need a running loop: they take this place before the first request.
    app: OnlineApp = Sanic(
        name,
        ctx=cast("Services", SimpleNamespace()),
        request_class=BoundedRequest,
        configure_logging=False,
    )
    app.config.REQUEST_MAX_SIZE = MAX_BODY_BYTES
    app.config.REQUEST_TIMEOUT = 15
    app.config.RESPONSE_TIMEOUT = 30
    app.config.KEEP_ALIVE_TIMEOUT = 75  # longer than nginx's, so that we never close first
    app.config.ACCESS_LOG = False
    app.config.PROXIES_COUNT = settings.proxies_count or None
    for blueprint in BLUEPRINTS:
        app.blueprint(blueprint)
    app.blueprint(_static_files())
    app.add_route(healthz, "/healthz")
    app.add_route(metrics, "/metrics")
    app.add_route(openapi, "/openapi.json")
    payees = PayeeWatch(settings)

    async def look_for_payees(request: Request[Any, Any]) -> None:
        payees.look()

    app.on_request(look_for_payees)
    app.on_request(limit_address)
    app.on_request(attach_viewer)
    app.on_request(limit_viewer)
    app.error_handler.add(Refused, render_refusal)
    app.error_handler.add(SanicException, _render_http_error)
    for lost in DATABASE_LOST:
        app.error_handler.add(lost, _render_lost_database)
    app.error_handler.add(KeyNotHeld, _render_missing_key)
    app.error_handler.add(Exception, _render_surprise)
    _open_with_worker(app, settings, clock)
    return app


def _static_files() -> Blueprint:
    """What vite built. Names carry a digest, so a browser may keep a file for ever."""
    files = Blueprint("static_files")
    files.static("/static", H5 / "dist", name="static")

    async def may_be_kept(request: Request[Any, Any], response: HTTPResponse) -> None:
        if request.path.startswith("/static/assets/"):
            response.headers["cache-control"] = "public, max-age=31536000, immutable"

    files.middleware(may_be_kept, "response")
    return files


def _open_with_worker(app: OnlineApp, settings: Settings, clock: Clock) -> None:
    async def start(app: OnlineApp) -> None:
        app.ctx = await stack.__aenter__()
        payment_routes.start_notice_desk(app)

    async def stop(app: OnlineApp) -> None:
        await payment_routes.stop_notice_desk(app)
        await stack.__aexit__(None, None, None)

    stack = _everything(settings, clock)
    app.register_listener(start, "before_server_start")
    app.register_listener(stop, "after_server_stop")


@asynccontextmanager
async def _everything(settings: Settings, clock: Clock) -> AsyncIterator[Any]:
    await Tortoise.init(
        config=settings_module.database(settings.database_url), _enable_global_fallback=True
    )
    try:
        async with open_services(settings, clock) as services:
            yield services
    finally:
        await Tortoise.close_connections()


@public
@described(answers={200: dict[str, str]})
async def healthz(request: Request[Any, Any]) -> HTTPResponse:
    """200 when the database answers; for the load balancer and the supervisor."""
    await Tortoise.get_connection("default").execute_query("select 1")
    return json_reply({"status": "ok"})


@public
async def metrics(request: Request[Any, Any]) -> HTTPResponse:
    """Prometheus text. nginx lets only the monitoring network reach it."""
    body = await measuring.exposition(now=request.app.ctx.clock())
    return raw(body, content_type=CONTENT_TYPE_LATEST)


@public
async def openapi(request: Request[Any, Any]) -> HTTPResponse:
    """What programs may ask of us, as OpenAPI 3.1."""
    return json_reply(document(request.app, title="不动产 e 站", guards=GUARD_REFUSALS))


async def _render_http_error(request: Request[Any, Any], error: SanicException) -> HTTPResponse:
    status = error.status_code or 500
    return _words(request, status if status in WORDS else (500 if status >= 500 else 400), status)


async def _render_lost_database(request: Request[Any, Any], error: Exception) -> HTTPResponse:
    """The database is away or restarting: nothing was done, and trying again is right."""
    log.error("database_unreachable", route=_route(request), error=type(error).__name__)
    return _words(request, 503, 503)


async def _render_missing_key(request: Request[Any, Any], error: Exception) -> HTTPResponse:
    """A key of personal data was taken out of its file too early: put back, all is well again."""
    log.error("data_key_not_held", route=_route(request))
    return _words(request, 503, 503)


async def _render_surprise(request: Request[Any, Any], error: Exception) -> HTTPResponse:
    log.error("request_failed", route=_route(request), method=request.method, exc_info=error)
    return _words(request, 500, 500)


def _route(request: Request[Any, Any]) -> str:
    """For the log: never the address itself, in which a code may be somebody's right to pay."""
    return f"/{request.route.path}" if request.route else ""


def _words(request: Request[Any, Any], known: int, status: int) -> HTTPResponse:
    code, message = WORDS[known]
    if wants_page(request):
        return render(
            request,
            "shared/refusal.html",
            status=status,
            title="页面不存在" if status == 404 else "暂时无法办理",
            message=message,
            code=code,
            wait_seconds=None,
        )
    return json_reply({"code": code, "message": message, "details": {}}, status=status)
