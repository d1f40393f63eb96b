"""Refunds of Alipay trades against the running sandbox, and the notices they bring."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelState,
    RefundRequest,
    RefundStatus,
    Scene,
)
from tests.outside.city_channels import City, running_city


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    async with running_city(tmp_path) as running:
        yield running


async def paid(city: City) -> RefundRequest:
    """A paid trade of ¥8,175.24 and a first refund of ¥30.00 for it, not asked yet."""
    number, code = await city.open(Channel.ALIPAY, Scene.WAP)
    await city.sandbox.pay(code, "lin")
    report = await city.channels[Channel.ALIPAY].query(number)
    return RefundRequest(
        refund_no="RF1",
        out_trade_no=number,
        channel_trade_no=str(report.channel_trade_no),
        amount_fen=3000,
        total_fen=817524,
        reason="登记申请撤回",
        notify_url=f"{city.there.base_url}/notices/alipay",
    )


async def test_a_refund_is_given_once_however_often_it_is_asked(city: City) -> None:
    our = city.channels[Channel.ALIPAY]
    request = await paid(city)

    before = await our.query_refund("RF1", out_trade_no=request.out_trade_no)
    first = await our.refund(request)
    again = await our.refund(request)
    after = await our.query_refund("RF1", out_trade_no=request.out_trade_no)

    assert before.status is RefundStatus.NOT_FOUND
    assert (first.status, first.amount_fen) == (RefundStatus.SUCCESS, 3000)
    assert again.status is RefundStatus.PROCESSING
    assert (after.status, after.amount_fen, after.at) == (first.status, 3000, first.at)
    assert again.raw["refund_fee"] == "30.00"


async def test_another_amount_under_the_same_number_is_an_alarm(city: City) -> None:
    our = city.channels[Channel.ALIPAY]
    request = await paid(city)
    await our.refund(request)

    other = RefundRequest(
        "RF1", request.out_trade_no, request.channel_trade_no, 3001, 817524, "x", ""
    )
    with pytest.raises(ChannelRefused) as raised:
        await our.refund(other)

    assert raised.value.code == "ACQ.DISCORDANT_REPEAT_REQUEST"
    found = await our.query_refund("RF1", out_trade_no=request.out_trade_no)
    assert found.amount_fen == 3000


async def test_a_partial_and_a_full_refund_are_told_as_news_of_one_payment(city: City) -> None:
    our = city.channels[Channel.ALIPAY]
    request = await paid(city)
    await our.refund(request)
    await our.refund(
        RefundRequest(
            "RF2", request.out_trade_no, request.channel_trade_no, 814524, 817524, "全部退回", ""
        )
    )

    news = await city.news(at_least=3)

    assert city.rejected == []
    assert {notice.report.state for notice in news if notice.report} == {ChannelState.PAID}
    assert {notice.report.paid_fen for notice in news if notice.report} == {817524}
    refunded = sorted(notice.report.refunded_fen or 0 for notice in news if notice.report)
    assert refunded == [0, 3000, 817524]
    refunds = sorted(notice.refund.refund_no for notice in news if notice.refund)
    assert refunds == ["RF1", "RF2"]
    assert len({notice.event_key for notice in news}) == 3
    assert (await our.query(request.out_trade_no)).state is ChannelState.PAID
