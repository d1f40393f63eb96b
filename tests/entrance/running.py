"""The whole online program in this process, on a local port, with keys the tests hold.

Everything real but what lies outside the city: real PostgreSQL, real routes and middleware, the
real channel modules verifying with the keys of `tests.outside.counterparts`.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
from sanic import Sanic

from estation.app import create_app
from estation.identity.actions.persons import upsert_persons
from estation.identity.actions.sessions import open_session
from estation.identity.api import ensure_staff, login_staff
from estation.identity.rules import CITIZEN_LIFE
from estation.settings import Settings
from estation.shared.arriving import PromptHttp
from estation.shared.clock import Clock
from tests.identity.people import ANNA, BO, CENTRE, VAULT
from tests.outside.counterparts import API_V3_KEY, private_pem, public_pem

DATA_KEY = bytes(range(32))
SECRETS = {
    "wechat_pay/merchant_key.pem": lambda: private_pem("merchant"),
    "wechat_pay/api_v3.key": lambda: API_V3_KEY,
    "wechat_pay/platform_public_key.pem": lambda: public_pem("platform"),
    "alipay/merchant_key.pem": lambda: private_pem("merchant"),
    "alipay/alipay_public_key.pem": lambda: public_pem("alipay"),
    "wechat/app_secret": lambda: b"secret",
    "wechat/mini_secret": lambda: b"secret",
    "wechat/message_token": lambda: b"token",
    "wechat/encoding_aes_key": lambda: b"A" * 43,
    "ledger/public.pem": lambda: public_pem("ledger"),
    "data.key": lambda: DATA_KEY,
    "receipt.key": lambda: DATA_KEY,
    "pay_code.key": lambda: DATA_KEY,
    **{
        f"wechat_pay/{mchid}/{name}": make
        for mchid in ("1900000100", "1900000111", "1900000112")
        for name, make in (
            ("merchant_key.pem", lambda: private_pem("merchant")),
            ("api_v3.key", lambda: API_V3_KEY),
        )
    },
}


@dataclass
class Online:
    """The program and somebody before it. Every call names the address it comes from."""

    app: Any
    client: aiohttp.ClientSession
    port: int
    now: list[datetime]

    async def log_in(self, person: Any = ANNA) -> tuple[UUID, str]:
        """The person's id and a bearer token."""
        known = await upsert_persons([person], vault=VAULT, by=CENTRE, now=self.now[0])
        person_id = known[person.id_type, person.id_no]
        opened = await open_session(now=self.now[0], life=CITIZEN_LIFE, person_id=person_id)
        return person_id, opened.token

    async def log_in_as_staff(self, role: str = "finance_clerk") -> str:
        now = self.now[0]
        await ensure_staff(login=role, name="何敏", role=role, password="Right-1", now=now)
        return (await login_staff(login=role, password="Right-1", now=now)).token


@asynccontextmanager
async def running_online(
    folder: Path,
    *,
    database_url: str,
    now: datetime,
    redis_url: str = "unix:///nowhere/valkey.sock",
    channels: dict[str, Any] | None = None,
    settings: Settings | None = None,
    **config: Any,
) -> AsyncIterator[Online]:
    """`config` overrides Sanic's; `channels` the accounts, `settings` what is in `folder`."""
    moment = [now]
    clock: Clock = lambda: moment[0]  # noqa: E731 -- one line says it
    app = create_app(
        name=f"online-{uuid4().hex}",
        settings=settings or settings_in(folder, database_url=database_url, redis_url=redis_url),
        clock=clock,
    )
    app.config.TOUCHUP = False  # it rewrites functions once per process; tests make many apps
    app.config.update(config)
    door = socket.create_server(("127.0.0.1", 0))
    server: Any = await app.create_server(
        sock=door, return_asyncio_server=True, access_log=False, protocol=PromptHttp
    )
    await server.startup()
    await server.before_start()
    try:
        if channels is not None:
            app.ctx.channels = channels
        await server.start_serving()
        port = door.getsockname()[1]
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{port}",
            connector=aiohttp.TCPConnector(limit=32),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=30),
        ) as client:
            yield Online(app, client, port, moment)
    finally:
        await server.close()
        await server.after_stop()
        Sanic._app_registry.pop(app.name, None)


def settings_in(folder: Path, *, database_url: str, redis_url: str) -> Settings:
    """config/local.toml with secrets in `folder`, behind one proxy that names the caller."""
    for name, content in SECRETS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content())
    return Settings(
        secrets_dir=folder, database_url=database_url, redis_url=redis_url, proxies_count=1
    )


__all__ = ["ANNA", "BO", "Online", "running_online", "settings_in"]
