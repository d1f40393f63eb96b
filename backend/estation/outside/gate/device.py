"""A one-way device (光闸) for the demo and tests: carries finished files one way, knows nothing.

It reads no file, keeps no list and answers nobody; two of them make the two directions.
"""

import asyncio
import errno
import os
import shutil
from pathlib import Path

import structlog

from estation.outside.gate.folders import sync_folder
from estation.outside.gate.format import parse_name

log = structlog.get_logger()

MAX_MOVES = 500


def move_once(from_folder: Path, to_folder: Path, *, limit: int = MAX_MOVES) -> int:
    """Move finished packets, oldest position first, at most `limit`; how many.

    A file of the same name on the other side is replaced: it is a repeat. Blocking.
    """
    if not from_folder.is_dir():
        return 0
    to_folder.mkdir(parents=True, exist_ok=True)
    with os.scandir(from_folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if parse_name(entry.name) and entry.is_file(follow_symlinks=False)
        )[:limit]
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
