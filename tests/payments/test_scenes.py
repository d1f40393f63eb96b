"""Each scene gets what it needs, bound to whom it must be, and nothing is offered without it."""

from datetime import datetime
from typing import Any

import pytest

from estation.outside.pay_channels import SCENES, Channel, Scene
from estation.payments import api
from estation.payments.api import AttemptState, AttemptView, OrderView
from estation.payments.errors import AnotherAttemptLive, SceneNotOffered
from tests.payments.city import City, count, later, make_bill, make_settings
from tests.payments.fakes import NOW, FakeChannel


@pytest.fixture
def city() -> City:
    return City()


async def ask(
    city: City, order: OrderView, scene: Scene, *, now: datetime = NOW, **payer: Any
) -> AttemptView:
    channel = next(one for one, scenes in SCENES.items() if scene in scenes)
    return await api.open_attempt(
        person_id=city.person_id,
        order_id=order.id,
        channel=channel,
        scene=scene,
        services=city.services,
        payer_ip=payer.pop("payer_ip", None),
        openid=payer.pop("openid", None),
        now=now,
        **payer,
    )


def channel_of(city: City, scene: Scene) -> FakeChannel:
    return city.wechat if scene in SCENES[Channel.WECHAT_PAY] else city.alipay


IP = "203.0.113.7"


@pytest.mark.parametrize(
    ("scene", "payer", "asked_payer", "asked_ip"),
    [
        (Scene.NATIVE, {"openid": "o", "payer_ip": IP}, None, None),
        (Scene.JSAPI, {"openid": "o", "payer_ip": IP}, "o", None),
        (Scene.JSAPI, {"openid": "o", "appid": "wx-official"}, "o", None),
        (Scene.MINI_PROGRAM, {"openid": "m", "appid": "wx-mini"}, "m", None),
        (Scene.H5, {"openid": "o", "payer_ip": IP}, None, IP),
        (Scene.PRECREATE, {"openid": "o"}, None, None),
        (Scene.WAP, {"openid": "o"}, None, None),
        (Scene.PAGE, {"openid": "o"}, None, None),
        (Scene.TRADE_CREATE, {"openid": "o", "buyer_id": "b"}, "b", None),
    ],
)
async def test_the_channel_is_told_what_the_scene_needs_and_no_more(
    database: str,
    city: City,
    scene: Scene,
    payer: dict[str, Any],
    asked_payer: str | None,
    asked_ip: str | None,
) -> None:
    order = await city.order(await make_bill(city.person_id))

    attempt = await ask(city, order, scene, **payer)

    request = channel_of(city, scene).trades[attempt.out_trade_no].request
    assert (request.payer_openid, request.payer_ip) == (asked_payer, asked_ip)
    assert (request.return_url is not None) == (scene in (Scene.H5, Scene.WAP, Scene.PAGE))
    tickets = [
        attempt.qr_content,
        attempt.jsapi_parameters,
        attempt.redirect_url,
        attempt.trade_no,
    ]
    assert sum(ticket is not None for ticket in tickets) == 1


@pytest.mark.parametrize(
    ("scene", "payer"),
    [
        (Scene.JSAPI, {}),
        (Scene.JSAPI, {"openid": "m", "appid": "wx-mini"}),
        (Scene.MINI_PROGRAM, {}),
        (Scene.MINI_PROGRAM, {"openid": "o"}),
        (Scene.MINI_PROGRAM, {"openid": "o", "appid": "wx-official"}),
        (Scene.H5, {"openid": "o"}),
        (Scene.TRADE_CREATE, {"openid": "o"}),
    ],
)
async def test_a_scene_without_its_payer_is_not_offered(
    database: str, city: City, scene: Scene, payer: dict[str, Any]
) -> None:
    order = await city.order(await make_bill(city.person_id))

    with pytest.raises(SceneNotOffered):
        await ask(city, order, scene, **payer)

    assert await count("pay_attempt") == 0
    assert city.wechat.asked == city.alipay.asked == []


@pytest.mark.parametrize("mini_appid", [None, "wx-another-mini"])
async def test_an_account_that_knows_no_mini_program_of_ours_refuses_its_scene(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch, mini_appid: str | None
) -> None:
    order = await city.order(await make_bill(city.person_id))
    before = await ask(city, order, Scene.NATIVE)
    settings = make_settings()
    settings.wechat_pay[0].mini_appid = mini_appid
    monkeypatch.setattr("tests.payments.city.make_settings", lambda **_: settings)

    with pytest.raises(SceneNotOffered) as refused:
        await ask(city, order, Scene.MINI_PROGRAM, openid="m", appid="wx-mini")

    assert refused.value.http_status == 422
    assert await count("pay_attempt") == 1
    assert (await ask(city, order, Scene.NATIVE)).id == before.id, "its code is not closed"


@pytest.mark.parametrize(
    ("scene", "first", "second"),
    [
        (Scene.JSAPI, {"openid": "a"}, {"openid": "b"}),
        (
            Scene.MINI_PROGRAM,
            {"openid": "a", "appid": "wx-mini"},
            {"openid": "b", "appid": "wx-mini"},
        ),
        (Scene.H5, {"payer_ip": IP}, {"payer_ip": "203.0.113.8"}),
        (Scene.TRADE_CREATE, {"buyer_id": "a"}, {"buyer_id": "b"}),
    ],
)
async def test_another_payer_gets_a_ticket_of_their_own_after_the_first_is_closed(
    database: str, city: City, scene: Scene, first: dict[str, Any], second: dict[str, Any]
) -> None:
    order = await city.order(await make_bill(city.person_id))
    channel = channel_of(city, scene)
    channel.knows_unscanned = True
    one = await ask(city, order, scene, **first)
    again = await ask(city, order, scene, **first)

    other = await ask(city, order, scene, **second)

    assert one.out_trade_no == again.out_trade_no != other.out_trade_no
    assert channel.verbs(one.out_trade_no)[:3] == ["open", "query", "close"]
    states = {row.out_trade_no: row.state for row in await api.attempts_of_order(order.id)}
    assert states[one.out_trade_no] is AttemptState.CLOSED


async def test_another_payer_waits_while_the_first_is_at_the_password_box(
    database: str, city: City
) -> None:
    order = await city.order(await make_bill(city.person_id))
    await ask(city, order, Scene.JSAPI, openid="a")
    city.wechat.busy = True

    with pytest.raises(AnotherAttemptLive):
        await ask(city, order, Scene.JSAPI, openid="b")

    assert await count("pay_attempt") == 1


async def test_an_h5_link_that_is_over_is_fetched_again_under_the_same_number(
    database: str, city: City
) -> None:
    order = await city.order(await make_bill(city.person_id))
    first = await ask(city, order, Scene.H5, payer_ip=IP)
    fresh = await ask(city, order, Scene.H5, payer_ip=IP, now=later(minutes=3, seconds=59))

    renewed = await ask(city, order, Scene.H5, payer_ip=IP, now=later(minutes=4))

    assert first.out_trade_no == fresh.out_trade_no == renewed.out_trade_no
    assert city.wechat.verbs(first.out_trade_no) == ["open", "open"]
    assert first.ticket_until == later(minutes=4)
    assert renewed.ticket_until == later(minutes=8)
    assert await count("pay_attempt") == 1


async def test_the_wallets_id_is_not_kept_in_the_clear(database: str, city: City) -> None:
    order = await city.order(await make_bill(city.person_id))

    await ask(city, order, Scene.JSAPI, openid="o-very-personal")

    assert await count("pay_attempt", "pay_attempt::text like '%o-very-personal%'") == 0
