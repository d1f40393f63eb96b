"""Alipay's open platform (v1 gateway, public-key mode)."""

from collections.abc import Callable

import aiohttp

from estation.outside.pay_channels.alipay.client import Alipay
from estation.outside.pay_channels.alipay.gateway import Gateway
from estation.outside.pay_channels.alipay.signing import Application
from estation.outside.pay_channels.believing import load_private_key, load_public_key
from estation.settings import AlipayAccount
from estation.shared.clock import Clock

__all__ = ["Alipay", "from_settings"]


def from_settings(
    session: aiohttp.ClientSession,
    account: AlipayAccount,
    secret: Callable[[str], bytes],
    clock: Clock,
) -> Alipay:
    """Reads the account's keys. Raises OSError naming a missing file, ValueError for a bad one."""
    application = Application(
        account_id=account.account_id,
        app_id=account.app_id,
        seller_id=account.seller_id,
        gateway_url=account.gateway_url,
        bill_hosts=frozenset(account.bill_hosts),
        private_key=load_private_key(secret(account.private_key_file)),
        alipay_key=load_public_key(secret(account.alipay_public_key_file)),
    )
    return Alipay(Gateway(session, application, clock))
