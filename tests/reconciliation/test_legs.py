"""A bill that is missing, empty or does not prove itself, and the raw files that are kept."""

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest
from tortoise import Tortoise

from estation.outside.pay_channels import BillNotReady, ChannelError, ChannelRefused, ChannelUnknown
from estation.reconciliation import queries
from estation.reconciliation.api import RunView, reconcile_day
from estation.reconciliation.errors import DayNotOver
from tests.reconciliation import days
from tests.reconciliation.days import ALIPAY, DAY, NOW, VAULT, WECHAT, Day, as_file, quiet_day


async def run(day: Day) -> RunView:
    return await reconcile_day(DAY, services=days.services_for(day), now=NOW)


def leg(view: RunView, account_id: str) -> dict[str, Any]:
    return next(one for one in view.legs if one["account_id"] == account_id)


@pytest.mark.parametrize(
    "trouble",
    [
        BillNotReady("STATEMENT_CREATING"),
        ChannelUnknown("timeout"),
        ChannelRefused("NO_AUTH"),
    ],
)
async def test_a_leg_without_bill_blocks_the_day_and_accuses_no_receipt(
    database: str, trouble: ChannelError
) -> None:
    day = quiet_day()
    day.raw[WECHAT, DAY] = trouble
    await days.post(day)

    view = await run(day)

    assert view.state == "blocked"
    assert view.counts == {"leg_missing": 1}
    assert leg(view, WECHAT)["state"] == "missing"
    assert leg(view, ALIPAY)["state"] == "proven"
    assert view.matched == 6
    assert view.differences[0].our_fen == leg(view, WECHAT)["our_fen"]


COMBINING = "wechat_pay:1900000100"


async def test_a_hanging_channel_keeps_no_other_channels_bill_waiting(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WeChat Pay's is asked for after Alipay's by name: here it is Alipay that hangs."""
    services = days.services_for(quiet_day())
    alipay, wechat = (cast(days.PaperChannel, services.channels[one]) for one in (ALIPAY, WECHAT))
    wechat_is_there = asyncio.Event()
    real_alipay, real_wechat = alipay.download_bill, wechat.download_bill

    async def hanging(day: date) -> bytes:
        await asyncio.wait_for(wechat_is_there.wait(), 30)
        return await real_alipay(day)

    async def prompt(day: date) -> bytes:
        wechat_is_there.set()
        return await real_wechat(day)

    monkeypatch.setattr(alipay, "download_bill", hanging)
    monkeypatch.setattr(wechat, "download_bill", prompt)

    view = await reconcile_day(DAY, services=services, now=NOW)

    assert [one["account_id"] for one in view.legs] == sorted([ALIPAY, WECHAT])
    assert {one["state"] for one in view.legs} == {"proven"}


@pytest.mark.parametrize(
    "receipts", [[], [days.Receipt("X", 300, days.at(9), "TX", account_id=COMBINING)]]
)
async def test_a_combining_account_has_no_leg_and_hides_no_money(
    database: str, receipts: list[days.Receipt]
) -> None:
    day = quiet_day()
    day.raw[COMBINING, DAY] = ChannelRefused("NOT_OFFERED")
    day.receipts.extend(receipts)
    await days.post(day)

    view = await reconcile_day(
        DAY, services=days.services_for(day, WECHAT, ALIPAY, COMBINING), now=NOW
    )

    assert {one["account_id"] for one in view.legs} >= {WECHAT, ALIPAY}
    assert view.counts == ({"unknown_merchant": 1} if receipts else {})


async def test_a_day_without_trade_on_either_side_is_balanced(database: str) -> None:
    view = await run(Day())

    assert view.state == "balanced"
    assert {one["state"] for one in view.legs} == {"empty"}


@pytest.mark.parametrize(
    ("now", "state", "leg_state"),
    [
        (days.at(15), "blocked", "missing"),
        (days.at(0, 0, days.NEXT), "blocked", "missing"),
        (days.at(9, 59, days.NEXT), "blocked", "missing"),
        (days.at(10, 0, days.NEXT), "balanced", "empty"),
    ],
)
async def test_no_bill_means_no_trade_only_from_ten_on_the_next_day(
    database: str, now: datetime, state: str, leg_state: str
) -> None:
    view = await reconcile_day(DAY, services=days.services_for(Day()), now=now)

    assert view.state == state
    assert {one["state"] for one in view.legs} == {leg_state}


async def test_a_channel_that_knows_no_trade_is_held_against_the_ledger(database: str) -> None:
    day = Day(receipts=[days.Receipt("X", 300, days.at(9), "TX")])
    await days.post(day)

    view = await run(day)

    assert view.state == "differences"
    assert view.counts == {"missing_at_channel": 1}


async def test_a_bill_unequal_to_its_own_summary_is_not_believed(database: str) -> None:
    day = quiet_day()
    day.raw[WECHAT, DAY] = as_file(day.bill(WECHAT), count=99)
    await days.post(day)

    view = await run(day)

    assert (view.state, view.counts) == ("blocked", {"leg_unproven": 1})
    assert ["count", "6", "99"] in leg(view, WECHAT)["proof"]
    assert view.matched == 6


HOSTILE = {
    "no bill at all": b"<html>login</html>",
    "empty": b"",
    "bytes": bytes(range(256)),
    "another shape": b'{"lines": [{}], "count": 1, "total": 0}',
    "NUL in a number": as_file([days.Line("A\0B", 1, days.at(9), "T")]),
    "endless number": as_file([days.Line("A" * 5000, 1, days.at(9), "T")]),
    "negative amount": as_file([days.Line("A", -1, days.at(9), "T")]),
    "amount beyond the earth": as_file([days.Line("A", 10**30, days.at(9), "T")]),
    "strange kind": as_file([days.Line("A", 1, days.at(9), "T", kind="gift")]),
    "endless state": as_file([days.Line("A", 1, days.at(9), "T", state="S" * 33)]),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_bill_blocks_its_leg_and_is_kept_as_evidence(
    database: str, name: str
) -> None:
    day = quiet_day()
    day.raw[WECHAT, DAY] = HOSTILE[name]
    await days.post(day)

    view = await run(day)

    assert (view.state, view.counts) == ("blocked", {"leg_unproven": 1})
    files = {one.account_id: one for one in await queries.bill_files(DAY)}
    _, content = await queries.bill_file(DAY, files[WECHAT].id, vault=VAULT)
    assert content == HOSTILE[name]
    assert files[WECHAT].line_count is None


async def test_text_that_looks_like_code_is_only_text(database: str) -> None:
    """Quotes, formulas and markup in a number go through the database unharmed."""
    number = "'; drop table incident;--<b>=1+1"
    day = quiet_day()
    day.bill(WECHAT).append(days.Line(number, 5, days.at(9), "T'"))
    await days.post(day)

    view = await run(day)

    assert [one.out_trade_no for one in view.differences] == [number]


async def test_the_raw_file_is_kept_once_with_its_hash(database: str) -> None:
    day = quiet_day()

    await run(day)
    await run(day)

    files = await queries.bill_files(DAY)
    assert len(files) == 2
    for file in files:
        _, content = await queries.bill_file(DAY, file.id, vault=VAULT)
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert content == as_file(day.bill(file.account_id))


async def test_a_reissued_bill_is_another_file_and_the_newest_counts(database: str) -> None:
    day = quiet_day()
    await days.post(day)
    await run(day)
    first = day.bill(WECHAT)[0]
    day.bill(WECHAT)[0] = replace(first, fen=first.fen + 1)

    view = await run(day)

    assert view.counts == {"amount_differs": 1}
    assert len(await queries.bill_files(DAY)) == 3


async def test_a_bill_that_proved_itself_serves_while_the_channel_is_away(database: str) -> None:
    day = quiet_day()
    await days.post(day)
    before = await run(day)
    day.raw[WECHAT, DAY] = ChannelUnknown("timeout")

    after = await run(day)

    assert after.state == "balanced"
    assert "timeout" in str(leg(after, WECHAT)["reason"])
    assert after.result_digest == before.result_digest


async def test_a_channel_that_takes_back_its_bill_blocks_the_day(database: str) -> None:
    day = quiet_day()
    await days.post(day)
    await run(day)
    del day.bills[WECHAT, DAY]

    view = await run(day)

    assert view.state == "blocked"
    assert leg(view, WECHAT)["state"] == "unproven"


async def test_a_day_to_come_is_refused_and_nobody_is_asked(database: str) -> None:
    services = days.services_for(Day())
    tomorrow = NOW.date() + timedelta(days=1)

    with pytest.raises(DayNotOver):
        await reconcile_day(tomorrow, services=services, now=NOW)

    assert all(cast(Any, channel).asked == [] for channel in services.channels.values())
    assert await _count("reconciliation_run") == 0


async def test_a_kept_file_and_its_lines_cannot_be_altered_or_removed(database: str) -> None:
    await run(quiet_day())
    db = Tortoise.get_connection("default")

    for statement in (
        "delete from channel_bill_file",
        "update channel_bill_file set content = ''",
        "update channel_bill_line set amount_fen = 1",
        "delete from channel_bill_line",
    ):
        with pytest.raises(asyncpg.RaiseError, match="evidence"):
            await db.execute_query(statement)


async def _count(table: str) -> int:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"select count(*) as n from {table}"
    )
    return int(rows[0]["n"])


def test_the_paper_bill_really_carries_hostile_text() -> None:
    assert json.loads(HOSTILE["NUL in a number"])["lines"][0]["number"] == "A\0B"
