"""The fault panel: a person in the demo orders trouble, and sees what became of it."""

import re
from typing import Any
from urllib.parse import urlencode

from sanic import Blueprint, HTTPResponse
from sanic.response import redirect

from estation.sandbox import listing, rotation, troubles, wallet
from estation.sandbox.faults import UnknownFault
from estation.sandbox.hub import Hub, SandboxRequest
from estation.sandbox.keys import ROTATING
from estation.sandbox.showing import page

bp = Blueprint("panel", url_prefix="/panel")
_RECENT_ORDERS, _RECENT_NOTICES = 12, 12

KEYS = {
    "wechat_public_key": (
        "微信支付公钥",
        "生成新公钥和新编号，应答与通知先由新旧两把轮流签名。",
        "按编号各用各的公钥验签；新公钥须人工下载放好，认不得的编号拒收。",
    ),
    "wechat_certificate": (
        "微信平台证书",
        "生成新证书，与旧证书同时提供下载、轮流签名一天。",
        "自动取到新证书，旧证书留到失效；一条通知也不误拒。",
    ),
    "alipay_key": (
        "支付宝公钥",
        "生成新公钥，新旧轮流签名；应答里没有编号可认。",
        "换钥期间两把都试；换完后旧钥签名不再接受。",
    ),
    "alipay_certificate": (
        "支付宝公钥证书",
        "证书应用的应答与通知由新旧两张证书轮流签名一天。",
        "按证书序列号下载新证书，验到根证书后再信。",
    ),
}
SIGNER_WORDS = {"old": "旧", "both": "新旧轮流", "new": "新"}
CLOCK_STEPS = (
    (15, "15 秒"),
    (60, "1 分"),
    (300, "5 分"),
    (1800, "30 分"),
    (7200, "2 时"),
    (21600, "6 时"),
    (86400, "1 天"),
    (90000, "25 时"),
)
ORDER_VERBS = {
    "scan": "已在钱包里打开，没有付款",
    "password": "付款人停在密码框（30 秒内渠道不许关单）",
    "close": "渠道已把订单关闭",
    "finish": "交易已完结，不能再退款",
}


@bp.get("/")
async def show(request: SandboxRequest) -> HTTPResponse:
    hub = request.app.ctx.hub
    return page(
        "panel.html",
        title="故障面板",
        said=_said(request),
        used=request.args.get("of", ""),
        groups=troubles.GROUPS,
        channel_words=troubles.CHANNEL_WORDS,
        operations=troubles.OPERATIONS,
        counts=troubles.COUNTS,
        waiting=_waiting(hub),
        orders=listing.payments(hub, limit=_RECENT_ORDERS),
        notices=listing.notices(hub, None, limit=_RECENT_NOTICES)[::-1],
        notice_words=troubles.NOTICE_WORDS,
        clock=listing.clock(hub),
        clock_steps=CLOCK_STEPS,
        keys=rotation.shown(hub),
        key_words=KEYS,
        signer_words=SIGNER_WORDS,
    )


def _said(request: SandboxRequest) -> str:
    """What the last button did; composed here, so that an address can put no words on the page."""
    done, of = request.args.get("done", ""), request.args.get("of", "")
    if done == "ordered" and of in troubles.BY_KEY:
        return f"已安排“{troubles.BY_KEY[of].title}”，等下一次机会发生。"
    if done == "rotated" and of in KEYS:
        return f"{KEYS[of][0]}：换钥已走一步，见“密钥”。"
    if done == "order" and of in ORDER_VERBS:
        return f"{ORDER_VERBS[of]}。"
    words = {"withdrawn": "已撤掉。", "sent": "已再发，结果见下。", "clock": "时钟已拨动。"}
    return words.get(done, "")


def _waiting(hub: Hub) -> list[dict[str, Any]]:
    return [
        {
            **fault,
            "title": troubles.words_for(
                fault["target"], fault["channel"], fault["kind"], fault["options"]
            ),
            "only": _only_words(str(fault["options"].get("only", ""))),
        }
        for fault in hub.faults.waiting()
    ]


def _only_words(only: str) -> str:
    return troubles.OPERATIONS.get(only, only) if only else ""


@bp.post("/order")
async def order_trouble(request: SandboxRequest) -> HTTPResponse:
    """trouble, channel, count [, value of its option] [, only]."""
    form: Any = request.form or {}
    trouble = troubles.BY_KEY.get(form.get("trouble") or "")
    fault = trouble.faults.get(form.get("channel") or "") if trouble else None
    if trouble is None or fault is None:
        return _refused("没有这种故障")
    options = dict(fault.options)
    if trouble.choices:
        allowed = {str(value): value for value, _ in trouble.choices}
        options[trouble.option] = allowed.get(form.get("value") or "", trouble.choices[0][0])
    if trouble.by_operation and (only := form.get("only") or "") in troubles.OPERATIONS:
        options |= {"only": only} if only else {}
    count = form.get("count") or "1"
    try:
        request.app.ctx.hub.faults.order(
            target=fault.target,
            channel=form.get("channel"),
            kind=fault.kind,
            count=int(count) if re.fullmatch(r"\d{1,3}", count) else 1,
            options=options,
        )
    except UnknownFault:
        return _refused("次数应在 1 到 999 之间")
    return _back("ordered", trouble.key)


@bp.post("/withdraw")
async def withdraw(request: SandboxRequest) -> HTTPResponse:
    """fault: its number, or all."""
    form: Any = request.form or {}
    asked = form.get("fault") or ""
    if asked == "all":
        request.app.ctx.hub.faults.clear()
    elif re.fullmatch(r"\d{1,18}", asked):
        request.app.ctx.hub.faults.withdraw(int(asked))
    return _back("withdrawn")


@bp.post("/rotate")
async def rotate(request: SandboxRequest) -> HTTPResponse:
    """what, step: new, finish, or who signs: old, both, new_signs."""
    form: Any = request.form or {}
    what, step = form.get("what") or "", form.get("step") or ""
    hub = request.app.ctx.hub
    signers = {"old_signs": "old", "both_sign": "both", "new_signs": "new"}
    if what not in ROTATING or step not in {"new", "finish", *signers}:
        return _refused("没有这种密钥或步骤")
    who = signers.get(step)
    rotation.turn(
        hub,
        what,
        step="switch" if who else step,
        answers=who,
        notices=who,
        old_for_seconds=None,
    )
    return _back("rotated", what)


@bp.post("/clock")
async def move_clock(request: SandboxRequest) -> HTTPResponse:
    hub = request.app.ctx.hub
    form: Any = request.form or {}
    asked = form.get("seconds") or ""
    if asked == "reset":
        hub.clocks.reset()
    elif asked in {str(seconds) for seconds, _ in CLOCK_STEPS}:
        hub.clocks.advance(int(asked))
    hub.notifier.wake()
    return _back("clock")


@bp.post("/orders")
async def change_order(request: SandboxRequest) -> HTTPResponse:
    """code, verb."""
    hub = request.app.ctx.hub
    form: Any = request.form or {}
    verb = form.get("verb") or ""
    if verb not in ORDER_VERBS:
        return _refused("没有这种操作")
    try:
        scanned = wallet.read(hub, form.get("code") or "")
        if verb in {"scan", "password"}:
            payer = wallet.chosen_persona(scanned, None)
            wallet.open_in_wallet(hub, scanned, payer, password_box=verb == "password")
        elif verb == "close":
            wallet.close(hub, scanned)
        else:
            wallet.finish(hub, scanned)
    except wallet.UnknownCode as refusal:
        return _refused(str(refusal), status=404)
    except wallet.CannotPay as refusal:
        return _refused(str(refusal), status=409)
    return _back("order", verb)


@bp.post("/notices/<notice_id:str>/send")
async def send_again(request: SandboxRequest, notice_id: str) -> HTTPResponse:
    """copies: 1 or 10, in parallel."""
    form: Any = request.form or {}
    copies = 10 if form.get("copies") == "10" else 1
    await request.app.ctx.hub.notifier.deliver_now(notice_id, copies=copies)
    return _back("sent")


def _back(done: str, of: str = "") -> HTTPResponse:
    query = urlencode({"done": done, "of": of} if of else {"done": done})
    return redirect(f"/panel?{query}", status=303)


def _refused(words: str, *, status: int = 400) -> HTTPResponse:
    return page("message.html", status=status, title="没有照办", message=words, back="/panel")
