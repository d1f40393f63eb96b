"""我的缴费记录: every order the citizen ever began, and one order's whole story."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sanic import HTTPResponse

from estation.fees.api import sources_of
from estation.identity.api import citizen, citizen_only
from estation.outside.gate.age import copy_age
from estation.payments.api import (
    CitizenRefund,
    CloseReason,
    OrderView,
    PastOrder,
    PayersRefund,
    SetAside,
    SettledOutside,
    history_of,
    refunds_of_order,
    set_aside_of,
    settled_outside_of,
)
from estation.payments.pages.blueprint import bp
from estation.payments.pages.tellings import (
    FULLY_REFUNDED,
    SETTLED_OUTSIDE,
    TELLINGS,
    WHY_REFUNDED,
    Telling,
    refunded_fen,
    standing,
    telling_of,
    tellings_of,
)
from estation.payments.pages.timeline import steps_of
from estation.payments.pages.views import WALLETS, payee_sums
from estation.services import OnlineRequest
from estation.shared.pages import render

ENDED_WITHOUT_MONEY = tuple(TELLINGS[reason] for reason in CloseReason)


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One order in the list."""

    id: UUID
    title: str
    at: datetime
    amount_fen: int
    refunded_fen: int
    tone: str
    word: str


@dataclass(frozen=True, slots=True)
class ToldRefund:
    """A refund with the words for it; `account`: where the money went, or goes."""

    refund: CitizenRefund
    telling: Telling
    why: str
    account: str


@dataclass(frozen=True, slots=True)
class ToldMoney:
    """Money under review; `telling` is None when the headline says it already."""

    money: SetAside
    telling: Telling | None


@bp.get("/fees/history", name="history")
@citizen_only
async def history(request: OnlineRequest) -> HTTPResponse:
    """Paid, refunding, refunded and ended, newest first; `?page=2` and so on."""
    asked = request.args.get("page", "1")
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) <= 6 else 1
    found = await history_of(citizen(request).person_id, page=number)
    return render(
        request,
        "fees/history.html",
        rows=[_row(one) for one in found.rows],
        total=found.total,
        page=found.page,
        pages=found.pages,
    )


async def ended_page(
    request: OnlineRequest,
    order: OrderView,
    *,
    back_href: str,
    problem: str = "",
    status: int = 200,
) -> HTTPResponse:
    """An order that is over: how it stands, each refund, and what happened when."""
    person_id = citizen(request).person_id
    refunds = await refunds_of_order(person_id, order.id)
    aside = await set_aside_of(person_id, order.id)
    settled = (await settled_outside_of([order.id])).get(order.id)
    is_settled = settled is not None and settled.is_all
    telling = standing(
        order.state, order.close_reason, order.amount_fen, refunds, is_settled_outside=is_settled
    )
    words = tellings_of(refunds, is_settled_outside=is_settled)
    if order.state == "closed" and aside and not refunds:
        telling = TELLINGS[aside[0].kind]  # "it expired, pay again" would be the wrong advice
    attempt = order.paid_attempt
    return render(
        request,
        "payments/ended.html",
        status=status,
        order=order,
        telling=telling,
        ending=ending_of(order, telling),
        headline=headline_of(order, telling, refunds, aside, settled),
        refunds=[told_refund(one, its) for one, its in zip(refunds, words, strict=True)],
        settled=settled,
        settled_telling=TELLINGS[SETTLED_OUTSIDE],
        aside=[_told_money(one, telling) for one in aside],
        groups=payee_sums(order.splits),
        steps=steps_of(order, refunds, words),
        wallet_name=WALLETS[attempt.channel] if attempt else "",
        back_href=back_href,
        is_payable_again=telling in ENDED_WITHOUT_MONEY,
        problem=problem,
        hall=request.app.ctx.settings.hall,
        **await copy_age(
            await sources_of([one.bill_id for one in order.bills]), now=request.app.ctx.clock()
        ),
    )


def ending_of(order: OrderView, telling: Telling) -> Telling | None:
    """Why it ended unpaid, where the headline says something later. Not "it is looked into",
    which is over when it was settled outside."""
    if order.state != "closed":
        return None
    ending = telling_of(order.close_reason)
    is_over = telling is TELLINGS[SETTLED_OUTSIDE] and ending.asks_a_person
    return None if ending is telling or is_over else ending


def headline_of(
    order: OrderView,
    telling: Telling,
    refunds: Sequence[CitizenRefund],
    aside: Sequence[SetAside],
    settled: SettledOutside | None = None,
) -> tuple[str, int]:
    """The sum the headline is about, and what it is: of the refund, not of the whole payment,
    where the headline speaks of a refund."""
    meant = [one for one in refunds if TELLINGS[one.state] is telling]
    if meant:
        return "退款金额", sum(one.amount_fen for one in meant)
    if settled and telling is TELLINGS[SETTLED_OUTSIDE]:
        return "线下处理金额", settled.amount_fen
    if telling is TELLINGS[FULLY_REFUNDED]:
        return "退款金额", refunded_fen(one for one in refunds if one.is_of_payment)
    if order.state == "paid":
        return "缴费金额", order.amount_fen
    if aside:
        return "收到的金额", sum(one.amount_fen for one in aside)
    return "应缴金额", order.amount_fen


def told_refund(refund: CitizenRefund, telling: Telling) -> ToldRefund:
    account = refund.received_account or f"原付款账户（{WALLETS[refund.channel]}）"
    if refund.state is PayersRefund.PAID_BY_HAND:
        account = "财务人员转账到您的银行账户"
    return ToldRefund(refund, telling, WHY_REFUNDED[refund.cause], account)


def _told_money(money: SetAside, headline: Telling) -> ToldMoney:
    own = TELLINGS[money.kind]
    return ToldMoney(money, None if own is headline else own)


def _row(order: PastOrder) -> HistoryRow:
    telling = standing(
        order.state,
        order.close_reason,
        order.amount_fen,
        order.refunds,
        is_settled_outside=order.is_settled_outside,
    )
    return HistoryRow(
        id=order.id,
        title="、".join(order.titles),
        at=order.paid_at or order.created_at,
        amount_fen=order.amount_fen,
        refunded_fen=refunded_fen(order.refunds),
        tone=telling.tone,
        word=telling.word,
    )
