"""Which folders the gate works in, and whether two of them get into each other's way. Blocking."""

import os
from pathlib import Path


def places(folder: Path) -> tuple[Path, ...]:
    """Where the device and we work."""
    return tuple(folder / name for name in ("incoming", "outgoing", "quarantine"))


def collide(one: Path, other: Path) -> bool:
    """Whether one is, lies in, or holds the other: each would take the other's files for strays,
    or send them the wrong way."""
    return _is_within(one, other) or _is_within(other, one)


def _is_within(inner: Path, outer: Path) -> bool:
    """Whether it is that folder or lies in it. Links and `..` are resolved; a folder mounted at
    two places is one."""
    inner, outer = inner.resolve(), outer.resolve()
    if inner.is_relative_to(outer):
        return True
    try:
        is_this = outer.stat()
    except OSError:
        return False  # not there yet: nothing can lie in it under another name
    return any(_is_same(place, is_this) for place in (inner, *inner.parents))


def _is_same(place: Path, other: os.stat_result) -> bool:
    try:
        return os.path.samestat(place.stat(), other)
    except OSError:
        return False
