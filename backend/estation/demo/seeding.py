"""What the demo city has when it opens: tables, staff, and inside people, cases and bills."""

from datetime import datetime

from tortoise import Tortoise

from estation import settings as settings_module
from estation.identity.api import ensure_staff
from estation.inner import database as inner_database
from estation.inner import seed
from estation.settings import InnerSettings, Settings
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest

STAFF = (
    ("caiwu", "何敏", "finance_clerk", "Caiwu-2026!"),
    ("fuhe", "罗建平", "finance_checker", "Fuhe-2026!"),
    ("yunwei", "丁一", "operator", "Yunwei-2026!"),
)
"""Login, name, role and password of the demo's online staff."""


async def seed_online(*, now: datetime) -> None:
    """Tables and staff of the online side; what is there stays."""
    url = Settings.read().database_url
    config = settings_module.database(url)
    await migrate_to_newest(config, dsn=asyncpg_dsn(url))
    await Tortoise.init(config=config, _enable_global_fallback=True)
    try:
        for login, name, role, password in STAFF:
            await ensure_staff(login=login, name=name, role=role, password=password, now=now)
    finally:
        await Tortoise.close_connections()


async def seed_inner(*, now: datetime) -> None:
    """Tables of the internal platform and, once, the demo city."""
    url = InnerSettings.read().database_url
    config = inner_database.database(url)
    await migrate_to_newest(config, dsn=asyncpg_dsn(url))
    await Tortoise.init(config=config, _enable_global_fallback=True)
    try:
        await seed.seed_city(now=now, progress=lambda *_: None)
    finally:
        await Tortoise.close_connections()
