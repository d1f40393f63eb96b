"""All merchant accounts of the settings as pay channels."""

import aiohttp

from estation.outside.pay_channels import PayChannel, alipay, wechat_pay
from estation.outside.pay_channels.key_files import KeyFiles
from estation.settings import Settings
from estation.shared.clock import Clock


def channels_from_settings(
    session: aiohttp.ClientSession, settings: Settings, clock: Clock
) -> dict[str, PayChannel]:
    """account_id -> channel. Raises OSError naming a missing key file, ValueError for a bad one."""
    channels: dict[str, PayChannel] = {}
    files = KeyFiles.of(settings)
    for account in settings.wechat_pay:
        channels[account.account_id] = wechat_pay.from_settings(
            session, account, settings.secret, clock
        )
    for application in settings.alipay:
        channels[application.account_id] = alipay.from_settings(session, application, files, clock)
    return channels
