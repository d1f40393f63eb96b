"""WeChat Pay's word on one refund, in ours. Answers and notices name the state differently.

Source: APIv3, 申请退款 / 查询单笔退款 / 退款结果通知 / 发起异常退款.
"""

import re
from datetime import datetime
from typing import Any, Final

from estation.outside.pay_channels import Channel, RefundReport, RefundRequest, RefundStatus
from estation.outside.pay_channels.believing import Disbelief, plain_words, positive_fen, text_of
from estation.outside.pay_channels.wechat_pay.signing import Merchant
from estation.outside.pay_channels.wechat_pay.transactions import (
    amount_of,
    moment_of,
    trade_number_of,
)

REFUNDS_PATH: Final = "/v3/refund/domestic/refunds"
STATUSES: Final = {
    "PROCESSING": RefundStatus.PROCESSING,
    "SUCCESS": RefundStatus.SUCCESS,
    "CLOSED": RefundStatus.CLOSED,
    "ABNORMAL": RefundStatus.ABNORMAL,
}
_REFUND_NO: Final = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}")
_REASON_BYTES: Final = 80


def refund_body(request: RefundRequest) -> dict[str, Any]:
    """The order is named by our own number: a sub-order's is as good as a whole order's."""
    return {
        "out_trade_no": request.out_trade_no,
        "out_refund_no": request.refund_no,
        "reason": plain_words(
            request.reason, forbidden="`", characters=_REASON_BYTES, utf8_bytes=_REASON_BYTES
        ),
        "notify_url": request.notify_url,
        # Here, unlike in an order, the currency must be told.
        "amount": {
            "refund": request.amount_fen,
            "total": request.total_fen,
            "currency": "CNY",
        },
    }


def refund_report_of(
    merchant: Merchant, refund: dict[str, Any], *, status_field: str, told_at: datetime
) -> RefundReport | None:
    """None for a status nobody knew when this was written: not a reason to lose the news.

    `told_at` stands for a success_time that is missing: the money is back at the latest now.

    Only notices name the merchant; an answer's merchant is who asked. Raises Disbelief:
    wrong_addressee, malformed, not_money (the amounts are no positive integers of fen, more is
    given back than was paid, or not CNY).
    """
    if refund.get("mchid", merchant.mchid) != merchant.mchid:
        raise Disbelief("wrong_addressee", "mchid")
    out_trade_no = trade_number_of(refund)
    refund_no = refund_number_of(refund)
    status = STATUSES.get(text_of(refund, status_field, most=32))
    if status is None:
        return None
    return RefundReport(
        channel=Channel.WECHAT_PAY,
        account_id=merchant.account_id,
        out_trade_no=out_trade_no,
        refund_no=refund_no,
        status=status,
        channel_refund_no=text_of(refund, "refund_id"),
        amount_fen=_refunded_fen(refund),
        at=_arrived_at(refund, told_at) if status is RefundStatus.SUCCESS else None,
        received_account=_received_account(refund),
        raw=refund,
    )


def refund_number_of(refund: dict[str, Any]) -> str:
    number = text_of(refund, "out_refund_no")
    if not _REFUND_NO.fullmatch(number):
        raise Disbelief("malformed", "out_refund_no")
    return number


def _refunded_fen(refund: dict[str, Any]) -> int:
    """What was asked for: `payer_refund` is less when the payer had used a coupon."""
    amount = amount_of(refund)
    refunded_fen, total_fen = positive_fen(amount.get("refund")), positive_fen(amount.get("total"))
    if refunded_fen > total_fen:
        raise Disbelief("not_money", "more than was paid")
    return refunded_fen


def _arrived_at(refund: dict[str, Any], told_at: datetime) -> datetime:
    return moment_of(refund.get("success_time")) or told_at


def _received_account(refund: dict[str, Any]) -> str:
    """Masked by WeChat Pay itself, as in 招商银行信用卡0403 or 支付用户零钱."""
    account = refund.get("user_received_account")
    return account[:64] if isinstance(account, str) else ""
