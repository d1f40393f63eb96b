"""WeChat Pay APIv3."""

from collections.abc import Callable

import aiohttp
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.outside.pay_channels.believing import load_private_key, load_public_key
from estation.outside.pay_channels.wechat_pay.client import WechatPay
from estation.outside.pay_channels.wechat_pay.platform_keys import PlatformKey, PlatformKeys
from estation.outside.pay_channels.wechat_pay.signing import Merchant
from estation.outside.pay_channels.wechat_pay.transport import Transport
from estation.settings import WechatPayAccount
from estation.shared.clock import Clock

__all__ = ["WechatPay", "from_settings"]


def from_settings(
    session: aiohttp.ClientSession,
    account: WechatPayAccount,
    secret: Callable[[str], bytes],
    clock: Clock,
) -> WechatPay:
    """Reads the account's keys. Raises OSError naming a missing file, ValueError for a bad one."""
    api_v3_key = secret(account.api_v3_key_file).strip()
    if len(api_v3_key) != 32:
        raise ValueError(f"{account.api_v3_key_file}: the APIv3 key must have 32 bytes")
    merchant = Merchant(
        account_id=account.account_id,
        mchid=account.mchid,
        appid=account.appid,
        serial=account.merchant_serial,
        base_url=account.base_url.rstrip("/"),
        public_key_id=account.public_key_id,
        private_key=load_private_key(secret(account.private_key_file)),
        cipher=AESGCM(api_v3_key),
    )
    public_key = load_public_key(secret(account.public_key_file))
    keys = PlatformKeys({account.public_key_id: PlatformKey(public_key)})
    return WechatPay(Transport(session, merchant, keys, clock))
