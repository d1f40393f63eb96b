"""WeChat Pay: who is believed, what prepay, query, close and refund do."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.sandbox.merchant import WechatMerchant
from tests.sandbox.running import RunningSandbox

NUMBER = "20260301ABCDEFGHJKMNPQRS"
NATIVE = "/v3/pay/transactions/native"
LIN = "oSandbox-LinXiaozhou00000001"


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": "bm90IGEgc2lnbmF0dXJl"},
        {"signature": "not base64!"},
        {"timestamp": str(int(time.time()) - 400)},
        {"timestamp": str(int(time.time()) + 100_000)},  # read when collected, sent much later
        {"timestamp": "yesterday"},
        {"mchid": "1900000110"},
        {"serial_no": "0000000000000000000000000000000000000000"},
        {"scheme": "WECHATPAY2-SM2-WITH-SM3"},
        {"nonce_str": "n" * 33},
        {"nonce_str": ""},
    ],
)
async def test_a_wrong_authorization_is_401_and_opens_nothing(
    wechat: WechatMerchant, changes: dict[str, str]
) -> None:
    stranger = WechatMerchant(wechat.sandbox, changes=changes)

    answer = await stranger.call("POST", NATIVE, wechat.order(NUMBER))

    assert (answer.status, answer.code) == (401, "SIGN_ERROR")
    assert "wechatpay-signature" not in answer.headers
    assert (await wechat.query(NUMBER)).code == "ORDER_NOT_EXIST"


async def test_another_key_s_signature_is_explained_by_sign_information(
    wechat: WechatMerchant,
) -> None:
    alien = wechat.sandbox.credentials["alipay"]["app_private_key"]

    answer = await WechatMerchant(wechat.sandbox, changes={"key": alien}).query(NUMBER)

    assert answer.status == 401
    detail = answer.json["detail"]
    assert detail["detail"] == {"issue": "sign not match"}
    assert detail["sign_information"]["method"] == "GET"
    assert detail["sign_information"]["url"].startswith("/v3/pay/transactions/out-trade-no/")


async def test_a_body_changed_after_signing_is_refused(wechat: WechatMerchant) -> None:
    answer = await wechat.call("POST", NATIVE, wechat.order(NUMBER), sent=b'{"amount":1}')

    assert answer.code == "SIGN_ERROR"


async def test_the_signature_covers_the_path_as_it_was_on_the_wire(wechat: WechatMerchant) -> None:
    number = "ABC|DEF*123"
    await wechat.prepay(number)

    escaped = await wechat.query(number)
    signed_raw_sent_escaped = await wechat.call(
        "GET", f"/v3/pay/transactions/out-trade-no/{number}?mchid=1900000109"
    )

    assert escaped.json["out_trade_no"] == number
    assert signed_raw_sent_escaped.status == 200


@pytest.mark.parametrize(
    ("header", "value"), [("User-Agent", ""), ("Accept", "text/html"), ("Content-Type", "text/xml")]
)
async def test_missing_headers_are_refused(wechat: WechatMerchant, header: str, value: str) -> None:
    wechat.headers = {header: value}

    answer = await wechat.call("POST", NATIVE, wechat.order(NUMBER))

    assert (answer.status, answer.code) == (400, "PARAM_ERROR")


async def test_every_success_is_signed_by_the_key_the_request_names(wechat: WechatMerchant) -> None:
    await wechat.prepay(NUMBER)
    by_key = await wechat.query(NUMBER)
    wechat.headers = {"Wechatpay-Serial": wechat.account["platform_certificate_serial"]}
    by_certificate = await wechat.query(NUMBER)
    closed = await wechat.close(NUMBER)

    assert by_key.headers["wechatpay-serial"] == wechat.account["public_key_id"]
    assert wechat.believes(by_key.headers, by_key.body)
    assert (
        by_certificate.headers["wechatpay-serial"] == wechat.account["platform_certificate_serial"]
    )
    assert wechat.believes(by_certificate.headers, by_certificate.body)
    assert (closed.status, closed.body) == (204, b"")
    assert wechat.believes(closed.headers, b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"out_trade_no": "short"},
        {"out_trade_no": "has space in it"},
        {"out_trade_no": None},
        {"description": ""},
        {"description": "字" * 128},
        {"description": "契税😀"},
        {"description": "\ud83d"},
        {"notify_url": "http://127.0.0.1/notices?x=1"},
        {"notify_url": "/notices"},
        {"notify_url": None},
        {"amount": {"total": 0}},
        {"amount": {"total": -1}},
        {"amount": {"total": 1.5}},
        {"amount": {"total": "100"}},
        {"amount": {"total": True}},
        {"amount": {"total": 10**30}},
        {"amount": {"total": 1, "currency": "USD"}},
        {"amount": None},
        {"time_expire": "2026-03-01 10:00:00"},
        {"time_expire": "2026-13-01T10:00:00+08:00"},
        {"limit_pay": "no_credit"},
        {"scene_info": {"payer_client_ip": "1" * 46}},
    ],
)
async def test_a_prepay_with_a_wrong_field_is_param_error(
    wechat: WechatMerchant, changes: dict[str, Any]
) -> None:
    answer = await wechat.call("POST", NATIVE, wechat.order(NUMBER) | changes)

    assert (answer.status, answer.code) == (400, "PARAM_ERROR")


async def test_an_appid_or_openid_of_somebody_else_is_refused(wechat: WechatMerchant) -> None:
    other_app = await wechat.call("POST", NATIVE, wechat.order(NUMBER, appid="wx0"))
    other_merchant = await wechat.call("POST", NATIVE, wechat.order(NUMBER, mchid="1"))
    other_payer = await wechat.call(
        "POST", "/v3/pay/transactions/jsapi", wechat.order(NUMBER, payer={"openid": "oNobody"})
    )

    assert other_app.code == "APPID_MCHID_NOT_MATCH"
    assert other_merchant.code == "MCH_NOT_EXISTS"
    assert other_payer.code == "PARAM_ERROR"


async def test_the_same_prepay_again_gives_the_same_code(wechat: WechatMerchant) -> None:
    first = await wechat.prepay(NUMBER)
    again = await wechat.prepay(NUMBER)

    assert first.startswith("weixin://wxpay/bizpayurl?pr=")
    assert again == first


async def test_the_same_number_with_other_parameters_is_used_up(wechat: WechatMerchant) -> None:
    code = await wechat.prepay(NUMBER)

    other_amount = await wechat.call("POST", NATIVE, wechat.order(NUMBER, amount={"total": 1}))
    other_type = await wechat.call(
        "POST", "/v3/pay/transactions/jsapi", wechat.order(NUMBER, payer={"openid": LIN})
    )

    assert (other_amount.status, other_amount.code) == (403, "OUT_TRADE_NO_USED")
    assert (other_type.status, other_type.code) == (403, "OUT_TRADE_NO_USED")
    assert (await wechat.sandbox.pay(code))["amount_fen"] == 817524


async def test_a_paid_order_is_told_by_both_numbers_and_cannot_be_opened_or_closed(
    wechat: WechatMerchant,
) -> None:
    code = await wechat.prepay(NUMBER, attach="附言")
    unpaid = (await wechat.query(NUMBER)).json

    paid = await wechat.sandbox.pay(code, "zhou")

    told = (await wechat.query(NUMBER)).json
    by_id = await wechat.call(
        "GET", f"/v3/pay/transactions/id/{paid['trade_no']}?mchid={wechat.account['mchid']}"
    )
    assert unpaid["trade_state"] == "NOTPAY"
    assert "transaction_id" not in unpaid
    assert told["trade_state"] == "SUCCESS"
    assert told["transaction_id"] == paid["trade_no"]
    assert len(paid["trade_no"]) == 28
    assert told["amount"]["total"] == told["amount"]["payer_total"] == 817524
    assert told["payer"] == {"openid": "oSandbox-ZhouJianguo00000002"}
    assert told["attach"] == "附言"
    assert by_id.json == told
    again = await wechat.call("POST", NATIVE, wechat.order(NUMBER, attach="附言"))
    assert (again.status, again.code) == (400, "ORDERPAID")
    assert (await wechat.close(NUMBER)).code == "ORDERPAID"


async def test_a_query_needs_the_mchid(wechat: WechatMerchant) -> None:
    await wechat.prepay(NUMBER)

    answer = await wechat.call("GET", f"/v3/pay/transactions/out-trade-no/{NUMBER}")

    assert (answer.status, answer.code) == (400, "PARAM_ERROR")


async def test_a_closed_order_stays_closed(wechat: WechatMerchant) -> None:
    code = await wechat.prepay(NUMBER)

    first = await wechat.close(NUMBER)
    again = await wechat.close(NUMBER)

    assert (first.status, again.status) == (204, 204)
    assert (await wechat.query(NUMBER)).json["trade_state"] == "CLOSED"
    reopened = await wechat.call("POST", NATIVE, wechat.order(NUMBER))
    assert (reopened.status, reopened.code) == (400, "ORDER_CLOSED")
    await _cannot_pay(wechat.sandbox, code)


async def test_closing_what_does_not_exist_is_404(wechat: WechatMerchant) -> None:
    answer = await wechat.close(NUMBER)

    assert (answer.status, answer.code) == (404, "ORDER_NOT_EXIST")


async def test_nobody_closes_while_the_payer_is_at_the_password_box(wechat: WechatMerchant) -> None:
    code = await wechat.prepay(NUMBER)
    await wechat.sandbox.control("scan", code=code, password_box=True)

    refused = await wechat.close(NUMBER)
    await wechat.sandbox.control("cancel", code=code)
    closed = await wechat.close(NUMBER)

    assert (refused.status, refused.code) == (429, "FREQUENCY_LIMITED")
    assert closed.status == 204


async def test_time_expire_ends_paying_but_does_not_close(wechat: WechatMerchant) -> None:
    expire = (datetime.now(UTC) + timedelta(minutes=15)).isoformat(timespec="seconds")
    code = await wechat.prepay(NUMBER, time_expire=expire)

    await wechat.sandbox.advance(16 * 60)

    await _cannot_pay(wechat.sandbox, code)
    assert (await wechat.query(NUMBER)).json["trade_state"] == "NOTPAY"
    assert (await wechat.close(NUMBER)).status == 204


async def test_a_time_expire_in_the_past_is_raised_to_one_minute(wechat: WechatMerchant) -> None:
    code = await wechat.prepay(NUMBER, time_expire="2020-01-01T00:00:00+08:00")

    await wechat.sandbox.advance(50)

    assert (await wechat.sandbox.pay(code))["state"] == "SUCCESS"


async def test_without_time_expire_the_code_lives_two_hours_and_the_order_seven_days(
    wechat: WechatMerchant,
) -> None:
    code = await wechat.prepay(NUMBER)

    await wechat.sandbox.advance(2 * 3600 + 1)
    await _cannot_pay(wechat.sandbox, code)
    renewed = await wechat.prepay(NUMBER)
    await wechat.sandbox.advance(7 * 86400)

    assert renewed != code
    assert (await wechat.query(NUMBER)).json["trade_state"] == "CLOSED"


async def test_only_the_named_payer_can_pay_a_jsapi_ticket(wechat: WechatMerchant) -> None:
    answer = await wechat.call(
        "POST", "/v3/pay/transactions/jsapi", wechat.order(NUMBER, payer={"openid": LIN})
    )
    prepay_id = answer.json["prepay_id"]

    await _cannot_pay(wechat.sandbox, prepay_id, "zhou")
    paid = await wechat.sandbox.pay(f"prepay_id={prepay_id}")

    assert (paid["persona"], paid["state"]) == ("lin", "SUCCESS")
    assert (await wechat.query(NUMBER)).json["trade_type"] == "JSAPI"


async def test_a_refund_is_accepted_first_and_done_later(wechat: WechatMerchant) -> None:
    await wechat.sandbox.pay(await wechat.prepay(NUMBER))

    accepted = await wechat.refund("R1", NUMBER, 100)
    await wechat.sandbox.advance(6)
    done = await wechat.call("GET", "/v3/refund/domestic/refunds/R1")

    assert (accepted.status, accepted.json["status"]) == (200, "PROCESSING")
    assert "success_time" not in accepted.json
    assert done.json["status"] == "SUCCESS"
    assert done.json["amount"]["refund"] == 100
    assert (await wechat.query(NUMBER)).json["trade_state"] == "REFUND"


async def test_refunds_never_exceed_what_was_paid(wechat: WechatMerchant) -> None:
    await wechat.sandbox.pay(await wechat.prepay(NUMBER))
    await wechat.refund("R1", NUMBER, 817000)

    same = await wechat.refund("R1", NUMBER, 817000)
    other_amount = await wechat.refund("R1", NUMBER, 1)
    too_soon = await wechat.refund("R2", NUMBER, 524)
    await wechat.sandbox.advance(61)
    too_much = await wechat.refund("R3", NUMBER, 525)
    rest = await wechat.refund("R4", NUMBER, 524)

    assert same.status == 200
    assert (other_amount.status, other_amount.code) == (400, "INVALID_REQUEST")
    assert (too_soon.status, too_soon.code) == (429, "FREQUENCY_LIMITED")
    assert (too_much.status, too_much.code) == (400, "INVALID_REQUEST")
    assert rest.status == 200


async def test_unpaid_or_unknown_orders_are_not_refunded(wechat: WechatMerchant) -> None:
    await wechat.prepay(NUMBER)

    unpaid = await wechat.refund("R1", NUMBER, 1)
    unknown = await wechat.refund("R1", "NOSUCHNUMBER", 1)
    without_currency = await wechat.refund("R1", NUMBER, 1, amount={"refund": 1, "total": 817524})
    nothing = await wechat.call("GET", "/v3/refund/domestic/refunds/R1")

    assert unpaid.code == "INVALID_REQUEST"
    assert (unknown.status, unknown.code) == (404, "RESOURCE_NOT_EXISTS")
    assert without_currency.code == "PARAM_ERROR"
    assert nothing.code == "RESOURCE_NOT_EXISTS"


async def test_a_refund_can_end_abnormally(wechat: WechatMerchant) -> None:
    await wechat.sandbox.pay(await wechat.prepay(NUMBER))
    await wechat.sandbox.fault("abnormal", target="refund")

    await wechat.refund("R1", NUMBER, 1)
    await wechat.sandbox.advance(6)

    done = await wechat.call("GET", "/v3/refund/domestic/refunds/R1")
    assert done.json["status"] == "ABNORMAL"


async def test_certificates_exist_only_for_certificate_merchants(wechat: WechatMerchant) -> None:
    none = await wechat.call("GET", "/v3/certificates")
    await wechat.sandbox.control("modes", wechat_pay_keys="certificate")
    served = await wechat.call("GET", "/v3/certificates")

    assert (none.status, none.code) == (404, "RESOURCE_NOT_EXISTS")
    [certificate] = served.json["data"]
    assert certificate["serial_no"] == wechat.account["platform_certificate_serial"]
    opened = wechat.opened(certificate["encrypt_certificate"])
    assert opened == wechat.account["platform_certificate"]


async def test_an_answer_can_be_spoilt_while_the_order_stands(wechat: WechatMerchant) -> None:
    await wechat.sandbox.fault("signtest", target="answer")
    probe = await wechat.call("POST", NATIVE, wechat.order(NUMBER))
    await wechat.sandbox.fault("status_500_after", target="answer")
    failed = await wechat.close(NUMBER)

    assert probe.headers["wechatpay-signature"].startswith("WECHATPAY/SIGNTEST/")
    assert len(probe.headers["wechatpay-signature"]) == 353
    assert (failed.status, failed.code) == (500, "SYSTEM_ERROR")
    assert (await wechat.query(NUMBER)).json["trade_state"] == "CLOSED"


async def _cannot_pay(sandbox: RunningSandbox, code: str, persona: str | None = None) -> None:
    async with sandbox.http.post(
        f"{sandbox.base_url}/control/pay", json={"code": code, "persona": persona}
    ) as answer:
        assert answer.status == 409
        assert (await answer.json())["code"] == "cannot_pay"
