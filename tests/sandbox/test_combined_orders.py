"""Combined orders (合单): opened, paid, told and closed as a whole, refunded one by one."""

import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from tests.sandbox.merchant import Answer, NoticeDesk, WechatMerchant

NUMBER = "H20260301ABCDEFGH"
CREATE = "/v3/combine-transactions/native"
TAX, NON_TAX, FUND = "1900000111", "1900000112", "1900000113"
LIN = "oSandbox-LinXiaozhou00000001"
LIN_MINI = "oMiniApp-LinXiaozhou00000001"
MINI_APPID = "wx7777777777777777"


@pytest.fixture
def combining(wechat: WechatMerchant) -> WechatMerchant:
    return wechat.at("1900000100")


def _sub(mchid: str, number: str, fen: int, **changes: Any) -> dict[str, Any]:
    return {
        "mchid": mchid,
        "attach": f"附言{number}",
        "amount": {"total_amount": fen, "currency": "CNY"},
        "out_trade_no": number,
        "description": f"费用{number}",
        **changes,
    }


SUBS = [_sub(TAX, "TAX00001", 800000), _sub(NON_TAX, "FEE00001", 8000)]


def _whole(number: str = NUMBER, **changes: Any) -> dict[str, Any]:
    return {
        "combine_appid": "wx8888888888888888",
        "combine_mchid": "1900000100",
        "combine_out_trade_no": number,
        "sub_orders": SUBS,
        "notify_url": "http://127.0.0.1:9/nobody",
        **changes,
    }


async def _open(combining: WechatMerchant, **changes: Any) -> str:
    answer = await combining.call("POST", CREATE, _whole(**changes))
    assert answer.status == 200, answer.body
    code_url: str = answer.json["code_url"]
    return code_url


async def _query(combining: WechatMerchant, number: str = NUMBER) -> Answer:
    return await combining.call("GET", f"/v3/combine-transactions/out-trade-no/{number}")


async def _close(combining: WechatMerchant, subs: list[dict[str, Any]]) -> Answer:
    return await combining.call(
        "POST",
        f"/v3/combine-transactions/out-trade-no/{NUMBER}/close",
        {
            "combine_appid": "wx8888888888888888",
            "sub_orders": [
                {"mchid": sub["mchid"], "out_trade_no": sub["out_trade_no"]} for sub in subs
            ],
        },
    )


async def test_one_payment_pays_every_payee_and_is_told_once(
    combining: WechatMerchant, desk: NoticeDesk
) -> None:
    code = await _open(combining, notify_url=desk.url)
    unpaid = (await _query(combining)).json

    paid = await combining.sandbox.pay(code, "zhou", wait_for_notice=True)

    assert (paid["amount_fen"], paid["state"]) == (808000, "SUCCESS")
    assert [sub["trade_state"] for sub in unpaid["sub_orders"]] == ["NOTPAY", "NOTPAY"]
    assert all("transaction_id" not in sub for sub in unpaid["sub_orders"])
    told = (await _query(combining)).json
    assert [sub["trade_state"] for sub in told["sub_orders"]] == ["SUCCESS", "SUCCESS"]
    assert [sub["amount"]["total_amount"] for sub in told["sub_orders"]] == [800000, 8000]
    assert told["sub_orders"][0]["amount"]["payer_amount"] == 800000
    assert "mchid" not in told
    assert len({sub["transaction_id"] for sub in told["sub_orders"]}) == 2
    assert told["combine_payer_info"] == {"openid": "oSandbox-ZhouJianguo00000002"}
    assert told["sub_orders"][0]["success_time"][-10] == "."
    [(headers, body)] = desk.got
    assert combining.believes(headers, body)
    assert json.loads(body)["event_type"] == "TRANSACTION.SUCCESS"
    assert combining.opened(json.loads(body)["resource"]) == told


async def test_the_notice_is_sealed_for_the_combining_merchant_only(
    combining: WechatMerchant, desk: NoticeDesk
) -> None:
    await combining.sandbox.pay(await _open(combining, notify_url=desk.url), wait_for_notice=True)

    [(_, body)] = desk.got
    with pytest.raises(InvalidTag):
        combining.at(TAX).opened(json.loads(body)["resource"])
    assert combining.opened(json.loads(body)["resource"])["combine_mchid"] == "1900000100"


async def test_the_same_combined_order_again_is_the_same_and_another_is_refused(
    combining: WechatMerchant,
) -> None:
    first = await _open(combining)
    again = await _open(combining)

    other_payee = await combining.call(
        "POST", CREATE, _whole(sub_orders=[SUBS[0], _sub(FUND, "FEE00001", 8000)])
    )
    other_amount = await combining.call(
        "POST", CREATE, _whole(sub_orders=[SUBS[0], _sub(NON_TAX, "FEE00001", 8001)])
    )

    assert again == first
    assert (other_payee.status, other_payee.code) == (403, "OUT_TRADE_NO_USED")
    assert (other_amount.status, other_amount.code) == (403, "OUT_TRADE_NO_USED")


async def test_a_used_sub_order_number_opens_nothing_of_the_whole(
    combining: WechatMerchant,
) -> None:
    await combining.at(NON_TAX).prepay("FEE00001")

    refused = await combining.call("POST", CREATE, _whole())

    assert (refused.status, refused.code) == (403, "OUT_TRADE_NO_USED")
    assert (await _query(combining)).code == "ORDERNOTEXIST"
    tax = await combining.at(TAX).query("TAX00001")
    assert tax.code == "ORDER_NOT_EXIST"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"sub_orders": SUBS[:1]}, 400, "PARAM_ERROR"),
        ({"sub_orders": [_sub(TAX, f"MANY{i:04d}", 1) for i in range(51)]}, 400, "PARAM_ERROR"),
        ({"sub_orders": [SUBS[0], SUBS[0]]}, 400, "PARAM_ERROR"),
        ({"sub_orders": [SUBS[0], {}]}, 400, "PARAM_ERROR"),
        ({"sub_orders": [SUBS[0], _sub(NON_TAX, "FEE00001", 1, attach=None)]}, 400, "PARAM_ERROR"),
        ({"sub_orders": [SUBS[0], _sub(NON_TAX, "FEE00001", 0)]}, 400, "PARAM_ERROR"),
        ({"sub_orders": [SUBS[0], _sub("1900000999", "FEE00001", 1)]}, 400, "MCH_NOT_EXISTS"),
        ({"combine_appid": "wx0000000000000000"}, 400, "APPID_MCHID_NOT_MATCH"),
        ({"combine_mchid": TAX}, 400, "MCH_NOT_EXISTS"),
        ({"notify_url": None}, 400, "PARAM_ERROR"),
        ({"scene_info": {"device_id": "1"}}, 400, "PARAM_ERROR"),
    ],
)
async def test_a_wrong_combined_order_opens_nothing(
    combining: WechatMerchant, changes: dict[str, Any], status: int, code: str
) -> None:
    answer = await combining.call("POST", CREATE, _whole(**changes))

    assert (answer.status, answer.code) == (status, code)
    assert (await _query(combining)).status == 404


async def test_fifty_sub_orders_are_possible(combining: WechatMerchant) -> None:
    subs = [_sub(TAX, f"MANY{i:04d}", 100 + i) for i in range(50)]

    paid = await combining.sandbox.pay(await _open(combining, sub_orders=subs))

    assert paid["amount_fen"] == sum(100 + i for i in range(50))


async def test_only_a_merchant_with_the_right_may_combine(wechat: WechatMerchant) -> None:
    answer = await wechat.call("POST", CREATE, _whole(combine_mchid=wechat.mchid))

    assert (answer.status, answer.code) == (403, "NO_AUTH")


async def test_it_closes_only_with_exactly_the_original_set(combining: WechatMerchant) -> None:
    code = await _open(combining)

    fewer = await _close(combining, [*SUBS[:1], _sub(FUND, "OTHER001", 1)])
    single = await combining.at(TAX).close("TAX00001")
    more = await _close(combining, [*SUBS, _sub(FUND, "OTHER001", 1)])
    closed = await _close(combining, SUBS[::-1])
    again = await _close(combining, SUBS)

    assert (fewer.status, fewer.code) == (400, "INVALID_REQUEST")
    assert (more.status, more.code) == (400, "INVALID_REQUEST")
    assert (single.status, single.code) == (400, "INVALID_REQUEST")
    assert (closed.status, closed.body) == (204, b"")
    assert combining.believes(closed.headers, b"")
    assert (again.status, again.code) == (400, "ORDER_CLOSED")
    states = [sub["trade_state"] for sub in (await _query(combining)).json["sub_orders"]]
    assert states == ["CLOSED", "CLOSED"]
    await _cannot_pay(combining, code)


async def test_closing_meets_payers_and_paid_orders_with_words_of_its_own(
    combining: WechatMerchant,
) -> None:
    code = await _open(combining)
    await combining.sandbox.control("scan", code=code, password_box=True)

    paying = await _close(combining, SUBS)
    await combining.sandbox.pay(code)
    paid = await _close(combining, SUBS)

    assert (paying.status, paying.code) == (202, "USER_PAYING")
    assert combining.believes(paying.headers, paying.body)
    assert (paid.status, paid.code) == (403, "TRADE_ERROR")


async def test_a_sub_order_is_an_ordinary_order_of_its_merchant(combining: WechatMerchant) -> None:
    tax, fund = combining.at(TAX), combining.at(FUND)
    await combining.sandbox.pay(await _open(combining))
    today = (await combining.sandbox.look("clock"))["virtual"][:10]
    await combining.sandbox.control("bills", day=today)

    single = (await tax.query("TAX00001")).json
    stranger = await fund.query("TAX00001")
    again = await tax.call("POST", "/v3/pay/transactions/native", tax.order("TAX00001"))
    bill = await tax.call("GET", f"/v3/bill/tradebill?bill_date={today}")
    nothing = await fund.call("GET", f"/v3/bill/tradebill?bill_date={today}")
    target = bill.json["download_url"].removeprefix(tax.account["base_url"])
    text = (await tax.call("GET", target)).body.decode()
    others = await fund.call("GET", target)

    assert (single["trade_state"], single["mchid"]) == ("SUCCESS", TAX)
    assert single["amount"]["total"] == 800000
    assert stranger.code == "ORDER_NOT_EXIST"
    assert again.code == "ORDERPAID"
    assert nothing.code == "NO_STATEMENT_EXIST"
    assert "`TAX00001" in text
    assert "`FEE00001" not in text
    assert f"`{TAX}" in text
    assert others.status == 400


async def test_a_sub_order_is_refunded_by_its_own_merchant(combining: WechatMerchant) -> None:
    await combining.sandbox.pay(await _open(combining))
    amount = {"refund": 8000, "total": 8000, "currency": "CNY"}

    by_whole = await combining.refund("R1", "FEE00001", 8000, amount=amount)
    wrong_total = await combining.at(NON_TAX).refund(
        "R1", "FEE00001", 8000, amount=amount | {"total": 808000}
    )
    refunded = await combining.at(NON_TAX).refund("R1", "FEE00001", 8000, amount=amount)
    same_number_elsewhere = await combining.at(TAX).refund(
        "R1", "TAX00001", 1, amount={"refund": 1, "total": 800000, "currency": "CNY"}
    )

    assert by_whole.code == "RESOURCE_NOT_EXISTS"
    assert wrong_total.code == "INVALID_REQUEST"
    assert refunded.json["status"] == "PROCESSING"
    assert same_number_elsewhere.status == 200
    states = [sub["trade_state"] for sub in (await _query(combining)).json["sub_orders"]]
    assert states == ["REFUND", "REFUND"]


async def test_jsapi_h5_and_app_open_their_own_ways_to_pay(combining: WechatMerchant) -> None:
    prefix = "/v3/combine-transactions/"
    subs = [[_sub(TAX, f"{way}0001", 1), _sub(NON_TAX, f"{way}0002", 2)] for way in ("JS", "H5")]
    mini = {"combine_appid": MINI_APPID, "combine_payer_info": {"openid": LIN_MINI}}
    scene = {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Wap"}}

    jsapi = await combining.call(
        "POST", f"{prefix}jsapi", _whole("HJSAPI01", sub_orders=subs[0], **mini)
    )
    without_payer = await combining.call("POST", f"{prefix}jsapi", _whole("HJSAPI02"))
    h5 = await combining.call(
        "POST", f"{prefix}h5", _whole("HH500001", sub_orders=subs[1], scene_info=scene)
    )
    app = await combining.call("POST", f"{prefix}app", _whole("HAPP0001"))

    assert without_payer.code == "PARAM_ERROR"
    assert "prepay_id" in app.json
    paid = await combining.sandbox.pay(jsapi.json["prepay_id"])
    assert paid["persona"] == "lin"
    assert (await combining.sandbox.pay(h5.json["h5_url"]))["state"] == "SUCCESS"
    told = (await _query(combining, "HJSAPI01")).json
    assert told["combine_payer_info"] == {"openid": LIN_MINI}
    assert (await _query(combining, "HH500001")).json["sub_orders"][0]["trade_type"] == "MWEB"


async def test_a_combined_notice_can_lie_about_a_sub_order(
    combining: WechatMerchant, desk: NoticeDesk
) -> None:
    await combining.sandbox.fault("alter", fields={"sub_orders": {"amount": {"total_amount": 1}}})

    await combining.sandbox.pay(await _open(combining, notify_url=desk.url), wait_for_notice=True)

    [(headers, body)] = desk.got
    assert combining.believes(headers, body)
    told = combining.opened(json.loads(body)["resource"])
    assert [sub["amount"]["total_amount"] for sub in told["sub_orders"]] == [1, 1]
    assert told["sub_orders"][0]["out_trade_no"] == "TAX00001"


async def test_the_wallet_page_shows_every_payee(combining: WechatMerchant) -> None:
    code = await _open(combining)

    async with combining.sandbox.http.get(
        f"{combining.sandbox.base_url}/scan", params={"code": code, "persona": "lin"}
    ) as answer:
        page = await answer.text()

    assert "8,080.00" in page
    assert "江城市国库税款专户" in page
    assert "江城市财政非税专户" in page


async def _cannot_pay(merchant: WechatMerchant, code: str) -> None:
    async with merchant.sandbox.http.post(
        f"{merchant.sandbox.base_url}/control/pay", json={"code": code}
    ) as answer:
        assert answer.status == 409
