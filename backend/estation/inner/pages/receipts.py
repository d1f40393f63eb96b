"""Payments that came back, and those a person must look at."""

from uuid import UUID

from sanic import HTTPResponse
from sanic.response import redirect

from estation.inner import queries
from estation.inner.actions import receipts
from estation.inner.guards import DeskRequest, clerk_of, form_of, now_of, staff_only
from estation.inner.pages.common import number_of, show
from estation.inner.rules import Role
from estation.shared.errors import Refused


@staff_only()
async def show_receipts(request: DeskRequest) -> HTTPResponse:
    return await _receipts_page(request)


@staff_only(Role.FEE_CLERK)
async def mark_handled(request: DeskRequest, receipt_id: UUID) -> HTTPResponse:
    try:
        await receipts.mark_handled(
            receipt_id,
            note=form_of(request).get("note", "").strip(),
            handled_by=clerk_of(request).login,
            now=now_of(request),
        )
    except Refused as refusal:
        return await _receipts_page(
            request, status=refusal.http_status, error=(receipt_id, refusal.message)
        )
    return redirect("/receipts", status=303)


@staff_only()
async def show_evidence(request: DeskRequest) -> HTTPResponse:
    """What the channels' bills prove of payments that no bill of ours, or none as it is, fits."""
    page = await queries.evidence_list(page=number_of(request.args.get("page")))
    return await show(request, "inner/evidence.html", page=page, evidence_waiting=page.total)


async def _receipts_page(
    request: DeskRequest, *, status: int = 200, error: tuple[UUID | None, str] = (None, "")
) -> HTTPResponse:
    only_attention = request.args.get("attention") == "1"
    page = await queries.receipt_list(
        only_attention=only_attention, page=number_of(request.args.get("page"))
    )
    return await show(
        request,
        "inner/receipts.html",
        status=status,
        page=page,
        only_attention=only_attention,
        evidence_waiting=await queries.evidence_waiting(),
        error=error,
    )
