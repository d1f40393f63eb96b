"""The finance office: the real online program's staff pages over HTTP, around fake channels."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import aiohttp
from sanic import Sanic

from estation.app import BLUEPRINTS
from estation.identity.api import attach_viewer, ensure_staff, login_staff
from estation.services import OnlineApp
from estation.shared.crypto import Vault
from estation.shared.errors import Refused
from estation.shared.replies import render_refusal
from tests.built import require_built_pages
from tests.payments.city import City, make_settings
from tests.payments.fakes import NOW

PEOPLE = {
    "clerk": ("何敏", "finance_clerk"),
    "other_clerk": ("钱立", "finance_clerk"),
    "checker": ("罗建平", "finance_checker"),
    "other_checker": ("孙宁", "finance_checker"),
    "operator": ("丁一", "operator"),
}
PASSWORD = "Office-2026!"


@dataclass
class Office:
    """Somebody at a desk; `text` is the body of the last answer."""

    client: aiohttp.ClientSession
    app: OnlineApp
    city: City
    clock: list[datetime]
    tokens: dict[str, str] = field(default_factory=dict)
    who: str = ""
    text: str = ""
    body: bytes = b""
    headers: Any = None

    async def sit_down(self, who: str) -> None:
        """From now on this person asks."""
        name, role = PEOPLE[who]
        if who not in self.tokens:
            await ensure_staff(login=who, name=name, role=role, password=PASSWORD, now=NOW)
            self.tokens[who] = (
                await login_staff(login=who, password=PASSWORD, now=self.clock[0])
            ).token
        self.who = who

    async def get(self, path: str) -> int:
        return await self.ask("GET", path)

    async def post(self, path: str, **form: str) -> int:
        """A second passes with each: what was done first stands first in a history."""
        self.clock[0] += timedelta(seconds=1)
        return await self.ask("POST", path, data=form)

    async def ask(self, method: str, path: str, **more: Any) -> int:
        headers = {"accept": "text/html"}
        if self.who:
            headers["authorization"] = f"Bearer {self.tokens[self.who]}"
        async with self.client.request(
            method, path, allow_redirects=False, headers=headers, **more
        ) as answer:
            self.body, self.headers = await answer.read(), answer.headers
            self.text = self.body.decode("utf-8", "replace")
            return answer.status


@asynccontextmanager
async def open_office(city: City | None = None) -> AsyncIterator[Office]:
    """On the test's database; nobody sits down yet."""
    require_built_pages()
    city, clock = city or City(), [NOW]
    app: Any = Sanic(f"office-{uuid4().hex}", configure_logging=False)
    app.config.TOUCHUP = False  # it rewrites functions once per process; tests make many apps
    services = cast(Any, city.services)
    services.clock = lambda: clock[0]
    services.vault = Vault(bytes(range(32)))
    services.settings = SimpleNamespace(**{**vars(make_settings()), "wechat_pay": [], "alipay": []})
    app.ctx = services
    for blueprint in BLUEPRINTS:
        app.blueprint(blueprint)
    app.on_request(attach_viewer)
    app.error_handler.add(Refused, render_refusal)
    door = socket.create_server(("127.0.0.1", 0))
    server: Any = await app.create_server(sock=door, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.before_start()
    await server.start_serving()
    base = f"http://127.0.0.1:{door.getsockname()[1]}"
    async with aiohttp.ClientSession(base, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield Office(client, app, city, clock)
    await server.close()
    await server.after_stop()
    Sanic._app_registry.pop(app.name, None)
