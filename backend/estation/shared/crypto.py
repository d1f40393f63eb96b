"""Personal data at rest: AES-256-GCM for reading back, HMAC-SHA-256 for finding again.

Keys have successors: while a key is being changed, values of both are opened and found.
"""

import hashlib
import hmac
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.shared.key_files import KeyFiles
from estation.shared.keyring import ID_BYTES, KEY_BYTES, id_of, read_keys

MARK: Final = b"k1"
"""What is sealed with a named key begins with it, and with the key's id of four bytes behind it:
six bytes, so that base64 of it begins with eight letters that tell the key, too."""

NONCE_BYTES: Final = 12

HAND_OVER_SECONDS: Final = 30.0
"""So long after its file's last change a new key only opens and finds, until every program has read
it. Who would seal and index with it at once could make a person a second time whom a program that
does not know it yet makes under the old index."""


class KeyNotHeld(InvalidTag):
    """The value was sealed with a key that the file no longer, or not yet, holds."""


class FormerKeyMissing(KeyNotHeld):
    """Rows that have to be found by their index were indexed with a key that the file no longer, or
    not yet, holds: what looks new may be there. Nothing is written until the key is back."""


class DataKey:
    """One key of personal data. Sealing and indexing get different subkeys, so that an index
    never helps to decrypt. `mark` is empty for a key without a name."""

    def __init__(self, secret: bytes, *, is_named: bool) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"the personal-data key must have {KEY_BYTES} bytes")
        self.key_id = id_of(secret)
        self.mark = MARK + bytes.fromhex(self.key_id) if is_named else b""
        # Bound to the name, so that nobody can move a value under another key's.
        self._bound = self.mark or None
        self._cipher = AESGCM(hmac.digest(secret, b"estation/encrypt/1", "sha256"))
        # HMAC's two keyed states, copied for each index: a third of the cost of starting anew.
        key = hmac.digest(secret, b"estation/index/1", "sha256").ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
        self._index_from = 2 * ID_BYTES if is_named else 0
        self.index_mark = self.key_id if is_named else ""

    @property
    def is_named(self) -> bool:
        return bool(self.mark)

    def is_same(self, other: "DataKey") -> bool:
        return (self.key_id, self.mark) == (other.key_id, other.mark)

    def seal(self, content: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return self.mark + nonce + self._cipher.encrypt(nonce, content, self._bound)

    def seal_all(self, contents: Sequence[bytes]) -> list[bytes]:
        """One after the other; the randomness of all is asked for at once."""
        noise = os.urandom(NONCE_BYTES * len(contents))
        encrypt, mark, bound = self._cipher.encrypt, self.mark, self._bound
        nonces = [noise[at : at + NONCE_BYTES] for at in range(0, len(noise), NONCE_BYTES)]
        return [
            mark + nonce + encrypt(nonce, content, bound)
            for nonce, content in zip(nonces, contents, strict=True)
        ]

    def open(self, sealed: bytes) -> bytes:
        """Raises InvalidTag when the bytes were altered or the key is another."""
        start = len(self.mark)
        nonce = sealed[start : start + NONCE_BYTES]
        return self._cipher.decrypt(nonce, sealed[start + NONCE_BYTES :], self._bound)

    def index(self, text: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        digest = outer.hexdigest()
        return self.index_mark + digest[self._index_from :] if self._index_from else digest


@dataclass(frozen=True, slots=True)
class DataKeys:
    """The keys of a file, newest first, and the one that seals and indexes now."""

    held: tuple[DataKey, ...]
    making: DataKey
    whole: set[str] = field(default_factory=set, compare=False)
    """Tables of which somebody has made sure that these keys find all rows: once per reading of
    the file, and not per row."""
    _named: dict[bytes, DataKey] = field(init=False, repr=False)
    _nameless: tuple[DataKey, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_named", {key.mark: key for key in self.held if key.is_named})
        nameless = tuple(key for key in self.held if not key.is_named)
        object.__setattr__(self, "_nameless", nameless)

    @property
    def newest(self) -> DataKey:
        return self.held[0]

    @property
    def has_nameless(self) -> bool:
        return bool(self._nameless)

    @property
    def in_turn(self) -> tuple[DataKey, ...]:
        """The one that makes, and the others."""
        return (self.making, *(key for key in self.held if key is not self.making))

    def open(self, sealed: bytes) -> bytes:
        """Raises KeyNotHeld, and InvalidTag for altered bytes."""
        key = self._named.get(sealed[: len(MARK) + ID_BYTES])
        if key is not None:
            try:
                return key.open(sealed)
            except InvalidTag:  # An older value's nonce may by chance look like a name.
                if not self._nameless:
                    raise
        for nameless in self._nameless:
            try:
                return nameless.open(sealed)
            except InvalidTag:
                continue
        if key is None and (not self._nameless or sealed.startswith(MARK)):
            raise KeyNotHeld
        raise InvalidTag


def read_data_keys(data: bytes) -> tuple[DataKey, ...]:
    """For a key file's bytes. Raises ValueError."""
    keys = tuple(DataKey(key.secret, is_named=key.is_named) for key in read_keys(data))
    if len({key.key_id for key in keys}) < len(keys):
        raise ValueError("two personal-data keys have the same id")
    return keys


class DataKeyFile:
    """The keys of a file that may change while we run: a new one opens at once, and seals when
    every program knows it. Who reads the file later than that seals with it at once: nobody goes
    on with a key that may be taken out."""

    def __init__(self, files: KeyFiles, name: str) -> None:
        self._files = files
        self._name = name
        self._watched = files.watch(name, parse=read_data_keys)
        self._read = self._watched.current()
        self._hand_over(self._read[:2][-1])

    def __call__(self) -> DataKeys:
        read = self._watched.current()
        if read is not self._read:
            former = self._keys.making
            self._read = read
            self._hand_over(next((key for key in read if key.is_same(former)), read[0]))
        elif self._is_handing_over:
            self._hand_over(self._keys.making)
        return self._keys

    def _hand_over(self, former: DataKey) -> None:
        """From this key, which is in the file, to the newest."""
        newest = self._read[0]
        self._is_handing_over = (
            former is not newest and self._files.age_seconds(self._name) < HAND_OVER_SECONDS
        )
        self._keys = DataKeys(self._read, former if self._is_handing_over else newest)


class Vault:
    """Encrypts short texts and makes blind indexes of them, with the newest of its keys; opens
    and finds what any of them made.

    `keys`: one key's 32 bytes, or what to ask for them at each use.
    """

    def __init__(self, keys: bytes | Callable[[], DataKeys]) -> None:
        if isinstance(keys, bytes):
            only = DataKey(keys, is_named=False)
            held = DataKeys((only,), only)
            self._keys: Callable[[], DataKeys] = lambda: held
        else:
            self._keys = keys

    @classmethod
    def watching(cls, files: KeyFiles, name: str) -> "Vault":
        """With the keys of this file, as they change. Raises OSError and ValueError now."""
        return cls(DataKeyFile(files, name))

    @property
    def keys(self) -> DataKeys:
        """As they are now."""
        return self._keys()

    def seal(self, text: str) -> bytes:
        """The key's name, nonce (12 bytes) and ciphertext with tag."""
        return self._keys().making.seal(text.encode())

    def seal_all(self, texts: Sequence[str]) -> list[bytes]:
        """As `seal`, for many."""
        return self._keys().making.seal_all([text.encode() for text in texts])

    def seal_bytes(self, content: bytes) -> bytes:
        """As `seal`, for what is no text."""
        return self._keys().making.seal(content)

    def open_bytes(self, sealed: bytes) -> bytes:
        """As `open`, for `seal_bytes`."""
        return self._keys().open(bytes(sealed))

    def open(self, sealed: bytes) -> str:
        """Raises cryptography's InvalidTag when the bytes were altered, and its subclass
        KeyNotHeld when no key of ours made them."""
        return self._keys().open(bytes(sealed)).decode()

    def seal_file(self, content: bytes) -> bytes:
        """A file, packed first, for what is sealed packs no more. Up to 2 GiB packed; a tenth of
        a second for 10 MB, so call it in a thread."""
        return seal_file(self._keys().making, content)

    def open_file(self, sealed: bytes) -> bytes:
        """As `open`, for `seal_file`."""
        return zlib.decompress(self._keys().open(bytes(sealed)))

    def index(self, text: str) -> str:
        """64 hex digits: equal texts have equal indexes, and only the key holder can make one.
        Of a named key the first eight are its id."""
        return self._keys().making.index(text)

    def indexes(self, text: str) -> tuple[str, ...]:
        """`index` first, and those under which the text may stand from before, or where another
        program is ahead of us. One text unless keys are being changed."""
        keys = self._keys()
        if len(keys.held) == 1:
            return (keys.making.index(text),)
        return tuple(key.index(text) for key in keys.in_turn)

    def steady_index(self, text: str) -> str:
        """The index of the oldest key, which programs agree on while keys are being changed: for
        locks."""
        return self._keys().held[-1].index(text)


def seal_file(key: DataKey, content: bytes) -> bytes:
    """As `Vault.seal_file`, with this key."""
    return key.seal(zlib.compress(content, 1))


def token_digest(token: str) -> str:
    """What is stored of a random token: a leaked table opens no session."""
    return hashlib.sha256(token.encode()).hexdigest()
