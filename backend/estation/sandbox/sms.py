"""The short-message operator: takes messages and shows them on a page."""

import re

from sanic import Blueprint, HTTPResponse
from sanic.response import json as json_answer

from estation.sandbox.clocks import plain
from estation.sandbox.hub import Hub, SandboxRequest
from estation.shared import ids

bp = Blueprint("sms")
MOST_SHOWN = 100


@bp.post("/sms/send")
async def send(request: SandboxRequest) -> HTTPResponse:
    """{"phone": 11 digits, "text": ≤ 500 characters} → {"id"}; 400 {"code","message"}."""
    hub = request.app.ctx.hub
    body = request.json if isinstance(request.json, dict) else {}
    phone, text = body.get("phone"), body.get("text")
    if not isinstance(phone, str) or not re.fullmatch(r"1[3-9]\d{9}", phone):
        return json_answer({"code": "BAD_PHONE", "message": "手机号码格式不正确"}, 400)
    if not isinstance(text, str) or not 1 <= len(text) <= 500 or not text.isprintable():
        return json_answer({"code": "BAD_TEXT", "message": "短信内容应为 1 到 500 字"}, 400)
    message_id = str(ids.row_id(hub.clocks.real()))
    hub.store.insert("sms", id=message_id, phone=phone, text=text, sent_at=hub.now_ms())
    return json_answer({"id": message_id})


def newest(hub: Hub, phone: str | None = None) -> list[dict[str, str]]:
    """The last messages, newest first: id, phone, text, at (Beijing)."""
    rows = hub.store.rows(
        "select * from sms where phone = coalesce(?, phone) order by rowid desc limit ?",
        phone,
        MOST_SHOWN,
    )
    return [
        {
            "id": row["id"],
            "phone": row["phone"],
            "text": row["text"],
            "at": plain(row["sent_at"]),
        }
        for row in rows
    ]
