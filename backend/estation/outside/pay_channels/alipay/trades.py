"""Alipay's word on one trade, in ours. Query and notice name some fields differently.

Source: Alipay open platform, 统一收单交易查询 / 异步通知说明.
"""

from datetime import datetime
from typing import Any, Final

from estation.outside.pay_channels import Channel, ChannelReport, ChannelState
from estation.outside.pay_channels.alipay.signing import Application
from estation.outside.pay_channels.believing import Disbelief, positive_fen, text_of
from estation.shared.clock import BEIJING
from estation.shared.money import NotMoney, fen_from_yuan

STATES: Final = {
    "WAIT_BUYER_PAY": ChannelState.NOT_PAID,
    "TRADE_SUCCESS": ChannelState.PAID,
    "TRADE_FINISHED": ChannelState.PAID,  # Paid, and the refund window is over.
    "TRADE_CLOSED": ChannelState.CLOSED,  # Or paid and refunded in full: see report_of.
}


def report_of(
    application: Application, trade: dict[str, Any], *, paid_at_field: str
) -> ChannelReport | None:
    """None for a trade_status nobody knew when this was written.

    `paid_at_field` is gmt_payment in notices and send_pay_date in answers. A closed trade that
    has it, or a refund, was paid. Raises Disbelief: malformed, not_money.
    """
    state = STATES.get(text_of(trade, "trade_status", most=32))
    if state is None:
        return None
    refunded_fen = fen_of(trade["refund_fee"]) if trade.get("refund_fee") else None
    if state is ChannelState.CLOSED and (trade.get(paid_at_field) or refunded_fen):
        state = ChannelState.PAID
    is_paid = state is ChannelState.PAID
    return ChannelReport(
        channel=Channel.ALIPAY,
        account_id=application.account_id,
        out_trade_no=text_of(trade, "out_trade_no"),
        state=state,
        channel_trade_no=text_of(trade, "trade_no") if is_paid else None,
        paid_fen=positive_fen(fen_of(trade.get("total_amount"))) if is_paid else None,
        paid_at=moment_of(trade.get(paid_at_field)) if is_paid else None,
        refunded_fen=refunded_fen if is_paid else None,
        raw=trade,
    )


def fen_of(text: Any) -> int:
    """Raises Disbelief("not_money"), also below zero."""
    try:
        fen = fen_from_yuan(text)
    except (NotMoney, TypeError):
        raise Disbelief("not_money", repr(text)[:32]) from None
    if fen < 0:
        raise Disbelief("not_money", text[:32])
    return fen


def moment_of(text: Any) -> datetime | None:
    """Alipay writes Beijing time without a zone. Raises Disbelief("malformed")."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Disbelief("malformed", "time") from None
    return moment.replace(tzinfo=BEIJING) if moment.tzinfo is None else moment
