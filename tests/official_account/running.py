"""The whole online program and WeChat before it: what a person does in the account passes between
them over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estation.sandbox.credentials import export_secrets
from estation.settings import Settings
from estation.shared.clock import system_clock
from tests.entrance.running import Online, running_online, settings_in
from tests.payments.city import rows
from tests.sandbox.running import RunningSandbox, running_sandbox


@dataclass
class Account:
    sandbox: RunningSandbox
    online: Online
    settings: Settings

    @property
    def door(self) -> str:
        return f"http://127.0.0.1:{self.online.port}/wechat/messages"

    async def listen(self, mode: str = "encrypted") -> None:
        await self.sandbox.control("message_address", url=self.door, mode=mode)

    async def does(self, persona: str = "lin", **what: str) -> dict[str, Any]:
        """text, or event with event_key; what the person's phone shows then."""
        return await self.sandbox.control("message", persona=persona, **what)

    async def trouble(self, kind: str, *, target: str = "message", count: int = 1) -> None:
        await self.sandbox.fault(kind, target=target, channel="wechat", count=count)

    async def tokens_asked(self) -> int:
        return int((await self.sandbox.look("account"))["tokens_asked"])

    async def heard(self) -> list[dict[str, Any]]:
        """All that is kept of each."""
        return await rows("select * from official_account_message order by heard_at, key")


@asynccontextmanager
async def running_account(
    folder: Path, *, database_url: str, in_clear: bool = False
) -> AsyncIterator[Account]:
    """`in_clear`: the city has set no EncodingAESKey."""
    secrets = folder / "secrets"
    async with running_sandbox(folder) as sandbox:
        local = settings_in(secrets, database_url=database_url, redis_url="unix:///nowhere")
        export_secrets(sandbox.data, secrets)
        there = local.wechat.api_url.removesuffix("/wechat")
        moved = local.model_dump_json().replace(there, sandbox.base_url)
        settings = Settings.model_validate_json(moved)
        if in_clear:
            clear = settings.wechat.model_copy(update={"encoding_aes_key_file": ""})
            settings = settings.model_copy(update={"wechat": clear})
        async with running_online(
            secrets, database_url=database_url, now=system_clock(), settings=settings
        ) as online:
            yield Account(sandbox, online, settings)
