"""Refunds for finance: the list, one request with its approval, and asking for an order's."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sanic import HTTPResponse
from sanic.response import redirect

from estation.identity.api import staff_only
from estation.payments import staff_queries, staff_words
from estation.payments.api import (
    approve_refund,
    ask_refund,
    list_refunds,
    refundable_of,
    refunds_of_request,
    reject_refund,
)
from estation.payments.models import PayOrder
from estation.payments.refund_queries import RefundView
from estation.payments.rules import RefundState
from estation.payments.staff_pages.blueprint import (
    CHECKER,
    FINANCE,
    OPERATOR,
    account,
    bp,
    field,
    in_words_of,
    is_me,
    known,
    officer,
    page_number,
)
from estation.services import OnlineRequest
from estation.shared.errors import InvalidInput, Refused
from estation.shared.money import NotMoney, fen_from_yuan
from estation.shared.pages import render

STATES: Mapping[str, RefundState | None] = {
    "all": None,
    **{state.value: state for state in RefundState},
}
MAX_NUMBER = 64


@bp.get("/staff/refunds")
@staff_only(*FINANCE, OPERATOR)
async def list_of_refunds(request: OnlineRequest) -> HTTPResponse:
    """By state, newest first, fifty a page; and how many wait for a checker."""
    state = known(request, "state", STATES, "all")
    return render(
        request,
        "staff/refunds.html",
        found=await list_refunds(state=STATES[state], page=page_number(request)),
        state=state,
        states={name: _state_word(name) for name in STATES},
        waiting=(await list_refunds(state=RefundState.ASKED)).total,
        may_ask=request.ctx.viewer.role in FINANCE,
        words=staff_words,
    )


@bp.get("/staff/refunds/<request_id:uuid>")
@staff_only(*FINANCE, OPERATOR)
async def one_request(request: OnlineRequest, request_id: UUID) -> HTTPResponse:
    return await _show(request, await refunds_of_request(request_id))


@bp.post("/staff/refunds/<request_id:uuid>/approve")
@staff_only(CHECKER)
async def approve(request: OnlineRequest, request_id: UUID) -> HTTPResponse:
    """The checker's yes: the money is reserved and the channel will be asked."""
    return await _decide(request, request_id, approve_refund)


@bp.post("/staff/refunds/<request_id:uuid>/reject")
@staff_only(CHECKER)
async def reject(request: OnlineRequest, request_id: UUID) -> HTTPResponse:
    """The checker's no, with its reason."""
    return await _decide(request, request_id, reject_refund)


@bp.get("/staff/refunds/new")
@staff_only(*FINANCE)
async def show_form(request: OnlineRequest) -> HTTPResponse:
    """What could be given back of one order: `?order_no=` is the order's, our trade's or the
    channel's number."""
    return await _show_form(request, str(request.args.get("order_no", "")).strip())


@bp.post("/staff/refunds/new")
@staff_only(*FINANCE)
async def ask(request: OnlineRequest) -> HTTPResponse:
    """The maker's half; what the maker believed is compared with what is left now."""
    order_no = field(request, "order_no").strip()
    try:
        order = await _order(request, order_no)
        request_id = await ask_refund(
            order_id=order.id,
            amount_fen=fen_from_yuan(field(request, "amount").strip()),
            believed_refundable_fen=_fen(field(request, "believed_fen")),
            reason=field(request, "reason"),
            by=officer(request),
            by_id=account(request),
            now=request.app.ctx.clock(),
        )
    except NotMoney as wrong:
        return await _show_form(request, order_no, status=422, problem=wrong.message)
    except InvalidInput as wrong:
        words = in_words_of(wrong, "请填写金额和退款原因（付款人看得到，最多 80 字）。")
        return await _show_form(request, order_no, status=422, problem=words)
    except Refused as refusal:
        return await _show_form(
            request, order_no, status=refusal.http_status, problem=_in_words(refusal)
        )
    return redirect(f"/staff/refunds/{request_id}", status=303)


async def _decide(request: OnlineRequest, request_id: UUID, decide: Any) -> HTTPResponse:
    try:
        await decide(
            request_id=request_id,
            by=officer(request),
            by_id=account(request),
            note=field(request, "note"),
            now=request.app.ctx.clock(),
        )
    except InvalidInput as wrong:
        return await _show(
            request,
            await refunds_of_request(request_id),
            status=422,
            problem=in_words_of(wrong, "不予退款须写明理由（最多 200 字）。"),
        )
    except Refused as refusal:
        return await _show(
            request,
            await refunds_of_request(request_id),
            status=refusal.http_status,
            problem=_in_words(refusal),
        )
    return redirect(f"/staff/refunds/{request_id}", status=303)


async def _show(
    request: OnlineRequest, refunds: list[RefundView], *, status: int = 200, problem: str = ""
) -> HTTPResponse:
    is_asked = all(refund.state is RefundState.ASKED for refund in refunds)
    may_check = request.ctx.viewer.role == CHECKER and is_asked
    return render(
        request,
        "staff/refund.html",
        status=status,
        refunds=refunds,
        total_fen=sum(refund.amount_fen for refund in refunds),
        incidents=await staff_queries.incidents_of_refunds([one.id for one in refunds]),
        order=await staff_queries.order_view(refunds[0].order_id),
        payees={payee.code: payee.name for payee in request.app.ctx.settings.payees},
        is_mine=any(is_me(request, one.asked_by, one.asked_by_id) for one in refunds),
        may_check=may_check,
        problem=problem,
        note=field(request, "note")[:200],
        words=staff_words,
    )


async def _show_form(
    request: OnlineRequest, order_no: str, *, status: int = 200, problem: str = ""
) -> HTTPResponse:
    order, left = None, []
    if order_no:
        try:
            order = await _order(request, order_no)
            left = await refundable_of(order_id=order.id)
        except Refused as refusal:
            status, problem = refusal.http_status, problem or refusal.message
    return render(
        request,
        "staff/refund_new.html",
        status=status,
        order_no=order_no[:MAX_NUMBER],
        order=order,
        left=left,
        left_fen=sum(one.refundable_fen for one in left),
        payees={payee.code: payee.name for payee in request.app.ctx.settings.payees},
        problem=problem,
        typed={name: field(request, name)[:200] for name in ("amount", "reason")},
        words=staff_words,
    )


async def _order(request: OnlineRequest, number: str) -> PayOrder:
    return await staff_queries.order_by_number(number, accounts=request.app.ctx.channels)


def _in_words(refusal: Refused) -> str:
    fen = refusal.details.get("refundable_fen")
    return (
        refusal.message if fen is None else f"{refusal.message}（现可退 {staff_words.yuan(fen)}）"
    )


def _state_word(name: str) -> str:
    return "全部" if name == "all" else staff_words.REFUND_STATE_WORDS[name]


def _fen(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidInput(field="believed_fen")
    return int(text)
