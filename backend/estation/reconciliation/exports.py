"""A run's differences as CSV that ties out and that no spreadsheet runs."""

from collections.abc import Iterable
from typing import Any

from estation.reconciliation.queries import DifferenceView, RunView
from estation.reconciliation.rules import KINDS, NOT_OF_A_LINE, Kind
from estation.shared.money import yuan_from_fen
from estation.shared.sheets import BOM, csv_lines, neutral_cell

HEADER = (
    "类型",
    "说明",
    "渠道",
    "商户账户",
    "商户订单号",
    "我方金额（元）",
    "渠道金额（元）",
    "差额（元）",
    "渠道流水号",
    "渠道时间",
    "我方时间",
    "总账凭证",
)


class Export:
    """Makes the file piece by piece and keeps the sums for its footer."""

    def __init__(self, run: RunView) -> None:
        self._run = run
        self.count = 0
        self.our_fen = self.their_fen = 0
        self.our_outside_fen = self.their_outside_fen = 0

    def header(self) -> str:
        return BOM + csv_lines([HEADER])

    def rows(self, differences: Iterable[DifferenceView]) -> str:
        return csv_lines(self._row(one) for one in differences)

    def _row(self, one: DifferenceView) -> list[str]:
        self.count += 1
        self.our_fen += one.our_fen or 0
        self.their_fen += one.their_fen or 0
        theirs, ours = one.theirs or {}, one.ours or {}
        day = str(self._run.day)
        is_refund = theirs.get("kind") == "refund" or one.kind in NOT_OF_A_LINE
        if is_refund or theirs.get("day", day) != day:
            self.their_outside_fen += one.their_fen or 0
        if is_refund or one.kind is Kind.UNKNOWN_MERCHANT or ours.get("day", day) != day:
            self.our_outside_fen += one.our_fen or 0
        meaning = KINDS[one.kind]
        texts = (meaning.label, meaning.cause, one.channel, one.account_id, one.out_trade_no)
        details = (
            theirs.get("channel_trade_no") or ours.get("channel_trade_no") or "",
            theirs.get("at") or "",
            ours.get("at") or "",
            ours.get("transfer_id") or "",
        )
        return [
            *map(neutral_cell, texts),
            _yuan(one.our_fen),
            _yuan(one.their_fen),
            _yuan((one.their_fen or 0) - (one.our_fen or 0)),
            *(neutral_cell(str(detail)) for detail in details),
        ]

    def footer(self) -> str:
        """Sums that tie to the fen on each side: what is listed, less what of it is no receipt
        of this day at a known account (refunds, the neighbouring day, a bill's total), plus what
        agreed, is the day's total. Then what each channel is expected to pay out beside what its
        bill says, the files' hashes and the digests."""
        run = self._run
        outside = "其中退款、相邻日、未配置商户、应结算金额（不计入当日总额）"
        matched = _yuan(run.matched_fen)
        rows = [
            _sum("合计", f"{self.count} 条", _yuan(self.our_fen), _yuan(self.their_fen)),
            _sum(outside, "", _yuan(self.our_outside_fen), _yuan(self.their_outside_fen)),
            _sum("相符", f"{run.matched} 笔", matched, matched),
        ]
        for leg in run.legs:
            name = neutral_cell(f"{leg['account_id']} 账单 {leg['sha256']}")
            rows.append(_sum("当日总额", name, _yuan(leg["our_fen"]), _yuan(leg["their_fen"])))
        rows.extend(_settled(leg) for leg in run.legs if leg.get("settlement"))
        rows.append(["结果摘要", run.result_digest])
        rows.append(["输入摘要", run.input_digest])
        return csv_lines(rows)


_PARTS = {
    "gross_fen": "收款",
    "refund_fen": "退款",
    "fee_fen": "手续费",
    "fee_back_fen": "退回手续费",
}


def _settled(leg: dict[str, Any]) -> list[str]:
    one = leg["settlement"]
    said = "，".join(f"{name} {_yuan(one[fen])}" for fen, name in _PARTS.items())
    note = neutral_cell(f"{leg['account_id']} {said}")
    return _sum("应结算金额", note, _yuan(one["net_fen"]), _yuan(one["stated_fen"]))


def _sum(label: str, note: str, ours: str, theirs: str) -> list[str]:
    return [label, note, "", "", "", ours, theirs]


def _yuan(fen: int | None) -> str:
    return "" if fen is None else yuan_from_fen(fen)
