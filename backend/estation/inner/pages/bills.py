"""Issuing, reading, revising and withdrawing fee bills."""

from sanic import HTTPResponse
from sanic.response import redirect

from estation.inner import forms, queries
from estation.inner.actions import bills
from estation.inner.actions.bills import NewBill
from estation.inner.errors import PayerNotInCase
from estation.inner.forms import BillForm
from estation.inner.guards import (
    DeskRequest,
    clerk_of,
    form_of,
    now_of,
    pay_code_key_of,
    settings_of,
    staff_only,
)
from estation.inner.pages.common import number_of, show
from estation.inner.pages.refunds import bill_page
from estation.inner.rules import BillMove, BillState, Role, state_after
from estation.inner.views import CaseView, PartyView
from estation.outside.gate.pay_codes import pay_code
from estation.shared.errors import Refused
from estation.shared.money import capital_yuan
from estation.shared.qr import qr_svg


@staff_only(Role.FEE_CLERK)
async def show_new_bill(request: DeskRequest, case_no: str) -> HTTPResponse:
    case = await queries.case_view(case_no)
    payer = _payer(case, request.args.get("payer"))
    form = forms.blank_form(payer=str(payer.seq), role=payer.role, now=now_of(request))
    return await _issue_page(request, case, form)


@staff_only(Role.FEE_CLERK)
async def issue_bill(request: DeskRequest, case_no: str) -> HTTPResponse:
    case = await queries.case_view(case_no)
    sent = form_of(request)
    form = forms.read_form(sent)
    if sent.get("do") == "more":
        return await _issue_page(request, case, form.with_more_lines())
    values = forms.parse(form)
    if isinstance(values, BillForm):
        return await _issue_page(request, case, values, status=422)
    if sent.get("do") == "check":
        return await _issue_page(request, case, form)
    new = NewBill(
        bill_id=values.form_id,
        case_no=case_no,
        payer_seq=values.payer_seq,
        title=values.title,
        issued_at=now_of(request),
        due_on=values.due_on,
        items=values.items,
    )
    try:
        bill_no = await bills.issue_bill(
            new,
            made_by=clerk_of(request).login,
            settings=settings_of(request),
            now=now_of(request),
        )
    except Refused as refusal:
        refused = form.refused(refusal)
        return await _issue_page(request, case, refused, status=refusal.http_status)
    return redirect(f"/bills/{bill_no}", status=303)


@staff_only()
async def show_bill(request: DeskRequest, bill_no: str) -> HTTPResponse:
    return await bill_page(request, bill_no)


@staff_only()
async def show_sheet(request: DeskRequest, bill_no: str) -> HTTPResponse:
    """A printable sheet (缴费通知单) with the code that anybody may pay with.

    Only of a bill that is owed; of any other the bill itself is shown.
    """
    bill = await queries.bill_view(bill_no)
    settings = settings_of(request)
    code = pay_code(
        pay_code_key_of(request),
        bill_no=bill_no,
        source=settings.source,
        source_id=bill_no,
    )
    if bill.line.state != BillState.ISSUED or code is None:
        return redirect(f"/bills/{bill_no}", status=303)
    address = f"{settings.online_url}/c/{code}"
    return await show(
        request,
        "inner/sheet.html",
        bill=bill,
        address=address,
        capitals=capital_yuan(bill.line.total_fen),
        qr_svg=qr_svg(address, "缴费码"),
    )


@staff_only(Role.FEE_CLERK)
async def show_revision(request: DeskRequest, bill_no: str) -> HTTPResponse:
    bill = await queries.bill_view(bill_no)
    state_after(bill.line.state, BillMove.REVISE)
    form = forms.form_of_items(
        bill.versions[0].items,
        title=bill.line.title,
        due_on=bill.line.due_on,
        version=bill.line.version,
        now=now_of(request),
    )
    return await _revise_page(request, bill_no, form)


@staff_only(Role.FEE_CLERK)
async def revise_bill(request: DeskRequest, bill_no: str) -> HTTPResponse:
    sent = form_of(request)
    form = forms.read_form(sent)
    if sent.get("do") == "more":
        return await _revise_page(request, bill_no, form.with_more_lines())
    values = forms.parse(form)
    if isinstance(values, BillForm):
        return await _revise_page(request, bill_no, values, status=422)
    if sent.get("do") == "check":
        return await _revise_page(request, bill_no, form)
    try:
        await bills.revise_bill(
            bill_no,
            expected_version=values.version,
            title=values.title,
            due_on=values.due_on,
            items=values.items,
            reason=values.reason,
            made_by=clerk_of(request).login,
            settings=settings_of(request),
            now=now_of(request),
        )
    except Refused as refusal:
        refused = form.refused(refusal)
        return await _revise_page(request, bill_no, refused, status=refusal.http_status)
    return redirect(f"/bills/{bill_no}", status=303)


@staff_only(Role.FEE_CLERK)
async def withdraw_bill(request: DeskRequest, bill_no: str) -> HTTPResponse:
    sent = form_of(request)
    reason = sent.get("reason", "").strip()
    try:
        await bills.withdraw_bill(
            bill_no,
            expected_version=number_of(sent.get("version")),
            reason=reason,
            made_by=clerk_of(request).login,
            settings=settings_of(request),
            now=now_of(request),
        )
    except Refused as refusal:
        return await bill_page(
            request, bill_no, status=refusal.http_status, reason=reason, error=refusal.message
        )
    return redirect(f"/bills/{bill_no}", status=303)


def _payer(case: CaseView, text: str | None) -> PartyView:
    """The party named in the address. Raises PayerNotInCase."""
    seq = number_of(text)
    found = next((party for party in case.parties if party.seq == seq), None)
    if found is None:
        raise PayerNotInCase()
    return found


async def _issue_page(
    request: DeskRequest, case: CaseView, form: BillForm, *, status: int = 200
) -> HTTPResponse:
    return await show(
        request,
        "inner/bill_form.html",
        status=status,
        case=case,
        bill=None,
        form=form,
        payer=_payer(case, form.payer),
    )


async def _revise_page(
    request: DeskRequest, bill_no: str, form: BillForm, *, status: int = 200
) -> HTTPResponse:
    bill = await queries.bill_view(bill_no)
    return await show(
        request,
        "inner/bill_form.html",
        status=status,
        case=None,
        bill=bill,
        form=form,
        payer=bill.payer,
    )
