"""The addresses of Alipay: the gateway, and the bill centre."""

import asyncio
import re
from collections.abc import Callable
from datetime import date
from html import escape
from typing import Any
from urllib.parse import quote

import structlog
from sanic import Blueprint, HTTPResponse
from sanic.response import html, raw, redirect

from estation.sandbox import billing, certifying, world
from estation.sandbox.alipay import bills, fields, protocol, refunds, trades
from estation.sandbox.alipay.notices import signed_form
from estation.sandbox.alipay.protocol import Call, GatewayError, TradeError
from estation.sandbox.faults import Fault
from estation.sandbox.hub import Hub, SandboxRequest, wire_target
from estation.sandbox.keys import generation_name
from estation.sandbox.store import Row
from estation.shared.clock import BEIJING, beijing_day
from estation.shared.money import yuan_from_fen

log = structlog.get_logger()
bp = Blueprint("alipay", url_prefix="/alipay")

BILL_URL_SECONDS = 30
CASHIERS = {"alipay.trade.wap.pay": "wap", "alipay.trade.page.pay": "page"}
"""Methods that a browser calls, by a signed address or a form, and what they open."""


OPERATIONS = {
    "alipay.trade.precreate": "prepay",
    "alipay.trade.create": "prepay",
    "alipay.trade.query": "query",
    "alipay.trade.close": "close",
    "alipay.trade.cancel": "close",
    "alipay.trade.refund": "refund",
    "alipay.trade.fastpay.refund.query": "find_refund",
}
"""What a trouble's `only` may name as op:…, the same words at both channels."""


@bp.get("/gateway.do", name="gateway_get")
@bp.post("/gateway.do", name="gateway_post")
async def gateway(request: SandboxRequest) -> HTTPResponse:
    """One call: JSON for programs, the cashier for browsers. HTTP 200 always."""
    hub = request.app.ctx.hub
    coding = "utf-8"
    try:
        call = read_call(hub, wire_target(request), request.body)
        if call.method in CASHIERS:
            return _to_cashier(hub, call)
        fault = hub.faults.take("answer", "alipay", _event(call))
        if fault is not None and fault.kind.startswith("gateway_error"):
            coding = "gb18030"  # its failures do not keep to the asked charset
        content = _answer(request, hub, call, fault)
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(min(fault.seconds(6), 60))
    except GatewayError as error:
        log.info("sandbox_alipay_refused", code=error.content["sub_code"])
        body = protocol.error_answer(error, coding)
        return raw(body, content_type=f"text/html;charset={coding}")
    body = protocol.answer(call, content, hub.keys, fault)
    return raw(body, content_type=f"text/html;charset={call.charset}")


def _event(call: Call) -> str:
    operation = OPERATIONS.get(call.method, "other")
    biz = call.parameters.get("biz_content", "")
    return f"op:{operation} {call.method} {biz} {call.app.app_id}"


def read_call(hub: Hub, target: str, body: bytes) -> Call:
    """One verified call. Raises GatewayError."""
    hub.keys.expire(hub.now_ms())
    return protocol.read_call(target, body, hub.keys, real_now=hub.clocks.real())


def _to_cashier(hub: Hub, call: Call) -> HTTPResponse:
    try:
        ticket = trades.offer(hub, call, CASHIERS[call.method])
    except TradeError as refusal:
        words, code = escape(refusal.sub_msg), escape(refusal.sub_code)
        return html(f"<meta charset=utf-8><h1>{words}</h1><p>{code}", 400)
    return redirect(f"/scan?code={quote(ticket['token'])}", status=303)


def _answer(request: SandboxRequest, hub: Hub, call: Call, fault: Fault | None) -> dict[str, Any]:
    handler = _METHODS.get(call.method)
    if handler is None:
        raise GatewayError("40002", "isv.invalid-method", "不存在的方法名")
    try:
        _refuse_by_fault(fault, "")
        if fault is not None and fault.kind == "retry" and call.method == "alipay.trade.cancel":
            content = {"out_trade_no": call.biz.get("out_trade_no", ""), "retry_flag": "Y"}
        else:
            content = handler(request, hub, call)
        _refuse_by_fault(fault, "_after")
    except TradeError as refusal:
        return refusal.content()
    content = {"code": "10000", "msg": "Success", **content}
    if fault is not None and fault.kind == "alter":
        return protocol.altered(content, fault)
    return content


def _refuse_by_fault(fault: Fault | None, suffix: str) -> None:
    kind = fault.kind if fault else ""
    if kind == f"unavailable{suffix}":
        raise TradeError("aop.unknow-error", "系统繁忙", code="20000")
    if kind == f"gateway_error{suffix}":
        raise GatewayError("20000", "isp.unknow-error", "系统繁忙，请稍后再试")
    if kind == "not_found" and not suffix:
        raise TradeError("ACQ.TRADE_NOT_EXIST", "交易不存在")


def _precreate(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    ticket = trades.offer(hub, call, "precreate")
    return {
        "out_trade_no": ticket["out_trade_no"],
        "qr_code": f"{trades.QR_PREFIX}{ticket['token']}",
    }


def _create(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    trade = trades.create(hub, call)
    return {"out_trade_no": trade["out_trade_no"], "trade_no": trade["trade_no"]}


def _query(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    refunds.finish_due(hub)
    return trades.told(trades.named(hub, call.biz), call.app)


def _close(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return trades.close(hub, call.biz)


def _cancel(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return refunds.cancel(hub, call.biz)


def _refund(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return refunds.refund(hub, call)


def _refund_query(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    return refunds.query(hub, call.biz)


def _certificate(request: SandboxRequest, hub: Hub, call: Call) -> dict[str, Any]:
    """Any of Alipay's certificates, living or past, with its issuer's behind it."""
    asked = fields.text(call.biz, "alipay_cert_sn", 64, required=True)
    for generation in range(1, hub.keys.slot("alipay_certificate").newest + 1):
        name = generation_name("alipay_certificate", generation)
        if certifying.cert_sn(hub.keys.certificate(name)) == asked:
            return {"alipay_cert_content": certifying.packed(hub.keys.certificate_pem(name))}
    raise TradeError("isv.cert-not-exist", "证书不存在")


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
    "alipay.trade.create": _create,
    "alipay.trade.query": _query,
    "alipay.trade.close": _close,
    "alipay.trade.cancel": _cancel,
    "alipay.trade.refund": _refund,
    "alipay.trade.fastpay.refund.query": _refund_query,
    "alipay.open.app.alipaycert.download": _certificate,
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
    app = world.alipay_app(ticket["app_id"]) or world.KEY_APP
    form = signed_form(
        {
            "app_id": app.app_id,
            "auth_app_id": app.app_id,
            "charset": ticket["charset"],
            "method": f"alipay.trade.{ticket['kind']}.pay.return",
            "out_trade_no": trade["out_trade_no"],
            "seller_id": world.ALIPAY_SELLER_ID,
            "timestamp": _beijing_text(hub),
            "total_amount": yuan_from_fen(trade["amount_fen"]),
            "trade_no": trade["trade_no"],
            "version": "1.0",
        },
        hub.keys,
        app,
        ticket["charset"],
    )
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in form.items())
    glue = "&" if "?" in ticket["return_url"] else "?"
    return f"{ticket['return_url']}{glue}{query}"


def _beijing_text(hub: Hub) -> str:
    return hub.clocks.now().astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")
