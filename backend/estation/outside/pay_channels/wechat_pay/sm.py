"""The commercial cryptography profile (国密): SM2 signatures with SM3, SM4 in GCM.

SM3 and SM4 come with `cryptography`, SM2 is `shared.sm2`. Nothing here runs for an account
with `signature = "rsa"`.
Source: GB/T 32918 (SM2), GB/T 32905 (SM3), GB/T 32907 (SM4); WeChat Pay's SDK for Java, shangmi.
"""

import binascii
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from estation.outside.pay_channels.believing import Disbelief
from estation.outside.pay_channels.wechat_pay.schemes import SM_SCHEME
from estation.shared import sm2

_TAG_BYTES: Final = 16


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
        signature = sm2.sign(sm2.Sm2Pair(self.private_key, self.public_key), message)
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
        except ValueError:
            raise Disbelief("bad_signature") from None
        if not sm2.verify(self.point, message, raw):
            raise Disbelief("bad_signature")


def load_sm2_signer(pem: bytes) -> Sm2Signer:
    """PKCS#8 with its public key. Raises ValueError for anything else."""
    pair = sm2.read_private(pem)
    return Sm2Signer(pair.private, pair.point)


def load_sm2_public_key(pem: bytes) -> Sm2PublicKey:
    """A PEM public key or certificate. Raises ValueError for anything but SM2."""
    return Sm2PublicKey(sm2.read_public(pem))


def sm2_public_key_in(der: bytes) -> Sm2PublicKey:
    """The first SM2 public key in it."""
    return Sm2PublicKey(sm2.point_in(der))


def require_sm2() -> None:
    """Raises ValueError that says what to install."""
    try:
        sm2.require()
    except sm2.SmMissing as missing:
        raise ValueError(f'signature = "sm2" needs SM2: {missing}') from None
