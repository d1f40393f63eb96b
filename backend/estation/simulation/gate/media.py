"""The one-way media of a day: they lose, delay, damage and repeat, and go dark for hours."""

import random
from collections import Counter, deque
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from estation.outside.gate.device import Faults, LossyDevice

FAULTS: Final = Faults(
    loss=0.10, duplicate=0.05, delay=0.10, reorder=0.10, truncate=0.02, bitflip=0.02,
    longest_delay=timedelta(minutes=20),
)  # fmt: skip
BLACKOUTS_PER_DAY: Final = 6
REPLAYS_PER_DAY: Final = 4
SHORTEST, LONGEST = timedelta(seconds=30), timedelta(hours=3)
REMEMBERED: Final = 300
REPLAYED: Final = 60


class Medium:
    """One direction between two sides. While it is dark it either keeps the files or eats them."""

    def __init__(self, name: str, ends: tuple[Path, Path], chance: random.Random) -> None:
        self.name = name
        self._here, self._there = ends
        self._chance = chance
        self._device = LossyDevice(seed=chance.getrandbits(32), faults=FAULTS)
        self._calm = LossyDevice(seed=0, faults=Faults())
        self._dark_until: datetime | None = None
        self._eats = False
        self._old: deque[tuple[str, bytes]] = deque(maxlen=REMEMBERED)
        self.is_calm = False
        self.met: Counter[str] = Counter()

    def carry(self, now: datetime, passed: timedelta) -> str:
        """What came over since the last time; words when something remarkable happened."""
        words = "" if self.is_calm else self._weather(now, passed)
        if self._dark_until is not None and (self.is_calm or now >= self._dark_until):
            self._dark_until = None
        if self._dark_until is not None:
            if self._eats:
                self._eat()
            return words
        self._remember()
        device = self._calm if self.is_calm else self._device
        device.carry(self._here, self._there, now=now)
        return words

    def summary(self) -> Counter[str]:
        """Files by fate."""
        fates = {
            "loss": "file lost", "duplicate": "file doubled", "delay": "file delayed",
            "reorder": "files out of order", "truncate": "file cut short",
            "bitflip": "bit turned over",
        }  # fmt: skip
        drawn = {fates[fate]: n for fate, n in self._device.met.items() if fate in fates}
        return self.met + Counter(drawn)

    def _weather(self, now: datetime, passed: timedelta) -> str:
        share_of_day = passed / timedelta(days=1)
        if self._dark_until is None and self._chance.random() < BLACKOUTS_PER_DAY * share_of_day:
            # Most are short, few are long: even on the scale of their logarithm.
            dark = SHORTEST * (LONGEST / SHORTEST) ** self._chance.random()
            self._dark_until, self._eats = now + dark, self._chance.random() < 0.5
            kind = "everything is lost" if self._eats else "files wait"
            self.met[f"blackout, {kind}"] += 1
            return f"{self.name}: dark for {dark}, {kind}"
        if self._old and self._chance.random() < REPLAYS_PER_DAY * share_of_day:
            self.met["old files played again"] += 1
            for name, content in self._chance.sample(self._old, min(REPLAYED, len(self._old))):
                (self._there / name).write_bytes(content)
            return f"{self.name}: old files are played again"
        return ""

    def _eat(self) -> None:
        for file in sorted(self._here.glob("*.gate")):
            file.unlink(missing_ok=True)
            self.met["file lost in the dark"] += 1

    def _remember(self) -> None:
        for file in sorted(self._here.glob("*.gate"))[-20:]:
            self._old.append((file.name, file.read_bytes()))
