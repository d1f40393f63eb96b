"""Trade and fund-flow bills as WeChat Pay prints them: BOM, CRLF, backticks, yuan."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from estation.sandbox import billing, world
from estation.sandbox.clocks import plain, to_ms
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row
from estation.shared.money import yuan_from_fen

_COMMON = [
    "交易时间",
    "公众账号ID",
    "商户号",
    "特约商户号",
    "设备号",
    "微信订单号",
    "商户订单号",
    "用户标识",
    "交易类型",
    "交易状态",
    "付款银行",
    "货币种类",
    "应结订单金额",
    "代金券金额",
]
_REFUND = ["微信退款单号", "商户退款单号", "退款金额", "充值券退款金额", "退款类型", "退款状态"]
_REFUND_TIMES = ["退款申请时间", "退款成功时间"]
_GOODS = ["商品名称", "商户数据包", "手续费", "费率", "订单金额"]
_ASKED, _NOTE = ["申请退款金额"], ["费率备注"]

COLUMNS = {
    "ALL": [*_COMMON, *_REFUND, *_GOODS, *_ASKED, *_NOTE],
    "SUCCESS": [*_COMMON, *_GOODS, *_NOTE],
    "REFUND": [*_COMMON, *_REFUND_TIMES, *_REFUND, *_GOODS, *_ASKED, *_NOTE],
}
SUMMARY = [
    "总交易单数",
    "应结订单总金额",
    "退款总金额",
    "充值券退款总金额",
    "手续费总金额",
    "订单总金额",
    "申请退款总金额",
]
FLOW_COLUMNS = [
    "记账时间",
    "微信支付业务单号",
    "资金流水单号",
    "业务名称",
    "业务类型",
    "收支类型",
    "收支金额(元)",
    "账户结余(元)",
    "资金变更提交申请人",
    "备注",
    "业务凭证号",
]
FLOW_SUMMARY = ["资金流水总笔数", "收入笔数", "收入金额", "支出笔数", "支出金额"]
_RATE = "0.60%"


def trade_bill(hub: Hub, mchid: str, day: date, kind: str) -> str | None:
    """The bill's text, or None when there was no such trade that day."""
    start, end = billing.bounds_ms(day)
    made_at = to_ms(billing.snapshot_moment(hub.store, day, hub.clocks.now()))
    cells = (
        [_payment_cells(row) for row in _paid(hub, mchid, start, end)] if kind != "REFUND" else []
    )
    if kind != "SUCCESS":
        cells += [_refund_cells(row, made_at) for row in _refunded(hub, mchid, start, end)]
    if not cells:
        return None
    # The real file is in no order anybody may rely on.
    cells.sort(key=lambda row: hashlib.sha1(str(row).encode()).digest())  # noqa: S324 -- no secret
    columns = COLUMNS[kind]
    rows = [[row[name] for name in columns] for row in cells]
    return _printed(columns, rows, SUMMARY, _trade_totals(cells))


def _paid(hub: Hub, mchid: str, start: int, end: int) -> list[Row]:
    return hub.store.rows(
        "select * from wx_order where mchid = ? and paid_at >= ? and paid_at < ?",
        mchid,
        start,
        end,
    )


def _refunded(hub: Hub, mchid: str, start: int, end: int) -> list[Row]:
    return hub.store.rows(
        "select o.*, r.refund_id, r.out_refund_no, r.amount_fen as refund_fen,"
        " r.created_at as refund_created_at, r.success_at, r.state as refund_state,"
        " r.channel as refund_channel"
        " from wx_refund r join wx_order o using (mchid, out_trade_no)"
        " where mchid = ? and r.created_at >= ? and r.created_at < ?",
        mchid,
        start,
        end,
    )


def _payment_cells(order: Row) -> dict[str, str]:
    yuan = yuan_from_fen(order["amount_fen"])
    return {
        **_order_cells(order),
        "交易时间": plain(order["paid_at"]),
        "交易状态": "SUCCESS",
        "应结订单金额": yuan,
        "微信退款单号": "0",
        "商户退款单号": "0",
        "退款金额": "0.00",
        "退款类型": "",
        "退款状态": "",
        "手续费": _fee(world.fee_fen(order["amount_fen"])),
        "订单金额": yuan,
        "申请退款金额": "0.00",
    }


def _refund_cells(row: Row, made_at: int) -> dict[str, str]:
    """A refund accepted that day; its state as it was when the bill was made."""
    done = row["success_at"] is not None and row["success_at"] <= made_at
    yuan = yuan_from_fen(row["refund_fen"])
    failed = row["refund_state"] in {"ABNORMAL", "CLOSED"}
    return {
        **_order_cells(row),
        "交易时间": plain(row["refund_created_at"]),
        "交易状态": "REFUND",
        "应结订单金额": "0.00",
        "退款申请时间": plain(row["refund_created_at"]),
        "退款成功时间": plain(row["success_at"]) if done else "",
        "微信退款单号": row["refund_id"],
        "商户退款单号": row["out_refund_no"],
        "退款金额": yuan,
        "退款类型": row["refund_channel"],
        "退款状态": "SUCCESS" if done else "FAIL" if failed else "PROCESSING",
        "手续费": _fee(-world.fee_fen(row["refund_fen"])),
        "订单金额": "0.00",
        "申请退款金额": yuan,
    }


def _order_cells(order: Row) -> dict[str, str]:
    return {
        "公众账号ID": order["appid"],
        "商户号": order["mchid"],
        "特约商户号": "0",
        "设备号": "",
        "微信订单号": order["transaction_id"],
        "商户订单号": order["out_trade_no"],
        "用户标识": order["payer_openid"],
        "交易类型": order["trade_type"],
        "付款银行": "OTHERS",
        "货币种类": "CNY",
        "代金券金额": "0.00",
        "充值券退款金额": "0.00",
        "商品名称": order["description"],
        "商户数据包": order["attach"],
        "费率": _RATE,
        "费率备注": "",
    }


def _fee(fen: int) -> str:
    """Five decimals of yuan, as printed, though the fee is whole fen."""
    return f"{yuan_from_fen(fen)}000"


def _fen(cell: str) -> int:
    return int(cell[:-3].replace(".", "")) if len(cell.partition(".")[2]) == 5 else _cents(cell)


def _cents(cell: str) -> int:
    return int(cell.replace(".", ""))


def _trade_totals(rows: Sequence[dict[str, str]]) -> list[str]:
    def total(name: str) -> int:
        return sum(_fen(row[name]) for row in rows)

    return [
        f"{len(rows)}.0",
        yuan_from_fen(total("应结订单金额")),
        yuan_from_fen(total("退款金额")),
        yuan_from_fen(total("充值券退款金额")),
        _fee(total("手续费")),
        yuan_from_fen(total("订单金额")),
        yuan_from_fen(total("申请退款金额")),
    ]


@dataclass(frozen=True, slots=True)
class _Flow:
    at: int
    business_no: str
    kind: str
    amount_fen: int  # signed
    voucher: str
    note: str


def fund_bill(hub: Hub, mchid: str, day: date) -> str | None:
    """The basic account's movements with a running balance, or None when nothing moved."""
    start, end = billing.bounds_ms(day)
    flows = sorted(
        _flows(hub, mchid, end), key=lambda flow: (flow.at, flow.business_no, -flow.amount_fen)
    )
    balance = 0
    rows: list[list[str]] = []
    today = [flow for flow in flows if flow.at >= start]
    for flow in flows:
        balance += flow.amount_fen
        if flow.at >= start:
            rows.append(_flow_cells(flow, balance, f"1000{mchid}{day:%Y%m%d}{len(rows):08d}"))
    if not rows:
        return None
    incoming = [flow.amount_fen for flow in today if flow.amount_fen > 0]
    outgoing = [-flow.amount_fen for flow in today if flow.amount_fen < 0]
    summary = [
        f"{len(today)}.0",
        f"{len(incoming)}.0",
        yuan_from_fen(sum(incoming)),
        f"{len(outgoing)}.0",
        yuan_from_fen(sum(outgoing)),
    ]
    return _printed(FLOW_COLUMNS, rows, FLOW_SUMMARY, summary)


def _flows(hub: Hub, mchid: str, before: int) -> list[_Flow]:
    found = []
    for order in _paid(hub, mchid, 0, before):
        at, number, voucher = order["paid_at"], order["transaction_id"], order["out_trade_no"]
        fee = world.fee_fen(order["amount_fen"])
        found.append(_Flow(at, number, "交易", order["amount_fen"], voucher, ""))
        if fee:
            found.append(_Flow(at, number, "扣除交易手续费", -fee, voucher, f"费率{_RATE}"))
    for row in _refunded(hub, mchid, 0, before):
        net = row["refund_fen"] - world.fee_fen(row["refund_fen"])
        at, voucher = row["refund_created_at"], row["out_refund_no"]
        found.append(_Flow(at, row["refund_id"], "退款", -net, voucher, "退款扣除手续费后净额"))
    return found


def _flow_cells(flow: _Flow, balance: int, number: str) -> list[str]:
    return [
        plain(flow.at),
        flow.business_no,
        number,
        flow.kind,
        flow.kind,
        "收入" if flow.amount_fen > 0 else "支出",
        yuan_from_fen(abs(flow.amount_fen)),
        yuan_from_fen(balance),
        "system",
        flow.note,
        flow.voucher,
    ]


def _printed(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    summary_columns: Sequence[str],
    summary: Sequence[str],
) -> str:
    lines = [",".join(columns), *map(_ticked, rows), ",".join(summary_columns), _ticked(summary)]
    return "\ufeff" + "\r\n".join(lines) + "\r\n"


def _ticked(cells: Sequence[str]) -> str:
    return ",".join("`" + cell.replace("\r", "\\r").replace("\n", "\\n") for cell in cells)
