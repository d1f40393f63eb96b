"""What staff see and may do; none of it moves money."""

import csv
import hashlib
import io
from uuid import UUID

import pytest
from tortoise import Tortoise

from estation.payments.api import open_incident
from estation.reconciliation import queries
from estation.shared import outbox
from estation.shared.money import fen_from_yuan
from estation.shared.transactions import in_transaction
from tests.reconciliation import days
from tests.reconciliation.conftest import Desk
from tests.reconciliation.days import DAY, FAULTS, NOW, WECHAT

PAGES = ["/staff", "/staff/incidents", "/staff/reconciliation", f"/staff/reconciliation/{DAY}"]


@pytest.mark.parametrize("path", PAGES)
async def test_a_stranger_is_sent_to_the_login_and_back(desk: Desk, path: str) -> None:
    assert await desk.get(path) == 303
    assert desk.headers["location"] == f"/staff/login?next={path}"


async def test_a_wrong_password_says_so_and_opens_nothing(desk: Desk) -> None:
    assert await desk.post("/staff/login", login="clerk", password="no") == 403
    assert "账号或密码不正确" in desk.text
    assert await desk.get("/staff") == 303


async def test_the_login_leads_only_to_staff_pages(desk: Desk) -> None:
    for wanted, lands in [
        ("/staff/incidents", "/staff/incidents"),
        ("//evil.example/staff", "/staff"),
        ("https://evil.example", "/staff"),
        ("/fees", "/staff"),
    ]:
        password = "Geheim-2026!"
        await desk.get("/staff/login")
        assert await desk.post("/staff/login", login="clerk", password=password, next=wanted) == 303
        assert desk.headers["location"] == lands


async def test_logging_out_ends_the_session(desk: Desk) -> None:
    await desk.login("clerk")

    assert await desk.post("/staff/logout") == 303
    assert await desk.get("/staff") == 303


async def test_the_board_shows_what_needs_somebody(desk: Desk) -> None:
    await _incident("wrong_amount", 12_345)
    await outbox.put("receipt", {}, now=NOW)
    await Tortoise.get_connection("default").execute_query(
        "update outbox_message set dead_at = $1, last_error = 'peer gone'", [NOW]
    )

    await desk.login("operator")

    assert "金额不符" in desk.text
    assert "123.45" in desk.text
    assert "peer gone" in desk.text
    assert "2026-03-10" in desk.text


async def test_a_day_is_reconciled_from_the_page_and_shown_with_both_sides(desk: Desk) -> None:
    days.amount_differs_by_one_fen_more(desk.day)
    await days.post(desk.day)
    await desk.login("clerk")
    await desk.get("/staff/reconciliation")

    assert await desk.post("/staff/reconciliation", day=str(DAY)) == 303
    assert await desk.get(desk.headers["location"]) == 200

    assert "有差异" in desk.text
    assert "金额不符" in desk.text
    assert "5.01" in desk.text
    assert "5.00" in desk.text
    assert "某clerk" in desk.text
    assert await desk.get("/staff/reconciliation?month=2026-03") == 200
    assert "有差异" in desk.text


async def test_every_kind_of_finding_has_its_place_on_the_page(desk: Desk) -> None:
    for inject, _, _ in FAULTS.values():
        inject(desk.day)
    desk.day.raw[days.ALIPAY, DAY] = b"not a bill <script>alert(1)</script>"
    await days.post(desk.day)
    await desk.login("checker")

    await desk.post("/staff/reconciliation", day=str(DAY))
    assert await desk.get(f"/staff/reconciliation/{DAY}") == 200

    assert "受阻" in desk.text
    assert "未通过自证" in desk.text
    assert "<script>alert" not in desk.text


async def test_an_unreconciled_day_says_so(desk: Desk) -> None:
    await desk.login("clerk")

    assert await desk.get(f"/staff/reconciliation/{DAY}") == 200
    assert "这一天还没有对账结果" in desk.text


@pytest.mark.parametrize("day", ["", "2026-13-01", "2026-03-12", "1999-01-01", "x" * 500])
async def test_a_day_that_cannot_be_reconciled_is_refused(desk: Desk, day: str) -> None:
    await desk.login("clerk")

    assert await desk.post("/staff/reconciliation", day=day) == 422
    assert await _count("reconciliation_run") == 0


async def test_an_operator_may_look_but_not_reconcile_nor_download(desk: Desk) -> None:
    file_id = await _reconciled(desk)
    await desk.login("operator")

    assert await desk.get(f"/staff/reconciliation/{DAY}") == 200
    assert await desk.post("/staff/reconciliation", day=str(DAY)) == 403
    assert await desk.get(f"/staff/reconciliation/{DAY}/bills/{file_id}") == 403
    assert await desk.get(f"/staff/reconciliation/{DAY}/differences.csv") == 403


async def test_a_form_without_its_token_changes_nothing(desk: Desk) -> None:
    await desk.login("clerk")

    status = await desk.post("/staff/reconciliation", day=str(DAY), csrf_token="forged")

    assert status == 403
    assert await _count("reconciliation_run") == 0


async def test_the_raw_bill_comes_byte_for_byte_with_its_hash(desk: Desk) -> None:
    file_id = await _reconciled(desk)

    assert await desk.get(f"/staff/reconciliation/{DAY}/bills/{file_id}") == 200

    assert desk.body == days.as_file(desk.day.bill(WECHAT))
    assert desk.headers["x-content-sha256"] == hashlib.sha256(desk.body).hexdigest()
    assert desk.headers["content-disposition"].startswith("attachment")
    assert await desk.get(f"/staff/reconciliation/{DAY}/bills/{UUID(int=1)}") == 404
    assert await desk.get(f"/staff/reconciliation/2026-03-09/bills/{file_id}") == 404


async def test_a_bill_that_somebody_changed_is_told_and_not_handed_out(desk: Desk) -> None:
    file_id = await _reconciled(desk)
    async with in_transaction() as db:
        await db.execute_query("set local session_replication_role = replica")
        await db.execute_query(
            "update channel_bill_file set content = content || '\\x00' where id = $1", [file_id]
        )

    assert await desk.get(f"/staff/reconciliation/{DAY}/bills/{file_id}") == 409

    assert "与存入时的摘要不符" in desk.body.decode()


async def test_the_export_ties_out_to_the_fen(desk: Desk) -> None:
    for inject, _, _ in FAULTS.values():
        inject(desk.day)
    await _reconciled(desk)

    assert await desk.get(f"/staff/reconciliation/{DAY}/differences.csv") == 200

    rows = list(csv.reader(io.StringIO(desk.body.decode("utf-8-sig"))))
    sums = {row[0]: row[5:7] for row in rows if len(row) == 7 and row[0] != "当日总额"}
    totals = [row[5:7] for row in rows if row[0] == "当日总额"]
    for side in (0, 1):
        listed, outside, matched = (
            fen_from_yuan(next(fen for name, fen in _at(sums, side) if name.startswith(word)))
            for word in ("合计", "其中", "相符")
        )
        assert listed - outside + matched == sum(fen_from_yuan(row[side]) for row in totals)
    view = await queries.latest_run(DAY)
    assert ["结果摘要", view.result_digest] in rows


async def test_the_same_run_is_exported_to_the_same_bytes(desk: Desk) -> None:
    days.missing_in_ledger(desk.day)
    await _reconciled(desk)

    await desk.get(f"/staff/reconciliation/{DAY}/differences.csv")
    first = desk.body
    await desk.get(f"/staff/reconciliation/{DAY}/differences.csv")

    assert desk.body == first


async def test_no_cell_of_the_export_is_a_formula(desk: Desk) -> None:
    for number in ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "＝1"):
        desk.day.bill(WECHAT).append(days.Line(number, 5, days.at(9), f"={number}"))
    await _reconciled(desk)

    await desk.get(f"/staff/reconciliation/{DAY}/differences.csv")

    for row in csv.reader(io.StringIO(desk.body.decode("utf-8-sig"))):
        for cell in row[:5] + row[8:]:
            assert cell.strip()[:1] not in {"=", "+", "-", "@", "＝"}


async def test_incidents_are_filtered_and_sorted_only_by_known_names(desk: Desk) -> None:
    await _incident("wrong_amount", 500)
    await _incident("double_payment", 900)
    await desk.login("clerk")

    assert await desk.get("/staff/incidents?state=open&kind=wrong_amount&sort=amount") == 200
    assert "共 1 件" in desk.text
    for query in (
        "sort=amount_fen;drop table incident",
        "state=gone",
        "kind=nothing",
        "page=-1",
        "page=99999999",
        "page=1e3",
    ):
        assert await desk.get(f"/staff/incidents?{query}") == 422
    assert await desk.get("/staff/incidents?page=9999") == 200


async def test_an_incident_shows_its_facts_and_is_resolved_with_a_reason(desk: Desk) -> None:
    incident_id = await _incident("wrong_amount", 500)
    await desk.login("clerk")
    assert await desk.get(f"/staff/incidents/{incident_id}") == 200
    assert "wrong_amount-number" in desk.text
    before = await _money()

    assert await desk.post(f"/staff/incidents/{incident_id}", resolution="   ") == 422
    assert await _states() == ["open"]
    assert await desk.post(f"/staff/incidents/{incident_id}", resolution="已电话核实") == 303
    assert await _states() == ["resolved"]

    assert await desk.get(f"/staff/incidents/{incident_id}") == 200
    assert "已电话核实" in desk.text
    assert await _money() == before


async def test_an_operator_may_not_decide_about_money(desk: Desk) -> None:
    incident_id = await _incident("wrong_amount", 500)
    await desk.login("operator")

    assert await desk.post(f"/staff/incidents/{incident_id}", resolution="没事") == 403
    assert await _states() == ["open"]


async def test_a_resolved_incident_stays_as_it_was_decided(desk: Desk) -> None:
    incident_id = await _incident("wrong_amount", 500)
    await desk.login("clerk")
    await desk.post(f"/staff/incidents/{incident_id}", resolution="第一次")
    await desk.get("/staff")

    assert await desk.post(f"/staff/incidents/{incident_id}", resolution="第二次") == 403

    await desk.get(f"/staff/incidents/{incident_id}")
    assert "第一次" in desk.text
    assert "第二次" not in desk.text


async def test_there_is_no_incident_of_an_unknown_id(desk: Desk) -> None:
    await desk.login("clerk")

    assert await desk.get(f"/staff/incidents/{UUID(int=9)}") == 404


def _at(sums: dict[str, list[str]], side: int) -> list[tuple[str, str]]:
    return [(name, pair[side]) for name, pair in sums.items()]


async def _reconciled(desk: Desk) -> UUID:
    """Post and reconcile the desk's day as clerk; the id of WeChat's file."""
    await days.post(desk.day)
    await desk.login("clerk")
    await desk.post("/staff/reconciliation", day=str(DAY))
    files = await queries.bill_files(DAY)
    return next(one.id for one in files if one.account_id == WECHAT)


async def _incident(kind: str, amount_fen: int) -> UUID:
    await open_incident(
        kind=kind,
        channel="wechat_pay",
        account_id=WECHAT,
        out_trade_no=f"{kind}-number",
        distinction=kind,
        evidence={"<b>": "evidence"},
        amount_fen=amount_fen,
        now=NOW,
    )
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select id from incident where kind = $1", [kind]
    )
    return UUID(str(rows[0]["id"]))


async def _states() -> list[str]:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select state from incident order by id"
    )
    return [row["state"] for row in rows]


async def _money() -> list[object]:
    db = Tortoise.get_connection("default")
    return [
        await db.execute_query_dict("select * from ledger_entry"),
        await db.execute_query_dict("select * from pay_order"),
        await db.execute_query_dict("select * from bill"),
    ]


async def _count(table: str) -> int:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"select count(*) as n from {table}"
    )
    return int(rows[0]["n"])
