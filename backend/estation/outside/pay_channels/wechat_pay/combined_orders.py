"""WeChat Pay's word on a combined order (合单), in ours. The same shape by query and by notice.

Source: APIv3, 合单查询订单 / 合单支付通知.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from estation.outside.pay_channels import Channel, ChannelReport, ChannelState, ReportPart
from estation.outside.pay_channels.believing import Disbelief, positive_fen, text_of
from estation.outside.pay_channels.wechat_pay.signing import Merchant
from estation.outside.pay_channels.wechat_pay.transactions import (
    STATES,
    amount_of,
    moment_of,
    trade_number_of,
)

NUMBER = "combine_out_trade_no"
MOST_PARTS = 50


def combined_report_of(
    merchant: Merchant, payees: Mapping[str, str], order: dict[str, Any]
) -> ChannelReport | None:
    """`payees`: mchid -> account_id of every merchant of ours that may have a sub-order.

    None when a sub-order's trade_state is one nobody knew. Raises Disbelief: wrong_addressee
    (also for a sub-order of somebody else's merchant), malformed, not_money.
    """
    check_combiner(merchant, order)
    number = trade_number_of(order, NUMBER)
    parts = [_part(payees, sub_order) for sub_order in sub_orders_of(order)]
    known = tuple(part for part in parts if part is not None)
    if len(known) != len(parts):
        return None
    if len({(part.account_id, part.out_trade_no) for part in known}) != len(known):
        raise Disbelief("malformed", "a sub-order twice")
    paid = [part for part in known if part.state is ChannelState.PAID]
    return ChannelReport(
        channel=Channel.WECHAT_PAY,
        account_id=merchant.account_id,
        out_trade_no=number,
        state=_whole_state({part.state for part in known}),
        channel_trade_no=number if paid else None,
        paid_fen=sum(part.paid_fen or 0 for part in paid) if paid else None,
        paid_at=_latest(part.paid_at for part in paid),
        was_refunded=any(one["trade_state"] == "REFUND" for one in sub_orders_of(order)),
        raw=order,
        parts=known,
    )


def check_combiner(merchant: Merchant, order: dict[str, Any]) -> None:
    """Raises Disbelief("wrong_addressee")."""
    if order.get("combine_mchid") != merchant.mchid:
        raise Disbelief("wrong_addressee", "combine_mchid")
    if order.get("combine_appid") != merchant.appid:
        raise Disbelief("wrong_addressee", "combine_appid")


def sub_orders_of(order: dict[str, Any]) -> list[dict[str, Any]]:
    listed = order.get("sub_orders")
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_PARTS:
        raise Disbelief("malformed", "sub_orders")
    if not all(isinstance(sub_order, dict) for sub_order in listed):
        raise Disbelief("malformed", "sub_orders")
    return listed


def _part(payees: Mapping[str, str], sub_order: dict[str, Any]) -> ReportPart | None:
    mchid = sub_order.get("mchid")
    account_id = payees.get(mchid) if isinstance(mchid, str) else None
    if account_id is None:
        raise Disbelief("wrong_addressee", "sub-order's mchid")
    number = trade_number_of(sub_order)
    state = STATES.get(text_of(sub_order, "trade_state", most=32))
    if state is None:
        return None
    is_paid = state is ChannelState.PAID
    return ReportPart(
        account_id=account_id,
        out_trade_no=number,
        state=state,
        channel_trade_no=text_of(sub_order, "transaction_id") if is_paid else None,
        # The sub-order's total: `payer_amount` is less when the payer used a coupon.
        paid_fen=positive_fen(amount_of(sub_order).get("total_amount")) if is_paid else None,
        paid_at=moment_of(sub_order.get("success_time")) if is_paid else None,
    )


def _whole_state(states: set[ChannelState]) -> ChannelState:
    for state in (ChannelState.PAID, ChannelState.PAYING):
        if state in states:
            return state
    return ChannelState.CLOSED if states == {ChannelState.CLOSED} else ChannelState.NOT_PAID


def _latest(moments: Any) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)
