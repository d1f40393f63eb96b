"""Personal data at rest: AES-256-GCM for reading back, HMAC-SHA-256 for finding again."""

import hashlib
import hmac
import os
import zlib
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Vault:
    """Encrypts short texts and makes blind indexes of them, from one 32-byte master key.

    The two uses get different subkeys, so that an index never helps to decrypt.
    """

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != 32:
            raise ValueError("the personal-data key must have 32 bytes")
        self._cipher = AESGCM(hmac.digest(master_key, b"estation/encrypt/1", "sha256"))
        # HMAC's two keyed states, copied for each index: a third of the cost of starting anew.
        key = hmac.digest(master_key, b"estation/index/1", "sha256").ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def seal(self, text: str) -> bytes:
        """Nonce (12 bytes) and ciphertext with tag."""
        return self._encrypted(text.encode())

    def seal_all(self, texts: Sequence[str]) -> list[bytes]:
        """As `seal`, one after the other; the randomness of all is asked for at once."""
        noise, encrypt = os.urandom(12 * len(texts)), self._cipher.encrypt
        nonces = [noise[at : at + 12] for at in range(0, len(noise), 12)]
        return [
            nonce + encrypt(nonce, text.encode(), None)
            for nonce, text in zip(nonces, texts, strict=True)
        ]

    def open(self, sealed: bytes) -> str:
        """Raises cryptography's InvalidTag when the bytes were altered or the key is another."""
        return self._decrypted(sealed).decode()

    def seal_file(self, content: bytes) -> bytes:
        """A file, packed first, for what is sealed packs no more. Up to 2 GiB packed; a tenth of
        a second for 10 MB, so call it in a thread."""
        return self._encrypted(zlib.compress(content, 1))

    def open_file(self, sealed: bytes) -> bytes:
        """As `open`, for `seal_file`."""
        return zlib.decompress(self._decrypted(sealed))

    def _encrypted(self, content: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, content, None)

    def _decrypted(self, sealed: bytes) -> bytes:
        return self._cipher.decrypt(bytes(sealed[:12]), bytes(sealed[12:]), None)

    def index(self, text: str) -> str:
        """64 hex digits: equal texts have equal indexes, and only the key holder can make one."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


def token_digest(token: str) -> str:
    """What is stored of a random token: a leaked table opens no session."""
    return hashlib.sha256(token.encode()).hexdigest()
