"""Orders at WeChat Pay: opened by prepay, paid by a wallet, closed by the merchant."""

import json
import secrets
from datetime import datetime, timedelta
from typing import Any

from estation.sandbox import world
from estation.sandbox.clocks import from_ms, rfc3339, to_ms
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row, Store
from estation.sandbox.wechat_pay import fields
from estation.sandbox.wechat_pay.protocol import PayError
from estation.shared.clock import BEIJING

CODE_LIFE = timedelta(hours=2)
H5_LIFE = timedelta(minutes=5)
SHORTEST_EXPIRY = timedelta(minutes=1)
ORDER_LIFE = timedelta(days=7)
PASSWORD_BOX_SECONDS = 30
CODE_SCHEME = "weixin://wxpay/bizpayurl?pr="

STATE_WORDS = {
    "NOTPAY": "订单未支付",
    "SUCCESS": "支付成功",
    "REFUND": "订单发生过退款，退款详情请查询退款单",
    "CLOSED": "订单已关闭",
}


class CannotPay(Exception):
    """Why the wallet refuses, in the payer's words."""


def find(store: Store, mchid: str, out_trade_no: str) -> Row | None:
    return store.row(
        "select * from wx_order where mchid = ? and out_trade_no = ?", mchid, out_trade_no
    )


def prepay(hub: Hub, values: dict[str, Any], trade_type: str, merchant: world.Merchant) -> Row:
    """Open the order, or give the open one again for the same parameters.

    Raises PayError OUT_TRADE_NO_USED, ORDERPAID, ORDER_CLOSED, PARAM_ERROR.
    """
    fields.check_prepay(values, trade_type, merchant)
    number = values["out_trade_no"]
    now = hub.clocks.now()
    parameters = json.dumps([trade_type, values], sort_keys=True, ensure_ascii=False)
    with hub.store.transaction():
        order = find(hub.store, merchant.mchid, number)
        if order is None:
            return _open(hub.store, values, trade_type, parameters, now)
        refuse_if_over(order, now)
        if order["parameters"] != parameters:
            raise PayError(403, "OUT_TRADE_NO_USED", "商户订单号重复：同一订单号的参数与首次不同")
        if order["code_until"] <= to_ms(now):
            _renew_code(hub.store, order, now)
    return _known(hub.store, merchant.mchid, number)


def refuse_if_over(order: Row, now: datetime) -> None:
    """Raises PayError when the order is paid or closed."""
    state = state_of(order, now)
    if state in {"SUCCESS", "REFUND"}:
        raise PayError(400, "ORDERPAID", "该订单已支付")
    if state == "CLOSED":
        raise PayError(400, "ORDER_CLOSED", "该订单已关闭，请使用新的商户订单号")


def _open(
    store: Store, values: dict[str, Any], trade_type: str, parameters: str, now: datetime
) -> Row:
    store.insert(
        "wx_order",
        mchid=values["mchid"],
        appid=values["appid"],
        out_trade_no=values["out_trade_no"],
        trade_type=trade_type,
        description=values["description"],
        attach=values.get("attach", ""),
        notify_url=values["notify_url"],
        amount_fen=values["amount"]["total"],
        asked_openid=values["payer"]["openid"] if trade_type == "JSAPI" else "",
        parameters=parameters,
        expires_at=expiry(values, now),
        created_at=to_ms(now),
        state="NOTPAY",
        **new_code(trade_type, now),
    )
    return _known(store, values["mchid"], values["out_trade_no"])


def expiry(values: dict[str, Any], now: datetime) -> int:
    """The last moment to start paying: time_expire, at least a minute away, at most 7 days."""
    latest = now + ORDER_LIFE
    if "time_expire" not in values:
        return to_ms(latest)
    asked = fields.moment(values["time_expire"], "/time_expire")
    return to_ms(min(max(asked, now + SHORTEST_EXPIRY), latest))


def new_code(trade_type: str, now: datetime) -> dict[str, Any]:
    """prepay_id, code and code_until: an h5_url lives 5 minutes, everything else 2 hours."""
    return {
        "prepay_id": _prepay_id(now),
        "code": secrets.token_urlsafe(7)[:9],
        "code_until": to_ms(now + (H5_LIFE if trade_type == "MWEB" else CODE_LIFE)),
    }


def _prepay_id(now: datetime) -> str:
    return "wx" + now.astimezone(BEIJING).strftime("%d%H%M%S%f") + secrets.token_hex(10)


def _renew_code(store: Store, order: Row, now: datetime) -> None:
    store.run(
        "update wx_order set prepay_id = ?, code = ?, code_until = ?"
        " where mchid = ? and out_trade_no = ?",
        *new_code(order["trade_type"], now).values(),
        order["mchid"],
        order["out_trade_no"],
    )


def _known(store: Store, mchid: str, out_trade_no: str) -> Row:
    order = find(store, mchid, out_trade_no)
    if order is None:
        raise PayError(404, "ORDER_NOT_EXIST", "订单不存在")
    return order


def state_of(order: Row, now: datetime) -> str:
    """The trade_state; an order nobody paid or closed is closed by the channel after 7 days."""
    if order["state"] == "NOTPAY" and now >= from_ms(order["created_at"]) + ORDER_LIFE:
        return "CLOSED"
    return str(order["state"])


def by_number(hub: Hub, mchid: str, out_trade_no: str) -> Row:
    fields.trade_number(out_trade_no)
    return _known(hub.store, mchid, out_trade_no)


def by_transaction(hub: Hub, mchid: str, transaction_id: str) -> Row:
    order = hub.store.row(
        "select * from wx_order where transaction_id = ? and mchid = ?", transaction_id, mchid
    )
    if order is None:
        raise PayError(404, "ORDER_NOT_EXIST", "订单不存在")
    return order


def close(hub: Hub, merchant: world.Merchant, out_trade_no: str) -> None:
    """Never payable again. Closing twice is done; a paid order is refused."""
    now = hub.clocks.now()
    with hub.store.transaction():
        order = by_number(hub, merchant.mchid, out_trade_no)
        if order["combine_out_trade_no"]:
            raise PayError(400, "INVALID_REQUEST", "合单的子单不能单独关闭，请使用合单关单接口")
        if order["state"] in {"SUCCESS", "REFUND"}:
            raise PayError(400, "ORDERPAID", "该订单已支付，不能关闭")
        if order["password_until"] > to_ms(now) and order["state"] == "NOTPAY":
            raise PayError(429, "FREQUENCY_LIMITED", "用户正在支付，请稍后再试")
        shut(hub, order)


def shut(hub: Hub, order: Row) -> None:
    """Closed, by whomever; what is paid stays paid."""
    hub.store.run(
        "update wx_order set state = 'CLOSED', closed_at = coalesce(closed_at, ?)"
        " where mchid = ? and out_trade_no = ? and state in ('NOTPAY', 'CLOSED')",
        hub.now_ms(),
        order["mchid"],
        order["out_trade_no"],
    )


def why_not_payable(order: Row, now: datetime, openid: str | None = None) -> str | None:
    """The wallet's words, or None when the order can be paid now."""
    state = state_of(order, now)
    if state in {"SUCCESS", "REFUND"}:
        return "该订单已支付"
    if state == "CLOSED":
        return "该订单已关闭"
    if to_ms(now) > min(order["expires_at"], order["code_until"]):
        return "二维码或订单已过期"
    if openid and order["asked_openid"] not in {"", openid}:
        return "该订单只能由下单的微信用户支付"
    return None


def set_password_box(hub: Hub, order: Row, *, is_open: bool) -> None:
    """While it is open the channel refuses to close the order."""
    hub.store.run(
        "update wx_order set password_until = ? where mchid = ? and out_trade_no = ?",
        hub.now_ms() + PASSWORD_BOX_SECONDS * 1000 if is_open else 0,
        order["mchid"],
        order["out_trade_no"],
    )


def pay(hub: Hub, asked: Row, payer: world.Persona) -> tuple[Row, str | None]:
    """The wallet pays: the order and the id of the notice it caused. Raises CannotPay."""
    now = hub.clocks.now()
    mchid, out_trade_no = asked["mchid"], asked["out_trade_no"]
    with hub.store.transaction():
        order = _known(hub.store, mchid, out_trade_no)
        if reason := why_not_payable(order, now, payer.openid_of(order["appid"])):
            raise CannotPay(reason)
        mark_paid(hub, order, payer, now)
        order = _known(hub.store, mchid, out_trade_no)
        notice_id = hub.notifier.put(
            channel="wechat_pay",
            account=mchid,
            event="TRANSACTION.SUCCESS",
            out_trade_no=out_trade_no,
            url=order["notify_url"],
            plaintext=transaction(order, now),
        )
    return order, notice_id


def mark_paid(hub: Hub, order: Row, payer: world.Persona, now: datetime) -> None:
    hub.store.run(
        "update wx_order set state = 'SUCCESS', transaction_id = ?, payer_openid = ?,"
        " paid_at = ?, password_until = 0 where mchid = ? and out_trade_no = ?",
        _transaction_id(now),
        payer.openid_of(order["appid"]),
        to_ms(now),
        order["mchid"],
        order["out_trade_no"],
    )


def _transaction_id(now: datetime) -> str:
    """28 digits."""
    day = now.astimezone(BEIJING).strftime("%Y%m%d")
    return f"4200{secrets.randbelow(10**6):06d}{day}{secrets.randbelow(10**10):010d}"


def transaction(order: Row, now: datetime) -> dict[str, Any]:
    """What query answers and notices tell; absent fields are left out."""
    state = state_of(order, now)
    told: dict[str, Any] = {
        "mchid": order["mchid"],
        "appid": order["appid"],
        "out_trade_no": order["out_trade_no"],
        "trade_state": state,
        "trade_state_desc": STATE_WORDS[state],
        "attach": order["attach"],
    }
    if order["paid_at"] is None:
        return {**told, "amount": {"total": order["amount_fen"], "currency": "CNY"}}
    return {
        **told,
        "transaction_id": order["transaction_id"],
        "trade_type": order["trade_type"],
        "bank_type": "OTHERS",
        "success_time": rfc3339(order["paid_at"]),
        "payer": {"openid": order["payer_openid"]},
        "amount": {
            "total": order["amount_fen"],
            "payer_total": order["amount_fen"],
            "currency": "CNY",
            "payer_currency": "CNY",
        },
    }
