"""What commands share: a side's settings, its database while they work, and words for a refusal."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import typer
from rich.console import Console
from tortoise import Tortoise

from estation import settings as settings_module
from estation.inner import database as inner_database
from estation.settings import InnerSettings, Settings
from estation.shared.crypto import Vault
from estation.shared.errors import Refused
from estation.shared.key_files import KeyFiles

T = TypeVar("T")

console = Console()


def settings_of(side: str) -> Settings | InnerSettings:
    """Exit code 2 for what is no side."""
    if side not in ("online", "inner"):
        console.print("--side 只能是 online 或 inner。")
        raise typer.Exit(2)
    return InnerSettings.read() if side == "inner" else Settings.read()


def database_of(side: str) -> tuple[dict[str, Any], str]:
    """Tortoise's configuration, and the address."""
    url = settings_of(side).database_url
    of = inner_database.database if side == "inner" else settings_module.database
    return of(url), url


async def with_database(side: str, work: Callable[[], Awaitable[T]]) -> T:
    """Its answer, with that side's database open meanwhile."""
    config, _ = database_of(side)
    await Tortoise.init(config=config, _enable_global_fallback=True)
    try:
        return await work()
    finally:
        await Tortoise.close_connections()


def on_side(side: str, work: Callable[[], Awaitable[T]]) -> T:
    """As `with_database`; a refusal is said in its sentence, exit code 2."""
    try:
        return asyncio.run(with_database(side, work))
    except Refused as refusal:
        console.print(refusal.message)
        raise typer.Exit(2) from None


def on_online(work: Callable[[], Awaitable[T]]) -> T:
    """`on_side` of the citizens' platform."""
    return on_side("online", work)


def data_vault() -> Vault:
    """With the online side's keys of personal data."""
    settings = Settings.read()
    return Vault.watching(KeyFiles.of(settings), settings.data_key_file)
