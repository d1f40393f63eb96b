"""Puts the outside world together: one Sanic app, one port, one SQLite file."""

from pathlib import Path
from uuid import uuid4

from sanic import Sanic
from sanic.config import Config

from estation.sandbox import account_api, control, pages, panel, sms, wechat_oauth
from estation.sandbox.alipay import http as alipay_http
from estation.sandbox.alipay import refunds as alipay_refunds
from estation.sandbox.alipay.notices import AlipayNotices
from estation.sandbox.clocks import TwoClocks
from estation.sandbox.faults import Faults
from estation.sandbox.hub import Hub, SandboxApp, SandboxContext
from estation.sandbox.keys import make_keys
from estation.sandbox.notifier import NoticeStyle, Notifier
from estation.sandbox.store import Store
from estation.sandbox.wechat_pay import http as wechat_http
from estation.sandbox.wechat_pay import refunds as wechat_refunds
from estation.sandbox.wechat_pay.notices import WechatNotices
from estation.shared.clock import Clock, system_clock

_BLUEPRINTS = (
    wechat_http.bp,
    alipay_http.bp,
    wechat_oauth.bp,
    account_api.bp,
    sms.bp,
    control.bp,
    panel.bp,
    pages.bp,
)
_CONFIG: dict[str, str | bool | int | float | None] = {
    "REQUEST_MAX_SIZE": 1_000_000,
    "FALLBACK_ERROR_FORMAT": "json",
    # Sanic's start-up rewriting of its own methods works once per process; tests start many.
    "TOUCHUP": False,
}


def create_sandbox(*, data: Path, port: int, clock: Clock = system_clock) -> SandboxApp:
    """The servers outside the city on one port; `data` keeps their keys and memory.

    `clock` is real time; the virtual clock is an offset to it, kept in `data`.
    """
    make_keys(data)
    app: SandboxApp = Sanic(
        f"estation-sandbox-{port}-{uuid4().hex[:6]}",
        ctx=SandboxContext(),
        config=Config(_CONFIG),
        configure_logging=False,
    )
    for blueprint in _BLUEPRINTS:
        app.blueprint(blueprint)

    @app.before_server_start
    async def open_world(app: SandboxApp) -> None:
        # Here, not above: SQLite connections must not cross a fork.
        app.ctx.hub = _wire(data, clock)
        await app.ctx.hub.notifier.start()

    @app.after_server_stop
    async def close_world(app: SandboxApp) -> None:
        await app.ctx.hub.notifier.stop()
        app.ctx.hub.store.close()

    return app


def _wire(data: Path, clock: Clock) -> Hub:
    store = Store(data)
    keys = make_keys(data)
    clocks = TwoClocks(clock, store)
    faults = Faults(store)
    styles: dict[str, NoticeStyle] = {
        "wechat_pay": WechatNotices(store, keys, clocks),
        "alipay": AlipayNotices(keys, clocks),
    }
    notifier = Notifier(store, clocks, faults, styles, lambda: _pass_time(hub))
    hub = Hub(store, clocks, keys, faults, notifier)
    return hub


def _pass_time(hub: Hub) -> None:
    """What happens by itself, before notices are looked at."""
    hub.keys.expire(hub.now_ms())
    wechat_refunds.finish_due(hub)
    alipay_refunds.finish_due(hub)
