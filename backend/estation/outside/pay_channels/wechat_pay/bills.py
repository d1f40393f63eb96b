"""Reading WeChat Pay's trade bill (交易账单) in every layout that is about.

A header line, rows whose cells each begin with a backtick, a summary header, one summary line.
Columns are found by name: there are layouts of 20, 24, 27 and 29 of them. Amounts are yuan.
Source: APIv3, 申请交易账单.
"""

import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal

from estation.outside.pay_channels import BillRow, ParsedBill
from estation.outside.pay_channels.calling import BILL_BYTES
from estation.shared.clock import BEIJING
from estation.shared.money import NotMoney, fen_from_yuan

GZIP_MAGIC = b"\x1f\x8b"
_SEPARATOR = ",`"
_FULL_WIDTH_COLON = "："
_NUMBER = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,8})?")
_SUMS = {
    # Summary column -> the columns it may sum; the first one the header has.
    "应结订单总金额": ("应结订单金额",),
    "总交易额": ("总金额", "应结订单金额"),
    "退款总金额": ("退款金额",),
    "总退款金额": ("退款金额",),
    "充值券退款总金额": ("充值券退款金额",),
    "总代金券或立减优惠退款金额": ("代金券或立减优惠退款金额",),
    "手续费总金额": ("手续费",),
    "订单总金额": ("订单金额",),
    "申请退款总金额": ("申请退款金额",),
}
_COUNT = "总交易单数"
_RECEIVED = ("应结订单总金额", "总交易额")
_RETURNED = ("退款总金额", "总退款金额")
_FEES = "手续费总金额"


@dataclass(frozen=True, slots=True)
class Table:
    """Any of WeChat Pay's bills, cut into cells; `rows[i]` stood on line i + 2."""

    header: list[str]
    rows: list[list[str]]
    summary: dict[str, str]


def unpacked(data: bytes) -> bytes:
    """The plain text, whether or not someone on the way compressed or unpacked it.

    Raises ValueError for a broken or oversized gzip stream.
    """
    if not data.startswith(GZIP_MAGIC):
        return data
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = inflater.decompress(data, BILL_BYTES)
    except zlib.error as failure:
        raise ValueError(f"not a gzip file: {failure}") from None
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError("the gzip file is cut short or larger than allowed")
    return text


def read_table(data: bytes) -> Table:
    """Raises ValueError naming the line."""
    try:
        text = unpacked(data).decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise ValueError(f"the bill is not UTF-8: byte {failure.start}") from None
    # Not splitlines(): it would also cut at separators inside a product's name.
    lines = [line.removesuffix("\r") for line in text.rstrip().split("\n")]
    header = lines[0].split(",")
    rows: list[list[str]] = []
    for line_no, line in enumerate(lines[1:], start=2):
        if not line.startswith("`"):
            return Table(header, rows, _summary(lines[line_no - 1 :], line_no))
        cells = line[1:].split(_SEPARATOR)
        if len(cells) != len(header):
            raise ValueError(f"line {line_no}: {len(cells)} cells under {len(header)} columns")
        rows.append(cells)
    raise ValueError(f"line {len(lines)}: the bill ends without its summary")


def parse_trade_bill(data: bytes) -> ParsedBill:
    """Raises ValueError naming the line when this is no trade bill."""
    table = read_table(data)
    columns = _Columns.found_in(table.header)
    rows = []
    for line_no, cells in enumerate(table.rows, start=2):
        try:
            rows.append(columns.row(cells, line_no))
        except (ValueError, NotMoney) as failure:
            raise ValueError(f"line {line_no}: {failure}") from None
    return ParsedBill(rows=rows, proof=_proof(table), settlement_fen=_settlement_fen(table.summary))


def _summary(lines: list[str], line_no: int) -> dict[str, str]:
    if len(lines) != 2 or not lines[1].startswith("`"):
        raise ValueError(f"line {line_no}: a summary must be two lines at the end")
    names = lines[0].split(",")
    values = lines[1][1:].split(_SEPARATOR)
    if len(names) != len(values):
        raise ValueError(f"line {line_no + 1}: {len(values)} sums under {len(names)} names")
    return dict(zip(names, values, strict=True))


@dataclass(frozen=True, slots=True)
class _RefundColumns:
    at: int
    number: int
    amount: int
    state: int


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where this bill's layout has what we need."""

    at: int
    trade_no: int
    number: int
    state: int
    amount: int
    fee: int
    refund: _RefundColumns | None

    @classmethod
    def found_in(cls, header: list[str]) -> "_Columns":
        def column(*names: str) -> int:
            for name in names:
                if name in header:
                    return header.index(name)
            raise ValueError(f"line 1: no column {names[0]}")

        refund = None
        if "商户退款单号" in header:
            refund = _RefundColumns(
                at=column("退款申请时间", "交易时间"),
                number=column("商户退款单号"),
                amount=column("申请退款金额", "退款金额"),
                state=column("退款状态"),
            )
        return cls(
            at=column("交易时间"),
            trade_no=column("微信订单号"),
            number=column("商户订单号"),
            state=column("交易状态"),
            amount=column("订单金额", "总金额"),
            fee=column("手续费"),
            refund=refund,
        )

    def row(self, cells: list[str], line_no: int) -> BillRow:
        """SUCCESS is a payment; REFUND and REVOKED send money back. Raises ValueError."""
        if cells[self.state] == "SUCCESS":
            return self._built("payment", cells, line_no, self.at, self.amount, self.state, None)
        if self.refund is None:
            raise ValueError(f"{cells[self.state]} in a bill without refund columns")
        refund = self.refund
        number = cells[refund.number]
        return self._built(
            "refund",
            cells,
            line_no,
            refund.at if cells[refund.at] else self.at,
            refund.amount,
            refund.state if cells[refund.state] else self.state,
            None if number in ("", "0") else number,
        )

    def _built(
        self,
        kind: str,
        cells: list[str],
        line_no: int,
        at: int,
        amount: int,
        state: int,
        refund_no: str | None,
    ) -> BillRow:
        return BillRow(
            kind=kind,
            out_trade_no=cells[self.number],
            channel_trade_no=cells[self.trade_no],
            refund_no=refund_no,
            amount_fen=abs(fen_from_yuan(cells[amount])),
            fee_fen_e3=fee_fen_e3(cells[self.fee]),
            at=_moment(cells[at]),
            state=cells[state],
            line_no=line_no,
        )


def number_in(text: str) -> Decimal:
    """A plain decimal number. Raises ValueError (Decimal would also take NaN and 1e9)."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"no number: {text[:32]}")
    return Decimal(text)


def fee_fen_e3(text: str) -> int:
    """Yuan with up to five decimals as thousandths of a fen. Raises ValueError."""
    thousandths = number_in(text) * 100_000
    if thousandths != int(thousandths):
        raise ValueError(f"a fee with more than five decimals: {text[:32]}")
    return int(thousandths)


def _moment(text: str) -> datetime:
    if len(text) != 19:
        raise ValueError(f"no time: {text[:32]}")
    return datetime.fromisoformat(text.replace(_FULL_WIDTH_COLON, ":")).replace(tzinfo=BEIJING)


def _proof(table: Table) -> dict[str, tuple[str, str]]:
    """Every column of the summary we know against our own sum of the rows."""
    proof = {}
    for name, text in table.summary.items():
        ours = _our_figure(table, name)
        if ours is not None:
            proof[name] = _as_stated(ours, number_in(text))
    if _COUNT not in proof:
        raise ValueError(f"the summary has no {_COUNT}")
    return proof


def _settlement_fen(summary: dict[str, str]) -> int | None:
    """What the summary says is paid out; fees of refunds stand in its fees below zero."""
    received, returned = (
        next((summary[name] for name in names if name in summary), None)
        for names in (_RECEIVED, _RETURNED)
    )
    if received is None or returned is None or _FEES not in summary:
        return None
    yuan = number_in(received) - number_in(returned) - number_in(summary[_FEES])
    return int((yuan * 100).quantize(Decimal(1), ROUND_HALF_UP))


def _as_stated(ours: Decimal, theirs: Decimal) -> tuple[str, str]:
    """Counts appear as 45.0 and fees rounded to two decimals, so compare as they print it."""
    decimals = max(2, -int(theirs.as_tuple().exponent))
    step = Decimal(1).scaleb(-decimals)
    return str(ours.quantize(step, ROUND_HALF_UP)), str(theirs.quantize(step))


def _our_figure(table: Table, name: str) -> Decimal | None:
    if name == _COUNT:
        return Decimal(len(table.rows))
    for column in _SUMS.get(name, ()):
        if column in table.header:
            index = table.header.index(column)
            return sum((number_in(cells[index]) for cells in table.rows), Decimal())
    return None
