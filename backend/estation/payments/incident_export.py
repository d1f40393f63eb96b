"""Incidents as CSV that ties out: the last row is the sum of the rows above it."""

from collections.abc import Iterable

from estation.payments.queries import IncidentView
from estation.payments.staff_words import OWNER_WORDS, STATE_WORDS, incident_meaning, incident_name
from estation.shared.clock import BEIJING
from estation.shared.money import yuan_from_fen
from estation.shared.sheets import BOM, csv_lines, neutral_cell

HEADER = (
    "编号",
    "类型",
    "原因",
    "状态",
    "归属",
    "处理人",
    "渠道",
    "商户账户",
    "商户订单号",
    "渠道流水号",
    "金额（元）",
    "登记时间",
    "处理时限",
    "办结时间",
    "办结人",
    "处理结果",
)


class IncidentExport:
    """Makes the file piece by piece and keeps the sums for its last row."""

    def __init__(self) -> None:
        self.count = 0
        self.total_fen = 0

    def header(self) -> str:
        return BOM + csv_lines([HEADER])

    def rows(self, incidents: Iterable[IncidentView]) -> str:
        return csv_lines(self._row(one) for one in incidents)

    def footer(self) -> str:
        sums = ["合计", f"{self.count} 件", *[""] * 8, yuan_from_fen(self.total_fen), *[""] * 5]
        return csv_lines([sums])

    def _row(self, one: IncidentView) -> list[str]:
        self.count += 1
        self.total_fen += one.amount_fen
        texts = (
            str(one.id),
            incident_name(one.kind),
            incident_meaning(one.kind),
            STATE_WORDS[one.state],
            OWNER_WORDS.get(one.owner, one.owner),
            one.assigned_to,
            one.channel,
            one.account_id,
            one.out_trade_no,
            one.channel_trade_no or "",
        )
        moments = (one.opened_at, one.due_at, one.resolved_at)
        return [
            *map(neutral_cell, texts),
            yuan_from_fen(one.amount_fen),
            *(m.astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S") if m else "" for m in moments),
            neutral_cell(one.resolved_by),
            neutral_cell(one.resolution),
        ]
