"""Seals: who signed a packet, by Ed25519 or by SM2 with SM3 (`sm_seals`).

Which of them says the key: a stream may change from one to the other with its key.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from estation.outside.gate.sm_seals import Sm2Peer, Sm2Seal
from estation.shared import sm2

Algorithm = Literal["ed25519", "sm2-sm3"]

_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----\r?\n.+?-----END \1-----\r?\n?", re.DOTALL)


class SealKey(Protocol):
    """Signs the packets of one side."""

    @property
    def algorithm(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    def sign(self, data: bytes) -> bytes: ...


class PeerKey(Protocol):
    """Recognises the packets of the other side."""

    @property
    def algorithm(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    def verify(self, data: bytes, signature: bytes) -> bool: ...


class Ed25519Seal:
    """RFC 8032; `key_id` is the first 16 hex digits of SHA-256 over the raw public key."""

    algorithm = "ed25519"

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = _key_id(key.public_key())

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


class Ed25519Peer:
    """The public half."""

    algorithm = "ed25519"

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.key_id = _key_id(key)

    def verify(self, data: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class KeyRing:
    """A peer's keys that count at one moment, told apart by the id that a packet names.

    `refused`: key id -> why one that was or will be the peer's does not count.
    """

    def __init__(
        self, keys: Iterable[PeerKey], *, refused: Mapping[str, str] | None = None
    ) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._refused = dict(refused or {})

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Of the keys that count."""
        return tuple(sorted(self._keys))

    def named(self, key_id: str) -> PeerKey | None:
        return self._keys.get(key_id)

    def why_not(self, key_id: str) -> str:
        return self._refused.get(key_id, "unknown")


def load_seal_key(pem: bytes) -> SealKey:
    """From a PKCS #8 PEM without password. Raises ValueError for any other key, and for an SM2
    key where SM2 is not installed."""
    if sm2.is_sm2(pem):
        return Sm2Seal(sm2.read_private(pem))
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("a gate signing key must be Ed25519 or SM2")
    return Ed25519Seal(key)


def load_peer_key(pem: bytes) -> PeerKey:
    """From a SubjectPublicKeyInfo PEM. Raises ValueError for any other key, and for an SM2 key
    where SM2 is not installed."""
    if sm2.is_sm2(pem):
        return Sm2Peer(sm2.read_public(pem))
    key = serialization.load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("a gate peer key must be Ed25519 or SM2")
    return Ed25519Peer(key)


def each_pem(file: bytes) -> list[bytes]:
    """The keys of a file, which holds several while one takes the other's place; a file without
    any is given back as it is, for whoever reads it to refuse."""
    return [found[0] for found in _PEM.finditer(file)] or [file]


def make_key(algorithm: Algorithm = "ed25519") -> tuple[bytes, bytes]:
    """A new pair as PEM: (private, public). Raises SmMissing where SM2 is not installed."""
    if algorithm == "sm2-sm3":
        pair = sm2.generate()
        return sm2.private_pem(pair), sm2.public_pem(pair.point)
    key = Ed25519PrivateKey.generate()
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        _public_pem(key.public_key()),
    )


def make_pair(*, private: Path, public: Path, algorithm: Algorithm = "ed25519") -> None:
    """Write a pair of PEM files, the private one readable by its owner only.

    A private key that is already there is kept and its public half written again.
    """
    private.parent.mkdir(parents=True, exist_ok=True)
    public.parent.mkdir(parents=True, exist_ok=True)
    if private.exists():
        public.write_bytes(public_half(private.read_bytes()))
        return
    private_pem, public_pem = make_key(algorithm)
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private_pem)
    public.write_bytes(public_pem)


def public_half(pem: bytes) -> bytes:
    """The public PEM of a private one. Raises ValueError for a key that cannot seal."""
    if sm2.is_sm2(pem):
        return sm2.public_pem(sm2.read_private(pem).point)
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("a gate signing key must be Ed25519 or SM2")
    return _public_pem(key.public_key())


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]
