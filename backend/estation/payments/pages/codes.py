"""The page behind a bill's code: anybody who holds it may pay, in whichever wallet they are.

Who pays need be neither logged in nor the debtor (代缴), and sees masked data only. The order is
the debtor's, so that a payment begun here and one begun by the debtor are the same order.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from prometheus_client import Counter
from sanic import HTTPResponse
from sanic.response import redirect

from estation.fees.api import (
    BillView,
    NumberedBill,
    bill_of,
    bills_numbered,
    numbered_bill,
    sources_of,
)
from estation.identity.api import (
    Tier,
    address_of,
    citizen,
    citizen_only,
    code_holder,
    masked_parties,
)
from estation.outside.gate.age import copy_age
from estation.outside.gate.pay_codes import bill_no_of, is_code_of, pay_code
from estation.payments.api import (
    BillChoice,
    EndedOrder,
    OrderView,
    cancel_order,
    last_ended,
    live_attempt_serves,
    not_applied,
    open_attempt,
    open_order_for_bill,
    order_of,
    refresh_order,
    start_order,
)
from estation.payments.errors import ChannelTrouble, CodeNotFound, OrderAlreadyOpen
from estation.payments.pages.bills import ending_of
from estation.payments.pages.blueprint import bp
from estation.payments.pages.forms import whole_number
from estation.payments.pages.paying import (
    TOLD,
    after_choosing,
    code_answer,
    order_page,
    status_answer,
    user_agent_of,
    wanted,
)
from estation.payments.pages.tellings import for_a_holder
from estation.payments.pages.views import (
    PayeeGroup,
    in_wechat,
    payee_groups,
    stands_in,
    wallet_choices,
)
from estation.services import OnlineRequest
from estation.shared.errors import Refused
from estation.shared.pages import render
from estation.shared.qr import qr_svg

ENDINGS_ARE_TOLD_FOR = timedelta(hours=1)
"""Whoever paid by code has no other page to learn from how it ended."""

REFUSED_CODES = Counter("estation_pay_codes_refused", "Codes in addresses that we did not make")


@dataclass(frozen=True, slots=True)
class Holder:
    """What anybody with the code may know of the bill."""

    code: str
    bill_id: UUID
    payer_id: UUID
    bill_no: str
    title: str
    payer_name: str  # masked
    state: str
    version: int
    total_fen: int
    due_on: date | None
    groups: list[PayeeGroup]

    @property
    def base(self) -> str:
        return f"/c/{self.code}"


async def opened_by(request: OnlineRequest, code: str) -> Holder:
    """The bill this code was made for. Raises CodeNotFound for any other text."""
    keys = request.app.ctx.pay_code_keys()
    bill_no = bill_no_of(code)
    for bill in await bills_numbered(bill_no) if bill_no else ():
        if is_code_of(keys, code, source=bill.source, source_id=bill.source_id):
            return await _holder(request, code, bill)
    REFUSED_CODES.inc()
    raise CodeNotFound


@bp.get("/c/<code:str>", name="code")
@code_holder(opened_by)
async def code_page(request: OnlineRequest, code: str) -> HTTPResponse:
    """What the bill is and the ways to pay it here; an order in progress is shown as it is.

    Inside WeChat the openid is fetched first, silently, so that its own pay sheet can open.
    """
    holder: Holder = request.ctx.opened
    if in_wechat(user_agent_of(request)) and _is_stranger(request):
        return redirect(f"/wechat/login?next={holder.base}", status=303)
    return await _page(request, holder, told=TOLD.get(request.args.get("told", ""), ""))


@bp.post("/c/<code:str>/attempts", name="code_choose_wallet")
@code_holder(opened_by)
async def choose(request: OnlineRequest, code: str) -> HTTPResponse:
    """Begin the debtor's order for exactly what was shown, or go on with theirs, and ask the
    wallet's channel; a live attempt of another wallet is closed there first."""
    holder: Holder = request.ctx.opened
    services = request.app.ctx
    form: Any = request.form or {}
    channel, scene = wanted(form)
    try:
        order = await _order(request, holder) or await _started(request, holder, form)
        await open_attempt(
            person_id=holder.payer_id,
            order_id=order.id,
            channel=channel,
            scene=scene,
            services=services,
            payer_ip=address_of(request),
            openid=_openid(request),
            return_path=holder.base,
            now=services.clock(),
        )
    except Refused as refusal:
        return await _page(request, holder, problem=refusal.message, status=refusal.http_status)
    return redirect(after_choosing(request, holder.base), status=303)


@bp.post("/c/<code:str>/cancel", name="code_cancel")
@code_holder(opened_by)
async def cancel(request: OnlineRequest, code: str) -> HTTPResponse:
    """End the bill's open order, at its channel first."""
    holder: Holder = request.ctx.opened
    services = request.app.ctx
    order = await open_order_for_bill(holder.payer_id, holder.bill_id)
    if order is not None:
        try:
            await cancel_order(
                person_id=holder.payer_id,
                order_id=order.id,
                services=services,
                now=services.clock(),
            )
        except Refused as refusal:
            return await _page(request, holder, problem=refusal.message, status=refusal.http_status)
    return redirect(holder.base, status=303)


@bp.get("/c/<code:str>/status", name="code_status")
@code_holder(opened_by)
async def status(request: OnlineRequest, code: str) -> HTTPResponse:
    """For htmx, as on the citizen's pay page."""
    holder: Holder = request.ctx.opened
    return status_answer(request, await _order(request, holder), base=holder.base)


@bp.get("/c/<code:str>/qr.svg", name="code_image")
@code_holder(opened_by)
async def code_image(request: OnlineRequest, code: str) -> HTTPResponse:
    holder: Holder = request.ctx.opened
    order = await open_order_for_bill(holder.payer_id, holder.bill_id)
    if order is None:
        raise CodeNotFound
    return code_answer(order)


@bp.get("/fees/<bill_id:uuid>/code", name="bill_code")
@citizen_only
async def own_code(request: OnlineRequest, bill_id: UUID) -> HTTPResponse:
    """The debtor shows or prints the code, for themselves or for whoever pays for them."""
    viewer, services = citizen(request), request.app.ctx
    bill = await bill_of(viewer.person_id, bill_id)
    numbered = await numbered_bill(bill_id)
    code = numbered and pay_code(
        services.pay_code_keys()[0],
        bill_no=bill.bill_no,
        source=numbered.source,
        source_id=numbered.source_id,
    )
    if bill.state != "payable" or not code:
        return redirect(f"/fees/{bill_id}", status=303)
    address = f"{services.settings.public_url}/c/{code}"
    return render(
        request,
        "payments/own_code.html",
        bill=bill,
        payer_name=viewer.name,
        address=address,
        qr_svg=qr_svg(address, "缴费码"),
        **await copy_age([bill.source], now=services.clock()),
    )


async def _holder(request: OnlineRequest, code: str, numbered: NumberedBill) -> Holder:
    services = request.app.ctx
    bill: BillView = await bill_of(numbered.payer_id, numbered.id)
    payers = await masked_parties([numbered.payer_id], tier=Tier.PUBLIC, vault=services.vault)
    return Holder(
        code=code,
        bill_id=bill.id,
        payer_id=numbered.payer_id,
        bill_no=bill.bill_no,
        title=bill.title,
        payer_name=payers[numbered.payer_id].name,
        state=str(bill.state),
        version=bill.version,
        total_fen=bill.total_fen,
        due_on=bill.due_on,
        groups=[
            group
            for group in payee_groups(bill.items, services.settings.payees)
            if group.subtotal_fen
        ],
    )


async def _order(request: OnlineRequest, holder: Holder) -> OrderView | None:
    """The bill's open order, after asking the channel when nobody did for some seconds."""
    order = await open_order_for_bill(holder.payer_id, holder.bill_id)
    if order is None:
        return None
    services = request.app.ctx
    try:
        order = await refresh_order(
            person_id=holder.payer_id, order_id=order.id, services=services, now=services.clock()
        )
    except ChannelTrouble:  # What we know is still worth showing.
        order = await order_of(holder.payer_id, order.id)
    return order if order.state == "open" else None


async def _started(request: OnlineRequest, holder: Holder, form: Any) -> OrderView:
    services = request.app.ctx
    try:
        return await start_order(
            person_id=holder.payer_id,
            bills=[BillChoice(holder.bill_id, whole_number(form, "version"))],
            expected_fen=whole_number(form, "expected_fen"),
            settings=services.settings,
            now=services.clock(),
        )
    except OrderAlreadyOpen:  # Somebody else with the same code was faster.
        order = await open_order_for_bill(holder.payer_id, holder.bill_id)
        if order is None:
            raise
        return order


async def _page(
    request: OnlineRequest,
    holder: Holder,
    *,
    told: str = "",
    problem: str = "",
    status: int = 200,
) -> HTTPResponse:
    choices = wallet_choices(user_agent_of(request), has_openid=_openid(request) is not None)
    order = await _order(request, holder)
    if order is None:
        # Looked at again: asking the channel may have settled it just now.
        holder = await opened_by(request, holder.code)
        ended = await _ending(holder, since=request.app.ctx.clock() - ENDINGS_ARE_TOLD_FOR)
        return render(
            request,
            "payments/code.html",
            status=status,
            holder=holder,
            base=holder.base,
            choices=choices,
            told=told,
            problem=problem,
            ended=for_a_holder(ending_of(ended)) if ended else None,
            hall=request.app.ctx.settings.hall,
            qr_svg=_own_qr(request, holder),
            **await copy_age(await sources_of([holder.bill_id]), now=request.app.ctx.clock()),
        )
    return await order_page(
        request,
        order,
        choices=choices,
        base=holder.base,
        back_href=holder.base,
        told=told,
        problem=problem,
        status=status,
        holder=holder,
        is_for_us=await live_attempt_serves(order.id, _openid(request)),
    )


async def _ending(holder: Holder, *, since: datetime) -> EndedOrder | None:
    """How the last payment ended, as long as that is news. Where nothing is due any more, money
    that came all the same comes first: whoever paid it learns nowhere else that it goes back."""
    about = (holder.payer_id, holder.bill_id)
    if holder.state == "payable":
        return await last_ended(*about, since=since) or await not_applied(*about, since=since)
    return await not_applied(*about, since=since) or await last_ended(*about, since=since)


def _own_qr(request: OnlineRequest, holder: Holder) -> Any:
    """The code of this page itself, which each wallet opens with its own scene, where the page
    is open in neither of them. Two codes of channels at once would be two chances to pay."""
    if stands_in(user_agent_of(request)) != "elsewhere" or holder.state != "payable":
        return ""
    return qr_svg(f"{request.app.ctx.settings.public_url}{holder.base}", "缴费码")


def _is_stranger(request: OnlineRequest) -> bool:
    """Nobody has logged in here, and WeChat has not said yet who is looking."""
    viewer = request.ctx.viewer
    if viewer is None:
        return True
    return not (viewer.person_id or viewer.staff_id or viewer.openid)


def _openid(request: OnlineRequest) -> str | None:
    """The official account's openid of whoever is looking, if WeChat told it."""
    viewer = request.ctx.viewer
    return viewer.openid if viewer is not None and viewer.appid is None else None
