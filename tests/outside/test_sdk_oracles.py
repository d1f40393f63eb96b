"""Other people's SDKs as judges: what they sign we accept, what we sign they accept.

wechatpayv3 and alipay-sdk-python share no line with us. Their clients also run against our
sandbox; neither can name its port, so they are bent to it as told below.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
from alipay.aop.api.domain.AlipayTradeFastpayRefundQueryModel import (
    AlipayTradeFastpayRefundQueryModel,
)
from alipay.aop.api.domain.AlipayTradePrecreateModel import AlipayTradePrecreateModel
from alipay.aop.api.domain.AlipayTradeQueryModel import AlipayTradeQueryModel
from alipay.aop.api.domain.AlipayTradeRefundModel import AlipayTradeRefundModel
from alipay.aop.api.request.AlipayTradeFastpayRefundQueryRequest import (
    AlipayTradeFastpayRefundQueryRequest,
)
from alipay.aop.api.request.AlipayTradePrecreateRequest import AlipayTradePrecreateRequest
from alipay.aop.api.request.AlipayTradeQueryRequest import AlipayTradeQueryRequest
from alipay.aop.api.request.AlipayTradeRefundRequest import AlipayTradeRefundRequest
from alipay.aop.api.util import SignatureUtils, WebUtils
from cryptography.hazmat.primitives import serialization
from wechatpayv3 import utils as wechat_utils
from wechatpayv3.async_ import AsyncWeChatPay
from wechatpayv3.async_.type import WeChatPayType

from estation.outside.pay_channels import (
    Channel,
    ChannelState,
    PaymentRequest,
    RefundRequest,
    RefundStatus,
    Scene,
)
from estation.outside.pay_channels.alipay import Alipay
from estation.outside.pay_channels.alipay.signing import sign_text
from estation.outside.pay_channels.believing import sign
from estation.outside.pay_channels.payers import open_payers
from tests.outside.alipay_certificates import certificate_channel
from tests.outside.city_channels import City, running_city
from tests.outside.counterparts import (
    API_V3_KEY,
    APPID,
    MCHID,
    NOW,
    PUBLIC_KEY_ID,
    VAULT,
    WechatNotice,
    alipay_channel,
    alipay_form,
    alipay_notice,
    key,
    private_pem,
    public_pem,
    sealed,
    transaction,
    wechat_pay_channel,
)
from tests.outside.listening import Heard, calling, listening


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    async with running_city(tmp_path) as running:
        yield running


def wechat_sdk(**changes: Any) -> AsyncWeChatPay:
    settings: dict[str, Any] = {
        "wechatpay_type": WeChatPayType.NATIVE,
        "mchid": MCHID,
        "private_key": private_pem("merchant").decode(),
        "cert_serial_no": "4A0DE7F2C61B5D839E07A4C2F1B86D350E9C7A24",
        "appid": APPID,
        "apiv3_key": API_V3_KEY.decode(),
        "notify_url": "http://127.0.0.1:9/n",
        "public_key": public_pem("platform").decode(),
        "public_key_id": PUBLIC_KEY_ID,
        **changes,
    }
    return AsyncWeChatPay(**settings)


# What we sign, they accept


def test_wechatpayv3_makes_the_signature_we_make() -> None:
    message = "POST\n/v3/pay/transactions/native\n1772330400\nnonce\n{}\n"

    theirs = wechat_utils.rsa_sign(key("merchant"), message)

    assert sign(key("merchant"), message.encode()) == theirs


async def test_wechatpayv3_reads_our_pay_sign() -> None:
    async with listening() as there, calling() as session:

        def prepay(_: Heard) -> web.Response:
            body = b'{"prepay_id":"wx201410272009395522657a690389285100"}'
            return web.Response(body=body, headers=WechatNotice().headers(body))

        there.say(prepay)
        request = PaymentRequest(
            "20260301ABC", 1, "x", NOW, "http://127.0.0.1:9/n", payer_openid="o"
        )
        ticket = await wechat_pay_channel(session, there.base_url).open_payment(
            Scene.JSAPI, request
        )

    said = ticket.jsapi_parameters
    assert said is not None
    lines = [said["appId"], said["timeStamp"], said["nonceStr"], said["package"]]
    assert wechat_sdk().sign(lines) == said["paySign"]


def test_wechatpayv3_reads_the_notice_that_we_read() -> None:
    headers, body = WechatNotice().sent()

    theirs = wechat_sdk().callback(headers=headers, body=body)
    ours = wechat_pay_channel().open_notice(headers, body, now=NOW)

    assert theirs["resource"] == open_payers(VAULT, ours.plaintext) == transaction()


def test_wechatpayv3_decrypts_what_we_decrypt() -> None:
    resource = sealed("契税".encode())

    theirs = wechat_utils.aes_decrypt(
        resource["nonce"],
        resource["ciphertext"],
        resource["associated_data"],
        API_V3_KEY.decode(),
    )

    assert theirs == "契税"


@pytest.mark.parametrize("alter", ["body", "signature", "serial"])
def test_wechatpayv3_refuses_what_we_refuse(alter: str) -> None:
    headers, body = WechatNotice(
        signer="stranger" if alter == "signature" else "platform",
        serial="ABCDEF12" if alter == "serial" else PUBLIC_KEY_ID,
    ).sent()

    assert not wechat_sdk().callback(headers, body + b" " if alter == "body" else body)


def test_alipays_sdk_makes_the_text_and_signature_we_make() -> None:
    parameters = {
        "app_id": "2021000000000109",
        "method": "alipay.trade.query",
        "sign_type": "RSA2",
        "charset": "utf-8",
        "biz_content": '{"subject":"契税+登记费 100%"}',
    }
    pkcs1 = key("merchant").private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )

    theirs = SignatureUtils.get_sign_content(parameters)

    assert sign_text(parameters).decode() == theirs
    assert sign(key("merchant"), theirs.encode()) == SignatureUtils.sign_with_rsa2(
        pkcs1.decode(), theirs, "utf-8"
    )


def test_alipays_sdk_verifies_the_notice_that_we_believe() -> None:
    fields = alipay_notice()
    headers, body = alipay_form(fields)
    signature = dict(pair.split("=", 1) for pair in body.decode().split("&"))["sign"]

    notice = alipay_channel().open_notice(headers, body, now=NOW)
    # Its own helper would keep sign and sign_type, and has no notice check: given the text.
    text = SignatureUtils.get_sign_content({k: v for k, v in fields.items() if v})

    assert notice.report is not None
    assert SignatureUtils.verify_with_rsa(
        public_pem("alipay").decode(), text.encode(), WebUtils.urlparse.unquote(signature)
    )


@pytest.mark.parametrize("scene", [Scene.PAGE, Scene.WAP])
@pytest.mark.parametrize("channel", [alipay_channel, certificate_channel])
async def test_alipays_sdk_verifies_the_address_that_we_sign(
    scene: Scene, channel: Callable[[], Alipay]
) -> None:
    request = PaymentRequest(
        "20260301ABC",
        817524,
        "契税+登记费 100%",
        NOW,
        "http://127.0.0.1:9/n",
        "http://127.0.0.1:9/r",
    )

    ticket = await channel().open_payment(scene, request)

    parameters = dict(parse_qsl(urlsplit(str(ticket.redirect_url)).query, strict_parsing=True))
    signature = parameters.pop("sign")
    text = SignatureUtils.get_sign_content(parameters)
    assert SignatureUtils.verify_with_rsa(public_pem("merchant").decode(), text.encode(), signature)


# Their clients against our sandbox


async def test_wechatpayv3_and_we_are_one_merchant_at_the_sandbox(city: City) -> None:
    account = city.sandbox.credentials["wechat_pay"]
    sdk = wechat_sdk(
        private_key=account["merchant_private_key"],
        apiv3_key=account["api_v3_key"],
        notify_url=f"{city.there.base_url}/notices/wechat_pay",
        public_key=account["public_key"],
        public_key_id=account["public_key_id"],
    )
    sdk._core._gate_way = account["base_url"]  # It has no public setting for its address.
    async with sdk:
        status, text = await sdk.pay(
            description="契税", out_trade_no="SDK20260301A", amount={"total": 817524}
        )
        assert status == 200, text
        await city.sandbox.pay(json.loads(text)["code_url"], "lin")
        _, theirs = await sdk.query(out_trade_no="SDK20260301A")
        ours = await city.channels[Channel.WECHAT_PAY].query("SDK20260301A")
        (notice, *_) = await city.news(at_least=1)

    assert open_payers(VAULT, ours.raw) == json.loads(theirs)
    assert ours.state is ChannelState.PAID
    assert notice.report is not None
    assert notice.report.paid_fen == 817524


async def test_wechatpayv3_sees_and_closes_what_we_opened(city: City) -> None:
    account = city.sandbox.credentials["wechat_pay"]
    sdk = wechat_sdk(
        private_key=account["merchant_private_key"],
        apiv3_key=account["api_v3_key"],
        public_key=account["public_key"],
        public_key_id=account["public_key_id"],
    )
    sdk._core._gate_way = account["base_url"]
    number, _ = await city.open(Channel.WECHAT_PAY, Scene.NATIVE)
    async with sdk:
        _, text = await sdk.query(out_trade_no=number)
        status, _ = await sdk.close(out_trade_no=number)

    assert json.loads(text)["trade_state"] == "NOTPAY"
    assert status == 204
    report = await city.channels[Channel.WECHAT_PAY].query(number)
    assert report.state is ChannelState.CLOSED


async def test_wechatpayv3_reads_the_sandboxes_notice_as_we_do(city: City) -> None:
    account = city.sandbox.credentials["wechat_pay"]
    sdk = wechat_sdk(
        apiv3_key=account["api_v3_key"],
        public_key=account["public_key"],
        public_key_id=account["public_key_id"],
    )
    _, code = await city.open(Channel.WECHAT_PAY, Scene.NATIVE)

    await city.sandbox.pay(code, "lin")
    (notice, *_) = await city.news(at_least=1)
    (heard, *_) = city.there.heard

    theirs = sdk.callback(headers=heard.headers, body=heard.body)
    assert theirs["resource"] == open_payers(VAULT, notice.plaintext)


@pytest.fixture
def alipay_sdk(city: City, monkeypatch: pytest.MonkeyPatch) -> Iterator[DefaultAlipayClient]:
    """The SDK in Beijing, since it stamps requests with local time, and on the sandbox's port."""
    account = city.sandbox.credentials["alipay"]

    def connection(url: str, query: str, timeout: float) -> tuple[str, Any]:
        # The SDK adds the port as a number to a text and connects to 80 or 443 only.
        parts = WebUtils.urlparse.urlparse(url)
        return f"{url}?{query}", WebUtils.httplib.HTTPConnection(
            parts.hostname, parts.port, timeout=timeout
        )

    monkeypatch.setattr(WebUtils, "get_http_connection", connection)
    config = AlipayClientConfig()
    config.server_url = account["gateway_url"]
    config.app_id = account["app_id"]
    config.app_private_key = account["app_private_key_pkcs1"]
    config.alipay_public_key = account["alipay_public_key"]
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield DefaultAlipayClient(config)
    time.tzset()


async def test_alipays_sdk_and_we_are_one_merchant_at_the_sandbox(
    city: City, alipay_sdk: DefaultAlipayClient
) -> None:
    model = AlipayTradePrecreateModel()
    model.out_trade_no = "SDK20260301B"
    model.total_amount = "8175.24"
    model.subject = "契税"
    opening = AlipayTradePrecreateRequest(biz_model=model)
    opening.notify_url = f"{city.there.base_url}/notices/alipay"
    asked = AlipayTradeQueryModel()
    asked.out_trade_no = "SDK20260301B"

    opened = json.loads(await asyncio.to_thread(alipay_sdk.execute, opening))
    await city.sandbox.pay(opened["qr_code"], "lin")
    told = await asyncio.to_thread(alipay_sdk.execute, AlipayTradeQueryRequest(biz_model=asked))
    ours = await city.channels[Channel.ALIPAY].query("SDK20260301B")
    (notice, *_) = await city.news(at_least=1)

    assert json.loads(told) == open_payers(VAULT, ours.raw)
    assert ours.state is ChannelState.PAID
    assert notice.report is not None
    assert notice.report.paid_fen == 817524


async def test_what_alipays_sdk_refunds_we_find_and_what_we_refund_it_finds(
    city: City, alipay_sdk: DefaultAlipayClient
) -> None:
    ours = city.channels[Channel.ALIPAY]
    number, code = await city.open(Channel.ALIPAY, Scene.WAP)
    await city.sandbox.pay(code, "lin")
    theirs = AlipayTradeRefundModel()
    theirs.out_trade_no, theirs.out_request_no = number, "SDKRF1"
    theirs.refund_amount = "30.00"
    asked = AlipayTradeFastpayRefundQueryModel()
    asked.out_trade_no, asked.out_request_no = number, "OURRF2"

    await asyncio.to_thread(alipay_sdk.execute, AlipayTradeRefundRequest(biz_model=theirs))
    found = await ours.query_refund("SDKRF1", out_trade_no=number)
    trade_no = str((await ours.query(number)).channel_trade_no)
    given = await ours.refund(
        RefundRequest("OURRF2", number, trade_no, 5000, 817524, "退登记费", "http://127.0.0.1:9/n")
    )
    told = await asyncio.to_thread(
        alipay_sdk.execute, AlipayTradeFastpayRefundQueryRequest(biz_model=asked)
    )

    assert (found.status, found.amount_fen) == (RefundStatus.SUCCESS, 3000)
    assert (given.status, given.amount_fen) == (RefundStatus.SUCCESS, 5000)
    assert given.raw["refund_fee"] == "80.00"
    assert json.loads(told)["refund_status"] == "REFUND_SUCCESS"
    assert json.loads(told)["refund_amount"] == "50.00"


async def test_alipays_sdk_sees_what_we_opened(city: City, alipay_sdk: DefaultAlipayClient) -> None:
    number, code = await city.open(Channel.ALIPAY, Scene.WAP)
    await city.sandbox.pay(code, "lin")
    asked = AlipayTradeQueryModel()
    asked.out_trade_no = number

    told = await asyncio.to_thread(alipay_sdk.execute, AlipayTradeQueryRequest(biz_model=asked))

    assert json.loads(told)["trade_status"] == "TRADE_SUCCESS"
    assert json.loads(told)["total_amount"] == "8175.24"
