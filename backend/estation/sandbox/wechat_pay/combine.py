"""Combined orders (合单): one payment, one notice, an ordinary order at every payee merchant."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from estation.sandbox import world
from estation.sandbox.clocks import from_ms, to_ms
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row, Store
from estation.sandbox.wechat_pay import fields, orders
from estation.sandbox.wechat_pay.orders import CannotPay
from estation.sandbox.wechat_pay.protocol import PayError
from estation.shared.clock import BEIJING


def find(store: Store, mchid: str, number: str) -> Row | None:
    return store.row(
        "select * from wx_combine where combine_mchid = ? and combine_out_trade_no = ?",
        mchid,
        number,
    )


def subs_of(store: Store, whole: Row) -> list[Row]:
    """The sub-orders as they were asked for, in that order."""
    return store.rows(
        "select * from wx_order where combine_mchid = ? and combine_out_trade_no = ?"
        " order by rowid",
        whole["combine_mchid"],
        whole["combine_out_trade_no"],
    )


def prepay(hub: Hub, values: dict[str, Any], trade_type: str, merchant: world.Merchant) -> Row:
    """Open the whole, or give the open one again for the same parameters. Raises PayError."""
    fields.check_combine(values, trade_type, merchant)
    now, number = hub.clocks.now(), values["combine_out_trade_no"]
    parameters = json.dumps([trade_type, values], sort_keys=True, ensure_ascii=False)
    with hub.store.transaction():
        whole = find(hub.store, merchant.mchid, number)
        if whole is None:
            _open(hub.store, values, trade_type, parameters, now)
        else:
            _refuse_if_over(hub, whole, now)
            if whole["parameters"] != parameters:
                raise PayError(403, "OUT_TRADE_NO_USED", "合单商户订单号重复：参数与首次不同")
            if whole["code_until"] <= to_ms(now):
                _renew_code(hub.store, whole, now)
    return _known(hub.store, merchant.mchid, number)


def _refuse_if_over(hub: Hub, whole: Row, now: datetime) -> None:
    for sub in subs_of(hub.store, whole):
        orders.refuse_if_over(sub, now)


def _open(
    store: Store, values: dict[str, Any], trade_type: str, parameters: str, now: datetime
) -> None:
    openid = values["combine_payer_info"]["openid"] if trade_type == "JSAPI" else ""
    expires_at, code = orders.expiry(values, now), orders.new_code(trade_type, now)
    for sub in values["sub_orders"]:
        if orders.find(store, sub["mchid"], sub["out_trade_no"]) is not None:
            raise PayError(403, "OUT_TRADE_NO_USED", "子单商户订单号重复")
    store.insert(
        "wx_combine",
        combine_mchid=values["combine_mchid"],
        combine_out_trade_no=values["combine_out_trade_no"],
        combine_appid=values["combine_appid"],
        trade_type=trade_type,
        notify_url=values["notify_url"],
        asked_openid=openid,
        scene_info=json.dumps(values.get("scene_info", {}), ensure_ascii=False),
        parameters=parameters,
        expires_at=expires_at,
        created_at=to_ms(now),
        **code,
    )
    for sub in values["sub_orders"]:
        store.insert(
            "wx_order",
            mchid=sub["mchid"],
            appid=values["combine_appid"],
            out_trade_no=sub["out_trade_no"],
            combine_mchid=values["combine_mchid"],
            combine_out_trade_no=values["combine_out_trade_no"],
            trade_type=trade_type,
            description=sub["description"],
            attach=sub["attach"],
            notify_url=values["notify_url"],
            amount_fen=sub["amount"]["total_amount"],
            asked_openid=openid,
            parameters="",
            code_until=code["code_until"],
            expires_at=expires_at,
            created_at=to_ms(now),
            state="NOTPAY",
        )


def _renew_code(store: Store, whole: Row, now: datetime) -> None:
    code = orders.new_code(whole["trade_type"], now)
    named = whole["combine_mchid"], whole["combine_out_trade_no"]
    store.run(
        "update wx_combine set prepay_id = ?, code = ?, code_until = ?"
        " where combine_mchid = ? and combine_out_trade_no = ?",
        *code.values(),
        *named,
    )
    store.run(
        "update wx_order set code_until = ? where combine_mchid = ? and combine_out_trade_no = ?",
        code["code_until"],
        *named,
    )


def _known(store: Store, mchid: str, number: str) -> Row:
    fields.trade_number(number, "/combine_out_trade_no")
    whole = find(store, mchid, number)
    if whole is None:
        raise PayError(404, "ORDERNOTEXIST", "订单不存在")
    return whole


def by_number(hub: Hub, merchant: world.Merchant, number: str) -> Row:
    return _known(hub.store, merchant.mchid, number)


def close(hub: Hub, merchant: world.Merchant, number: str, values: dict[str, Any]) -> None:
    """Close all sub-orders; the request must name exactly the original set. Raises PayError."""
    appid = fields.bound_appid(fields.text(values, "combine_appid", 32, required=True))
    named = [
        (
            fields.text(sub, "mchid", 32, required=True, at=f"/sub_orders/{index}"),
            fields.text(sub, "out_trade_no", 32, required=True, at=f"/sub_orders/{index}"),
        )
        for index, sub in enumerate(fields.sub_orders(values))
    ]
    with hub.store.transaction():
        whole = by_number(hub, merchant, number)
        subs = subs_of(hub.store, whole)
        if appid != whole["combine_appid"]:
            raise PayError(400, "APPID_MCHID_NOT_MATCH", "combine_appid 与下单时不一致")
        if sorted(named) != sorted((sub["mchid"], sub["out_trade_no"]) for sub in subs):
            raise PayError(400, "INVALID_REQUEST", "子单信息与下单时不一致，请传入全部子单")
        if is_paid(subs):
            raise PayError(403, "TRADE_ERROR", "订单已支付，不能关闭")
        if state(hub, whole) == "CLOSED":
            raise PayError(400, "ORDER_CLOSED", "订单已关闭")
        if whole["password_until"] > hub.now_ms():
            raise PayError(202, "USER_PAYING", "用户支付中，请稍后查询或重试")
        shut(hub, whole)


def shut(hub: Hub, whole: Row) -> None:
    for sub in subs_of(hub.store, whole):
        orders.shut(hub, sub)


def is_paid(subs: Sequence[Row]) -> bool:
    return any(sub["paid_at"] is not None for sub in subs)


def state(hub: Hub, whole: Row) -> str:
    """The sub-orders are paid and closed together, so the first one speaks for all."""
    subs, now = subs_of(hub.store, whole), hub.clocks.now()
    if any(sub["state"] == "REFUND" for sub in subs):
        return "REFUND"
    return orders.state_of(subs[0], now)


def why_not_payable(hub: Hub, whole: Row, openid: str) -> str | None:
    """The wallet's words, or None when the whole can be paid now."""
    now = hub.clocks.now()
    reasons = (orders.why_not_payable(sub, now, openid) for sub in subs_of(hub.store, whole))
    return next((reason for reason in reasons if reason), None)


def set_password_box(hub: Hub, whole: Row, *, is_open: bool) -> None:
    hub.store.run(
        "update wx_combine set password_until = ?"
        " where combine_mchid = ? and combine_out_trade_no = ?",
        hub.now_ms() + orders.PASSWORD_BOX_SECONDS * 1000 if is_open else 0,
        whole["combine_mchid"],
        whole["combine_out_trade_no"],
    )


def pay(hub: Hub, asked: Row, payer: world.Persona) -> tuple[Row, str | None]:
    """All or nothing; one notice, to the combining merchant. Raises CannotPay."""
    now = hub.clocks.now()
    mchid, number = asked["combine_mchid"], asked["combine_out_trade_no"]
    with hub.store.transaction():
        whole = _known(hub.store, mchid, number)
        if reason := why_not_payable(hub, whole, payer.openid_of(whole["combine_appid"])):
            raise CannotPay(reason)
        for sub in subs_of(hub.store, whole):
            orders.mark_paid(hub, sub, payer, now)
        set_password_box(hub, whole, is_open=False)
        notice_id = hub.notifier.put(
            channel="wechat_pay",
            account=mchid,
            event="TRANSACTION.SUCCESS",
            out_trade_no=number,
            url=whole["notify_url"],
            plaintext=told(hub, whole),
        )
    return whole, notice_id


def told(hub: Hub, whole: Row) -> dict[str, Any]:
    """What the combine query answers and the one notice tells."""
    subs = subs_of(hub.store, whole)
    payer = subs[0]["payer_openid"] or whole["asked_openid"]
    answer: dict[str, Any] = {
        "combine_appid": whole["combine_appid"],
        "combine_mchid": whole["combine_mchid"],
        "combine_out_trade_no": whole["combine_out_trade_no"],
        "sub_orders": [_sub_told(sub, hub.clocks.now()) for sub in subs],
    }
    if payer:
        answer["combine_payer_info"] = {"openid": payer}
    device = json.loads(whole["scene_info"]).get("device_id")
    if device:
        answer["scene_info"] = {"device_id": device}
    return answer


def _sub_told(sub: Row, now: datetime) -> dict[str, Any]:
    told: dict[str, Any] = {
        "mchid": sub["mchid"],
        "out_trade_no": sub["out_trade_no"],
        "trade_state": orders.state_of(sub, now),
        "attach": sub["attach"],
    }
    total = sub["amount_fen"]
    if sub["paid_at"] is None:
        return {**told, "amount": {"total_amount": total, "currency": "CNY"}}
    return {
        **told,
        "trade_type": sub["trade_type"],
        "bank_type": "OTHERS",
        "success_time": _with_milliseconds(sub["paid_at"]),
        "transaction_id": sub["transaction_id"],
        "amount": {
            "total_amount": total,
            "currency": "CNY",
            "payer_amount": total,
            "payer_currency": "CNY",
        },
    }


def _with_milliseconds(moment: int) -> str:
    """Combined orders print three more digits than single ones."""
    return from_ms(moment).astimezone(BEIJING).isoformat(timespec="milliseconds")
