"""Levers for tests and demos, as JSON: the wallet, the clocks, troubles, notices, bills."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, TypeAlias

from sanic import Blueprint, HTTPResponse
from sanic.response import json as json_answer

from estation.sandbox import (
    account_api,
    billing,
    listing,
    message_door,
    rotation,
    sms,
    wallet,
    wechat_oauth,
    world,
)
from estation.sandbox.faults import UnknownFault
from estation.sandbox.hub import Hub, SandboxRequest
from estation.sandbox.wechat_pay import modes

bp = Blueprint("control", url_prefix="/control")

Lever: TypeAlias = Callable[[Hub, dict[str, Any]], Awaitable[dict[str, Any]]]


def lever(uri: str) -> Callable[[Lever], Lever]:
    """POST of a JSON object; a wrong value is 400, an unknown code 404, a refusal 409."""

    def wrap(pull: Lever) -> Lever:
        async def serve(request: SandboxRequest, **path: str | int) -> HTTPResponse:
            body = request.json if request.body else {}
            try:
                if not isinstance(body, dict):
                    raise ValueError("a JSON object is expected")
                return json_answer(await pull(request.app.ctx.hub, {**body, **path}))
            except wallet.UnknownCode as refusal:
                return _refused(404, "unknown_code", refusal)
            except wallet.CannotPay as refusal:
                return _refused(409, "cannot_pay", refusal)
            except (ValueError, KeyError, TypeError) as refusal:
                return _refused(400, "bad_request", refusal)

        bp.add_route(serve, uri, methods={"POST"}, name=pull.__name__)
        return pull

    return wrap


def _refused(status: int, code: str, refusal: Exception) -> HTTPResponse:
    message = str(refusal) or type(refusal).__name__
    return json_answer({"code": code, "message": message}, status, ensure_ascii=False)


@lever("/pay")
async def pay(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"code", "persona"?, "wait_for_notice"?: true} → what wallet.pay says."""
    scanned = wallet.read(hub, str(body["code"]))
    paid = wallet.pay(hub, scanned, wallet.chosen_persona(scanned, body.get("persona")))
    if body.get("wait_for_notice") and paid["notice_id"]:
        await hub.notifier.settle_first_try(paid["notice_id"])
    return paid


@lever("/scan")
async def scan(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"code", "persona"?, "password_box"?: true}: open it in the wallet without paying."""
    scanned = wallet.read(hub, str(body["code"]))
    persona = wallet.chosen_persona(scanned, body.get("persona"))
    wallet.open_in_wallet(hub, scanned, persona, password_box=bool(body.get("password_box")))
    return wallet.state(hub, scanned)


@lever("/cancel")
async def cancel(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"code"}: leave without paying."""
    return wallet.cancel(hub, wallet.read(hub, str(body["code"])))


@lever("/close")
async def close(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"code"}: the channel closes the unpaid order by itself."""
    return wallet.close(hub, wallet.read(hub, str(body["code"])))


@lever("/finish")
async def finish(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"code"}: a paid trade at Alipay becomes TRADE_FINISHED, and is told."""
    return wallet.finish(hub, wallet.read(hub, str(body["code"])))


@lever("/rotate")
async def rotate(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"what": "wechat_certificate" | "wechat_public_key" | "alipay_certificate" | "alipay_key",
    "step"?: "new" | "switch" | "finish", "answers"?, "notices"?: "old" | "both" | "new",
    "old_for_seconds"?}.

    "new" makes another key that lives beside the old one; "switch" changes who signs; "finish"
    ends the old one. Certificates end their old one by themselves after a day.
    """
    return rotation.turn(
        hub,
        str(body["what"]),
        step=str(body.get("step", "new")),
        answers=body.get("answers"),
        notices=body.get("notices"),
        old_for_seconds=body.get("old_for_seconds"),
    )


@lever("/mini_login")
async def mini_login(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"persona"}: what wx.login gives in the mini-program on this person's phone. → {"js_code"}"""
    chosen = world.persona(str(body["persona"]))
    if chosen is None:
        raise ValueError("persona")
    return {"js_code": wechat_oauth.mini_code(hub, chosen)}


@lever("/message_address")
async def set_message_address(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"url", "mode"?: "plain" | "compatible" | "encrypted"}: where the official account's messages
    go; 400 unless the address echoes as the merchant's must."""
    return await message_door.set_address(hub, str(body["url"]), str(body.get("mode", "encrypted")))


@lever("/message")
async def send_message(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"persona", "text"} or {"persona", "event", "event_key"?}: somebody does something in the
    official account. → {"answer", "outcome", "deliveries"}."""
    chosen = world.persona(str(body["persona"]))
    if chosen is None:
        raise ValueError("persona")
    if "event" in body:
        key = str(body.get("event_key", ""))
        return await message_door.do(hub, chosen, str(body["event"]), key)
    return await message_door.say(hub, chosen, str(body["text"]))


@lever("/clock")
async def move_clock(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"advance_seconds": n} | {"set": "2026-03-01T10:00:00+08:00"} | {"reset": true}."""
    if "advance_seconds" in body:
        hub.clocks.advance(float(body["advance_seconds"]))
    elif "set" in body:
        moment = datetime.fromisoformat(str(body["set"]))
        if moment.tzinfo is None:
            raise ValueError("the moment needs an offset")
        hub.clocks.set(moment)
    elif body.get("reset"):
        hub.clocks.reset()
    else:
        raise ValueError("advance_seconds, set or reset")
    hub.notifier.wake()
    return listing.clock(hub)


@lever("/faults")
async def order_fault(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"kind", "target"?: "notice", "channel"?: "wechat_pay", "count"?: 1, …options}.

    The option `only` is a text that the event must contain.
    """
    options = {
        name: value
        for name, value in body.items()
        if name not in {"kind", "target", "channel", "count"}
    }
    try:
        hub.faults.order(
            target=str(body.get("target", "notice")),
            channel=str(body.get("channel", "wechat_pay")),
            kind=str(body["kind"]),
            count=int(body.get("count", 1)),
            options=options,
        )
    except UnknownFault as unknown:
        raise ValueError(f"unknown fault: {unknown}") from None
    return {"faults": hub.faults.waiting()}


@lever("/notices")
async def send_news(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"channel", "event", "url", "out_trade_no", "plaintext": {…}, "account"?: mchid or app_id}:
    rightly signed news of something that may never have happened here. → {"id"}."""
    if body["channel"] not in {"wechat_pay", "alipay"} or not isinstance(body["plaintext"], dict):
        raise ValueError("channel or plaintext")
    plaintext = body["plaintext"]
    if body["channel"] == "alipay":
        plaintext = {"charset": "utf-8", **plaintext}
    own = world.MCHID if body["channel"] == "wechat_pay" else world.ALIPAY_APP_ID
    account = str(body.get("account", own))
    if world.merchant(account) is None and world.alipay_app(account) is None:
        raise ValueError("account")
    notice_id = hub.notifier.put(
        channel=body["channel"],
        account=account,
        event=str(body["event"]),
        out_trade_no=str(body["out_trade_no"]),
        url=str(body["url"]),
        plaintext=plaintext,
    )
    return {"id": notice_id}


@lever("/notices/<notice_id:str>/send")
async def send_again(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"copies"?: 1}: deliver now and in parallel, beside the schedule. → {"outcomes"}."""
    outcomes = await hub.notifier.deliver_now(
        str(body["notice_id"]), copies=int(body.get("copies", 1))
    )
    return {"outcomes": outcomes}


@lever("/bills")
async def set_bill_ready(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"day": "YYYY-MM-DD", "ready"?: true}: that day's bills can be fetched at once."""
    billing.force_ready(
        hub.store, date.fromisoformat(str(body["day"])), ready=bool(body.get("ready", True))
    )
    return listing.bills(hub)


@lever("/modes")
async def set_modes(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    """{"wechat_pay_keys"?: "public_key" | "certificate" | "mixed",
    "wechat_pay_algorithm"?: "rsa" | "sm2"}: what notices are signed and sealed with."""
    if "wechat_pay_algorithm" in body:
        modes.set_algorithm(hub.store, str(body["wechat_pay_algorithm"]))
    if "wechat_pay_keys" in body or "wechat_pay_algorithm" not in body:
        modes.set_mode(hub.store, str(body["wechat_pay_keys"]))
    return listing.modes(hub)


@lever("/faults/<fault_id:int>/withdraw")
async def withdraw_fault(hub: Hub, body: dict[str, Any]) -> dict[str, Any]:
    hub.faults.withdraw(int(body["fault_id"]))
    return {"faults": hub.faults.waiting()}


@bp.delete("/faults")
async def clear_faults(request: SandboxRequest) -> HTTPResponse:
    request.app.ctx.hub.faults.clear()
    return json_answer({"faults": []})


@bp.get("/faults")
async def show_faults(request: SandboxRequest) -> HTTPResponse:
    return json_answer({"faults": request.app.ctx.hub.faults.waiting()})


@bp.get("/clock")
async def show_clock(request: SandboxRequest) -> HTTPResponse:
    return json_answer(listing.clock(request.app.ctx.hub))


@bp.get("/notices")
async def show_notices(request: SandboxRequest) -> HTTPResponse:
    """?out_trade_no= narrows; the newest 200, oldest first."""
    asked = request.args.get("out_trade_no")
    return json_answer({"notices": listing.notices(request.app.ctx.hub, asked, limit=200)})


@bp.get("/orders")
async def show_orders(request: SandboxRequest) -> HTTPResponse:
    """?out_trade_no= narrows; the newest 200, newest first."""
    asked = request.args.get("out_trade_no")
    return json_answer({"orders": listing.orders(request.app.ctx.hub, asked, limit=200)})


@bp.get("/sms")
async def show_sms(request: SandboxRequest) -> HTTPResponse:
    """?phone= narrows; newest first."""
    return json_answer({"messages": sms.newest(request.app.ctx.hub, request.args.get("phone"))})


@bp.get("/bills")
async def show_bills(request: SandboxRequest) -> HTTPResponse:
    return json_answer(listing.bills(request.app.ctx.hub))


@bp.get("/modes")
async def show_modes(request: SandboxRequest) -> HTTPResponse:
    return json_answer(listing.modes(request.app.ctx.hub))


@bp.get("/keys")
async def show_keys(request: SandboxRequest) -> HTTPResponse:
    """What is public of every rotating key: what lives, who signs, and the newest's text."""
    return json_answer(rotation.shown(request.app.ctx.hub))


@bp.get("/account")
async def show_account(request: SandboxRequest) -> HTTPResponse:
    """The official account's menu, its message address, and how often a token was asked for."""
    hub = request.app.ctx.hub
    return json_answer(
        {
            "menu": account_api.menu_of(hub),
            "address": message_door.address(hub),
            "tokens_asked": hub.store.setting(wechat_oauth.TOKENS_ASKED, 0),
        }
    )


@bp.get("/personas")
async def show_personas(request: SandboxRequest) -> HTTPResponse:
    return json_answer({"personas": [asdict(one) for one in world.PERSONAS]})
