"""When a day's bill is ready, and the short-lived tickets it is downloaded by."""

import secrets
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from estation.sandbox.clocks import to_ms
from estation.sandbox.hub import Hub
from estation.sandbox.store import Store
from estation.shared.clock import BEIJING, day_bounds

_READY_AT = time(10)
_MADE_AT = time(9)
_FORCED = "bills_ready_days"


def is_ready(store: Store, day: date, now: datetime) -> bool:
    """From 10:00 Beijing time of the next day, or earlier when control said so."""
    return now >= _next_day(day, _READY_AT) or day.isoformat() in forced_days(store)


def snapshot_moment(store: Store, day: date, now: datetime) -> datetime:
    """As of when the bill was made: later news does not change it."""
    return min(now, _next_day(day, _MADE_AT)) if is_ready(store, day, now) else now


def _next_day(day: date, at: time) -> datetime:
    return datetime.combine(day + timedelta(days=1), at, tzinfo=BEIJING)


def forced_days(store: Store) -> list[str]:
    days: list[str] = store.setting(_FORCED, [])
    return days


def force_ready(store: Store, day: date, *, ready: bool) -> None:
    """Let a day's bill (also today's, as far as it has come) be fetched at once, or undo that."""
    others = [known for known in forced_days(store) if known != day.isoformat()]
    store.set_setting(_FORCED, [*others, day.isoformat()] if ready else others)


@dataclass(frozen=True, slots=True)
class BillFile:
    name: str
    content: bytes


def offer(hub: Hub, *, channel: str, name: str, content: bytes, seconds: int) -> str:
    """A random token that opens exactly this file for `seconds` on the virtual clock."""
    token = secrets.token_urlsafe(24)
    now = hub.now_ms()
    hub.store.run("delete from bill_file where usable_until < ?", now)
    hub.store.insert(
        "bill_file",
        token=token,
        channel=channel,
        name=name,
        content=content,
        usable_until=now + seconds * 1000,
    )
    return token


def redeem(hub: Hub, channel: str, token: str) -> BillFile | None:
    """What this token opens; None when it is unknown or too old."""
    row = hub.store.row(
        "select name, content from bill_file where token = ? and channel = ? and usable_until >= ?",
        token,
        channel,
        hub.now_ms(),
    )
    return BillFile(row["name"], row["content"]) if row else None


def bounds_ms(day: date) -> tuple[int, int]:
    start, end = day_bounds(day)
    return to_ms(start), to_ms(end)
