"""What an operator reads at a terminal is whole, however narrow; programs read JSON."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from estation import operating
from estation.cli import main
from estation.payments.actions.incidents import open_incident
from tests.payments.fakes import NOW

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
