"""SM2 signatures with SM3 (GB/T 32918.2, GB/T 32905), and the key files they come in.

The arithmetic is the wheel's of the extra `sm`, looked up at use: the default installation does
without it. `cryptography` knows SM3, but not the curve by name.
"""

import binascii
import importlib
import re
from dataclasses import dataclass, field
from types import ModuleType
from typing import Final

POINT_BYTES: Final = 64
SIGNER_ID: Final = b"1234567812345678"
"""The signer's id that GM/T 0009 fixes for whoever agreed on no other."""

# DER: the curve's name 1.2.156.10197.1.301, then the public key as an uncompressed point.
_PUBLIC_KEY: Final = re.compile(
    rb"\x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d\x03\x42\x00\x04(.{64})", re.DOTALL
)
# DER of RFC 5915 inside PKCS#8: version 1, the number, and further on the public point.
_PRIVATE_KEY: Final = re.compile(
    rb"\x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d.{1,8}?\x30.{1,2}?\x02\x01\x01\x04\x20(.{32})"
    rb".{0,16}?\xa1\x44\x03\x42\x00\x04(.{64})",
    re.DOTALL,
)
_CURVE: Final = bytes.fromhex("06082a811ccf5501822d")
_EC_AND_CURVE: Final = bytes.fromhex("301306072a8648ce3d0201") + _CURVE
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]+-----([A-Za-z0-9+/=\s]+)-----END [A-Z ]+-----")


@dataclass(frozen=True, slots=True)
class Sm2Pair:
    """A private number (32 bytes) and its public point (64 bytes)."""

    private: bytes = field(repr=False)
    point: bytes


def sign(pair: Sm2Pair, message: bytes) -> bytes:
    """DER of (r, s) under the default signer's id."""
    signature: bytes = _wheel().sm2_sign(pair.private, pair.point, message, signer_id=SIGNER_ID)
    return signature


def verify(point: bytes, message: bytes, signature: bytes) -> bool:
    """Also False for what is no DER, or no point of the curve. Raises SmMissing."""
    wheel = _wheel()
    try:
        return bool(wheel.sm2_verify(point, message, signature, signer_id=SIGNER_ID))
    except Exception:
        # The wheel raises its own exceptions, whose classes are not part of its interface.
        return False


def generate() -> Sm2Pair:
    point, private = _wheel().sm2_key_generate()
    return Sm2Pair(private, point)


def is_sm2(pem: bytes) -> bool:
    """Whether a PEM names the curve at all."""
    found = _PEM.search(pem)
    return found is not None and _CURVE in der_of(pem)


def read_private(pem: bytes) -> Sm2Pair:
    """From PKCS#8 with its public key. Raises ValueError for anything else, SmMissing."""
    found = _PRIVATE_KEY.search(der_of(pem))
    if found is None:
        raise ValueError("the key must be SM2 in PKCS#8, with its public key")
    pair = Sm2Pair(found[1], found[2])
    probe = b"the halves belong together"
    if not verify(pair.point, probe, sign(pair, probe)):
        raise ValueError("the SM2 key's public half is another key's")
    return pair


def read_public(pem: bytes) -> bytes:
    """The point of a PEM public key or certificate. Raises ValueError for anything but SM2."""
    return point_in(der_of(pem))


def point_in(der: bytes) -> bytes:
    """The first SM2 public key in it."""
    found = _PUBLIC_KEY.search(der)
    if found is None:
        raise ValueError("the key must be SM2")
    return found[1]


def private_pem(pair: Sm2Pair) -> bytes:
    """PKCS#8 with the public key, as OpenSSL writes it."""
    inner = (
        b"\x30\x6b\x02\x01\x01\x04\x20" + pair.private + b"\xa1\x44\x03\x42\x00\x04" + pair.point
    )
    der = b"\x02\x01\x00" + _EC_AND_CURVE + b"\x04\x6d" + inner
    return _pem("PRIVATE KEY", b"\x30\x81" + bytes([len(der)]) + der)


def public_pem(point: bytes) -> bytes:
    """SubjectPublicKeyInfo."""
    der = _EC_AND_CURVE + b"\x03\x42\x00\x04" + point
    return _pem("PUBLIC KEY", b"\x30" + bytes([len(der)]) + der)


def der_of(pem: bytes) -> bytes:
    """The first block of a PEM file. Raises ValueError."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("the key must be PEM")
    return binascii.a2b_base64(found[1])


class SmMissing(ValueError):
    """This installation cannot do SM2; the text says what to install."""

    def __init__(self) -> None:
        super().__init__('SM2 is not installed: pip install "estation[sm]"')


def require() -> None:
    """Raises SmMissing."""
    _wheel()


def _wheel() -> ModuleType:
    try:
        return importlib.import_module("gmssl_pyx")
    except ModuleNotFoundError:
        raise SmMissing from None


def _pem(label: str, der: bytes) -> bytes:
    text = binascii.b2a_base64(der, newline=False)
    lines = b"\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label.encode(), lines, label.encode())
