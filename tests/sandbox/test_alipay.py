"""Alipay: who is believed, how a trade lives, what its notices hold."""

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.sandbox.merchant import AlipayMerchant, NoticeDesk
from tests.sandbox.running import eventually

NUMBER = "20260301ABCDEFGHJKMNPQRS"
BIZ = {"out_trade_no": NUMBER, "total_amount": "8175.24", "subject": "契税和登记费"}
QUERY = "alipay.trade.query"
GAPS = [4 * 60, 10 * 60, 10 * 60, 3600, 2 * 3600, 6 * 3600, 15 * 3600]


@pytest.mark.parametrize(
    ("changes", "sub_code"),
    [
        ({"sign": "bm90IGEgc2lnbmF0dXJl"}, "isv.invalid-signature"),
        ({"sign": "not base64!"}, "isv.invalid-signature"),
        ({"sign_type": "RSA"}, "isv.invalid-signature-type"),
        ({"app_id": "2021000000000999"}, "isv.invalid-app-id"),
        ({"timestamp": "2020-01-01 00:00:00"}, "isv.invalid-timestamp"),
        ({"timestamp": "yesterday"}, "isv.invalid-timestamp"),
        (
            {"timestamp": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")},
            "isv.invalid-timestamp",
        ),
        ({"method": ""}, "isv.missing-method"),
        ({"method": "alipay.trade.unknown"}, "isv.invalid-method"),
        ({"version": "2.0"}, "isv.invalid-version"),
        ({"charset": "utf-7"}, "isv.invalid-charset"),
        ({"biz_content": "[]"}, "isv.invalid-arguments"),
    ],
)
async def test_a_wrong_call_is_refused_without_a_signature(
    alipay: AlipayMerchant, changes: dict[str, str], sub_code: str
) -> None:
    alipay.changes = changes

    told = json.loads(await alipay.raw("alipay.trade.precreate", BIZ))

    assert "sign" not in told
    assert told["error_response"]["sub_code"] == sub_code


async def test_a_signature_over_other_content_is_refused(alipay: AlipayMerchant) -> None:
    signed = alipay.parameters("alipay.trade.precreate", BIZ)
    signed["biz_content"] = signed["biz_content"].replace("8175.24", "0.01")

    async with alipay.sandbox.http.post(
        alipay.account["gateway_url"], params={"charset": "utf-8"}, data=signed
    ) as answer:
        told = json.loads(await answer.text())

    assert told["error_response"]["sub_code"] == "isv.invalid-signature"


async def test_without_charset_in_the_address_the_gateway_reads_gbk(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    alipay.charset_in_url = False

    body = await alipay.raw("alipay.trade.precreate", BIZ, notify_url=desk.url)
    code = json.loads(body)["alipay_trade_precreate_response"]["qr_code"]
    await alipay.sandbox.pay(code, wait_for_notice=True)

    [form] = desk.forms()
    assert form["charset"] == "GBK"
    assert form["subject"] != BIZ["subject"]


async def test_no_trade_exists_before_somebody_scans(alipay: AlipayMerchant) -> None:
    code = await alipay.precreate(NUMBER)

    before = [
        (await alipay.call(method, {"out_trade_no": NUMBER}))["sub_code"]
        for method in (QUERY, "alipay.trade.close", "alipay.trade.cancel")
    ]
    await alipay.sandbox.control("scan", code=code)
    after = await alipay.call(QUERY, {"out_trade_no": NUMBER})

    assert code.startswith("https://qr.alipay.com/")
    assert before == ["ACQ.TRADE_NOT_EXIST"] * 3
    assert (after["code"], after["trade_status"]) == ("10000", "WAIT_BUYER_PAY")
    assert "send_pay_date" not in after


@pytest.mark.parametrize(
    "changes",
    [
        {"total_amount": "0.00"},
        {"total_amount": "-1.00"},
        {"total_amount": "1.005"},
        {"total_amount": "1e3"},
        {"total_amount": "100000000.01"},
        {"total_amount": None},
        {"total_amount": True},
        {"out_trade_no": "with space"},
        {"out_trade_no": "x" * 65},
        {"subject": ""},
        {"subject": "a=b"},
        {"timeout_express": "16d"},
        {"timeout_express": "0m"},
        {"time_expire": "tomorrow"},
        {"product_code": "QUICK_WAP_WAY"},
    ],
)
async def test_a_precreate_with_a_wrong_field_is_refused(
    alipay: AlipayMerchant, changes: dict[str, Any]
) -> None:
    told = await alipay.call("alipay.trade.precreate", BIZ | changes)

    assert (told["code"], told["sub_code"]) == ("40004", "ACQ.INVALID_PARAMETER")


async def test_a_paid_trade_is_told_whole_and_takes_no_other_code(alipay: AlipayMerchant) -> None:
    code = await alipay.precreate(NUMBER)

    paid = await alipay.sandbox.pay(code, "zhou")

    told = await alipay.call(QUERY, {"trade_no": paid["trade_no"], "out_trade_no": "IGNORED"})
    assert told["trade_status"] == "TRADE_SUCCESS"
    assert told["out_trade_no"] == NUMBER
    assert told["total_amount"] == "8175.24"
    assert told["buyer_user_id"] == "2088000000100002"
    again = await alipay.call("alipay.trade.precreate", BIZ)
    other = await alipay.call("alipay.trade.precreate", BIZ | {"total_amount": "0.01"})
    closed = await alipay.call("alipay.trade.close", {"out_trade_no": NUMBER})
    assert again["sub_code"] == "ACQ.TRADE_HAS_SUCCESS"
    assert other["sub_code"] == "ACQ.CONTEXT_INCONSISTENT"
    assert closed["sub_code"] == "ACQ.TRADE_STATUS_ERROR"


async def test_a_scanned_trade_can_be_closed_and_then_nobody_pays(alipay: AlipayMerchant) -> None:
    code = await alipay.precreate(NUMBER)
    await alipay.sandbox.control("scan", code=code)

    closed = await alipay.call("alipay.trade.close", {"out_trade_no": NUMBER})

    assert closed["code"] == "10000"
    assert (await alipay.call(QUERY, {"out_trade_no": NUMBER}))["trade_status"] == "TRADE_CLOSED"
    await _cannot_pay(alipay, code)


async def test_an_unscanned_code_can_still_be_paid_after_a_failed_close(
    alipay: AlipayMerchant,
) -> None:
    code = await alipay.precreate(NUMBER)
    await alipay.call("alipay.trade.close", {"out_trade_no": NUMBER})

    assert (await alipay.sandbox.pay(code))["state"] == "TRADE_SUCCESS"


async def test_codes_and_trades_expire(alipay: AlipayMerchant) -> None:
    unscanned = await alipay.precreate("UNSCANNED", timeout_express="15m")
    scanned = await alipay.precreate("SCANNED", timeout_express="15m")
    forever = await alipay.precreate("FOREVER")
    await alipay.sandbox.control("scan", code=scanned)

    await alipay.sandbox.advance(15 * 60 + 1)

    await _cannot_pay(alipay, unscanned)
    await _cannot_pay(alipay, scanned)
    told = await alipay.call(QUERY, {"out_trade_no": "SCANNED"})
    assert told["trade_status"] == "TRADE_CLOSED"
    await alipay.sandbox.advance(2 * 3600)
    await _cannot_pay(alipay, forever)


async def test_refunds_are_idempotent_by_request_number_and_add_up(alipay: AlipayMerchant) -> None:
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))

    async def refund(amount: str, number: str) -> dict[str, Any]:
        return await alipay.call(
            "alipay.trade.refund",
            {"out_trade_no": NUMBER, "refund_amount": amount, "out_request_no": number},
        )

    first = await refund("100.00", "R1")
    again = await refund("100.00", "R1")
    discordant = await refund("1.00", "R1")
    too_much = await refund("8075.25", "R2")
    rest = await refund("8075.24", "R3")

    assert (first["fund_change"], first["refund_fee"]) == ("Y", "100.00")
    assert (again["fund_change"], again["refund_fee"]) == ("N", "100.00")
    assert discordant["sub_code"] == "ACQ.DISCORDANT_REPEAT_REQUEST"
    assert too_much["sub_code"] == "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"
    assert (rest["fund_change"], rest["refund_fee"]) == ("Y", "8175.24")
    assert (await alipay.call(QUERY, {"out_trade_no": NUMBER}))["trade_status"] == "TRADE_CLOSED"
    done = await _refund_state(alipay, "R1")
    nothing = await _refund_state(alipay, "R9")
    assert (done["refund_status"], done["refund_amount"]) == ("REFUND_SUCCESS", "100.00")
    assert nothing == {"code": "10000", "msg": "Success"}


async def _refund_state(alipay: AlipayMerchant, number: str) -> dict[str, Any]:
    return await alipay.call(
        "alipay.trade.fastpay.refund.query", {"out_trade_no": NUMBER, "out_request_no": number}
    )


async def test_cancel_refunds_what_is_paid(alipay: AlipayMerchant) -> None:
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))

    first = await alipay.call("alipay.trade.cancel", {"out_trade_no": NUMBER})
    again = await alipay.call("alipay.trade.cancel", {"out_trade_no": NUMBER})

    assert (first["action"], first["retry_flag"]) == ("refund", "N")
    assert "action" not in again


async def test_the_notice_survives_plus_signs_and_chinese(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(200, b"success")]
    subject = "契税+登记费 100% “加急” a&b".replace("&", "和")
    code = await alipay.precreate(NUMBER, notify_url=desk.url, subject=subject, body="1+1")

    paid = await alipay.sandbox.pay(code, wait_for_notice=True)

    [form] = desk.forms()
    assert alipay.believes(form)
    assert form["subject"] == subject
    assert form["body"] == "1+1"
    assert form["trade_status"] == "TRADE_SUCCESS"
    assert form["trade_no"] == paid["trade_no"]
    assert form["total_amount"] == "8175.24"
    assert form["seller_id"] == alipay.account["seller_id"]
    assert form["app_id"] == alipay.account["app_id"]
    assert form["sign_type"] == "RSA2"
    [stored] = await alipay.sandbox.notices(NUMBER)
    assert stored["state"] == "delivered"


async def test_a_gbk_notice_is_signed_over_gbk_bytes(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    await alipay.sandbox.fault("gbk", channel="alipay")

    await alipay.sandbox.pay(
        await alipay.precreate(NUMBER, notify_url=desk.url), wait_for_notice=True
    )

    [form] = desk.forms()
    assert form["charset"] == "GBK"
    assert form["subject"] == "契税和登记费"
    assert alipay.believes(form)


async def test_eight_deliveries_until_the_body_is_exactly_success(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(200, b'{"code":"SUCCESS"}'), (200, b"success\n"), (200, b"Success")]
    await alipay.sandbox.pay(
        await alipay.precreate(NUMBER, notify_url=desk.url), wait_for_notice=True
    )

    for count, gap in enumerate(GAPS, start=2):
        await alipay.sandbox.advance(gap)
        await alipay.sandbox.deliveries(NUMBER, at_least=count)

    async def given_up() -> bool | None:
        [stored] = await alipay.sandbox.notices(NUMBER)
        return True if stored["state"] == "given_up" else None

    await eventually(given_up)
    assert len(desk.got) == 8
    assert len({form["notify_id"] for form in desk.forms()}) == 1


@pytest.mark.parametrize("kind", ["other_key", "missing_signature", "tampered"])
async def test_a_spoilt_alipay_notice_is_not_believable(
    alipay: AlipayMerchant, desk: NoticeDesk, kind: str
) -> None:
    await alipay.sandbox.fault(kind, channel="alipay")

    await alipay.sandbox.pay(
        await alipay.precreate(NUMBER, notify_url=desk.url), wait_for_notice=True
    )

    [form] = desk.forms()
    assert not alipay.believes(form)


async def test_refunds_are_told_to_the_original_address(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(200, b"success")]
    await alipay.sandbox.pay(
        await alipay.precreate(NUMBER, notify_url=desk.url), wait_for_notice=True
    )
    for number, amount in [("R1", "100.00"), ("R2", "8075.24")]:
        await alipay.call(
            "alipay.trade.refund",
            {"out_trade_no": NUMBER, "refund_amount": amount, "out_request_no": number},
        )
    await alipay.sandbox.deliveries(NUMBER, at_least=3)

    told = {form.get("out_biz_no", ""): form for form in desk.forms()}
    assert told["R1"]["trade_status"] == "TRADE_SUCCESS"
    assert told["R1"]["refund_fee"] == "100.00"
    assert told["R2"]["trade_status"] == "TRADE_CLOSED"
    assert told["R2"]["refund_fee"] == "8175.24"
    assert all(alipay.believes(form) for form in desk.forms())


async def test_the_wap_cashier_takes_the_payer_back_with_a_signed_address(
    alipay: AlipayMerchant,
) -> None:
    biz = BIZ | {"product_code": "QUICK_WAP_WAY", "quit_url": "http://127.0.0.1:9/quit"}
    address = alipay.address("alipay.trade.wap.pay", biz, return_url="http://127.0.0.1:9/back")

    async with alipay.sandbox.http.get(address) as cashier:
        page = await cashier.text()
    paid = await alipay.sandbox.pay(NUMBER)

    assert cashier.status == 200
    assert "8,175.24" in page
    query = dict(parse_qsl(urlsplit(paid["return_url"]).query))
    assert paid["return_url"].startswith("http://127.0.0.1:9/back?")
    assert alipay.believes(query)
    assert query["out_trade_no"] == NUMBER


async def test_a_wap_address_can_be_paid_headless_and_a_forged_one_cannot(
    alipay: AlipayMerchant,
) -> None:
    biz = BIZ | {"product_code": "QUICK_WAP_WAY"}
    address = alipay.address("alipay.trade.wap.pay", biz)
    forged = address.replace("8175.24", "0.01")

    async with alipay.sandbox.http.post(
        f"{alipay.sandbox.base_url}/control/pay", json={"code": forged}
    ) as answer:
        refused = answer.status
    paid = await alipay.sandbox.pay(address)

    assert refused == 404
    assert (paid["state"], paid["amount_fen"]) == ("TRADE_SUCCESS", 817524)


async def test_an_answer_can_lose_its_truth_while_the_trade_stands(alipay: AlipayMerchant) -> None:
    await alipay.sandbox.control("scan", code=await alipay.precreate(NUMBER))
    await alipay.sandbox.fault("unavailable_after", target="answer", channel="alipay")

    unknown = await alipay.call("alipay.trade.close", {"out_trade_no": NUMBER})

    assert (unknown["code"], unknown["sub_code"]) == ("20000", "aop.unknow-error")
    assert (await alipay.call(QUERY, {"out_trade_no": NUMBER}))["trade_status"] == "TRADE_CLOSED"


async def _cannot_pay(alipay: AlipayMerchant, code: str) -> None:
    async with alipay.sandbox.http.post(
        f"{alipay.sandbox.base_url}/control/pay", json={"code": code}
    ) as answer:
        assert answer.status == 409
