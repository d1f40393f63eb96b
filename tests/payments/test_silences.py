"""An account whose channel gives no answer is written down for the alarms, and struck out at the
first answer, whichever program hears it."""

from datetime import datetime
from typing import Any

import pytest

from estation.outside.pay_channels import ChannelRefused, ChannelUnknown
from estation.outside.pay_channels.outages import NOT_CONFIGURED, SILENCES, Outages
from estation.payments import jobs
from estation.payments.signals import read_signals
from tests.payments.city import City, later, rows

WECHAT, ALIPAY = "wechat_pay:1900000109", "alipay:2021000000000109"
UNKNOWN = ChannelUnknown("TIMEOUT")


@pytest.fixture
async def city(database: str) -> City:
    return City()


def calls(city: City, *answers: Exception | None, at: datetime, account_id: str = WECHAT) -> None:
    for answer in answers:
        try:
            with city.outages.listening(account_id, now=at):
                if answer is not None:
                    raise answer
        except (ChannelUnknown, ChannelRefused):
            pass


async def noted(city: City, at: datetime) -> list[dict[str, Any]]:
    await jobs.note_silences(city.services, now=at)
    return await rows("select account_id, since, last_at from channel_silence order by 1")


async def seconds(at: datetime) -> dict[tuple[str, ...], float]:
    for reading in await read_signals(now=at):
        if reading.signal.name == "estation_channel_out_seconds":
            return dict(reading.values)
    raise AssertionError("no such signal")


async def test_an_outage_is_as_old_as_its_first_silence(city: City) -> None:
    calls(city, *[UNKNOWN] * (SILENCES - 1), at=later())
    before = await noted(city, later())
    calls(city, UNKNOWN, at=later(minutes=1))
    begun = await noted(city, later(minutes=1))
    calls(city, UNKNOWN, at=later(minutes=11))

    after = await noted(city, later(minutes=11))

    assert before == []
    assert begun == [{"account_id": WECHAT, "since": later(), "last_at": later(minutes=1)}]
    assert after == [{"account_id": WECHAT, "since": later(), "last_at": later(minutes=11)}]
    assert await seconds(later(minutes=12)) == {(WECHAT,): 720.0}


@pytest.mark.parametrize("answer", [None, ChannelRefused("ORDER_CLOSED")])
async def test_any_answer_ends_it_and_another_accounts_does_not(
    city: City, answer: Exception | None
) -> None:
    for account_id in (WECHAT, ALIPAY):
        calls(city, *[UNKNOWN] * SILENCES, at=later(), account_id=account_id)
    both = await noted(city, later())

    calls(city, answer, at=later(minutes=1), account_id=ALIPAY)
    left = await noted(city, later(minutes=1))

    assert [row["account_id"] for row in both] == [ALIPAY, WECHAT]
    assert [row["account_id"] for row in left] == [WECHAT]


async def test_a_worker_that_starts_again_amid_it_knows_when_it_began(city: City) -> None:
    calls(city, *[UNKNOWN] * SILENCES, at=later())
    await noted(city, later())
    city.outages = Outages()
    forgotten = await noted(city, later(minutes=5))
    calls(city, *[UNKNOWN] * SILENCES, at=later(minutes=6))

    again = await noted(city, later(minutes=6))

    assert [row["since"] for row in forgotten] == [later()], "not hearing is no answer"
    assert [(row["since"], row["last_at"]) for row in again] == [(later(), later(minutes=6))]


async def test_a_worker_that_starts_again_after_it_strikes_it_out(city: City) -> None:
    calls(city, *[UNKNOWN] * SILENCES, at=later())
    await noted(city, later())
    city.outages = Outages()

    calls(city, None, at=later(minutes=5))

    assert await noted(city, later(minutes=5)) == []


async def test_what_nobody_heard_again_for_a_quarter_of_an_hour_is_over(city: City) -> None:
    calls(city, *[UNKNOWN] * SILENCES, at=later())
    await noted(city, later())
    just_before, after = await seconds(later(minutes=14)), await seconds(later(minutes=15))
    city.outages = Outages()
    calls(city, *[UNKNOWN] * SILENCES, at=later(minutes=40))

    anew = await noted(city, later(minutes=40))

    assert (just_before, after) == ({(WECHAT,): 840.0}, {})
    assert [row["since"] for row in anew] == [later(minutes=40)]


async def test_an_account_out_of_the_settings_is_no_outage(city: City) -> None:
    calls(city, *[ChannelUnknown(NOT_CONFIGURED)] * 9, at=later())

    assert await noted(city, later()) == []


async def test_the_sweep_itself_finds_it_and_its_end(city: City) -> None:
    await city.opened()
    city.wechat.trouble["query"] = UNKNOWN
    at = later(minutes=1)
    while not await noted(city, at):
        await jobs.query_silent_attempts(city.services, now=at)
        at = datetime.fromtimestamp(at.timestamp() + 120, at.tzinfo)
        assert at < later(hours=3)
    city.wechat.trouble.clear()

    await jobs.query_silent_attempts(city.services, now=later(hours=4))

    assert await noted(city, later(hours=4)) == []
