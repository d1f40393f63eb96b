"""The gate as staff see it: where each stream stands, what is late or refused, and why."""

from typing import Any

from sanic import Blueprint, HTTPResponse
from sanic.response import redirect

from estation.identity.api import staff_only
from estation.outside.gate import overview, peering, receiving
from estation.outside.gate.errors import NEEDS_A_PERSON, ReasonMissing
from estation.outside.gate.peering import Deed
from estation.outside.gate.peers import peer_named
from estation.services import OnlineRequest
from estation.shared.errors import InvalidInput
from estation.shared.pages import render

bp = Blueprint("gate_pages")

OPERATOR = "operator"
READERS = ("finance_clerk", "finance_checker", OPERATOR)
REASONS = {
    "foreign_name": "文件名不是数据包",
    "foreign_stream": "不是这个数据流的包",
    "not_a_file": "不是普通文件",
    "too_large": "文件过大",
    "bad_manifest": "清单无法识别",
    "unsupported_version": "版本不支持",
    "name_mismatch": "清单与文件名不符",
    "bad_seal": "签名不符",
    "truncated": "文件不完整",
    "bad_digest": "内容与签名不符",
    "zip_bomb": "解压超出限度",
    "bad_body": "内容无法解压",
    "bad_count": "行数不符",
    "row_too_long": "单行过长",
    "bad_encoding": "编码有误",
    "bad_row": "数据行不可接受",
    "fork": "出现两份历史",
    "gap": "缺少前面的包",
    "handler_failed": "我方暂时无法写入",
    "other_digest": "对方收到的内容与我方不同",
    "ahead_of_us": "对方的位置比我方靠前",
}
PAUSES = {"disk_low": "磁盘将满", "unconfirmed": "对方太久没有确认"}
EVENTS = {
    "repaired": "副本改回",
    "unhealed": "改回未成",
    "phantom": "来源不认识",
    "jumped": "快照补齐缺包",
    "stopped": "拒收停止",
    "left": "无权移走，留在原处",
    "file_incomplete": "文件不完整",
    "jump_refused": "快照不完整，未用",
    "disk_low": "磁盘将满，让出空间",
    "row_refused": "一行没有收下，已隔离",
    "row_taken_in": "隔离的行已了结",
    "no_room": "没有空间",
    "room_again": "又有空间",
}
DEEDS = {
    "add_source": "接入来源",
    "set_active": "恢复",
    "set_suspended": "暂停",
    "add_key": "登记对方公钥",
    "retire_key": "停用密钥",
    "rotate_key": "更换我方密钥",
    "add_destination": "增加发送目录",
    "remove_destination": "停用发送目录",
    "give_up_row": "放弃隔离的一行",
    "release": "放回数据包",
    "resume": "确认后继续",
    "begin_anew": "以对方的历史重新开始",
}
DONE = {
    "released": "数据包已放回，将重新核验。",
    "resumed": "数据流将从现在的位置继续。",
    "not_kept": "隔离区里已没有这个数据包，请对方重新发送。",
}


@bp.get("/staff/gate")
@staff_only(*READERS)
async def gate(request: OnlineRequest) -> HTTPResponse:
    """Every stream; what a person must look at stands first."""
    return await _show(request, told=DONE.get(str(request.args.get("done", "")), ""))


@bp.post("/staff/gate/<name:str>/release")
@staff_only(OPERATOR)
async def release(request: OnlineRequest, name: str) -> HTTPResponse:
    """Give a refused packet another chance. It is judged again like any other."""
    form: Any = request.form or {}
    peer, seq = await peer_named(name), _position(str(form.get("seq", "")))
    try:
        deed = _deed(request, form)
    except ReasonMissing as refusal:
        return await _show(request, problem=refusal.message, status=refusal.http_status)
    if not await receiving.release(peer.stream_in, seq, folder=peer.incoming):
        return redirect("/staff/gate?done=not_kept", status=303)
    await peering.write_down(name, "release", f"#{seq}", deed=deed, now=request.app.ctx.clock())
    return redirect("/staff/gate?done=released", status=303)


@bp.post("/staff/gate/<name:str>/resume")
@staff_only(OPERATOR)
async def resume(request: OnlineRequest, name: str) -> HTTPResponse:
    """Go on after a person has looked at a fork."""
    form: Any = request.form or {}
    peer = await peer_named(name)
    try:
        deed = _deed(request, form)
    except ReasonMissing as refusal:
        return await _show(request, problem=refusal.message, status=refusal.http_status)
    await receiving.resume(peer.stream_in)
    await peering.write_down(name, "resume", "", deed=deed, now=request.app.ctx.clock())
    return redirect("/staff/gate?done=resumed", status=303)


async def _show(
    request: OnlineRequest, *, told: str = "", problem: str = "", status: int = 200
) -> HTTPResponse:
    now = request.app.ctx.clock()
    seen = await overview.overview(now)
    return render(
        request,
        "staff/gate.html",
        status=status,
        seen=seen,
        streams=sorted(seen.streams, key=lambda one: one.status.healthy and not one.is_late),
        positions={one.status.stream: one.status.seq for one in seen.streams},
        reasons=REASONS,
        pauses=PAUSES,
        event_words=EVENTS,
        deed_words=DEEDS,
        needs_a_person=NEEDS_A_PERSON,
        may_act=request.ctx.viewer.role == OPERATOR,
        told=told,
        problem=problem,
        now=now,
    )


def _deed(request: OnlineRequest, form: Any) -> Deed:
    viewer = request.ctx.viewer
    return Deed(by=f"{viewer.name}（{viewer.role}）", reason=str(form.get("reason", "")).strip())


def _position(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise InvalidInput(field="seq")
    return int(text)
