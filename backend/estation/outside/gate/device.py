"""A one-way device (光闸) for the demo and tests: carries finished files one way, knows nothing.

It reads no file, keeps no list and answers nobody; two of them make the two directions.
"""

import asyncio
import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from estation.outside.gate.folders import sync_folder
from estation.outside.gate.format import parse_name, parse_symbol_name

log = structlog.get_logger()

MAX_MOVES = 500
MAX_HELD = 1000
"""Files a lossy device holds back; more are let through."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How often a file meets each fate; a sum below 1 leaves the rest unharmed."""

    loss: float = 0.0
    duplicate: float = 0.0  # comes now and once more later
    delay: float = 0.0  # comes up to `longest_delay` later
    reorder: float = 0.0  # comes with the next turn, after younger ones
    truncate: float = 0.0
    bitflip: float = 0.0
    longest_delay: timedelta = timedelta(seconds=30)

    @classmethod
    def all_kinds(cls, share: float) -> "Faults":
        """Each fate for `share` of the files, damage for a tenth of that."""
        return cls(share, share, share, share, share / 10, share / 10)


class LossyDevice:
    """A device that fails by dice: the same seed and the same calls do the same harm again."""

    def __init__(self, *, seed: int, faults: Faults) -> None:
        self._dice = random.Random(seed)  # noqa: S311 -- a repeatable world, not a secret
        self._faults = faults
        self._held: list[tuple[datetime, str, bytes]] = []
        self.met: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Files that will still come."""
        return len(self._held)

    def carry(self, from_folder: Path, to_folder: Path, *, now: datetime) -> int:
        """Take away all finished packets (at most MAX_MOVES); how many arrived now. Blocking."""
        to_folder.mkdir(parents=True, exist_ok=True)
        arriving = self._due(now)
        for name in _finished(from_folder, MAX_MOVES):
            try:
                content = (from_folder / name).read_bytes()
            except FileNotFoundError:
                continue
            (from_folder / name).unlink(missing_ok=True)
            arriving += self._pass_through(name, content, now)
        for name, content in arriving:
            _put(to_folder, name, content)
        return len(arriving)

    def _due(self, now: datetime) -> list[tuple[str, bytes]]:
        due = [(name, content) for at, name, content in self._held if at <= now]
        self._held = [held for held in self._held if held[0] > now]
        return due

    def _pass_through(self, name: str, content: bytes, now: datetime) -> list[tuple[str, bytes]]:
        fate = self._fate()
        self.met[fate] += 1
        if fate == "loss":
            return []
        if fate in ("delay", "reorder", "duplicate"):
            wait = timedelta(0)
            if fate != "reorder":
                wait = self._faults.longest_delay * self._dice.random()
            if len(self._held) < MAX_HELD:
                self._held.append((now + wait, name, content))
                return [(name, content)] if fate == "duplicate" else []
        elif fate == "truncate":
            content = content[: self._dice.randrange(len(content) or 1)]
        elif fate == "bitflip" and content:
            flipped = bytearray(content)
            flipped[self._dice.randrange(len(content))] ^= 1 << self._dice.randrange(8)
            content = bytes(flipped)
        return [(name, content)]

    def _fate(self) -> str:
        drawn = self._dice.random()
        for fate in ("loss", "duplicate", "delay", "reorder", "truncate", "bitflip"):
            drawn -= getattr(self._faults, fate)
            if drawn < 0:
                return fate
        return "unharmed"


async def carry_forever(
    device: LossyDevice,
    from_folder: Path,
    to_folder: Path,
    *,
    seconds: float,
    clock: Callable[[], datetime],
) -> None:
    """As `move_forever`, by a device that fails."""
    while True:
        try:
            await asyncio.to_thread(device.carry, from_folder, to_folder, now=clock())
        except OSError as problem:
            log.error("gate_device_failed", error=problem.strerror)
        await asyncio.sleep(seconds)


def move_once(from_folder: Path, to_folder: Path, *, limit: int = MAX_MOVES) -> int:
    """Move finished packets and symbols, oldest position first, at most `limit`; how many.

    A file of the same name on the other side is replaced: it is a repeat. Blocking.
    """
    if not from_folder.is_dir():
        return 0
    to_folder.mkdir(parents=True, exist_ok=True)
    names = _finished(from_folder, limit)
    moved = sum(_move(from_folder / name, to_folder / name) for name in names)
    if moved:
        sync_folder(to_folder)
        sync_folder(from_folder)
    return moved


async def move_forever(from_folder: Path, to_folder: Path, *, seconds: float) -> None:
    """Until cancelled. A folder that cannot be written is tried again at the next turn."""
    while True:
        try:
            await asyncio.to_thread(move_once, from_folder, to_folder)
        except OSError as problem:
            log.error("gate_device_failed", error=problem.strerror)
        await asyncio.sleep(seconds)


def _finished(folder: Path, limit: int) -> list[str]:
    """Packets' and symbols' names, oldest position first."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if (parse_name(entry.name) or parse_symbol_name(entry.name))
            and entry.is_file(follow_symlinks=False)
        )[:limit]


def _put(folder: Path, name: str, content: bytes) -> None:
    """Complete under a hidden name before it is seen."""
    temporary = folder / f".{name}.part"
    temporary.write_bytes(content)
    os.replace(temporary, folder / name)


def _move(source: Path, target: Path) -> bool:
    try:
        os.replace(source, target)
    except FileNotFoundError:
        return False
    except OSError as problem:
        if problem.errno != errno.EXDEV:
            raise
        _copy_across(source, target)
    return True


def _copy_across(source: Path, target: Path) -> None:
    """Between file systems: complete and durable under a hidden name before it is seen."""
    temporary = target.with_name(f".{target.name}.part")
    with source.open("rb") as original, temporary.open("wb") as copy:
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fsync(copy.fileno())
    os.replace(temporary, target)
    source.unlink()
