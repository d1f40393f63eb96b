"""An inner database of the real migrations, the desk's settings, and the desk served over HTTP."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from sanic import Sanic
from tortoise import Tortoise

from estation.inner import personas
from estation.inner.app import create_app
from estation.inner.database import database as inner_config
from estation.inner.database import release_shared_models
from estation.inner.models import District, Hall, StaffUser, Unit
from estation.local import LocalPostgres
from estation.outside.gate import keys
from estation.settings import InnerSettings
from estation.shared import ids, passwords
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest
from tests.emptying import empty_tables
from tests.inner.desk import Browser, Desk

NOW = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
"""Monday 10:30 in Beijing."""
_HASHES = {officer.login: passwords.hash_password(officer.password) for officer in personas.STAFF}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def inner_template(postgres: LocalPostgres) -> str:
    postgres.create_database("inner_template")
    url = postgres.url("inner_template")
    release_shared_models()
    asyncio.run(migrate_to_newest(inner_config(url), dsn=asyncpg_dsn(url)))
    release_shared_models()
    return "inner_template"


@pytest.fixture(scope="session")
def inner_url(postgres: LocalPostgres, inner_template: str) -> str:
    postgres.create_database("inner_shared", template=inner_template)
    return postgres.url("inner_shared")


@pytest.fixture
async def empty_inner(inner_url: str) -> AsyncIterator[str]:
    """Tortoise on an empty inner database, emptied again after the test."""
    release_shared_models()
    await Tortoise.init(config=inner_config(inner_url), _enable_global_fallback=True)
    yield inner_url
    await empty_tables(Tortoise.get_connection("default"))
    await Tortoise.close_connections()
    release_shared_models()


@pytest.fixture
def inner_settings(inner_url: str, tmp_path: Path) -> InnerSettings:
    """As the demo's, with keys and gate folders of this test."""
    secrets = tmp_path / "secrets"
    keys.make_pair(
        private=secrets / "gate" / "jc-center_key.pem",
        public=secrets / "gate" / "jc-center_public.pem",
    )
    keys.make_pair(
        private=secrets / "gate" / "online_key.pem", public=secrets / "gate" / "online_public.pem"
    )
    for name in ("incoming", "outgoing"):
        (tmp_path / "gate" / "inner" / name).mkdir(parents=True)
    return InnerSettings.model_validate(
        {
            "database_url": inner_url,
            "secrets_dir": secrets,
            "gate": {
                "folder": tmp_path / "gate" / "inner",
                "stream_in": "online-jc-center",
                "stream_out": "jc-center-online",
                "signing_key_file": "gate/jc-center_key.pem",
                "peer_public_key_file": "gate/online_public.pem",
            },
        }
    )


@pytest.fixture
async def desk(empty_inner: str, inner_settings: InnerSettings) -> Desk:
    """One district, hall, unit and both officers; cases and bills are made as needed."""
    await District(code="360102", name="江东区").save(force_create=True)
    await Hall(code="JC01", name="市民大厅", district_id="360102").save(force_create=True)
    await Unit(
        unit_code="360102001001GB00001F00010101",
        district_id="360102",
        address="江城市江东区东门里小区1幢101室",
        usage="住宅",
        area_m2="89.50",
    ).save(force_create=True)
    for officer in personas.STAFF:
        await StaffUser(
            id=ids.row_id(NOW),
            login=officer.login,
            name=officer.name,
            role=officer.role,
            password_hash=_HASHES[officer.login],
        ).save(force_create=True)
    return Desk(inner_settings, NOW)


@pytest.fixture
async def pages(desk: Desk) -> AsyncIterator[Browser]:
    """The inner app on a loopback port, on the test's database; the clock is the desk's."""
    Sanic.test_mode = True
    app = create_app(
        name=f"inner-{next(_numbers)}-{uuid4().hex[:8]}",
        settings=desk.settings,
        clock=lambda: desk.now,
    )
    # The database is the fixture's: the app must not open and close it a second time.
    app.listeners["before_server_start"].clear()
    app.listeners["after_server_stop"].clear()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = await app.create_server(sock=listening, return_asyncio_server=True, access_log=False)
    assert server is not None
    await server.startup()
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{port}", cookie_jar=aiohttp.CookieJar(unsafe=True)
    ) as session:
        yield Browser(session)
    server.close()
    await server.wait_closed()
