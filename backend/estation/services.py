"""Everything the program talks to, wired once and typed; hung on `app.ctx`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

import aiohttp
from redis.asyncio import Redis
from sanic import Request, Sanic
from sanic.config import Config

from estation.outside.pay_channels import PayChannel
from estation.outside.pay_channels.building import channels_from_settings, fresh_certificates
from estation.outside.pay_channels.outages import Outages
from estation.outside.sms import HttpSms, SmsSender
from estation.outside.wechat import AccountApi, MiniProgramPlatform, WechatPlatform
from estation.outside.wechat.access_tokens import OfficialAccountApi
from estation.outside.wechat.messages import MessageDoor, read_aes_key
from estation.outside.wechat.mini_login import MiniLogin
from estation.outside.wechat.web_login import WebLogin
from estation.settings import Settings
from estation.shared.clock import Clock
from estation.shared.crypto import Vault
from estation.shared.key_files import KeyFiles, read_word
from estation.shared.keyring import read_secrets
from estation.shared.limiting import FloodBound, Limiter
from estation.shared.turnstile import Turnstile


class NoticeDesk(Protocol):
    """Where verified notices wait to be settled together (payments fills it at start)."""

    async def submit(self, item: Any) -> Any: ...


Keys = Callable[[], tuple[bytes, ...]]
"""Keys that may be replaced while we run: the first one makes, each of them recognises."""


@dataclass(slots=True)
class Services:
    settings: Settings
    clock: Clock
    vault: Vault
    pay_code_keys: Keys  # prove the codes on bills
    receipt_keys: Keys  # prove the verification codes on receipts
    channels: Mapping[str, PayChannel]  # by account_id
    wechat: WechatPlatform
    sms: SmsSender
    redis: Redis | None  # None or unreachable: slower, never wrong
    notice_desk: NoticeDesk | None = None
    notice_door: Turnstile = field(default_factory=Turnstile)  # before notices are verified
    mini_program: MiniProgramPlatform | None = None  # None: the city has no mini-program
    account_api: AccountApi | None = None  # the official account's
    message_door: MessageDoor | None = None  # None: the city takes no messages
    limiter: Limiter = field(default_factory=lambda: Limiter(None))
    unbelieved: FloodBound = field(default_factory=FloodBound)  # senders of forged notices
    outages: Outages = field(default_factory=Outages)  # channels that give no answer

    def collecting_channel(self, channel: str) -> PayChannel:
        """The city's collecting account at this channel (收款归集户)."""
        return self.channels[self.settings.collecting_accounts[channel]]


OnlineApp: TypeAlias = Sanic[Config, Services]
OnlineRequest: TypeAlias = Request[OnlineApp, SimpleNamespace]


@asynccontextmanager
async def open_services(settings: Settings, clock: Clock) -> AsyncIterator[Services]:
    """Wire everything a program of the online side talks to; closed on leaving.

    Raises OSError naming the missing secret file.
    """
    # Bounded: a slow channel may hold a few dozen connections, never all of ours.
    connector = aiohttp.TCPConnector(limit=200, limit_per_host=100)
    redis = Redis.from_url(settings.redis_url, socket_timeout=1, socket_connect_timeout=1)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        try:
            files = KeyFiles.of(settings)
            vault = Vault.watching(files, settings.data_key_file)
            channels = channels_from_settings(session, settings, clock, vault)
            async with fresh_certificates(channels, settings):
                yield Services(
                    settings=settings,
                    clock=clock,
                    vault=vault,
                    pay_code_keys=_keys(files, settings.pay_code_key_file),
                    receipt_keys=_keys(files, settings.receipt_key_file),
                    channels=channels,
                    wechat=WebLogin.from_settings(session, settings.wechat, files),
                    sms=HttpSms(session, settings.sms_url),
                    redis=redis,
                    mini_program=_mini_login(session, settings, files),
                    account_api=OfficialAccountApi.from_settings(
                        session, settings.wechat, files, clock
                    ),
                    message_door=_message_door(settings, files),
                    limiter=Limiter(redis),
                )
        finally:
            await redis.aclose()


def _keys(files: KeyFiles, name: str) -> Keys:
    return files.watch(name, parse=read_secrets).current


def _mini_login(
    session: aiohttp.ClientSession, settings: Settings, files: KeyFiles
) -> MiniLogin | None:
    if settings.mini_program is None:
        return None
    return MiniLogin.from_settings(
        session, settings.mini_program, api_url=settings.wechat.api_url, files=files
    )


def _message_door(settings: Settings, files: KeyFiles) -> MessageDoor | None:
    wechat = settings.wechat
    if not wechat.message_token_file:
        return None
    key = wechat.encoding_aes_key_file
    return MessageDoor(
        token=files.watch(wechat.message_token_file, parse=read_word).current,
        appid=wechat.appid,
        encoding_aes_key=files.watch(key, parse=read_aes_key).current if key else None,
    )
