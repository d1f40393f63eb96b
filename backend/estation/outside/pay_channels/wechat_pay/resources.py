"""Opening what WeChat Pay encrypted with the APIv3 key."""

import binascii
from collections.abc import Callable
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.outside.pay_channels.believing import Disbelief
from estation.outside.pay_channels.wechat_pay.schemes import AES_GCM, SM4_GCM
from estation.outside.pay_channels.wechat_pay.sm import Sm4Gcm
from estation.shared.key_files import KeyFiles

NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
MOST_KEYS: Final = 3


class Cipher(Protocol):
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Raises InvalidTag for another key or altered text."""
        ...


_CIPHERS: Final[dict[str, Callable[[bytes], Cipher]]] = {AES_GCM: AESGCM, SM4_GCM: Sm4Gcm}


class ApiV3Cipher:
    """The APIv3 key in use and, while it is being changed, those before it.

    The portal changes the key at once, but notices written under the old one are still on their
    way, and the file is replaced a little before or after.
    """

    def __init__(self, files: KeyFiles, name: str, algorithm: str = AES_GCM) -> None:
        make = _CIPHERS[algorithm]

        def parse(data: bytes) -> tuple[Cipher, ...]:
            keys = data.split()
            if not 0 < len(keys) <= MOST_KEYS or any(len(key) != KEY_BYTES for key in keys):
                raise ValueError(f"{name}: the APIv3 key must have {KEY_BYTES} bytes")
            return tuple(make(key) for key in keys)

        self.algorithm = algorithm
        self._keys = files.watch(name, parse=parse)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        try:
            return self._keys.current()[0].decrypt(nonce, data, associated_data)
        except InvalidTag:
            return self._decrypt_with_others(nonce, data, associated_data)

    def _decrypt_with_others(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
        _, *others = [cipher for keys in self._keys.with_previous() for cipher in keys]
        for cipher in others:
            try:
                return cipher.decrypt(nonce, data, associated)
            except InvalidTag:
                continue
        raise InvalidTag


def open_resource(cipher: Cipher, resource: Any, algorithm: str = AES_GCM) -> bytes:
    """The plaintext of a notice's `resource` or of an `encrypt_certificate`.

    Raises Disbelief("malformed") for another shape and Disbelief("undecryptable") for another
    algorithm, key, nonce length or altered text.
    """
    if not isinstance(resource, dict):
        raise Disbelief("malformed", "resource")
    if resource.get("algorithm") != algorithm:
        raise Disbelief("undecryptable", "algorithm")
    ciphertext = resource.get("ciphertext")
    nonce = resource.get("nonce")
    associated = resource.get("associated_data") or ""
    if not (isinstance(ciphertext, str) and isinstance(nonce, str) and isinstance(associated, str)):
        raise Disbelief("malformed", "resource")
    nonce_bytes = nonce.encode(errors="replace")
    if len(nonce_bytes) != NONCE_BYTES:
        raise Disbelief("undecryptable", "nonce")
    try:
        sealed = binascii.a2b_base64(ciphertext, strict_mode=True)
        return cipher.decrypt(nonce_bytes, sealed, associated.encode(errors="replace"))
    except (InvalidTag, ValueError):
        raise Disbelief("undecryptable") from None
