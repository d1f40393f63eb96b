"""Every route says who may call it; the public ones are on a short list."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sanic import Sanic

from estation.app import create_app
from estation.inner.app import create_app as create_inner
from estation.limits import ALLOWANCES, GROUPS, WITHOUT_LIMIT
from estation.settings import CONFIG, InnerSettings, Settings
from estation.shared.clock import system_clock

PUBLIC = {
    "/",
    "/api/login",
    "/api/login/code",
    "/api/login/person",
    "/api/wechat/mini-login",
    "/healthz",
    "/ledger/heads",
    "/login",
    "/login/code",
    "/login/person",
    "/logout",
    "/metrics",
    "/notices/alipay/<account:str>",
    "/notices/wechat-combine/<account:str>",
    "/notices/wechat-pay/<account:str>",
    "/openapi.json",
    "/preferences/large-print",
    "/staff/login",
    "/static/<__file_uri__:path>",
    "/verify",
    "/wechat/callback",
    "/wechat/login",
    "/wechat/messages",
}
"""Whoever adds a line here says so in review."""


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (CONFIG / "local.toml").exists()
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")


def routes(app: Sanic[Any, Any]) -> list[tuple[str, str, str]]:
    """(address, methods, guard) of every route."""
    return [
        (
            "/" + str(route.path).strip("/"),
            ",".join(sorted(route.methods)),
            getattr(route.handler, "guard", ""),
        )
        # Not routes_all: GET and POST of one address share a key there.
        for route in app.router.routes
    ]


def test_every_online_route_is_guarded_or_on_the_public_list() -> None:
    app = create_app(name=f"routes-{uuid4().hex}", settings=Settings.read())

    unmarked = [r for r in routes(app) if not r[2] and not r[0].startswith("/static")]
    public = {address for address, _, guard in routes(app) if guard in ("public", "")}

    assert unmarked == []
    assert {_plain(address) for address in public} <= {_plain(address) for address in PUBLIC}


def test_staff_addresses_are_for_staff_and_money_addresses_for_citizens() -> None:
    app = create_app(name=f"routes-{uuid4().hex}", settings=Settings.read())

    for address, _, guard in routes(app):
        if address.startswith("/staff") and address != "/staff/login":
            assert guard == "staff", address
        if address.startswith("/c/"):
            assert guard == "code_holder", address
        if address.startswith(("/pay/", "/fees", "/receipts", "/cases", "/api/orders")):
            assert guard == "citizen", address


def test_every_json_route_is_described() -> None:
    app = create_app(name=f"routes-{uuid4().hex}", settings=Settings.read())

    silent = {
        route.path
        for route in app.router.routes
        if route.path.startswith("api/") and not hasattr(route.handler, "operation")
    }

    assert silent == set()


def test_every_route_is_bounded_or_says_why_not() -> None:
    app = create_app(name=f"routes-{uuid4().hex}", settings=Settings.read())

    known = {
        (method, address) for address, methods, _ in routes(app) for method in methods.split(",")
    }

    assert known - set(GROUPS) - set(WITHOUT_LIMIT) == set()
    assert set(GROUPS) & set(WITHOUT_LIMIT) == set()
    assert (set(GROUPS) | set(WITHOUT_LIMIT)) - known == set(), "limits of routes that are gone"
    assert set(GROUPS.values()) | {"unknown"} == set(ALLOWANCES)
    assert all(len(reason) > 20 for reason in WITHOUT_LIMIT.values())


def test_every_inner_route_is_guarded() -> None:
    app = create_inner(
        name=f"inner-{uuid4().hex}", settings=InnerSettings.read(), clock=system_clock
    )

    public = {address for address, _, guard in routes(app) if guard == "public"}
    assert [r for r in routes(app) if not r[2]] == []
    assert public <= {"/login", "/logout", "/healthz", "/inner.css", "/metrics"}


def _plain(address: str) -> str:
    return address.split("<")[0]
