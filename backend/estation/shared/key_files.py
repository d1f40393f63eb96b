"""Keys and secrets that may be replaced while the program runs.

Whoever needs a key asks for it at each use; now and then that use looks whether its file has
changed. A new file is taken when it has held still for a second and can be read whole; anything
else keeps the key we have and says so in the log, once.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

import structlog

T = TypeVar("T")

LOOK_SECONDS: Final = 1.0
OVERLAP_SECONDS: Final = 25 * 3600.0
"""How long a replaced key is still good for reading: a channel repeats its news for a day."""

log = structlog.get_logger()

Stamp = tuple[tuple[int, int, int, int] | None, ...]
"""Inode, size, last write and last change of each file in nanoseconds; None: no such file."""


class Secrets(Protocol):
    """The settings of either side."""

    def secret(self, name: str) -> bytes: ...
    def secret_path(self, name: str) -> Path | None: ...


class WatchedKey(Generic[T]):
    """What one or several files say, re-read when they change. Made by `KeyFiles.watch`."""

    def __init__(self, files: "KeyFiles", names: tuple[str, ...], parse: Callable[..., T]) -> None:
        self._files = files
        self._names = names
        self._parse = parse
        data = files.read_all(names)
        self._digest = _digest(data)
        self._value = parse(*data)
        self._previous: T | None = None
        self._previous_until = 0.0
        # Not today's stamp: a write in the very moment of the first reading would go unseen.
        self._stamp: Stamp | None = None
        self._seen: Stamp | None = None
        self._look_at = files.monotonic() + LOOK_SECONDS if files.can_change(names) else None

    def current(self) -> T:
        """The key to use now. Costs one reading of a clock, and a look at most once a second."""
        if self._look_at is not None and self._files.monotonic() >= self._look_at:
            self._look(self._files.monotonic())
        return self._value

    def with_previous(self) -> tuple[T, ...]:
        """`current`, and the key it replaced while OVERLAP_SECONDS last: for what comes in."""
        current = self.current()
        if self._previous is None or self._files.monotonic() >= self._previous_until:
            return (current,)
        return (current, self._previous)

    def _look(self, monotonic: float) -> None:
        self._look_at = monotonic + LOOK_SECONDS
        stamp = self._files.stamp(self._names)
        if stamp == self._stamp:
            return
        if stamp == self._seen or self._files.is_quiet(stamp):
            self._load(stamp, monotonic)
        self._seen = stamp

    def _load(self, stamp: Stamp, monotonic: float) -> None:
        self._stamp = stamp
        try:
            data = self._files.read_all(self._names)
            digest = _digest(data)
            if digest == self._digest:
                return
            value = self._parse(*data)
        except Exception as failure:
            # The failure's words could quote the secret.
            log.error("secret_not_reloaded", names=self._names, error=type(failure).__name__)
            return
        self._previous, self._previous_until = self._value, monotonic + OVERLAP_SECONDS
        self._value, self._digest = value, digest
        log.info("secret_reloaded", names=self._names)


def read_word(data: bytes) -> str:
    """A secret that is one word of text. Raises ValueError for none or several."""
    (word,) = data.decode().split()
    return word


class KeyFiles:
    """Where a program gets its secrets.

    `read` gives a secret's bytes, `locate` its file, or None for one that cannot change while
    we run (an environment variable).
    """

    def __init__(
        self,
        read: Callable[[str], bytes],
        locate: Callable[[str], Path | None] = lambda _: None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._locate = locate
        self.monotonic = monotonic
        self._wall_seconds = wall_seconds

    @classmethod
    def of(cls, settings: Secrets) -> "KeyFiles":
        return cls(settings.secret, settings.secret_path)

    def watch(self, *names: str, parse: Callable[..., T]) -> WatchedKey[T]:
        """`parse` gets the bytes of each name and raises ValueError when they are not (yet) good
        together; several names change together. Raises what reading and `parse` raise now."""
        return WatchedKey(self, names, parse)

    def read_all(self, names: tuple[str, ...]) -> tuple[bytes, ...]:
        return tuple(self._read(name) for name in names)

    def can_change(self, names: tuple[str, ...]) -> bool:
        return any(self._locate(name) is not None for name in names)

    def stamp(self, names: tuple[str, ...]) -> Stamp:
        return tuple(_stamp(path) for name in names if (path := self._locate(name)) is not None)

    def is_quiet(self, stamp: Stamp) -> bool:
        """Nobody has written for a second: two files of a pair are then both the new ones."""
        return None not in stamp and self._age_seconds(stamp) > LOOK_SECONDS

    def age_seconds(self, *names: str) -> float:
        """Since the last change of these files; without end where none can change."""
        return self._age_seconds(self.stamp(names))

    def _age_seconds(self, stamp: Stamp) -> float:
        newest = max((max(one[2], one[3]) for one in stamp if one is not None), default=0)
        return self._wall_seconds() - newest / 1e9


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _digest(data: tuple[bytes, ...]) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in data)).digest()
