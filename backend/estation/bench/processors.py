"""What programs cost in processor time: true also when the machine has other work."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # fields of /proc/PID/stat behind the name: proc(5)


def seconds_used(leader: int) -> float:
    """Of this process and its living children; the kernel counts hundredths of a second."""
    return sum((int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS for stat in _family(leader))


def _family(leader: int) -> Iterator[list[str]]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name in brackets may hold anything, also brackets and spaces.
            stat = (Path("/proc") / name / "stat").read_text().rpartition(")")[2].split()
            if int(name) == leader or int(stat[_PARENT]) == leader:
                yield stat
