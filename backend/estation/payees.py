"""New payees are taken in while the programs run: a county that joins needs no restart for its own.

Only what is added: whoever takes a payee away, or changes one that money may be under way to, has
to restart the programs, and is told so in the log. The settings of a program stay one object, so
that everybody who reads them sees the same payees.
"""

import time
from collections.abc import Callable, Sequence

import structlog

from estation import settings as settings_module
from estation.settings import FileMark, InnerSettings, Payee, Settings

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 5.0
STILL_SECONDS = 1.0


class PayeeWatch:
    """Of one program. `look` costs nothing until it is time, and may be called at every request."""

    def __init__(
        self,
        settings: Settings | InnerSettings,
        *,
        seconds: Callable[[], float] = time.monotonic,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._seconds = seconds
        self._wall_seconds = wall_seconds
        self._marks = self._seen = settings_module.marks_of_files()
        self._next = seconds() + LOOK_EVERY_SECONDS

    def look(self) -> list[str]:
        """Codes of the payees that are new in the files and now in the settings. Files are read
        when nobody has written to them for a second, or since the last look: a half-written one
        may be readable, too. One that cannot be read changes nothing; its next change is looked
        at."""
        now = self._seconds()
        if now < self._next:
            return []
        self._next = now + LOOK_EVERY_SECONDS
        marks = settings_module.marks_of_files()
        if marks == self._marks:
            return []
        is_still = marks == self._seen or self._age_seconds(marks) > STILL_SECONDS
        self._seen = marks
        if not is_still:
            return []
        self._marks = marks
        try:
            fresh = settings_module.read_again(type(self._settings)).payees
        except (OSError, ValueError) as problem:  # pydantic's and tomllib's are ValueErrors
            log.error("payees_not_read", problem=type(problem).__name__)
            return []
        return self._take_in(fresh)

    def _take_in(self, fresh: Sequence[Payee]) -> list[str]:
        ours = {payee.code: payee for payee in self._settings.payees}
        theirs = {payee.code: payee for payee in fresh}
        changed = sorted(code for code, payee in ours.items() if theirs.get(code) != payee)
        added = [payee for payee in theirs.values() if payee.code not in ours]
        wait = sorted(payee.code for payee in added if not self._has_its_accounts(payee))
        if changed or wait or len(theirs) < len(fresh):
            log.error("payees_need_a_restart", changed=changed, without_account=wait)
        if changed or len(theirs) < len(fresh):
            return []
        taken = [payee for payee in added if payee.code not in wait]
        self._settings.payees.extend(taken)
        codes = [payee.code for payee in taken]
        if codes:
            log.info("payees_taken_in", codes=codes)
        return codes

    def _has_its_accounts(self, payee: Payee) -> bool:
        """Channels are opened at the start: an account of its own has to be among them."""
        if isinstance(self._settings, InnerSettings):
            return True
        opened = {
            "wechat_pay": {one.account_id for one in self._settings.wechat_pay},
            "alipay": {one.account_id for one in self._settings.alipay},
        }
        return all(
            account_id in opened.get(channel, set())
            for channel, account_id in payee.merchants.items()
        )

    def _age_seconds(self, marks: Sequence[FileMark]) -> float:
        newest = max(max(one.written, one.changed) for one in marks)
        return self._wall_seconds() - newest / 1e9
