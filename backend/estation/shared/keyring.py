"""Files that hold a key of our own, or while it is being changed several, newest first.

A file is 32 random bytes as they are, or lines of text, one for each key: a number, a colon and
64 hex digits. `2:` is a key whose work says by which key it was done, `1:` one from before that:
what is sealed with it bears no name. Lines that begin with `#` are for people.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KEY_BYTES: Final = 32
ID_BYTES: Final = 4
MOST_KEYS: Final = 5

_LINE: Final = re.compile(rb"([12]):((?:[0-9a-f]{2}){%d,512})" % KEY_BYTES)
_IS_LIST: Final = (b"1:", b"2:", b"#")


@dataclass(frozen=True, slots=True)
class KeptKey:
    """`is_named`: what it makes bears its name."""

    secret: bytes
    is_named: bool

    @property
    def key_id(self) -> str:
        """Eight hex digits by which people and values tell keys apart."""
        return id_of(self.secret)

    def __repr__(self) -> str:
        return f"KeptKey(is_named={self.is_named})"


def id_of(secret: bytes) -> str:
    return hmac.digest(secret, b"estation/key-id/1", "sha256")[:ID_BYTES].hex()


def read_keys(data: bytes) -> tuple[KeptKey, ...]:
    """Newest first. Raises ValueError, which quotes nothing, for a file that is (yet) of another
    shape; one key as it is may have more than 32 bytes, as it may always have had."""
    if len(data) == KEY_BYTES or not data.startswith(_IS_LIST):
        if len(data) < KEY_BYTES:
            raise ValueError(f"a key has at least {KEY_BYTES} bytes")
        return (KeptKey(data, is_named=False),)
    keys = tuple(_read_line(line) for line in _lines(data))
    if not 0 < len(keys) <= MOST_KEYS:
        raise ValueError(f"a key file holds 1 to {MOST_KEYS} keys")
    if len({key.secret for key in keys}) < len(keys):
        raise ValueError("the same key stands twice in a key file")
    return keys


def write_keys(keys: Sequence[KeptKey]) -> bytes:
    """A file that `read_keys` reads."""
    return b"".join(
        b"%d:%s\n" % (2 if key.is_named else 1, key.secret.hex().encode()) for key in keys
    )


def new_key() -> KeptKey:
    return KeptKey(secrets.token_bytes(KEY_BYTES), is_named=True)


def read_secrets(data: bytes) -> tuple[bytes, ...]:
    """As `read_keys`, for keys whose work never bears their name."""
    return tuple(key.secret for key in read_keys(data))


def _lines(data: bytes) -> list[bytes]:
    stripped = (line.strip() for line in data.splitlines())
    return [line for line in stripped if line and not line.startswith(b"#")]


def _read_line(line: bytes) -> KeptKey:
    found = _LINE.fullmatch(line.lower())
    if found is None:
        raise ValueError("a line of a key file is 1: or 2: and 64 hex digits")
    return KeptKey(bytes.fromhex(found[2].decode()), is_named=found[1] == b"2")
