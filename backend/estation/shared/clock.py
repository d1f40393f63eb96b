"""The clock is an argument; Beijing decides what day it is."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

BEIJING = ZoneInfo("Asia/Shanghai")
Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """Now, with a time zone. Read it at the entry and pass it on."""
    return datetime.now(UTC)


def beijing_day(moment: datetime) -> date:
    """The calendar day in Beijing on which `moment` falls."""
    return moment.astimezone(BEIJING).date()


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """The half-open interval [00:00, next 00:00) of a Beijing day."""
    start = datetime.combine(day, time(), tzinfo=BEIJING)
    return start, datetime.combine(day + timedelta(days=1), time(), tzinfo=BEIJING)
