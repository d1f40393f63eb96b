"""Home, my fees, one bill with every item, and the step to paying it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
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
    noted_of,
)
from estation.identity.api import citizen, citizen_only, public
from estation.outside.gate.age import OF_CASES, copy_age
from estation.payments.api import (
    MAX_BILLS,
    BillChoice,
    EndedOrder,
    OrderView,
    given_back_of,
    last_ended,
    open_order_for_bill,
    orders_of,
    paid_order_for_bill,
    start_order,
)
from estation.payments.errors import AmountChanged, OrderAlreadyOpen
from estation.payments.pages.blueprint import bp
from estation.payments.pages.forms import whole_number, whole_number_of
from estation.payments.pages.tellings import Telling, ending_told
from estation.payments.pages.views import Deadline, deadline_of, payee_groups
from estation.services import OnlineRequest
from estation.shared.clock import beijing_day
from estation.shared.errors import InvalidInput
from estation.shared.pages import render

CASES_AT_HOME = 3
ORDERS_LOOKED_AT = 10

STATUS = {
    "payable": ("due", "待缴"),
    "paid": ("good", "已缴"),
    "withdrawn": ("quiet", "已撤回"),
    "refunded": ("quiet", "已退款"),
}
ENDINGS_ARE_TOLD_FOR = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class BillRow:
    """One line of the list of fees."""

    id: UUID
    title: str
    total_fen: int
    note: str
    status_kind: str
    status_word: str


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """A payment in progress, and how long it may still be paid."""

    id: UUID
    amount_fen: int
    deadline: Deadline
    bill_ids: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Ticked:
    """A bill as the list showed it, and as its checkbox says it."""

    bill_id: UUID
    version: int
    shown_fen: int

    @property
    def text(self) -> str:
        return f"{self.bill_id}.{self.version}.{self.shown_fen}"


@bp.get("/", name="home")
@public
async def home(request: OnlineRequest) -> HTTPResponse:
    """What is due and how the cases stand; for a stranger, what this place is for."""
    viewer = request.ctx.viewer
    if viewer is None or viewer.person_id is None:
        return render(request, "fees/home.html", citizen="", open_orders=[], copy=None, cases=[])
    now = request.app.ctx.clock()
    bills = await bills_of(viewer.person_id)
    due = [one for one in bills if one.state == "payable"]
    cases = await cases_of(viewer.person_id)
    return render(
        request,
        "fees/home.html",
        citizen=viewer.name,
        open_orders=await _open_orders(viewer.person_id, now=now),
        due_count=len(due),
        due_fen=sum(one.total_fen for one in due),
        due_href=f"/fees/{due[0].id}" if len(due) == 1 else "/fees",
        cases=cases[:CASES_AT_HOME],
        more_cases=len(cases) > CASES_AT_HOME,
        **await copy_age(
            [*(b.source for b in bills), *(c.source for c in cases)],
            now=now,
            of_all=True,
            topics=OF_CASES,
        ),
    )


@bp.get("/fees", name="fees")
@citizen_only
async def fees(request: OnlineRequest) -> HTTPResponse:
    """待缴 and 已缴 (with withdrawn ones, so that nothing silently disappears)."""
    return await _list_page(request)


@bp.post("/fees/pay", name="pay_bills")
@citizen_only
async def pay_together(request: OnlineRequest) -> HTTPResponse:
    """一并缴费: one order of the ticked bills, each as the citizen saw it.

    The sum is added up here from what was shown; when a bill has changed meanwhile nothing is
    begun, and the list comes back with what is true now.
    """
    viewer, services = citizen(request), request.app.ctx
    ticked = [_ticked(text) for text in request.form.getlist("bill", [])] if request.form else []
    if not ticked:
        return await _list_page(request, problem="请先勾选要一并缴纳的费用。", status=422)
    if len(ticked) > MAX_BILLS:
        problem = f"一次最多一并缴纳 {MAX_BILLS} 笔，请减少勾选。"
        return await _list_page(request, problem=problem, ticked=ticked, status=422)
    try:
        order = await start_order(
            person_id=viewer.person_id,
            bills=[BillChoice(one.bill_id, one.version) for one in ticked],
            expected_fen=sum(one.shown_fen for one in ticked),
            settings=services.settings,
            now=services.clock(),
        )
    except OrderAlreadyOpen as refusal:
        own = refusal.details.get("order_id")
        if own is None:
            raise
        return redirect(f"/pay/{own}?told=open", status=303)
    except (BillChanged, BillNotPayable, AmountChanged) as refusal:
        return await _list_page(
            request, problem=refusal.message, ticked=ticked, status=refusal.http_status
        )
    return redirect(f"/pay/{order.id}", status=303)


async def _list_page(
    request: OnlineRequest,
    *,
    problem: str = "",
    ticked: Sequence[Ticked] = (),
    status: int = 200,
) -> HTTPResponse:
    """`ticked` stays ticked where it can still be paid, with the new sum of it."""
    viewer, now = citizen(request), request.app.ctx.clock()
    bills = await bills_of(viewer.person_id)
    due = [one for one in bills if one.state == "payable"]
    orders = await _open_orders(viewer.person_id, now=now)
    in_orders = {bill_id for order in orders for bill_id in order.bill_ids}
    chosen = {one.bill_id for one in ticked}
    free = [one for one in due if one.id not in in_orders and one.total_fen > 0]
    return render(
        request,
        "fees/list.html",
        status=status,
        open_orders=orders,
        due=[_row(one, today=beijing_day(now)) for one in due],
        due_fen=sum(one.total_fen for one in due),
        tickable={one.id: Ticked(one.id, one.version, one.total_fen).text for one in free},
        chosen=chosen,
        chosen_fen=sum(one.total_fen for one in free if one.id in chosen),
        problem=problem,
        most_bills=MAX_BILLS,
        paid=[_row(one, today=beijing_day(now)) for one in bills if one.state != "payable"],
        **await copy_age((one.source for one in bills), now=now, of_all=True),
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
    order = await open_order_for_bill(viewer.person_id, bill_id)
    paid_order = await paid_order_for_bill(viewer.person_id, bill_id)
    ended = None
    if order is None and shown.state == "payable":
        ended = await last_ended(viewer.person_id, bill_id, since=now - ENDINGS_ARE_TOLD_FOR)
    return render(
        request,
        "fees/bill.html",
        status=status,
        bill=shown,
        status_kind=kind,
        status_word=word,
        groups=payee_groups(shown.items, request.app.ctx.settings.payees),
        payer_name=viewer.name,
        open_order=_open_order(order, now=now) if order else None,
        paid_order=paid_order,
        given_back_fen=await _given_back_fen(paid_order, bill_id),
        noted=await noted_of(bill_id) if shown.state == "paid" else None,
        ended_order=ended,
        ended=ending_of(ended) if ended else None,
        changed=changed,
        hall=request.app.ctx.settings.hall,
        **await copy_age([shown.source], now=now),
    )


def ending_of(ended: EndedOrder) -> Telling:
    return ending_told(
        ended.close_reason,
        ended.refunds,
        under_review=ended.aside[0].kind if ended.aside else None,
        is_settled_outside=ended.is_settled_outside,
    )


async def _given_back_fen(paid_order: OrderView | None, bill_id: UUID) -> int:
    """What of this bill its payees have given back."""
    if paid_order is None:
        return 0
    given_back = await given_back_of(paid_order.id)
    return sum(fen for (bill, _), fen in given_back.items() if bill == bill_id)


async def _open_orders(person_id: UUID, *, now: datetime) -> list[OpenOrder]:
    recent = await orders_of(person_id, limit=ORDERS_LOOKED_AT)
    return [_open_order(order, now=now) for order in recent if order.state == "open"]


def _open_order(order: OrderView, *, now: datetime) -> OpenOrder:
    return OpenOrder(
        id=order.id,
        amount_fen=order.amount_fen,
        deadline=deadline_of(order.expires_at, now=now),
        bill_ids=frozenset(one.bill_id for one in order.bills),
    )


def _ticked(text: str) -> Ticked:
    """Raises InvalidInput for what no checkbox of ours says."""
    bill_id, _, rest = text.partition(".")
    version, _, shown_fen = rest.partition(".")
    try:
        found = UUID(bill_id)
    except ValueError:
        raise InvalidInput(field="bill") from None
    return Ticked(found, whole_number_of(version, "bill"), whole_number_of(shown_fen, "bill"))


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
    if shown.state == "refunded":
        return "已全部退款，不用缴纳"
    return "开单部门已撤回，请勿缴纳"


def _day_of(moment: datetime) -> str:
    day = beijing_day(moment)
    return f"{day.year}年{day.month}月{day.day}日"
