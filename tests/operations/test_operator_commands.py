"""What an operator reads at a terminal is whole, however narrow; programs read JSON."""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from estation import operating
from estation.cli import main
from estation.identity.api import ensure_staff
from estation.payments import api
from estation.payments.actions.incidents import open_incident
from estation.payments.errors import NotYourIncident, SecondPersonNeeded
from estation.shared.clock import system_clock
from tests.payments.city import City, rows
from tests.payments.fakes import NOW
from tests.payments.office import PASSWORD

NUMBER = "FY20260803120000ABCDEFGHJKMNPQRS"


@pytest.fixture(autouse=True)
def _city(own_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_DATABASE_URL", own_database_url)


def estation(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None, result.output
    return result.output


def plant(many: int) -> None:
    async def open_them() -> None:
        for number in range(many):
            await open_incident(
                kind="wrong_amount",
                channel="wechat_pay",
                account_id="wechat_pay:1900000109",
                out_trade_no=NUMBER,
                distinction=str(number),
                evidence={},
                amount_fen=12_345,
                now=NOW + timedelta(seconds=number),
            )

    operating._on_database(open_them)


def listed() -> Any:
    return json.loads(estation("incidents", "list", "--json"))


def test_incidents_are_told_to_programs_with_how_many_there_are() -> None:
    assert listed() == {"open": 0, "incidents": []}

    plant(operating.INCIDENTS_SHOWN + 1)

    told = listed()
    assert told["open"] == operating.INCIDENTS_SHOWN + 1
    assert len(told["incidents"]) == operating.INCIDENTS_SHOWN
    dues = [datetime.fromisoformat(one["due"]) for one in told["incidents"]]
    assert dues == sorted(dues)
    first = told["incidents"][0]
    assert (first["number"], first["cause"], first["amount"]) == (NUMBER, "金额不符", "123.45")


def test_a_narrow_terminal_folds_numbers_and_cuts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(1)
    (one,) = listed()["incidents"]
    monkeypatch.setattr(operating.console, "_width", 60)

    table = estation("incidents", "list")

    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in table.splitlines()
        if "│" in line
    ]
    columns = ["".join(parts) for parts in zip(*cells, strict=True)]
    assert any(one["id"] in column for column in columns), table
    assert any(NUMBER in column for column in columns), table
    assert "…" not in table


def test_who_sees_a_part_of_the_incidents_is_told_so() -> None:
    plant(operating.INCIDENTS_SHOWN + 1)

    assert f"共 {operating.INCIDENTS_SHOWN + 1} 件" in estation("incidents", "list")


CHECKER = "罗建平（财务复核）"


async def an_office_with_odd_money() -> UUID:
    for login, name, role in (
        ("fuhe", "罗建平", "finance_checker"),
        ("yunwei", "丁一", "operator"),
    ):
        await ensure_staff(login=login, name=name, role=role, password=PASSWORD, now=NOW)
    city = City()
    _, _, number = await city.opened()
    now = system_clock()  # the channel gives nothing back after a year
    await api.settle_batch([api.from_report(city.paid(number, amount_fen=5_000, at=now))], now=now)
    (found,) = await rows("select id from incident")
    return UUID(str(found["id"]))


def test_who_asks_at_the_command_line_may_not_approve_at_the_page() -> None:
    incident_id = operating._on_database(an_office_with_odd_money)

    estation("refunds", "ask", str(incident_id), "--by", "fuhe", "--reason", "原路退回")

    async def approve() -> Any:
        (refund,) = await rows("select * from pay_refund")
        (officer,) = await rows("select id from staff_user where login = 'fuhe'")
        with pytest.raises(SecondPersonNeeded):
            await api.approve_refund(
                request_id=refund["request_id"], by=CHECKER, by_id=officer["id"], now=NOW
            )
        return refund, officer["id"]

    refund, account = operating._on_database(approve)
    assert (refund["state"], refund["asked_by"]) == ("asked", CHECKER)
    assert refund["asked_by_id"] == account


@pytest.mark.parametrize("by", ["罗建平", "nobody", "", "a\x00b", "\udcff", "yunwei"])
def test_only_a_known_login_of_finance_asks_for_a_refund(by: str) -> None:
    incident_id = operating._on_database(an_office_with_odd_money)

    result = CliRunner().invoke(
        main, ["refunds", "ask", str(incident_id), "--by", by, "--reason", "原路退回"]
    )

    assert result.exit_code == 2
    words = NotYourIncident.message if by == "yunwei" else "没有这个登录名的工作人员"
    assert words in result.output.replace("\n", "")
    assert operating._on_database(lambda: rows("select id from pay_refund")) == []


def test_who_resolves_at_the_command_line_is_named_as_at_the_page() -> None:
    operating._on_database(an_office_with_odd_money)
    plant(1)

    def resolve(by: str) -> Any:
        one = operating._on_database(
            lambda: rows("select id from incident where out_trade_no = $1", NUMBER)
        )
        words = ["incidents", "resolve", str(one[0]["id"]), "--by", by, "--words", "已核实"]
        result = CliRunner().invoke(main, words)
        (row,) = operating._on_database(
            lambda: rows(
                """select i.state, i.resolved_by, a.by_id = s.id as by_account from incident i
                   left join incident_action a on a.incident_id = i.id
                   left join staff_user s on s.login = 'yunwei' where i.out_trade_no = $1""",
                NUMBER,
            )
        )
        return result.exit_code, row["state"], row["resolved_by"], row["by_account"]

    assert resolve("丁一") == (2, "open", "", None)
    assert resolve("yunwei") == (0, "resolved", "丁一（运维）", True)


@pytest.mark.parametrize(
    "words", ["\x00", "已\x00核实", "已\x1b[2J核实", "\udcff", " ", "字" * 2001]
)
def test_words_that_are_no_text_are_refused_at_the_command_line(words: str) -> None:
    incident_id = str(operating._on_database(an_office_with_odd_money))
    plant(1)
    (found,) = operating._on_database(
        lambda: rows("select id from incident where out_trade_no = $1", NUMBER)
    )
    asked = ["refunds", "ask", incident_id, "--by", "fuhe", "--reason", words]
    resolved = ["incidents", "resolve", str(found["id"]), "--by", "yunwei", "--words", words]

    for command in (asked, resolved):
        result = CliRunner().invoke(main, command)

        assert (result.exit_code, type(result.exception)) == (2, SystemExit)
        assert "填写的内容" in result.output
    assert operating._on_database(lambda: rows("select id from pay_refund")) == []
    assert operating._on_database(lambda: rows("select 1 from incident_action")) == []


@pytest.mark.parametrize("number", ["a\x00b", "\udcff", "\x1b", "NOBODYS"])
def test_a_number_that_is_no_text_is_nobodys_at_the_command_line(number: str) -> None:
    for command in (
        ["receipts", "resend", number],
        ["split-export", "2026-03-10", "--account", number],
    ):
        result = CliRunner().invoke(main, command)

        assert (result.exit_code, type(result.exception)) == (2, SystemExit), command
        assert "没有" in result.output
