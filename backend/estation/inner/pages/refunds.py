"""Asking for a refund of a paid bill, and another officer's word on it."""

from sanic import HTTPResponse
from sanic.response import redirect

from estation.inner import queries
from estation.inner.actions import refunds
from estation.inner.errors import RefundTooMuch
from estation.inner.guards import (
    DeskRequest,
    clerk_of,
    form_of,
    now_of,
    settings_of,
    staff_only,
)
from estation.inner.models import FeeBill
from estation.inner.pages.common import show
from estation.inner.rules import Decision, Role
from estation.shared.errors import InvalidInput, Refused
from estation.shared.money import NotMoney, fen_from_yuan


@staff_only(Role.FEE_CLERK)
async def ask_refund(request: DeskRequest, bill_no: str) -> HTTPResponse:
    sent = form_of(request)
    amount, reason = sent.get("amount", ""), sent.get("reason", "").strip()
    believed = sent.get("believed_refundable_fen", "")
    try:
        if not (believed.isascii() and believed.isdigit() and len(believed) < 16):
            raise InvalidInput(field="believed_refundable_fen")
        await refunds.ask_refund(
            bill_no,
            amount_fen=_fen(amount),
            believed_refundable_fen=int(believed),
            reason=reason,
            asked_by=clerk_of(request).login,
            now=now_of(request),
        )
    except Refused as refusal:
        return await bill_page(
            request,
            bill_no,
            status=refusal.http_status,
            error=refusal.message,
            refund_form={"amount": amount, "reason": reason},
        )
    return redirect(f"/bills/{bill_no}", status=303)


@staff_only()
async def show_refunds(request: DeskRequest) -> HTTPResponse:
    return await _refunds_page(request)


@staff_only()
async def decide_refund(request: DeskRequest, refund_no: str) -> HTTPResponse:
    sent = form_of(request)
    try:
        if sent.get("decision") not in set(Decision):
            raise InvalidInput(field="decision")
        await refunds.decide_refund(
            refund_no,
            Decision(sent["decision"]),
            note=sent.get("note", "").strip(),
            decided_by=clerk_of(request).login,
            settings=settings_of(request),
            now=now_of(request),
        )
    except Refused as refusal:
        return await _refunds_page(
            request, status=refusal.http_status, error=(refund_no, refusal.message)
        )
    return redirect("/refunds", status=303)


async def bill_page(
    request: DeskRequest,
    bill_no: str,
    *,
    status: int = 200,
    reason: str = "",
    error: str = "",
    refund_form: dict[str, str] | None = None,
) -> HTTPResponse:
    """The bill with its payments and refunds; what stands in its forms after a refusal."""
    bill = await queries.bill_view(bill_no)
    row = await FeeBill.get(bill_no=bill_no)
    return await show(
        request,
        "inner/bill.html",
        status=status,
        bill=bill,
        refundable=await refunds.refundable_of(row),
        reason=reason,
        error=error,
        refund_form=refund_form or {"amount": "", "reason": ""},
    )


async def _refunds_page(
    request: DeskRequest, *, status: int = 200, error: tuple[str, str] = ("", "")
) -> HTTPResponse:
    return await show(
        request,
        "inner/refunds.html",
        status=status,
        waiting=await queries.refunds_to_decide(),
        error=error,
    )


def _fen(text: str) -> int:
    """Yuan as a clerk writes them. Raises RefundTooMuch for what is no amount."""
    try:
        return fen_from_yuan(text.replace(",", "").replace("，", "").strip())
    except NotMoney:
        raise RefundTooMuch(field="amount") from None
