"""What a person's wallet does with a code, whichever channel printed it."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from estation.sandbox import world
from estation.sandbox.alipay import trades
from estation.sandbox.alipay.http import read_call, return_address
from estation.sandbox.alipay.protocol import GatewayError, TradeError
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row
from estation.sandbox.wechat_pay import orders


class UnknownCode(Exception):
    """Neither channel knows this code, or it is a forged cashier address."""


class CannotPay(Exception):
    """Why the wallet refuses, in the payer's words."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the wallet shows. `code` finds the same thing again."""

    channel: str
    code: str
    out_trade_no: str
    title: str
    amount_fen: int
    payer: str | None  # the key of the only persona who may pay, if there is one
    row: Row

    @property
    def wallet_name(self) -> str:
        return "微信支付" if self.channel == "wechat_pay" else "支付宝"


def read(hub: Hub, code: str) -> Scanned:
    """`code`: QR content, prepay_id, cashier or signed gateway address, or an out_trade_no.

    A signed gateway address is verified and opens a cashier, as a browser going there would.
    Raises UnknownCode.
    """
    code = code.strip().removeprefix("prepay_id=")
    if code.startswith(("http://", "https://")) and not code.startswith(trades.QR_PREFIX):
        code = _from_address(hub, code)
    order = hub.store.row(
        "select * from wx_order where code = ? or prepay_id = ? or out_trade_no = ?",
        code.removeprefix(orders.CODE_SCHEME),
        code,
        code,
    )
    if order is not None:
        return _wechat(order)
    ticket = trades.find_ticket(hub.store, code)
    if ticket is None:
        raise UnknownCode("没有找到这个码，请检查是否完整")
    return Scanned(
        "alipay",
        ticket["token"],
        ticket["out_trade_no"],
        ticket["subject"],
        ticket["amount_fen"],
        None,
        ticket,
    )


def _from_address(hub: Hub, address: str) -> str:
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    for name in ("code", "prepay_id"):
        if parts.path in {"/scan", "/wechat/jsapi"} and name in query:
            return query[name][0]
    if not parts.path.endswith("/alipay/gateway.do"):
        raise UnknownCode("这个地址不是收银台")
    try:
        call = read_call(hub, f"{parts.path}?{parts.query}", b"")
        return str(trades.offer(hub, call, "wap")["token"])
    except GatewayError as refusal:
        raise UnknownCode(refusal.content["sub_msg"]) from None
    except TradeError as refusal:
        raise UnknownCode(refusal.sub_msg) from None


def _wechat(order: Row) -> Scanned:
    payer = world.persona(order["asked_openid"]) if order["asked_openid"] else None
    return Scanned(
        "wechat_pay",
        order["prepay_id"],
        order["out_trade_no"],
        order["description"],
        order["amount_fen"],
        payer.key if payer else None,
        order,
    )


def chosen_persona(scanned: Scanned, key: str | None) -> world.Persona:
    """The named persona, or the only possible one, or the first. Raises CannotPay."""
    persona = world.persona(key or scanned.payer or world.PERSONAS[0].key)
    if persona is None:
        raise CannotPay("没有这个钱包用户")
    return persona


def trouble(hub: Hub, scanned: Scanned, persona: world.Persona) -> str | None:
    """Why this persona cannot pay now, in words; None when nothing hinders."""
    if scanned.channel == "wechat_pay":
        return orders.why_not_payable(scanned.row, hub.clocks.now(), persona.openid)
    return trades.why_not_payable(hub, scanned.row, persona)


def open_in_wallet(
    hub: Hub, scanned: Scanned, persona: world.Persona, *, password_box: bool = False
) -> None:
    """Scanning: at Alipay the trade is born now. Raises CannotPay."""
    if reason := trouble(hub, scanned, persona):
        raise CannotPay(reason)
    if scanned.channel == "alipay":
        trades.scan(hub, scanned.code, persona)
    elif password_box:
        orders.enter_password_box(hub, scanned.row)


def pay(hub: Hub, scanned: Scanned, persona: world.Persona) -> dict[str, Any]:
    """Pay it. Raises CannotPay.

    The answer: channel, out_trade_no, amount_fen, state, trade_no, persona, notice_id,
    return_url.
    """
    back = ""
    try:
        if scanned.channel == "wechat_pay":
            row, notice_id = orders.pay(hub, scanned.out_trade_no, persona)
            trade_no = row["transaction_id"]
        else:
            row, notice_id = trades.pay(hub, scanned.code, persona)
            trade_no, back = row["trade_no"], return_address(hub, scanned.row, row)
    except (orders.CannotPay, trades.CannotPay) as refusal:
        raise CannotPay(str(refusal)) from None
    return {
        "channel": scanned.channel,
        "out_trade_no": scanned.out_trade_no,
        "amount_fen": scanned.amount_fen,
        "state": row["state"],
        "trade_no": trade_no,
        "persona": persona.key,
        "notice_id": notice_id,
        "return_url": back,
    }


def cancel(hub: Hub, scanned: Scanned) -> dict[str, Any]:
    """The person leaves without paying: the code stays what it was."""
    if scanned.channel == "wechat_pay":
        orders.leave_password_box(hub, scanned.row)
    return state(hub, scanned)


def state(hub: Hub, scanned: Scanned) -> dict[str, Any]:
    """channel, out_trade_no, amount_fen and the channel's state word ("" while no trade)."""
    if scanned.channel == "wechat_pay":
        word = orders.state_of(scanned.row, hub.clocks.now())
    else:
        trade = trades.trade_by_number(hub, scanned.out_trade_no)
        word = trade["state"] if trade else ""
    return {
        "channel": scanned.channel,
        "out_trade_no": scanned.out_trade_no,
        "amount_fen": scanned.amount_fen,
        "state": word,
    }
