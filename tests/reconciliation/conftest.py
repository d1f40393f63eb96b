"""The staff's pages over HTTP, in the test's own event loop, on the test's database."""

import itertools
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from sanic import Sanic

from estation.identity import staff_pages as identity_staff_pages
from estation.identity.api import attach_viewer, ensure_staff
from estation.payments import staff_pages as payment_staff_pages
from estation.reconciliation import gate_pages, split_pages
from estation.reconciliation import pages as reconciliation_pages
from estation.services import OnlineApp
from estation.shared.errors import Refused
from estation.shared.pages import H5
from estation.shared.replies import render_refusal
from tests.built import require_built_pages
from tests.reconciliation import days
from tests.reconciliation.days import NOW, Day

ROLES = {"clerk": "finance_clerk", "checker": "finance_checker", "operator": "operator"}
PASSWORD = "Geheim-2026!"
_numbers = itertools.count(1)


@dataclass
class Desk:
    """A browser at the staff's pages; `text` is the body of the last answer."""

    http: aiohttp.ClientSession
    base: str
    day: Day
    clock: datetime = NOW
    cookie: str = ""
    text: str = ""
    headers: Any = field(default_factory=dict)
    body: bytes = b""

    async def get(self, path: str) -> int:
        return await self._ask("GET", path)

    async def post(self, path: str, **form: str) -> int:
        """Send a form with the token of the page seen last, as a browser would."""
        return await self._ask("POST", path, data={"csrf_token": self.csrf_token, **form})

    async def login(self, who: str) -> None:
        assert await self.get("/staff/login") == 200
        assert await self.post("/staff/login", login=who, password=PASSWORD) == 303
        assert await self.get("/staff") == 200

    @property
    def csrf_token(self) -> str:
        _, _, rest = self.text.partition('name="csrf_token" value="')
        return rest.partition('"')[0]

    async def _ask(self, method: str, path: str, **more: Any) -> int:
        headers = {"accept": "text/html", "cookie": self.cookie}
        async with self.http.request(
            method, self.base + path, allow_redirects=False, headers=headers, **more
        ) as answer:
            self.body, self.headers = await answer.read(), answer.headers
            # By hand: the test's clock is not the machine's, and a jar would drop the cookie.
            for cookie in answer.cookies.values():
                self.cookie = f"{cookie.key}={cookie.value}"
            if "text" in answer.content_type:
                self.text = self.body.decode()
            return answer.status


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    """Nobody is logged in yet; the day of `days` is quiet and posted."""
    require_built_pages()
    for who, role in ROLES.items():
        await ensure_staff(login=who, name=f"某{who}", role=role, password=PASSWORD, now=NOW)
    day = days.quiet_day()
    listening = socket.create_server(("127.0.0.1", 0))
    app = _app(day)
    server = cast(Any, await app.create_server(sock=listening, return_asyncio_server=True))
    await server.startup()
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield Desk(http, base, day)
    server.close()
    await server.wait_closed()


def _app(day: Day) -> OnlineApp:
    app = cast(OnlineApp, Sanic(f"staff_desk_{next(_numbers)}", configure_logging=False))
    app.config.ACCESS_LOG = False
    app.config.TOUCHUP = False  # it rewrites Sanic itself, and a second time that fails
    for module in (
        identity_staff_pages, payment_staff_pages, reconciliation_pages, split_pages, gate_pages,
    ):  # fmt: skip
        app.blueprint(module.bp)
    app.static("/static", H5 / "dist", name="static")
    app.on_request(attach_viewer)
    app.error_handler.add(Refused, render_refusal)
    services = days.services_for(day)
    cast(Any, services).settings = SimpleNamespace(
        public_url="http://127.0.0.1",
        wechat_pay=[],
        alipay=[],
        collecting_accounts={"wechat_pay": days.WECHAT, "alipay": days.ALIPAY},
        payees=[SimpleNamespace(code="treasury", name="国库")],
    )
    app.ctx = services
    return app
