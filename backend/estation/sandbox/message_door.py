"""WeChat's server before an official account: tells the merchant's program what a person did, and
shows the person what it answers.

Five seconds for an answer, three deliveries in all; each is signed anew. These are seconds of the
real clock, since a connection is held open for them.
"""

import asyncio
import base64
import hashlib
import html
import os
import secrets
import struct
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from xml.parsers import expat

import aiohttp
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from estation.sandbox import world
from estation.sandbox.clocks import plain, to_ms
from estation.sandbox.faults import Fault
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row

ANSWER_SECONDS = 5.0
DELIVERIES = 3
MODES = ("plain", "compatible", "encrypted")
OUT_OF_SERVICE = "该公众号提供的服务出现故障，请稍后再试"
"""What the person reads when no delivery was answered in time, or by something that is no reply."""
REPLY_BYTES = 16 * 1024
TEXT_BYTES = 2048
MOST_SHOWN = 50
_URL, _MODE = "message_url", "message_mode"
_FIRST_MSG_ID = 24_000_000_000_000_000


class NotTaken(ValueError):
    """The address does not answer as the merchant's should."""


class _NoReply(Exception):
    """What came back is no passive reply."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """How one delivery ended: answered, silent, late, refused, unreachable or garbled."""

    outcome: str
    status: int | None
    text: str
    took_ms: int


async def set_address(hub: Hub, url: str, mode: str) -> dict[str, Any]:
    """The console's 服务器配置: kept only when the address echoes rightly. Raises NotTaken."""
    if mode not in MODES or not url.startswith(("http://", "https://")):
        raise NotTaken("url or mode")
    echo = secrets.token_hex(10)
    query = {**_signed(hub, _now(hub)), "echostr": echo}
    try:
        async with _session() as http, http.get(f"{url}?{urlencode(query)}") as answer:
            said = (await answer.content.read(REPLY_BYTES)).decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError, OSError) as failure:
        raise NotTaken(f"请求 URL 超时或失败：{type(failure).__name__}") from None
    if answer.status != 200 or said != echo:
        raise NotTaken("token 验证失败")
    hub.store.set_setting(_URL, url)
    hub.store.set_setting(_MODE, mode)
    return address(hub)


def address(hub: Hub) -> dict[str, Any]:
    return {"url": hub.store.setting(_URL, ""), "mode": hub.store.setting(_MODE, "encrypted")}


async def say(hub: Hub, person: world.Persona, text: str) -> dict[str, Any]:
    """A person writes to the account; → {"id", "answer", "outcome", "deliveries"}."""
    content = {"MsgType": "text", "Content": text}
    return await _tell(hub, person, text, content, with_id=True)


async def do(hub: Hub, person: world.Persona, event: str, event_key: str) -> dict[str, Any]:
    """subscribe, unsubscribe, CLICK, VIEW, SCAN: an event, which has no MsgId."""
    content = {"MsgType": "event", "Event": event, "EventKey": event_key}
    return await _tell(hub, person, f"[{event} {event_key}]".replace(" ]", "]"), content)


async def _tell(
    hub: Hub,
    person: world.Persona,
    said: str,
    content: dict[str, str],
    *,
    with_id: bool = False,
) -> dict[str, Any]:
    at = hub.now_ms()
    hub.store.insert("wx_message", openid=person.openid, said=said, body="", sent_at=at)
    number = hub.store.number("select max(id) from wx_message")
    fields = {
        "ToUserName": world.ACCOUNT_ID,
        "FromUserName": person.openid,
        "CreateTime": str(at // 1000),
        **content,
        **({"MsgId": str(_FIRST_MSG_ID + number)} if with_id else {}),
    }
    hub.store.run("update wx_message set body = ? where id = ?", _xml(fields), number)
    shown, outcome = await _until_answered(hub, number, person, _xml(fields))
    hub.store.run(
        "update wx_message set answer = ?, outcome = ? where id = ?", shown, outcome, number
    )
    return conversation(hub, person)[-1]


async def _until_answered(
    hub: Hub, number: int, person: world.Persona, body: str
) -> tuple[str, str]:
    """What the person sees at last, and how the last delivery ended."""
    url = str(hub.store.setting(_URL, ""))
    if not url:
        return "", "no_address"
    answer = _Answer("unreachable", None, "", 0)
    for try_no in range(1, DELIVERIES + 1):
        fault = hub.faults.take("message", "wechat", body)
        copies = 2 if fault and fault.kind == "double" else 1
        answers = await asyncio.gather(
            *(_deliver(hub, url, person, body, fault) for _ in range(copies))
        )
        for answer in answers:
            _record(hub, number, try_no, fault, answer)
        answer = answers[0]
        if answer.outcome not in ("late", "unreachable"):
            break
    if answer.outcome in ("answered", "silent"):
        return answer.text, answer.outcome
    return OUT_OF_SERVICE, answer.outcome


def _record(hub: Hub, number: int, try_no: int, fault: Fault | None, answer: _Answer) -> None:
    hub.store.insert(
        "wx_message_delivery",
        message_id=number,
        try_no=try_no,
        fault=fault.kind if fault else "",
        status=answer.status,
        outcome=answer.outcome,
        took_ms=answer.took_ms,
    )


async def _deliver(
    hub: Hub, url: str, person: world.Persona, body: str, fault: Fault | None
) -> _Answer:
    kind = fault.kind if fault else ""
    query, sent = _composed(hub, person, body, kind)
    began = time.monotonic()
    try:
        async with (
            _session() as http,
            http.post(
                f"{url}?{urlencode(query)}", data=sent, headers={"Content-Type": "text/xml"}
            ) as response,
        ):
            reply = await response.content.read(REPLY_BYTES)
            status = response.status
    except TimeoutError:
        return _Answer("late", None, "", _since(began))
    except (aiohttp.ClientError, OSError):
        return _Answer("unreachable", None, "", _since(began))
    took_ms = _since(began)
    if kind == "late":
        return _Answer("late", status, "", took_ms)
    if status != 200:
        return _Answer("refused", status, "", took_ms)
    try:
        text = _read_reply(hub, person, reply)
    except _NoReply:
        return _Answer("garbled", status, "", took_ms)
    return _Answer("answered" if text else "silent", status, text, took_ms)


def _composed(
    hub: Hub, person: world.Persona, body: str, kind: str
) -> tuple[dict[str, str], bytes]:
    """Query and body of one delivery."""
    now = _now(hub) - (400 if kind == "stale" else 0)
    token = "nobody's" if kind == "other_token" else None
    mode = str(hub.store.setting(_MODE, "encrypted"))
    query = {**_signed(hub, now, token=token), "openid": person.openid}
    if mode == "plain" or kind == "in_clear":
        return query, _touched(body.encode(), kind)
    appid = world.MINI_APPID if kind == "other_appid" else world.APPID
    sealed = _sealed(hub.keys.encoding_aes_key, body.encode(), appid)
    signature = _sha1(token or hub.keys.message_token, query["timestamp"], query["nonce"], sealed)
    query |= {"encrypt_type": "aes", "msg_signature": signature}
    outer = f"<ToUserName><![CDATA[{world.ACCOUNT_ID}]]></ToUserName>"
    if mode == "compatible":
        outer = body.removeprefix("<xml>").removesuffix("</xml>")
    if kind == "tampered":
        sealed = ("B" if sealed[0] == "A" else "A") + sealed[1:]
    return query, f"<xml>{outer}<Encrypt><![CDATA[{sealed}]]></Encrypt></xml>".encode()


def _touched(body: bytes, kind: str) -> bytes:
    return body.replace(b"<MsgType>", b"<MsgType >") if kind == "tampered" else body


def _read_reply(hub: Hub, person: world.Persona, reply: bytes) -> str:
    """The words for the person; "" for `success` or nothing. Raises _NoReply."""
    if reply in (b"", b"success"):
        return ""
    fields = _fields(reply)
    if str(hub.store.setting(_MODE, "encrypted")) != "plain":
        sealed = fields.get("Encrypt", "")
        right = _sha1(
            hub.keys.message_token, fields.get("TimeStamp", ""), fields.get("Nonce", ""), sealed
        )
        if not secrets.compare_digest(right, fields.get("MsgSignature", "")):
            raise _NoReply("MsgSignature")
        fields = _fields(_opened(hub.keys.encoding_aes_key, sealed))
    text = fields.get("Content", "")
    is_right = (
        fields.get("ToUserName") == person.openid
        and fields.get("FromUserName") == world.ACCOUNT_ID
        and fields.get("MsgType") == "text"
        and fields.get("CreateTime", "").isdigit()
        and 0 < len(text.encode()) <= TEXT_BYTES
    )
    if not is_right:
        raise _NoReply("fields")
    return text


def conversation(hub: Hub, person: world.Persona) -> list[dict[str, Any]]:
    """What passed between this person and the account, oldest first, the newest MOST_SHOWN."""
    rows = hub.store.rows(
        "select * from wx_message where openid = ? order by id desc limit ?",
        person.openid,
        MOST_SHOWN,
    )
    return [_shown(hub, row) for row in reversed(rows)]


def _shown(hub: Hub, row: Row) -> dict[str, Any]:
    deliveries = hub.store.rows(
        "select * from wx_message_delivery where message_id = ? order by id", row["id"]
    )
    return {
        "id": row["id"],
        "said": row["said"],
        "at": plain(row["sent_at"]),
        "answer": row["answer"],
        "outcome": row["outcome"],
        "deliveries": [
            {name: one[name] for name in ("try_no", "fault", "status", "outcome", "took_ms")}
            for one in deliveries
        ],
    }


# The spelling of it. Source: 接收消息, 消息加解密说明.


def _signed(hub: Hub, now: int, *, token: str | None = None) -> dict[str, str]:
    timestamp, nonce = str(now), secrets.token_hex(5)
    signature = _sha1(token or hub.keys.message_token, timestamp, nonce)
    return {"signature": signature, "timestamp": timestamp, "nonce": nonce}


def _sha1(*parts: str) -> str:
    return hashlib.sha1("".join(sorted(parts)).encode(), usedforsecurity=False).hexdigest()


def _sealed(aes_key: str, content: bytes, appid: str) -> str:
    key = base64.b64decode(aes_key + "=")
    text = os.urandom(16) + struct.pack("!I", len(content)) + content + appid.encode()
    over = 32 - len(text) % 32
    encryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return base64.b64encode(
        encryptor.update(text + bytes([over]) * over) + encryptor.finalize()
    ).decode()


def _opened(aes_key: str, sealed: str) -> bytes:
    key = base64.b64decode(aes_key + "=")
    try:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
        text = decryptor.update(base64.b64decode(sealed, validate=True)) + decryptor.finalize()
        (length,) = struct.unpack("!I", text[16:20])
    except (ValueError, struct.error):
        raise _NoReply("Encrypt") from None
    rest = text[20 : -text[-1]]
    if rest[length:] != world.APPID.encode():
        raise _NoReply("appid")
    return rest[:length]


def _xml(fields: dict[str, str]) -> str:
    inner = "".join(f"<{name}>{html.escape(value)}</{name}>" for name, value in fields.items())
    return f"<xml>{inner}</xml>"


def _fields(body: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    path: list[str] = []
    parser = expat.ParserCreate()

    def begin(name: str, _: object) -> None:
        path.append(name)
        found.setdefault(name, "")

    def words(text: str) -> None:
        found[path[-1]] += text

    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _: path.pop()
    parser.CharacterDataHandler = words
    try:
        parser.Parse(body, True)
    except expat.ExpatError:
        raise _NoReply("XML") from None
    return found


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))


def _now(hub: Hub) -> int:
    """Signatures tell the real time."""
    return to_ms(hub.clocks.real()) // 1000


def _since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
