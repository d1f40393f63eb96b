"""Cases and bills change together with what crosses the gate, or not at all."""

import asyncio
from datetime import date
from typing import Any

import asyncpg
import pytest

from estation.inner.actions import cases
from estation.inner.actions.cases import NewCase, NewParty
from estation.inner.actions.numbers import take_numbers
from estation.inner.errors import (
    BadIdentifier,
    BillChanged,
    BillExists,
    BillNotFound,
    BillPaid,
    BillWithdrawn,
    CaseChanged,
    CaseNotFound,
    CaseNotOpen,
    HallNotFound,
    NothingDue,
    PayerNotInCase,
    TaxNotCleared,
    TextMissing,
    UnitNotFound,
)
from estation.inner.rules import Stage, StageState
from estation.shared.errors import Refused
from estation.shared.transactions import in_transaction
from tests.inner.desk import ITEMS, REG_FEN, TOTAL_FEN, UNIT, Desk, item, query


async def sent(topic: str) -> list[dict[str, Any]]:
    """What waits at the gate, oldest first, as decoded JSON."""
    rows = await query(
        "select body::jsonb->>'version' as version, body::jsonb->>'state' as state, body"
        " from gate_outgoing_row where topic = $1 order by id",
        topic,
    )
    return rows


async def snapshot() -> list[dict[str, Any]]:
    """Everything an action may change."""
    return await query(
        """select (select count(*) from gate_outgoing_row) as rows,
                  (select json_agg(b order by bill_no)::text from fee_bill b) as bills,
                  (select count(*) from fee_bill_version) as versions,
                  (select count(*) from fee_bill_item) as items,
                  (select json_agg(c order by case_no)::text from case_file c) as cases,
                  (select json_agg(s order by seq)::text from case_stage s) as stages,
                  (select json_agg(n)::text from number_series n) as numbers"""
    )


async def test_an_opened_case_waits_at_the_gate_with_parties_and_stages(desk: Desk) -> None:
    case_no = await desk.open_case()

    rows = await sent("case")

    assert case_no == "202611230001"
    body = rows[0]["body"]
    for text in ('"source_id":"202611230001"', '"林晓舟"', '"360102"', '"市民大厅"', '"escrow"'):
        assert text in str(body), body


async def test_an_issued_bill_waits_at_the_gate_with_its_items(desk: Desk) -> None:
    bill_no = await desk.issue(due_on=date(2026, 12, 8))

    rows = await sent("fee_bill")

    assert bill_no == "JF202611230001"
    assert [(row["version"], row["state"]) for row in rows] == [("1", "issued")]
    assert f'"total_fen":{TOTAL_FEN}' in str(rows[0]["body"])
    assert f'"amount_fen":{REG_FEN}' in str(rows[0]["body"])
    assert '"due_on":"2026-12-08"' in str(rows[0]["body"])


async def test_a_revision_is_a_new_version_and_the_old_one_stays(desk: Desk) -> None:
    bill_no = await desk.issue(None, item(1, "DEED", "treasury", 850_000))
    desk.later(hours=1)

    version = await desk.revise(bill_no, 1, *ITEMS, reason="补列登记费")

    assert version == 2
    versions = await query(
        "select version, total_fen, reason from fee_bill_version order by version"
    )
    assert [tuple(row.values()) for row in versions] == [
        (1, 850_000, ""),
        (2, TOTAL_FEN, "补列登记费"),
    ]
    items = await query("select version, count(*) as n from fee_bill_item group by 1 order by 1")
    assert [(row["version"], row["n"]) for row in items] == [(1, 1), (2, 2)]
    assert [row["version"] for row in await sent("fee_bill")] == ["1", "2"]


async def test_a_withdrawal_is_a_version_with_the_last_items(desk: Desk) -> None:
    bill_no = await desk.issue()

    version = await desk.withdraw(bill_no, 1)

    assert version == 2
    row = (await sent("fee_bill"))[-1]
    assert (row["version"], row["state"]) == ("2", "withdrawn")
    assert f'"amount_fen":{REG_FEN}' in str(row["body"])


async def test_what_stands_in_the_way_changes_nothing(desk: Desk) -> None:
    bill_no = await desk.issue()
    case_no = (await query("select case_no from case_file"))[0]["case_no"]
    before = await snapshot()

    async def refused(refusal: type[Refused], attempt: Any) -> None:
        with pytest.raises(refusal):
            await attempt
        assert await snapshot() == before

    await refused(BillChanged, desk.revise(bill_no, 7))
    await refused(BillChanged, desk.withdraw(bill_no, 7))
    await refused(BillNotFound, desk.revise("JF0", 1))
    await refused(TextMissing, desk.revise(bill_no, 1, reason=" "))
    await refused(TextMissing, desk.withdraw(bill_no, 1, reason=""))
    await refused(NothingDue, desk.revise(bill_no, 1, item(1, "REG", "non_tax", 0)))
    await refused(CaseNotFound, desk.issue("209901010001"))
    await refused(PayerNotInCase, desk.issue(case_no, payer_seq=3))
    await refused(TextMissing, desk.issue(case_no, title=" "))


async def test_a_withdrawn_bill_cannot_be_revised_or_withdrawn_again(desk: Desk) -> None:
    bill_no = await desk.issue()
    await desk.withdraw(bill_no, 1)
    before = await snapshot()

    with pytest.raises(BillWithdrawn):
        await desk.revise(bill_no, 2)
    with pytest.raises(BillWithdrawn):
        await desk.withdraw(bill_no, 2)

    assert await snapshot() == before


async def test_two_clerks_revising_at_once_make_one_version(desk: Desk) -> None:
    bill_no = await desk.issue()

    outcomes = await asyncio.gather(
        *(desk.revise(bill_no, 1, reason=f"更正{n}") for n in range(4)), return_exceptions=True
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["BillChanged"] * 3 + ["int"]
    assert (await query("select version from fee_bill"))[0]["version"] == 2
    assert any(isinstance(outcome, BillChanged) for outcome in outcomes)


async def test_the_same_form_sent_many_times_issues_one_bill(desk: Desk) -> None:
    case_no = await desk.open_case()
    form_id = desk.new_bill(case_no).bill_id

    numbers = await asyncio.gather(*(desk.issue(case_no, bill_id=form_id) for _ in range(4)))

    assert len(set(numbers)) == 1
    assert len(await query("select 1 from fee_bill")) == 1
    with pytest.raises(BillExists):
        await desk.issue(case_no, item(1, "REG", "non_tax", 1), bill_id=form_id)


async def test_numbers_of_a_day_are_given_out_once_whoever_asks(desk: Desk) -> None:
    async def take() -> list[str]:
        async with in_transaction():
            return await take_numbers("JF", [desk.now] * 5)

    taken = await asyncio.gather(*(take() for _ in range(6)))

    numbers = sorted(number for some in taken for number in some)
    assert numbers == [f"JF20261123{serial:04d}" for serial in range(1, 31)]


async def test_tax_is_cleared_only_when_no_bill_waits(desk: Desk) -> None:
    case_no = await desk.open_case()
    bill_no = await desk.issue(case_no)

    async def clear_tax() -> None:
        await cases.advance_stage(
            case_no,
            stage=Stage.TAX,
            to=StageState.DONE,
            note="",
            expected_version=1,
            settings=desk.settings,
            now=desk.now,
        )

    with pytest.raises(TaxNotCleared):
        await clear_tax()
    await desk.withdraw(bill_no, 1)
    await clear_tax()

    rows = await sent("case")
    assert [row["version"] for row in rows] == ["1", "2"]
    with pytest.raises(CaseChanged):
        await clear_tax()


async def test_the_last_box_closes_the_case_and_then_nothing_more_is_issued(desk: Desk) -> None:
    case_no = await desk.open_case(stage=Stage.REGISTRATION)

    await cases.advance_stage(
        case_no,
        stage=Stage.REGISTRATION,
        to=StageState.DONE,
        note="已登簿",
        expected_version=1,
        settings=desk.settings,
        now=desk.now,
    )

    assert (await sent("case"))[-1]["state"] == "closed"
    with pytest.raises(CaseNotOpen):
        await desk.issue(case_no)


async def test_a_case_needs_a_known_unit_a_hall_and_true_documents(desk: Desk) -> None:
    good = NewParty("buyer", "林晓舟", "1", "360102199203150027", "13800000001")
    bad = NewParty("buyer", "林晓舟", "1", "360102199203150028", "13800000001")

    async def refused(refusal: type[Refused], unit: str, hall: str, *parties: NewParty) -> None:
        new = NewCase("RESALE_TRANSFER", hall, unit, desk.now, parties, {})
        with pytest.raises(refusal):
            await cases.open_case(new, settings=desk.settings, now=desk.now)
        assert await query("select 1 from case_file") == []

    await refused(UnitNotFound, UNIT[:-1] + "9", "JC01", good)
    await refused(HallNotFound, UNIT, "JC99", good)
    await refused(BadIdentifier, UNIT, "JC01", good, bad)
    await refused(TextMissing, UNIT, "JC01")


async def test_versions_and_items_cannot_be_changed_even_by_sql(desk: Desk) -> None:
    await desk.issue()

    for statement in (
        "update fee_bill_item set amount_fen = 1",
        "delete from fee_bill_item",
        "update fee_bill_version set total_fen = 1",
        "delete from fee_bill_version",
    ):
        with pytest.raises(asyncpg.RaiseError, match="stays as it was issued"):
            await query(statement)


async def test_a_paid_bill_cannot_be_revised_or_withdrawn(desk: Desk) -> None:
    bill_no = await desk.issue()
    await query(
        "update fee_bill set state = 'paid', paid_at = $1, paid_version = version", desk.now
    )
    before = await snapshot()

    with pytest.raises(BillPaid):
        await desk.revise(bill_no, 1)
    with pytest.raises(BillPaid):
        await desk.withdraw(bill_no, 1)

    assert await snapshot() == before
