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

from estation.sandbox import billing, certifying, shangmi, world
from estation.sandbox.clocks import rfc3339, to_ms
from estation.sandbox.faults import Fault
from estation.sandbox.hub import Hub, SandboxRequest, wire_target
from estation.sandbox.keys import generation_name
from estation.sandbox.store import Row
from estation.sandbox.wechat_pay import (
    bills,
    combine,
    fields,
    modes,
    notices,
    orders,
    protocol,
    refunds,
)
from estation.sandbox.wechat_pay.protocol import PayError, bad_field
from estation.shared.clock import beijing_day

log = structlog.get_logger()
bp = Blueprint("wechat_pay", url_prefix=protocol.PREFIX)

H5_PATH = "/cgi-bin/mmpayweb-bin/checkmweb"
"""Of the address at wx.tenpay.com that a mobile browser is sent to."""
BILL_URL_SECONDS = 300
BILLS_KEPT_DAYS = 92
Answer: TypeAlias = tuple[int, dict[str, Any] | bytes | None]
Handler: TypeAlias = Callable[..., Awaitable[Answer]]
"""Of request, hub, the merchant who signed, and the path's values."""


def endpoint(
    uri: str, method: str, *, signed: bool = True
) -> Callable[[Handler], Callable[..., Awaitable[HTTPResponse]]]:
    """A handler behind the signature check; its answer is signed unless `signed` is False."""

    def wrap(handler: Handler) -> Callable[..., Awaitable[HTTPResponse]]:
        async def serve(request: SandboxRequest, **values: str) -> HTTPResponse:
            hub = request.app.ctx.hub
            fault = None
            try:
                merchant = _check(request, hub)
                fault = _fault(request, hub) if signed else None
                _refuse_by_fault(fault, "")
                values = {name: unquote(value) for name, value in values.items()}
                status, body = await handler(request, hub, merchant, **values)
                if fault is not None and fault.kind == "delay":
                    await asyncio.sleep(min(fault.seconds(6), 60))
                _refuse_by_fault(fault, "_after")
            except PayError as refusal:
                return _refused(request, hub, refusal)
            if fault is not None and fault.kind == "alter" and isinstance(body, dict):
                body = notices.altered(body, fault)
            content = body if isinstance(body, bytes) else _json(body)
            headers = _signed(request, hub, content, fault) if signed else {}
            kind = "application/json; charset=utf-8" if signed else "text/plain"
            return raw(content, status, {**_request_id(request), **headers}, kind)

        bp.add_route(serve, uri, methods={method}, name=handler.__name__)
        return serve

    return wrap


def _fault(request: SandboxRequest, hub: Hub) -> Fault | None:
    path, body = unquote(request.path), request.body.decode(errors="replace")
    event = f"op:{_operation(request.method, path)} {request.method} {path} {body}"
    return hub.faults.take("answer", "wechat_pay", event)


def _operation(method: str, path: str) -> str:
    if "/refund/" in path:
        return "refund" if method == "POST" else "find_refund"
    if path.endswith("/close"):
        return "close"
    if "/bill" in path or path.endswith("/certificates"):
        return path.rpartition("/")[2]
    return "prepay" if method == "POST" else "query"


def _check(request: SandboxRequest, hub: Hub) -> world.Merchant:
    asked = protocol.Asked(
        request.method,
        wire_target(request),
        request.body,
        request.headers.get("authorization", ""),
    )
    hub.keys.expire(hub.now_ms())
    merchant = protocol.check_authorization(
        asked, hub.keys, real_seconds=hub.clocks.real().timestamp()
    )
    if not request.headers.get("user-agent", "").strip():
        raise PayError(400, "PARAM_ERROR", "Http头缺少User-Agent")
    accept = request.headers.get("accept", "")
    if "application/json" not in accept and "*/*" not in accept:
        raise PayError(400, "PARAM_ERROR", "Http头Accept应包含application/json")
    if request.body and "application/json" not in request.headers.get("content-type", ""):
        raise PayError(400, "PARAM_ERROR", "Http头Content-Type应为application/json")
    return merchant


def _refuse_by_fault(fault: Fault | None, suffix: str) -> None:
    kind = fault.kind if fault else ""
    if kind == f"status_500{suffix}":
        raise PayError(500, "SYSTEM_ERROR", "系统异常，请稍后重试")
    if kind == f"status_202{suffix}":
        raise PayError(202, "ACCEPTED", "请求已受理，结果未知，请稍后用原参数重试或查询")
    if kind == "status_429" and not suffix:
        raise PayError(429, "FREQUENCY_LIMITED", "频率超限，请稍后重试")
    if kind == "status_503" and not suffix:
        raise PayError(503, "SERVICE_UNAVAILABLE", "服务不可用，请稍后重试")
    if kind == "not_found" and not suffix:
        raise PayError(404, "ORDER_NOT_EXIST", "订单不存在")


def _signed(
    request: SandboxRequest, hub: Hub, content: bytes, fault: Fault | None
) -> dict[str, str]:
    return protocol.signature_headers(
        content,
        modes.answer_signer(
            hub.store,
            hub.keys,
            request.headers.get("wechatpay-serial", ""),
            in_sm=protocol.is_in_sm(request.headers.get("authorization", "")),
        ),
        real_seconds=int(hub.clocks.real().timestamp()),
        fault=fault,
    )


def _refused(request: SandboxRequest, hub: Hub, refusal: PayError) -> HTTPResponse:
    log.info("sandbox_wechat_refused", code=refusal.code, path=request.path)
    content = refusal.body()
    # 202 is no error: everything from 200 to 299 carries a signature.
    signature = _signed(request, hub, content, None) if refusal.status < 300 else {}
    headers = {**_request_id(request), **signature}
    return raw(content, refusal.status, headers, "application/json; charset=utf-8")


def _request_id(request: SandboxRequest) -> dict[str, str]:
    return {"Request-ID": f"08{str(request.id).replace('-', '').upper()}-268578704"}


def _json(body: dict[str, Any] | bytes | None) -> bytes:
    return b"" if body is None else json.dumps(body, ensure_ascii=False).encode()


async def _prepay(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, trade_type: str
) -> Answer:
    order = orders.prepay(hub, fields.json_object(request.body), trade_type, merchant)
    if trouble := hub.faults.take("prepay", "wechat_pay", order["out_trade_no"]):
        await _pay_before_answer(hub, trouble, order["asked_openid"], orders.pay, order)
    return 200, _way_to_pay(request, order)


async def _prepay_combined(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, trade_type: str
) -> Answer:
    whole = combine.prepay(hub, fields.json_object(request.body), trade_type, merchant)
    if trouble := hub.faults.take("prepay", "wechat_pay", whole["combine_out_trade_no"]):
        await _pay_before_answer(hub, trouble, whole["asked_openid"], combine.pay, whole)
    return 200, _way_to_pay(request, whole)


def _way_to_pay(request: SandboxRequest, row: Row) -> dict[str, Any]:
    if row["trade_type"] == "NATIVE":
        return {"code_url": f"{orders.CODE_SCHEME}{row['code']}"}
    if row["trade_type"] == "MWEB":
        query = f"prepay_id={row['prepay_id']}&package={row['code']}"
        return {"h5_url": f"http://{request.host}{protocol.PREFIX}{H5_PATH}?{query}"}
    return {"prepay_id": row["prepay_id"]}


async def _pay_before_answer(
    hub: Hub,
    trouble: Fault,
    openid: str,
    pay: Callable[[Hub, Row, world.Persona], tuple[Row, str | None]],
    row: Row,
) -> None:
    """On order: a payer so quick that the notice overtakes the prepay answer."""
    key = str(trouble.options.get("persona", "")) or openid
    _, notice_id = pay(hub, row, world.persona(key) or world.PERSONAS[0])
    if notice_id is not None:
        await hub.notifier.settle_first_try(notice_id)


@endpoint("/v3/pay/transactions/native", "POST")
async def prepay_native(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay(request, hub, merchant, "NATIVE")


@endpoint("/v3/pay/transactions/jsapi", "POST")
async def prepay_jsapi(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay(request, hub, merchant, "JSAPI")


@endpoint("/v3/pay/transactions/h5", "POST")
async def prepay_h5(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay(request, hub, merchant, "MWEB")


@endpoint("/v3/pay/transactions/app", "POST")
async def prepay_app(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay(request, hub, merchant, "APP")


@endpoint("/v3/combine-transactions/native", "POST")
async def combine_native(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay_combined(request, hub, merchant, "NATIVE")


@endpoint("/v3/combine-transactions/jsapi", "POST")
async def combine_jsapi(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay_combined(request, hub, merchant, "JSAPI")


@endpoint("/v3/combine-transactions/h5", "POST")
async def combine_h5(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay_combined(request, hub, merchant, "MWEB")


@endpoint("/v3/combine-transactions/app", "POST")
async def combine_app(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    return await _prepay_combined(request, hub, merchant, "APP")


@endpoint("/v3/combine-transactions/out-trade-no/<number:str>", "GET")
async def combine_query(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, number: str
) -> Answer:
    return 200, combine.told(hub, combine.by_number(hub, merchant, number))


@endpoint("/v3/combine-transactions/out-trade-no/<number:str>/close", "POST")
async def combine_close(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, number: str
) -> Answer:
    combine.close(hub, merchant, number, fields.json_object(request.body))
    return 204, None


@endpoint("/v3/pay/transactions/out-trade-no/<out_trade_no:str>", "GET")
async def query_by_number(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, out_trade_no: str
) -> Answer:
    fields.own_mchid(request.args.get("mchid", ""), merchant, "/mchid", "query")
    order = orders.by_number(hub, merchant.mchid, out_trade_no)
    return 200, orders.transaction(order, hub.clocks.now())


@endpoint("/v3/pay/transactions/id/<transaction_id:str>", "GET")
async def query_by_transaction(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, transaction_id: str
) -> Answer:
    fields.own_mchid(request.args.get("mchid", ""), merchant, "/mchid", "query")
    order = orders.by_transaction(hub, merchant.mchid, transaction_id)
    return 200, orders.transaction(order, hub.clocks.now())


@endpoint("/v3/pay/transactions/out-trade-no/<out_trade_no:str>/close", "POST")
async def close(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, out_trade_no: str
) -> Answer:
    values = fields.json_object(request.body)
    fields.own_mchid(fields.text(values, "mchid", 32), merchant)
    orders.close(hub, merchant, out_trade_no)
    return 204, None


@endpoint("/v3/refund/domestic/refunds", "POST")
async def create_refund(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    refund = refunds.create(hub, merchant, fields.json_object(request.body))
    return 200, refunds.told(hub, refund)


@endpoint("/v3/refund/domestic/refunds/<out_refund_no:str>", "GET")
async def query_refund(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, out_refund_no: str
) -> Answer:
    refunds.finish_due(hub)
    return 200, refunds.told(hub, refunds.query(hub, merchant.mchid, out_refund_no))


@endpoint("/v3/refund/domestic/refunds/<refund_id:str>/apply-abnormal-refund", "POST")
async def apply_abnormal_refund(
    request: SandboxRequest, hub: Hub, merchant: world.Merchant, refund_id: str
) -> Answer:
    refunds.finish_due(hub)
    values = fields.json_object(request.body)
    serial = request.headers.get("wechatpay-serial", "")
    refund = refunds.apply_abnormal(hub, merchant, refund_id, values, serial)
    return 200, refunds.told(hub, refund)


@endpoint("/v3/certificates", "GET")
async def certificates(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    kind = request.args.get("algorithm_type", "RSA")
    if kind not in {"RSA", "SM2", "ALL"}:
        raise bad_field("/algorithm_type", kind, "应为 RSA、SM2 或 ALL", "query")
    listed = []
    if kind in {"SM2", "ALL"} and shangmi.is_available():
        listed.append(_sm_certificate(hub, merchant))
    if kind != "SM2" and modes.has_certificates(hub.store):
        alive = modes.serials(hub.keys, "wechat_certificate")
        listed += [_certificate(hub, merchant, *named) for named in alive.items()]
    if not listed:
        raise PayError(
            404,
            "RESOURCE_NOT_EXISTS",
            "无可用的平台证书，请在商户平台-API安全申请使用微信支付公钥",
        )
    return 200, {"data": listed}


def _certificate(
    hub: Hub, merchant: world.Merchant, serial: str, generation: int
) -> dict[str, Any]:
    pem = hub.keys.certificate_pem(generation_name("wechat_certificate", generation))
    return _told_certificate(hub, merchant, serial, pem, in_sm=False)


def _sm_certificate(hub: Hub, merchant: world.Merchant) -> dict[str, Any]:
    key = shangmi.platform_key(hub.keys.folder)
    return _told_certificate(hub, merchant, key.serial, key.certificate, in_sm=True)


def _told_certificate(
    hub: Hub, merchant: world.Merchant, serial: str, pem: str, *, in_sm: bool
) -> dict[str, Any]:
    certificate = certifying.first(pem)
    return {
        "serial_no": serial,
        "effective_time": rfc3339(to_ms(certificate.not_valid_before_utc)),
        "expire_time": rfc3339(to_ms(certificate.not_valid_after_utc)),
        "encrypt_certificate": notices.seal(
            hub.keys.api_v3_key(merchant), pem, associated_data="certificate", in_sm=in_sm
        ),
    }


@endpoint("/v3/bill/tradebill", "GET")
async def trade_bill(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    kind = request.args.get("bill_type", "ALL")
    if kind not in bills.COLUMNS:
        raise bad_field("/bill_type", kind, "应为 ALL、SUCCESS 或 REFUND", "query")
    day = _bill_day(request, hub)
    text = bills.trade_bill(hub, merchant.mchid, day, kind)
    return 200, _offer(request, hub, text, merchant, f"{day}.{kind}")


@endpoint("/v3/bill/fundflowbill", "GET")
async def fund_flow_bill(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    account = request.args.get("account_type", "BASIC")
    if account not in {"BASIC", "OPERATION", "FEES"}:
        raise bad_field("/account_type", account, "应为 BASIC、OPERATION 或 FEES", "query")
    day = _bill_day(request, hub)
    # Everything of a merchant moves through the basic account.
    text = bills.fund_bill(hub, merchant.mchid, day) if account == "BASIC" else None
    return 200, _offer(request, hub, text, merchant, f"{day}.FUND")


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
    request: SandboxRequest, hub: Hub, text: str | None, merchant: world.Merchant, name: str
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
        channel=f"wechat_pay:{merchant.mchid}",
        name=name,
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
async def bill_file(request: SandboxRequest, hub: Hub, merchant: world.Merchant) -> Answer:
    # The token opens the file only for the merchant it was given to.
    channel = f"wechat_pay:{merchant.mchid}"
    found = billing.redeem(hub, channel, request.args.get("token", ""))
    if found is None:
        raise PayError(400, "INVALID_REQUEST", "账单下载地址已失效，请重新申请")
    return 200, found.content
