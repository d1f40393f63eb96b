"""WeChat Pay APIv3."""

from collections.abc import Callable, Mapping
from functools import partial

import aiohttp

from estation.outside.pay_channels.believing import load_public_key
from estation.outside.pay_channels.wechat_pay.client import WechatPay
from estation.outside.pay_channels.wechat_pay.combined import CombinedWechatPay
from estation.outside.pay_channels.wechat_pay.platform_keys import (
    PlatformKeys,
    PublicKey,
    public_keys_in,
)
from estation.outside.pay_channels.wechat_pay.resources import ApiV3Cipher
from estation.outside.pay_channels.wechat_pay.schemes import AES_GCM, SM4_GCM
from estation.outside.pay_channels.wechat_pay.signing import (
    Merchant,
    rsa_merchant_key,
    sm2_merchant_key,
)
from estation.outside.pay_channels.wechat_pay.sm import load_sm2_public_key, require_sm2
from estation.outside.pay_channels.wechat_pay.transport import Transport
from estation.settings import WechatCombineAccount, WechatPayAccount, WechatPayMerchant
from estation.shared.clock import Clock
from estation.shared.crypto import Vault
from estation.shared.key_files import KeyFiles

__all__ = ["CombinedWechatPay", "WechatPay", "combined_from_settings", "from_settings"]


def from_settings(
    session: aiohttp.ClientSession,
    account: WechatPayAccount,
    files: KeyFiles,
    clock: Clock,
    vault: Vault,
) -> WechatPay:
    """Reads the account's keys, now and whenever they change.

    Raises OSError naming a missing file, ValueError for a bad one.
    """
    return WechatPay(_transport(session, account, files, clock, vault, account.mini_appid))


def combined_from_settings(
    session: aiohttp.ClientSession,
    account: WechatCombineAccount,
    payees: Mapping[str, str],
    files: KeyFiles,
    clock: Clock,
    vault: Vault,
) -> CombinedWechatPay:
    """As `from_settings`. `payees`: mchid -> account_id of our merchants."""
    return CombinedWechatPay(_transport(session, account, files, clock, vault, None), payees)


def _transport(
    session: aiohttp.ClientSession,
    account: WechatPayMerchant,
    files: KeyFiles,
    clock: Clock,
    vault: Vault,
    mini_appid: str | None,
) -> Transport:
    is_sm = account.signature == "sm2"
    if is_sm:
        require_sm2()
    load_key = sm2_merchant_key if is_sm else rsa_merchant_key
    if account.merchant_serial_file is None:
        load_key = partial(load_key, named=account.merchant_serial.encode())
        key = files.watch(account.private_key_file, parse=load_key)
    else:
        key = files.watch(account.private_key_file, account.merchant_serial_file, parse=load_key)
    merchant = Merchant(
        account_id=account.account_id,
        mchid=account.mchid,
        appid=account.appid,
        mini_appid=mini_appid,
        base_url=account.base_url.rstrip("/"),
        key=key,
        cipher=ApiV3Cipher(files, account.api_v3_key_file, SM4_GCM if is_sm else AES_GCM),
        vault=vault,
    )
    load_theirs: Callable[[bytes], PublicKey] = load_sm2_public_key if is_sm else load_public_key
    public_keys = [
        files.watch(name, parse=partial(public_keys_in, only=key_id, load=load_theirs))
        for key_id, name in account.public_key_files.items()
    ]
    return Transport(session, merchant, PlatformKeys({}, public_keys), clock)
