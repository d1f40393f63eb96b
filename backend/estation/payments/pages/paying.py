"""The pay page: choose a wallet, show the code, say how it stands; every step works as a form."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from sanic import HTTPResponse
from sanic.response import empty, raw, redirect

from estation.fees.api import sources_of
from estation.identity.api import Citizen, address_of, citizen, citizen_only
from estation.outside.gate.age import copy_age
from estation.outside.pay_channels import Channel, Scene
from estation.payments.api import (
    RETURN_PATH,
    AttemptView,
    OrderView,
    cancel_order,
    open_attempt,
    order_of,
    orders_of,
    refresh_order,
)
from estation.payments.errors import ChannelTrouble
from estation.payments.pages.blueprint import bp
from estation.payments.pages.history import ended_page
from estation.payments.pages.views import (
    ATTEMPT_NAMES,
    WALLETS,
    WalletChoice,
    deadline_of,
    payee_sums,
    wallet_choices,
)
from estation.services import OnlineRequest
from estation.shared.errors import InvalidInput, NotFound, Refused
from estation.shared.pages import page_headers, render
from estation.shared.qr import qr_svg

ORDERS_LOOKED_AT = 10

TOLD = {
    "open": "这笔费用已有一次进行中的付款，请在这里继续，不会重复扣款。",
    "changed": "付款方式已在另一个页面更改，这里是最新的付款码。",
    "switched": "已换成新的付款方式，请只用本页的付款码付款，不要再用之前的付款码。"
    "万一两个都付了，多付的一笔会自动原路退回。",
}


@bp.get("/pay/<order_id:uuid>", name="pay")
@citizen_only
async def pay_page(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """The order as it is now; opening the page is also "refresh status" without JavaScript."""
    order = await _looked_at_again(request, order_id)
    return await _page(request, order, told=TOLD.get(request.args.get("told", ""), ""))


@bp.post("/pay/<order_id:uuid>/attempts", name="choose_wallet")
@citizen_only
async def choose(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """Ask a channel for a code; an open one of another wallet is closed there first."""
    viewer, services = citizen(request), request.app.ctx
    channel, scene = wanted(request.form or {})
    try:
        await open_attempt(
            person_id=viewer.person_id,
            order_id=order_id,
            channel=channel,
            scene=scene,
            services=services,
            payer_ip=address_of(request),
            openid=viewer.openid,
            appid=viewer.appid,
            return_path=f"/pay/{order_id}" if channel is Channel.WECHAT_PAY else RETURN_PATH,
            now=services.clock(),
        )
    except NotFound:
        raise
    except Refused as refusal:
        order = await order_of(viewer.person_id, order_id)
        return await _page(request, order, problem=refusal.message, status=refusal.http_status)
    return redirect(after_choosing(request, f"/pay/{order_id}"), status=303)


def after_choosing(request: OnlineRequest, base: str) -> str:
    """Where a wallet's form leads: whoever had a code before is told that it is void."""
    had_one = bool(request.form and request.form.get("instead"))
    return f"{base}?told=switched" if had_one else base


@bp.get("/pay/<order_id:uuid>/qr.svg", name="pay_code")
@citizen_only
async def code_image(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """The live code alone, for showing large or printing."""
    return code_answer(await order_of(citizen(request).person_id, order_id))


def code_answer(order: OrderView) -> HTTPResponse:
    """The live QR code of an order as a picture; NotFound when it has none."""
    attempt = order.live_attempt
    if attempt is None or not attempt.qr_content:
        raise NotFound
    return raw(
        str(_code(attempt)), content_type="image/svg+xml; charset=utf-8", headers=page_headers("")
    )


@bp.get("/pay/<order_id:uuid>/status", name="pay_status")
@citizen_only
async def status(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """For htmx: 204 while nothing changed, new words when they did, a reload when it is over.

    The query says what the page shows: `attempt` and `words`.
    """
    order = await _looked_at_again(request, order_id)
    return status_answer(request, order, base=f"/pay/{order_id}")


def status_answer(request: OnlineRequest, order: OrderView | None, *, base: str) -> HTTPResponse:
    """What htmx is told about an order whose page is `base`."""
    attempt = order.live_attempt if order and order.state == "open" else None
    if attempt is None:
        return _leave(base)
    if request.args.get("attempt") != str(attempt.id):
        return _leave(f"{base}?told=changed")
    code, words = _status_words(attempt)
    if request.args.get("words") == code:
        return empty(headers={"cache-control": "no-store"})
    if request.args.get("words") == "opening":  # The code has arrived: the page must show it.
        return _leave(base)
    return render(
        request,
        "payments/status.html",
        base=base,
        attempt=attempt,
        status_code=code,
        status_words=words,
    )


def _leave(address: str) -> HTTPResponse:
    """htmx must load a whole page."""
    return empty(headers={"hx-redirect": address, "cache-control": "no-store"})


@bp.post("/pay/<order_id:uuid>/cancel", name="cancel_pay")
@citizen_only
async def cancel(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """Close at the channel, then here. Money that was faster is settled and shown as paid."""
    viewer, services = citizen(request), request.app.ctx
    try:
        await cancel_order(
            person_id=viewer.person_id,
            order_id=order_id,
            services=services,
            now=services.clock(),
        )
    except NotFound:
        raise
    except Refused as refusal:
        order = await order_of(viewer.person_id, order_id)
        return await _page(request, order, problem=refusal.message, status=refusal.http_status)
    return redirect(f"/pay/{order_id}", status=303)


@bp.get("/pay/return/alipay", name="back_from_alipay")
@citizen_only
async def back_from_alipay(request: OnlineRequest) -> HTTPResponse:
    """Alipay's return is no proof of payment: find the order and ask Alipay ourselves."""
    wanted = request.args.get("out_trade_no", "")
    for order in await orders_of(citizen(request).person_id, limit=ORDERS_LOOKED_AT):
        attempt = order.live_attempt or order.paid_attempt
        if attempt is not None and attempt.out_trade_no == wanted:
            return redirect(f"/pay/{order.id}", status=303)
    return redirect("/fees", status=303)


async def _looked_at_again(request: OnlineRequest, order_id: UUID) -> OrderView:
    viewer, services = citizen(request), request.app.ctx
    try:
        return await refresh_order(
            person_id=viewer.person_id,
            order_id=order_id,
            services=services,
            now=services.clock(),
        )
    except ChannelTrouble:  # What we know is still worth showing.
        return await order_of(viewer.person_id, order_id)


async def _page(
    request: OnlineRequest,
    order: OrderView,
    *,
    told: str = "",
    problem: str = "",
    status: int = 200,
) -> HTTPResponse:
    bill_href = f"/fees/{order.bills[0].bill_id}" if len(order.bills) == 1 else "/fees"
    if order.state != "open":
        return await ended_page(request, order, back_href=bill_href, problem=problem, status=status)
    choices = wallet_choices(user_agent_of(request), has_openid=may_use_jsapi(citizen(request)))
    return await order_page(
        request,
        order,
        choices=choices,
        base=f"/pay/{order.id}",
        back_href=bill_href,
        told=told,
        problem=problem,
        status=status,
    )


async def order_page(
    request: OnlineRequest,
    order: OrderView,
    *,
    choices: list[WalletChoice],
    base: str,
    back_href: str,
    told: str,
    problem: str,
    status: int,
    holder: Any = None,
    is_for_us: bool = True,
) -> HTTPResponse:
    """The pay page of an open order under the address `base`, for the citizen and for the holder
    of a bill's code (`holder`: what of the bill may be shown to anybody). `is_for_us`: the live
    ticket is not bound to somebody else's wallet."""
    now = request.app.ctx.clock()
    return render(
        request,
        "payments/pay.html",
        status=status,
        order=order,
        base=base,
        groups=payee_sums(order.splits),
        deadline=deadline_of(order.expires_at, now=now),
        back_href=back_href,
        told=told,
        problem=problem,
        holder=holder,
        is_for_us=is_for_us,
        **await copy_age(await sources_of([one.bill_id for one in order.bills]), now=now),
        **_attempt_values(order, choices, now),
    )


def user_agent_of(request: OnlineRequest) -> str:
    return str(request.headers.get("user-agent", ""))


def may_use_jsapi(viewer: Citizen) -> bool:
    """The openid must be the official account's, which is the one that pays by JSAPI."""
    return viewer.openid is not None and viewer.appid is None


def _attempt_values(order: OrderView, choices: list[WalletChoice], now: datetime) -> dict[str, Any]:
    attempt = order.live_attempt
    code, words = _status_words(attempt) if attempt else ("", "")
    return {
        "attempt": attempt,
        "ticket_is_over": bool(
            attempt and attempt.ticket_until is not None and attempt.ticket_until <= now
        ),
        "attempt_name": ATTEMPT_NAMES[attempt.scene] if attempt else "",
        "wallet_name": WALLETS[attempt.channel] if attempt else "",
        "qr_svg": _code(attempt) if attempt and attempt.qr_content else "",
        "jsapi_json": json.dumps(attempt.jsapi_parameters) if attempt else "",
        "status_code": code,
        "status_words": words,
        "choices": [
            choice
            for choice in choices
            if attempt is None or (choice.channel, choice.scene) != (attempt.channel, attempt.scene)
        ],
    }


def _code(attempt: AttemptView) -> Any:
    label = f"{WALLETS[attempt.channel]}付款码"
    return qr_svg(attempt.qr_content or "", label)


def _status_words(attempt: AttemptView) -> tuple[str, str]:
    if attempt.state == "opening":
        return "opening", "正在等待支付渠道答复"
    return "waiting", "等待付款，付款成功后本页会自动更新"


def wanted(form: Any) -> tuple[Channel, Scene]:
    try:
        return Channel(form.get("channel", "")), Scene(form.get("scene", ""))
    except ValueError:
        raise InvalidInput(field="channel") from None
