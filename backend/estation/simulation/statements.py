"""The channels' bills of each day: late, torn, or with a line that is wrong.

Made from what happened at the channels, as a small JSON file with totals of its own. What is wrong
in a bill is drawn when it is made for the first time; some of it the channel corrects hours later.
What it never corrects is what reconciling must find, beside money in suspense, and nothing else.
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final

import orjson

from estation.outside.pay_channels import (
    BillRow,
    Channel,
    ChannelUnknown,
    NoBill,
    ParsedBill,
    RefundStatus,
)
from estation.reconciliation.rules import Kind, bills_are_due
from estation.shared.clock import beijing_day
from estation.simulation.channels import Paid, SimRefund
from estation.simulation.hazards import Weather

CORRECTED_AFTER: Final = timedelta(hours=5)
WRONG: Final = 0.4
"""Chance that a line of a bill is wrong, whatever the weather: calm weather loses nothing, and the
channel's mistakes are its own."""

FEE_E3: Final = 6
"""Thousandths of a fen that a channel keeps of a fen: six per mille."""

_STATES: Final[Mapping[RefundStatus, str]] = {
    RefundStatus.SUCCESS: "SUCCESS",
    RefundStatus.PROCESSING: "PROCESSING",
    RefundStatus.ABNORMAL: "FAIL",
    RefundStatus.CLOSED: "FAIL",
}

_WRONG: Final[Mapping[Kind, Callable[[BillRow], list[BillRow]]]] = {
    Kind.MISSING_AT_CHANNEL: lambda line: [],
    Kind.DUPLICATE_IN_BILL: lambda line: [line, line],
    Kind.AMOUNT_DIFFERS: lambda line: [replace(line, amount_fen=line.amount_fen + 1)],
    Kind.TRADE_NO_DIFFERS: lambda line: [replace(line, channel_trade_no="T-of-another")],
    Kind.MISSING_IN_LEDGER: lambda line: [
        line,
        replace(line, out_trade_no=f"X{line.out_trade_no}", channel_trade_no="T-of-nobody"),
    ],
}
"""What becomes of a payment's line, by the difference that must be found."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A line that is wrong; `until`: when the channel corrects it, or never."""

    kind: Kind
    out_trade_no: str
    until: datetime | None

    @property
    def hides(self) -> bool:
        """Of that payment nothing else is found, then."""
        return self.kind not in (Kind.DUPLICATE_IN_BILL, Kind.MISSING_IN_LEDGER)


@dataclass(frozen=True, slots=True)
class Bill:
    """As it was given, whole."""

    lines: tuple[BillRow, ...]
    sha256: str

    def fee_fen(self) -> int:
        """What the channel kept, less what it gave back; each line in whole fen."""
        return sum(whole_fen(line.fee_fen_e3) for line in self.lines)


class BillDesk:
    """All merchant accounts' bills of a city."""

    def __init__(
        self,
        paid: Mapping[str, Paid],
        clock: Callable[[], datetime],
        weather: Weather,
        chance: random.Random,
    ) -> None:
        self._paid = paid
        self._clock = clock
        self._weather = weather
        self._chance = chance
        self._wrong: dict[tuple[str, date], Wrong | None] = {}
        self.given: dict[tuple[str, date], Bill] = {}  # the last whole one

    def download(self, account_id: str, day: date) -> bytes:
        """Raises ChannelUnknown and NoBill, as the channels do."""
        if not bills_are_due(day, self._clock()):
            self._weather.note("bill_not_made_yet")
            raise ChannelUnknown("STATEMENT_CREATING")
        if self._weather.strikes("bill_unavailable"):
            raise ChannelUnknown("timeout")
        lines = self._lines(account_id, day)
        if not lines:
            raise NoBill("NO_STATEMENT_EXIST")
        raw = _as_file(lines, lines)
        if self._weather.strikes("bill_torn"):
            return _as_file(lines[1:], lines)
        bill = Bill(tuple(lines), hashlib.sha256(raw).hexdigest())
        if self.given.get((account_id, day), bill).sha256 != bill.sha256:
            self._weather.note("bill_corrected")
        self.given[account_id, day] = bill
        return raw

    def parse(self, raw: bytes) -> ParsedBill:
        """Raises ValueError."""
        read = orjson.loads(raw)
        lines = [
            BillRow(**{**line, "at": datetime.fromisoformat(line["at"])}) for line in read["lines"]
        ]
        computed, stated = _totals(lines), read["totals"]
        return ParsedBill(
            lines,
            proof={name: (str(computed[name]), str(stated[name])) for name in computed},
            settlement_fen=stated["payments"] - stated["refunds"] - stated["fees"],
        )

    def wrong_on(self, account_id: str, day: date) -> Wrong | None:
        """The line that is wrong in the bill now."""
        wrong = self._wrong.get((account_id, day))
        is_over = wrong is not None and wrong.until is not None and self._clock() >= wrong.until
        return None if is_over else wrong

    def _lines(self, account_id: str, day: date) -> list[BillRow]:
        here = [paid for paid in self._paid.values() if paid.account_id == account_id]
        payments = [_payment(paid) for paid in here if beijing_day(paid.at) == day]
        if payments and (account_id, day) not in self._wrong:
            self._wrong[account_id, day] = self._draw(payments)
        wrong = self.wrong_on(account_id, day)
        refunds = [
            _refund(paid, refund)
            for paid in here
            for refund in paid.refunds.values()
            if beijing_day(refund.asked_at) == day and refund.lands_at <= self._clock()
        ]
        lines = [
            given
            for line in payments
            for given in (
                _WRONG[wrong.kind](line)
                if wrong and wrong.out_trade_no == line.out_trade_no
                else [line]
            )
        ]
        return [
            replace(line, line_no=number) for number, line in enumerate([*lines, *refunds], start=1)
        ]

    def _draw(self, payments: Sequence[BillRow]) -> Wrong | None:
        if self._chance.random() >= WRONG:
            return None
        self._weather.note("bill_line_wrong")
        is_corrected = self._chance.random() < 0.5
        return Wrong(
            self._chance.choice(list(_WRONG)),
            self._chance.choice(payments).out_trade_no,
            self._clock() + CORRECTED_AFTER if is_corrected else None,
        )


def _payment(paid: Paid) -> BillRow:
    return BillRow(
        kind="payment",
        out_trade_no=paid.out_trade_no,
        channel_trade_no=paid.trade_no,
        refund_no=None,
        amount_fen=paid.amount_fen,
        fee_fen_e3=_fee_e3(paid.account_id, paid.amount_fen),
        at=paid.at,
        state="SUCCESS",
        line_no=0,
    )


def _refund(paid: Paid, refund: SimRefund) -> BillRow:
    """On the day it was accepted. What the channel kept of a payment comes back with its refund."""
    fen = refund.request.amount_fen
    is_done = refund.status is RefundStatus.SUCCESS
    return BillRow(
        kind="refund",
        out_trade_no=paid.out_trade_no,
        channel_trade_no=paid.trade_no,
        refund_no=refund.request.refund_no,
        amount_fen=fen,
        fee_fen_e3=-_fee_e3(paid.account_id, fen) if is_done else 0,
        at=refund.asked_at,
        state=_STATES[refund.status],
        line_no=0,
    )


def _fee_e3(account_id: str, fen: int) -> int:
    """WeChat Pay prints thousandths of a fen, Alipay whole fen."""
    fee_e3 = fen * FEE_E3
    return whole_fen(fee_e3) * 1000 if account_id.startswith(Channel.ALIPAY) else fee_e3


def whole_fen(fen_e3: int) -> int:
    """Half up."""
    fen = (abs(fen_e3) + 500) // 1000
    return -fen if fen_e3 < 0 else fen


def _totals(lines: Sequence[BillRow]) -> dict[str, int]:
    return {
        "count": len(lines),
        "payments": sum(line.amount_fen for line in lines if line.kind == "payment"),
        "refunds": sum(line.amount_fen for line in lines if line.kind == "refund"),
        "fees": sum(whole_fen(line.fee_fen_e3) for line in lines),
    }


def _as_file(lines: Sequence[BillRow], summed: Sequence[BillRow]) -> bytes:
    return orjson.dumps({"lines": list(lines), "totals": _totals(summed)})
