"""What only WeChat does: probes, rotation, the password box, login, short messages."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelState,
    CloseOutcome,
    PayChannel,
    Scene,
)
from estation.outside.wechat import WechatRefused
from tests.outside.city_channels import OPENID, City, running_city


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    async with running_city(tmp_path) as running:
        yield running


@pytest.fixture
def channel(city: City) -> PayChannel:
    return city.channels[Channel.WECHAT_PAY]


@pytest.mark.parametrize("fault", ["signtest", "stale", "future", "unknown_serial"])
async def test_a_probe_on_an_answer_costs_one_repeat(
    city: City, channel: PayChannel, fault: str
) -> None:
    request = city.request(Channel.WECHAT_PAY)
    await city.sandbox.fault(fault, target="answer")

    ticket = await channel.open_payment(Scene.NATIVE, request)

    assert ticket.qr_content is not None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("signtest", "bad_signature"),
        ("stale", "stale"),
        ("future", "future"),
        ("unknown_serial", "unknown_serial"),
    ],
)
async def test_a_forged_notice_is_refused_and_the_next_delivery_taken(
    city: City, fault: str, reason: str
) -> None:
    number, code = await city.open(Channel.WECHAT_PAY, Scene.NATIVE)
    await city.sandbox.fault(fault)

    await city.sandbox.pay(code, "lin")
    await city.sandbox.deliveries(number, at_least=1)
    await city.sandbox.advance(15)

    assert (await city.news(at_least=1))[0].out_trade_no == number
    assert city.rejected == [reason]


async def test_a_notice_for_another_app_is_refused_and_one_of_no_money_is_kept(city: City) -> None:
    number, code = await city.open(Channel.WECHAT_PAY, Scene.NATIVE)
    await city.sandbox.fault("alter", fields={"appid": "wx9999999999999999"})
    await city.sandbox.fault("alter", fields={"amount": {"total": 817524.0, "currency": "CNY"}})

    await city.sandbox.pay(code, "lin")
    await city.sandbox.deliveries(number, at_least=1)
    await city.sandbox.advance(15)
    await city.sandbox.deliveries(number, at_least=2)

    assert city.rejected == ["wrong_addressee"]
    assert [(one.kind, one.report) for one in await city.news(at_least=1)] == [("UNREADABLE", None)]


async def test_certificates_and_the_public_key_work_side_by_side(
    city: City, channel: PayChannel
) -> None:
    await city.sandbox.control("modes", wechat_pay_keys="certificate")
    number, code = await city.open(Channel.WECHAT_PAY, Scene.NATIVE)

    await city.sandbox.pay(code, "lin")
    await city.sandbox.deliveries(number, at_least=1)
    await asyncio.sleep(0.5)
    await city.sandbox.advance(15)

    assert (await city.news(at_least=1))[0].out_trade_no == number
    assert city.rejected == ["unknown_serial"]
    assert (await channel.query(number)).state is ChannelState.PAID


async def test_nobody_closes_an_order_at_the_password_box(city: City, channel: PayChannel) -> None:
    number, code = await city.open(Channel.WECHAT_PAY, Scene.NATIVE)
    await city.sandbox.control("scan", code=code, persona="lin", password_box=True)

    assert await channel.close(number) is CloseOutcome.TRY_LATER


async def test_a_closed_number_is_refused_for_certain(city: City, channel: PayChannel) -> None:
    request = city.request(Channel.WECHAT_PAY)
    await channel.open_payment(Scene.NATIVE, request)
    await channel.close(request.out_trade_no)

    with pytest.raises(ChannelRefused):
        await channel.open_payment(Scene.NATIVE, request)


async def test_a_code_from_the_login_page_becomes_the_openid_once(city: City) -> None:
    url = city.login.authorize_url(redirect_uri="http://127.0.0.1:1/back?next=/fees", state="s1")
    address = url.replace("#wechat_redirect", "&persona=lin")
    async with city.sandbox.http.get(address, allow_redirects=False) as answer:
        back = answer.headers["Location"]
    code = back.partition("code=")[2].partition("&")[0]

    identity = await city.login.identity_from_code(code)

    assert back.endswith("state=s1")
    assert identity.openid == OPENID
    with pytest.raises(WechatRefused) as used:
        await city.login.identity_from_code(code)
    assert used.value.errcode == 40163
    with pytest.raises(WechatRefused) as invented:
        await city.login.identity_from_code("invented")
    assert invented.value.errcode == 40029


async def test_a_short_message_is_shown_by_the_sandbox(city: City) -> None:
    await city.sms.send(phone="13800000001", text="您的验证码是 123456")

    (message, *_) = (await city.sandbox.look("sms", phone="13800000001"))["messages"]
    assert "123456" in message["text"]


async def test_wechat_opens_the_cashier_only_for_our_own_pay_sign(
    city: City, channel: PayChannel
) -> None:
    ticket = await channel.open_payment(Scene.JSAPI, city.request(Channel.WECHAT_PAY))
    parameters = ticket.jsapi_parameters
    assert parameters is not None
    cashier = f"{city.sandbox.base_url}/wechat/jsapi"

    async with city.sandbox.http.get(cashier, params=parameters) as opened:
        assert opened.status == 200
    later = {**parameters, "timeStamp": "1"}
    async with city.sandbox.http.get(cashier, params=later) as altered:
        assert altered.status == 400
