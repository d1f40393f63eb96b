"""What happened to an order, step by step, as its payer reads it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from estation.payments.api import CitizenRefund, CloseReason, OrderState, OrderView, PayersRefund
from estation.payments.pages.tellings import TELLINGS, Telling, telling_of
from estation.payments.pages.views import WALLETS


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `state` is the step chart's: done, doing, waiting, not_required, returned."""

    name: str
    state: str
    word: str
    at: datetime | None = None
    note: str = ""
    fen: int | None = None


_STEP_OF_REFUND = {
    PayersRefund.REFUNDING: "doing",
    PayersRefund.ABNORMAL: "returned",
    PayersRefund.REFUNDED: "done",
    PayersRefund.NOT_REFUNDED: "returned",
    PayersRefund.PAID_BY_HAND: "done",
}


def steps_of(
    order: OrderView, refunds: Sequence[CitizenRefund], words: Sequence[Telling]
) -> list[Step]:
    """下单 → 付款 → 入账 → 凭据 → 退款, as far as it came; refunds in the order they were asked,
    each with its words."""
    return [
        Step("下单", "done", "已完成", order.created_at),
        *(_paid(order) if order.state is OrderState.PAID else _unpaid(order)),
        *(_refund(one, telling) for one, telling in zip(refunds, words, strict=True)),
    ]


def _paid(order: OrderView) -> list[Step]:
    attempt, papers = order.paid_attempt, sum(1 for split in order.splits if split.amount_fen)
    wallet = WALLETS[attempt.channel] if attempt else ""
    return [
        Step("付款", "done", "已完成", order.paid_at, wallet, order.amount_fen),
        Step("入账", "done", "已完成", order.applied_at),
        Step("凭据", "done", "已生成", None, f"{papers} 张"),
    ]


def _unpaid(order: OrderView) -> list[Step]:
    if order.state is OrderState.OPEN:
        return [Step("付款", "doing", TELLINGS[OrderState.OPEN].word)]
    had_no_money = order.close_reason in list(CloseReason)
    word = telling_of(order.close_reason).word if had_no_money else "没有入账"
    return [Step("付款", "not_required", word, order.closed_at)]


def _refund(refund: CitizenRefund, telling: Telling) -> Step:
    return Step(
        "退款", _STEP_OF_REFUND[refund.state], telling.word, refund.at, fen=refund.amount_fen
    )
