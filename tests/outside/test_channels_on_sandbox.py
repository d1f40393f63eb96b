"""One suite for every channel and scene, against the running sandbox."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from estation.outside.pay_channels import (
    BillNotReady,
    Channel,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    Scene,
)
from estation.shared.clock import beijing_day
from tests.outside.city_channels import City, code_of, running_city

pytestmark = pytest.mark.parametrize(
    ("channel", "scene"),
    [
        (Channel.WECHAT_PAY, Scene.NATIVE),
        (Channel.WECHAT_PAY, Scene.JSAPI),
        (Channel.ALIPAY, Scene.PRECREATE),
        (Channel.ALIPAY, Scene.WAP),
    ],
)

CANNOT_PAY = r"cannot_pay|unknown_code"
FIRST_GAP_SECONDS = {Channel.WECHAT_PAY: 15, Channel.ALIPAY: 240}


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    async with running_city(tmp_path) as running:
        yield running


async def test_open_query_pay_query_and_a_close_that_comes_too_late(
    city: City, channel: Channel, scene: Scene
) -> None:
    our = city.channels[channel]

    number, code = await city.open(channel, scene)
    before = await our.query(number)
    await city.sandbox.pay(code, "lin")
    after = await our.query(number)

    # At Alipay no trade exists before somebody opens it in the wallet.
    unpaid = ChannelState.NOT_PAID if channel is Channel.WECHAT_PAY else ChannelState.NOT_FOUND
    assert before.state is unpaid
    assert after.state is ChannelState.PAID
    assert after.paid_fen == 817524
    assert after.account_id == our.account_id
    assert after.channel_trade_no
    assert after.paid_at is not None
    assert await our.close(number) is CloseOutcome.ALREADY_PAID


async def test_a_payment_is_told_by_a_notice_we_believe(
    city: City, channel: Channel, scene: Scene
) -> None:
    number, code = await city.open(channel, scene, amount_fen=8001)

    await city.sandbox.pay(code, "lin")
    (notice, *_) = await city.news(at_least=1)

    assert city.rejected == []
    assert notice.out_trade_no == number
    assert notice.report is not None
    assert notice.report.state is ChannelState.PAID
    assert notice.report.paid_fen == 8001
    queried = await city.channels[channel].query(number)
    assert notice.report.channel_trade_no == queried.channel_trade_no
    assert notice.report.paid_at == queried.paid_at


async def test_a_notice_is_delivered_again_until_it_is_taken(
    city: City, channel: Channel, scene: Scene
) -> None:
    number, code = await city.open(channel, scene)
    await city.sandbox.fault("other_key", channel=channel.value)

    await city.sandbox.pay(code, "lin")
    await city.sandbox.deliveries(number, at_least=1)
    assert city.accepted == []
    await city.sandbox.advance(300)

    assert (await city.news(at_least=1))[0].out_trade_no == number
    assert city.rejected == ["bad_signature"]


async def test_the_same_news_sent_in_parallel_has_one_key(
    city: City, channel: Channel, scene: Scene
) -> None:
    _, code = await city.open(channel, scene)
    await city.sandbox.fault("duplicate", channel=channel.value, copies=5)

    await city.sandbox.pay(code, "lin")
    news = await city.news(at_least=5)

    assert len({notice.event_key for notice in news}) == 1


async def test_an_altered_notice_is_refused(city: City, channel: Channel, scene: Scene) -> None:
    number, code = await city.open(channel, scene)
    await city.sandbox.fault("tampered", channel=channel.value)
    await city.sandbox.fault("missing_signature", channel=channel.value)

    await city.sandbox.pay(code, "lin")
    await city.sandbox.deliveries(number, at_least=1)
    await city.sandbox.advance(FIRST_GAP_SECONDS[channel])
    await city.sandbox.deliveries(number, at_least=2)

    assert city.accepted == []
    assert city.rejected == ["bad_signature", "unsigned"]


async def test_a_closed_order_can_never_be_paid(city: City, channel: Channel, scene: Scene) -> None:
    our = city.channels[channel]
    number, code = await city.open(channel, scene)
    await city.sandbox.control("scan", code=code, persona="lin")

    closed = await our.close(number)
    again = await our.close(number)
    report = await our.query(number)

    assert (closed, again) == (CloseOutcome.CLOSED, CloseOutcome.CLOSED)
    assert report.state is ChannelState.CLOSED
    with pytest.raises(AssertionError, match=CANNOT_PAY):
        await city.sandbox.pay(code, "lin")


async def test_opening_again_is_the_same_order(city: City, channel: Channel, scene: Scene) -> None:
    our = city.channels[channel]
    request = city.request(channel)

    first = await our.open_payment(scene, request)
    second = await our.open_payment(scene, request)

    await city.sandbox.pay(code_of(second), "lin")
    assert (await our.query(request.out_trade_no)).paid_fen == request.amount_fen
    with pytest.raises(AssertionError, match=CANNOT_PAY):
        await city.sandbox.pay(code_of(first), "lin")


async def test_what_cannot_be_known_is_said_to_be_unknown(
    city: City, channel: Channel, scene: Scene
) -> None:
    our = city.channels[channel]
    number, code = await city.open(channel, scene)
    await city.sandbox.pay(code, "lin")
    faults = ["other_key", "missing_signature"]

    for fault in faults:
        await city.sandbox.fault(fault, target="answer", channel=channel.value, count=2)
        with pytest.raises(ChannelUnknown):
            await our.query(number)
        await city.sandbox.http.delete(f"{city.sandbox.base_url}/control/faults")
    assert (await our.query(number)).state is ChannelState.PAID


async def test_the_bill_of_the_day_is_proven_and_has_the_payment(
    city: City, channel: Channel, scene: Scene
) -> None:
    our = city.channels[channel]
    number, code = await city.open(channel, scene)
    await city.sandbox.pay(code, "lin")
    report = await our.query(number)
    assert report.paid_at is not None
    today = beijing_day(report.paid_at)  # the channel's clock alone says which day it is

    with pytest.raises(BillNotReady):
        await our.download_bill(today)
    await city.sandbox.control("bills", day=today.isoformat())
    raw = await our.download_bill(today)
    bill = our.parse_bill(raw)

    assert bill.is_proven
    (row,) = bill.rows
    assert (row.kind, row.out_trade_no, row.amount_fen) == ("payment", number, 817524)
    assert row.channel_trade_no == report.channel_trade_no
    assert row.fee_fen_e3 == 4905_000
    assert beijing_day(row.at) == today


async def test_an_order_that_never_was_is_not_found(
    city: City, channel: Channel, scene: Scene
) -> None:
    our = city.channels[channel]

    assert (await our.query("20260301NEVERWASXXXX")).state is ChannelState.NOT_FOUND
    assert await our.close("20260301NEVERWASXXXX") is CloseOutcome.NOT_FOUND
