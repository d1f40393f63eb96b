"""Two clocks: the real one dates signatures, the virtual one dates the world's events."""

from datetime import UTC, datetime, timedelta

from estation.sandbox.store import Store
from estation.shared.clock import BEIJING, Clock

_OFFSET = "clock_offset_seconds"


class TwoClocks:
    """Virtual now = real now + an offset that tests and demos move; it survives a restart."""

    def __init__(self, real: Clock, store: Store) -> None:
        self._real = real
        self._store = store
        self._offset = timedelta(seconds=float(store.setting(_OFFSET, 0.0)))

    def real(self) -> datetime:
        return self._real()

    def now(self) -> datetime:
        return self._real() + self._offset

    @property
    def offset_seconds(self) -> float:
        return self._offset.total_seconds()

    def advance(self, seconds: float) -> None:
        self._keep(self._offset + timedelta(seconds=seconds))

    def set(self, moment: datetime) -> None:
        self._keep(moment - self._real())

    def reset(self) -> None:
        self._keep(timedelta())

    def _keep(self, offset: timedelta) -> None:
        self._offset = offset
        self._store.set_setting(_OFFSET, offset.total_seconds())


def to_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def from_ms(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def rfc3339(milliseconds: int) -> str:
    """WeChat Pay's spelling, Beijing time: 2026-03-01T10:00:00+08:00."""
    return from_ms(milliseconds).astimezone(BEIJING).isoformat(timespec="seconds")


def plain(milliseconds: int) -> str:
    """Bills' and Alipay's spelling, Beijing time: 2026-03-01 10:00:00."""
    return from_ms(milliseconds).astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")
