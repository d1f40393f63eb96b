"""Combined orders, refunds, mini-program and mobile browser, by our settings at the sandbox."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from estation.outside.pay_channels import (
    Channel,
    ChannelState,
    CloseOutcome,
    PayChannel,
    PaymentPart,
    PaymentRequest,
    RefundRequest,
    RefundStatus,
    Scene,
)
from estation.outside.pay_channels.building import channels_from_settings
from estation.settings import Settings, WechatCombineAccount, WechatPayAccount
from estation.shared import ids
from estation.shared.clock import system_clock
from tests.outside.city_channels import City, running_city
from tests.outside.counterparts import VAULT
from tests.outside.listening import calling


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    async with running_city(tmp_path) as running:
        yield running


@pytest.fixture
async def channels(city: City) -> AsyncIterator[dict[str, PayChannel]]:
    async with calling() as session:
        yield channels_from_settings(session, with_payees(city), system_clock, VAULT)


def with_payees(city: City) -> Settings:
    """The settings with every merchant of the sandbox, each with its own secret files."""

    def account(kind: str, told: dict[str, str]) -> dict[str, str]:
        mchid = told["mchid"]
        return {
            "account_id": f"{kind}:{mchid}",
            **{name: told[name] for name in ("name", "base_url", "mchid", "appid")},
            "merchant_serial": told["merchant_serial"],
            "private_key_file": f"wechat_pay/{mchid}/merchant_key.pem",
            "api_v3_key_file": f"wechat_pay/{mchid}/api_v3.key",
            "public_key_id": told["public_key_id"],
            "public_key_file": "wechat_pay/platform_public_key.pem",
        }

    merchants = city.sandbox.credentials["wechat_pay_merchants"]
    combiner = WechatCombineAccount(**account("wechat_combine", merchants["1900000100"]))
    payees = [
        WechatPayAccount(**account("wechat_pay", merchants[mchid]), mini_appid=mini_appid)
        for mchid in ("1900000111", "1900000112")
        if (mini_appid := merchants[mchid]["mini_appid"])
    ]
    return city.settings.model_copy(
        update={
            "wechat_pay": [*city.settings.wechat_pay, *payees],
            "wechat_combine": [combiner],
        }
    )


def combined(city: City) -> PaymentRequest:
    now = datetime.now(UTC)
    return replace(
        city.request(Channel.WECHAT_PAY),
        parts=(
            PaymentPart("wechat_pay:1900000111", ids.trade_number(now), 800000, "契税"),
            PaymentPart("wechat_pay:1900000112", ids.trade_number(now), 17524, "登记费"),
        ),
    )


async def test_a_combined_order_is_paid_reported_and_refunded_by_its_parts(
    city: City, channels: dict[str, PayChannel]
) -> None:
    combiner, request = channels["wechat_combine:1900000100"], combined(city)
    ticket = await combiner.open_payment(Scene.NATIVE, request)
    assert (await combiner.query(request.out_trade_no)).state is ChannelState.NOT_PAID

    await city.sandbox.pay(ticket.qr_content or "", "lin")

    report = await combiner.query(request.out_trade_no)
    assert (report.state, report.paid_fen) == (ChannelState.PAID, 817524)
    assert [(part.account_id, part.paid_fen) for part in report.parts] == [
        ("wechat_pay:1900000111", 800000),
        ("wechat_pay:1900000112", 17524),
    ]
    assert await combiner.close(request.out_trade_no) is CloseOutcome.ALREADY_PAID
    part, payee = report.parts[1], channels["wechat_pay:1900000112"]
    asked = RefundRequest(
        refund_no=f"R{part.out_trade_no}",
        out_trade_no=part.out_trade_no,
        channel_trade_no=part.channel_trade_no or "",
        amount_fen=524,
        total_fen=17524,
        reason="登记费减免",
        notify_url=request.notify_url,
    )
    given = await payee.refund(asked)
    again = await payee.refund(asked)
    found = await payee.query_refund(asked.refund_no, out_trade_no=part.out_trade_no)
    assert given.status in (RefundStatus.PROCESSING, RefundStatus.SUCCESS)
    assert {given.channel_refund_no} == {again.channel_refund_no, found.channel_refund_no}
    assert found.amount_fen == 524
    missing = await payee.query_refund("R-nobody", out_trade_no=part.out_trade_no)
    assert missing.status is RefundStatus.NOT_FOUND


async def test_a_combined_order_is_closed_with_all_its_parts(
    city: City, channels: dict[str, PayChannel]
) -> None:
    combiner, request = channels["wechat_combine:1900000100"], combined(city)
    await combiner.open_payment(Scene.JSAPI, request)

    assert await combiner.close(request.out_trade_no) is CloseOutcome.CLOSED
    assert await combiner.close(request.out_trade_no) is CloseOutcome.CLOSED
    assert await combiner.close(ids.trade_number(datetime.now(UTC))) is CloseOutcome.NOT_FOUND


async def test_a_mobile_browser_is_sent_to_wechat(
    city: City, channels: dict[str, PayChannel]
) -> None:
    request = city.request(Channel.WECHAT_PAY)

    ticket = await channels["wechat_pay:1900000111"].open_payment(Scene.H5, request)

    assert ticket.redirect_url is not None
    assert ticket.redirect_url.endswith(
        "redirect_url=http%3A%2F%2F127.0.0.1%3A8000%2Fpay%2Freturn%2Falipay"
    )


async def test_a_mini_programs_user_pays_under_its_appid(
    city: City, channels: dict[str, PayChannel]
) -> None:
    told = city.sandbox.credentials["wechat"]
    lin = next(one for one in city.sandbox.credentials["personas"] if one["key"] == "lin")
    request = replace(city.request(Channel.WECHAT_PAY), payer_openid=lin["mini_openid"])

    ticket = await channels["wechat_pay:1900000111"].open_payment(Scene.MINI_PROGRAM, request)

    assert ticket.jsapi_parameters is not None
    assert ticket.jsapi_parameters["appId"] == told["mini_appid"]
    await city.sandbox.pay(ticket.jsapi_parameters["package"].removeprefix("prepay_id="), "lin")
    report = await channels["wechat_pay:1900000111"].query(request.out_trade_no)
    assert report.state is ChannelState.PAID
    assert report.raw["appid"] == told["mini_appid"]
