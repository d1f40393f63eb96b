"""What a program of a side may meet: kill -9 at any point of its work, and a disk that is full."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from tortoise.backends.asyncpg.client import TransactionWrapper

from estation.outside.gate import bounds, folders

KILLED = 137
"""Exit code of a program that was killed, as a shell shows it."""


@dataclass(slots=True)
class Faults:
    """`kill_in`: at the n-th point from now, 0 for never. `tell` hears the point's name first."""

    tell: Callable[[str], None]
    kill_in: int = 0
    disk: str = "roomy"  # or `full`: writing fails; or `low`: the reserve is touched

    def passed(self, point: str) -> None:
        """Called before and after every commit, rename and removal."""
        if self.kill_in:
            self.kill_in -= 1
            if not self.kill_in:
                self._die(point)

    def _die(self, point: str) -> NoReturn:
        """As kill -9: nothing is tidied up, connections drop, half a file stays half a file."""
        self.tell(point)
        os._exit(KILLED)


class _WatchedOs:
    """The calls of `os` that `gate.folders` makes, with a fault around those that change things."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, _: int) -> None:
        if self._faults.disk == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._faults.passed("file_half_written")
        # Not asked of the disk: here programs are killed, and no power fails.

    def replace(self, source: Path, target: Path) -> None:
        self._faults.passed("before_rename")
        os.replace(source, target)
        self._faults.passed("after_rename")

    def rename(self, source: Path, target: Path) -> None:
        self._faults.passed("before_quarantine")
        os.rename(source, target)
        self._faults.passed("after_quarantine")


@contextmanager
def met_by(faults: Faults) -> Iterator[None]:
    """Inside, this process meets the faults."""
    commit, remove, free = TransactionWrapper.commit, folders.remove, bounds.free_bytes

    async def commit_watched(wrapper: TransactionWrapper) -> None:
        faults.passed("before_commit")
        await commit(wrapper)
        faults.passed("after_commit")

    def remove_watched(path: Path) -> None:
        faults.passed("before_removal")
        remove(path)

    def free_watched(folder: Path) -> int:
        return 0 if faults.disk == "low" else free(folder)

    with (
        mock.patch.object(TransactionWrapper, "commit", commit_watched),
        mock.patch.object(folders, "os", _WatchedOs(faults)),
        mock.patch.object(folders, "remove", remove_watched),
        mock.patch.object(bounds, "free_bytes", free_watched),
    ):
        yield
