"""wechatpayv3 as a judge of refunds and combined orders: it asks and reads as we do."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from estation.outside.pay_channels import Scene
from estation.outside.pay_channels.payers import open_payers
from tests.outside import test_wechat_pay_combined as combined
from tests.outside import test_wechat_pay_refunds as refunds
from tests.outside.counterparts import (
    COMBINE_MCHID,
    MCHID,
    NOW,
    VAULT,
    WechatNotice,
    combined_channel,
    combined_order,
    refund,
    wechat_pay_channel,
)
from tests.outside.listening import Heard, Listener, calling, listening
from tests.outside.test_sdk_oracles import wechat_sdk
from tests.outside.wechat_desk import right

Told = tuple[str, str, Any]


@pytest.fixture
async def there() -> AsyncIterator[Listener]:
    async with listening() as listener:
        yield listener


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with calling() as opened:
        yield opened


def told(heard: Heard) -> Told:
    return heard.method, heard.target, json.loads(heard.body) if heard.body else None


async def theirs(
    there: Listener, mchid: str, ask: Callable[[Any], Awaitable[tuple[int, str]]]
) -> Told:
    """What their client sends, and that it believes the same signed answer."""
    sdk = wechat_sdk(mchid=mchid)
    sdk._core._gate_way = there.base_url  # It has no public setting for its address.
    async with sdk:
        status, text = await ask(sdk)
    assert status in (200, 204), text
    return told(there.heard[-1])


async def test_we_ask_for_a_refund_as_they_do(
    there: Listener, session: aiohttp.ClientSession
) -> None:
    request = refunds.REQUEST
    there.say(refunds.answered())
    await wechat_pay_channel(session, there.base_url).refund(request)
    ours = told(there.heard[-1])

    assert ours == await theirs(
        there,
        MCHID,
        lambda sdk: sdk.refund(
            out_refund_no=request.refund_no,
            out_trade_no=request.out_trade_no,
            amount={"refund": 8175, "total": 817524, "currency": "CNY"},
            reason=request.reason,
            notify_url=request.notify_url,
        ),
    )


async def test_we_ask_after_a_refund_and_redirect_it_as_they_do(
    there: Listener, session: aiohttp.ClientSession
) -> None:
    there.say(refunds.answered())
    channel, number = wechat_pay_channel(session, there.base_url), refunds.REQUEST.refund_no

    await channel.query_refund(number, out_trade_no=refunds.REQUEST.out_trade_no)
    assert told(there.heard[-1]) == await theirs(there, MCHID, lambda sdk: sdk.query_refund(number))
    await channel.redirect_refund(number, channel_refund_no="50000000382019052709732678859")
    assert told(there.heard[-1]) == await theirs(
        there,
        MCHID,
        lambda sdk: sdk.abnormal_refund(
            refund_id="50000000382019052709732678859",
            out_refund_no=number,
            type="MERCHANT_BANK_CARD",
        ),
    )


async def test_we_open_query_and_close_a_combined_order_as_they_do(
    there: Listener, session: aiohttp.ClientSession
) -> None:
    channel, request = combined_channel(session, there.base_url), combined.REQUEST
    there.say(right({"code_url": "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"}))
    await channel.open_payment(Scene.NATIVE, replace(request, payer_openid=None))
    opening = told(there.heard[-1])

    assert opening == await theirs(
        there,
        COMBINE_MCHID,
        lambda sdk: sdk.combine_pay(
            combine_out_trade_no=request.out_trade_no,
            sub_orders=[
                {
                    "mchid": mchid,
                    "attach": request.out_trade_no,
                    "amount": {"total_amount": part.amount_fen, "currency": "CNY"},
                    "out_trade_no": part.out_trade_no,
                    "description": description,
                }
                for part, mchid, description in zip(
                    request.parts, ("1900000111", "1900000112"), ("契税", "登记费"), strict=True
                )
            ],
            scene_info={"payer_client_ip": "203.0.113.7"},
            time_expire="2026-03-01T10:15:00+08:00",
            notify_url=request.notify_url,
        ),
    )
    there.say(right(combined.unpaid()))
    await channel.query(request.out_trade_no)
    querying = told(there.heard[-1])
    assert querying == await theirs(
        there, COMBINE_MCHID, lambda sdk: sdk.combine_query(request.out_trade_no)
    )
    there.say(right(combined.unpaid()), right(None, status=204))
    await channel.close(request.out_trade_no)
    closing = told(there.heard[-1])
    assert closing == await theirs(
        there,
        COMBINE_MCHID,
        lambda sdk: sdk.combine_close(
            request.out_trade_no,
            [
                {"mchid": "1900000111", "out_trade_no": request.parts[0].out_trade_no},
                {"mchid": "1900000112", "out_trade_no": request.parts[1].out_trade_no},
            ],
        ),
    )


def test_they_read_the_refund_notice_that_we_read() -> None:
    headers, body = WechatNotice(refund(), event_type="REFUND.SUCCESS").sent()

    ours = wechat_pay_channel().open_notice(headers, body, now=NOW)

    assert wechat_sdk().callback(headers, body)["resource"] == open_payers(VAULT, ours.plaintext)
    assert ours.refund is not None


def test_they_read_the_combined_notice_that_we_read() -> None:
    headers, body = WechatNotice(combined_order()).sent()

    ours = combined_channel().open_notice(headers, body, now=NOW)

    assert wechat_sdk(mchid=COMBINE_MCHID).callback(headers, body)["resource"] == open_payers(
        VAULT, ours.plaintext
    )
    assert ours.report is not None
