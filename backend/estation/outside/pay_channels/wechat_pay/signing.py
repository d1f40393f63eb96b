"""Signatures of WeChat Pay APIv3: what we sign, and when we believe theirs.

Source: WeChat Pay APIv3 development guide, 签名生成 / 签名验证.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from estation.outside.pay_channels.believing import Disbelief, load_private_key, sign, verify
from estation.outside.pay_channels.wechat_pay.platform_keys import PlatformKeys
from estation.outside.pay_channels.wechat_pay.resources import ApiV3Cipher
from estation.outside.pay_channels.wechat_pay.schemes import RSA_SCHEME, SM_SCHEME
from estation.outside.pay_channels.wechat_pay.sm import (
    Sm2PublicKey,
    load_sm2_public_key,
    load_sm2_signer,
)
from estation.shared.crypto import Vault
from estation.shared.key_files import WatchedKey

SCHEME: Final = RSA_SCHEME
MAX_AGE_SECONDS = 300


class Signer(Protocol):
    """Our private key under one of WeChat Pay's signature schemes."""

    @property
    def scheme(self) -> str: ...

    @property
    def pay_sign_type(self) -> str:
        """What the pay sheet is told of `paySign`."""
        ...

    def sign(self, message: bytes) -> str: ...


@dataclass(frozen=True, slots=True)
class RsaSigner:
    """WECHATPAY2-SHA256-RSA2048."""

    private_key: RSAPrivateKey = field(repr=False)
    scheme: str = RSA_SCHEME
    pay_sign_type: str = "RSA"

    def sign(self, message: bytes) -> str:
        return sign(self.private_key, message)


@dataclass(frozen=True, slots=True)
class MerchantKey:
    """Our API certificate: its serial, and the private key that belongs to it."""

    serial: str
    signer: Signer = field(repr=False)


@dataclass(frozen=True, slots=True)
class Merchant:
    """Who we are at WeChat Pay. `base_url` has no trailing slash."""

    account_id: str
    mchid: str
    appid: str
    mini_appid: str | None
    base_url: str
    key: WatchedKey[MerchantKey] = field(repr=False)
    cipher: ApiV3Cipher = field(repr=False)
    vault: Vault = field(repr=False)  # seals what names payers in what WeChat Pay says


def rsa_merchant_key(private_key: bytes, named: bytes) -> MerchantKey:
    """`named` is the certificate's serial or the certificate itself (PEM).

    Raises ValueError when the certificate is another key's: one of the two is not replaced yet.
    """
    key = load_private_key(private_key)
    if b"-----BEGIN CERTIFICATE" not in named:
        return MerchantKey(_serial(named), RsaSigner(key))
    certificate = x509.load_pem_x509_certificate(named)
    if certificate.public_key() != key.public_key():
        raise ValueError("the certificate and the private key do not belong together")
    return MerchantKey(format(certificate.serial_number, "040X"), RsaSigner(key))


def sm2_merchant_key(private_key: bytes, named: bytes) -> MerchantKey:
    """As `rsa_merchant_key`, for a certificate of the commercial cryptography profile."""
    signer = load_sm2_signer(private_key)
    if b"-----BEGIN CERTIFICATE" not in named:
        return MerchantKey(_serial(named), signer)
    if load_sm2_public_key(named).point != signer.public_key:
        raise ValueError("the certificate and the private key do not belong together")
    serial = x509.load_pem_x509_certificate(named).serial_number
    return MerchantKey(format(serial, "040X"), signer)


def _serial(text: bytes) -> str:
    serial = text.decode("ascii").strip()
    if not serial or not serial.isalnum():
        raise ValueError("no certificate serial")
    return serial


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
    key = merchant.key.current()
    head = f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode()
    signature = key.signer.sign(head + body + b"\n")
    return (
        f'{key.signer.scheme} mchid="{merchant.mchid}",nonce_str="{nonce}",'
        f'signature="{signature}",timestamp="{timestamp}",serial_no="{key.serial}"'
    )


def jsapi_parameters(
    merchant: Merchant, prepay_id: str, *, appid: str, timestamp: int, nonce: str
) -> dict[str, str]:
    """What `WeixinJSBridge.invoke('getBrandWCPayRequest', …)` and `wx.requestPayment` want.

    `appid` is the one the order was opened with; `timeStamp` is text.
    """
    package = f"prepay_id={prepay_id}"
    message = f"{appid}\n{timestamp}\n{nonce}\n{package}\n"
    signer = merchant.key.current().signer
    return {
        "appId": appid,
        "timeStamp": str(timestamp),
        "nonceStr": nonce,
        "package": package,
        "signType": signer.pay_sign_type,
        "paySign": signer.sign(message.encode()),
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
    scheme = headers.get("wechatpay-signature-type", RSA_SCHEME)
    if scheme not in (RSA_SCHEME, SM_SCHEME):
        raise Disbelief("bad_signature", "another scheme")
    _check_age(timestamp, now)
    key = keys.find(serial, now)
    if key is None:
        raise Disbelief("unknown_serial", serial[:64])
    # A header may hold any byte; the surrogates must not escape as a UnicodeEncodeError.
    head = f"{timestamp}\n{nonce}\n".encode(errors="surrogateescape")
    if isinstance(key, Sm2PublicKey):
        key.verify(head + body + b"\n", signature, scheme=scheme)
    elif scheme == RSA_SCHEME:
        verify(key, head + body + b"\n", signature)
    else:
        raise Disbelief("bad_signature", "another scheme than the key's")


def _check_age(timestamp: str, now: datetime) -> None:
    if len(timestamp) > 12 or not (timestamp.isascii() and timestamp.isdigit()):
        raise Disbelief("malformed", "timestamp")
    age_seconds = now.timestamp() - int(timestamp)
    if age_seconds > MAX_AGE_SECONDS:
        raise Disbelief("stale")
    if age_seconds < -MAX_AGE_SECONDS:
        raise Disbelief("future")
