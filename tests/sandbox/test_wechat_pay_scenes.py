"""WeChat Pay beyond one merchant and one scene: H5, app, mini-program, other merchants."""

from typing import Any

import pytest

from tests.sandbox.merchant import WechatMerchant

NUMBER = "20260301ABCDEFGHJKMNPQRS"
LIN = "oSandbox-LinXiaozhou00000001"
LIN_MINI = "oMiniApp-LinXiaozhou00000001"
MINI_APPID = "wx7777777777777777"
H5, JSAPI = "/v3/pay/transactions/h5", "/v3/pay/transactions/jsapi"
SCENE = {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Wap"}}


async def _browse(wechat: WechatMerchant, address: str, referer: str = "") -> tuple[int, str]:
    headers = {"Referer": referer} if referer else {}
    async with wechat.sandbox.http.get(address, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_an_h5_address_opens_the_wallet_from_the_merchants_page_only(
    wechat: WechatMerchant,
) -> None:
    answer = await wechat.call("POST", H5, wechat.order(NUMBER, scene_info=SCENE))
    address = answer.json["h5_url"]

    without_referer, words = await _browse(wechat, address)
    opened, page = await _browse(
        wechat, f"{address}&redirect_url=http://127.0.0.1:8000/back", "http://127.0.0.1:8000/"
    )
    paid = await wechat.sandbox.pay(address)

    assert (without_referer, opened) == (403, 200)
    assert "商家参数格式有误" in words
    assert "8,175.24" in page
    assert "back=http%3A//127.0.0.1%3A8000/back" in page
    assert paid["state"] == "SUCCESS"
    assert (await wechat.query(NUMBER)).json["trade_type"] == "MWEB"


async def test_an_h5_address_lives_five_minutes_and_is_renewed_by_the_same_request(
    wechat: WechatMerchant,
) -> None:
    order = wechat.order(NUMBER, scene_info=SCENE)
    first = (await wechat.call("POST", H5, order)).json["h5_url"]

    await wechat.sandbox.advance(301)
    async with wechat.sandbox.http.post(
        f"{wechat.sandbox.base_url}/control/pay", json={"code": first}
    ) as late:
        late_status = late.status
    second = (await wechat.call("POST", H5, order)).json["h5_url"]

    assert late_status == 409
    assert second != first
    assert (await wechat.sandbox.pay(second))["state"] == "SUCCESS"


@pytest.mark.parametrize(
    "scene",
    [
        None,
        {"payer_client_ip": "127.0.0.1"},
        {"h5_info": {"type": "Wap"}},
        {"payer_client_ip": "127.0.0.1", "h5_info": {}},
        {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Windows"}},
    ],
)
async def test_h5_without_its_scene_is_refused(
    wechat: WechatMerchant, scene: dict[str, Any] | None
) -> None:
    answer = await wechat.call("POST", H5, wechat.order(NUMBER, scene_info=scene))

    assert (answer.status, answer.code) == (400, "PARAM_ERROR")
    assert (await wechat.query(NUMBER)).code == "ORDER_NOT_EXIST"


async def test_a_mini_program_pays_with_its_own_appid_and_openid(wechat: WechatMerchant) -> None:
    order = wechat.order(NUMBER, appid=MINI_APPID, payer={"openid": LIN_MINI})

    answer = await wechat.call("POST", JSAPI, order)
    await wechat.sandbox.pay(answer.json["prepay_id"])

    told = (await wechat.query(NUMBER)).json
    assert (told["appid"], told["payer"]["openid"]) == (MINI_APPID, LIN_MINI)


@pytest.mark.parametrize(("appid", "openid"), [(MINI_APPID, LIN), ("wx8888888888888888", LIN_MINI)])
async def test_an_openid_of_the_other_application_is_a_mismatch(
    wechat: WechatMerchant, appid: str, openid: str
) -> None:
    order = wechat.order(NUMBER, appid=appid, payer={"openid": openid})

    answer = await wechat.call("POST", JSAPI, order)

    assert (answer.status, answer.code) == (500, "OPENID_MISMATCH")
    assert (await wechat.query(NUMBER)).code == "ORDER_NOT_EXIST"


async def test_a_native_code_gives_the_payers_openid_of_the_orders_application(
    wechat: WechatMerchant,
) -> None:
    await wechat.sandbox.pay(await wechat.prepay(NUMBER, appid=MINI_APPID), "lin")

    assert (await wechat.query(NUMBER)).json["payer"] == {"openid": LIN_MINI}


async def test_an_app_order_is_a_prepay_id(wechat: WechatMerchant) -> None:
    answer = await wechat.call("POST", "/v3/pay/transactions/app", wechat.order(NUMBER))

    assert (await wechat.sandbox.pay(answer.json["prepay_id"], "lin"))["state"] == "SUCCESS"
    assert (await wechat.query(NUMBER)).json["trade_type"] == "APP"


async def test_the_same_number_is_two_orders_at_two_merchants(wechat: WechatMerchant) -> None:
    treasury = wechat.at("1900000111")
    await wechat.prepay(NUMBER)
    code = await treasury.prepay(NUMBER, amount={"total": 100})

    await wechat.sandbox.pay(code)

    assert (await treasury.query(NUMBER)).json["trade_state"] == "SUCCESS"
    assert (await wechat.query(NUMBER)).json["trade_state"] == "NOTPAY"


@pytest.mark.parametrize("what", ["key", "serial_no"])
async def test_no_merchant_signs_for_another(wechat: WechatMerchant, what: str) -> None:
    other = wechat.at("1900000112").account
    name = "merchant_private_key" if what == "key" else "merchant_serial"
    forger = WechatMerchant(wechat.sandbox, mchid="1900000111", changes={what: other[name]})

    answer = await forger.query(NUMBER)

    assert (answer.status, answer.code) == (401, "SIGN_ERROR")


async def test_every_merchant_has_a_key_for_its_notices_of_its_own(wechat: WechatMerchant) -> None:
    accounts = wechat.sandbox.credentials["wechat_pay_merchants"].values()

    assert len({account["api_v3_key"] for account in accounts}) == 5
    assert len({account["merchant_serial"] for account in accounts}) == 5
    assert len({account["merchant_private_key"] for account in accounts}) == 5
    assert {account["public_key_id"] for account in accounts} == {wechat.account["public_key_id"]}
    assert wechat.sandbox.credentials["wechat_pay"] == wechat.account


async def test_a_query_can_be_told_there_is_no_such_order_and_a_rightly_signed_lie(
    wechat: WechatMerchant,
) -> None:
    await wechat.sandbox.pay(await wechat.prepay(NUMBER))
    await wechat.sandbox.fault("not_found", target="answer", only=NUMBER)
    await wechat.sandbox.fault(
        "alter", target="answer", only="GET ", fields={"amount": {"total": 1}}
    )

    denied = await wechat.query(NUMBER)
    lie = await wechat.query(NUMBER)
    truth = await wechat.query(NUMBER)

    assert (denied.status, denied.code) == (404, "ORDER_NOT_EXIST")
    assert wechat.believes(lie.headers, lie.body)
    assert (lie.json["amount"]["total"], lie.json["trade_state"]) == (1, "SUCCESS")
    assert truth.json["amount"]["total"] == 817524


@pytest.mark.parametrize(
    ("kind", "status", "code", "happened"),
    [
        ("status_202", 202, "ACCEPTED", False),
        ("status_202_after", 202, "ACCEPTED", True),
        ("status_429", 429, "FREQUENCY_LIMITED", False),
        ("status_500", 500, "SYSTEM_ERROR", False),
        ("status_500_after", 500, "SYSTEM_ERROR", True),
        ("status_503", 503, "SERVICE_UNAVAILABLE", False),
    ],
)
async def test_unknown_answers_leave_behind_what_they_say(
    wechat: WechatMerchant, kind: str, status: int, code: str, happened: bool
) -> None:
    await wechat.prepay(NUMBER)
    await wechat.sandbox.fault(kind, target="answer")

    answer = await wechat.close(NUMBER)

    assert (answer.status, answer.code) == (status, code)
    assert ("wechatpay-signature" in answer.headers) is (status == 202)
    state = (await wechat.query(NUMBER)).json["trade_state"]
    assert state == ("CLOSED" if happened else "NOTPAY")


async def test_a_trouble_with_only_waits_for_its_event(wechat: WechatMerchant) -> None:
    await wechat.prepay(NUMBER)
    await wechat.sandbox.fault("status_500", target="answer", only="/close")

    queried = await wechat.query(NUMBER)
    closed = await wechat.close(NUMBER)

    assert (queried.status, closed.status) == (200, 500)
    assert (await wechat.sandbox.look("faults"))["faults"] == []


async def test_the_channel_can_close_an_order_by_itself(wechat: WechatMerchant) -> None:
    code = await wechat.prepay(NUMBER)

    told = await wechat.sandbox.control("close", code=code)

    assert told["state"] == "CLOSED"
    assert (await wechat.query(NUMBER)).json["trade_state"] == "CLOSED"
