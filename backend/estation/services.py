"""Everything the program talks to, wired once and typed; hung on `app.ctx`."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

from redis.asyncio import Redis
from sanic import Request, Sanic
from sanic.config import Config

from estation.outside.pay_channels import PayChannel
from estation.outside.sms import SmsSender
from estation.outside.wechat import WechatPlatform
from estation.settings import Settings
from estation.shared.clock import Clock
from estation.shared.crypto import Vault


class NoticeDesk(Protocol):
    """Where verified notices wait to be settled together (payments fills it at start)."""

    async def submit(self, item: Any) -> Any: ...


@dataclass(slots=True)
class Services:
    settings: Settings
    clock: Clock
    vault: Vault
    channels: Mapping[str, PayChannel]  # by account_id
    wechat: WechatPlatform
    sms: SmsSender
    redis: Redis | None  # None or unreachable: slower, never wrong
    notice_desk: NoticeDesk | None = None

    def collecting_channel(self, channel: str) -> PayChannel:
        """The city's collecting account at this channel (收款归集户)."""
        return self.channels[self.settings.collecting_accounts[channel]]


OnlineApp: TypeAlias = Sanic[Config, Services]
OnlineRequest: TypeAlias = Request[OnlineApp, SimpleNamespace]
