"""Alipay's word on one refund number, in ours.

Source: Alipay open platform, 统一收单交易退款 / 统一收单交易退款查询 / 异步通知说明.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelUnknown,
    RefundReport,
    RefundRequest,
    RefundStatus,
)
from estation.outside.pay_channels.alipay.gateway import Reply
from estation.outside.pay_channels.alipay.signing import Application
from estation.outside.pay_channels.alipay.trades import fen_of, moment_of
from estation.outside.pay_channels.believing import Disbelief, plain_words, positive_fen, text_of
from estation.shared.money import yuan_from_fen

STATUSES: Final = {
    "": RefundStatus.NOT_FOUND,  # Not arrived, or not done: Alipay does not say which.
    "REFUND_PROCESSING": RefundStatus.PROCESSING,
    "REFUND_SUCCESS": RefundStatus.SUCCESS,
    # Not CLOSED: Alipay has no end but success. Whatever else it says, the same number with the
    # same amount may be asked again and may then succeed, so that a new number beside it could
    # give back twice. As for an absent status, asking again is the way on.
    "REFUND_FAIL": RefundStatus.NOT_FOUND,
}

CERTAIN: Final = frozenset(
    {
        "ACQ.INVALID_PARAMETER",
        "ACQ.TRADE_NOT_EXIST",
        "ACQ.TRADE_STATUS_ERROR",
        "ACQ.TRADE_HAS_FINISHED",  # The refund window of the contract is over.
        "ACQ.TRADE_NOT_ALLOW_REFUND",
        "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL",
        "ACQ.REFUND_FEE_ERROR",
        "ACQ.REASON_TRADE_REFUND_FEE_ERR",
        "ACQ.NOT_ALLOW_PARTIAL_REFUND",
        "ACQ.ONLINE_TRADE_VOUCHER_NOT_ALLOW_REFUND",
        "ACQ.BUYER_NOT_EXIST",
        # An alarm: another amount was once asked, and perhaps given back, under this number.
        "ACQ.DISCORDANT_REPEAT_REQUEST",
    }
)
"""Refusals of the trade itself. All others are unknown: trouble of the system, a trade frozen for
a while, or our own signature, clock or permission (isv.…), which say nothing of what an earlier
request under the same number has done."""

NOT_NOW: Final = {"ACQ.SELLER_BALANCE_NOT_ENOUGH": "NOT_ENOUGH"}
"""What passes when finance has filled the account; our code for both channels."""


def asked(request: RefundRequest) -> dict[str, Any]:
    """out_request_no always: without it a repeated partial refund gives back again."""
    return {
        "out_trade_no": request.out_trade_no,
        "trade_no": request.channel_trade_no,
        "refund_amount": yuan_from_fen(request.amount_fen),
        "out_request_no": request.refund_no,
        "refund_reason": plain_words(
            request.reason or "退款", forbidden="", characters=256, utf8_bytes=768
        ),
    }


def accepted(
    application: Application, request: RefundRequest, node: dict[str, Any]
) -> RefundReport:
    """The answer to a request. Only fund_change Y says that money moved, for this request and
    its amount: refund_fee is the sum of all refunds of the trade. N is said when it moved before,
    and when it has not moved yet.

    Raises Disbelief: malformed, not_money.
    """
    if text_of(node, "out_trade_no") != request.out_trade_no:
        raise Disbelief("malformed", "out_trade_no")
    at = moment_of(node.get("gmt_refund_pay"))
    if node.get("fund_change") != "Y" or at is None:
        # Without its moment too: the query tells it.
        return _report(application, request.out_trade_no, request.refund_no, node)
    if not request.amount_fen <= fen_of(node.get("refund_fee")) <= request.total_fen:
        raise Disbelief("not_money", "refund_fee")
    return _report(
        application,
        request.out_trade_no,
        request.refund_no,
        node,
        status=RefundStatus.SUCCESS,
        amount_fen=request.amount_fen,
        at=at,
        received_account=_account(node),
    )


def found(
    application: Application,
    refund_no: str,
    out_trade_no: str,
    node: dict[str, Any],
    *,
    now: datetime,
) -> RefundReport:
    """The answer to a query; refund_amount there is this refund's own.

    `now` stands for a moment Alipay does not tell although asked: no later, it has arrived.
    Raises Disbelief: malformed (also another number, an unknown status), not_money.
    """
    status = STATUSES.get(node.get("refund_status") or "")
    if status is None:
        raise Disbelief("malformed", "refund_status")
    if status is not RefundStatus.SUCCESS:
        return _report(application, out_trade_no, refund_no, node, status=status)
    if (node.get("out_request_no"), node.get("out_trade_no")) != (refund_no, out_trade_no):
        raise Disbelief("malformed", "another refund")
    return _report(
        application,
        out_trade_no,
        refund_no,
        node,
        status=status,
        amount_fen=positive_fen(fen_of(node.get("refund_amount"))),
        at=moment_of(node.get("gmt_refund_pay")) or now,
        received_account=_account(node),
    )


def told_by_notice(application: Application, news: dict[str, Any]) -> RefundReport | None:
    """The refund a trade notice names. Never SUCCESS: its refund_fee is the sum of all refunds,
    which proves no single one's amount. PROCESSING has the number queried.

    Raises Disbelief("malformed").
    """
    if not news.get("out_biz_no") or not (news.get("refund_fee") or news.get("gmt_refund")):
        return None
    refund_no = text_of(news, "out_biz_no")
    return _report(application, news["out_trade_no"], refund_no, news)


def refusal(reply: Reply) -> ChannelRefused | ChannelUnknown:
    """The answer is signed, so a business no from CERTAIN is one."""
    code = reply.sub_code
    message = str(reply.node.get("sub_msg", ""))[:256]
    if reply.code == "40004" and code in CERTAIN:
        return ChannelRefused(code, message)
    if code in NOT_NOW:
        return ChannelUnknown(NOT_NOW[code], message)
    return reply.as_unknown()


def _report(
    application: Application,
    out_trade_no: str,
    refund_no: str,
    raw: dict[str, Any],
    *,
    status: RefundStatus = RefundStatus.PROCESSING,
    amount_fen: int | None = None,
    at: datetime | None = None,
    received_account: str = "",
) -> RefundReport:
    return RefundReport(
        channel=Channel.ALIPAY,
        account_id=application.account_id,
        out_trade_no=out_trade_no,
        refund_no=refund_no,
        status=status,
        amount_fen=amount_fen,
        at=at,
        received_account=received_account,
        raw=raw,
    )


def _account(node: Mapping[str, Any]) -> str:
    """Alipay masks the login name itself; one that is not masked is not shown."""
    name = node.get("buyer_logon_id")
    is_masked = isinstance(name, str) and "*" in name
    return f"支付宝账户 {name}"[:64] if is_masked else "支付宝账户"
