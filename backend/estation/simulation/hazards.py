"""What may go wrong in a world, as data: how likely, and how often it was met."""

import random
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

LIKELY: Final[Mapping[str, float]] = {
    # what becomes of a notice
    "notice_dropped": 0.20,
    "notice_doubled": 0.25,
    "notice_delayed": 0.35,
    "notice_delayed_25_hours": 0.03,
    # what a channel answers
    "open_unknown_before": 0.04,
    "open_unknown_after": 0.06,
    "open_refused": 0.02,
    "query_unknown": 0.10,
    "close_unknown_before": 0.05,
    "close_unknown_after": 0.05,
    "payer_at_the_password_box": 0.05,
    "channel_clock_ahead": 0.05,
    "channel_clock_behind": 0.05,
    # what a payer does
    "wrong_amount": 0.04,
    # what becomes of a refund
    "refund_unknown_before": 0.06,
    "refund_unknown_after": 0.08,
    "refund_not_enough": 0.04,
    "refund_refused": 0.02,
    "refund_abnormal": 0.06,
    "refund_closed": 0.05,
}
"""Chance of each hazard at each occasion while the weather lasts. Others are events of a world,
our own programs are killed by CrashPlans, and Redis is lost in all of them: money never asks it."""


class Weather:
    """Draws hazards from one seeded chance and counts those that were met."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.is_calm = False
        self.met: Counter[str] = Counter()

    def strikes(self, hazard: str) -> bool:
        if self.is_calm or self._chance.random() >= LIKELY[hazard]:
            return False
        self.met[hazard] += 1
        return True

    def note(self, hazard: str) -> None:
        """A hazard that is an event of the story, not a drawn one."""
        self.met[hazard] += 1


class Crash(BaseException):
    """The program was killed here. Not an Exception: nothing of ours may catch a kill."""


crash_at: ContextVar["CrashPlan | None"] = ContextVar("crash_at", default=None)


class CrashPlan:
    """Kill at the n-th commit from now on, before or after it."""

    def __init__(self, commit: int, *, after: bool) -> None:
        self.left = commit
        self.after = after
        self.has_struck = False

    def reached(self) -> bool:
        self.left -= 1
        self.has_struck = self.has_struck or self.left == 0
        return self.left == 0
