"""All merchant accounts of the settings as pay channels."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Protocol

import aiohttp

from estation.outside.pay_channels import PayChannel, alipay, wechat_pay
from estation.settings import Settings
from estation.shared.clock import Clock
from estation.shared.crypto import Vault
from estation.shared.key_files import KeyFiles

RENEW_SECONDS: Final = 6 * 3600.0
"""WeChat Pay serves a new certificate a day before it signs with it, and asks for twelve hours."""
RETRY_SECONDS: Final = 120.0

Pause = Callable[[float], Awaitable[None]]


class Renewable(Protocol):
    async def renew_certificates(self) -> bool: ...


def channels_from_settings(
    session: aiohttp.ClientSession, settings: Settings, clock: Clock, vault: Vault
) -> dict[str, PayChannel]:
    """account_id -> channel; `vault` seals who paid.

    Raises OSError naming a missing key file, ValueError for a bad one.
    """
    files = KeyFiles.of(settings)
    channels: dict[str, PayChannel] = {}
    for account in settings.wechat_pay:
        channels[account.account_id] = wechat_pay.from_settings(
            session, account, files, clock, vault
        )
    payees = {account.mchid: account.account_id for account in settings.wechat_pay}
    for combiner in settings.wechat_combine:
        channels[combiner.account_id] = wechat_pay.combined_from_settings(
            session, combiner, payees, files, clock, vault
        )
    for application in settings.alipay:
        channels[application.account_id] = alipay.from_settings(
            session, application, files, clock, vault
        )
    return channels


@asynccontextmanager
async def fresh_certificates(
    channels: Mapping[str, PayChannel], settings: Settings
) -> AsyncIterator[None]:
    """While inside, accounts with platform certificates get them at once and then regularly.

    The start does not wait for it, and a channel that does not answer stops nothing.
    """
    asking = [
        channel
        for account in (*settings.wechat_pay, *settings.wechat_combine)
        if account.certificates
        and isinstance(
            channel := channels[account.account_id],
            wechat_pay.WechatPay | wechat_pay.CombinedWechatPay,
        )
    ]
    tasks = [asyncio.create_task(keep_renewing(channel)) for channel in asking]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def keep_renewing(channel: Renewable, *, pause: Pause = asyncio.sleep) -> None:
    """Until cancelled. `renew_certificates` itself keeps a minute between two calls."""
    while True:
        await pause(RENEW_SECONDS if await channel.renew_certificates() else RETRY_SECONDS)
