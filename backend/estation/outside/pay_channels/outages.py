"""Which merchant accounts give no answer, and when each may be asked again.

Kept in the program's memory: every program learns it within a few calls, and none must be told
by another one. What the worker learns is written down for the alarms (`take_news`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from estation.outside.pay_channels import ChannelError, ChannelUnknown

log = structlog.get_logger()

SILENCES: Final = 5
"""Calls in a row without an answer that make an outage; one answer of any kind ends it."""
FIRST_PAUSE: Final = timedelta(seconds=5)
LONGEST_PAUSE: Final = timedelta(minutes=2)
NOT_CONFIGURED: Final = "NOT_CONFIGURED"
"""Nobody was asked: the account is not in the settings."""
SHORT_OF_MONEY: Final = "NOT_ENOUGH"
"""A clear answer, though not an end: the merchant's account has too little for a refund today."""


@dataclass(slots=True)
class _Account:
    silences: int = 0
    since: datetime | None = None  # the first silence of the row
    last_at: datetime | None = None  # the last one
    pauses: int = 0
    until: datetime | None = None  # while it is out: when it may be asked next


@dataclass(frozen=True, slots=True)
class Silence:
    """An account that is out: since when it gave no answer, and when it last gave none."""

    account_id: str
    since: datetime
    last_at: datetime


class Outages:
    """By account. While a channel is out, who asks `allowed` is let through one at a time, 5 s
    doubling to 2 min apart; the first answer, also a refusal, puts all as it was.

    A citizen's own deed (opening a payment, closing it for another way) and a checker's order
    are tried without asking: somebody waits for the answer, and is told when there is none.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._answered: set[str] = set()

    def take_news(self) -> tuple[list[Silence], list[str]]:
        """Which accounts are out, and which answered since this was last asked."""
        out = [
            Silence(account_id, account.since, account.last_at)
            for account_id, account in sorted(self._accounts.items())
            if account.until is not None and account.since and account.last_at
        ]
        answered, self._answered = sorted(self._answered), set()
        return out, answered

    def allowed(self, account_id: str, *, now: datetime, most: int) -> int:
        """How many calls may be made at once: `most`, one to try it, or none.

        The one try is handed out once: the next is due a pause later, also when nobody hears
        how this one went. Ask only when there is something to call about.
        """
        account = self._accounts.get(account_id)
        if account is None or account.until is None:
            return most
        if now < account.until:
            return 0
        self._leave_alone(account_id, account, now)
        return 1

    def until(self, account_id: str, *, now: datetime) -> datetime:
        """When an account that is out may be asked next; `now` when it is not, or may."""
        account = self._accounts.get(account_id)
        return max(now, account.until) if account and account.until else now

    @contextmanager
    def listening(self, account_id: str, *, now: datetime) -> Iterator[None]:
        """Around calls to the account's channel: remembers whether it answered."""
        try:
            yield
        except ChannelUnknown as unknown:
            if unknown.code == SHORT_OF_MONEY:
                self._answers(account_id)
            elif unknown.code != NOT_CONFIGURED:
                self._is_silent(account_id, now)
            raise
        except ChannelError:
            self._answers(account_id)
            raise
        else:
            self._answers(account_id)

    def _answers(self, account_id: str) -> None:
        self._answered.add(account_id)
        account = self._accounts.pop(account_id, None)
        if account is not None and account.until is not None:
            log.info("channel_answers_again", account_id=account_id, pauses=account.pauses)

    def _is_silent(self, account_id: str, now: datetime) -> None:
        account = self._accounts.setdefault(account_id, _Account())
        account.silences += 1
        account.since, account.last_at = account.since or now, now
        self._answered.discard(account_id)
        # Calls that were under way together when it fell silent are one silence to its pauses.
        if account.silences < SILENCES or (account.until is not None and now < account.until):
            return
        self._leave_alone(account_id, account, now)

    def _leave_alone(self, account_id: str, account: _Account, now: datetime) -> None:
        account.until = now + pause(account.pauses)
        account.pauses += 1
        log.warning("channel_out", account_id=account_id, pauses=account.pauses)


def pause(pauses: int) -> timedelta:
    """How long to leave a channel alone after so many pauses: 5 s doubling to 2 min."""
    doubled: int = 2 ** min(pauses, 10)
    return min(FIRST_PAUSE * doubled, LONGEST_PAUSE)
