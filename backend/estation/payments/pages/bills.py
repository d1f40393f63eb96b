"""Home, my fees, one bill with every item, and the step to paying it."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sanic import HTTPResponse
from sanic.response import redirect

from estation.cases.api import cases_of
from estation.fees.api import (
    BillChanged,
    BillNotPayable,
    BillView,
    bill_of,
    bills_of,
)
from estation.identity.api import citizen, citizen_only, public
from estation.outside.gate.age import copy_age
from estation.payments.api import (
    BillChoice,
    OrderView,
    open_order_for_bill,
    orders_of,
    paid_order_for_bill,
    start_order,
)
from estation.payments.errors import AmountChanged, OrderAlreadyOpen
from estation.payments.pages.blueprint import bp
from estation.payments.pages.forms import whole_number
from estation.payments.pages.views import payee_groups
from estation.services import OnlineRequest
from estation.shared.clock import beijing_day
from estation.shared.pages import render

CASES_AT_HOME = 3
ORDERS_LOOKED_AT = 10

STATUS = {
    "payable": ("due", "待缴"),
    "paid": ("good", "已缴"),
    "withdrawn": ("quiet", "已撤回"),
}


@dataclass(frozen=True, slots=True)
class BillRow:
    """One line of the list of fees."""

    id: UUID
    title: str
    total_fen: int
    note: str
    status_kind: str
    status_word: str


@bp.get("/", name="home")
@public
async def home(request: OnlineRequest) -> HTTPResponse:
    """What is due and how the cases stand; for a stranger, what this place is for."""
    viewer = request.ctx.viewer
    if viewer is None or viewer.person_id is None:
        return render(
            request, "fees/home.html", citizen="", open_orders=[], data_as_of=None, cases=[]
        )
    now = request.app.ctx.clock()
    bills = await bills_of(viewer.person_id)
    due = [one for one in bills if one.state == "payable"]
    cases = await cases_of(viewer.person_id)
    return render(
        request,
        "fees/home.html",
        citizen=viewer.name,
        open_orders=await _open_orders(viewer.person_id),
        due_count=len(due),
        due_fen=sum(one.total_fen for one in due),
        due_href=f"/fees/{due[0].id}" if len(due) == 1 else "/fees",
        cases=cases[:CASES_AT_HOME],
        more_cases=len(cases) > CASES_AT_HOME,
        **await copy_age(request.app.ctx.settings.gate.stream_in, now=now),
    )


@bp.get("/fees", name="fees")
@citizen_only
async def fees(request: OnlineRequest) -> HTTPResponse:
    """待缴 and 已缴 (with withdrawn ones, so that nothing silently disappears)."""
    viewer, now = citizen(request), request.app.ctx.clock()
    bills = await bills_of(viewer.person_id)
    due = [one for one in bills if one.state == "payable"]
    return render(
        request,
        "fees/list.html",
        open_orders=await _open_orders(viewer.person_id),
        due=[_row(one, today=beijing_day(now)) for one in due],
        due_fen=sum(one.total_fen for one in due),
        paid=[_row(one, today=beijing_day(now)) for one in bills if one.state != "payable"],
        **await copy_age(request.app.ctx.settings.gate.stream_in, now=now),
    )


@bp.get("/fees/<bill_id:uuid>", name="bill")
@citizen_only
async def bill(request: OnlineRequest, bill_id: UUID) -> HTTPResponse:
    """Every item with how it was worked out, by payee."""
    return await _bill_page(request, bill_id)


@bp.post("/fees/<bill_id:uuid>/pay", name="pay_bill")
@citizen_only
async def pay(request: OnlineRequest, bill_id: UUID) -> HTTPResponse:
    """Open an order for exactly what the citizen saw, then go to its pay page.

    An order of the asker that is already open (another tab) is continued, never doubled.
    """
    viewer = citizen(request)
    form: Any = request.form or {}
    choice = BillChoice(bill_id, whole_number(form, "version"))
    try:
        order = await start_order(
            person_id=viewer.person_id,
            bills=[choice],
            expected_fen=whole_number(form, "expected_fen"),
            settings=request.app.ctx.settings,
            now=request.app.ctx.clock(),
        )
    except OrderAlreadyOpen as refusal:
        own = refusal.details.get("order_id")
        if own is None:
            raise
        return redirect(f"/pay/{own}?told=open", status=303)
    except (BillChanged, BillNotPayable, AmountChanged) as refusal:
        return await _bill_page(
            request, bill_id, changed=refusal.message, status=refusal.http_status
        )
    return redirect(f"/pay/{order.id}", status=303)


async def _bill_page(
    request: OnlineRequest, bill_id: UUID, *, changed: str = "", status: int = 200
) -> HTTPResponse:
    viewer, now = citizen(request), request.app.ctx.clock()
    shown = await bill_of(viewer.person_id, bill_id)
    kind, word = STATUS[shown.state]
    return render(
        request,
        "fees/bill.html",
        status=status,
        bill=shown,
        status_kind=kind,
        status_word=word,
        groups=payee_groups(shown.items, request.app.ctx.settings.payees),
        payer_name=viewer.name,
        open_order=await open_order_for_bill(viewer.person_id, bill_id),
        paid_order=await paid_order_for_bill(viewer.person_id, bill_id),
        changed=changed,
        **await copy_age(request.app.ctx.settings.gate.stream_in, now=now),
    )


async def _open_orders(person_id: UUID) -> list[OrderView]:
    recent = await orders_of(person_id, limit=ORDERS_LOOKED_AT)
    return [order for order in recent if order.state == "open"]


def _row(shown: BillView, *, today: date) -> BillRow:
    kind, word = STATUS[shown.state]
    if shown.state == "payable" and shown.due_on is not None and shown.due_on < today:
        kind, word = "bad", "已逾期"
    return BillRow(shown.id, shown.title, shown.total_fen, _note(shown), kind, word)


def _note(shown: BillView) -> str:
    if shown.state == "payable":
        return f"请在 {shown.due_on.month} 月 {shown.due_on.day} 日前缴清" if shown.due_on else ""
    if shown.state == "paid":
        return f"{_day_of(shown.paid_at)}缴清" if shown.paid_at else ""
    return "开单部门已撤回，请勿缴纳"


def _day_of(moment: datetime) -> str:
    day = beijing_day(moment)
    return f"{day.year}年{day.month}月{day.day}日"
