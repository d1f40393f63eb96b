"""Third-party SDKs, given only the credentials, can talk to the sandbox."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
from alipay.aop.api.request.AlipayTradePrecreateRequest import AlipayTradePrecreateRequest
from alipay.aop.api.request.AlipayTradeQueryRequest import AlipayTradeQueryRequest
from alipay.aop.api.util import WebUtils
from wechatpayv3 import WeChatPay, WeChatPayType

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


def _wechat_sdk(sandbox: RunningSandbox, notify_url: str) -> Any:
    account = sandbox.credentials["wechat_pay"]
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
    sdk = _wechat_sdk(sandbox, "http://127.0.0.1:9/nobody")
    sdk._core._public_key = sdk._core._public_key_id = None
    await asyncio.to_thread(sdk._core._init_certificates)

    status, _ = await asyncio.to_thread(
        sdk.pay, description="契税", out_trade_no=NUMBER, amount={"total": 1}
    )

    assert status == 200


@pytest.mark.usefixtures("beijing")
async def test_alipay_sdk_python_opens_and_queries(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    sdk = DefaultAlipayClient(config)
    precreate, query = AlipayTradePrecreateRequest(), AlipayTradeQueryRequest()
    precreate.biz_content = {"out_trade_no": NUMBER, "total_amount": "8175.24", "subject": "契税"}
    query.biz_content = {"out_trade_no": NUMBER}

    opened = json.loads(await asyncio.to_thread(sdk.execute, precreate))
    await sandbox.pay(opened["qr_code"])
    told = json.loads(await asyncio.to_thread(sdk.execute, query))

    assert (opened["code"], told["trade_status"]) == ("10000", "TRADE_SUCCESS")
