"""Files that hold secrets: written whole, read by their owner only, by one process at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_secret(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    waiting = path.with_name(f".{path.name}.new")
    waiting.write_bytes(content)
    waiting.chmod(0o600)
    waiting.replace(path)


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
