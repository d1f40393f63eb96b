"""Finance makes a file of split instructions, sees that it ties, and downloads the very bytes."""

import hashlib
import re
from dataclasses import replace
from datetime import timedelta

from estation.ledger.api import (
    Leg,
    TransferInput,
    balance,
    channel_fee,
    clearing,
    payee_payable,
    post_many,
    refund_in_flight,
)
from estation.payments.api import fee_key, split_exports, split_standing
from estation.reconciliation.api import (
    channel_fees,
    fee_days,
    reconcile_day,
    split_fees,
    waiting_fees,
)
from estation.shared import ids
from estation.shared.clock import day_bounds
from tests.payments.city import rows
from tests.reconciliation import days
from tests.reconciliation.conftest import Desk
from tests.reconciliation.days import ALIPAY, DAY, NOW, WECHAT


async def test_a_stranger_and_an_operator_see_no_splits(desk: Desk) -> None:
    assert await desk.get("/staff/splits") == 303

    await desk.login("operator")

    assert await desk.get("/staff/splits") == 403
    assert await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT) == 403


async def test_a_made_file_ties_with_the_ledger_and_is_what_was_made(desk: Desk) -> None:
    await days.post(desk.day)
    owed = (await split_standing(DAY, WECHAT)).ledger_fen
    await desk.login("clerk")
    await desk.get("/staff/splits")

    status = await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT)

    assert status == 303
    standing = await split_standing(DAY, WECHAT)
    assert (standing.ledger_fen, standing.instructed_fen) == (owed, owed)
    assert owed > 0
    await desk.get("/staff/splits")
    number = re.search(r"/staff/splits/(FZ[0-9A-Z]+)\.csv", desk.text)
    assert number is not None
    digest = re.search(r'title="([0-9a-f]{64})"', desk.text)
    assert digest is not None
    assert await desk.get(f"/staff/splits/{number[1]}.csv") == 200
    assert hashlib.sha256(desk.body).hexdigest() == digest[1]


async def test_what_is_instructed_already_is_said_on_the_page(desk: Desk) -> None:
    await days.post(desk.day)
    await desk.login("checker")
    await desk.get("/staff/splits")
    await desk.post("/staff/splits", day=str(DAY), account_id=ALIPAY)
    await desk.get("/staff/splits")

    status = await desk.post("/staff/splits", day=str(DAY), account_id=ALIPAY)

    assert status == 409
    assert "没有尚未分账的款项" in desk.text


async def test_what_came_after_its_days_file_is_shown_until_the_next_takes_it(desk: Desk) -> None:
    await days.post(desk.day)
    await desk.login("clerk")
    await desk.get("/staff/splits")
    assert "迟到入账" not in desk.text
    await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT)
    late = TransferInput(
        id=str(ids.row_id(NOW)),
        idempotency_key="late",
        kind="payment",
        region="360101",
        order_id=None,
        our_no="LATE",
        channel_no="LATE-5030",
        occurred_at=day_bounds(DAY)[0],
        legs=[
            Leg(clearing(WECHAT), debit_fen=4_321),
            Leg(payee_payable("treasury"), credit_fen=4_321),
        ],
    )
    await post_many([late], now=NOW)

    await desk.get("/staff/splits")
    shown = desk.text
    before = str(DAY - timedelta(days=1))
    status = await desk.post("/staff/splits", day=before, account_id=WECHAT)

    assert "迟到入账，待下达" in shown
    assert "43.21" in shown
    assert status == 303
    await desk.get("/staff/splits")
    assert "迟到入账" not in desk.text
    assert (await split_standing(DAY, WECHAT)).open_fen == 0


async def test_the_fees_of_late_money_go_with_it(desk: Desk) -> None:
    await days.post(desk.day)
    lines = desk.day.bill(WECHAT)
    lines[0] = replace(lines[0], fee_fen_e3=5000)
    await reconcile_day(DAY, services=days.services_for(desk.day), now=NOW)
    other = DAY - timedelta(days=5)
    assert await split_fees(other, WECHAT, now=NOW) == {}
    await rows(
        """insert into split_export (id, export_no, day, account_id, lines, total_fen, sha256,
                                     content, made_by, made_at)
           values (gen_random_uuid(), 'FZ1', $1, $2, 0, 0, '', '', 'x', '2000-01-01')""",
        DAY,
        WECHAT,
    )

    fees = await split_fees(other, WECHAT, now=NOW)

    assert fees[fee_key(lines[0].trade_no, is_refund=False)] == 5


async def test_fees_of_a_bill_that_came_after_the_file_go_with_the_next_one(desk: Desk) -> None:
    await days.post(desk.day)
    await desk.login("clerk")
    await desk.get("/staff/splits")
    assert await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT) == 303
    lines = desk.day.bill(WECHAT)
    lines[0] = replace(lines[0], fee_fen_e3=500_000)
    await reconcile_day(DAY, services=days.services_for(desk.day), now=NOW)

    await desk.get("/staff/splits")
    waiting = desk.text
    again = await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT)

    assert "手续费更正，待下达" in waiting
    assert again == 303
    assert await told_of_fees() == 500 == await balance(channel_fee(WECHAT))
    await desk.get("/staff/splits")
    assert "手续费更正，待下达" not in desk.text
    assert await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT) == 409
    assert await told_of_fees() == 500


async def test_a_corrected_bill_corrects_what_was_instructed_down_to_nothing(desk: Desk) -> None:
    await days.post(desk.day)
    lines = desk.day.bill(WECHAT)
    dear = replace(lines[0], fee_fen_e3=5_000)
    lines[0], free = dear, lines[0]
    await reconcile_day(DAY, services=days.services_for(desk.day), now=NOW)
    await desk.login("clerk")
    await desk.get("/staff/splits")
    await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT)
    assert await told_of_fees() == 5
    lines[0] = free
    later = NOW + timedelta(minutes=1)
    await reconcile_day(DAY, services=days.services_for(desk.day), now=later)
    await desk.get("/staff/splits")

    status = await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT)

    assert status == 303
    assert await told_of_fees() == 0 == await balance(channel_fee(WECHAT))


async def file_after(desk: Desk, *, minutes: int) -> int:
    """The day is reconciled again, and whatever waits is instructed; the answer's status."""
    later = NOW + timedelta(minutes=minutes)
    for day in (DAY, DAY + timedelta(days=1)):
        await reconcile_day(day, services=days.services_for(desk.day), now=later)
    await desk.get("/staff/splits")
    return await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT)


async def test_a_fee_whose_line_is_in_the_corrected_bill_no_more_is_taken_back(desk: Desk) -> None:
    await days.post(desk.day)
    lines = desk.day.bill(WECHAT)
    lines[1] = replace(lines[1], fee_fen_e3=7_000)
    dear = replace(lines[0], fee_fen_e3=5_000)
    lines[0] = dear
    await desk.login("clerk")
    assert await file_after(desk, minutes=0) == 303
    told = await told_of_fees()
    lines.remove(dear)

    assert await file_after(desk, minutes=1) == 303

    assert (told, await told_of_fees(), await balance(channel_fee(WECHAT))) == (12, 7, 7)
    assert await file_after(desk, minutes=2) == 409
    lines.append(dear)
    assert await file_after(desk, minutes=3) == 303
    assert await told_of_fees() == 12 == await balance(channel_fee(WECHAT))


async def test_a_fee_whose_line_moved_to_the_next_days_bill_stays_as_it_was_told(
    desk: Desk,
) -> None:
    await days.post(desk.day)
    lines = desk.day.bill(WECHAT)
    dear = lines[0] = replace(lines[0], fee_fen_e3=5_000)
    await desk.login("clerk")
    assert await file_after(desk, minutes=0) == 303
    lines.remove(dear)
    desk.day.bill(WECHAT, DAY + timedelta(days=1)).append(dear)

    assert await file_after(desk, minutes=1) == 409

    assert await told_of_fees() == 5 == await balance(channel_fee(WECHAT))


async def test_what_came_back_with_a_refund_is_taken_again_when_its_line_is_gone(
    desk: Desk,
) -> None:
    await days.post(desk.day)
    back = TransferInput(
        id=str(ids.row_id(NOW)),
        idempotency_key="refund_start:R1",
        kind="refund_start",
        region="360101",
        order_id=None,
        our_no="R1",
        channel_no="R1",
        occurred_at=day_bounds(DAY)[0],
        legs=[
            Leg(payee_payable("treasury"), debit_fen=100),
            Leg(refund_in_flight(WECHAT), credit_fen=100),
        ],
    )
    await post_many([back], now=NOW)
    lines = desk.day.bill(WECHAT)
    line = replace(lines[2], kind="refund", refund_no="R1", fen=100, fee_fen_e3=-2_000)
    lines.append(line)
    await desk.login("clerk")
    assert await file_after(desk, minutes=0) == 303
    told = await told_of_fees()
    lines.remove(line)

    assert await file_after(desk, minutes=1) == 303

    assert (told, await told_of_fees(), await balance(channel_fee(WECHAT))) == (-2, 0, 0)


async def test_bills_read_before_a_file_are_no_news_to_the_next(desk: Desk) -> None:
    await days.post(desk.day)
    await reconcile_day(DAY, services=days.services_for(desk.day), now=NOW - timedelta(hours=2))
    assert await fee_days(WECHAT, now=NOW) == []  # nothing is instructed
    await desk.login("clerk")
    await desk.get("/staff/splits")
    await desk.post("/staff/splits", day=str(DAY), account_id=WECHAT)
    assert await fee_days(WECHAT, now=NOW) == []

    await reconcile_day(DAY, services=days.services_for(desk.day), now=NOW)

    assert await fee_days(WECHAT, now=NOW) == [DAY]
    assert await waiting_fees(WECHAT, now=NOW) == []


async def test_a_file_from_before_corrections_knew_no_bill_for_certain(desk: Desk) -> None:
    await days.post(desk.day)
    await reconcile_day(DAY, services=days.services_for(desk.day), now=NOW - timedelta(hours=2))
    await rows(
        """insert into split_export (id, export_no, day, account_id, lines, total_fen, sha256,
                                     content, made_by, made_at)
           values (gen_random_uuid(), 'FZ1', $1, $2, 0, 0, '', '', 'x', $3)""",
        DAY,
        WECHAT,
        NOW,
    )

    assert await fee_days(WECHAT, now=NOW) == [DAY]
    assert await fee_days(WECHAT, now=NOW + timedelta(days=93)) == []


async def told_of_fees() -> int:
    """What the files say of fees in all."""
    return sum(one.fee_fen for one in await split_exports())


async def test_bad_days_accounts_and_files_are_refused(desk: Desk) -> None:
    await desk.login("clerk")
    await desk.get("/staff/splits")

    assert await desk.post("/staff/splits", day="yesterday", account_id=WECHAT) == 422
    assert await desk.post("/staff/splits", day=str(DAY), account_id="wechat_pay:9") == 404
    assert await desk.get("/staff/splits/FZ1.csv") == 404
    assert await desk.get(f"/staff/splits/{'F' * 33}.csv") == 404
    tomorrow = str(NOW.date() + timedelta(days=1))
    assert await desk.post("/staff/splits", day=tomorrow, account_id=WECHAT) == 409


async def test_fees_come_from_proven_bills_rounded_half_up(desk: Desk) -> None:
    await days.post(desk.day)
    lines = desk.day.bill(WECHAT)
    lines[0], lines[1] = replace(lines[0], fee_fen_e3=1499), replace(lines[1], fee_fen_e3=-1500)
    assert await channel_fees(DAY, WECHAT) == {}

    await reconcile_day(DAY, services=days.services_for(desk.day), now=NOW)

    assert await channel_fees(DAY, WECHAT) == {
        fee_key(lines[0].trade_no, is_refund=False): 1,
        fee_key(lines[1].trade_no, is_refund=False): 2,
    }
