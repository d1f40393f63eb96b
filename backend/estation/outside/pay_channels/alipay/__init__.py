"""Alipay's open platform (v1 gateway), in key mode or certificate mode."""

import aiohttp

from estation.outside.pay_channels.alipay.certificates import pinned
from estation.outside.pay_channels.alipay.client import Alipay
from estation.outside.pay_channels.alipay.gateway import Gateway
from estation.outside.pay_channels.alipay.keys import (
    AlipayKeys,
    CertificateMode,
    KeyMode,
    Own,
    own_with_certificate,
    own_with_key,
    public_keys,
)
from estation.outside.pay_channels.alipay.signing import Application
from estation.settings import AlipayAccount
from estation.shared.clock import Clock
from estation.shared.crypto import Vault
from estation.shared.key_files import KeyFiles, WatchedKey

__all__ = ["Alipay", "from_settings"]


def from_settings(
    session: aiohttp.ClientSession,
    account: AlipayAccount,
    files: KeyFiles,
    clock: Clock,
    vault: Vault,
) -> Alipay:
    """Reads the account's keys, and again when their files change.

    Raises OSError naming a missing file, ValueError for a bad one.
    """
    own, alipay = _keys(account, files)
    application = Application(
        account_id=account.account_id,
        app_id=account.app_id,
        seller_id=account.seller_id,
        gateway_url=account.gateway_url,
        bill_hosts=frozenset(account.bill_hosts),
        own=own,
        alipay=alipay,
        vault=vault,
    )
    return Alipay(Gateway(session, application, clock))


def _keys(account: AlipayAccount, files: KeyFiles) -> tuple[WatchedKey[Own], AlipayKeys]:
    if account.certificates is None:
        own = files.watch(account.private_key_file, parse=own_with_key)
        return own, KeyMode(files.watch(account.alipay_public_key_file, parse=public_keys))
    app_cert, alipay_cert, root_cert = account.certificates
    own = files.watch(account.private_key_file, app_cert, root_cert, parse=own_with_certificate)
    return own, CertificateMode(files.watch(alipay_cert, root_cert, parse=pinned))
