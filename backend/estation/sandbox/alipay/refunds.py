"""Refunds at Alipay: at once, idempotent by out_request_no, refund_fee cumulative."""

from datetime import timedelta
from typing import Any

from estation.sandbox.alipay import fields, trades
from estation.sandbox.alipay.protocol import Call, TradeError
from estation.sandbox.clocks import from_ms, plain, to_ms
from estation.sandbox.faults import Fault
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row
from estation.shared.money import yuan_from_fen

REFUNDABLE_FOR = timedelta(days=365)
CANCELLABLE_FOR = timedelta(hours=24)
DONE, PROCESSING, FAILED = "REFUND_SUCCESS", "REFUND_PROCESSING", "REFUND_FAIL"
_OUTCOMES = {"processing": DONE, "fail": FAILED}


def refund(hub: Hub, call: Call) -> dict[str, Any]:
    """Give back all or a part. Raises TradeError."""
    biz = call.biz
    amount = fields.money(biz, "refund_amount")
    asked = fields.text(biz, "out_request_no", 64)
    reason = fields.text(biz, "refund_reason", 256)
    finish_due(hub)
    with hub.store.transaction():
        trade = trades.named(hub, biz)
        _refuse_if_wrong(hub, trade)
        if not asked and amount != trade["amount_fen"]:
            raise TradeError("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "部分退款必须传 out_request_no")
        number = asked or trade["out_trade_no"]
        earlier = _find(hub, trade, number)
        if earlier is not None and earlier["amount_fen"] != amount:
            raise TradeError("ACQ.DISCORDANT_REPEAT_REQUEST", "同一请求号的退款金额不一致")
        if earlier is not None and earlier["state"] != FAILED:
            return _answer(trade, call, earlier, changed="N")
        if amount > trade["amount_fen"] - _asked_back(hub, trade):
            raise TradeError("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限")
        trouble = hub.faults.take("refund", "alipay", f"{trade['out_trade_no']} {number}")
        if trouble is None or trouble.kind != "not_enough":
            done = _give_back(hub, trade, number, amount, reason, trouble)
            trade = trades.named(hub, {"trade_no": trade["trade_no"]})
            return _answer(trade, call, done, changed="Y" if done["state"] == DONE else "N")
    # Outside the transaction, so that the trouble is used up.
    raise TradeError("ACQ.SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足")


def _refuse_if_wrong(hub: Hub, trade: Row) -> None:
    if trade["paid_at"] is None:
        raise TradeError("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
    if trade["state"] == "TRADE_FINISHED":
        raise TradeError("ACQ.TRADE_HAS_FINISHED", "交易已完结")
    if hub.clocks.now() > from_ms(trade["paid_at"]) + REFUNDABLE_FOR:
        raise TradeError("ACQ.TRADE_NOT_ALLOW_REFUND", "当前交易不允许退款")


def _asked_back(hub: Hub, trade: Row) -> int:
    """What is given back or on its way."""
    return hub.store.number(
        "select sum(amount_fen) from ali_refund where trade_no = ? and state <> ?",
        trade["trade_no"],
        FAILED,
    )


def _find(hub: Hub, trade: Row, number: str) -> Row | None:
    return hub.store.row(
        "select * from ali_refund where trade_no = ? and out_request_no = ?",
        trade["trade_no"],
        number,
    )


def _give_back(
    hub: Hub, trade: Row, number: str, amount: int, reason: str, trouble: Fault | None
) -> Row:
    """At once, or after a while when a trouble says so; a failed one may be asked for again."""
    wait = trouble.seconds(10) if trouble else 0
    hub.store.run(
        "delete from ali_refund where trade_no = ? and out_request_no = ? and state = ?",
        trade["trade_no"],
        number,
        FAILED,
    )
    hub.store.insert(
        "ali_refund",
        trade_no=trade["trade_no"],
        out_request_no=number,
        amount_fen=amount,
        reason=reason,
        created_at=hub.now_ms(),
        state=PROCESSING,
        outcome=_OUTCOMES.get(trouble.kind, DONE) if trouble else DONE,
        due_at=to_ms(hub.clocks.now() + timedelta(seconds=wait)),
    )
    if trouble is None:
        _finish(hub, _known(hub, trade, number))
    return _known(hub, trade, number)


def _known(hub: Hub, trade: Row, number: str) -> Row:
    found = _find(hub, trade, number)
    if found is None:
        raise LookupError(number)
    return found


def finish_due(hub: Hub) -> None:
    """What time does: refunds under way reach their end."""
    due = hub.store.rows(
        "select * from ali_refund where state = ? and due_at <= ? limit 100",
        PROCESSING,
        hub.now_ms(),
    )
    for waiting in due:
        with hub.store.transaction():
            _finish(hub, waiting)


def _finish(hub: Hub, waiting: Row) -> None:
    named = waiting["trade_no"], waiting["out_request_no"]
    hub.store.run(
        "update ali_refund set state = outcome where trade_no = ? and out_request_no = ?", *named
    )
    if waiting["outcome"] != DONE:
        return
    hub.store.run(
        "update ali_trade set refunded_fen = refunded_fen + ? where trade_no = ?",
        waiting["amount_fen"],
        waiting["trade_no"],
    )
    trade = trades.named(hub, {"trade_no": waiting["trade_no"]})
    if trade["refunded_fen"] == trade["amount_fen"]:
        trades.shut(hub, trade)
        trade = trades.named(hub, {"trade_no": trade["trade_no"]})
    trades.tell(hub, trade, waiting)


def _answer(trade: Row, call: Call, done: Row, *, changed: str) -> dict[str, Any]:
    return {
        "buyer_logon_id": trade["buyer_logon_id"],
        **trades.buyer(trade, call.app, id_name="buyer_user_id"),
        "fund_change": changed,
        "gmt_refund_pay": plain(trades.refunded_at(done)),
        "out_trade_no": trade["out_trade_no"],
        "refund_fee": yuan_from_fen(trade["refunded_fen"]),
        "send_back_fee": yuan_from_fen(done["amount_fen"]) if changed == "Y" else "0.00",
        "trade_no": trade["trade_no"],
    }


def query(hub: Hub, biz: dict[str, Any]) -> dict[str, Any]:
    """Without refund_status in the answer nothing was refunded under this number. When it was
    is told only to who asks for it in query_options."""
    number = fields.text(biz, "out_request_no", 64, required=True)
    finish_due(hub)
    trade = trades.named(hub, biz)
    done = _find(hub, trade, number)
    if done is None:
        return {}
    options = biz.get("query_options")
    wants_moment = isinstance(options, list) and "gmt_refund_pay" in options
    moment = {"gmt_refund_pay": plain(trades.refunded_at(done))} if wants_moment else {}
    return {
        "out_request_no": number,
        "out_trade_no": trade["out_trade_no"],
        "refund_amount": yuan_from_fen(done["amount_fen"]),
        "refund_reason": done["reason"],
        "refund_status": done["state"],
        **(moment if done["state"] == DONE else {}),
        "total_amount": yuan_from_fen(trade["amount_fen"]),
        "trade_no": trade["trade_no"],
    }


def cancel(hub: Hub, biz: dict[str, Any]) -> dict[str, Any]:
    """Close what is unpaid, refund in full what is paid; may be repeated within 24 hours."""
    finish_due(hub)
    trade = trades.named(hub, biz)
    if hub.clocks.now() > from_ms(trade["created_at"]) + CANCELLABLE_FOR:
        raise TradeError("ACQ.TRADE_CANCEL_TIME_OUT", "撤销时间超过限制")
    action = ""
    if trade["state"] == "WAIT_BUYER_PAY":
        trades.shut(hub, trade)
        action = "close"
    elif trade["state"] == "TRADE_FINISHED":
        raise TradeError("ACQ.TRADE_HAS_FINISHED", "交易已完结")
    elif trade["paid_at"] is not None and _asked_back(hub, trade) < trade["amount_fen"]:
        rest = trade["amount_fen"] - _asked_back(hub, trade)
        with hub.store.transaction():
            _give_back(hub, trade, f"cancel_{trade['trade_no']}", rest, "撤销", None)
        action = "refund"
    answer = {
        "out_trade_no": trade["out_trade_no"],
        "retry_flag": "N",
        "trade_no": trade["trade_no"],
    }
    return {**answer, "action": action} if action else answer
