"""Third-party SDKs, given only the credentials, can talk to the sandbox."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import pytest
from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
from alipay.aop.api.request.AlipayTradeCreateRequest import AlipayTradeCreateRequest
from alipay.aop.api.request.AlipayTradeFastpayRefundQueryRequest import (
    AlipayTradeFastpayRefundQueryRequest,
)
from alipay.aop.api.request.AlipayTradePagePayRequest import AlipayTradePagePayRequest
from alipay.aop.api.request.AlipayTradePrecreateRequest import AlipayTradePrecreateRequest
from alipay.aop.api.request.AlipayTradeQueryRequest import AlipayTradeQueryRequest
from alipay.aop.api.request.AlipayTradeRefundRequest import AlipayTradeRefundRequest
from alipay.aop.api.util import WebUtils
from wechatpayv3 import WeChatPay, WeChatPayType
from yarl import URL

from tests.sandbox.merchant import NoticeDesk
from tests.sandbox.running import RunningSandbox

NUMBER = "20260301ABCDEFGHJKMNPQRS"


@pytest.fixture
def beijing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """alipay-sdk-python stamps requests with naive local time."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _wechat_sdk(
    sandbox: RunningSandbox,
    notify_url: str,
    *,
    mchid: str = "1900000109",
    with_certificates: bool = False,
) -> Any:
    account = sandbox.credentials["wechat_pay_merchants"][mchid]
    sdk = WeChatPay(
        wechatpay_type=WeChatPayType.NATIVE,
        mchid=account["mchid"],
        private_key=account["merchant_private_key"],
        cert_serial_no=account["merchant_serial"],
        apiv3_key=account["api_v3_key"],
        appid=account["appid"],
        notify_url=notify_url,
        public_key=account["public_key"],
        public_key_id=account["public_key_id"],
    )
    sdk._core._gate_way = account["base_url"]  # the SDK offers no setting for it
    if with_certificates:
        sdk._core._public_key = sdk._core._public_key_id = None
    return sdk


async def test_wechatpayv3_opens_queries_reads_the_notice_and_closes(
    sandbox: RunningSandbox, desk: NoticeDesk
) -> None:
    sdk = _wechat_sdk(sandbox, desk.url)

    status, opened = await asyncio.to_thread(
        sdk.pay, description="契税", out_trade_no=NUMBER, amount={"total": 817524}
    )
    await sandbox.pay(json.loads(opened)["code_url"], wait_for_notice=True)
    _, told = await asyncio.to_thread(sdk.query, out_trade_no=NUMBER)
    notice = sdk.callback(*desk.got[0])
    _, other = await asyncio.to_thread(
        sdk.pay, description="契税", out_trade_no=NUMBER + "2", amount={"total": 1}
    )
    closed, _ = await asyncio.to_thread(sdk.close, out_trade_no=NUMBER + "2")

    assert (status, closed) == (200, 204)
    assert json.loads(told)["trade_state"] == "SUCCESS"
    assert notice["resource"]["transaction_id"] == json.loads(told)["transaction_id"]
    assert "code_url" in other


async def test_wechatpayv3_works_with_the_platform_certificate(sandbox: RunningSandbox) -> None:
    await sandbox.control("modes", wechat_pay_keys="certificate")
    sdk = _wechat_sdk(sandbox, "http://127.0.0.1:9/nobody", with_certificates=True)
    await asyncio.to_thread(sdk._core._init_certificates)

    status, _ = await asyncio.to_thread(
        sdk.pay, description="契税", out_trade_no=NUMBER, amount={"total": 1}
    )

    assert status == 200


async def test_wechatpayv3_drives_a_combined_order_and_its_refund(
    sandbox: RunningSandbox, desk: NoticeDesk
) -> None:
    whole = _wechat_sdk(sandbox, desk.url, mchid="1900000100")
    treasury = _wechat_sdk(sandbox, desk.url, mchid="1900000111")
    subs = [
        {
            "mchid": mchid,
            "attach": "附言",
            "amount": {"total_amount": fen, "currency": "CNY"},
            "out_trade_no": f"SUB{mchid}",
            "description": "契税",
        }
        for mchid, fen in (("1900000111", 800000), ("1900000112", 8000))
    ]

    status, opened = await asyncio.to_thread(whole.combine_pay, NUMBER, subs)
    await sandbox.pay(json.loads(opened)["code_url"], wait_for_notice=True)
    _, told = await asyncio.to_thread(whole.combine_query, NUMBER)
    notice = whole.callback(*desk.got[0])
    refunded, answer = await asyncio.to_thread(
        treasury.refund,
        "R1",
        {"refund": 1, "total": 800000, "currency": "CNY"},
        transaction_id=json.loads(told)["sub_orders"][0]["transaction_id"],
    )
    await sandbox.advance(6)
    await sandbox.deliveries("SUB1900000111", at_least=1)
    refund_notice = treasury.callback(*desk.got[1])

    assert status == 200
    assert notice["resource"] == json.loads(told)
    assert notice["resource"]["sub_orders"][1]["amount"]["total_amount"] == 8000
    assert (refunded, json.loads(answer)["status"]) == (200, "PROCESSING")
    assert refund_notice["event_type"] == "REFUND.SUCCESS"
    assert refund_notice["resource"]["refund_status"] == "SUCCESS"


async def test_wechatpayv3_closes_a_combined_order(sandbox: RunningSandbox) -> None:
    sdk = _wechat_sdk(sandbox, "http://127.0.0.1:9/nobody", mchid="1900000100")
    subs = [
        {
            "mchid": mchid,
            "attach": "附言",
            "amount": {"total_amount": 1, "currency": "CNY"},
            "out_trade_no": f"SUB{mchid}",
            "description": "契税",
        }
        for mchid in ("1900000111", "1900000112")
    ]
    named = [{"mchid": sub["mchid"], "out_trade_no": sub["out_trade_no"]} for sub in subs]
    await asyncio.to_thread(sdk.combine_pay, NUMBER, subs)

    status, _ = await asyncio.to_thread(sdk.combine_close, NUMBER, named)
    _, told = await asyncio.to_thread(sdk.combine_query, NUMBER)

    assert status == 204
    assert {sub["trade_state"] for sub in json.loads(told)["sub_orders"]} == {"CLOSED"}


async def test_wechatpayv3_sends_an_abnormal_refund_to_another_card(
    sandbox: RunningSandbox, desk: NoticeDesk
) -> None:
    sdk = _wechat_sdk(sandbox, desk.url)
    _, opened = await asyncio.to_thread(
        sdk.pay, description="契税", out_trade_no=NUMBER, amount={"total": 100}
    )
    await sandbox.pay(json.loads(opened)["code_url"])
    await sandbox.fault("abnormal", target="refund")
    amount = {"refund": 100, "total": 100, "currency": "CNY"}
    _, accepted = await asyncio.to_thread(sdk.refund, "R1", amount, out_trade_no=NUMBER)
    await sandbox.advance(6)

    status, told = await asyncio.to_thread(
        sdk.abnormal_refund,
        json.loads(accepted)["refund_id"],
        "R1",
        "USER_BANK_CARD",
        bank_type="ICBC_DEBIT",
        bank_account="6222020000000000000",
        real_name="林晓舟",
    )

    assert (status, json.loads(told)["status"]) == (200, "PROCESSING")


async def test_wechatpayv3_follows_a_certificate_rotation(
    sandbox: RunningSandbox, desk: NoticeDesk
) -> None:
    await sandbox.control("modes", wechat_pay_keys="certificate")
    sdk = _wechat_sdk(sandbox, desk.url, with_certificates=True)
    await asyncio.to_thread(sdk._core._init_certificates)
    _, opened = await asyncio.to_thread(
        sdk.pay, description="契税", out_trade_no=NUMBER, amount={"total": 1}
    )

    await sandbox.control("rotate", what="wechat_certificate", answers="new", notices="new")
    await sandbox.pay(json.loads(opened)["code_url"], wait_for_notice=True)
    notice = await asyncio.to_thread(sdk.callback, *desk.got[0])
    status, told = await asyncio.to_thread(sdk.query, out_trade_no=NUMBER)

    assert notice["resource"]["out_trade_no"] == NUMBER
    assert (status, json.loads(told)["trade_state"]) == (200, "SUCCESS")
    assert len(sdk._core._certificates) == 2


@pytest.fixture
def alipay_sdk(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch, beijing: None
) -> DefaultAlipayClient:
    account = sandbox.credentials["alipay"]
    # The SDK cannot take a port in its address: give it one by hand.
    address = urlsplit(account["gateway_url"])

    def connect(url: str, query: str, timeout: int) -> Any:
        connection = WebUtils.httplib.HTTPConnection(address.hostname, address.port, timeout)
        return f"{address.path}?{query}", connection

    monkeypatch.setattr(WebUtils, "get_http_connection", connect)
    config = AlipayClientConfig()
    config.server_url = account["gateway_url"]
    config.app_id = account["app_id"]
    config.app_private_key = account["app_private_key_pkcs1"]
    config.alipay_public_key = account["alipay_public_key"]
    return DefaultAlipayClient(config)


async def _ask(sdk: DefaultAlipayClient, request: Any, **biz: str) -> dict[str, Any]:
    request.biz_content = biz
    told: dict[str, Any] = json.loads(await asyncio.to_thread(sdk.execute, request))
    return told


async def test_alipay_sdk_python_opens_and_queries(
    sandbox: RunningSandbox, alipay_sdk: DefaultAlipayClient
) -> None:
    opened = await _ask(
        alipay_sdk,
        AlipayTradePrecreateRequest(),
        out_trade_no=NUMBER,
        total_amount="8175.24",
        subject="契税",
    )
    await sandbox.pay(opened["qr_code"])
    told = await _ask(alipay_sdk, AlipayTradeQueryRequest(), out_trade_no=NUMBER)

    assert (opened["code"], told["trade_status"]) == ("10000", "TRADE_SUCCESS")


async def test_alipay_sdk_python_creates_refunds_and_asks_for_the_refund(
    sandbox: RunningSandbox, alipay_sdk: DefaultAlipayClient
) -> None:
    created = await _ask(
        alipay_sdk,
        AlipayTradeCreateRequest(),
        out_trade_no=NUMBER,
        total_amount="8175.24",
        subject="契税",
        product_code="JSAPI_PAY",
        op_app_id="2021000000000112",
        buyer_id="2088000000100001",
    )
    await sandbox.pay(created["trade_no"])
    refunded = await _ask(
        alipay_sdk,
        AlipayTradeRefundRequest(),
        out_trade_no=NUMBER,
        refund_amount="100.00",
        out_request_no="R1",
    )
    told = await _ask(
        alipay_sdk,
        AlipayTradeFastpayRefundQueryRequest(),
        out_trade_no=NUMBER,
        out_request_no="R1",
    )

    assert (refunded["fund_change"], refunded["refund_fee"]) == ("Y", "100.00")
    assert told["refund_status"] == "REFUND_SUCCESS"


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_alipay_sdk_python_s_page_form_opens_the_cashier(
    sandbox: RunningSandbox, alipay_sdk: DefaultAlipayClient, verb: str
) -> None:
    request = AlipayTradePagePayRequest()
    request.biz_content = {
        "out_trade_no": NUMBER,
        "total_amount": "8175.24",
        "subject": "契税",
        "product_code": "FAST_INSTANT_TRADE_PAY",
    }

    made = alipay_sdk.page_execute(request, http_method=verb)
    if verb == "GET":
        cashier = await sandbox.http.get(URL(made, encoded=True))
    else:
        action = unescape(re.findall(r'action="([^"]+)"', made)[0])
        fields = re.findall(r'name="([^"]+)" value="([^"]*)"', made)
        cashier = await sandbox.http.post(
            URL(action, encoded=True), data={name: unescape(value) for name, value in fields}
        )

    assert cashier.status == 200
    assert "8,175.24" in await cashier.text()
