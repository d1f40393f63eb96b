"""A day with the real clients, readers and bills of both channels, against the sandbox."""

from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from estation.ledger.api import balance, channel_fee
from estation.outside.pay_channels import Channel, ChannelReport, Scene
from estation.payments.api import from_report, settle_reports
from estation.reconciliation.api import RunView, reconcile_day
from estation.services import Services
from estation.shared.clock import beijing_day, day_bounds, system_clock
from tests.outside.city_channels import City, running_city
from tests.reconciliation.days import VAULT

SCENES = {Channel.WECHAT_PAY: Scene.NATIVE, Channel.ALIPAY: Scene.PRECREATE}


@pytest.fixture
async def city(tmp_path: Path) -> AsyncIterator[City]:
    async with running_city(tmp_path) as running:
        yield running


async def test_a_paid_day_matches_line_by_line_and_a_lost_payment_is_named(
    database: str, city: City
) -> None:
    """Payments for orders we do not know go into suspense; one is never told to us at all."""
    day = await _noon_of_a_day(city)
    known = [await _pay(city, channel, fen) for channel in SCENES for fen in (1, 817_524)]
    lost = await _pay(city, Channel.ALIPAY, 8_000)
    await settle_reports([from_report(report) for report in known], now=system_clock())
    await city.sandbox.advance(36 * 3600)

    view = await _reconciled(city, day)

    assert {leg["state"] for leg in view.legs} == {"proven"}
    assert view.counts == {"in_suspense": 4, "missing_in_ledger": 1}
    (missing,) = (one for one in view.differences if one.kind == "missing_in_ledger")
    assert (missing.out_trade_no, missing.their_fen) == (lost.out_trade_no, 8_000)
    assert view.state == "differences"
    for leg in view.legs:
        settled = leg["settlement"]
        assert settled["stated_fen"] == settled["net_fen"]
        assert await balance(channel_fee(leg["account_id"])) == settled["fee_fen"] > 0


async def test_a_running_day_waits_for_its_bills(database: str, city: City) -> None:
    day = await _noon_of_a_day(city)
    await _pay(city, Channel.WECHAT_PAY, 100)

    view = await _reconciled(city, day, now=day_bounds(day)[1] - timedelta(hours=11))

    assert (view.state, view.counts) == ("blocked", {"leg_missing": 2})


async def test_a_past_day_without_trade_is_balanced(database: str, city: City) -> None:
    view = await _reconciled(city, beijing_day(system_clock()) - timedelta(days=3))

    assert (view.state, view.counts) == ("balanced", {})


async def _noon_of_a_day(city: City) -> date:
    """The channels' clock is set to noon, so that no midnight falls into a test; yesterday's, for
    our own orders must end after it."""
    day = beijing_day(system_clock()) - timedelta(days=1)
    await city.sandbox.control("clock", set=f"{day}T12:00:00+08:00")
    return day


async def _pay(city: City, channel: Channel, amount_fen: int) -> ChannelReport:
    number, code = await city.open(channel, SCENES[channel], amount_fen=amount_fen)
    await city.sandbox.pay(code, "lin")
    return await city.channels[channel].query(number)


async def _reconciled(city: City, day: date, *, now: datetime | None = None) -> RunView:
    services = SimpleNamespace(
        channels={one.account_id: one for one in city.channels.values()},
        settings=city.settings,
        clock=system_clock,
        vault=VAULT,
    )
    return await reconcile_day(day, services=cast(Services, services), now=now or system_clock())
