"""Refunds at WeChat Pay: accepted at once, done after a while."""

import base64
import json
import secrets
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from estation.sandbox import shangmi, world
from estation.sandbox.clocks import from_ms, rfc3339, to_ms
from estation.sandbox.faults import Fault
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row, Store
from estation.sandbox.wechat_pay import fields, modes, orders
from estation.sandbox.wechat_pay.protocol import PayError, bad_field
from estation.shared.clock import BEIJING

DONE_AFTER = timedelta(seconds=5)
MOST_PER_ORDER = 50
APART = timedelta(minutes=1)
REFUNDABLE_FOR = timedelta(days=365)


def create(hub: Hub, merchant: world.Merchant, values: dict[str, Any]) -> Row:
    """Accept a refund, or give the same one again; of a combined order the merchant is the
    sub-order's. Raises PayError."""
    number = fields.refund_number(fields.text(values, "out_refund_no", 64, required=True))
    fields.text(values, "reason", 80)
    fields.notify_url(values, required=False, most=256)
    amount = fields.section(values, "amount", required=True)
    refund_fen = fields.fen(amount, "refund", at="/amount")
    total_fen = fields.fen(amount, "total", at="/amount")
    fields.currency(amount, required=True)
    account = fields.text(values, "funds_account", 32)
    if account not in {"", "AVAILABLE", "UNSETTLED"}:
        raise bad_field("/funds_account", account, "应为 AVAILABLE 或 UNSETTLED")
    with hub.store.transaction():
        order = _order(hub, merchant, values)
        earlier = _find(hub.store, merchant.mchid, number)
        if earlier is not None:
            _refuse_other(earlier, order, refund_fen)
            return earlier
        _refuse_if_wrong(hub, order, refund_fen, total_fen)
        event = f"{order['out_trade_no']} {merchant.mchid}"
        trouble = hub.faults.take("refund", "wechat_pay", event)
        if trouble is None or trouble.kind != "not_enough":
            return _accept(hub, order, values, refund_fen, trouble)
    # Outside the transaction, so that the trouble is used up.
    raise PayError(403, "NOT_ENOUGH", "基本账户余额不足，请充值后重新发起")


def _order(hub: Hub, merchant: world.Merchant, values: dict[str, Any]) -> Row:
    transaction_id = fields.text(values, "transaction_id", 32)
    out_trade_no = fields.text(values, "out_trade_no", 32)
    if not transaction_id and not out_trade_no:
        raise bad_field("/out_trade_no", "", "与 /transaction_id 二选一必填")
    try:
        if transaction_id:
            return orders.by_transaction(hub, merchant.mchid, transaction_id)
        return orders.by_number(hub, merchant.mchid, out_trade_no)
    except PayError as missing:
        if missing.code != "ORDER_NOT_EXIST":
            raise
        raise PayError(404, "RESOURCE_NOT_EXISTS", "订单不存在") from None


def _find(store: Store, mchid: str, out_refund_no: str) -> Row | None:
    return store.row(
        "select * from wx_refund where mchid = ? and out_refund_no = ?", mchid, out_refund_no
    )


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
        "select amount_fen, created_at from wx_refund"
        " where mchid = ? and out_trade_no = ? and state <> 'CLOSED'",
        order["mchid"],
        order["out_trade_no"],
    )
    if refund_fen > order["amount_fen"] - sum(row["amount_fen"] for row in earlier):
        raise PayError(400, "INVALID_REQUEST", "申请退款金额大于可退余额")
    if len(earlier) >= MOST_PER_ORDER:
        raise PayError(400, "INVALID_REQUEST", f"一笔订单最多部分退款 {MOST_PER_ORDER} 次")
    if any(to_ms(now - APART) < row["created_at"] for row in earlier):
        raise PayError(429, "FREQUENCY_LIMITED", "同一订单的多次部分退款需间隔 1 分钟")


_OUTCOMES = {"abnormal": "ABNORMAL", "closed": "CLOSED"}


def _accept(
    hub: Hub, order: Row, values: dict[str, Any], refund_fen: int, trouble: Fault | None
) -> Row:
    now = hub.clocks.now()
    kind = trouble.kind if trouble else ""
    wait = timedelta(seconds=trouble.seconds(3600)) if trouble and kind == "slow" else DONE_AFTER
    day = now.astimezone(BEIJING).strftime("%Y%m%d")
    hub.store.insert(
        "wx_refund",
        mchid=order["mchid"],
        out_refund_no=values["out_refund_no"],
        refund_id=f"503{secrets.randbelow(10**8):08d}{day}{secrets.randbelow(10**10):010d}",
        out_trade_no=order["out_trade_no"],
        amount_fen=refund_fen,
        reason=values.get("reason", ""),
        notify_url=values.get("notify_url", ""),
        asked=json.dumps(values, ensure_ascii=False),
        created_at=to_ms(now),
        due_at=to_ms(now + wait),
        outcome=_OUTCOMES.get(kind, "SUCCESS"),
        state="PROCESSING",
    )
    hub.store.run(
        "update wx_order set state = 'REFUND' where mchid = ? and out_trade_no = ?",
        order["mchid"],
        order["out_trade_no"],
    )
    return query(hub, order["mchid"], values["out_refund_no"])


def query(hub: Hub, mchid: str, out_refund_no: str) -> Row:
    fields.refund_number(out_refund_no)
    refund = _find(hub.store, mchid, out_refund_no)
    if refund is None:
        raise PayError(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
    return refund


_OTHER_WAYS = {"USER_BANK_CARD": "OTHER_BANKCARD", "MERCHANT_BANK_CARD": "OTHER_BANKCARD"}


def apply_abnormal(
    hub: Hub, merchant: world.Merchant, refund_id: str, values: dict[str, Any], serial: str
) -> Row:
    """An ABNORMAL refund goes on its way again, to another card. Raises PayError.

    `serial` is the request's Wechatpay-Serial: the key the card fields are sealed for.
    """
    number = fields.refund_number(fields.text(values, "out_refund_no", 64, required=True))
    kind = fields.text(values, "type", 32, required=True)
    if kind not in _OTHER_WAYS:
        raise bad_field("/type", kind, "应为 USER_BANK_CARD 或 MERCHANT_BANK_CARD")
    fields.text(values, "bank_type", 16, required=kind == "USER_BANK_CARD")
    for name in ("bank_account", "real_name"):
        sealed = fields.text(values, name, 1024, required=kind == "USER_BANK_CARD")
        if sealed:
            _unseal(hub, sealed, serial, f"/{name}")
    with hub.store.transaction():
        refund = query(hub, merchant.mchid, number)
        if refund["refund_id"] != refund_id:
            raise PayError(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
        if refund["state"] != "ABNORMAL":
            raise PayError(400, "INVALID_REQUEST", "退款单状态不是退款异常，不能发起异常退款")
        hub.store.run(
            "update wx_refund set state = 'PROCESSING', outcome = 'SUCCESS', due_at = ?,"
            " channel = ? where mchid = ? and out_refund_no = ?",
            to_ms(hub.clocks.now() + DONE_AFTER),
            _OTHER_WAYS[kind],
            merchant.mchid,
            number,
        )
    return query(hub, merchant.mchid, number)


def _unseal(hub: Hub, sealed: str, serial: str, pointer: str) -> None:
    """RSA-OAEP with SHA-1 (or SM2), under the key the request names; the card is not kept."""
    unreadable = bad_field(pointer, "", "敏感信息解密失败，请检查加密所用的公钥")
    try:
        raw = base64.b64decode(sealed, validate=True)
    except ValueError:
        raise unreadable from None
    if shangmi.is_available() and (sm := shangmi.platform_key(hub.keys.folder)).serial == serial:
        if not sm.opens(raw):
            raise unreadable
        return
    key = modes.decrypting_key(hub.keys, serial)
    if key is None:
        raise PayError(400, "PARAM_ERROR", "Http头Wechatpay-Serial不是有效的平台证书或公钥")
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 -- theirs
    try:
        key.decrypt(raw, oaep)
    except ValueError:
        raise unreadable from None


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
                " case when outcome = 'SUCCESS' then due_at end"
                " where mchid = ? and out_refund_no = ?",
                refund["mchid"],
                refund["out_refund_no"],
            )
            _tell(hub, query(hub, refund["mchid"], refund["out_refund_no"]))


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
        account=refund["mchid"],
        event=f"REFUND.{refund['state']}",
        out_trade_no=refund["out_trade_no"],
        url=refund["notify_url"],
        plaintext={
            "mchid": refund["mchid"],
            "refund_status": refund["state"],
            **news,
            "amount": amount,
        },
    )


def told(hub: Hub, refund: Row) -> dict[str, Any]:
    """The answer of create and query."""
    order = orders.by_number(hub, refund["mchid"], refund["out_trade_no"])
    total, part = order["amount_fen"], refund["amount_fen"]
    answer: dict[str, Any] = {
        "refund_id": refund["refund_id"],
        "out_refund_no": refund["out_refund_no"],
        "transaction_id": order["transaction_id"],
        "out_trade_no": refund["out_trade_no"],
        "channel": refund["channel"],
        "user_received_account": "支付用户零钱"
        if refund["channel"] == "ORIGINAL"
        else "招商银行借记卡0403",
        "create_time": rfc3339(refund["created_at"]),
        "status": refund["state"],
        "funds_account": json.loads(refund["asked"]).get("funds_account", "UNSETTLED"),
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
