"""Alipay beyond a code and a phone: page.pay, trade.create, refunds under way, the far ends."""

import io
import json
import zipfile
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.sandbox.merchant import AlipayMerchant, NoticeDesk

NUMBER = "20260301ABCDEFGHJKMNPQRS"
BIZ = {"out_trade_no": NUMBER, "total_amount": "8175.24", "subject": "契税和登记费"}
QUERY, REFUND = "alipay.trade.query", "alipay.trade.refund"
CREATE, CANCEL = "alipay.trade.create", "alipay.trade.cancel"
LIN = "2088000000100001"
PAGE = BIZ | {"product_code": "FAST_INSTANT_TRADE_PAY"}
JSAPI = BIZ | {
    "product_code": "JSAPI_PAY",
    "op_app_id": "2021000000000112",
    "buyer_id": LIN,
}


async def _query(alipay: AlipayMerchant) -> dict[str, Any]:
    return await alipay.call(QUERY, {"out_trade_no": NUMBER})


async def _refund(alipay: AlipayMerchant, amount: str, number: str) -> dict[str, Any]:
    return await alipay.call(
        REFUND, {"out_trade_no": NUMBER, "refund_amount": amount, "out_request_no": number}
    )


async def _refund_state(alipay: AlipayMerchant, number: str) -> str | None:
    told = await alipay.call(
        "alipay.trade.fastpay.refund.query", {"out_trade_no": NUMBER, "out_request_no": number}
    )
    assert told["code"] == "10000"
    state: str | None = told.get("refund_status")
    return state


async def test_a_page_pay_address_opens_the_cashier_and_returns_signed(
    alipay: AlipayMerchant,
) -> None:
    address = alipay.address("alipay.trade.page.pay", PAGE, return_url="http://127.0.0.1:9/back")

    async with alipay.sandbox.http.get(address) as cashier:
        page = await cashier.text()
    paid = await alipay.sandbox.pay(NUMBER)

    query = dict(parse_qsl(urlsplit(paid["return_url"]).query))
    assert "8,175.24" in page
    assert alipay.believes(query)
    assert query["method"] == "alipay.trade.page.pay.return"


async def test_a_page_pay_form_that_a_browser_posts_opens_the_cashier(
    alipay: AlipayMerchant,
) -> None:
    values = alipay.parameters("alipay.trade.page.pay", PAGE)
    biz = values.pop("biz_content")
    forged = biz.replace("8175.24", "0.01")

    async with alipay.sandbox.http.post(
        alipay.account["gateway_url"], params=values, data={"biz_content": biz}
    ) as cashier:
        page = await cashier.text()
    async with alipay.sandbox.http.post(
        alipay.account["gateway_url"], params=values, data={"biz_content": forged}
    ) as refused:
        told = json.loads(await refused.text())

    assert "8,175.24" in page
    assert told["error_response"]["sub_code"] == "isv.invalid-signature"


@pytest.mark.parametrize(
    ("method", "product"),
    [("alipay.trade.page.pay", "QUICK_WAP_WAY"), ("alipay.trade.wap.pay", "QUICK_WAP_PAY")],
)
async def test_a_cashier_with_the_wrong_product_opens_nothing(
    alipay: AlipayMerchant, method: str, product: str
) -> None:
    address = alipay.address(method, BIZ | {"product_code": product})

    async with alipay.sandbox.http.get(address) as answer:
        assert answer.status == 400
    assert (await alipay.sandbox.look("orders"))["orders"] == []


async def test_create_makes_a_trade_that_its_buyer_pays_by_number(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(200, b"success")]

    created = await alipay.call(CREATE, JSAPI, notify_url=desk.url)
    again = await alipay.call(CREATE, JSAPI, notify_url=desk.url)
    waiting = await _query(alipay)
    async with alipay.sandbox.http.post(
        f"{alipay.sandbox.base_url}/control/pay",
        json={"code": created["trade_no"], "persona": "zhou"},
    ) as stranger:
        stranger_status = stranger.status
    paid = await alipay.sandbox.pay(created["trade_no"], wait_for_notice=True)

    assert created["code"] == "10000"
    assert again["trade_no"] == created["trade_no"]
    assert waiting["trade_status"] == "WAIT_BUYER_PAY"
    assert stranger_status == 409
    assert (paid["persona"], paid["state"]) == ("lin", "TRADE_SUCCESS")
    [form] = desk.forms()
    assert alipay.believes(form)
    assert form["buyer_id"] == LIN


@pytest.mark.parametrize(
    ("changes", "sub_code"),
    [
        ({"buyer_id": "2088000000999999"}, "ACQ.BUYER_NOT_EXIST"),
        ({"buyer_id": None}, "ACQ.INVALID_PARAMETER"),
        ({"op_app_id": "2021000000009999"}, "ACQ.INVALID_PARAMETER"),
        ({"op_app_id": None}, "ACQ.INVALID_PARAMETER"),
        ({"product_code": "FACE_TO_FACE_PAYMENT"}, "ACQ.INVALID_PARAMETER"),
    ],
)
async def test_a_wrong_create_makes_no_trade(
    alipay: AlipayMerchant, changes: dict[str, Any], sub_code: str
) -> None:
    told = await alipay.call(CREATE, JSAPI | changes)

    assert told["sub_code"] == sub_code
    assert (await _query(alipay))["sub_code"] == "ACQ.TRADE_NOT_EXIST"


async def test_another_buyer_or_amount_under_the_same_number_is_inconsistent(
    alipay: AlipayMerchant,
) -> None:
    await alipay.call(CREATE, JSAPI)

    buyer = await alipay.call(CREATE, JSAPI | {"buyer_id": "2088000000100002"})
    amount = await alipay.call(CREATE, JSAPI | {"total_amount": "0.01"})

    assert buyer["sub_code"] == amount["sub_code"] == "ACQ.CONTEXT_INCONSISTENT"
    assert (await _query(alipay))["total_amount"] == "8175.24"


@pytest.mark.parametrize(
    ("kind", "end", "refunded"),
    [("processing", "REFUND_SUCCESS", "100.00"), ("fail", "REFUND_FAIL", "0.00")],
)
async def test_a_refund_under_way_is_not_yet_a_refund(
    alipay: AlipayMerchant, kind: str, end: str, refunded: str
) -> None:
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))
    await alipay.sandbox.fault(kind, target="refund", channel="alipay")

    first = await _refund(alipay, "100.00", "R1")
    under_way = await _refund_state(alipay, "R1")
    same = await _refund(alipay, "100.00", "R1")
    too_much = await _refund(alipay, "8175.24", "R2")
    await alipay.sandbox.advance(10)
    final = await _refund_state(alipay, "R1")

    assert (first["fund_change"], first["refund_fee"]) == ("N", "0.00")
    assert same["fund_change"] == "N"
    assert (under_way, final) == ("REFUND_PROCESSING", end)
    assert too_much["sub_code"] == "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"
    again = await _refund(alipay, "100.00", "R1")
    assert again["refund_fee"] == "100.00"
    assert again["fund_change"] == ("N" if kind == "processing" else "Y")


async def test_a_finished_refund_under_way_is_told_once_it_is_done(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(200, b"success")]
    code = await alipay.precreate(NUMBER, notify_url=desk.url)
    await alipay.sandbox.pay(code, wait_for_notice=True)
    await alipay.sandbox.fault("processing", target="refund", channel="alipay")
    await _refund(alipay, "100.00", "R1")
    before = len(desk.got)

    await alipay.sandbox.advance(10)
    await alipay.sandbox.deliveries(NUMBER, at_least=2)

    assert before == 1
    form = desk.forms()[1]
    assert (form["trade_status"], form["refund_fee"]) == ("TRADE_SUCCESS", "100.00")
    assert form["out_biz_no"] == "R1"
    assert form["gmt_refund"][-4] == "."


async def test_a_seller_without_money_refunds_nothing(alipay: AlipayMerchant) -> None:
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))
    await alipay.sandbox.fault("not_enough", target="refund", channel="alipay")

    refused = await _refund(alipay, "100.00", "R1")
    nothing = await _refund_state(alipay, "R1")
    done = await _refund(alipay, "100.00", "R1")

    assert refused["sub_code"] == "ACQ.SELLER_BALANCE_NOT_ENOUGH"
    assert nothing is None
    assert (done["fund_change"], done["refund_fee"]) == ("Y", "100.00")


async def test_cancel_may_ask_to_be_repeated(alipay: AlipayMerchant) -> None:
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))
    await alipay.sandbox.fault("retry", target="answer", channel="alipay")

    first = await alipay.call(CANCEL, {"out_trade_no": NUMBER})
    untouched = await _query(alipay)
    second = await alipay.call(CANCEL, {"out_trade_no": NUMBER})

    assert first["retry_flag"] == "Y"
    assert "action" not in first
    assert untouched["trade_status"] == "TRADE_SUCCESS"
    assert (second["retry_flag"], second["action"]) == ("N", "refund")


async def test_cancel_closes_what_is_unpaid_and_refuses_after_a_day(
    alipay: AlipayMerchant,
) -> None:
    await alipay.call(CREATE, JSAPI)
    closed = await alipay.call(CANCEL, {"out_trade_no": NUMBER})
    await alipay.call(CREATE, JSAPI | {"out_trade_no": "LATE"})
    await alipay.sandbox.pay("LATE")

    await alipay.sandbox.advance(24 * 3600 + 1)
    late = await alipay.call(CANCEL, {"out_trade_no": "LATE"})

    assert (closed["action"], closed["retry_flag"]) == ("close", "N")
    assert late["sub_code"] == "ACQ.TRADE_CANCEL_TIME_OUT"
    told = await alipay.call(QUERY, {"out_trade_no": "LATE"})
    assert told["trade_status"] == "TRADE_SUCCESS"


async def test_a_finished_trade_is_told_and_gives_nothing_back(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(200, b"success")]
    code = await alipay.precreate(NUMBER, notify_url=desk.url)
    await alipay.sandbox.pay(code, wait_for_notice=True)

    finished = await alipay.sandbox.control("finish", code=NUMBER)
    await alipay.sandbox.deliveries(NUMBER, at_least=2)
    refused = await _refund(alipay, "1.00", "R1")

    assert finished["state"] == "TRADE_FINISHED"
    assert desk.forms()[1]["trade_status"] == "TRADE_FINISHED"
    assert refused["sub_code"] == "ACQ.TRADE_HAS_FINISHED"
    assert (await _query(alipay))["trade_status"] == "TRADE_FINISHED"


async def test_the_channel_closes_a_scanned_trade_but_no_unscanned_code(
    alipay: AlipayMerchant,
) -> None:
    code = await alipay.precreate(NUMBER)
    async with alipay.sandbox.http.post(
        f"{alipay.sandbox.base_url}/control/close", json={"code": code}
    ) as unscanned:
        unscanned_status = unscanned.status
    await alipay.sandbox.control("scan", code=code)

    closed = await alipay.sandbox.control("close", code=code)

    assert unscanned_status == 409
    assert closed["state"] == "TRADE_CLOSED"
    assert (await _query(alipay))["trade_status"] == "TRADE_CLOSED"


@pytest.mark.parametrize(
    ("kind", "happened"), [("gateway_error", False), ("gateway_error_after", True)]
)
async def test_the_gateway_fails_unsigned_and_in_gbk(
    alipay: AlipayMerchant, kind: str, happened: bool
) -> None:
    await alipay.call(CREATE, JSAPI)
    await alipay.sandbox.fault(kind, target="answer", channel="alipay")

    body = await alipay.raw("alipay.trade.close", {"out_trade_no": NUMBER})

    told = json.loads(body.decode("gbk"))
    assert "sign" not in told
    assert told["error_response"]["sub_msg"].startswith("系统繁忙")
    state = (await _query(alipay))["trade_status"]
    assert state == ("TRADE_CLOSED" if happened else "WAIT_BUYER_PAY")


async def test_a_query_can_be_told_there_is_no_trade_and_a_rightly_signed_lie(
    alipay: AlipayMerchant,
) -> None:
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))
    common = {"target": "answer", "channel": "alipay", "only": QUERY}
    await alipay.sandbox.fault("not_found", **common)
    await alipay.sandbox.fault("alter", fields={"total_amount": "0.01"}, **common)

    denied, lie, truth = [await _query(alipay) for _ in range(3)]

    assert denied["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    assert (lie["total_amount"], lie["trade_status"]) == ("0.01", "TRADE_SUCCESS")
    assert truth["total_amount"] == "8175.24"


async def test_alipays_notices_can_be_late_and_out_of_order(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(200, b"success")]
    codes = [await alipay.precreate(f"{NUMBER}{i}", notify_url=desk.url) for i in range(3)]
    await alipay.sandbox.fault("delay", channel="alipay", seconds=3600)
    await alipay.sandbox.fault("reorder", channel="alipay")

    for code in codes:
        await alipay.sandbox.pay(code, wait_for_notice=True)
    await alipay.sandbox.deliveries(f"{NUMBER}1", at_least=2)
    await alipay.sandbox.advance(3600)
    await alipay.sandbox.deliveries(f"{NUMBER}0", at_least=2)

    told = [form["out_trade_no"][-1] for form in desk.forms()]
    assert told == ["2", "1", "0"]
    assert all(alipay.believes(form) for form in desk.forms())


async def test_when_a_refund_was_done_is_told_to_who_asks(alipay: AlipayMerchant) -> None:
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))
    await _refund(alipay, "100.00", "R1")
    asked = {"out_trade_no": NUMBER, "out_request_no": "R1"}
    method = "alipay.trade.fastpay.refund.query"

    plain = await alipay.call(method, asked)
    whole = await alipay.call(method, asked | {"query_options": ["gmt_refund_pay"]})

    assert "gmt_refund_pay" not in plain
    assert len(whole["gmt_refund_pay"]) == len("2026-03-01 10:00:00")


async def test_a_refund_stands_in_the_bill_of_the_day_it_was_done(alipay: AlipayMerchant) -> None:
    await alipay.sandbox.control("clock", set="2026-03-02T23:59:00+08:00")
    await alipay.sandbox.pay(await alipay.precreate(NUMBER))
    await alipay.sandbox.fault("processing", target="refund", channel="alipay", seconds=300)
    await _refund(alipay, "100.00", "R1")
    await alipay.sandbox.advance(301)

    answers = {}
    await alipay.sandbox.control("clock", set="2026-03-04T11:00:00+08:00")
    for day in ("2026-03-02", "2026-03-03"):
        told = await alipay.call(
            "alipay.data.dataservice.bill.downloadurl.query",
            {"bill_type": "trade", "bill_date": day},
        )
        async with alipay.sandbox.http.get(told["bill_download_url"]) as file:
            answers[day] = await file.read()

    details = {day: _detail(content) for day, content in answers.items()}
    assert "R1" not in details["2026-03-02"]
    assert "R1\t" in details["2026-03-03"]
    assert "-100.00" in details["2026-03-03"]


def _detail(packed: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(packed)) as files:
        return "".join(files.read(name).decode("gb18030") for name in files.namelist())
