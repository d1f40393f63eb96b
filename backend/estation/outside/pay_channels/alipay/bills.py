"""Reading Alipay's trade bill (业务明细): a ZIP of GBK files whose footer states the totals.

Nothing signs the file, so those totals are its only proof. Columns are found by name.
Source: Alipay open platform, 查询对账单下载地址.
"""

import io
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from estation.outside.pay_channels import BillRow, ParsedBill
from estation.outside.pay_channels.calling import BILL_BYTES
from estation.shared.clock import BEIJING
from estation.shared.money import NotMoney, fen_from_yuan, yuan_from_fen

_DETAIL_NAME: Final = "业务明细.csv"
_SUMMARY_NAMES: Final = ("业务明细(汇总).csv", "业务明细（汇总）.csv")
_NET: Final = "实收净额（元）"
_MAX_FILES: Final = 16
_UTF8_NAME: Final = 0x800
_KINDS: Final = {"交易": "payment", "退款": "refund"}
_MONEY: Final = r"(-?[0-9]+\.[0-9]{2})元"
_PAYMENT_TOTALS: Final = re.compile(
    rf"#交易合计：([0-9]+)笔，商家实收共{_MONEY}，商家优惠共{_MONEY}"
)
_REFUND_TOTALS: Final = re.compile(
    rf"#退款合计：([0-9]+)笔，商家实收退款共{_MONEY}，商家优惠退款共{_MONEY}"
)
_FEE: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class _Line:
    """A row with the two columns that only the proof needs."""

    row: BillRow
    received_fen: int
    merchant_discount_fen: int


def parse_trade_bill(data: bytes) -> ParsedBill:
    """Raises ValueError naming the line when this is no trade bill."""
    detail, summary = _texts(data)
    lines = [line.strip() for line in detail.splitlines()]
    header_no, header = _header(lines)
    read: list[_Line] = []
    for line_no, line in enumerate(lines[header_no:], start=header_no + 1):
        if not line or line.startswith("#"):
            continue
        try:
            read.append(_line(header, line, line_no))
        except (ValueError, NotMoney, KeyError) as failure:
            raise ValueError(f"line {line_no}: {failure}") from None
    return ParsedBill(
        rows=[line.row for line in read],
        proof=_proof(lines, read),
        settlement_fen=_settlement_fen(summary),
    )


def _texts(data: bytes) -> tuple[str, bytes]:
    """The detail file and the summary, found by their names whatever their place in the archive.

    The summary proves nothing line by line: it comes as it is, empty where there is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = archive.infolist()
            if len(files) > _MAX_FILES or sum(file.file_size for file in files) > BILL_BYTES:
                raise ValueError("the archive is larger than a bill")
            details = [file for file in files if _name(file).endswith(_DETAIL_NAME)]
            if len(details) != 1:
                raise ValueError(f"{len(details)} files end in {_DETAIL_NAME}")
            # Read through the declared size only: the header could lie about it.
            with archive.open(details[0]) as file:
                content = file.read(BILL_BYTES + 1)
            summary = b""
            for one in files:
                if _name(one).endswith(_SUMMARY_NAMES):
                    with archive.open(one) as file:
                        summary = file.read(BILL_BYTES + 1)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError) as failure:
        raise ValueError(f"no readable ZIP: {failure}") from None
    if max(len(content), len(summary)) > BILL_BYTES:
        raise ValueError("the archive is larger than a bill")
    return _decoded(content), summary


def _settlement_fen(summary: bytes) -> int | None:
    """The net of the summary's own total line; None when it has no such line."""
    text = summary.decode("gb18030", errors="replace")
    table = [
        [cell.strip() for cell in line.split(",")]
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    ]
    total = next((cells for cells in table[1:] if cells[0] == "合计"), None)
    if total is None or _NET not in table[0] or len(total) != len(table[0]):
        return None
    try:
        return fen_from_yuan(total[table[0].index(_NET)])
    except NotMoney:
        return None


def _decoded(content: bytes) -> str:
    try:
        return content.decode("gb18030")
    except UnicodeDecodeError as failure:
        raise ValueError(f"the bill is not GBK: byte {failure.start}") from None


def _name(file: zipfile.ZipInfo) -> str:
    """Alipay writes GBK names without the UTF-8 flag; zipfile then reads them as cp437."""
    if file.flag_bits & _UTF8_NAME:
        return file.filename
    return file.filename.encode("cp437", errors="replace").decode("gbk", errors="replace")


def _header(lines: list[str]) -> tuple[int, list[str]]:
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            return number, [cell.strip() for cell in line.split(",")]
    raise ValueError(f"line {len(lines)}: no header")


def _line(header: list[str], line: str, line_no: int) -> _Line:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells under {len(header)} columns")
    named = dict(zip(header, cells, strict=True))
    kind = _KINDS.get(named["业务类型"])
    if kind is None:
        raise ValueError(f"unknown 业务类型 {named['业务类型']}")
    return _Line(
        row=BillRow(
            kind=kind,
            out_trade_no=named["商户订单号"],
            channel_trade_no=named["支付宝交易号"],
            refund_no=named["退款批次号/请求号"] or None if kind == "refund" else None,
            amount_fen=abs(fen_from_yuan(named["订单金额（元）"])),
            # Alipay prints what it takes as negative; ours is what the channel costs us.
            fee_fen_e3=-_fee_fen_e3(named["服务费（元）"]),
            at=_moment(named["完成时间"]),
            state=named["业务类型"],
            line_no=line_no,
        ),
        received_fen=fen_from_yuan(named["商家实收（元）"]),
        merchant_discount_fen=fen_from_yuan(named["商家优惠（元）"]),
    )


def _fee_fen_e3(text: str) -> int:
    if not _FEE.fullmatch(text):
        raise ValueError(f"no fee: {text[:32]}")
    return int(Decimal(text) * 100_000)


def _moment(text: str) -> datetime:
    if len(text) != 19:
        raise ValueError(f"no time: {text[:32]}")
    return datetime.fromisoformat(text).replace(tzinfo=BEIJING)


def _proof(lines: list[str], read: list[_Line]) -> dict[str, tuple[str, str]]:
    proof = {}
    for name, kind, pattern in (
        ("交易合计", "payment", _PAYMENT_TOTALS),
        ("退款合计", "refund", _REFUND_TOTALS),
    ):
        stated = next((found for line in lines if (found := pattern.match(line))), None)
        if stated is None:
            raise ValueError(f"line {len(lines)}: the bill ends without its {name}")
        own = [line for line in read if line.row.kind == kind]
        proof[f"{name} 笔数"] = (str(len(own)), str(int(stated[1])))
        proof[f"{name} 商家实收"] = (_sum(line.received_fen for line in own), stated[2])
        proof[f"{name} 商家优惠"] = (_sum(line.merchant_discount_fen for line in own), stated[3])
    return proof


def _sum(amounts_fen: Iterable[int]) -> str:
    return yuan_from_fen(sum(amounts_fen))
