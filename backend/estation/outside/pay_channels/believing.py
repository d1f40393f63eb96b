"""Reading what a channel says without trusting it: keys, base64, money, names of news."""

import binascii
import hashlib
import re
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from estation.outside.pay_channels import NoticeRejected, VerifiedNotice

NOTICE_BYTES: Final = 256 * 1024
_MIN_KEY_BITS: Final = 2048
_MAX_FEN: Final = 10**15
_EVENT_KEY_CHARACTERS: Final = 160
_PADDING: Final = padding.PKCS1v15()
_SHA256: Final = hashes.SHA256()
_NUL: Final = re.compile(r"\x00")

HTTP_STATUS: Final = {
    "malformed": 400,
    "not_money": 400,
    "undecryptable": 400,
    "wrong_addressee": 403,
    "unsigned": 401,
    "bad_signature": 401,
    "stale": 401,
    "future": 401,
    "unknown_serial": 401,
}
"""NoticeRejected.reason -> the status for the channel; every one makes it deliver again."""


CONTENT: Final = frozenset({"malformed", "not_money"})
"""Reasons that speak of what news says, not of who sent it or to whom."""

UNREADABLE: Final = "UNREADABLE"
"""The kind of believed news whose content cannot be read."""


class Disbelief(Exception):
    """The channel's words do not hold; `reason` is one of HTTP_STATUS."""

    def __init__(self, reason: str, what: str = "") -> None:
        super().__init__(f"{reason}: {what}")
        self.reason = reason

    def as_rejection(self) -> NoticeRejected:
        return NoticeRejected(self.reason, status=HTTP_STATUS[self.reason])


def load_private_key(data: bytes) -> rsa.RSAPrivateKey:
    """PEM or bare base64, PKCS#1 or PKCS#8. Raises ValueError for anything but RSA ≥ 2048."""
    if b"-----BEGIN" in data:
        key = serialization.load_pem_private_key(data, None)
    else:
        key = serialization.load_der_private_key(binascii.a2b_base64(data), None)
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _MIN_KEY_BITS:
        raise ValueError("the key must be RSA with at least 2048 bits")
    return key


def load_public_key(data: bytes) -> rsa.RSAPublicKey:
    """PEM key, PEM certificate or bare base64. Raises ValueError for anything but RSA ≥ 2048."""
    key: PublicKeyTypes
    if b"-----BEGIN CERTIFICATE" in data:
        key = x509.load_pem_x509_certificate(data).public_key()
    elif b"-----BEGIN" in data:
        key = serialization.load_pem_public_key(data)
    else:
        key = serialization.load_der_public_key(binascii.a2b_base64(data))
    return rsa_key(key)


def rsa_key(key: PublicKeyTypes) -> rsa.RSAPublicKey:
    """Raises ValueError for anything but RSA ≥ 2048."""
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_KEY_BITS:
        raise ValueError("the key must be RSA with at least 2048 bits")
    return key


def sign(key: rsa.RSAPrivateKey, message: bytes) -> str:
    """Base64 of RSASSA-PKCS1-v1_5 with SHA-256."""
    signature = key.sign(message, _PADDING, _SHA256)
    return binascii.b2a_base64(signature, newline=False).decode("ascii")


def verify(key: rsa.RSAPublicKey, message: bytes, signature: str | bytes) -> None:
    """Raises Disbelief("bad_signature"), also when the signature is not base64."""
    try:
        key.verify(binascii.a2b_base64(signature, strict_mode=True), message, _PADDING, _SHA256)
    except (InvalidSignature, ValueError):
        # ValueError: not base64. WeChat's own probes (SIGNTEST) have an impossible length.
        raise Disbelief("bad_signature") from None


def positive_fen(value: Any) -> int:
    """Integer fen above zero. Raises Disbelief("not_money") for floats, booleans, text, ≤ 0."""
    if type(value) is not int or not 0 < value <= _MAX_FEN:
        raise Disbelief("not_money", repr(value)[:32])
    return value


def text_of(source: dict[str, Any], name: str, *, most: int = 64) -> str:
    """A field that must be non-empty text. Raises Disbelief("malformed")."""
    value = source.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise Disbelief("malformed", name)
    return value


def without_nul(text: str) -> str:
    """PostgreSQL keeps no NUL in text or jsonb: one in a comment must not stop the money."""
    return _NUL.sub("\N{REPLACEMENT CHARACTER}", text) if "\x00" in text else text


def event_key(*parts: str) -> str:
    """Joins what identifies a piece of news; longer than the inbox's column becomes a digest."""
    key = ":".join(parts)
    if len(key) <= _EVENT_KEY_CHARACTERS:
        return key
    return f"{parts[0][:32]}:{hashlib.sha256(key.encode()).hexdigest()}"


def unreadable_news(
    plaintext: dict[str, Any], number: object, disbelief: Disbelief
) -> VerifiedNotice:
    """The channel's own words to us, which we cannot read: kept for a person, since money may
    have arrived and a rejection would leave no trace. Any other `disbelief` is raised again."""
    if disbelief.reason not in CONTENT:
        raise disbelief
    digest = hashlib.sha256(repr(sorted(plaintext.items())).encode()).hexdigest()
    known = without_nul(number)[:64] if isinstance(number, str) else ""
    return VerifiedNotice(event_key(UNREADABLE, digest), UNREADABLE, known, None, plaintext)


def plain_words(text: str, *, forbidden: str, characters: int, utf8_bytes: int) -> str:
    """A description fit for a channel and for its comma-separated bill.

    Drops control characters, characters outside the basic plane (WeChat refuses them) and
    `forbidden` ones; cuts to both lengths without splitting a character. Never empty.
    """
    kept = "".join(c for c in text if c.isprintable() and ord(c) < 0x10000 and c not in forbidden)
    cut = kept.strip()[:characters].encode()[:utf8_bytes].decode(errors="ignore")
    return cut or "缴费"
