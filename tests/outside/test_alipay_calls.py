"""What we ask Alipay's gateway, how we sign it, and which answers we believe."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web

from estation.outside.pay_channels import (
    BillNotReady,
    ChannelRefused,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    NoBill,
    PaymentRequest,
    PayTicket,
    Scene,
)
from estation.outside.pay_channels.alipay import Alipay
from estation.outside.pay_channels.alipay.signing import top_level
from estation.outside.pay_channels.believing import Disbelief
from estation.shared.clock import BEIJING
from tests.outside.counterparts import (
    APP_ID,
    NOW,
    SELLER_ID,
    alipay_answer,
    alipay_channel,
    signed,
    verify,
)
from tests.outside.listening import Heard, Listener, Reply, calling, listening

NUMBER = "20260301ABCDEFGHJKMNPQRS"
REQUEST = PaymentRequest(
    out_trade_no=NUMBER,
    amount_fen=817524,
    description="契税/登记费=1&2 江城区,一号",
    expires_at=NOW + timedelta(minutes=15),
    notify_url="https://e.example.cn/notices/alipay/2021000000000109",
    return_url="https://e.example.cn/pay/return/alipay?a=1&b=契税",
)
PAYERS_REQUEST = replace(REQUEST, payer_openid="074a1CcTG1LelxKe4xQC0zgNdId0nxi95b5lsNpazWYoCo5")
TRADE_NO = "2026030122001400010500000001"
PRECREATE = "alipay.trade.precreate"
CREATE = "alipay.trade.create"
QUERY = "alipay.trade.query"
CLOSE = "alipay.trade.close"
BILL = "alipay.data.dataservice.bill.downloadurl.query"
OK = {"code": "10000", "msg": "Success"}


@dataclass
class Desk:
    channel: Alipay
    there: Listener

    def say(self, *replies: Reply) -> None:
        self.there.say(*replies)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with listening() as there, calling() as session:
        yield Desk(alipay_channel(session, f"{there.base_url}/gateway.do"), there)


def right(method: str, node: dict[str, Any], **how: str) -> web.Response:
    return web.Response(body=alipay_answer(method, node, **how))


def refused(method: str, sub_code: str, code: str = "40004") -> web.Response:
    node = {"code": code, "msg": "Business Failed", "sub_code": sub_code, "sub_msg": "…"}
    return right(method, node)


def check_request(heard: Heard, method: str) -> dict[str, Any]:
    """Verifies the signature over all parameters; returns biz_content."""
    query = dict(parse_qsl(urlsplit(heard.target).query, strict_parsing=True))
    return check_parameters({**query, **dict(parse_qsl(heard.body.decode()))}, method)


def check_parameters(parameters: dict[str, str], method: str) -> dict[str, Any]:
    message = "&".join(f"{k}={v}" for k, v in sorted(parameters.items()) if k != "sign")
    verify("merchant", message.encode(), parameters["sign"])
    assert parameters["app_id"] == APP_ID
    assert parameters["method"] == method
    assert parameters["sign_type"] == "RSA2"
    assert parameters["charset"] == "utf-8"
    assert parameters["timestamp"] == "2026-03-01 10:00:00"
    business: dict[str, Any] = json.loads(parameters["biz_content"])
    return business


async def test_precreate_is_signed_with_common_parameters_in_the_query(desk: Desk) -> None:
    node = {
        **OK,
        "out_trade_no": NUMBER,
        "qr_code": "https://qr.alipay.com/bax03431ljhokirwl38f00a7",
    }
    desk.say(right(PRECREATE, node))

    ticket = await desk.channel.open_payment(Scene.PRECREATE, REQUEST)

    assert ticket.qr_content == node["qr_code"]
    (heard,) = desk.there.heard
    query = dict(parse_qsl(urlsplit(heard.target).query))
    assert query["charset"] == "utf-8"
    assert query["notify_url"] == REQUEST.notify_url
    assert [name for name, _ in parse_qsl(heard.body.decode())] == ["biz_content"]
    assert heard.headers["content-type"] == "application/x-www-form-urlencoded;charset=utf-8"
    assert check_request(heard, PRECREATE) == {
        "out_trade_no": NUMBER,
        "total_amount": "8175.24",
        "subject": "契税登记费12 江城区一号",
        "product_code": "FACE_TO_FACE_PAYMENT",
        "seller_id": SELLER_ID,
        "time_expire": "2026-03-01 10:15:00",
    }


async def test_wap_is_a_signed_address_and_asks_nobody(desk: Desk) -> None:
    ticket = await desk.channel.open_payment(Scene.WAP, REQUEST)

    assert ticket.redirect_url is not None
    assert ticket.redirect_url.startswith(f"{desk.there.base_url}/gateway.do?")
    parameters = dict(parse_qsl(urlsplit(ticket.redirect_url).query, strict_parsing=True))
    business = check_parameters(parameters, "alipay.trade.wap.pay")
    assert business["product_code"] == "QUICK_WAP_WAY"
    assert business["quit_url"] == parameters["return_url"] == REQUEST.return_url
    assert parameters["notify_url"] == REQUEST.notify_url
    assert desk.there.heard == []


async def test_the_desktop_page_is_a_signed_address_too(desk: Desk) -> None:
    ticket = await desk.channel.open_payment(Scene.PAGE, REQUEST)

    assert (ticket.qr_content, ticket.jsapi_parameters, ticket.trade_no) == (None, None, None)
    assert ticket.redirect_url is not None
    assert ticket.redirect_url.startswith(f"{desk.there.base_url}/gateway.do?")
    parameters = dict(parse_qsl(urlsplit(ticket.redirect_url).query, strict_parsing=True))
    business = check_parameters(parameters, "alipay.trade.page.pay")
    assert business["product_code"] == "FAST_INSTANT_TRADE_PAY"
    assert (business["out_trade_no"], business["total_amount"]) == (NUMBER, "8175.24")
    assert business["time_expire"] == "2026-03-01 10:15:00"
    assert "quit_url" not in business
    assert parameters["return_url"] == REQUEST.return_url
    assert parameters["notify_url"] == REQUEST.notify_url
    assert desk.there.heard == []


async def test_inside_alipay_a_trade_is_made_for_its_payer(desk: Desk) -> None:
    desk.say(right(CREATE, {**OK, "out_trade_no": NUMBER, "trade_no": TRADE_NO}))

    ticket = await desk.channel.open_payment(Scene.TRADE_CREATE, PAYERS_REQUEST)

    assert ticket == PayTicket(trade_no=TRADE_NO)
    (heard,) = desk.there.heard
    assert dict(parse_qsl(urlsplit(heard.target).query))["notify_url"] == REQUEST.notify_url
    business = check_request(heard, CREATE)
    assert business["product_code"] == "JSAPI_PAY"
    assert business["op_app_id"] == APP_ID
    assert business["buyer_open_id"] == "074a1CcTG1LelxKe4xQC0zgNdId0nxi95b5lsNpazWYoCo5"
    assert (business["out_trade_no"], business["total_amount"]) == (NUMBER, "8175.24")


async def test_a_trade_inside_alipay_needs_its_payer(desk: Desk) -> None:
    with pytest.raises(ValueError, match="open id"):
        await desk.channel.open_payment(Scene.TRADE_CREATE, REQUEST)

    assert desk.there.heard == []


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda: refused(CREATE, "ACQ.INVALID_PARAMETER"), ChannelRefused),
        (lambda: refused(CREATE, "ACQ.BUYER_SELLER_EQUAL"), ChannelRefused),
        (lambda: refused(CREATE, "ACQ.TRADE_HAS_SUCCESS"), ChannelUnknown),
        (lambda: refused(CREATE, "ACQ.SYSTEM_ERROR"), ChannelUnknown),
        (lambda: right(CREATE, {**OK, "out_trade_no": NUMBER}), ChannelUnknown),
        (
            lambda: right(CREATE, {**OK, "out_trade_no": "OTHER", "trade_no": TRADE_NO}),
            ChannelUnknown,
        ),
    ],
)
async def test_a_trade_not_surely_made_gives_no_ticket(
    desk: Desk, reply: Callable[[], web.Response], expected: type[Exception]
) -> None:
    desk.say(reply())

    with pytest.raises(expected):
        await desk.channel.open_payment(Scene.TRADE_CREATE, PAYERS_REQUEST)


async def test_an_absent_return_url_is_absent_not_empty(desk: Desk) -> None:
    request = PaymentRequest(NUMBER, 1, "登记费", NOW, "https://e.example.cn/n")

    ticket = await desk.channel.open_payment(Scene.WAP, request)

    assert "return_url" not in str(ticket.redirect_url)


async def test_other_channels_scenes_are_programming_errors(desk: Desk) -> None:
    with pytest.raises(ValueError, match="scene"):
        await desk.channel.open_payment(Scene.NATIVE, REQUEST)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refused(PRECREATE, "ACQ.INVALID_PARAMETER"), ChannelRefused),
        (refused(PRECREATE, "ACQ.TRADE_HAS_CLOSE"), ChannelRefused),
        (refused(PRECREATE, "ACQ.TOTAL_FEE_EXCEED"), ChannelRefused),
        (refused(PRECREATE, "isv.invalid-signature", "40002"), ChannelRefused),
        (refused(PRECREATE, "ACQ.SYSTEM_ERROR"), ChannelUnknown),
        (refused(PRECREATE, "AQC.SYSTEM_ERROR"), ChannelUnknown),
        (refused(PRECREATE, "ACQ.TRADE_HAS_SUCCESS"), ChannelUnknown),
        (refused(PRECREATE, "ACQ.CONTEXT_INCONSISTENT"), ChannelUnknown),
        (refused(PRECREATE, "isp.unknow-error", "20000"), ChannelUnknown),
        (refused(PRECREATE, "aop.unknow-error", "20000"), ChannelUnknown),
        (refused(PRECREATE, "", "10003"), ChannelUnknown),
    ],
)
async def test_only_a_certain_no_is_a_refusal(
    desk: Desk, reply: web.Response, expected: type[Exception]
) -> None:
    desk.say(reply)

    with pytest.raises(expected):
        await desk.channel.open_payment(Scene.PRECREATE, REQUEST)


def unsigned(text: str, encoding: str = "utf-8") -> web.Response:
    return web.Response(body=text.encode(encoding))


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (
            unsigned(
                '{"error_response":{"code":"40002","sub_code":"isv.invalid-signature",'
                '"sub_msg":"验签出错"}}'
            ),
            "isv.invalid-signature",
        ),
        (
            unsigned('{"error_response":{"code":"20000","sub_msg":"系统繁忙"}}', "gbk"),
            "20000",
        ),
        (
            unsigned(
                '{"alipay_trade_query_response":{"code":"10000","trade_status":"TRADE_SUCCESS"}}'
            ),
            "10000",
        ),
        (unsigned('{"alipay_trade_query_response":{"code":"10000"},"sign":""}'), "10000"),
        (unsigned("<html>"), "UNREADABLE"),
        (unsigned(""), "UNREADABLE"),
        (unsigned("[]"), "UNREADABLE"),
        (unsigned('{"error_response":"x"}'), "UNREADABLE"),
        (web.Response(status=500, body=b"{}"), "HTTP_500"),
        (web.Response(status=302, headers={"Location": "/x"}), "HTTP_302"),
        (right(QUERY, OK, signer="stranger"), "UNVERIFIED"),
        (right(CLOSE, OK), "UNSIGNED"),
    ],
)
async def test_an_unsigned_answer_is_never_business_truth(
    desk: Desk, reply: web.Response, code: str
) -> None:
    desk.say(reply)

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.query(NUMBER)

    assert raised.value.code == code
    assert len(desk.there.heard) == 1


def trade(**changes: str) -> dict[str, Any]:
    return {
        **OK,
        "out_trade_no": NUMBER,
        "trade_no": "2026030122001400010500000001",
        "trade_status": "TRADE_SUCCESS",
        "total_amount": "8175.24",
        "send_pay_date": "2026-03-01 09:59:58",
        "buyer_logon_id": 'a}b"{,\\\\c***@example.com',
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ChannelState.PAID),
        ({"trade_status": "TRADE_FINISHED"}, ChannelState.PAID),
        ({"trade_status": "WAIT_BUYER_PAY", "send_pay_date": ""}, ChannelState.NOT_PAID),
        ({"trade_status": "TRADE_CLOSED", "send_pay_date": ""}, ChannelState.CLOSED),
        ({"trade_status": "TRADE_CLOSED"}, ChannelState.PAID),
    ],
)
async def test_query_tells_the_state(
    desk: Desk, changes: dict[str, str], expected: ChannelState
) -> None:
    desk.say(right(QUERY, trade(**changes)))

    report = await desk.channel.query(NUMBER)

    assert report.state is expected
    assert check_request(desk.there.heard[0], QUERY) == {"out_trade_no": NUMBER}
    if expected is ChannelState.PAID:
        assert report.paid_fen == 817524
        assert report.paid_at == datetime(2026, 3, 1, 9, 59, 58, tzinfo=BEIJING)


async def test_a_code_nobody_scanned_is_not_found(desk: Desk) -> None:
    desk.say(refused(QUERY, "ACQ.TRADE_NOT_EXIST"), refused(CLOSE, "ACQ.TRADE_NOT_EXIST"))

    assert (await desk.channel.query(NUMBER)).state is ChannelState.NOT_FOUND
    assert await desk.channel.close(NUMBER) is CloseOutcome.NOT_FOUND


@pytest.mark.parametrize(
    "changes",
    [
        {"out_trade_no": "OTHER"},
        {"total_amount": "1e3"},
        {"total_amount": "0.00"},
        {"trade_status": "TRADE_PENDING"},
        {"trade_no": ""},
        {"send_pay_date": "yesterday"},
    ],
)
async def test_a_signed_answer_about_something_else_is_unknown(
    desk: Desk, changes: dict[str, str]
) -> None:
    desk.say(right(QUERY, trade(**changes)))

    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)


async def test_close_closes(desk: Desk) -> None:
    desk.say(right(CLOSE, {**OK, "out_trade_no": NUMBER}))

    assert await desk.channel.close(NUMBER) is CloseOutcome.CLOSED


@pytest.mark.parametrize("code", ["ACQ.TRADE_STATUS_ERROR", "ACQ.REASON_TRADE_STATUS_INVALID"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, CloseOutcome.ALREADY_PAID),
        ({"trade_status": "TRADE_CLOSED", "send_pay_date": ""}, CloseOutcome.CLOSED),
        ({"trade_status": "WAIT_BUYER_PAY", "send_pay_date": ""}, CloseOutcome.TRY_LATER),
    ],
)
async def test_why_a_trade_cannot_be_closed_is_asked(
    desk: Desk, code: str, changes: dict[str, str], expected: CloseOutcome
) -> None:
    desk.say(refused(CLOSE, code), right(QUERY, trade(**changes)))

    assert await desk.channel.close(NUMBER) is expected


async def test_trouble_while_closing_is_unknown(desk: Desk) -> None:
    desk.say(refused(CLOSE, "ACQ.SYSTEM_ERROR"))

    with pytest.raises(ChannelUnknown):
        await desk.channel.close(NUMBER)


async def test_slashes_escaped_after_signing_are_read_as_they_were_signed(desk: Desk) -> None:
    node = json.dumps({**trade(), "note": "a/b"}, separators=(",", ":"))
    escaped = node.replace("/", "\\/")
    body = f'{{"alipay_trade_query_response":{escaped},"sign":"{signed("alipay", node.encode())}"}}'
    desk.say(unsigned(body))

    assert (await desk.channel.query(NUMBER)).raw["note"] == "a/b"


async def test_slashes_escaped_before_signing_are_verified_as_received(desk: Desk) -> None:
    node = json.dumps({**trade(), "note": "a/b"}, separators=(",", ":")).replace("/", "\\/")
    signature = signed("alipay", node.encode()).replace("/", "\\/")
    desk.say(unsigned(f'{{"alipay_trade_query_response":{node},"sign":"{signature}"}}'))

    assert (await desk.channel.query(NUMBER)).raw["note"] == "a/b"


def test_braces_in_strings_do_not_end_the_answer() -> None:
    body = rb' { "a_response" : {"x":"}\"{","y":[1,{"z":"\\"}]} , "sign":"QUJD" } '

    assert top_level(body) == {
        "a_response": rb'{"x":"}\"{","y":[1,{"z":"\\"}]}',
        "sign": b'"QUJD"',
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x{}",
        b"{",
        b"{}",
        b'{"a":1',
        b'{"a":"x}',
        b'{"a":{}]}',
        b'{"a":1,"a":2}',
        b'{"a":1} x',
        b'{"a":' + b"[" * 100,
        b'{1:"a"}',
    ],
)
def test_what_is_no_object_is_malformed(body: bytes) -> None:
    with pytest.raises(Disbelief) as raised:
        top_level(body)

    assert raised.value.reason == "malformed"


async def test_a_bill_is_fetched_at_once_from_an_allowed_host(desk: Desk) -> None:
    url = f"{desk.there.base_url}/downloadBillFile.resource?bizType=trade&sign=a%2Bb"
    desk.say(right(BILL, {**OK, "bill_download_url": url}), web.Response(body=b"PK"))

    assert await desk.channel.download_bill(date(2026, 2, 28)) == b"PK"
    assert check_request(desk.there.heard[0], BILL) == {
        "bill_type": "trade",
        "bill_date": "2026-02-28",
    }
    assert desk.there.heard[1].target.endswith("?bizType=trade&sign=a%2Bb")


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1/x",
        "http://127.0.0.1@192.0.2.1/x",
        "http://evil@127.0.0.1/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "//127.0.0.1/x",
        "http://[::1/x",
    ],
)
async def test_a_bill_on_a_foreign_host_is_not_fetched(desk: Desk, url: str) -> None:
    desk.say(right(BILL, {**OK, "bill_download_url": url}))

    with pytest.raises(ChannelUnknown):
        await desk.channel.download_bill(date(2026, 2, 28))

    assert len(desk.there.heard) == 1


@pytest.mark.parametrize("status", [302, 403, 500])
async def test_a_bill_address_that_ran_out_is_unknown(desk: Desk, status: int) -> None:
    url = f"{desk.there.base_url}/downloadBillFile.resource"
    desk.say(right(BILL, {**OK, "bill_download_url": url}), web.Response(status=status))

    with pytest.raises(ChannelUnknown):
        await desk.channel.download_bill(date(2026, 2, 28))


@pytest.mark.parametrize("sub_code", ["isp.bill_not_exist", "isp.bill-not-exist", "BILL_NOT_EXIST"])
async def test_before_ten_no_bill_means_not_made_yet(sub_code: str) -> None:
    async with listening() as there, calling() as session:
        there.say(refused(BILL, sub_code))
        url = f"{there.base_url}/gateway.do"
        early = alipay_channel(session, url, now=NOW - timedelta(seconds=1))
        late = alipay_channel(session, url, now=NOW)

        with pytest.raises(BillNotReady):
            await early.download_bill(date(2026, 2, 28))
        with pytest.raises(NoBill):
            await late.download_bill(date(2026, 2, 28))


async def test_other_trouble_with_a_bill_is_unknown(desk: Desk) -> None:
    desk.say(refused(BILL, "isp.unknow-error", "20000"))

    with pytest.raises(ChannelUnknown):
        await desk.channel.download_bill(date(2026, 2, 28))
