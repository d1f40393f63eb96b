"""The addresses of WeChat Pay: checks who asks, answers, signs."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any, TypeAlias
from urllib.parse import unquote

import structlog
from sanic import Blueprint, HTTPResponse
from sanic.response import raw

from estation.sandbox import billing, world
from estation.sandbox.clocks import rfc3339, to_ms
from estation.sandbox.faults import Fault
from estation.sandbox.hub import Hub, SandboxRequest, wire_target
from estation.sandbox.wechat_pay import bills, fields, modes, notices, orders, protocol, refunds
from estation.sandbox.wechat_pay.protocol import PayError, bad_field
from estation.shared.clock import beijing_day

log = structlog.get_logger()
bp = Blueprint("wechat_pay", url_prefix=protocol.PREFIX)

BILL_URL_SECONDS = 300
BILLS_KEPT_DAYS = 92
Answer: TypeAlias = tuple[int, dict[str, Any] | bytes | None]
Handler: TypeAlias = Callable[..., Awaitable[Answer]]


def endpoint(
    uri: str, method: str, *, signed: bool = True
) -> Callable[[Handler], Callable[..., Awaitable[HTTPResponse]]]:
    """A handler behind the signature check; its answer is signed unless `signed` is False."""

    def wrap(handler: Handler) -> Callable[..., Awaitable[HTTPResponse]]:
        async def serve(request: SandboxRequest, **values: str) -> HTTPResponse:
            hub = request.app.ctx.hub
            fault = None
            try:
                _check(request, hub)
                fault = hub.faults.take("answer", "wechat_pay") if signed else None
                _refuse_by_fault(fault, "")
                values = {name: unquote(value) for name, value in values.items()}
                status, body = await handler(request, hub, **values)
                if fault is not None and fault.kind == "delay":
                    await asyncio.sleep(min(fault.seconds(6), 60))
                _refuse_by_fault(fault, "_after")
            except PayError as refusal:
                return _refused(request, refusal)
            content = body if isinstance(body, bytes) else _json(body)
            headers = _signed(request, hub, content, fault) if signed else {}
            kind = "application/json; charset=utf-8" if signed else "text/plain"
            return raw(content, status, {**_request_id(request), **headers}, kind)

        bp.add_route(serve, uri, methods={method}, name=handler.__name__)
        return serve

    return wrap


def _check(request: SandboxRequest, hub: Hub) -> None:
    asked = protocol.Asked(
        request.method,
        wire_target(request),
        request.body,
        request.headers.get("authorization", ""),
    )
    protocol.check_authorization(asked, hub.keys, real_seconds=hub.clocks.real().timestamp())
    if not request.headers.get("user-agent", "").strip():
        raise PayError(400, "PARAM_ERROR", "Http头缺少User-Agent")
    accept = request.headers.get("accept", "")
    if "application/json" not in accept and "*/*" not in accept:
        raise PayError(400, "PARAM_ERROR", "Http头Accept应包含application/json")
    if request.body and "application/json" not in request.headers.get("content-type", ""):
        raise PayError(400, "PARAM_ERROR", "Http头Content-Type应为application/json")


def _refuse_by_fault(fault: Fault | None, suffix: str) -> None:
    kind = fault.kind if fault else ""
    if kind == f"status_500{suffix}":
        raise PayError(500, "SYSTEM_ERROR", "系统异常，请稍后重试")
    if kind == "status_429" and not suffix:
        raise PayError(429, "FREQUENCY_LIMITED", "频率超限，请稍后重试")


def _signed(
    request: SandboxRequest, hub: Hub, content: bytes, fault: Fault | None
) -> dict[str, str]:
    return protocol.signature_headers(
        content,
        hub.keys,
        with_certificate=modes.answer_with_certificate(
            hub.store, hub.keys, request.headers.get("wechatpay-serial", "")
        ),
        real_seconds=int(hub.clocks.real().timestamp()),
        fault=fault,
    )


def _refused(request: SandboxRequest, refusal: PayError) -> HTTPResponse:
    log.info("sandbox_wechat_refused", code=refusal.code, path=request.path)
    return raw(
        refusal.body(), refusal.status, _request_id(request), "application/json; charset=utf-8"
    )


def _request_id(request: SandboxRequest) -> dict[str, str]:
    return {"Request-ID": f"08{str(request.id).replace('-', '').upper()}-268578704"}


def _json(body: dict[str, Any] | bytes | None) -> bytes:
    return b"" if body is None else json.dumps(body, ensure_ascii=False).encode()


@endpoint("/v3/pay/transactions/native", "POST")
async def prepay_native(request: SandboxRequest, hub: Hub) -> Answer:
    order = orders.prepay(hub, fields.json_object(request.body), "NATIVE")
    await _pay_before_answer(hub, order["out_trade_no"])
    return 200, {"code_url": f"{orders.CODE_SCHEME}{order['code']}"}


@endpoint("/v3/pay/transactions/jsapi", "POST")
async def prepay_jsapi(request: SandboxRequest, hub: Hub) -> Answer:
    order = orders.prepay(hub, fields.json_object(request.body), "JSAPI")
    await _pay_before_answer(hub, order["out_trade_no"])
    return 200, {"prepay_id": order["prepay_id"]}


async def _pay_before_answer(hub: Hub, out_trade_no: str) -> None:
    """On order: a payer so quick that the notice overtakes the prepay answer."""
    fault = hub.faults.take("prepay", "wechat_pay")
    order = orders.find(hub.store, out_trade_no)
    if fault is None or order is None:
        return
    key = str(fault.options.get("persona", "")) or order["asked_openid"]
    _, notice_id = orders.pay(hub, out_trade_no, world.persona(key) or world.PERSONAS[0])
    if notice_id is not None:
        await hub.notifier.settle_first_try(notice_id)


@endpoint("/v3/pay/transactions/out-trade-no/<out_trade_no:str>", "GET")
async def query_by_number(request: SandboxRequest, hub: Hub, out_trade_no: str) -> Answer:
    fields.own_mchid(request.args.get("mchid", ""), "/mchid", "query")
    return 200, orders.transaction(orders.by_number(hub, out_trade_no), hub.clocks.now())


@endpoint("/v3/pay/transactions/id/<transaction_id:str>", "GET")
async def query_by_transaction(request: SandboxRequest, hub: Hub, transaction_id: str) -> Answer:
    fields.own_mchid(request.args.get("mchid", ""), "/mchid", "query")
    return 200, orders.transaction(orders.by_transaction(hub, transaction_id), hub.clocks.now())


@endpoint("/v3/pay/transactions/out-trade-no/<out_trade_no:str>/close", "POST")
async def close(request: SandboxRequest, hub: Hub, out_trade_no: str) -> Answer:
    values = fields.json_object(request.body)
    fields.own_mchid(fields.text(values, "mchid", 32))
    orders.close(hub, out_trade_no)
    return 204, None


@endpoint("/v3/refund/domestic/refunds", "POST")
async def create_refund(request: SandboxRequest, hub: Hub) -> Answer:
    return 200, refunds.told(hub, refunds.create(hub, fields.json_object(request.body)))


@endpoint("/v3/refund/domestic/refunds/<out_refund_no:str>", "GET")
async def query_refund(request: SandboxRequest, hub: Hub, out_refund_no: str) -> Answer:
    refunds.finish_due(hub)
    return 200, refunds.told(hub, refunds.query(hub, out_refund_no))


@endpoint("/v3/certificates", "GET")
async def certificates(request: SandboxRequest, hub: Hub) -> Answer:
    if not modes.has_certificates(hub.store):
        raise PayError(
            404,
            "RESOURCE_NOT_EXISTS",
            "无可用的平台证书，请在商户平台-API安全申请使用微信支付公钥",
        )
    certificate = hub.keys.platform_certificate
    return 200, {
        "data": [
            {
                "serial_no": hub.keys.platform_certificate_serial,
                "effective_time": rfc3339(to_ms(certificate.not_valid_before_utc)),
                "expire_time": rfc3339(to_ms(certificate.not_valid_after_utc)),
                "encrypt_certificate": notices.seal(
                    hub.keys.api_v3_key,
                    hub.keys.certificate_pem("wechat_certificate"),
                    associated_data="certificate",
                ),
            }
        ]
    }


@endpoint("/v3/bill/tradebill", "GET")
async def trade_bill(request: SandboxRequest, hub: Hub) -> Answer:
    kind = request.args.get("bill_type", "ALL")
    if kind not in bills.COLUMNS:
        raise bad_field("/bill_type", kind, "应为 ALL、SUCCESS 或 REFUND", "query")
    day = _bill_day(request, hub)
    return 200, _offer(request, hub, bills.trade_bill(hub, day, kind), day, kind)


@endpoint("/v3/bill/fundflowbill", "GET")
async def fund_flow_bill(request: SandboxRequest, hub: Hub) -> Answer:
    account = request.args.get("account_type", "BASIC")
    if account not in {"BASIC", "OPERATION", "FEES"}:
        raise bad_field("/account_type", account, "应为 BASIC、OPERATION 或 FEES", "query")
    day = _bill_day(request, hub)
    # Everything of this merchant moves through the basic account.
    text = bills.fund_bill(hub, day) if account == "BASIC" else None
    return 200, _offer(request, hub, text, day, "FUND")


def _bill_day(request: SandboxRequest, hub: Hub) -> date:
    asked = request.args.get("bill_date", "")
    now = hub.clocks.now()
    today = beijing_day(now)
    try:
        day = date.fromisoformat(asked)
        if asked != day.isoformat() or day > today:
            raise ValueError(asked)
    except ValueError:
        raise bad_field("/bill_date", asked[:32], "应为不晚于今天的 YYYY-MM-DD", "query") from None
    if day < today - timedelta(days=BILLS_KEPT_DAYS):
        raise PayError(400, "INVALID_REQUEST", "只能下载最近三个月的账单")
    if not billing.is_ready(hub.store, day, now):
        raise PayError(400, "STATEMENT_CREATING", "账单生成中，请稍后再试")
    return day


def _offer(
    request: SandboxRequest, hub: Hub, text: str | None, day: date, kind: str
) -> dict[str, str]:
    if text is None:
        raise PayError(
            400, "NO_STATEMENT_EXIST", "账单文件不存在，请检查当前商户号是否在指定日期有交易"
        )
    packed = request.args.get("tar_type", "")
    if packed not in {"", "GZIP"}:
        raise bad_field("/tar_type", packed, "应为 GZIP", "query")
    content = text.encode()
    token = billing.offer(
        hub,
        channel="wechat_pay",
        name=f"{day}.{kind}",
        content=gzip.compress(content) if packed else content,
        seconds=BILL_URL_SECONDS,
    )
    url = f"http://{request.host}{protocol.PREFIX}/v3/billdownload/file?token={token}"
    digest = hashlib.sha1(content).hexdigest()  # noqa: S324 -- what the protocol says
    return {
        "hash_type": "SHA1",
        "hash_value": digest,
        "download_url": f"{url}&tartype=gzip" if packed else url,
    }


@endpoint("/v3/billdownload/file", "GET", signed=False)
async def bill_file(request: SandboxRequest, hub: Hub) -> Answer:
    found = billing.redeem(hub, "wechat_pay", request.args.get("token", ""))
    if found is None:
        raise PayError(400, "INVALID_REQUEST", "账单下载地址已失效，请重新申请")
    return 200, found.content
