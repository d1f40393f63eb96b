"""Finance makes a file of split instructions, sees that it ties, and downloads the very bytes."""

import hashlib
import re
from dataclasses import replace
from datetime import timedelta

from estation.payments.api import fee_key, split_standing
from estation.reconciliation.api import channel_fees, reconcile_day
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
