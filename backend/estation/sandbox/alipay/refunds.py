"""Refunds at Alipay: at once, idempotent by out_request_no, refund_fee cumulative."""

from typing import Any

from estation.sandbox.alipay import fields, trades
from estation.sandbox.alipay.protocol import TradeError
from estation.sandbox.clocks import plain
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row
from estation.shared.money import yuan_from_fen


def refund(hub: Hub, biz: dict[str, Any]) -> dict[str, Any]:
    """Give back all or a part. Raises TradeError."""
    amount = fields.money(biz, "refund_amount")
    asked = fields.text(biz, "out_request_no", 64)
    with hub.store.transaction():
        trade = trades.named(hub, biz)
        if trade["paid_at"] is None:
            raise TradeError("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
        if not asked and amount != trade["amount_fen"]:
            raise TradeError("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "部分退款必须传 out_request_no")
        number = asked or trade["out_trade_no"]
        earlier = _find(hub, trade, number)
        if earlier is not None:
            if earlier["amount_fen"] != amount:
                raise TradeError("ACQ.DISCORDANT_REPEAT_REQUEST", "同一请求号的退款金额不一致")
            return _answer(trade, earlier, changed="N")
        if amount > trade["amount_fen"] - trade["refunded_fen"]:
            raise TradeError("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限")
        return _give_back(hub, trade, number, amount, fields.text(biz, "refund_reason", 256))


def _find(hub: Hub, trade: Row, number: str) -> Row | None:
    return hub.store.row(
        "select * from ali_refund where trade_no = ? and out_request_no = ?",
        trade["trade_no"],
        number,
    )


def _give_back(hub: Hub, trade: Row, number: str, amount: int, reason: str) -> dict[str, Any]:
    hub.store.insert(
        "ali_refund",
        trade_no=trade["trade_no"],
        out_request_no=number,
        amount_fen=amount,
        reason=reason,
        created_at=hub.now_ms(),
    )
    hub.store.run(
        "update ali_trade set refunded_fen = refunded_fen + ? where trade_no = ?",
        amount,
        trade["trade_no"],
    )
    trade = trades.named(hub, {"trade_no": trade["trade_no"]})
    if trade["refunded_fen"] == trade["amount_fen"]:
        trades.shut(hub, trade)
        trade = trades.named(hub, {"trade_no": trade["trade_no"]})
    done = _find(hub, trade, number)
    trades.tell(hub, trade, done)
    return _answer(trade, done, changed="Y")


def _answer(trade: Row, done: Row | None, *, changed: str) -> dict[str, Any]:
    return {
        "buyer_logon_id": trade["buyer_logon_id"],
        "buyer_user_id": trade["buyer_id"],
        "fund_change": changed,
        "gmt_refund_pay": plain(done["created_at"]) if done else "",
        "out_trade_no": trade["out_trade_no"],
        "refund_fee": yuan_from_fen(trade["refunded_fen"]),
        "send_back_fee": yuan_from_fen(done["amount_fen"]) if done and changed == "Y" else "0.00",
        "trade_no": trade["trade_no"],
    }


def query(hub: Hub, biz: dict[str, Any]) -> dict[str, Any]:
    """Without refund_status in the answer nothing was refunded under this number."""
    number = fields.text(biz, "out_request_no", 64, required=True)
    trade = trades.named(hub, biz)
    done = _find(hub, trade, number)
    if done is None:
        return {}
    return {
        "out_request_no": number,
        "out_trade_no": trade["out_trade_no"],
        "refund_amount": yuan_from_fen(done["amount_fen"]),
        "refund_reason": done["reason"],
        "refund_status": "REFUND_SUCCESS",
        "gmt_refund_pay": plain(done["created_at"]),
        "total_amount": yuan_from_fen(trade["amount_fen"]),
        "trade_no": trade["trade_no"],
    }


def cancel(hub: Hub, biz: dict[str, Any]) -> dict[str, Any]:
    """Close what is unpaid, refund in full what is paid; may be repeated."""
    trade = trades.named(hub, biz)
    action = ""
    if trade["state"] == "WAIT_BUYER_PAY":
        trades.shut(hub, trade)
        action = "close"
    elif trade["refunded_fen"] < trade["amount_fen"] and trade["paid_at"] is not None:
        rest = trade["amount_fen"] - trade["refunded_fen"]
        with hub.store.transaction():
            _give_back(hub, trade, f"cancel_{trade['trade_no']}", rest, "撤销")
        action = "refund"
    answer = {
        "out_trade_no": trade["out_trade_no"],
        "retry_flag": "N",
        "trade_no": trade["trade_no"],
    }
    return {**answer, "action": action} if action else answer
