"""The commercial cryptography profile (国密): SM2 signatures with SM3, SM4 in GCM.

SM3 and SM4 come with `cryptography`; SM2 needs the wheel of the extra `sm`. Nothing here runs
for an account with `signature = "rsa"`.
Source: GB/T 32918 (SM2), GB/T 32905 (SM3), GB/T 32907 (SM4); WeChat Pay's SDK for Java, shangmi.
"""

import binascii
import importlib
import re
from dataclasses import dataclass, field
from types import ModuleType
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from estation.outside.pay_channels.believing import Disbelief
from estation.outside.pay_channels.wechat_pay.schemes import SM_SCHEME

_TAG_BYTES: Final = 16
_POINT_BYTES: Final = 64
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
_PEM: Final = re.compile(rb"-----BEGIN [A-Z ]+-----([A-Za-z0-9+/=\s]+)-----END [A-Z ]+-----")


def sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


class Sm4Gcm:
    """AEAD_SM4_GCM: the key is the first half of the APIv3 key's SM3 digest."""

    def __init__(self, api_v3_key: bytes) -> None:
        self._algorithm = algorithms.SM4(sm3(api_v3_key)[:16])

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Raises InvalidTag for another key or altered text."""
        if len(data) < _TAG_BYTES:
            raise InvalidTag
        sealed, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
        opening = Cipher(self._algorithm, modes.GCM(nonce, tag)).decryptor()
        opening.authenticate_additional_data(associated_data or b"")
        return opening.update(sealed) + opening.finalize()


@dataclass(frozen=True, slots=True)
class Sm2Signer:
    """WECHATPAY2-SM2-WITH-SM3 under our own key."""

    private_key: bytes = field(repr=False)
    public_key: bytes
    scheme: str = SM_SCHEME
    pay_sign_type: str = "SM2"

    def sign(self, message: bytes) -> str:
        """Base64 of the DER of (r, s); the signer's id is the standard's default."""
        signature: bytes = _gmssl().sm2_sign(self.private_key, self.public_key, message)
        return binascii.b2a_base64(signature, newline=False).decode("ascii")


@dataclass(frozen=True, slots=True)
class Sm2PublicKey:
    """One of WeChat Pay's keys of the profile."""

    point: bytes

    def verify(self, message: bytes, signature: str, *, scheme: str) -> None:
        """Raises Disbelief("bad_signature"), also for another scheme than this key's."""
        if scheme != SM_SCHEME:
            raise Disbelief("bad_signature", "another scheme than the key's")
        try:
            raw = binascii.a2b_base64(signature, strict_mode=True)
            is_right = _gmssl().sm2_verify(self.point, message, raw)
        except Exception:
            # The wheel raises its own exceptions for what is no DER or no point of the curve.
            raise Disbelief("bad_signature") from None
        if not is_right:
            raise Disbelief("bad_signature")


def load_sm2_signer(pem: bytes) -> Sm2Signer:
    """PKCS#8 with its public key. Raises ValueError for anything else."""
    found = _PRIVATE_KEY.search(_der(pem))
    if found is None:
        raise ValueError("the key must be SM2 in PKCS#8, with its public key")
    signer = Sm2Signer(found[1], found[2])
    probe = b"the halves belong together"
    try:
        Sm2PublicKey(found[2]).verify(probe, signer.sign(probe), scheme=SM_SCHEME)
    except Disbelief:
        raise ValueError("the SM2 key's public half is another key's") from None
    return signer


def load_sm2_public_key(pem: bytes) -> Sm2PublicKey:
    """A PEM public key or certificate. Raises ValueError for anything but SM2."""
    return sm2_public_key_in(_der(pem))


def sm2_public_key_in(der: bytes) -> Sm2PublicKey:
    """The first SM2 public key in it: `cryptography` does not know the curve by name."""
    found = _PUBLIC_KEY.search(der)
    if found is None:
        raise ValueError("the key must be SM2")
    return Sm2PublicKey(found[1])


def require_sm2() -> None:
    """Raises ValueError that says what to install."""
    try:
        _gmssl()
    except ModuleNotFoundError:
        raise ValueError(
            'signature = "sm2" needs SM2: install the extra, pip install "estation[sm]"'
        ) from None


def _gmssl() -> ModuleType:
    # Looked up at use: the default installation does without it. Cached by the import system.
    return importlib.import_module("gmssl_pyx")


def _der(pem: bytes) -> bytes:
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("the key must be PEM")
    return binascii.a2b_base64(found[1])
