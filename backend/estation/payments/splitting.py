"""Split instructions (分账指令): what each payee is to get of the money at a collecting account.

One line per ledger transfer and payee; a refund's lines take back. Pure.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from uuid import UUID

from estation.ledger.api import PayeeMovement
from estation.payments.refund_rules import is_started_again, refund_no_of, start_key
from estation.shared.clock import BEIJING, beijing_day
from estation.shared.money import share_out, yuan_from_fen
from estation.shared.sheets import BOM, csv_lines, neutral_cell

HEADER = (
    "序号",
    "收款单位代码",
    "收款单位",
    "类型",
    "金额（元）",
    "手续费（元）",
    "应划金额（元）",
    "商户订单号",
    "渠道流水号",
    "渠道时间",
    "总账凭证",
    "备注",
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line. Amount and fee are above or at zero; `is_refund` says that both are taken back.

    A correction moves no amount, and adds its fee to what was instructed of the same transfer.
    """

    transfer_id: UUID
    payee_code: str
    is_refund: bool
    amount_fen: int
    fee_fen: int
    our_no: str
    channel_no: str
    occurred_at: datetime
    is_late: bool = False  # its day's instructions had been made before it was applied
    is_correction: bool = False  # of a fee alone, which may then be below zero

    @property
    def net_fen(self) -> int:
        """What moves to the payee; below zero, from the payee."""
        fen = self.amount_fen - self.fee_fen
        return -fen if self.is_refund else fen


@dataclass(frozen=True, slots=True)
class Sheet:
    """The file of one export."""

    content: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Instructed:
    """What a payee was told of a transfer so far: its share, and of the fee with corrections."""

    movement: PayeeMovement
    fee_fen: int


def fee_key(number: str, *, is_refund: bool) -> str:
    """How a channel's fee is found: payments by the channel's trade number, refunds by our refund
    number; a trade may have several."""
    return f"{'refund' if is_refund else 'payment'}:{number}"


def refund_keys(fees: Mapping[str, int]) -> list[str]:
    """The ledger's keys of the refunds that these fees came back with."""
    numbers = [key.partition(":")[2] for key in fees if key.startswith("refund:")]
    return [start_key(number, again=again) for number in numbers for again in (False, True)]


def instructions_of(
    movements: Sequence[PayeeMovement], fees: Mapping[str, int], *, are_late: bool = False
) -> list[Instruction]:
    """A line per movement, each transfer's fee shared by largest remainder.

    `fees`: fen by `fee_key`, above or at zero; a transfer without one costs nothing (yet).
    """
    by_transfer: dict[UUID, list[PayeeMovement]] = {}
    for one in movements:
        by_transfer.setdefault(one.transfer_id, []).append(one)
    return [
        line
        for members in by_transfer.values()
        for line in _lines(members, _fee(members[0], fees), are_late)
    ]


def corrections_of(told: Sequence[Instructed], fees: Mapping[str, int]) -> list[Instruction]:
    """A line per payee whose share of a fee is another one than was instructed.

    The fee as it is known now is shared as if it had been known then, so that what a payee was
    told in all is its share by largest remainder. `told` in the order of `payee_movements`; a
    transfer whose fee is in no `fees` is left as it was told.
    """
    by_transfer: dict[UUID, list[Instructed]] = {}
    for one in told:
        by_transfer.setdefault(one.movement.transfer_id, []).append(one)
    return [
        replace(line, amount_fen=0, fee_fen=line.fee_fen - before.fee_fen, is_correction=True)
        for members in by_transfer.values()
        if (fee_fen := _known_fee(members[0].movement, fees)) is not None
        for before, line in zip(
            members, _lines([one.movement for one in members], fee_fen, are_late=True), strict=True
        )
        if line.fee_fen != before.fee_fen
    ]


def _fee(one: PayeeMovement, fees: Mapping[str, int]) -> int:
    return _known_fee(one, fees) or 0


def _known_fee(one: PayeeMovement, fees: Mapping[str, int]) -> int | None:
    if one.kind == "payment":
        return fees.get(fee_key(one.channel_no, is_refund=False))
    # A refund's fee is told once, where its money was first reserved: neither where that is
    # reversed nor where it is reserved again. What no bill names of it any more costs nothing.
    if one.fen > 0 or is_started_again(one.idempotency_key):
        return 0
    return fees.get(fee_key(refund_no_of(one.idempotency_key), is_refund=True))


def _lines(members: Sequence[PayeeMovement], fee_fen: int, are_late: bool) -> Iterable[Instruction]:
    shares = share_out(fee_fen, [abs(one.fen) for one in members])
    for one, share in zip(members, shares, strict=True):
        yield Instruction(
            transfer_id=one.transfer_id,
            payee_code=one.payee_code,
            is_refund=one.fen < 0,
            amount_fen=abs(one.fen),
            fee_fen=share,
            our_no=one.our_no,
            channel_no=one.channel_no,
            occurred_at=one.occurred_at,
            is_late=are_late,
        )


def sheet_of(
    lines: Sequence[Instruction],
    *,
    export_no: str,
    day: date,
    account_id: str,
    payee_names: Mapping[str, str],
) -> Sheet:
    """The file: UTF-8 with BOM, CRLF, yuan with two decimals, refunds below zero; then a total
    per payee and of all, and how many lines there are, so that a cut file shows. A late line and
    a correction say whose day's they are."""
    rows: list[Sequence[str]] = [
        ("分账指令", export_no, "清算日期", str(day), "归集账户", neutral_cell(account_id)),
        HEADER,
    ]
    for number, line in enumerate(lines, start=1):
        rows.append(_row(number, line, payee_names))
    for payee in sorted({line.payee_code for line in lines}):
        members = [line for line in lines if line.payee_code == payee]
        rows.append(_total("小计", payee, payee_names.get(payee, payee), members))
    rows.append(_total("合计", "", f"{len(lines)} 条", lines))
    content = (BOM + csv_lines(rows)).encode()
    return Sheet(content, hashlib.sha256(content).hexdigest())


def _row(number: int, line: Instruction, payee_names: Mapping[str, str]) -> Sequence[str]:
    name = payee_names.get(line.payee_code, line.payee_code)
    return (
        str(number),
        neutral_cell(line.payee_code),
        neutral_cell(name),
        _kind(line),
        *_amounts([line]),
        neutral_cell(line.our_no),
        neutral_cell(line.channel_no),
        line.occurred_at.astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S"),
        str(line.transfer_id),
        _note(line),
    )


def _kind(line: Instruction) -> str:
    if line.is_correction:
        return "退款手续费更正" if line.is_refund else "手续费更正"
    return "退款" if line.is_refund else "付款"


def _note(line: Instruction) -> str:
    if not line.is_late:
        return ""
    why = "手续费在下达后才确定" if line.is_correction else "迟到入账"
    return f"{why}，清算日期 {beijing_day(line.occurred_at)}"


def _total(label: str, payee: str, name: str, lines: Sequence[Instruction]) -> Sequence[str]:
    return (label, neutral_cell(payee), neutral_cell(name), "", *_amounts(lines), *[""] * 5)


def _amounts(lines: Sequence[Instruction]) -> tuple[str, str, str]:
    amount = sum(-line.amount_fen if line.is_refund else line.amount_fen for line in lines)
    fee = sum(-line.fee_fen if line.is_refund else line.fee_fen for line in lines)
    return yuan_from_fen(amount), yuan_from_fen(fee), yuan_from_fen(amount - fee)
