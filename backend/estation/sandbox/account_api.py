"""The official account's API: every call wants a token that holds, and HTTP says 200 always."""

import asyncio
import re
from typing import Any

from sanic import Blueprint, HTTPResponse
from sanic.response import json as json_answer
from sanic.response import redirect

from estation.sandbox import message_door, world
from estation.sandbox.hub import Hub, SandboxRequest
from estation.sandbox.showing import page
from estation.sandbox.wechat_oauth import api_error, token_trouble

bp = Blueprint("account_api", url_prefix="/wechat")

_MENU = "account_menu"
_EVENTS = {"subscribe": "关注", "unsubscribe": "取消关注"}


@bp.post("/cgi-bin/menu/create")
async def create_menu(request: SandboxRequest) -> HTTPResponse:
    """1 to 3 buttons of at most 16 bytes; a view's url ≤ 1024, a click's key ≤ 128 bytes."""
    hub = request.app.ctx.hub
    if (trouble := await call_trouble(request)) is not None:
        return trouble
    try:
        menu = request.json
    except ValueError:
        menu = None
    if not isinstance(menu, dict) or not isinstance(menu.get("button"), list):
        return api_error(40015, "invalid menu type")
    buttons = menu["button"]
    if not 1 <= len(buttons) <= 3:
        return api_error(40016, "invalid button size")
    for button in buttons:
        if (wrong := _button_trouble(button)) is not None:
            return wrong
    hub.store.set_setting(_MENU, menu)
    return json_answer({"errcode": 0, "errmsg": "ok"})


def _button_trouble(button: Any) -> HTTPResponse | None:
    if not isinstance(button, dict) or button.get("type") not in ("view", "click"):
        return api_error(40017, "invalid button type")
    if not 0 < len(str(button.get("name", "")).encode()) <= 16:
        return api_error(40018, "invalid button name size")
    if button["type"] == "view" and not 0 < len(str(button.get("url", "")).encode()) <= 1024:
        return api_error(40020, "invalid button url size")
    if button["type"] == "click" and not 0 < len(str(button.get("key", "")).encode()) <= 128:
        return api_error(40019, "invalid button key size")
    return None


async def call_trouble(request: SandboxRequest) -> HTTPResponse | None:
    """What is wrong with the call's token, or was ordered to be wrong; None when it may go on."""
    hub = request.app.ctx.hub
    fault = hub.faults.take("api", "wechat", request.path)
    kind = fault.kind if fault else ""
    if fault is not None and kind == "slow":
        await asyncio.sleep(min(fault.seconds(1), 60))
    if kind == "token_ended":
        hub.store.run("delete from account_token")
    if kind == "token_refused":
        return api_error(40001, "invalid credential, access_token is invalid or not latest")
    if kind == "token_expired":
        return api_error(42001, "access_token expired")
    if kind == "quota":
        return api_error(45009, "reach max api daily quota limit")
    if kind == "busy":
        return api_error(-1, "system error")
    return token_trouble(hub, request.args.get("access_token", ""))


def menu_of(hub: Hub) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hub.store.setting(_MENU, {"button": []})["button"]
    return found


# The person's phone


_LINK = re.compile(r'<a href="(https?://[^"<>]+)">([^<]+)</a>')


def as_shown(answer: str) -> list[tuple[str, str]]:
    """(words, "" or where they lead): of a text message WeChat shows links and no other markup."""
    parts, end = [], 0
    for link in _LINK.finditer(answer):
        parts += [(answer[end : link.start()], ""), (link[2], link[1])]
        end = link.end()
    return [part for part in [*parts, (answer[end:], "")] if part[0]]


@bp.get("/chat")
async def show_chat(request: SandboxRequest) -> HTTPResponse:
    """?persona=: the conversation with the account, its menu, and something to write."""
    hub = request.app.ctx.hub
    person = world.persona(request.args.get("persona", "")) or world.PERSONAS[0]
    return page(
        "chat.html",
        title="公众号",
        person=person,
        personas=world.PERSONAS,
        messages=message_door.conversation(hub, person),
        as_shown=as_shown,
        menu=menu_of(hub),
        address=message_door.address(hub),
        events=_EVENTS,
    )


@bp.post("/chat")
async def chat(request: SandboxRequest) -> HTTPResponse:
    """persona, and text, or event with event_key."""
    hub = request.app.ctx.hub
    form: Any = request.form or {}
    person = world.persona(form.get("persona") or "")
    text, event = (form.get("text") or "").strip()[:600], form.get("event") or ""
    if person is None or not (text or event in (*_EVENTS, "CLICK")):
        return page("message.html", status=400, title="没有照办", message="没有内容", back="/")
    if text:
        await message_door.say(hub, person, text)
    else:
        await message_door.do(hub, person, event, (form.get("event_key") or "")[:128])
    return redirect(f"/wechat/chat?persona={person.key}", status=303)
