"""What the channels keep for their service stands in the books as their proven bills say it."""

import asyncio
import csv
import io
import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from estation.ledger.api import balance, channel_fee, clearing, post_many, reverse
from estation.outside.pay_channels import ChannelUnknown
from estation.payments.actions.watching import RECENT
from estation.payments.invariants import breaches_of
from estation.reconciliation import queries
from estation.reconciliation.actions import fees
from estation.reconciliation.api import RunView, reconcile_day
from estation.reconciliation.errors import KeptFileChanged
from estation.shared.money import display_yuan, yuan_from_fen
from tests.payments.city import rows
from tests.payments.plants import by_hand
from tests.reconciliation import days
from tests.reconciliation.conftest import Desk
from tests.reconciliation.days import ALIPAY, DAY, NOW, WECHAT, Day, quiet_day

LATER = NOW + timedelta(hours=1)
LATEST = NOW + timedelta(hours=2)


async def run(day: Day, *, now: Any = NOW, of: date = DAY) -> RunView:
    return await reconcile_day(of, services=days.services_for(day), now=now)


def with_fees(*fees_e3: int, back_e3: int = 0) -> Day:
    """A quiet day whose first lines cost something; `back_e3` came back with a refund."""
    day = quiet_day()
    lines = day.bill(WECHAT)
    for place, fee in enumerate(fees_e3):
        lines[place] = replace(lines[place], fee_fen_e3=fee)
    if back_e3:
        refund = {"kind": "refund", "refund_no": "R1", "state": "SUCCESS", "fee_fen_e3": -back_e3}
        lines.append(replace(lines[2], **refund))
    return day


async def booked() -> list[tuple[str, int]]:
    """The fee transfers in their order: kind, and what each adds to the fees."""
    found = await rows(
        """select t.kind, (e.debit_fen - e.credit_fen)::bigint as fen from ledger_transfer t
           join ledger_entry e on e.transfer_id = t.id and e.account = $1
           order by t.posted_at, t.kind""",
        channel_fee(WECHAT),
    )
    return [(row["kind"], row["fen"]) for row in found]


async def test_the_fees_of_a_proven_bill_are_booked_from_clearing(database: str) -> None:
    day = with_fees(5_000, 48_000)
    await days.post(day)
    held = await balance(clearing(WECHAT))

    await run(day)

    assert await booked() == [("channel_fee", 53)]
    assert await balance(channel_fee(WECHAT)) == 53
    assert await balance(clearing(WECHAT)) == held - 53
    assert await balance(channel_fee(ALIPAY)) == 0


async def test_returned_fees_are_a_transfer_of_their_own(database: str) -> None:
    day = with_fees(5_000, back_e3=2_000)
    await days.post(day)

    await run(day)

    assert await booked() == [("channel_fee", 5), ("channel_fee_back", -2)]
    assert await balance(channel_fee(WECHAT)) == 3


async def test_each_line_is_rounded_to_whole_fen_as_the_split_rounds_it(database: str) -> None:
    day = with_fees(1_499, 1_500, back_e3=1_500)
    await days.post(day)

    await run(day)

    assert await booked() == [("channel_fee", 3), ("channel_fee_back", -2)]
    assert sum((await queries.channel_fees(DAY, WECHAT)).values()) == 3 + 2


async def test_reconciling_again_books_nothing_more(database: str) -> None:
    day = with_fees(5_000, back_e3=2_000)
    await days.post(day)
    first = await run(day)

    again = await run(day, now=LATER)
    await asyncio.gather(*(run(day, now=LATEST) for _ in range(4)))

    assert await booked() == [("channel_fee", 5), ("channel_fee_back", -2)]
    assert again.result_digest == first.result_digest


async def test_a_corrected_bill_books_the_difference_and_edits_nothing(database: str) -> None:
    day = with_fees(5_000, back_e3=2_000)
    await days.post(day)
    await run(day)
    before = await rows("select * from ledger_transfer order by id")
    day.bills[WECHAT, DAY] = with_fees(5_000, 4_000, back_e3=2_000).bill(WECHAT)

    await run(day, now=LATER)

    assert (await booked())[2:] == [("channel_fee", 4)]
    assert await balance(channel_fee(WECHAT)) == 7
    kept = await rows("select * from ledger_transfer order by id")
    assert [row for row in kept if row in before] == before
    newest = await rows("select sha256 from channel_bill_file where booked_fee_fen = 7")
    assert [row["channel_no"] for row in kept if row not in before] == [newest[0]["sha256"]]


async def test_a_correction_that_is_taken_back_and_made_again_is_booked_each_time(
    database: str,
) -> None:
    day = with_fees(5_000)
    await days.post(day)
    five, three = day.bill(WECHAT), with_fees(3_000).bill(WECHAT)

    for turn, lines in enumerate((five, three, five, three)):
        day.bills[WECHAT, DAY] = lines
        await run(day, now=NOW + timedelta(hours=turn))

    assert [fen for _, fen in await booked()] == [5, -2, 2, -2]
    files = await rows(
        "select booked_fee_fen as fen from channel_bill_file order by booked_fee_fen"
    )
    assert [row["fen"] for row in files] == [0, 3, None]  # the other channel's is the first


async def test_a_bill_that_does_not_prove_itself_books_no_fee(database: str) -> None:
    day = with_fees(5_000)
    await days.post(day)
    day.raw[WECHAT, DAY] = days.as_file(day.bill(WECHAT), count=99)

    view = await run(day)

    assert view.counts == {"leg_unproven": 1}
    assert await booked() == []


async def test_a_day_without_its_bill_keeps_what_was_booked(database: str) -> None:
    day = with_fees(5_000)
    await days.post(day)
    await run(day)
    day.raw[WECHAT, DAY] = ChannelUnknown("away")

    await run(day, now=LATER)

    assert await booked() == [("channel_fee", 5)]


CHANGES = pytest.mark.parametrize("now_is", ["content || 'x'::bytea", "'x'::bytea", "''::bytea"])


async def changed_files() -> list[tuple[str, str, bool]]:
    found = await rows(
        """select account_id, owner, evidence ->> 'sha256' = any(
               select sha256 from channel_bill_file) as is_named
           from incident where kind = 'bill_file_changed'"""
    )
    return [(row["account_id"], row["owner"], row["is_named"]) for row in found]


@CHANGES
async def test_a_kept_file_that_was_changed_books_nothing_and_has_an_owner(
    database: str, now_is: str
) -> None:
    day = with_fees(5_000)
    await days.post(day)
    await run(day)
    await by_hand(
        f"update channel_bill_file set content = {now_is}",
        "delete from ledger_entry where account like 'channel_fee:%'",
    )

    for _ in range(2):
        with pytest.raises(KeptFileChanged):
            await run(day, now=LATER)

    assert await booked() == []
    assert len(await rows("select id from reconciliation_run")) == 1
    assert await changed_files() == [(WECHAT, "operator", True)]


async def test_a_reversed_fee_is_booked_again(database: str) -> None:
    day = with_fees(5_000)
    await days.post(day)
    await run(day)
    (fee,) = await rows("select id from ledger_transfer where kind = 'channel_fee'")
    await post_many([await reverse(fee["id"], now=LATER)], now=LATER)
    assert await balance(channel_fee(WECHAT)) == 0

    await run(day, now=LATEST)

    assert await balance(channel_fee(WECHAT)) == 5


def before_fees_were_booked() -> Any:
    """As a day stands whose bill was proven before reconciling booked any fee."""
    fees = "(select id from ledger_transfer where kind = 'channel_fee')"
    return by_hand(
        f"delete from ledger_entry where transfer_id in {fees}",
        "delete from ledger_transfer where kind = 'channel_fee'",
        "update channel_bill_file set booked_fee_fen = null",
    )


def two_days() -> tuple[Day, date]:
    day, next_day = with_fees(5_000), DAY + timedelta(days=1)
    day.bills[WECHAT, next_day] = [
        days.Line("N", 700, days.at(9, 0, next_day), "TN", fee_fen_e3=7_000)
    ]
    return day, next_day


async def test_a_day_whose_fees_were_never_booked_is_booked_with_the_next(database: str) -> None:
    day, next_day = two_days()
    await days.post(day)
    await run(day)
    await before_fees_were_booked()

    await run(day, now=NOW + timedelta(days=1), of=next_day)

    assert sorted(fen for _, fen in await booked()) == [5, 7]
    assert await breaches() == []
    files = await rows(
        "select day from channel_bill_file where account_id = $1 and booked_fee_fen is not null"
        " order by day",
        WECHAT,
    )
    assert [row["day"] for row in files] == [DAY, next_day]


async def test_of_forgotten_days_a_run_books_so_many_and_the_next_run_the_rest(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fees, "MOST_FORGOTTEN", 1)
    day, next_day = two_days()
    await days.post(day)
    await run(day)
    await run(day, now=NOW + timedelta(days=1), of=next_day)
    await before_fees_were_booked()
    last = NOW + timedelta(days=2)
    third = next_day + timedelta(days=1)

    await run(day, now=last, of=third)
    once = [fen for _, fen in await booked()]
    for hours in range(1, 5):  # the other channel's days are forgotten, too
        await run(day, now=last + timedelta(hours=hours), of=third)

    assert once in ([], [5])
    assert sorted(fen for _, fen in await booked()) == [5, 7]


@CHANGES
async def test_a_forgotten_bill_that_was_changed_since_is_left_for_a_person(
    database: str, now_is: str
) -> None:
    day, next_day = two_days()
    await days.post(day)
    await run(day)
    await before_fees_were_booked()
    await by_hand(f"update channel_bill_file set content = {now_is}")

    for hours in range(2):
        view = await run(day, now=NOW + timedelta(days=1, hours=hours), of=next_day)

    assert view.state != "blocked"
    assert [fen for _, fen in await booked()] == [7]
    assert await changed_files() == [(WECHAT, "operator", True)]


async def test_each_day_of_an_account_has_its_own_fees(database: str) -> None:
    day = with_fees(5_000)
    await days.post(day)
    next_day = DAY + timedelta(days=1)
    day.bills[WECHAT, next_day] = [
        days.Line("N", 700, days.at(9, 0, next_day), "TN", fee_fen_e3=7_000)
    ]

    await run(day)
    await run(day, now=NOW + timedelta(days=1), of=next_day)

    assert [fen for _, fen in await booked()] == [5, 7]
    assert await balance(channel_fee(WECHAT)) == 12


async def test_what_a_channel_will_pay_out_ties_with_its_bills_own_total(database: str) -> None:
    day = with_fees(5_000, 4_000, back_e3=2_000)
    await days.post(day)

    view = await run(day)

    wechat = next(leg["settlement"] for leg in view.legs if leg["account_id"] == WECHAT)
    gross = sum(line.fen for line in day.bill(WECHAT) if line.kind == "payment")
    refund = day.bill(WECHAT)[2].fen
    assert wechat == {
        "gross_fen": gross,
        "refund_fen": refund,
        "fee_fen": 9,
        "fee_back_fen": 2,
        "net_fen": gross - refund - 9 + 2,
        "stated_fen": gross - refund - 9 + 2,
    }
    assert "settlement_differs" not in view.counts


async def test_fees_that_round_to_another_total_than_the_bills_are_a_difference(
    database: str,
) -> None:
    """Two of a fen and a half each are two fen each when they are settled, and three together."""
    day = with_fees(1_500, 1_500)
    await days.post(day)

    view = await run(day)

    assert (view.state, view.counts) == ("differences", {"settlement_differs": 1})
    (found,) = view.differences
    assert found.account_id == WECHAT
    assert found.their_fen is not None
    assert (found.our_fen, found.their_fen) == (found.their_fen - 1, found.their_fen)
    assert await balance(channel_fee(WECHAT)) == 4


async def test_a_bill_that_states_no_total_is_no_difference_and_says_so(database: str) -> None:
    day = with_fees(5_000)
    await days.post(day)
    body = json.loads(days.as_file(day.bill(WECHAT)))
    day.raw[WECHAT, DAY] = json.dumps({**body, "settlement": None}).encode()

    view = await run(day)

    assert view.state == "balanced"
    stated = {leg["account_id"]: leg["settlement"]["stated_fen"] for leg in view.legs}
    assert stated[WECHAT] is None
    assert await balance(channel_fee(WECHAT)) == 5


async def test_the_days_page_and_its_export_show_what_will_be_paid_out(desk: Desk) -> None:
    lines = desk.day.bill(WECHAT)
    lines[0] = replace(lines[0], fee_fen_e3=500_000)
    desk.day.off[WECHAT, DAY] = 1
    await days.post(desk.day)
    await desk.login("clerk")
    await desk.post("/staff/reconciliation", day=str(DAY))
    net = sum(line.fen for line in lines) - 500

    await desk.get(f"/staff/reconciliation/{DAY}")
    page = desk.text
    await desk.get(f"/staff/reconciliation/{DAY}/differences.csv")

    assert "应结算金额不符（1）" in page
    for fen in (500, net, net + 1):
        assert display_yuan(fen) in page
    found = list(csv.reader(io.StringIO(desk.body.decode("utf-8-sig"))))
    settled = {row[1].split()[0]: row[5:7] for row in found if row[0] == "应结算金额"}
    assert settled[WECHAT] == [yuan_from_fen(net), yuan_from_fen(net + 1)]
    assert len(set(settled[ALIPAY])) == 1
    assert any("手续费 5.00，退回手续费 0.00" in row[1] for row in found if len(row) > 1)


RULE = "the_channels_fees_are_those_of_their_proven_bills"
NUMBER = f"{WECHAT} {DAY}"


async def test_the_rule_of_the_fees_holds_whatever_was_corrected(database: str) -> None:
    day = with_fees(5_000, back_e3=2_000)
    await days.post(day)
    await run(day)
    assert await breaches() == []
    day.bills[WECHAT, DAY] = with_fees(4_000).bill(WECHAT)
    await run(day, now=LATER)

    assert await breaches() == []
    assert await balance(channel_fee(WECHAT)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        "delete from ledger_entry where account like 'channel_fee:%'",
        "update ledger_entry set debit_fen = 6 where account like 'channel_fee:%'",
        "update ledger_transfer set our_no = 'X' where kind = 'channel_fee'",
        "update channel_bill_file set booked_fee_fen = null",
        "update channel_bill_file set booked_fee_fen = 4 where booked_fee_fen = 5",
    ],
)
async def test_the_rule_of_the_fees_names_the_accounts_day(database: str, damage: str) -> None:
    day = with_fees(5_000)
    await days.post(day)
    await run(day)

    await by_hand(damage)

    assert NUMBER in await breaches()


async def test_reconciling_again_mends_what_the_books_lost(database: str) -> None:
    day = with_fees(5_000)
    await days.post(day)
    await run(day)
    lost = "(select id from ledger_transfer where kind = 'channel_fee')"
    await by_hand(
        f"delete from ledger_entry where transfer_id = {lost}",
        "delete from ledger_transfer where kind = 'channel_fee'",
    )

    await run(day, now=LATER)

    assert await breaches() == []
    assert await balance(channel_fee(WECHAT)) == 5


async def breaches() -> list[str]:
    """All of them, which are the recent ones too."""
    everywhere = await breaches_of(RULE, now=LATEST)
    assert await breaches_of(RULE, now=LATEST, since=NOW - RECENT) == everywhere
    return everywhere.first
