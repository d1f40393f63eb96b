"""Files in and out of the gate's folders: atomic, synced, never followed through links.

A gate folder has `outgoing/` (the device takes files away), `incoming/` (the device puts
files) and `quarantine/` (refused files, kept as evidence). All three are one file system.
Blocking calls: run them in a thread.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from estation.outside.gate import bounds
from estation.outside.gate import format as packets
from estation.outside.gate.errors import BadPacket, Reason

MAX_LISTED = 100_000
REMNANT_AGE = timedelta(hours=1)
"""What a copying tool has not touched for so long it began and never ended."""
QUARANTINE_MAX_FILES = 500
QUARANTINE_MAX_BYTES = 512 * 1024 * 1024


_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV})


class NotOurs(OSError):
    """Its owner's permissions, or that something is mounted there, keep us from moving it."""


@dataclass(slots=True)
class Listing:
    """What lies in `incoming/`: packets of the stream by seq, and whatever else is there."""

    packets: dict[int, str] = field(default_factory=dict)
    symbols: list[str] = field(default_factory=list)
    strays: list[tuple[str, Reason]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """Hidden names: the device is still writing, or never ended."""
    is_cut: bool = False
    """Whether there is more in the folder than was looked at."""


def write_atomically(folder: Path, name: str, parts: Sequence[bytes]) -> None:
    """The file appears under its name complete and durable, or not at all.

    A hidden name is used until then; the same one each time, so that crashes leave at most
    one remnant, which the next attempt overwrites.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.part"
    with temporary.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / name)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes renames in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_incoming(folder: Path, stream: str) -> Listing:
    """At most MAX_LISTED entries, packets the device is still writing left out."""
    listing = Listing()
    if not folder.is_dir():
        return listing
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= MAX_LISTED:
                listing.is_cut = True
                break
            if packets.is_being_written(entry.name):
                listing.unfinished.append(entry.name)
                continue
            name = packets.parse_name(entry.name)
            if not entry.is_file(follow_symlinks=False):
                listing.strays.append((entry.name, Reason.not_a_file))
            elif name is None:
                _list_other(listing, entry.name, stream)
            elif name[0] != stream:
                listing.strays.append((entry.name, Reason.foreign_stream))
            else:
                listing.packets[name[1]] = entry.name
    return listing


def drop_remnants(folder: Path, listing: Listing, *, now: datetime) -> int:
    """Remove unfinished entries nobody has touched for an hour; how many."""
    before = (now - REMNANT_AGE).timestamp()
    old = []
    for name in listing.unfinished:
        with contextlib.suppress(FileNotFoundError):
            if (folder / name).lstat().st_ctime < before:
                old.append(name)
    return clear(folder, old)


def _list_other(listing: Listing, name: str, stream: str) -> None:
    symbol = packets.parse_symbol_name(name)
    if symbol is None:
        listing.strays.append((name, Reason.foreign_name))
    elif symbol.stream != stream:
        listing.strays.append((name, Reason.foreign_stream))
    else:
        listing.symbols.append(name)


def add_next(listing: Listing, folder: Path, stream: str, first: int, count: int) -> None:
    """Ask for the packets from `first` on by their names, where junk hid them from the listing."""
    for seq in range(first, first + count):
        name = packets.file_name(stream, seq)
        if os.path.lexists(folder / name):
            listing.packets[seq] = name


def clear(folder: Path, names: Iterable[str]) -> int:
    """Remove entries of `incoming/` for good; how many. Links are removed, not followed.

    What another user's permissions keep us from removing stays.
    """
    removed = 0
    for name in names:
        path = folder / name
        try:
            os.unlink(path)
        except IsADirectoryError:
            shutil.rmtree(path, ignore_errors=True)
            if os.path.lexists(path):
                continue
        except OSError:
            continue
        removed += 1
    return removed


def mark_of(path: Path) -> tuple[int, int] | None:
    """What changes when the entry, its name or its permissions do; None when it is gone."""
    try:
        info = path.lstat()
    except OSError:
        return None
    return info.st_ino, info.st_ctime_ns


def read_bounded(path: Path, limit: int = packets.MAX_FILE_BYTES) -> bytes:
    """A whole regular file. Raises FileNotFoundError, BadPacket when it is none or too large."""
    with _open_regular(path) as (descriptor, info):
        if info.st_size > limit:
            raise BadPacket(Reason.too_large, f"{info.st_size} bytes")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise BadPacket(Reason.too_large, f"more than {limit} bytes")
    return data


def read_beginning(path: Path) -> bytes:
    """Enough of a file to hold its manifest."""
    with _open_regular(path) as (descriptor, _):
        return os.read(descriptor, packets.MAX_MANIFEST_BYTES + 1)


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise BadPacket(Reason.not_a_file, problem.strerror or "") from problem
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise BadPacket(Reason.not_a_file)
        yield descriptor, info
    finally:
        os.close(descriptor)


def size_of(path: Path) -> int:
    """In bytes, of the entry itself; 0 when it is gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, or "" when it is no readable file of allowed size."""
    try:
        return hashlib.sha256(read_bounded(path)).hexdigest()
    except (BadPacket, OSError):
        return ""


def remove(path: Path) -> None:
    """The file is gone afterwards; that it was gone already is fine."""
    path.unlink(missing_ok=True)


def quarantine(folder: Path, name: str, kept_as: str) -> None:
    """Move an entry of `incoming/` aside; the entry itself, never what a link points to.

    Raises NotOurs when we may not: a folder of another user's, say.
    """
    aside = quarantine_folder(folder)
    aside.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(folder / name, aside / kept_as)
    except FileNotFoundError:
        pass
    except OSError as problem:
        if problem.errno not in _NOT_OURS:
            raise
        raise NotOurs(problem.errno, problem.strerror) from problem
    sync_folder(aside)
    _trim_quarantine(aside)


def release(folder: Path, kept_as: str, name: str) -> bool:
    """Back from quarantine into `incoming/`; False when it is no longer kept."""
    try:
        os.rename(quarantine_folder(folder) / kept_as, folder / name)
    except FileNotFoundError:
        return False
    sync_folder(folder)
    return True


def quarantine_folder(incoming: Path) -> Path:
    return incoming.parent / "quarantine"


def harmless_name(name: str) -> str:
    """A foreign file name as plain ASCII of at most 80 characters without separators."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:80] or "_"


def drop_quarantined(incoming: Path, disk_reserve: int) -> int:
    """Remove refused files, oldest first, until so much of the disk is free; how many."""
    aside = quarantine_folder(incoming)
    if not aside.is_dir():
        return 0
    with os.scandir(aside) as entries:
        kept = sorted(
            (entry.stat(follow_symlinks=False).st_ctime_ns, entry.path) for entry in entries
        )
    dropped = 0
    for _, path in kept:
        if bounds.free_bytes(aside) >= disk_reserve:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            dropped += 1
    return dropped


def _trim_quarantine(aside: Path) -> None:
    """Oldest first, so that a flood of bad files cannot fill the disk; their rows stay."""
    with os.scandir(aside) as entries:
        kept = sorted(
            ((entry.stat(follow_symlinks=False), entry.path) for entry in entries),
            key=lambda pair: pair[0].st_ctime_ns,
            reverse=True,
        )
    total = 0
    for number, (info, path) in enumerate(kept):
        total += info.st_size
        if number >= QUARANTINE_MAX_FILES or total > QUARANTINE_MAX_BYTES:
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(info.st_mode):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
