"""The addresses of Alipay: the gateway, and the bill centre."""

import asyncio
import re
from collections.abc import Callable
from datetime import date
from typing import Any
from urllib.parse import quote

import structlog
from sanic import Blueprint, HTTPResponse
from sanic.response import html, raw, redirect

from estation.sandbox import billing, world
from estation.sandbox.alipay import bills, fields, protocol, refunds, trades
from estation.sandbox.alipay.notices import signed_form
from estation.sandbox.alipay.protocol import Call, GatewayError, TradeError
from estation.sandbox.faults import Fault
from estation.sandbox.hub import Hub, SandboxRequest, wire_target
from estation.sandbox.store import Row
from estation.shared.clock import BEIJING, beijing_day
from estation.shared.money import yuan_from_fen

log = structlog.get_logger()
bp = Blueprint("alipay", url_prefix="/alipay")

BILL_URL_SECONDS = 30
WAP = "alipay.trade.wap.pay"


@bp.get("/gateway.do", name="gateway_get")
@bp.post("/gateway.do", name="gateway_post")
async def gateway(request: SandboxRequest) -> HTTPResponse:
    """One call: JSON for programs, the cashier for alipay.trade.wap.pay. HTTP 200 always."""
    hub = request.app.ctx.hub
    try:
        call = read_call(hub, wire_target(request), request.body)
        if call.method == WAP:
            return _to_cashier(hub, call)
        fault = hub.faults.take("answer", "alipay")
        content = _answer(request, hub, call, fault)
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(min(fault.seconds(6), 60))
    except GatewayError as error:
        log.info("sandbox_alipay_refused", code=error.content["sub_code"])
        return raw(protocol.error_answer(error), content_type="text/html;charset=utf-8")
    body = protocol.answer(call.method, content, call.charset, hub.keys, fault)
    return raw(body, content_type=f"text/html;charset={call.charset}")


def read_call(hub: Hub, target: str, body: bytes) -> Call:
    """One verified call. Raises GatewayError."""
    return protocol.read_call(target, body, hub.keys, real_now=hub.clocks.real())


def _to_cashier(hub: Hub, call: Call) -> HTTPResponse:
    try:
        ticket = trades.offer(hub, call, "wap")
    except TradeError as refusal:
        return html(f"<meta charset=utf-8><h1>{refusal.sub_msg}</h1><p>{refusal.sub_code}", 400)
    return redirect(f"/scan?code={quote(ticket['token'])}")


def _answer(request: SandboxRequest, hub: Hub, call: Call, fault: Fault | None) -> dict[str, Any]:
    handler = _METHODS.get(call.method)
    if handler is None:
        raise GatewayError("40002", "isv.invalid-method", "不存在的方法名")
    try:
        _refuse_by_fault(fault, "unavailable")
        content = handler(request, hub, call)
        _refuse_by_fault(fault, "unavailable_after")
    except TradeError as refusal:
        return refusal.content()
    return {"code": "10000", "msg": "Success", **content}


def _refuse_by_fault(fault: Fault | None, kind: str) -> None:
    if fault is not None and fault.kind == kind:
        raise TradeError("aop.unknow-error", "系统繁忙", code="20000")


def _precreate(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    ticket = trades.offer(hub, call, "precreate")
    return {
        "out_trade_no": ticket["out_trade_no"],
        "qr_code": f"{trades.QR_PREFIX}{ticket['token']}",
    }


def _query(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return trades.told(trades.named(hub, call.biz))


def _close(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return trades.close(hub, call.biz)


def _cancel(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return refunds.cancel(hub, call.biz)


def _refund(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return refunds.refund(hub, call.biz)


def _refund_query(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return refunds.query(hub, call.biz)


def _bill_url(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    if fields.text(call.biz, "bill_type", 32, required=True) != "trade":
        raise TradeError("isv.invalid-arguments", "bill_type 只支持 trade", code="40002")
    day = _bill_day(hub, fields.text(call.biz, "bill_date", 10, required=True))
    packed = bills.trade_bill(hub, day)
    if packed is None:
        raise TradeError("isp.bill_not_exist", "账单不存在")
    name = f"{world.ALIPAY_SELLER_ID}0156_{day:%Y%m%d}.csv.zip"
    token = billing.offer(
        hub, channel="alipay", name=name, content=packed, seconds=BILL_URL_SECONDS
    )
    return {
        "bill_download_url": f"http://{request.host}/alipay/downloadBillFile.resource"
        f"?bizType=trade&userId={world.ALIPAY_SELLER_ID}0156&fileType=csv.zip"
        f"&bizDates={day:%Y%m%d}&downloadFileName={name}&fileId={token}"
    }


def _bill_day(hub: Hub, asked: str) -> date:
    now = hub.clocks.now()
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", asked):
            raise ValueError(asked)
        day = date.fromisoformat(asked)
    except ValueError:
        raise TradeError(
            "isv.invalid-arguments", "bill_date 应为 yyyy-MM-dd", code="40002"
        ) from None
    if day > beijing_day(now) or not billing.is_ready(hub.store, day, now):
        raise TradeError("isp.bill_not_exist", "账单尚未生成，请次日 10 点后再试")
    return day


_METHODS: dict[str, Callable[[SandboxRequest, Hub, Call], dict[str, Any]]] = {
    "alipay.trade.precreate": _precreate,
    "alipay.trade.query": _query,
    "alipay.trade.close": _close,
    "alipay.trade.cancel": _cancel,
    "alipay.trade.refund": _refund,
    "alipay.trade.fastpay.refund.query": _refund_query,
    "alipay.data.dataservice.bill.downloadurl.query": _bill_url,
}


@bp.get("/downloadBillFile.resource")
async def bill_file(request: SandboxRequest) -> HTTPResponse:
    """No signature, no login, 30 seconds: as the real bill centre."""
    found = billing.redeem(request.app.ctx.hub, "alipay", request.args.get("fileId", ""))
    if found is None:
        return html("<meta charset=utf-8><p>下载地址已失效", 404)
    return raw(
        found.content,
        headers={"Content-Disposition": f'attachment; filename="{found.name}"'},
        content_type="application/octet-stream",
    )


def return_address(hub: Hub, ticket: Row, trade: Row) -> str:
    """Where the cashier sends the payer's browser afterwards, signed; "" when nowhere."""
    if not ticket["return_url"]:
        return ""
    form = signed_form(
        {
            "app_id": world.ALIPAY_APP_ID,
            "auth_app_id": world.ALIPAY_APP_ID,
            "charset": ticket["charset"],
            "method": "alipay.trade.wap.pay.return",
            "out_trade_no": trade["out_trade_no"],
            "seller_id": world.ALIPAY_SELLER_ID,
            "timestamp": _beijing_text(hub),
            "total_amount": yuan_from_fen(trade["amount_fen"]),
            "trade_no": trade["trade_no"],
            "version": "1.0",
        },
        hub.keys,
        ticket["charset"],
    )
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in form.items())
    glue = "&" if "?" in ticket["return_url"] else "?"
    return f"{ticket['return_url']}{glue}{query}"


def _beijing_text(hub: Hub) -> str:
    return hub.clocks.now().astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")
