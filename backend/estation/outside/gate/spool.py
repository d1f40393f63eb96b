"""Large files that cross as rows, part by part, put together again on the other side.

Any topic may carry them: its handler gives each part to a `Spool` inside the packet's
transaction. Parts may come again, in any order and after a crash: taking one twice is taking it
once. Each source names its files for itself. Names from outside never become paths. Blocking.

    <folder>/<key>/about.json    what the first part said of the file
    <folder>/<key>/000017.part   a part, while others are missing
    <folder>/<key>/whole         the file, its digest checked
    <folder>/<key>/done          the file was fetched: parts that come again are nothing

`key`: SHA-256 over source, a zero byte and file id, in hex.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog
from msgspec import Struct

from estation.outside.gate import folders

log = structlog.get_logger()

PART_BYTES = 360 * 1024
"""In base64 still below the half line that `sending.put_rows` allows a row."""
MAX_PART_BYTES = 512 * 1024
MIN_PART_BYTES = 64 * 1024
"""Of every part but the last: a file in crumbs would be more entries than content."""
MAX_PARTS = 10_000
OVERDUE_AFTER = timedelta(hours=24)
"""By then a file whose parts were lost has come with a snapshot, which leaves each day."""
_FILE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class BadPart(Exception):
    """The part, or the file it completes, can never be right. Holds no name and no content."""


class SpoolFull(Exception):
    """No room for another file of this source.

    `files.take` then keeps the part in the database until there is: a file without room is no
    reason to hold up what comes behind it, and none to lose it.
    """


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` (from 1) of `count` of a file of `size` bytes, whose SHA-256 is `digest`.

    `file_id`: the name that `source` gave the file; another source's file may have the same one.
    """

    source: str
    file_id: str
    number: int
    count: int
    size: int
    digest: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Overdue:
    """A file that waits for its parts `missing`, of `count`."""

    source: str
    file_id: str
    count: int
    missing: list[int]


class _About(Struct, frozen=True):
    source: str
    file_id: str
    count: int
    size: int
    digest: str
    begun_at: datetime


def part_bytes(size: int, count: int) -> int:
    """How long every part but the last is: the file, cut into `count` as evenly as can be."""
    return -(-size // count)


def cut(
    file: BinaryIO, size: int, *, at_most: int = PART_BYTES
) -> Iterator[tuple[int, int, bytes]]:
    """(number, count, bytes) of every part, read one at a time; an empty file has an empty one."""
    count = max(1, -(-size // at_most))
    length = part_bytes(size, count)
    for number in range(1, count + 1):
        yield number, count, file.read(length)


class Spool:
    """Files on their way. Of each source at most `max_files` are begun, of at most
    `max_bytes` together by the sizes they announce: nobody takes another's room.

    A file that is not whole after `keep` is given up, and so is a whole one nobody fetched. So
    long a file that was fetched is remembered, too: parts of it may come once more with a snapshot.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_file_bytes: int = 256 * 1024 * 1024,
        max_bytes: int = 2 * 1024 * 1024 * 1024,
        max_files: int = 1000,
        keep: timedelta = timedelta(days=7),
    ) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._keep = keep

    def take(self, part: Part, *, now: datetime) -> Path | None:
        """Keep a part; the whole file's path when none is missing any more, None otherwise and
        for a part of a file that was fetched.

        Raises BadPart, SpoolFull, OSError.
        """
        self._check(part)
        place = self._place(part.source, part.file_id)
        about = self._about(place) or self._begin(place, part, now)
        if (about.count, about.size, about.digest) != (part.count, part.size, part.digest):
            raise BadPart("not of the file that was begun under this id")
        if (place / "done").exists():
            return None
        whole = place / "whole"
        if whole.exists():
            return whole
        folders.write_atomically(place, _part_name(part.number), [part.data])
        if self.missing(part.source, part.file_id):
            return None
        self._join(place, about)
        return whole

    def missing(self, source: str, file_id: str) -> list[int]:
        """Numbers of the parts that have not come; none when the file is whole or unknown."""
        place = self._place(source, file_id)
        about = self._about(place)
        if about is None or _has_ended(place):
            return []
        here = set(os.listdir(place))
        return [n for n in range(1, about.count + 1) if _part_name(n) not in here]

    def forget(self, source: str, file_id: str) -> None:
        """The file was fetched, or is no longer wanted. Frees its room."""
        place = self._place(source, file_id)
        if self._about(place) is None:
            return
        folders.write_atomically(place, "done", [])
        for name in os.listdir(place):
            if name not in ("done", "about.json"):
                folders.remove(place / name)

    def overdue(self, *, now: datetime, after: timedelta = OVERDUE_AFTER) -> list[Overdue]:
        """Files whose first part came so long ago and that are still not whole."""
        return [
            Overdue(about.source, about.file_id, about.count, missing)
            for place, about in self._begun()
            if about is not None
            and about.begun_at + after <= now
            and (missing := self.missing(about.source, about.file_id))
        ]

    def collect(self, *, now: datetime) -> int:
        """Give up what has been here too long; how many files."""
        given_up = 0
        for place, about in self._begun():
            if about is not None and now < about.begun_at + self._keep:
                continue
            if not (place / "done").exists():
                log.error(
                    "gate_file_given_up",
                    source=about.source if about else "",
                    file_id=about.file_id if about else "",
                    whole=(place / "whole").exists(),
                )
                given_up += 1
            shutil.rmtree(place, ignore_errors=True)
        return given_up

    def _place(self, source: str, file_id: str) -> Path:
        return self._folder / hashlib.sha256(f"{source}\0{file_id}".encode()).hexdigest()

    def _check(self, part: Part) -> None:
        if not _FILE_ID.fullmatch(part.file_id):
            raise BadPart("file id")
        if not _DIGEST.fullmatch(part.digest):
            raise BadPart("digest")
        if not 0 <= part.size <= self._max_file_bytes:
            raise BadPart("size")
        if not 1 <= part.number <= part.count <= min(MAX_PARTS, max(1, part.size)):
            raise BadPart("number")
        length = part_bytes(part.size, part.count)
        if part.count > 1 and length < MIN_PART_BYTES:
            raise BadPart("crumbs")
        rest = part.size - length * (part.number - 1)
        if length > MAX_PART_BYTES or len(part.data) != min(length, max(rest, 0)):
            raise BadPart("length")

    def _begin(self, place: Path, part: Part, now: datetime) -> _About:
        sizes = [
            about.size
            for begun, about in self._begun()
            if about is not None and about.source == part.source and not (begun / "done").exists()
        ]
        if len(sizes) >= self._max_files or sum(sizes) + part.size > self._max_bytes:
            log.info(
                "gate_file_refused", source=part.source, file_id=part.file_id, number=part.number
            )
            raise SpoolFull
        about = _About(part.source, part.file_id, part.count, part.size, part.digest, now)
        folders.write_atomically(place, "about.json", [msgspec.json.encode(about)])
        folders.sync_folder(self._folder)
        return about

    def _begun(self) -> Iterator[tuple[Path, _About | None]]:
        if self._folder.is_dir():
            for name in sorted(os.listdir(self._folder)):
                yield self._folder / name, self._about(self._folder / name)

    def _about(self, place: Path) -> _About | None:
        """None before the first part, and for what a crash left of it."""
        try:
            return msgspec.json.decode((place / "about.json").read_bytes(), type=_About)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None

    def _join(self, place: Path, about: _About) -> None:
        digest = hashlib.sha256()
        temporary = place / ".whole.part"
        with temporary.open("wb") as file:
            for number in range(1, about.count + 1):
                data = (place / _part_name(number)).read_bytes()
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != about.digest:
            shutil.rmtree(place, ignore_errors=True)
            raise BadPart("the parts are not the file that was announced")
        os.replace(temporary, place / "whole")
        folders.sync_folder(place)
        for number in range(1, about.count + 1):
            folders.remove(place / _part_name(number))


def _part_name(number: int) -> str:
    return f"{number:06d}.part"


def _has_ended(place: Path) -> bool:
    return (place / "whole").exists() or (place / "done").exists()
