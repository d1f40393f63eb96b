"""The person's side of the sandbox: scan, choose a wallet, pay or leave; see what went out."""

import re
from typing import Any
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from sanic import Blueprint, HTTPResponse
from sanic.response import redirect, text

from estation.sandbox import listing, sms, wallet, world
from estation.sandbox.hub import Hub, SandboxRequest
from estation.sandbox.showing import page
from estation.sandbox.wechat_pay.http import H5_PATH
from estation.sandbox.wechat_pay.paysign import check_pay_sign
from estation.sandbox.wechat_pay.protocol import PREFIX

bp = Blueprint("pages")
_RECENT = 20


@bp.get("/healthz")
async def healthz(request: SandboxRequest) -> HTTPResponse:
    return text("ok")


@bp.get("/")
async def index(request: SandboxRequest) -> HTTPResponse:
    hub = request.app.ctx.hub
    return page(
        "index.html",
        title="沙箱钱包",
        orders=listing.payments(hub, limit=_RECENT),
        notices=listing.notices(hub, None, limit=_RECENT)[::-1],
        clock=listing.clock(hub),
        faults=hub.faults.waiting(),
    )


@bp.get("/scan")
async def scan(request: SandboxRequest) -> HTTPResponse:
    """?code=…[&persona=…][&back=…]; with a persona the code is opened in that wallet."""
    asked = {name: request.args.get(name, "") for name in ("code", "persona", "back")}
    return _open(request.app.ctx.hub, **asked)


@bp.get("/wechat/jsapi")
async def jsapi_cashier(request: SandboxRequest) -> HTTPResponse:
    """What WeixinJSBridge would open: ?prepay_id=… or the six JSAPI parameters, [&back=…]."""
    given = {name: request.args.get(name, "") for name in request.args}
    prepay_id = given.get("prepay_id") or given.get("package", "").removeprefix("prepay_id=")
    hub = request.app.ctx.hub
    if "paySign" in given:
        try:
            mchid, appid = wallet.jsapi_owner(wallet.read(hub, prepay_id))
            check_pay_sign(hub.keys, given, prepay_id, mchid=mchid, appid=appid)
        except (InvalidSignature, ValueError, IndexError):
            return _message("支付验证签名失败", status=400)
        except wallet.UnknownCode as refusal:
            return _message(str(refusal), status=404)
    return _open(hub, code=prepay_id, persona="", back=given.get("back", ""))


@bp.get(f"{PREFIX}{H5_PATH}")
async def h5_cashier(request: SandboxRequest) -> HTTPResponse:
    """What an h5_url opens in a mobile browser: only from a page of the merchant, so only with a
    Referer. [&redirect_url=…] is where the payer goes afterwards."""
    if not re.match(r"https?://", request.headers.get("referer", "")):
        return _message("商家参数格式有误，请联系商家解决（缺少 Referer）", status=403)
    return _open(
        request.app.ctx.hub,
        code=request.args.get("prepay_id", ""),
        persona="",
        back=request.args.get("redirect_url", ""),
    )


def _open(hub: Hub, *, code: str, persona: str, back: str) -> HTTPResponse:
    try:
        scanned = wallet.read(hub, code)
        persona = persona or scanned.payer or ""
        if not persona:
            return page(
                "choose.html",
                title=scanned.wallet_name,
                scanned=scanned,
                personas=world.PERSONAS,
                back=_address(back),
            )
        chosen = wallet.chosen_persona(scanned, persona)
        wallet.open_in_wallet(hub, scanned, chosen)
    except wallet.UnknownCode as refusal:
        return _message(str(refusal), status=404)
    except wallet.CannotPay as refusal:
        return _message(str(refusal), status=409, back=_address(back))
    return page(
        "wallet.html",
        title=scanned.wallet_name,
        scanned=scanned,
        persona=chosen,
        back=_address(back),
    )


@bp.post("/wallet/pay")
async def pay(request: SandboxRequest) -> HTTPResponse:
    hub = request.app.ctx.hub
    form = _form(request)
    try:
        scanned = wallet.read(hub, form["code"])
        paid = wallet.pay(hub, scanned, wallet.chosen_persona(scanned, form["persona"]))
    except wallet.UnknownCode as refusal:
        return _message(str(refusal), status=404)
    except wallet.CannotPay as refusal:
        return _message(str(refusal), status=409, back=form["back"])
    return page(
        "paid.html",
        title="支付成功",
        scanned=scanned,
        paid=paid,
        back=form["back"] or paid["return_url"],
    )


@bp.post("/wallet/cancel")
async def cancel(request: SandboxRequest) -> HTTPResponse:
    form = _form(request)
    try:
        wallet.cancel(request.app.ctx.hub, wallet.read(request.app.ctx.hub, form["code"]))
    except wallet.UnknownCode as refusal:
        return _message(str(refusal), status=404)
    return _message("已取消，本次没有付款。", back=form["back"])


def _form(request: SandboxRequest) -> dict[str, str]:
    form: Any = request.form or {}
    values = {name: form.get(name) or "" for name in ("code", "persona", "back")}
    return {**values, "back": _address(values["back"])}


def _address(back: str) -> str:
    """Only web addresses are links; a `javascript:` one must not become clickable."""
    return back if re.match(r"https?://", back) else ""


def _message(words: str, *, status: int = 200, back: str = "") -> HTTPResponse:
    return page("message.html", status=status, title="提示", message=words, back=back)


@bp.post("/clock")
async def move_clock(request: SandboxRequest) -> HTTPResponse:
    hub = request.app.ctx.hub
    form: Any = request.form or {}
    asked = form.get("seconds") or ""
    if asked == "reset":
        hub.clocks.reset()
    elif re.fullmatch(r"-?\d{1,8}", asked):
        hub.clocks.advance(int(asked))
    hub.notifier.wake()
    return redirect("/")


@bp.post("/notices/<notice_id:str>/send")
async def send_again(request: SandboxRequest, notice_id: str) -> HTTPResponse:
    await request.app.ctx.hub.notifier.deliver_now(notice_id)
    return redirect(f"/#{quote(notice_id)}")


@bp.get("/sms")
async def sms_page(request: SandboxRequest) -> HTTPResponse:
    """?phone= narrows; refreshes itself."""
    phone = request.args.get("phone")
    return page(
        "sms.html", title="沙箱短信", messages=sms.newest(request.app.ctx.hub, phone), phone=phone
    )
