"""Trades at Alipay: born when a buyer opens a code, then paid, closed or refunded."""

import re
import secrets
from datetime import datetime
from typing import Any

from estation.sandbox import world
from estation.sandbox.alipay import fields
from estation.sandbox.alipay.protocol import Call, TradeError, new_number
from estation.sandbox.clocks import plain, to_ms
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row, Store
from estation.shared.money import yuan_from_fen

QR_PREFIX = "https://qr.alipay.com/"
PRODUCTS = {
    "precreate": {"FACE_TO_FACE_PAYMENT", "QR_CODE_OFFLINE", ""},
    "wap": {"QUICK_WAP_WAY"},
    "page": {"FAST_INSTANT_TRADE_PAY"},
    "create": {"JSAPI_PAY"},
}


class CannotPay(Exception):
    """Why the wallet refuses, in the payer's words."""


def offer(hub: Hub, call: Call, kind: str) -> Row:
    """A code (precreate) or cashier page (wap, page). No trade exists yet. Raises TradeError."""
    now = hub.clocks.now()
    biz = call.biz
    out_trade_no = fields.number(biz)
    amount = fields.money(biz, "total_amount")
    product = fields.text(biz, "product_code", 64, required=kind != "precreate")
    if product not in PRODUCTS[kind]:
        raise fields.invalid(f"product_code {product}")
    seller = fields.text(biz, "seller_id", 28)
    if seller not in {"", world.ALIPAY_SELLER_ID}:
        raise TradeError("ACQ.PARTNER_ERROR", "应用APP_ID与卖家不匹配")
    for name in ("notify_url", "return_url"):
        if not re.fullmatch(r"(https?://\S{1,248})?", call.parameters.get(name, "")):
            raise fields.invalid(name)
    _refuse_if_known(trade_by_number(hub, out_trade_no), amount)
    trade_until = fields.expiry(biz, now)
    usable_until = min(now + fields.CODE_LIFE, trade_until) if kind == "precreate" else trade_until
    token = f"bax{secrets.token_hex(10)}"
    hub.store.insert(
        "ali_ticket",
        token=token,
        kind=kind,
        out_trade_no=out_trade_no,
        amount_fen=amount,
        subject=fields.subject(biz),
        body=fields.text(biz, "body", 128),
        passback_params=fields.text(biz, "passback_params", 512),
        notify_url=call.parameters.get("notify_url", ""),
        return_url=call.parameters.get("return_url", ""),
        charset=call.charset,
        app_id=call.app.app_id,
        usable_until=to_ms(usable_until),
        trade_until=to_ms(trade_until),
        created_at=to_ms(now),
    )
    return _ticket(hub.store, token)


def _refuse_if_known(trade: Row | None, amount: int) -> None:
    if trade is None:
        return
    if trade["amount_fen"] != amount:
        raise TradeError("ACQ.CONTEXT_INCONSISTENT", "交易信息被篡改")
    if trade["state"] == "TRADE_CLOSED":
        raise TradeError("ACQ.TRADE_HAS_CLOSE", "交易已经关闭")
    if trade["state"] != "WAIT_BUYER_PAY":
        raise TradeError("ACQ.TRADE_HAS_SUCCESS", "交易已被支付")


def _ticket(store: Store, token: str) -> Row:
    ticket = store.row("select * from ali_ticket where token = ?", token)
    if ticket is None:
        raise CannotPay("二维码无效")
    return ticket


def create(hub: Hub, call: Call) -> Row:
    """alipay.trade.create: the trade exists at once, for the named buyer. Raises TradeError."""
    asked = fields.text(call.biz, "op_app_id", 32, required=True)
    if asked not in {call.app.app_id, world.ALIPAY_MINI_APP_ID}:
        raise fields.invalid("op_app_id 不属于该商户")
    name = "buyer_open_id" if call.biz.get("buyer_open_id") else "buyer_id"
    buyer_id = fields.text(call.biz, name, 64, required=True)
    buyer = world.persona(buyer_id)
    if buyer is None or buyer_id not in {buyer.buyer_id, buyer.buyer_open_id}:
        raise TradeError("ACQ.BUYER_NOT_EXIST", "买家不存在")
    earlier = trade_by_number(hub, fields.number(call.biz))
    if earlier is not None and earlier["buyer_id"] != buyer.buyer_id:
        raise TradeError("ACQ.CONTEXT_INCONSISTENT", "交易信息被篡改")
    ticket = offer(hub, call, "create")
    try:
        return scan(hub, ticket["token"], buyer)
    except CannotPay as refusal:
        raise TradeError("ACQ.CONTEXT_INCONSISTENT", str(refusal)) from None


def find_ticket(store: Store, code: str) -> Row | None:
    """By token, by what the QR says, by trade_no, or the newest of an out_trade_no."""
    trade = store.row("select token from ali_trade where trade_no = ?", code)
    code = trade["token"] if trade else code
    return store.row(
        "select * from ali_ticket where token = ? or out_trade_no = ?"
        " order by token = ? desc, created_at desc, rowid desc limit 1",
        code.removeprefix(QR_PREFIX),
        code,
        code.removeprefix(QR_PREFIX),
    )


def trade_by_number(hub: Hub, out_trade_no: str) -> Row | None:
    _close_overdue(hub)
    return hub.store.row("select * from ali_trade where out_trade_no = ?", out_trade_no)


def _close_overdue(hub: Hub) -> None:
    """What time does: an unpaid trade past its end is closed by the channel."""
    hub.store.run(
        "update ali_trade set state = 'TRADE_CLOSED', closed_at = expires_at"
        " where state = 'WAIT_BUYER_PAY' and expires_at <= ?",
        hub.now_ms(),
    )


def named(hub: Hub, biz: dict[str, Any]) -> Row:
    """The trade of trade_no (which wins) or out_trade_no. Raises TradeError."""
    trade_no = fields.text(biz, "trade_no", 64)
    out_trade_no = fields.number(biz, required=not trade_no)
    _close_overdue(hub)
    if trade_no:
        trade = hub.store.row("select * from ali_trade where trade_no = ?", trade_no)
    else:
        trade = trade_by_number(hub, out_trade_no)
    if trade is None:
        raise TradeError("ACQ.TRADE_NOT_EXIST", "交易不存在")
    return trade


def scan(hub: Hub, token: str, buyer: world.Persona) -> Row:
    """The buyer opens the code: now the trade exists. Raises CannotPay."""
    now = hub.clocks.now()
    with hub.store.transaction():
        ticket = _ticket(hub.store, token)
        trade = trade_by_number(hub, ticket["out_trade_no"])
        if reason := _why_not(ticket, trade, now, buyer):
            raise CannotPay(reason)
        if trade is None:
            hub.store.insert(
                "ali_trade",
                trade_no=new_number(now),
                out_trade_no=ticket["out_trade_no"],
                token=token,
                amount_fen=ticket["amount_fen"],
                subject=ticket["subject"],
                state="WAIT_BUYER_PAY",
                buyer_id=buyer.buyer_id,
                buyer_logon_id=buyer.buyer_logon_id,
                created_at=to_ms(now),
                expires_at=ticket["trade_until"],
            )
    return _known(hub, ticket["out_trade_no"])


def _why_not(ticket: Row, trade: Row | None, now: datetime, buyer: world.Persona) -> str | None:
    if trade is None:
        return "二维码已过期" if to_ms(now) > ticket["usable_until"] else None
    if trade["state"] == "TRADE_CLOSED":
        return "交易已关闭"
    if trade["state"] != "WAIT_BUYER_PAY":
        return "交易已支付"
    if trade["amount_fen"] != ticket["amount_fen"]:
        return "交易信息不一致，请商家重新生成二维码"
    if trade["buyer_id"] != buyer.buyer_id:
        return "该交易已由另一位用户打开"
    return None


def why_not_payable(hub: Hub, ticket: Row, buyer: world.Persona) -> str | None:
    """The wallet's words, or None when this buyer can pay now."""
    trade = trade_by_number(hub, ticket["out_trade_no"])
    return _why_not(ticket, trade, hub.clocks.now(), buyer)


def _known(hub: Hub, out_trade_no: str) -> Row:
    trade = trade_by_number(hub, out_trade_no)
    if trade is None:
        raise TradeError("ACQ.TRADE_NOT_EXIST", "交易不存在")
    return trade


def pay(hub: Hub, token: str, buyer: world.Persona) -> tuple[Row, str | None]:
    """The buyer pays: the trade and the id of the notice it caused. Raises CannotPay."""
    trade = scan(hub, token, buyer)
    with hub.store.transaction():
        hub.store.run(
            "update ali_trade set state = 'TRADE_SUCCESS', paid_at = ?, token = ?"
            " where trade_no = ?",
            hub.now_ms(),
            token,
            trade["trade_no"],
        )
        trade = _known(hub, trade["out_trade_no"])
        return trade, tell(hub, trade)


def close(hub: Hub, biz: dict[str, Any]) -> dict[str, str]:
    """Only an unpaid trade that exists. Raises TradeError."""
    with hub.store.transaction():
        trade = named(hub, biz)
        if trade["state"] != "WAIT_BUYER_PAY":
            raise TradeError("ACQ.TRADE_STATUS_ERROR", "交易状态不合法")
        shut(hub, trade)
    return {"trade_no": trade["trade_no"], "out_trade_no": trade["out_trade_no"]}


def shut(hub: Hub, trade: Row) -> None:
    hub.store.run(
        "update ali_trade set state = 'TRADE_CLOSED', closed_at = ? where trade_no = ?",
        hub.now_ms(),
        trade["trade_no"],
    )


def finish(hub: Hub, trade: Row) -> str | None:
    """What months do: the refund window is over. The id of the notice, if any. Raises
    ValueError when the trade is not a refundable one."""
    if trade["state"] != "TRADE_SUCCESS":
        raise ValueError("only TRADE_SUCCESS becomes TRADE_FINISHED")
    hub.store.run(
        "update ali_trade set state = 'TRADE_FINISHED' where trade_no = ?", trade["trade_no"]
    )
    return tell(hub, _known(hub, trade["out_trade_no"]))


def buyer(trade: Row, app: world.AlipayApp, *, id_name: str) -> dict[str, str]:
    """Newer applications know a buyer by open_id, older ones by the account's number."""
    known = world.persona(trade["buyer_id"])
    if app.with_certificate and known is not None:
        return {"buyer_open_id": known.buyer_open_id}
    return {id_name: trade["buyer_id"]}


def told(trade: Row, app: world.AlipayApp) -> dict[str, Any]:
    """What alipay.trade.query says beyond code and msg."""
    yuan = yuan_from_fen(trade["amount_fen"])
    paid = trade["paid_at"] is not None
    answer: dict[str, Any] = {
        "buyer_logon_id": trade["buyer_logon_id"],
        "buyer_pay_amount": yuan if paid else "0.00",
        **buyer(trade, app, id_name="buyer_user_id"),
        "buyer_user_type": "PRIVATE",
        "invoice_amount": yuan if paid else "0.00",
        "out_trade_no": trade["out_trade_no"],
        "point_amount": "0.00",
        "receipt_amount": yuan if paid else "0.00",
        "subject": trade["subject"],
        "total_amount": yuan,
        "trade_no": trade["trade_no"],
        "trade_status": trade["state"],
    }
    if paid:
        answer["send_pay_date"] = plain(trade["paid_at"])
        answer["fund_bill_list"] = [{"amount": yuan, "fund_channel": "ALIPAYACCOUNT"}]
    return answer


def tell(hub: Hub, trade: Row, refund: Row | None = None) -> str | None:
    """Queue the state's news to the notify_url of the code that was paid."""
    ticket = _ticket(hub.store, trade["token"])
    return hub.notifier.put(
        channel="alipay",
        account=ticket["app_id"],
        event=trade["state"],
        out_trade_no=trade["out_trade_no"],
        url=ticket["notify_url"],
        plaintext={"charset": ticket["charset"], **_news(trade, ticket, refund)},
    )


def refunded_at(refund: Row) -> int:
    """When the money went back: a refund under way goes back when it is due."""
    return max(int(refund["created_at"]), int(refund["due_at"]))


def _news(trade: Row, ticket: Row, refund: Row | None) -> dict[str, str]:
    yuan = yuan_from_fen(trade["amount_fen"])
    app = world.alipay_app(ticket["app_id"]) or world.KEY_APP
    news = {
        "notify_type": "trade_status_sync",
        "app_id": app.app_id,
        "auth_app_id": app.app_id,
        "version": "1.0",
        "trade_no": trade["trade_no"],
        "out_trade_no": trade["out_trade_no"],
        **buyer(trade, app, id_name="buyer_id"),
        "buyer_logon_id": trade["buyer_logon_id"],
        "seller_id": world.ALIPAY_SELLER_ID,
        "seller_email": world.ALIPAY_SELLER_EMAIL,
        "trade_status": trade["state"],
        "total_amount": yuan,
        "receipt_amount": yuan,
        "invoice_amount": yuan,
        "buyer_pay_amount": yuan,
        "point_amount": "0.00",
        "subject": trade["subject"],
        "body": ticket["body"],
        "passback_params": ticket["passback_params"],
        "gmt_create": plain(trade["created_at"]),
        "gmt_payment": plain(trade["paid_at"]),
        "fund_bill_list": f'[{{"amount":"{yuan}","fundChannel":"ALIPAYACCOUNT"}}]',
    }
    if refund is not None:
        news["refund_fee"] = yuan_from_fen(trade["refunded_fen"])
        moment = refunded_at(refund)
        news["gmt_refund"] = f"{plain(moment)}.{moment % 1000:03d}"
        news["out_biz_no"] = refund["out_request_no"]
    if trade["closed_at"] is not None:
        news["gmt_close"] = plain(trade["closed_at"])
    return news
