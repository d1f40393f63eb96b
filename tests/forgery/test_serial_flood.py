"""Thousands of unknown serials cost one certificate fetch a minute and never an old key (D13)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import pytest
from aiohttp import web

from estation.outside.pay_channels import NoticeRejected
from estation.outside.pay_channels.wechat_pay import WechatPay
from tests.outside.counterparts import NOW, WechatNotice, wechat_pay_channel
from tests.outside.listening import Listener, calling, listening

FLOOD = 4_000
MINUTES = 3


@pytest.fixture
async def there() -> AsyncIterator[tuple[Listener, WechatPay]]:
    async with listening() as listener, calling() as session:
        yield listener, wechat_pay_channel(session, listener.base_url)


async def answered(listener: Listener, at_least: int) -> None:
    """Until so many fetches have been heard and the last had time to be dealt with."""
    for _ in range(200):
        if len(listener.heard) >= at_least:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "reply",
    [
        web.Response(status=500, body=b"broken"),
        web.Response(status=200, body=b'{"data":[]}'),
        web.Response(status=200, body=b"<html>"),
        web.Response(status=404, body=b'{"code":"RESOURCE_NOT_EXISTS"}'),
    ],
    ids=["broken", "unsigned and empty", "no json", "none"],
)
async def test_a_flood_costs_one_fetch_a_minute_and_the_old_key_stays(
    there: tuple[Listener, WechatPay], reply: web.Response
) -> None:
    listener, channel = there
    listener.say(reply)
    chance = Random(1)  # noqa: S311 -- a repeatable flood
    headers, body = WechatNotice().sent()
    for minute in range(MINUTES):
        for n in range(FLOOD // MINUTES):
            now = NOW + timedelta(seconds=61 * minute + 60 * n * MINUTES / FLOOD)
            forged = {**headers, "wechatpay-serial": f"{chance.getrandbits(160):040X}"}
            with pytest.raises(NoticeRejected):
                channel.open_notice(forged, body, now=now)
            if n % 100 == 0:
                await asyncio.sleep(0)
        await answered(listener, minute + 1)

        assert len(listener.heard) == minute + 1
        assert channel.open_notice(headers, body, now=NOW).report is not None

    assert {heard.target.partition("?")[0] for heard in listener.heard} == {"/v3/certificates"}
