"""WeChat Pay's word on one order, in ours. The same shape comes by query and by notice.

Source: APIv3, 查询订单 / 支付成功通知.
"""

import re
from datetime import datetime
from typing import Any, Final

from estation.outside.pay_channels import Channel, ChannelReport, ChannelState
from estation.outside.pay_channels.believing import (
    Disbelief,
    plain_words,
    positive_fen,
    text_of,
)
from estation.outside.pay_channels.wechat_pay.signing import Merchant

STATES: Final = {
    "NOTPAY": ChannelState.NOT_PAID,
    "SUCCESS": ChannelState.PAID,
    "REFUND": ChannelState.PAID,  # Also for a partial or unfinished refund: it was paid.
    "USERPAYING": ChannelState.PAYING,
    "PAYERROR": ChannelState.NOT_PAID,  # Code payment only; the payer may try again.
    "CLOSED": ChannelState.CLOSED,
    "REVOKED": ChannelState.CLOSED,  # Code payment only.
}
_OUT_TRADE_NO: Final = re.compile(r"[0-9A-Za-z_\-|*]{6,32}")


def report_of(merchant: Merchant, transaction: dict[str, Any]) -> ChannelReport | None:
    """None for a trade_state nobody knew when this was written: not a reason to lose the news.

    Raises Disbelief: wrong_addressee (mchid, appid), malformed, not_money (amount.total is not
    a positive integer of fen, or not CNY).
    """
    check_addressee(merchant, transaction, with_appid=True)
    out_trade_no = trade_number_of(transaction)
    state = STATES.get(text_of(transaction, "trade_state", most=32))
    if state is None:
        return None
    is_paid = state is ChannelState.PAID
    return ChannelReport(
        channel=Channel.WECHAT_PAY,
        account_id=merchant.account_id,
        out_trade_no=out_trade_no,
        state=state,
        channel_trade_no=text_of(transaction, "transaction_id") if is_paid else None,
        # The order's total: `payer_total` is less when the payer used a coupon.
        paid_fen=positive_fen(amount_of(transaction).get("total")) if is_paid else None,
        paid_at=moment_of(transaction.get("success_time")) if is_paid else None,
        was_refunded=transaction["trade_state"] == "REFUND",
        raw=transaction,
    )


def order_description(text: str) -> str:
    """Fit for the order, the payer's bill and the comma-separated file."""
    return plain_words(text, forbidden="`", characters=127, utf8_bytes=127)


def check_addressee(merchant: Merchant, plaintext: dict[str, Any], *, with_appid: bool) -> None:
    """Either of our appids may have opened the order; refund news names none.

    Raises Disbelief("wrong_addressee").
    """
    if plaintext.get("mchid") != merchant.mchid:
        raise Disbelief("wrong_addressee", "mchid")
    if not with_appid:
        return
    appid = plaintext.get("appid")
    if appid != merchant.appid and (appid is None or appid != merchant.mini_appid):
        raise Disbelief("wrong_addressee", "appid")


def trade_number_of(plaintext: dict[str, Any], name: str = "out_trade_no") -> str:
    number = text_of(plaintext, name, most=32)
    if not _OUT_TRADE_NO.fullmatch(number):
        raise Disbelief("malformed", name)
    return number


def amount_of(source: dict[str, Any]) -> dict[str, Any]:
    """The `amount` object of an order, sub-order or refund, its currency checked."""
    amount = source.get("amount")
    if not isinstance(amount, dict):
        raise Disbelief("malformed", "amount")
    if amount.get("currency", "CNY") != "CNY":
        raise Disbelief("not_money", "currency")
    return amount


def moment_of(text: Any) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Disbelief("malformed", "success_time") from None
    if moment.tzinfo is None:
        raise Disbelief("malformed", "success_time")
    return moment
