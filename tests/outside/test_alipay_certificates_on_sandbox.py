"""Our Alipay client in certificate mode, and through every rotation, against the sandbox."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from estation.outside.pay_channels import (
    Channel,
    ChannelState,
    ChannelUnknown,
    PayChannel,
    RefundRequest,
    RefundStatus,
    Scene,
    alipay,
)
from estation.sandbox.credentials import export_secrets
from estation.settings import AlipayAccount
from estation.shared.clock import system_clock
from estation.shared.key_files import KeyFiles
from tests.outside.city_channels import City, code_of, running_city
from tests.outside.counterparts import VAULT
from tests.outside.listening import calling

FOLDER = "alipay/2021000000000110"


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    async with running_city(tmp_path) as running, calling() as session:
        account = AlipayAccount(
            account_id="alipay:2021000000000110",
            name="江城市政务缴费归集户",
            gateway_url=f"{running.sandbox.base_url}/alipay/gateway.do",
            app_id="2021000000000110",
            seller_id="2088000000000109",
            private_key_file=f"{FOLDER}/app_key.pem",
            app_cert_file=f"{FOLDER}/app_cert.crt",
            alipay_cert_file=f"{FOLDER}/alipay_cert.crt",
            alipay_root_cert_file=f"{FOLDER}/alipay_root.crt",
            bill_hosts=["127.0.0.1"],
        )
        files = KeyFiles.of(running.settings)
        running.channels[Channel.ALIPAY] = alipay.from_settings(
            session, account, files, system_clock, VAULT
        )
        yield running


def our(city: City) -> PayChannel:
    return city.channels[Channel.ALIPAY]


async def test_a_payment_and_its_refund_in_certificate_mode(city: City) -> None:
    number, code = await city.open(Channel.ALIPAY, Scene.PRECREATE)
    await city.sandbox.pay(code, "lin")

    (notice, *_) = await city.news(at_least=1)
    report = await our(city).query(number)
    refund = await our(city).refund(
        RefundRequest("RF1", number, str(report.channel_trade_no), 3000, 817524, "撤回", "")
    )

    assert notice.report is not None
    assert notice.report.state is report.state is ChannelState.PAID
    assert (refund.status, refund.amount_fen) == (RefundStatus.SUCCESS, 3000)
    assert city.rejected == []


async def test_a_trade_for_the_buyers_open_id_and_the_desktop_page(city: City) -> None:
    number, code = await city.open(Channel.ALIPAY, Scene.PAGE)
    await city.sandbox.pay(code, "zhou")
    request = replace(city.request(Channel.ALIPAY), payer_openid="01aSandboxLinXiaozhou00000001")
    ticket = await our(city).open_payment(Scene.TRADE_CREATE, request)
    await city.sandbox.pay(str(ticket.trade_no))

    assert (await our(city).query(number)).state is ChannelState.PAID
    assert (await our(city).query(request.out_trade_no)).state is ChannelState.PAID


async def test_a_new_certificate_is_learned_from_an_answer_and_believed_in_notices(
    city: City,
) -> None:
    await city.sandbox.control("rotate", what="alipay_certificate", answers="new", notices="new")

    number, code = await city.open(Channel.ALIPAY, Scene.PRECREATE)
    await city.sandbox.pay(code, "lin")
    (notice, *_) = await city.news(at_least=1)

    assert notice.report is not None
    assert (await our(city).query(number)).state is ChannelState.PAID
    assert city.rejected == []


async def test_while_both_certificates_sign_nothing_is_lost(city: City) -> None:
    await city.sandbox.control("rotate", what="alipay_certificate")

    for _ in range(4):
        number, code = await city.open(Channel.ALIPAY, Scene.PRECREATE)
        await city.sandbox.pay(code, "lin")
        assert (await our(city).query(number)).state is ChannelState.PAID
    await city.news(at_least=4)

    assert city.rejected == []


async def test_a_certificate_nobody_issued_is_unknown_news(city: City) -> None:
    number, code = await city.open(Channel.ALIPAY, Scene.PRECREATE)
    await city.sandbox.pay(code, "lin")
    await city.news(at_least=1)
    await city.sandbox.fault("unknown_serial", target="answer", channel="alipay")

    with pytest.raises(ChannelUnknown):
        await our(city).query(number)

    assert (await our(city).query(number)).state is ChannelState.PAID


async def test_in_key_mode_a_file_with_both_keys_carries_us_over(tmp_path: Path) -> None:
    async with running_city(tmp_path) as before:
        await before.sandbox.control("rotate", what="alipay_key")
        export_secrets(before.sandbox.data, tmp_path / "secrets")
        async with calling() as session:
            channel = alipay.from_settings(
                session,
                before.settings.alipay[0],
                KeyFiles.of(before.settings),
                system_clock,
                VAULT,
            )
            before.channels[Channel.ALIPAY] = channel
            for _ in range(3):
                request = before.request(Channel.ALIPAY)
                ticket = await channel.open_payment(Scene.PRECREATE, request)
                await before.sandbox.pay(code_of(ticket), "lin")
            await before.news(at_least=3)

    assert before.rejected == []
