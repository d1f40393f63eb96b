"""How a payment or a refund stands, in the words a citizen reads and with what to do next. Pure.

One table: every way an order ends, every state of a refund and money that waits for a person. A
test holds it against the enums, so that no new state is shown by another one's words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from estation.payments.api import CloseReason, IncidentKind, OrderState, PayersRefund, RefundCause


@dataclass(frozen=True, slots=True)
class Telling:
    """`mark`: the result page's icon; `tone` and `word`: the status beside a list's line;
    `asks_a_person`: the page adds whom to turn to."""

    mark: str  # good, info, time, warn, bad
    tone: str  # good, due, doing, quiet, bad
    word: str
    title: str
    sentence: str
    next_step: str
    asks_a_person: bool = False


SETTLED_OUTSIDE: Final = "settled_outside"
RETRIED: Final = "retried"
PARTLY_REFUNDED: Final = "partly_refunded"
FULLY_REFUNDED: Final = "fully_refunded"

_OLD_CODE = "请不要再用原来的付款码；万一用它付了款，钱会自动原路退回，不需要您申请。"
"""An Alipay code that was left unscanned is no trade yet, which its channel could close: it can be
paid until its own end."""
_IF_PAID = "如果您已经付款，请不要重复付款，核实后会自动入账或原路退回。"
_PAY_AGAIN = "费用仍需在期限前缴清，您可以随时重新付款。"

_REVIEW = Telling(
    "warn",
    "doing",
    "核实中",
    "这笔款项需要核实",
    "我们收到了一笔款项，但它与这次缴费对不上，所以没有入账。钱没有丢失，由财务人员核实。",
    "核实后会入账或原路退回。在此之前请不要重复付款。",
    asks_a_person=True,
)
_GOES_BACK = Telling(
    "time",
    "doing",
    "退回中",
    "这笔付款会自动退回",
    "款项到账时这次缴费已经结束，所以没有入账。钱会自动原路退回，不需要您申请。",
    "退款进度会显示在这一页。",
)

TELLINGS: Final[Mapping[str, Telling]] = {
    # An order as it stands
    OrderState.OPEN: Telling(
        "time",
        "doing",
        "正在支付",
        "这次付款正在进行",
        "付款码还有效，付款后结果会自动显示。",
        "请在截止时间前付款，或取消这次付款。",
    ),
    OrderState.PAID: Telling(
        "good", "good", "已缴清", "缴费成功", "款项已经入账。", "凭据可以随时查看和下载。"
    ),
    PARTLY_REFUNDED: Telling(
        "info",
        "good",
        "部分退款",
        "缴费成功，其中一部分已退款",
        "退回的钱已到您的收款账户，其余部分仍然有效。",
        "凭据上会写明退了多少。",
    ),
    FULLY_REFUNDED: Telling(
        "info",
        "quiet",
        "已退款",
        "这笔缴费已全部退款",
        "钱已退到您的收款账户，原来的凭据不再证明缴清。",
        "如果开单部门改过或重新开出账单，会出现在“我的缴费”的待缴里。",
    ),
    # Why an order ended unpaid
    CloseReason.CANCELLED: Telling(
        "info",
        "quiet",
        "已取消",
        "这次付款已取消",
        f"{_OLD_CODE}{_IF_PAID}",
        _PAY_AGAIN,
    ),
    CloseReason.EXPIRED: Telling(
        "time",
        "quiet",
        "已过期",
        "付款时间已过",
        f"这次没有付成。{_OLD_CODE}{_IF_PAID}",
        _PAY_AGAIN,
    ),
    CloseReason.BILL_CHANGED: Telling(
        "warn",
        "quiet",
        "费用有变动",
        "费用有变动",
        f"开单部门更新或撤回了这笔费用。{_OLD_CODE}{_IF_PAID}",
        "请查看最新的费用，核对后再付款。",
    ),
    CloseReason.CHANNEL: Telling(
        "warn",
        "quiet",
        "没有付成",
        "这次付款没有成功",
        f"支付渠道关闭了这个付款码。{_IF_PAID}",
        "请重新付款，也可以换一种付款方式。",
    ),
    CloseReason.NEVER_SEEN: Telling(
        "warn",
        "quiet",
        "没有付成",
        "付款码没有生成",
        "支付渠道没有生成付款码，也没有扣款。",
        "请重新付款，也可以换一种付款方式。",
    ),
    # Money that arrived and could not be applied
    IncidentKind.WRONG_AMOUNT: replace(
        _REVIEW,
        title="付款金额需要核实",
        sentence="收到的金额与应缴金额不同，所以没有入账。钱没有丢失，由财务人员核实。",
    ),
    IncidentKind.WRONG_ACCOUNT: _REVIEW,
    IncidentKind.UNKNOWN_ORDER: _REVIEW,
    IncidentKind.UNOWNED_SUSPENSE: _REVIEW,
    IncidentKind.CONTRADICTING_NEWS: _REVIEW,
    IncidentKind.ALREADY_REFUNDED: replace(
        _REVIEW,
        sentence="支付渠道说这笔付款已有退款，所以没有入账。由财务人员核实。",
    ),
    IncidentKind.PAID_AFTER_CLOSE: _GOES_BACK,
    IncidentKind.PAID_AFTER_EXPIRY: _GOES_BACK,
    IncidentKind.DOUBLE_PAYMENT: replace(
        _GOES_BACK,
        title="多付的一笔会自动退回",
        sentence="同一笔费用付了两次。多付的一笔会自动原路退回，不需要您申请。",
    ),
    IncidentKind.BILL_ALREADY_PAID: replace(
        _GOES_BACK,
        title="多付的一笔会自动退回",
        sentence="这笔费用已由另一次付款缴清。这次付的钱会自动原路退回，不需要您申请。",
        next_step="这笔费用不用再缴。退款进度会显示在这一页。",
    ),
    IncidentKind.BILL_REVISED: replace(
        _GOES_BACK,
        title="付款时费用有变动",
        sentence="付款时账单已经更新，所以没有入账。钱会自动原路退回，不需要您申请。",
        next_step="请按最新的账单付款。退款进度会显示在这一页。",
    ),
    IncidentKind.BILL_WITHDRAWN: replace(
        _GOES_BACK,
        title="付款时账单已撤回",
        sentence="付款时开单部门已经撤回账单，所以没有入账。钱会自动原路退回，不需要您申请。",
        next_step="这张账单不用再缴。退款进度会显示在这一页。",
    ),
    SETTLED_OUTSIDE: Telling(
        "info",
        "quiet",
        "已线下处理",
        "这笔款项已线下处理",
        "收到的款项没有在网上入账，财务人员已凭单据在线下办结，例如转账退还付款人。",
        "费用是否还要缴，以“我的缴费”里显示的为准。如有疑问，可以向工作人员了解。",
        asks_a_person=True,
    ),
    # A refund
    PayersRefund.REFUNDING: Telling(
        "time",
        "doing",
        "退款中",
        "正在退款",
        "钱正在原路退回，不需要您做什么。",
        "何时到账由支付渠道和您的开户银行决定；退成后，这里会写明时间和收款账户。",
    ),
    PayersRefund.ABNORMAL: Telling(
        "warn",
        "bad",
        "退款受阻",
        "退款没能退到原来的账户",
        "您原来的付款账户暂时收不了这笔钱，例如银行卡已注销。钱没有丢失，由财务人员另办退回。",
        "请保持电话畅通，也可以主动联系我们：",
        asks_a_person=True,
    ),
    PayersRefund.REFUNDED: Telling(
        "good",
        "good",
        "已退款",
        "退款成功",
        "钱已退到您的收款账户。",
        "请在收款账户里核对。",
    ),
    PayersRefund.NOT_REFUNDED: Telling(
        "bad",
        "bad",
        "没有退成",
        "这笔退款没有退成",
        "支付渠道没有办成这笔退款。钱没有丢失，财务人员正在处理，会重新退给您。",
        "不需要您重新申请。如想了解进度，请联系：",
        asks_a_person=True,
    ),
    PayersRefund.PAID_BY_HAND: Telling(
        "good",
        "good",
        "已转账退款",
        "退款已转账给您",
        "您原来的付款账户收不了这笔退款，财务人员已另行转账退给您。",
        "请在收款账户里核对。如没有收到，请联系：",
        asks_a_person=True,
    ),
    RETRIED: Telling(
        "info",
        "quiet",
        "没有退成",
        "这一次没有退成",
        "支付渠道没有办成这一次，之后已另行办理。",
        "结果见这一页后面的内容。",
    ),
}

NOT_FOR_THE_PAYER: Final = frozenset(
    {
        IncidentKind.UNEXPECTED_REFUND,
        IncidentKind.INCOMPLETE_NEWS,
        IncidentKind.UNREADABLE_NEWS,
        IncidentKind.UNSETTLED_NEWS,
        IncidentKind.SILENT_ATTEMPT,
        IncidentKind.REFUND_CLOSED,  # told as the refund's own state
        IncidentKind.REFUND_ABNORMAL,  # told as the refund's own state
        IncidentKind.REFUND_NOT_ENOUGH,
        IncidentKind.REFUND_UNFINISHED,
        IncidentKind.REFUND_OVERPAID,  # our claim; the payer has more than is due
        IncidentKind.REFUND_ORDER_REFUSED,
    }
)
"""Incidents that never end an order: the office's own work."""

WHY_REFUNDED: Final[Mapping[RefundCause, str]] = {
    RefundCause.DOUBLE_PAYMENT: "同一笔费用付了两次，退回多付的一笔",
    RefundCause.PAID_LATE: "款项到账时这次缴费已经结束",
    RefundCause.BILL_CHANGED: "付款时费用已有变动，或已由别的付款缴清",
    RefundCause.STAFF: "工作人员为您办理的退款",
    RefundCause.CENTRE: "登记机构为您发起的退款",
}

_MOST_URGENT = (PayersRefund.NOT_REFUNDED, PayersRefund.ABNORMAL, PayersRefund.REFUNDING)


class RefundLike(Protocol):
    @property
    def state(self) -> PayersRefund: ...
    @property
    def amount_fen(self) -> int: ...
    @property
    def is_of_payment(self) -> bool: ...


def tellings_of(
    refunds: Sequence[RefundLike], *, is_settled_outside: bool = False
) -> list[Telling]:
    """The words for each of an order's refunds, oldest first. `is_settled_outside`: what of the
    money that could not be applied did not go back."""
    return [
        TELLINGS[RETRIED if _is_past(one, refunds, turn, is_settled_outside) else one.state]
        for turn, one in enumerate(refunds, start=1)
    ]


def telling_of(state: str) -> Telling:
    """A word nobody knows is money to be looked into, never "it failed"."""
    return TELLINGS.get(state, _REVIEW)


def standing(
    state: OrderState,
    close_reason: str,
    amount_fen: int,
    refunds: Iterable[RefundLike],
    *,
    is_settled_outside: bool = False,
) -> Telling:
    """Where the citizen's money is: the headline of an order. `refunds`: oldest first."""
    if state is OrderState.OPEN:
        return TELLINGS[OrderState.OPEN]
    if state is OrderState.CLOSED:
        own = list(refunds)
        urgent = _most_urgent(own, is_settled_outside)
        if urgent is None and is_settled_outside:
            return TELLINGS[SETTLED_OUTSIDE]
        if urgent is None and own:
            return TELLINGS[_how_returned(own)]
        return TELLINGS[urgent] if urgent else telling_of(close_reason)
    own = [one for one in refunds if one.is_of_payment]
    back = refunded_fen(own)
    urgent = _most_urgent(own, is_settled_outside)
    if back >= amount_fen:
        return TELLINGS[FULLY_REFUNDED]
    if urgent:
        return TELLINGS[urgent]
    return TELLINGS[PARTLY_REFUNDED if back else OrderState.PAID]


def ending_told(
    close_reason: str,
    refunds: Sequence[RefundLike],
    *,
    under_review: str | None = None,
    is_settled_outside: bool = False,
) -> Telling:
    """How the last, unpaid order of a bill ended, on the page where it may be paid again: the
    reason while nothing better is known, what became of the money once something did.

    `under_review`: the kind of incident a person looks at."""
    told = standing(
        OrderState.CLOSED, close_reason, 0, refunds, is_settled_outside=is_settled_outside
    )
    if told.tone == "bad":  # a refund that failed
        return told
    if under_review is not None:
        return telling_of(under_review)
    is_explained = close_reason not in list(CloseReason)
    if told is TELLINGS[PayersRefund.REFUNDING] and is_explained:
        return telling_of(close_reason)  # says why it goes back, and whether to pay again
    return told


def for_a_holder(told: Telling) -> Telling:
    """For the page of a bill's code, which names no account of anybody's."""
    if told is TELLINGS[PayersRefund.REFUNDING]:
        return replace(told, next_step="何时到账由支付渠道和您的开户银行决定，请留意付款账户。")
    return told


def refunded_fen(refunds: Iterable[RefundLike]) -> int:
    return sum(one.amount_fen for one in refunds if one.state in _RETURNED)


_RETURNED = frozenset({PayersRefund.REFUNDED, PayersRefund.PAID_BY_HAND})


def _how_returned(refunds: Sequence[RefundLike]) -> PayersRefund:
    by_hand = any(one.state is PayersRefund.PAID_BY_HAND for one in refunds)
    return PayersRefund.PAID_BY_HAND if by_hand else PayersRefund.REFUNDED


def _most_urgent(refunds: list[RefundLike], is_settled_outside: bool) -> PayersRefund | None:
    """The state that still concerns the payer."""
    states = [
        one.state
        for turn, one in enumerate(refunds, start=1)
        if not _is_past(one, refunds, turn, is_settled_outside)
    ]
    return next((state for state in _MOST_URGENT if state in states), None)


def _is_past(
    refund: RefundLike, refunds: Sequence[RefundLike], turn: int, is_settled_outside: bool
) -> bool:
    """A refund that failed is past once another of the same money followed it, or what was to go
    back was settled outside."""
    return refund.state is PayersRefund.NOT_REFUNDED and (
        (is_settled_outside and not refund.is_of_payment)
        or any(later.is_of_payment is refund.is_of_payment for later in refunds[turn:])
    )
