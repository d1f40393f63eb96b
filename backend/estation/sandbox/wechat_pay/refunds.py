"""Refunds at WeChat Pay: accepted at once, done after a while."""

import json
import secrets
from datetime import timedelta
from typing import Any

from estation.sandbox import world
from estation.sandbox.clocks import from_ms, rfc3339, to_ms
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row, Store
from estation.sandbox.wechat_pay import fields, orders
from estation.sandbox.wechat_pay.protocol import PayError, bad_field
from estation.shared.clock import BEIJING

DONE_AFTER = timedelta(seconds=5)
MOST_PER_ORDER = 50
APART = timedelta(minutes=1)
REFUNDABLE_FOR = timedelta(days=365)


def create(hub: Hub, values: dict[str, Any]) -> Row:
    """Accept a refund, or give the same one again. Raises PayError."""
    number = fields.refund_number(fields.text(values, "out_refund_no", 64, required=True))
    fields.text(values, "reason", 80)
    fields.notify_url(values, required=False, most=256)
    amount = fields.section(values, "amount", required=True)
    refund_fen = fields.fen(amount, "refund", at="/amount")
    total_fen = fields.fen(amount, "total", at="/amount")
    fields.currency(amount, required=True)
    with hub.store.transaction():
        order = _order(hub, values)
        earlier = _find(hub.store, number)
        if earlier is not None:
            _refuse_other(earlier, order, refund_fen)
            return earlier
        _refuse_if_wrong(hub, order, refund_fen, total_fen)
        return _accept(hub, order, values, refund_fen)


def _order(hub: Hub, values: dict[str, Any]) -> Row:
    transaction_id = fields.text(values, "transaction_id", 32)
    out_trade_no = fields.text(values, "out_trade_no", 32)
    if not transaction_id and not out_trade_no:
        raise bad_field("/out_trade_no", "", "与 /transaction_id 二选一必填")
    try:
        if transaction_id:
            return orders.by_transaction(hub, transaction_id)
        return orders.by_number(hub, out_trade_no)
    except PayError as missing:
        if missing.code != "ORDER_NOT_EXIST":
            raise
        raise PayError(404, "RESOURCE_NOT_EXISTS", "订单不存在") from None


def _find(store: Store, out_refund_no: str) -> Row | None:
    return store.row("select * from wx_refund where out_refund_no = ?", out_refund_no)


def _refuse_other(earlier: Row, order: Row, refund_fen: int) -> None:
    if earlier["out_trade_no"] != order["out_trade_no"] or earlier["amount_fen"] != refund_fen:
        raise PayError(400, "INVALID_REQUEST", "同一退款单号的订单或金额与首次不一致")


def _refuse_if_wrong(hub: Hub, order: Row, refund_fen: int, total_fen: int) -> None:
    if order["state"] not in {"SUCCESS", "REFUND"}:
        raise PayError(400, "INVALID_REQUEST", "订单未支付，不能退款")
    if total_fen != order["amount_fen"]:
        raise PayError(400, "INVALID_REQUEST", "订单金额与原订单不一致")
    now = hub.clocks.now()
    if now > from_ms(order["paid_at"]) + REFUNDABLE_FOR:
        raise PayError(400, "INVALID_REQUEST", "订单已超过退款期限")
    earlier = hub.store.rows(
        "select amount_fen, created_at from wx_refund where out_trade_no = ? and state <> 'CLOSED'",
        order["out_trade_no"],
    )
    if refund_fen > order["amount_fen"] - sum(row["amount_fen"] for row in earlier):
        raise PayError(400, "INVALID_REQUEST", "申请退款金额大于可退余额")
    if len(earlier) >= MOST_PER_ORDER:
        raise PayError(400, "INVALID_REQUEST", f"一笔订单最多部分退款 {MOST_PER_ORDER} 次")
    if any(to_ms(now - APART) < row["created_at"] for row in earlier):
        raise PayError(429, "FREQUENCY_LIMITED", "同一订单的多次部分退款需间隔 1 分钟")


def _accept(hub: Hub, order: Row, values: dict[str, Any], refund_fen: int) -> Row:
    now = hub.clocks.now()
    trouble = hub.faults.take("refund", "wechat_pay")
    day = now.astimezone(BEIJING).strftime("%Y%m%d")
    hub.store.insert(
        "wx_refund",
        out_refund_no=values["out_refund_no"],
        refund_id=f"503{secrets.randbelow(10**8):08d}{day}{secrets.randbelow(10**10):010d}",
        out_trade_no=order["out_trade_no"],
        amount_fen=refund_fen,
        reason=values.get("reason", ""),
        notify_url=values.get("notify_url", ""),
        asked=json.dumps(values, ensure_ascii=False),
        created_at=to_ms(now),
        due_at=to_ms(now + DONE_AFTER),
        outcome=trouble.kind.upper() if trouble else "SUCCESS",
        state="PROCESSING",
    )
    hub.store.run(
        "update wx_order set state = 'REFUND' where out_trade_no = ?", order["out_trade_no"]
    )
    return query(hub, values["out_refund_no"])


def query(hub: Hub, out_refund_no: str) -> Row:
    fields.refund_number(out_refund_no)
    refund = _find(hub.store, out_refund_no)
    if refund is None:
        raise PayError(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
    return refund


def finish_due(hub: Hub) -> None:
    """What time does: refunds whose moment has come reach their end and are told."""
    now = hub.now_ms()
    due = hub.store.rows(
        "select * from wx_refund where state = 'PROCESSING' and due_at <= ? limit 100", now
    )
    for refund in due:
        with hub.store.transaction():
            hub.store.run(
                "update wx_refund set state = outcome, success_at ="
                " case when outcome = 'SUCCESS' then due_at end where out_refund_no = ?",
                refund["out_refund_no"],
            )
            _tell(hub, query(hub, refund["out_refund_no"]))


def _tell(hub: Hub, refund: Row) -> None:
    answer = told(hub, refund)
    news: dict[str, Any] = {
        name: answer[name]
        for name in (
            *("out_trade_no", "transaction_id", "out_refund_no", "refund_id"),
            *("success_time", "user_received_account"),
        )
        if name in answer
    }
    amount = {
        name: answer["amount"][name] for name in ("total", "refund", "payer_total", "payer_refund")
    }
    hub.notifier.put(
        channel="wechat_pay",
        event=f"REFUND.{refund['state']}",
        out_trade_no=refund["out_trade_no"],
        url=refund["notify_url"],
        plaintext={
            "mchid": world.MCHID,
            "refund_status": refund["state"],
            **news,
            "amount": amount,
        },
    )


def told(hub: Hub, refund: Row) -> dict[str, Any]:
    """The answer of create and query."""
    order = orders.by_number(hub, refund["out_trade_no"])
    total, part = order["amount_fen"], refund["amount_fen"]
    answer: dict[str, Any] = {
        "refund_id": refund["refund_id"],
        "out_refund_no": refund["out_refund_no"],
        "transaction_id": order["transaction_id"],
        "out_trade_no": refund["out_trade_no"],
        "channel": "ORIGINAL",
        "user_received_account": "支付用户零钱",
        "create_time": rfc3339(refund["created_at"]),
        "status": refund["state"],
        "funds_account": "UNSETTLED",
        "amount": {
            "total": total,
            "refund": part,
            "from": [],
            "payer_total": total,
            "payer_refund": part,
            "settlement_refund": part,
            "settlement_total": total,
            "discount_refund": 0,
            "currency": "CNY",
        },
        "promotion_detail": [],
    }
    if refund["success_at"] is not None:
        answer["success_time"] = rfc3339(refund["success_at"])
    return answer
