"""What we ask WeChat Pay, how we sign it, and which answers we believe."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from aiohttp import web

from estation.outside.pay_channels import (
    BillNotReady,
    ChannelRefused,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    NoBill,
    NoticeRejected,
    PaymentPart,
    PaymentRequest,
    Scene,
)
from estation.outside.pay_channels.calling import CALL, Limits, exchange
from tests.outside.certificates import certificate_answer, serial_of
from tests.outside.counterparts import (
    APPID,
    MCHID,
    MINI_APPID,
    NOW,
    PUBLIC_KEY_ID,
    WechatNotice,
    transaction,
    verify,
    wechat_pay_channel,
)
from tests.outside.listening import Heard, calling, listening
from tests.outside.wechat_desk import Desk, check_authorization, right, wrong

NUMBER = "20260301ABCDEFGHJKMNPQRS"
REQUEST = PaymentRequest(
    out_trade_no=NUMBER,
    amount_fen=817524,
    description="契税、登记费`😀\n江城区一号",
    expires_at=NOW + timedelta(minutes=15),
    notify_url="https://e.example.cn/notices/wechat-pay/1900000109",
    payer_openid="oUpF8uMuAJO_M2pxb1Q9zNjWeS6o",
    payer_ip="203.0.113.7",
)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with listening() as there, calling() as session:
        yield Desk(wechat_pay_channel(session, f"{there.base_url}/wechat-pay"), there)


async def test_a_native_order_is_signed_exactly_as_sent(desk: Desk) -> None:
    desk.say(right({"code_url": "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"}))

    ticket = await desk.channel.open_payment(Scene.NATIVE, REQUEST)

    assert ticket.qr_content == "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"
    (heard,) = desk.heard
    check_authorization(heard)
    assert (heard.method, heard.target) == ("POST", "/wechat-pay/v3/pay/transactions/native")
    assert heard.headers["wechatpay-serial"] == PUBLIC_KEY_ID
    assert heard.headers["accept"] == "application/json"
    assert heard.headers["user-agent"].startswith("estation/")
    assert json.loads(heard.body) == {
        "appid": APPID,
        "mchid": MCHID,
        "description": "契税、登记费江城区一号",
        "out_trade_no": NUMBER,
        "time_expire": "2026-03-01T10:15:00+08:00",
        "notify_url": REQUEST.notify_url,
        "amount": {"total": 817524, "currency": "CNY"},
        "scene_info": {"payer_client_ip": "203.0.113.7"},
    }


async def test_jsapi_parameters_are_named_and_signed_as_the_bridge_wants(desk: Desk) -> None:
    desk.say(right({"prepay_id": "wx201410272009395522657a690389285100"}))

    ticket = await desk.channel.open_payment(Scene.JSAPI, REQUEST)

    parameters = ticket.jsapi_parameters
    assert parameters is not None
    assert set(parameters) == {"appId", "timeStamp", "nonceStr", "package", "signType", "paySign"}
    assert parameters["signType"] == "RSA"
    assert parameters["package"] == "prepay_id=wx201410272009395522657a690389285100"
    lines = [parameters[name] for name in ("appId", "timeStamp", "nonceStr", "package")]
    verify("merchant", "".join(f"{line}\n" for line in lines).encode(), parameters["paySign"])
    assert json.loads(desk.heard[0].body)["payer"] == {"openid": REQUEST.payer_openid}


async def test_a_mini_program_pays_under_its_own_appid(desk: Desk) -> None:
    desk.say(right({"prepay_id": "wx201410272009395522657a690389285100"}))

    ticket = await desk.channel.open_payment(Scene.MINI_PROGRAM, REQUEST)

    (heard,) = desk.heard
    assert heard.target == "/wechat-pay/v3/pay/transactions/jsapi"
    assert json.loads(heard.body)["appid"] == MINI_APPID
    assert json.loads(heard.body)["payer"] == {"openid": REQUEST.payer_openid}
    parameters = ticket.jsapi_parameters
    assert parameters is not None
    assert parameters["appId"] == MINI_APPID
    lines = [parameters[name] for name in ("appId", "timeStamp", "nonceStr", "package")]
    verify("merchant", "".join(f"{line}\n" for line in lines).encode(), parameters["paySign"])


async def test_a_mini_programs_payment_is_as_much_ours(desk: Desk) -> None:
    desk.say(right(transaction(appid=MINI_APPID)))

    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID
    headers, body = WechatNotice(transaction(appid=MINI_APPID)).sent()
    assert desk.channel.open_notice(headers, body, now=NOW).report is not None


async def test_an_account_without_a_mini_program_opens_and_believes_none(desk: Desk) -> None:
    async with calling() as session:
        channel = wechat_pay_channel(session, desk.there.base_url, mini_appid=None)
        with pytest.raises(ValueError, match="mini-program"):
            await channel.open_payment(Scene.MINI_PROGRAM, REQUEST)
    for appid in (MINI_APPID, None):
        headers, body = WechatNotice(transaction(appid=appid)).sent()
        with pytest.raises(NoticeRejected, match="wrong_addressee"):
            channel.open_notice(headers, body, now=NOW)
    assert desk.heard == []


H5_URL = "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb?prepay_id=wx2016&package=1037"


async def test_h5_sends_the_browser_there_and_back(desk: Desk) -> None:
    desk.say(right({"h5_url": H5_URL}))
    back = "https://e.example.cn/pay/return?order=1&x=2"

    ticket = await desk.channel.open_payment(Scene.H5, replace(REQUEST, return_url=back))

    assert ticket.redirect_url == (
        f"{H5_URL}&redirect_url=https%3A%2F%2Fe.example.cn%2Fpay%2Freturn%3Forder%3D1%26x%3D2"
    )
    (heard,) = desk.heard
    check_authorization(heard)
    assert heard.target == "/wechat-pay/v3/pay/transactions/h5"
    assert json.loads(heard.body)["scene_info"] == {
        "payer_client_ip": "203.0.113.7",
        "h5_info": {"type": "Wap"},
    }
    assert "payer" not in json.loads(heard.body)


async def test_h5_without_a_way_back_is_the_bare_address(desk: Desk) -> None:
    desk.say(right({"h5_url": H5_URL}))

    assert (await desk.channel.open_payment(Scene.H5, REQUEST)).redirect_url == H5_URL


@pytest.mark.parametrize("h5_url", ["javascript:alert(1)", "", None, "//wx.tenpay.com/"])
async def test_h5_sends_nobody_to_what_is_no_web_address(desk: Desk, h5_url: object) -> None:
    desk.say(right({"h5_url": h5_url}))

    with pytest.raises(ChannelUnknown):
        await desk.channel.open_payment(Scene.H5, REQUEST)


@pytest.mark.parametrize(
    ("scene", "lacking"),
    [
        (Scene.H5, {"payer_ip": None}),
        (Scene.JSAPI, {"payer_openid": None}),
        (Scene.MINI_PROGRAM, {"payer_openid": None}),
        (Scene.NATIVE, {"parts": (PaymentPart("wechat_pay:1", "1", 1, "x"),)}),
    ],
)
async def test_a_request_that_lacks_what_its_scene_needs_is_not_sent(
    desk: Desk, scene: Scene, lacking: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"needs|parts"):
        await desk.channel.open_payment(scene, replace(REQUEST, **lacking))

    assert desk.heard == []


async def test_the_description_is_cut_between_characters(desk: Desk) -> None:
    desk.say(right({"code_url": "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"}))
    long = PaymentRequest(NUMBER, 1, "税" * 200, NOW, "https://e.example.cn/n")

    await desk.channel.open_payment(Scene.NATIVE, long)

    assert json.loads(desk.heard[0].body)["description"] == "税" * 42


async def test_other_channels_scenes_are_programming_errors(desk: Desk) -> None:
    with pytest.raises(ValueError, match="scene"):
        await desk.channel.open_payment(Scene.WAP, REQUEST)


async def test_a_number_with_a_bar_is_encoded_once_and_signed_so(desk: Desk) -> None:
    desk.say(right(transaction(out_trade_no="2026|03*01")))

    report = await desk.channel.query("2026|03*01")

    check_authorization(desk.heard[0])
    assert "out-trade-no/2026%7C03%2A01?mchid=1900000109" in desk.heard[0].target
    assert report.state is ChannelState.PAID


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "PARAM_ERROR", ChannelRefused),
        (400, "APPID_MCHID_NOT_MATCH", ChannelRefused),
        (400, "ORDER_CLOSED", ChannelRefused),
        (400, "ORDERCLOSED", ChannelRefused),
        (401, "SIGN_ERROR", ChannelRefused),
        (403, "RULELIMIT", ChannelRefused),
        # Money may be there already, or come under this number: nothing is certain.
        (400, "ORDERPAID", ChannelUnknown),
        (403, "OUT_TRADE_NO_USED", ChannelUnknown),
        (400, "INVALID_REQUEST", ChannelUnknown),
        (429, "FREQUENCY_LIMITED", ChannelUnknown),
        (500, "SYSTEM_ERROR", ChannelUnknown),
        (500, "PARAM_ERROR", ChannelUnknown),
        (503, "SERVICE_UNAVAILABLE", ChannelUnknown),
        (404, "SOMETHING_NEW", ChannelUnknown),
    ],
)
async def test_only_a_certain_no_is_a_refusal(
    desk: Desk, status: int, code: str, expected: type[Exception]
) -> None:
    desk.say(wrong(status, code))

    with pytest.raises(expected) as raised:
        await desk.channel.open_payment(Scene.NATIVE, REQUEST)

    assert isinstance(raised.value, ChannelRefused | ChannelUnknown)
    assert raised.value.code == code
    assert raised.value.request_id == "08F78BB3CF06"


@pytest.mark.parametrize("status", [202, 301, 302, 307])
async def test_accepted_and_redirects_are_unknown_and_not_followed(desk: Desk, status: int) -> None:
    desk.say(web.Response(status=status, headers={"Location": f"{desk.there.base_url}/x"}))

    with pytest.raises(ChannelUnknown):
        await desk.channel.open_payment(Scene.NATIVE, REQUEST)

    assert len(desk.heard) == 1


@pytest.mark.parametrize(
    "signature",
    [
        {"signer": "stranger"},
        {"serial": "PUB_KEY_ID_x"},
        {"timestamp": str(int(NOW.timestamp()) - 301)},
        {"timestamp": str(int(NOW.timestamp()) + 301)},
    ],
)
async def test_a_success_nobody_signed_is_asked_for_once_more_and_then_unknown(
    desk: Desk, signature: dict[str, str]
) -> None:
    desk.say(right({"code_url": "weixin://wxpay/bizpayurl?pr=evil"}, **signature))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.open_payment(Scene.NATIVE, REQUEST)

    assert raised.value.code == "UNVERIFIED"
    assert len(desk.heard) == 2


async def test_a_signtest_probe_costs_one_repeat(desk: Desk) -> None:
    probe = right({"code_url": "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"})
    probe.headers["Wechatpay-Signature"] = "WECHATPAY/SIGNTEST/" + "A" * 334 + "="
    desk.say(probe, right({"code_url": "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"}))

    ticket = await desk.channel.open_payment(Scene.NATIVE, REQUEST)

    assert ticket.qr_content is not None
    assert len(desk.heard) == 2


async def test_an_unsigned_success_is_never_believed(desk: Desk) -> None:
    desk.say(web.json_response(transaction()))

    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)


@pytest.mark.parametrize(
    ("trade_state", "expected"),
    [
        ("NOTPAY", ChannelState.NOT_PAID),
        ("SUCCESS", ChannelState.PAID),
        ("REFUND", ChannelState.PAID),
        ("USERPAYING", ChannelState.PAYING),
        ("CLOSED", ChannelState.CLOSED),
        ("REVOKED", ChannelState.CLOSED),
    ],
)
async def test_query_tells_the_state(desk: Desk, trade_state: str, expected: ChannelState) -> None:
    desk.say(right(transaction(trade_state=trade_state)))

    report = await desk.channel.query(NUMBER)

    assert report.state is expected
    assert report.out_trade_no == NUMBER


async def test_an_unpaid_order_has_no_transaction(desk: Desk) -> None:
    bare = {"mchid": MCHID, "appid": APPID, "out_trade_no": NUMBER, "trade_state": "NOTPAY"}
    desk.say(right(bare))

    assert (await desk.channel.query(NUMBER)).state is ChannelState.NOT_PAID


@pytest.mark.parametrize("code", ["ORDER_NOT_EXIST", "ORDERNOTEXIST"])
async def test_an_unknown_order_is_not_found_in_both_spellings(desk: Desk, code: str) -> None:
    desk.say(wrong(404, code))

    assert (await desk.channel.query(NUMBER)).state is ChannelState.NOT_FOUND


@pytest.mark.parametrize(
    "change",
    [
        {"mchid": "1900000110"},
        {"appid": "wx0"},
        {"out_trade_no": "20260301OTHER"},
        {"amount": {"total": 1.0, "currency": "CNY"}},
        {"amount": {"total": 1, "currency": "USD"}},
        {"trade_state": "SOMETHING_NEW"},
    ],
)
async def test_a_signed_answer_about_something_else_is_unknown(
    desk: Desk, change: dict[str, Any]
) -> None:
    desk.say(right(transaction(**change)))

    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (right(None, status=204), CloseOutcome.CLOSED),
        (wrong(400, "ORDERPAID"), CloseOutcome.ALREADY_PAID),
        (wrong(400, "ORDER_PAID"), CloseOutcome.ALREADY_PAID),
        (wrong(403, "TRADE_ERROR"), CloseOutcome.ALREADY_PAID),
        (wrong(429, "FREQUENCY_LIMITED"), CloseOutcome.TRY_LATER),
        (wrong(429, "USER_PAYING"), CloseOutcome.TRY_LATER),
        (wrong(404, "ORDER_NOT_EXIST"), CloseOutcome.NOT_FOUND),
    ],
)
async def test_close_tells_what_became_of_it(
    desk: Desk, reply: web.Response, expected: CloseOutcome
) -> None:
    desk.say(reply)

    assert await desk.channel.close(NUMBER) is expected
    check_authorization(desk.heard[0])
    assert json.loads(desk.heard[0].body) == {"mchid": MCHID}


async def test_an_unsigned_204_is_not_a_close(desk: Desk) -> None:
    desk.say(web.Response(status=204))

    with pytest.raises(ChannelUnknown):
        await desk.channel.close(NUMBER)


@pytest.mark.parametrize(
    ("trade_state", "expected"),
    [
        ("CLOSED", CloseOutcome.CLOSED),
        ("SUCCESS", CloseOutcome.ALREADY_PAID),
        ("NOTPAY", CloseOutcome.TRY_LATER),
    ],
)
async def test_that_it_was_closed_before_must_be_a_signed_word(
    desk: Desk, trade_state: str, expected: CloseOutcome
) -> None:
    desk.say(wrong(400, "ORDERCLOSED"), right(transaction(trade_state=trade_state)))

    assert await desk.channel.close(NUMBER) is expected


async def test_a_silent_channel_is_unknown_in_time(desk: Desk) -> None:
    async def silent(_: Heard) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    desk.say(silent)
    async with calling() as session:
        with pytest.raises(ChannelUnknown) as raised:
            await exchange(
                session, "GET", desk.there.base_url, headers={}, limits=Limits(seconds=0.2)
            )

    assert raised.value.code == "TIMEOUT"
    assert CALL.seconds <= 10


async def test_nobody_listening_is_unknown() -> None:
    async with calling() as session:
        with pytest.raises(ChannelUnknown) as raised:
            await wechat_pay_channel(session).query(NUMBER)

    assert raised.value.code == "UNREACHABLE"


async def test_an_endless_answer_is_cut(desk: Desk) -> None:
    desk.say(web.Response(body=b"x" * (2 * 1024 * 1024)))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.query(NUMBER)

    assert raised.value.code == "OVERSIZED"


async def test_a_new_certificate_is_fetched_once_for_many_callers(desk: Desk) -> None:
    serial = serial_of("certificate")

    async def reply(heard: Heard) -> web.Response:
        if heard.target.endswith("/v3/certificates"):
            await asyncio.sleep(0.1)
            return certificate_answer("certificate")
        return right(transaction(), signer="certificate", serial=serial)

    desk.say(reply)

    reports = await asyncio.gather(*(desk.channel.query(NUMBER) for _ in range(20)))

    assert {report.state for report in reports} == {ChannelState.PAID}
    assert sum(h.target.endswith("/v3/certificates") for h in desk.heard) == 1
    assert len(desk.heard) == 21


async def test_public_key_and_certificate_are_believed_side_by_side(desk: Desk) -> None:
    serial = serial_of("certificate")
    desk.say(
        right(transaction(), signer="certificate", serial=serial),
        certificate_answer("certificate"),
        right(transaction()),
        right(transaction(), signer="certificate", serial=serial),
    )

    for _ in range(3):
        assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID


async def test_a_flood_of_unknown_serials_costs_one_call_a_minute_and_no_key(desk: Desk) -> None:
    desk.say(wrong(404, "RESOURCE_NOT_EXISTS"))

    for number in range(50):
        headers, body = WechatNotice(serial=f"{number:040X}").sent()
        with pytest.raises(NoticeRejected):
            desk.channel.open_notice(headers, body, now=NOW)
        await asyncio.sleep(0)
    await asyncio.sleep(0.3)
    with pytest.raises(NoticeRejected):
        desk.channel.open_notice(headers, body, now=NOW + timedelta(seconds=59))
    await asyncio.sleep(0.2)
    before = len(desk.heard)
    with pytest.raises(NoticeRejected):
        desk.channel.open_notice(headers, body, now=NOW + timedelta(seconds=61))
    await asyncio.sleep(0.3)

    assert before == 1
    assert len(desk.heard) == 2
    headers, body = WechatNotice().sent()
    assert desk.channel.open_notice(headers, body, now=NOW).report is not None


@pytest.mark.parametrize("serial", ["PUB_KEY_ID_x", "no hex", "ABC"])
async def test_a_serial_that_no_certificate_can_have_asks_nobody(desk: Desk, serial: str) -> None:
    headers, body = WechatNotice(serial=serial).sent()

    with pytest.raises(NoticeRejected):
        desk.channel.open_notice(headers, body, now=NOW)
    await asyncio.sleep(0.1)

    assert desk.heard == []


async def test_a_notice_under_a_new_certificate_is_believed_at_its_next_delivery(
    desk: Desk,
) -> None:
    desk.say(certificate_answer("certificate"))
    headers, body = WechatNotice(signer="certificate", serial=serial_of("certificate")).sent()

    with pytest.raises(NoticeRejected):
        desk.channel.open_notice(headers, body, now=NOW)
    await asyncio.sleep(0.5)

    assert desk.channel.open_notice(headers, body, now=NOW).report is not None


async def test_a_forged_certificate_is_not_taken(desk: Desk) -> None:
    serial = serial_of("certificate")
    forged = certificate_answer("certificate", api_v3_key=b"f" * 32)
    desk.say(right(transaction(), signer="certificate", serial=serial), forged)

    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)


BILL = "\ufeff交易时间\r\n".encode()


def bill_ticket(desk: Desk, *, hash_value: str | None = None, url: str = "") -> web.Response:
    return right(
        {
            "hash_type": "SHA1",
            "hash_value": hash_value or hashlib.sha1(BILL, usedforsecurity=False).hexdigest(),
            "download_url": url
            or f"{desk.there.base_url}/wechat-pay/v3/billdownload/file?token=a%2Bb&tartype=gzip",
        }
    )


@pytest.mark.parametrize("file", [BILL, gzip.compress(BILL)])
async def test_a_bill_is_fetched_checked_and_unpacked(desk: Desk, file: bytes) -> None:
    desk.say(bill_ticket(desk), web.Response(body=file, content_type="application/x-gzip"))

    bill = await desk.channel.download_bill(date(2026, 2, 28))

    assert bill == BILL
    assert desk.heard[0].target == (
        "/wechat-pay/v3/bill/tradebill?bill_date=2026-02-28&bill_type=ALL&tar_type=GZIP"
    )
    assert desk.heard[1].target.endswith("/v3/billdownload/file?token=a%2Bb&tartype=gzip")
    for heard in desk.heard:
        check_authorization(heard)


async def test_a_bill_that_is_not_the_one_named_is_unknown(desk: Desk) -> None:
    desk.say(bill_ticket(desk), web.Response(body=BILL + b"`"))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.download_bill(date(2026, 2, 28))

    assert raised.value.code == "BILL_HASH"


async def test_a_broken_gzip_bill_is_unknown(desk: Desk) -> None:
    desk.say(bill_ticket(desk), web.Response(body=gzip.compress(BILL)[:-5]))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.download_bill(date(2026, 2, 28))

    assert raised.value.code == "BILL_BROKEN"


@pytest.mark.parametrize("url", ["http://192.0.2.1/x", "http://127.0.0.1:1@192.0.2.1/", "file:///"])
async def test_a_bill_on_a_foreign_host_is_not_fetched(desk: Desk, url: str) -> None:
    desk.say(bill_ticket(desk, url=url))

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.download_bill(date(2026, 2, 28))

    assert raised.value.code == "FOREIGN_HOST"
    assert len(desk.heard) == 1


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "STATEMENT_CREATING", BillNotReady),
        (400, "NO_STATEMENT_EXIST", NoBill),
        (400, "INVALID_REQUEST", ChannelUnknown),
        (500, "SYSTEM_ERROR", ChannelUnknown),
    ],
)
async def test_a_bill_may_not_be_there(
    desk: Desk, status: int, code: str, expected: type[Exception]
) -> None:
    desk.say(wrong(status, code))

    with pytest.raises(expected):
        await desk.channel.download_bill(date(2026, 2, 28))
