"""The login and bill doors as a running program on a local port, and a browser before them."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
from sanic import HTTPResponse, Sanic
from sanic.response import json

from estation.fees import routes as fee_routes
from estation.identity import pages, routes
from estation.identity.api import (
    attach_viewer,
    citizen,
    citizen_only,
    ensure_staff,
    login_staff,
    public,
    staff_only,
)
from estation.services import OnlineRequest
from estation.shared.errors import Refused
from estation.shared.replies import render_refusal
from tests.identity.people import ANNA, VAULT, Sms

NOW = datetime(2099, 3, 1, 2, tzinfo=UTC)
"""Ahead of any real clock: the browser believes its own when it forgets cookies."""
PAGE = {"accept": "text/html"}


@dataclass
class Doors:
    """One browser (it keeps cookies) before the running program."""

    client: aiohttp.ClientSession
    host: str
    sms: Sms
    clock: list[datetime]
    services: SimpleNamespace
    written: list[str] = field(default_factory=list)

    def wait(self, pause: timedelta) -> None:
        self.clock[0] += pause

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.request(method, path, **options) as answer:
            return answer.status, await answer.json()

    async def turned(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        """Status and where the answer sends the browser."""
        async with self.client.request(method, path, allow_redirects=False, **options) as answer:
            headers = answer.headers
            return answer.status, headers.get("location") or headers.get("hx-redirect") or ""

    async def log_in(self, phone: str = ANNA.phone, tail: str = ANNA.id_no[-6:]) -> dict[str, Any]:
        """As the mini-program does; the answer of the last step."""
        await self.ask("POST", "/api/login/code", json={"phone": phone})
        code = {"phone": phone, "code": self.sms.code}
        _, proven = await self.ask("POST", "/api/login", json=code, headers=self._form({}))
        _, person = await self.ask(
            "POST", "/api/login/person", json={"id_tail": tail}, headers=self._form(proven)
        )
        answer: dict[str, Any] = person
        return answer

    async def log_in_as_staff(self, role: str) -> str:
        """A bearer token of an officer of this role."""
        await ensure_staff(login=role, name="何敏", role=role, password="Right-1", now=NOW)
        return (await login_staff(login=role, password="Right-1", now=NOW)).token

    def _form(self, answer: dict[str, Any]) -> dict[str, str]:
        return {"x-csrf-token": answer.get("csrf_token", "")}


@asynccontextmanager
async def open_doors(*, public_url: str = "http://city.example") -> AsyncIterator[Doors]:
    sms, clock, written = Sms(), [NOW], list[str]()
    app: Any = Sanic(f"doors-{uuid4().hex}", configure_logging=False)
    app.config.TOUCHUP = False  # it rewrites functions once per process; tests make many apps
    app.ctx = SimpleNamespace(
        settings=SimpleNamespace(public_url=public_url, payees=[]),
        vault=VAULT,
        sms=sms,
        wechat=SimpleNamespace(
            appid="wx1",
            authorize_url=lambda *, redirect_uri, state: f"http://wechat.example/{state}",
        ),
        clock=lambda: clock[0],
    )
    app.blueprint(routes.bp)
    app.blueprint(pages.bp)
    app.blueprint(fee_routes.bp)
    _add_desk(app, written)
    app.on_request(attach_viewer)
    app.error_handler.add(Refused, render_refusal)
    door = socket.create_server(("127.0.0.1", 0))
    server: Any = await app.create_server(sock=door, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.before_start()
    await server.start_serving()
    host = f"127.0.0.1:{door.getsockname()[1]}"
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(f"http://{host}", cookie_jar=jar) as client:
        yield Doors(client, host, sms, clock, app.ctx, written)
    await server.close()
    await server.after_stop()
    Sanic._app_registry.pop(app.name, None)


def _add_desk(app: Any, written: list[str]) -> None:
    """A thing to change for each kind of caller; `written` shows whether it was changed."""

    @public
    async def anybody(request: OnlineRequest) -> HTTPResponse:
        written.append("anybody")
        return json({})

    @citizen_only
    async def own(request: OnlineRequest) -> HTTPResponse:
        written.append(citizen(request).name)
        return json({"name": citizen(request).name})

    @staff_only("finance_clerk")
    async def clerks(request: OnlineRequest) -> HTTPResponse:
        written.append("clerk")
        return json({})

    @staff_only()
    async def officers(request: OnlineRequest) -> HTTPResponse:
        written.append("officer")
        return json({})

    for handler in (anybody, own, clerks, officers):
        app.add_route(handler, f"/{handler.__name__}", methods=["GET", "POST"])
