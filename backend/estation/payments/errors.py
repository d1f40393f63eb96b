"""Every way the payment desk refuses."""

from estation.shared.errors import InvalidInput, NotFound, Refused, TooManyRequests
from estation.shared.money import display_yuan


class OrderNotFound(NotFound):
    """No such order of the asker (somebody else's looks the same)."""

    code = "order_not_found"
    message = "没有找到这笔缴费订单，请返回重试。"


class OrderAlreadyOpen(Refused):
    """A bill is in another open order; `order_id` is told when it is the asker's own."""

    code = "order_already_open"
    http_status = 409
    message = "这笔费用已有一个进行中的缴费订单，请先完成或取消它。"


class AmountChanged(Refused):
    """The asker believed another sum; `amount_fen` is the present one."""

    code = "amount_changed"
    http_status = 412
    message = "应缴金额已变化，请核对新的金额后再缴费。"


class OrderNotOpen(Refused):
    """The order is paid, cancelled or over; `state` says which."""

    code = "order_not_open"
    http_status = 409
    message = "这笔缴费订单已结束，请返回查看结果。"


class AnotherAttemptLive(Refused):
    """The earlier code could not be closed yet: somebody may be paying it now."""

    code = "another_attempt_live"
    http_status = 409
    message = "上一个付款码正在使用中，暂时不能更换或取消，请稍候再试。"


class SceneNotOffered(InvalidInput):
    """The channel has no such scene, or the scene needs what the asker does not have."""

    code = "scene_not_offered"
    http_status = 422
    message = "不支持这种付款方式，请换一种。"


class ChannelTrouble(Refused):
    """The channel gave no usable answer; nothing is lost, we keep asking it."""

    code = "channel_trouble"
    http_status = 503
    message = "支付渠道暂时没有响应，请稍候重试；如已付款，结果会自动更新。"


class CodeNotFound(NotFound):
    """No bill has this code: mistyped, cut off or made up. The asker cannot tell which."""

    code = "code_not_found"
    message = "没有找到这个缴费码对应的账单，请重新扫描账单上的二维码。"


class SplitExportNotFound(NotFound):
    """No such file, or no such collecting account."""

    code = "split_export_not_found"
    message = "没有找到这份分账指令或这个归集账户。"


class SplitDayNotOver(Refused):
    """Money of the day may still arrive."""

    code = "split_day_not_over"
    message = "这一天还没有结束，请次日再生成分账指令。"


class NothingToInstruct(Refused):
    """Every transfer of the day is instructed already, or there is none."""

    code = "nothing_to_instruct"
    message = "这一天没有尚未分账的款项，不需要再生成。"


class AttemptNotFound(NotFound):
    code = "attempt_not_found"
    message = "没有找到这个商户订单号的支付。"


class ReceiptNotKnown(Refused):
    """The books do not hold exactly what one attempt should have brought: a person must look."""

    code = "receipt_not_known"
    message = "这笔订单的入账与付款不能一一对应，无法自动补发回执，请人工核对。"


class IncidentNotFound(NotFound):
    code = "incident_not_found"
    message = "没有找到这条异常记录。"


class NotYourIncident(Refused):
    """Not a deed of this officer's post, or not of this incident as it stands now."""

    code = "not_your_incident"
    http_status = 403
    message = "这条异常不由您的岗位处理，或已不能这样处理。"


class IncidentAlreadyResolved(Refused):
    code = "incident_already_resolved"
    http_status = 409
    message = "这条异常已处理完毕。"


class MoneyInSuspense(Refused):
    """Words do not end it: `suspense_fen` of the incident's money is still here, nobody's."""

    code = "money_in_suspense"
    http_status = 409
    message = "这条异常还有钱在挂账，不能只凭文字办结。"

    def __init__(self, *, suspense_fen: int) -> None:
        super().__init__(suspense_fen=suspense_fen)
        self.message = (
            f"这条异常还有 ¥ {display_yuan(suspense_fen)} 在挂账，不能只凭文字办结；"
            "请先退款、转入账单，或由两人办理线下处理。"
        )


class OverpaidBack(Refused):
    """Words do not end it: `claim_fen` of the incident's money was given away twice."""

    code = "overpaid_back"
    http_status = 409
    message = "这条异常的钱多退了，追回或核销之前不能办结。"

    def __init__(self, *, claim_fen: int) -> None:
        super().__init__(claim_fen=claim_fen)
        self.message = (
            f"这条异常的钱多退了 ¥ {display_yuan(claim_fen)}，已记为应收；"
            "请由两人办理追回或核销，结清之前不能办结。"
        )


class NewsNotSettled(Refused):
    """Words do not end it: believed news of money waits in the inbox, or was given up."""

    code = "news_not_settled"
    http_status = 409
    message = "渠道的这条收退款通知还没有入账，不能只凭文字办结；请运维排除原因后重新处理。"


class RefundStillAbnormal(Refused):
    """Words do not end it: the payer has nothing yet, and only this incident leads on."""

    code = "refund_still_abnormal"
    http_status = 409
    message = "这笔退款仍是异常状态，不能只凭文字办结；请先由两人办理改退。"


class MoneyNotInLedger(Refused):
    """Words do not end it: the channel's bill has money of a payment of ours that nobody booked."""

    code = "money_not_in_ledger"
    http_status = 409
    message = "渠道账单上的这笔收款还没有入账，不能只凭文字办结；请先向渠道查询这笔支付。"


class StreamStillStopped(Refused):
    """Words do not end it: the stream stands where it stood, and its end comes by itself."""

    code = "stream_still_stopped"
    http_status = 409
    message = (
        "光闸数据流仍停在原处、仍没有空间或这一行仍在隔离，不能只凭文字办结；恢复之后会自动办结。"
    )


class NothingToSettleOutside(Refused):
    """No money of the incident is in suspense, or all of it is on its way already."""

    code = "nothing_to_settle_outside"
    http_status = 409
    message = "这条异常没有挂账可以线下处理。"


class OutsideAlreadyAsked(Refused):
    code = "outside_already_asked"
    http_status = 409
    message = "这笔挂账已有待复核的线下处理申请。"


class OutsideNotAsked(Refused):
    code = "outside_not_asked"
    http_status = 409
    message = "没有待复核的线下处理申请。"


class NoClaim(Refused):
    """Nothing of the incident's money was given back beyond its amount, or all of it has ended."""

    code = "no_claim"
    http_status = 409
    message = "这条异常没有未了结的多退应收。"


class ClaimChanged(Refused):
    """The asker, or the checker, saw another sum; `claim_fen` is the present one."""

    code = "claim_changed"
    http_status = 412
    message = "应收金额已变化，请核对新的金额后再提交。"


class ClaimEndAlreadyAsked(Refused):
    code = "claim_end_already_asked"
    http_status = 409
    message = "这笔多退应收已有待复核的追回或核销申请。"


class ClaimEndNotAsked(Refused):
    code = "claim_end_not_asked"
    http_status = 409
    message = "没有待复核的追回或核销申请。"


class RefundUnderWay(Refused):
    """`refund_no` of the same money has not ended; were the channel to close it, the claim would
    end by itself."""

    code = "refund_under_way"
    http_status = 409
    message = "这笔钱还有另一笔退款没有结果；渠道若关闭它，应收会自行冲减，请等它结束。"


class ArrivalNotFound(NotFound):
    """No money arrived under this number, or none that could be given back."""

    code = "arrival_not_found"
    message = "没有找到这笔收款，无法退款。"


class RefundNotFound(NotFound):
    code = "refund_not_found"
    message = "没有找到这笔退款。"


class RefundableChanged(Refused):
    """The asker believed another refundable sum; `refundable_fen` is the present one."""

    code = "refundable_changed"
    http_status = 412
    message = "可退金额已变化，请核对新的可退金额后再提交。"


class RefundTooMuch(Refused):
    """More than is left; `refundable_fen` is what can be given back, of one payee perhaps less."""

    code = "refund_too_much"
    http_status = 409
    message = "退款金额超过可退金额，请核对后重新提交。"


class RefundNotPossible(Refused):
    """The channel would never take it; `why` is a refund_rules.Hindrance."""

    code = "refund_not_possible"
    http_status = 409
    message = "支付渠道不再受理这笔收款的退款（超过期限或次数），请线下办理。"


class RefundAlreadyDecided(Refused):
    """`state` says how it stands."""

    code = "refund_already_decided"
    http_status = 409
    message = "这笔退款已由他人处理。"


class TooManyCodes(TooManyRequests):
    """So many codes of this bill are watched that nobody has scanned: each costs its channel
    questions until it is over."""

    message = "这笔费用已换过太多付款码，请稍后再试，或改用微信付款。"


class SecondPersonNeeded(Refused):
    """Who asked may not decide: 经办与复核不得为同一人."""

    code = "second_person_needed"
    http_status = 403
    message = "经办人不能复核自己提交的申请，请由另一人复核。"


class NotReversible(Refused):
    """No such transfer, one that our own actions post and undo, or one undone already."""

    code = "not_reversible"
    http_status = 409
    message = "没有这张凭证，或它由程序自己记账，或已经冲回，不能手工冲回。"


class RefundNotAbnormal(Refused):
    code = "refund_not_abnormal"
    http_status = 409
    message = "这笔退款不是异常状态，不能改退。"


class RefundNotRedirected(Refused):
    """Nothing of it came to our own card, or not yet; `state` says how it stands."""

    code = "refund_not_redirected"
    http_status = 409
    message = "这笔退款没有改退到商户卡，或还没有到账，不能登记转付。"


class PaidByHandAlready(Refused):
    code = "paid_by_hand_already"
    http_status = 409
    message = "这笔退款已登记转付给付款人。"


class HandPaymentNotAsked(Refused):
    code = "hand_payment_not_asked"
    http_status = 409
    message = "没有待复核的转付登记。"


class RefundNotPaidOut(Refused):
    """Words do not end it: the refund came to our own card, and nobody booked its way on."""

    code = "refund_not_paid_out"
    http_status = 409
    message = "改退的钱已到商户卡，还没有登记转付给付款人，不能只凭文字办结。"


class RedirectNotAsked(Refused):
    code = "redirect_not_asked"
    http_status = 409
    message = "没有待复核的改退申请。"


class RedirectRefused(Refused):
    """The channel has no such way, or would not take it now; `reason` is its code."""

    code = "redirect_refused"
    http_status = 409
    message = "支付渠道没有受理改退，请稍后再试或线下办理。"


class NothingToApply(Refused):
    """`why`: not_this_kind, no_order, wrong_amount, bill_changed, refunded, applied,
    settled_outside, not_asked."""

    code = "nothing_to_apply"
    http_status = 409
    message = "这笔挂账不能入账到原缴费单，请核对后改用退款。"
