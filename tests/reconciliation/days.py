"""A generator of days: the truth of a city's payments, and faults put into it one by one.

The channel here is the only fake: it serves bills in a small JSON form of its own and remembers
what it was asked. The ledger is the real one.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from estation.ledger import api as ledger
from estation.outside.pay_channels import (
    BillRow,
    Channel,
    ChannelError,
    NoBill,
    ParsedBill,
    PayChannel,
)
from estation.services import Services
from estation.shared import ids
from estation.shared.clock import BEIJING
from estation.shared.crypto import Vault

Item = TypeVar("Item")
DAY = date(2026, 3, 10)
NOW = datetime(2026, 3, 11, 10, 30, tzinfo=BEIJING)
VAULT = Vault(b"k" * 32)
WECHAT = "wechat_pay:1900000109"
ALIPAY = "alipay:2021000000000109"


@dataclass(frozen=True)
class Line:
    """One line of a channel's bill."""

    number: str
    fen: int
    at: datetime
    trade_no: str
    kind: str = "payment"
    refund_no: str | None = None
    state: str = "SUCCESS"
    fee_fen_e3: int = 0


@dataclass(frozen=True)
class Receipt:
    """One transfer of the ledger."""

    number: str
    fen: int
    at: datetime
    trade_no: str
    kind: str = "payment"
    account_id: str = WECHAT
    key: str = ""


@dataclass
class Day:
    """What the channels' bills and the ledger say, by account and day."""

    bills: dict[tuple[str, date], list[Line]] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    raw: dict[tuple[str, date], bytes | ChannelError] = field(default_factory=dict)
    off: dict[tuple[str, date], int] = field(default_factory=dict)
    """By how many fen a bill's own total is another than that of its lines."""

    def bill(self, account_id: str, day: date = DAY) -> list[Line]:
        return self.bills.setdefault((account_id, day), [])


def dice(*what: object) -> int:
    """A number that looks random and is the same in every run."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8])


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    return [items[place] for place in sorted(range(len(items)), key=lambda n: dice(seed, n))]


def quiet_day(seed: int = 1, pairs: int = 6) -> Day:
    """A day on which everything agrees, at both channels, up to the last microsecond."""
    made = Day()
    for account_id in (WECHAT, ALIPAY):
        for turn in range(pairs):
            at = datetime(2026, 3, 10, tzinfo=BEIJING) + timedelta(
                microseconds=[0, dice(seed, turn, "at") % 86_400_000_000, 86_399_999_999][turn % 3]
            )
            number = f"20260310{account_id[0].upper()}{seed:05d}{turn:05d}"
            fen = [1, 8_000, 817_524, 1 + dice(seed, turn, "fen") % 10**9][turn % 4]
            made.bill(account_id).append(Line(number, fen, at, f"T{number}"))
            made.receipts.append(Receipt(number, fen, at, f"T{number}", account_id=account_id))
    return made


def at(hour: int, minute: int = 0, day: date = DAY) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=BEIJING)


NEXT = DAY + timedelta(days=1)
EVE = DAY - timedelta(days=1)


def _both(day: Day, number: str, **ours: Any) -> tuple[Line, Receipt]:
    line = Line(number, 500, at(9), f"T{number}")
    receipt = replace(Receipt(number, 500, at(9), f"T{number}"), **ours)
    return line, receipt


def missing_in_ledger(day: Day) -> None:
    day.bill(WECHAT).append(_both(day, "MIL")[0])


def missing_at_channel(day: Day) -> None:
    day.receipts.append(_both(day, "MAC")[1])


def amount_differs_by_one_fen_more(day: Day) -> None:
    line, receipt = _both(day, "ADM", fen=501)
    day.bill(WECHAT).append(line)
    day.receipts.append(receipt)


def amount_differs_by_one_fen_less(day: Day) -> None:
    line, receipt = _both(day, "ADL", fen=499)
    day.bill(WECHAT).append(line)
    day.receipts.append(receipt)


def duplicate_in_bill(day: Day) -> None:
    line, receipt = _both(day, "DIB")
    day.bill(WECHAT).extend([line, line])
    day.receipts.append(receipt)


def duplicate_in_bill_with_another_amount(day: Day) -> None:
    line, receipt = _both(day, "DIO")
    day.bill(WECHAT).extend([replace(line, fen=499, trade_no="TDIO2"), line])
    day.receipts.append(receipt)


def duplicate_in_ledger(day: Day) -> None:
    line, receipt = _both(day, "DIL")
    day.bill(WECHAT).append(line)
    day.receipts.extend([receipt, replace(receipt, key="again")])


def in_suspense(day: Day) -> None:
    line, receipt = _both(day, "SUS", kind="suspense")
    day.bill(WECHAT).append(line)
    day.receipts.append(receipt)


def trade_no_differs(day: Day) -> None:
    line, receipt = _both(day, "TND", trade_no="TOTHER")
    day.bill(WECHAT).append(line)
    day.receipts.append(receipt)


def refund_not_in_ledger(day: Day) -> None:
    """A refund of exactly what another payment of the day brought (D7: they never cancel out)."""
    line, receipt = _both(day, "REF")
    day.bill(WECHAT).extend([line, replace(line, kind="refund", refund_no="R1", state="REFUND")])
    day.receipts.append(receipt)


def on_the_next_day_in_the_ledger(day: Day) -> None:
    line, receipt = _both(day, "BND", at=at(0, 0, NEXT))
    day.bill(WECHAT).append(replace(line, at=at(23, 59)))
    day.receipts.append(receipt)


def on_the_eve_in_the_bill(day: Day) -> None:
    line, receipt = _both(day, "BEV", at=at(0, 0))
    day.bill(WECHAT, EVE).append(replace(line, at=at(23, 59, EVE)))
    day.receipts.append(receipt)


def unknown_merchant(day: Day) -> None:
    day.receipts.append(_both(day, "UNK", account_id="wechat_pay:1600000001")[1])


def settlement_one_fen_short(day: Day) -> None:
    day.off[WECHAT, DAY] = -1


FAULTS: dict[str, tuple[Callable[[Day], None], str, str]] = {
    fault.__name__: (fault, kind, number)
    for fault, kind, number in (
        (missing_in_ledger, "missing_in_ledger", "MIL"),
        (missing_at_channel, "missing_at_channel", "MAC"),
        (amount_differs_by_one_fen_more, "amount_differs", "ADM"),
        (amount_differs_by_one_fen_less, "amount_differs", "ADL"),
        (duplicate_in_bill, "duplicate_in_bill", "DIB"),
        (duplicate_in_bill_with_another_amount, "duplicate_in_bill", "DIO"),
        (duplicate_in_ledger, "duplicate_in_ledger", "DIL"),
        (in_suspense, "in_suspense", "SUS"),
        (trade_no_differs, "trade_no_differs", "TND"),
        (refund_not_in_ledger, "refund_not_in_ledger", "REF"),
        (on_the_next_day_in_the_ledger, "day_boundary", "BND"),
        (on_the_eve_in_the_bill, "day_boundary", "BEV"),
        (unknown_merchant, "unknown_merchant", ""),
        (settlement_one_fen_short, "settlement_differs", ""),
    )
}
"""Fault -> (how it is put in, the kind that must be found, under which number)."""


class PaperChannel:
    """A merchant account whose bills are what the test wrote down."""

    def __init__(self, account_id: str, day: Day) -> None:
        self.account_id = account_id
        self.channel = Channel(account_id.split(":")[0])
        self.asked: list[date] = []
        self._day = day

    async def download_bill(self, day: date) -> bytes:
        self.asked.append(day)
        raw = self._day.raw.get((self.account_id, day))
        if isinstance(raw, ChannelError):
            raise raw
        if raw is not None:
            return raw
        lines = self._day.bills.get((self.account_id, day))
        if not lines:
            raise NoBill("NO_STATEMENT_EXIST")
        return as_file(lines, off=self._day.off.get((self.account_id, day), 0))

    def parse_bill(self, raw: bytes) -> ParsedBill:
        read = json.loads(raw)
        rows = [
            BillRow(
                kind=one["kind"],
                out_trade_no=one["number"],
                channel_trade_no=one["trade_no"],
                refund_no=one["refund_no"],
                amount_fen=one["fen"],
                fee_fen_e3=one.get("fee_fen_e3", 0),
                at=datetime.fromisoformat(one["at"]),
                state=one["state"],
                line_no=line_no,
            )
            for line_no, one in enumerate(read["lines"], start=2)
        ]
        total = sum(row.amount_fen for row in rows if row.kind == "payment")
        return ParsedBill(
            rows,
            proof={
                "count": (str(len(rows)), str(read["count"])),
                "total_fen": (str(total), str(read["total"])),
            },
            settlement_fen=read.get("settlement"),
        )


def as_file(lines: list[Line], *, count: int | None = None, off: int = 0) -> bytes:
    settlement_e3 = sum(
        (line.fen if line.kind == "payment" else -line.fen) * 1000 - line.fee_fen_e3
        for line in lines
    )
    body = {
        "settlement": (settlement_e3 + 500) // 1000 + off,
        "lines": [{**line.__dict__, "at": line.at.isoformat()} for line in lines],
        "count": len(lines) if count is None else count,
        "total": sum(line.fen for line in lines if line.kind == "payment"),
    }
    return json.dumps(body, ensure_ascii=False).encode()


def services_for(day: Day, *account_ids: str) -> Services:
    """As much of the services as reconciliation touches: channels, names, clock."""
    accounts = account_ids or (WECHAT, ALIPAY)
    settings = SimpleNamespace(wechat_pay=[], alipay=[])
    return cast(
        Services,
        SimpleNamespace(
            channels={one: cast(PayChannel, PaperChannel(one, day)) for one in accounts},
            settings=settings,
            clock=lambda: NOW,
            vault=VAULT,
        ),
    )


async def post(day: Day) -> None:
    """Write the day's receipts into the real ledger."""
    await ledger.post_many(
        [
            ledger.TransferInput(
                id=str(ids.row_id(NOW)),
                idempotency_key=f"arrival:{one.account_id}:{one.trade_no}:{one.number}:{one.key}",
                kind=one.kind,
                region="360101",
                order_id=None,
                our_no=one.number,
                channel_no=one.trade_no,
                occurred_at=one.at,
                legs=[
                    ledger.Leg(ledger.clearing(one.account_id), debit_fen=one.fen),
                    ledger.Leg(
                        ledger.suspense(one.account_id)
                        if one.kind == "suspense"
                        else ledger.payee_payable("treasury"),
                        credit_fen=one.fen,
                    ),
                ],
            )
            for one in day.receipts
        ],
        now=NOW,
    )
