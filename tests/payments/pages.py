"""The citizen's pages as a running program, and browsers before them."""

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import aiohttp
from sanic import Sanic

from estation.fees.models import Bill
from estation.identity import pages as identity_pages
from estation.identity.actions.sessions import open_session
from estation.identity.api import attach_viewer, upsert_persons
from estation.outside.gate.pay_codes import pay_code
from estation.outside.wechat import WechatIdentity
from estation.payments import pages as payment_pages
from estation.payments import routes
from estation.settings import Payee
from estation.shared.errors import Refused
from estation.shared.pages import H5
from estation.shared.replies import render_refusal
from tests.identity.people import ANNA, CENTRE, VAULT
from tests.payments.city import City, make_settings

NOW = datetime(2099, 3, 1, 2, tzinfo=UTC)
"""Ahead of any real clock: the browser believes its own when it forgets cookies."""
KEY = bytes(range(32, 64))
RECEIPT_KEY = bytes(range(64, 96))
COMPUTER = "Mozilla/5.0 (X11; Linux x86_64) Chrome/148.0"
TELEPHONE = "Mozilla/5.0 (Linux; Android 14) Chrome/148.0 Mobile Safari/537.36"
IN_WECHAT = f"{TELEPHONE} MicroMessenger/8.0"
IN_ALIPAY = f"{TELEPHONE} AlipayClient/10.5"


class FakeWechat:
    """Says who opened the page: the code is the openid."""

    appid = "wx-official"

    def authorize_url(self, *, redirect_uri: str, state: str) -> str:
        return f"http://wechat.example/authorize?state={state}&redirect_uri={redirect_uri}"

    async def identity_from_code(self, code: str) -> WechatIdentity:
        return WechatIdentity(openid=code)


@dataclass
class Browser:
    """One person's browser; it keeps cookies and follows no redirect by itself."""

    client: aiohttp.ClientSession
    host: str
    agent: str = COMPUTER

    async def get(self, path: str) -> tuple[int, str, str]:
        return await self._ask("GET", path)

    async def post(
        self, path: str, form: Any = None, *, origin: str | None = None
    ) -> tuple[int, str, str]:
        """Status, body, and where the answer sends the browser."""
        headers = {"origin": origin or f"http://{self.host}"}
        return await self._ask("POST", path, data=form or {}, headers=headers)

    async def come_from_wechat(self, path: str, openid: str) -> str:
        """Follow the way through WeChat's silent consent; where it ends."""
        _, _, to_login = await self.get(path)
        _, _, consent = await self.get(to_login)
        query = parse_qs(urlsplit(consent).query)
        back = urlsplit(consent.partition("redirect_uri=")[2])
        state = query["state"][0]
        _, _, end = await self.get(f"{back.path}?{back.query}&code={openid}&state={state}")
        return end

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[int, str, str]:
        headers = {
            "user-agent": self.agent,
            "accept": "text/html",
            **options.pop("headers", {}),
        }
        async with self.client.request(
            method, path, headers=headers, allow_redirects=False, **options
        ) as answer:
            to = answer.headers.get("location") or answer.headers.get("hx-redirect") or ""
            return answer.status, await answer.text(), to


@dataclass
class Desk:
    """The running pages, their city, and what a test needs of both."""

    city: City
    host: str
    clock: list[datetime]
    clients: list[aiohttp.ClientSession] = field(default_factory=list)

    def browser(self, agent: str = COMPUTER) -> Browser:
        client = aiohttp.ClientSession(
            f"http://{self.host}", cookie_jar=aiohttp.CookieJar(unsafe=True)
        )
        self.clients.append(client)
        return Browser(client, self.host, agent)

    async def citizen(self, agent: str = COMPUTER) -> Browser:
        """The debtor, logged in."""
        opened = await open_session(
            now=self.clock[0], life=timedelta(hours=12), person_id=self.city.person_id
        )
        one = self.browser(agent)
        one.client.headers["authorization"] = f"Bearer {opened.token}"
        return one

    def code(self, bill: Bill, *, key: bytes = KEY) -> str:
        code = pay_code(key, bill_no=bill.bill_no, source=bill.source, source_id=bill.source_id)
        assert code is not None
        return code


@asynccontextmanager
async def open_desk(city: City) -> AsyncIterator[Desk]:
    (city.person_id,) = (await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)).values()
    clock = [NOW]
    app: Any = Sanic(f"pages-{uuid4().hex}", configure_logging=False)
    app.config.TOUCHUP = False  # it rewrites functions once per process; tests make many apps
    app.ctx = city.services
    app.ctx.clock = lambda: clock[0]
    app.ctx.vault, app.ctx.wechat = VAULT, FakeWechat()
    app.ctx.pay_code_keys = lambda: (KEY,)
    app.ctx.receipt_keys = lambda: (RECEIPT_KEY,)
    settings = app.ctx.settings = make_settings(merchants=city.merchants)
    settings.bureau_name, settings.gate = "江城市不动产登记中心", SimpleNamespace(stream_in="x")
    settings.payees = [
        Payee(
            code=one.code,
            name=one.name,
            kind="treasury",
            receipt_title="凭据",
            merchants=one.merchants,
        )
        for one in settings.payees
    ]
    for blueprint in (payment_pages.bp, identity_pages.bp, routes.bp):
        app.blueprint(blueprint)
    app.static("/static", H5 / "dist", name="static")
    app.on_request(attach_viewer)
    app.error_handler.add(Refused, render_refusal)
    door = socket.create_server(("127.0.0.1", 0))
    server: Any = await app.create_server(sock=door, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.before_start()
    await server.start_serving()
    desk = Desk(city, f"127.0.0.1:{door.getsockname()[1]}", clock)
    settings.public_url = f"http://{desk.host}"
    yield desk
    for client in desk.clients:
        await client.close()
    await server.close()
    await server.after_stop()
    Sanic._app_registry.pop(app.name, None)


def choices(page: str) -> list[str]:
    """The scenes a page offers, in order."""
    return re.findall(r'name="scene" value="(\w+)"', page)


def field_of(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, name
    return found[1]
