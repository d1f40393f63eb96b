"""Signatures of WeChat Pay APIv3: what we sign, and when we believe theirs.

Source: WeChat Pay APIv3 development guide, 签名生成 / 签名验证.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.outside.pay_channels.believing import Disbelief, sign, verify
from estation.outside.pay_channels.wechat_pay.platform_keys import PlatformKeys

SCHEME = "WECHATPAY2-SHA256-RSA2048"
MAX_AGE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Merchant:
    """Who we are at WeChat Pay. `base_url` has no trailing slash."""

    account_id: str
    mchid: str
    appid: str
    serial: str
    base_url: str
    public_key_id: str
    private_key: RSAPrivateKey = field(repr=False)
    cipher: AESGCM = field(repr=False)


def nonce() -> str:
    """32 characters, the longest allowed."""
    return secrets.token_hex(16)


def authorization(
    merchant: Merchant,
    *,
    method: str,
    target: str,
    body: bytes,
    timestamp: int,
    nonce: str,
) -> str:
    """The Authorization header for a request.

    `target` is path and query exactly as on the wire, seen from the API's root; `body` the
    exact bytes.
    """
    head = f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode()
    signature = sign(merchant.private_key, head + body + b"\n")
    return (
        f'{SCHEME} mchid="{merchant.mchid}",nonce_str="{nonce}",signature="{signature}",'
        f'timestamp="{timestamp}",serial_no="{merchant.serial}"'
    )


def jsapi_parameters(
    merchant: Merchant, prepay_id: str, *, timestamp: int, nonce: str
) -> dict[str, str]:
    """What `WeixinJSBridge.invoke('getBrandWCPayRequest', …)` wants; `timeStamp` is text."""
    package = f"prepay_id={prepay_id}"
    message = f"{merchant.appid}\n{timestamp}\n{nonce}\n{package}\n"
    return {
        "appId": merchant.appid,
        "timeStamp": str(timestamp),
        "nonceStr": nonce,
        "package": package,
        "signType": "RSA",
        "paySign": sign(merchant.private_key, message.encode()),
    }


def check_signature(
    keys: PlatformKeys, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> None:
    """Believe a response or a notice, over the bytes as received; header names lower-case.

    Raises Disbelief: unsigned, malformed, stale, future, unknown_serial, bad_signature. There
    is no case for WeChat's SIGNTEST probes: they simply fail like any forgery.
    """
    timestamp = headers.get("wechatpay-timestamp")
    nonce = headers.get("wechatpay-nonce")
    signature = headers.get("wechatpay-signature")
    serial = headers.get("wechatpay-serial")
    if not (timestamp and nonce and signature and serial):
        raise Disbelief("unsigned")
    if headers.get("wechatpay-signature-type", SCHEME) != SCHEME:
        raise Disbelief("bad_signature", "another scheme")
    _check_age(timestamp, now)
    key = keys.find(serial, now)
    if key is None:
        raise Disbelief("unknown_serial", serial[:64])
    # A header may hold any byte; the surrogates must not escape as a UnicodeEncodeError.
    head = f"{timestamp}\n{nonce}\n".encode(errors="surrogateescape")
    verify(key, head + body + b"\n", signature)


def _check_age(timestamp: str, now: datetime) -> None:
    if len(timestamp) > 12 or not (timestamp.isascii() and timestamp.isdigit()):
        raise Disbelief("malformed", "timestamp")
    age_seconds = now.timestamp() - int(timestamp)
    if age_seconds > MAX_AGE_SECONDS:
        raise Disbelief("stale")
    if age_seconds < -MAX_AGE_SECONDS:
        raise Disbelief("future")
