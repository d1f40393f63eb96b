"""What a person's wallet does with a code, whichever channel printed it."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from estation.sandbox import world
from estation.sandbox.alipay import trades
from estation.sandbox.alipay.http import CASHIERS, read_call, return_address
from estation.sandbox.alipay.protocol import GatewayError, TradeError
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row
from estation.sandbox.wechat_pay import combine, orders
from estation.sandbox.wechat_pay.http import H5_PATH
from estation.sandbox.wechat_pay.protocol import PREFIX


class UnknownCode(Exception):
    """Neither channel knows this code, or it is a forged cashier address."""


class CannotPay(Exception):
    """Why the wallet refuses, in the payer's words."""


@dataclass(frozen=True, slots=True)
class Line:
    """One payee's share of a combined order."""

    payee: str
    title: str
    amount_fen: int


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the wallet shows. `code` finds the same thing again."""

    channel: str
    code: str
    out_trade_no: str
    title: str
    amount_fen: int
    payee: str
    payer: str | None  # the key of the only persona who may pay, if there is one
    row: Row
    lines: tuple[Line, ...] = ()  # of a combined order

    @property
    def wallet_name(self) -> str:
        return "微信支付" if self.channel == "wechat_pay" else "支付宝"

    @property
    def is_combined(self) -> bool:
        return bool(self.lines)


def read(hub: Hub, code: str) -> Scanned:
    """`code`: QR content, prepay_id, cashier or signed gateway address, or an out_trade_no.

    A signed gateway address is verified and opens a cashier, as a browser going there would.
    Raises UnknownCode.
    """
    code = code.strip().removeprefix("prepay_id=")
    if code.startswith(("http://", "https://")) and not code.startswith(trades.QR_PREFIX):
        code = _from_address(hub, code)
    found = _find_wechat(hub, code)
    if found is not None:
        return found
    ticket = trades.find_ticket(hub.store, code)
    if ticket is None:
        raise UnknownCode("没有找到这个码，请检查是否完整")
    return Scanned(
        "alipay",
        ticket["token"],
        ticket["out_trade_no"],
        ticket["subject"],
        ticket["amount_fen"],
        world.MERCHANT_NAME,
        _named_buyer(hub, ticket),
        ticket,
    )


def _named_buyer(hub: Hub, ticket: Row) -> str | None:
    """alipay.trade.create names its buyer beforehand."""
    trade = trades.trade_by_number(hub, ticket["out_trade_no"])
    buyer = world.persona(trade["buyer_id"]) if trade and ticket["kind"] == "create" else None
    return buyer.key if buyer else None


def _find_wechat(hub: Hub, code: str) -> Scanned | None:
    """By QR content, prepay_id or number; a sub-order's number finds the whole."""
    names = code.removeprefix(orders.CODE_SCHEME), code, code
    order = hub.store.row(
        "select * from wx_order where code = ? or prepay_id = ? or out_trade_no = ?"
        " order by rowid desc limit 1",
        *names,
    )
    if order is not None and not order["combine_out_trade_no"]:
        return _single(order)
    whole = hub.store.row(
        "select * from wx_combine where code = ? or prepay_id = ? or combine_out_trade_no = ?"
        " order by rowid desc limit 1",
        *names,
    )
    if whole is None and order is not None:
        whole = combine.find(hub.store, order["combine_mchid"], order["combine_out_trade_no"])
    return _combined(hub, whole) if whole is not None else None


def _from_address(hub: Hub, address: str) -> str:
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    for name in ("code", "prepay_id"):
        if parts.path in {"/scan", "/wechat/jsapi", f"{PREFIX}{H5_PATH}"} and name in query:
            return query[name][0]
    if not parts.path.endswith("/alipay/gateway.do"):
        raise UnknownCode("这个地址不是收银台")
    try:
        call = read_call(hub, f"{parts.path}?{parts.query}", b"")
        return str(trades.offer(hub, call, CASHIERS.get(call.method, "wap"))["token"])
    except GatewayError as refusal:
        raise UnknownCode(refusal.content["sub_msg"]) from None
    except TradeError as refusal:
        raise UnknownCode(refusal.sub_msg) from None


def _single(order: Row) -> Scanned:
    return Scanned(
        "wechat_pay",
        order["prepay_id"],
        order["out_trade_no"],
        order["description"],
        order["amount_fen"],
        _merchant_name(order["mchid"]),
        _asked_payer(order),
        order,
    )


def _combined(hub: Hub, whole: Row) -> Scanned:
    subs = combine.subs_of(hub.store, whole)
    lines = tuple(
        Line(_merchant_name(sub["mchid"]), sub["description"], sub["amount_fen"]) for sub in subs
    )
    return Scanned(
        "wechat_pay",
        whole["prepay_id"],
        whole["combine_out_trade_no"],
        f"{lines[0].title} 等 {len(lines)} 笔",
        sum(line.amount_fen for line in lines),
        _merchant_name(whole["combine_mchid"]),
        _asked_payer(whole),
        whole,
        lines,
    )


def _asked_payer(row: Row) -> str | None:
    payer = world.persona(row["asked_openid"]) if row["asked_openid"] else None
    return payer.key if payer else None


def _merchant_name(mchid: str) -> str:
    known = world.merchant(mchid)
    return known.name if known else mchid


def jsapi_owner(scanned: Scanned) -> tuple[str, str]:
    """The mchid and appid whose signature opens this prepay_id in a page."""
    if scanned.is_combined:
        return scanned.row["combine_mchid"], scanned.row["combine_appid"]
    return scanned.row["mchid"], scanned.row["appid"]


def chosen_persona(scanned: Scanned, key: str | None) -> world.Persona:
    """The named persona, or the only possible one, or the first. Raises CannotPay."""
    persona = world.persona(key or scanned.payer or world.PERSONAS[0].key)
    if persona is None:
        raise CannotPay("没有这个钱包用户")
    return persona


def trouble(hub: Hub, scanned: Scanned, persona: world.Persona) -> str | None:
    """Why this persona cannot pay now, in words; None when nothing hinders."""
    if scanned.is_combined:
        appid = scanned.row["combine_appid"]
        return combine.why_not_payable(hub, scanned.row, persona.openid_of(appid))
    if scanned.channel == "wechat_pay":
        openid = persona.openid_of(scanned.row["appid"])
        return orders.why_not_payable(scanned.row, hub.clocks.now(), openid)
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
        _set_password_box(hub, scanned, is_open=True)


def _set_password_box(hub: Hub, scanned: Scanned, *, is_open: bool) -> None:
    owner = combine if scanned.is_combined else orders
    owner.set_password_box(hub, scanned.row, is_open=is_open)


def pay(hub: Hub, scanned: Scanned, persona: world.Persona) -> dict[str, Any]:
    """Pay it. Raises CannotPay.

    The answer: channel, out_trade_no, amount_fen, state, trade_no, persona, notice_id,
    return_url.
    """
    back = ""
    try:
        if scanned.is_combined:
            _, notice_id = combine.pay(hub, scanned.row, persona)
            trade_no = scanned.out_trade_no  # every sub-order has a number of its own
        elif scanned.channel == "wechat_pay":
            row, notice_id = orders.pay(hub, scanned.row, persona)
            trade_no = row["transaction_id"]
        else:
            row, notice_id = trades.pay(hub, scanned.code, persona)
            trade_no, back = row["trade_no"], return_address(hub, scanned.row, row)
    except (orders.CannotPay, trades.CannotPay) as refusal:
        raise CannotPay(str(refusal)) from None
    return {
        **state(hub, read(hub, scanned.code)),
        "trade_no": trade_no,
        "persona": persona.key,
        "notice_id": notice_id,
        "return_url": back,
    }


def cancel(hub: Hub, scanned: Scanned) -> dict[str, Any]:
    """The person leaves without paying: the code stays what it was."""
    if scanned.channel == "wechat_pay":
        _set_password_box(hub, scanned, is_open=False)
    return state(hub, scanned)


def close(hub: Hub, scanned: Scanned) -> dict[str, Any]:
    """The channel closes it by itself, as its clock or its risk control would; a code that was
    never scanned at Alipay has no trade to close. Raises CannotPay when it is paid."""
    now = state(hub, scanned)
    if now["state"] not in {"NOTPAY", "WAIT_BUYER_PAY", "CLOSED"}:
        raise CannotPay("没有可以关闭的交易：未扫码、已支付或已关闭")
    if scanned.is_combined:
        combine.shut(hub, scanned.row)
    elif scanned.channel == "wechat_pay":
        orders.shut(hub, scanned.row)
    else:
        trade = trades.trade_by_number(hub, scanned.out_trade_no)
        if trade is not None:
            trades.shut(hub, trade)
    return state(hub, read(hub, scanned.code))


def finish(hub: Hub, scanned: Scanned) -> dict[str, Any]:
    """Alipay's TRADE_FINISHED, months early. Raises CannotPay."""
    trade = trades.trade_by_number(hub, scanned.out_trade_no)
    if scanned.channel != "alipay" or trade is None:
        raise CannotPay("只有支付宝的已支付交易可以完结")
    try:
        trades.finish(hub, trade)
    except ValueError:
        raise CannotPay("只有支付宝的已支付交易可以完结") from None
    return state(hub, scanned)


def state(hub: Hub, scanned: Scanned) -> dict[str, Any]:
    """channel, out_trade_no, amount_fen and the channel's state word ("" while no trade)."""
    if scanned.is_combined:
        word = combine.state(hub, scanned.row)
    elif scanned.channel == "wechat_pay":
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
