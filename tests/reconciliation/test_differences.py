"""Every fault is found, under its right name, and nothing else is."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from tortoise import Tortoise

from estation.payments import api
from estation.payments.actions.incidents import take_incident
from estation.payments.incident_deeds import deeds_for
from estation.payments.refund_rules import Deed
from estation.payments.rules import IncidentState
from estation.payments.staff_words import incident_name
from estation.reconciliation.api import RunView, reconcile_day
from estation.reconciliation.rules import KINDS, Kind, run_state
from tests.reconciliation import days
from tests.reconciliation.days import ALIPAY, DAY, EVE, FAULTS, NEXT, NOW, WECHAT, Day, quiet_day

PAIRS = days.shuffled(list(itertools.combinations(FAULTS, 2)), seed=7)[:40]


async def reconciled(day: Day, *account_ids: str) -> RunView:
    """Post the ledger side, let the eve be reconciled first, then reconcile the day."""
    await days.post(day)
    services = days.services_for(day, *account_ids)
    await reconcile_day(EVE, services=services, now=NOW)
    return await reconcile_day(DAY, services=services, now=NOW)


def found(view: RunView) -> list[tuple[str, str]]:
    return sorted((one.kind.value, one.out_trade_no) for one in view.differences)


def wanted(names: Sequence[str]) -> list[tuple[str, str]]:
    return sorted(FAULTS[name][1:] for name in names)


async def test_a_day_on_which_everything_agrees_is_balanced(database: str) -> None:
    day = quiet_day()

    view = await reconciled(day)

    assert (view.state, found(view)) == ("balanced", [])
    assert view.matched == 12
    assert view.matched_fen == sum(one.fen for one in day.receipts)


@pytest.mark.parametrize("name", FAULTS)
async def test_one_fault_is_found_under_its_name_and_nothing_else(database: str, name: str) -> None:
    day = quiet_day()
    FAULTS[name][0](day)

    view = await reconciled(day)

    assert found(view) == wanted([name])
    assert view.matched >= 12
    assert view.state == run_state([FAULTS[name][1]])


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
async def test_two_faults_on_one_day_do_not_hide_each_other(
    database: str, names: tuple[str, str]
) -> None:
    day = quiet_day(seed=2, pairs=3)
    for name in names:
        FAULTS[name][0](day)

    view = await reconciled(day)

    assert found(view) == wanted(names)
    assert view.state == run_state([FAULTS[name][1] for name in names])


async def test_all_faults_on_one_day_are_found_and_every_fen_is_accounted_for(
    database: str,
) -> None:
    day = quiet_day()
    for inject, _, _ in FAULTS.values():
        inject(day)

    view = await reconciled(day)

    assert found(view) == wanted(list(FAULTS))
    for leg in view.legs:
        lines = [one for one in day.bill(leg["account_id"]) if one.kind == "payment"]
        ours = [
            one for one in day.receipts
            if one.account_id == leg["account_id"] and one.at.date() == DAY
        ]  # fmt: skip
        assert leg["their_fen"] == sum(one.fen for one in lines)
        assert leg["our_fen"] == sum(one.fen for one in ours)
        assert leg["theirs"].get("matched") == leg["ours"].get("matched")


async def test_a_refund_of_the_same_amount_does_not_cancel_a_missing_payment(
    database: str,
) -> None:
    """D7: with a payment we lack and an equal refund the sums agree, and both are still named."""
    day = Day()
    line = days.Line("P1", 700, days.at(9), "TP1")
    day.bill(WECHAT).extend(
        [line, days.Line("P0", 700, days.at(10), "TP0", kind="refund", refund_no="R0")]
    )

    view = await reconciled(day, WECHAT)

    assert found(view) == [("missing_in_ledger", "P1"), ("refund_not_in_ledger", "P0")]


async def test_one_fen_too_many_at_the_channel_alarms_like_one_too_few(database: str) -> None:
    """D8: a surplus is not fine."""
    day = quiet_day()
    days.amount_differs_by_one_fen_less(day)

    view = await reconciled(day)

    assert view.state == "differences"
    (difference,) = view.differences
    assert (difference.our_fen, difference.their_fen) == (499, 500)


async def test_two_bill_lines_cannot_both_claim_one_receipt(database: str) -> None:
    """D9: the leftover line is named, not matched a second time."""
    day = Day()
    line = days.Line("X", 300, days.at(9), "TX")
    day.bill(WECHAT).extend([line, line, line])
    day.receipts.append(days.Receipt("X", 300, days.at(9), "TX"))

    view = await reconciled(day, WECHAT)

    assert found(view) == [("duplicate_in_bill", "X"), ("duplicate_in_bill", "X")]
    assert (view.matched, view.matched_fen) == (1, 300)


async def test_the_same_number_at_both_channels_is_two_payments(database: str) -> None:
    day = Day()
    for account_id in (WECHAT, ALIPAY):
        day.bill(account_id).append(days.Line("X", 300, days.at(9), "TX"))
        day.receipts.append(days.Receipt("X", 300, days.at(9), "TX", account_id=account_id))

    view = await reconciled(day)

    assert (view.state, view.matched) == ("balanced", 2)


async def test_a_payment_whose_attempt_is_closed_here_is_a_conflict_of_status(
    database: str,
) -> None:
    day = quiet_day()
    days.missing_in_ledger(day)
    await _closed_attempt("MIL")

    view = await reconciled(day)

    assert found(view) == [("status_differs", "MIL")]


async def test_a_line_that_has_its_partner_on_its_own_day_is_no_partner_for_the_neighbour(
    database: str,
) -> None:
    """The eve's line matches the eve's receipt; the same number again today is a duplicate."""
    day = Day()
    for when in (EVE, DAY):
        day.bill(WECHAT, when).append(days.Line("X", 300, days.at(9, day=when), "TX"))
    day.receipts.append(days.Receipt("X", 300, days.at(9, day=EVE), "TX"))

    view = await reconciled(day, WECHAT)

    assert found(view) == [("duplicate_in_bill", "X")]


async def test_both_days_of_a_boundary_name_it(database: str) -> None:
    day = quiet_day()
    days.on_the_next_day_in_the_ledger(day)
    await days.post(day)
    services = days.services_for(day)

    first = await reconcile_day(DAY, services=services, now=NOW)
    second = await reconcile_day(NEXT, services=services, now=NOW + timedelta(days=1))

    assert found(first) == found(second) == [("day_boundary", "BND")]


async def test_a_payment_we_lack_becomes_one_incident_owned_by_finance(database: str) -> None:
    day = quiet_day()
    days.missing_in_ledger(day)

    await reconciled(day)
    await reconcile_day(DAY, services=days.services_for(day), now=NOW)

    (incident,) = await _incidents()
    assert (incident["kind"], incident["owner"], incident["amount_fen"]) == (
        "missing_in_ledger", "finance", 500,
    )  # fmt: skip
    assert incident["out_trade_no"] == "MIL"


@pytest.mark.parametrize(
    ("name", "amount_fen"),
    [
        ("amount_differs_by_one_fen_less", 500),
        ("trade_no_differs", 500),
        ("duplicate_in_bill", 500),
        ("refund_not_in_ledger", 500),
    ],
)
async def test_channel_money_that_the_ledger_does_not_explain_becomes_one_incident(
    database: str, name: str, amount_fen: int
) -> None:
    day = quiet_day()
    FAULTS[name][0](day)

    await reconciled(day)
    await reconcile_day(DAY, services=days.services_for(day), now=NOW)

    (incident,) = await _incidents()
    assert (incident["kind"], incident["out_trade_no"]) == FAULTS[name][1:]
    assert (incident["owner"], incident["amount_fen"]) == ("finance", amount_fen)
    assert incident_name(str(incident["kind"])) != incident["kind"]


@pytest.mark.parametrize("name", FAULTS)
async def test_every_type_of_difference_is_stored_as_judged_and_leads_to_a_deed_that_stays(
    database: str, name: str
) -> None:
    """D6: the verdict is saved with its row and read back; what the platform lacks and refunds
    are no exception; who has to act can, and what was done is stored."""
    inject, kind, number = FAULTS[name]
    day = quiet_day()
    inject(day)

    view = await reconciled(day)

    stored = await _rows(
        "select kind, out_trade_no from reconciliation_difference where run_id = $1", view.id
    )
    assert stored == [{"kind": kind, "out_trade_no": number}]
    meaning = KINDS[Kind(kind)]
    assert [one.kind for one in view.differences] == [kind]
    assert meaning.next_actions
    incidents = await _incidents()
    assert len(incidents) == meaning.opens_incident
    for one in incidents:
        offered = deeds_for(
            kind=kind, state=IncidentState.OPEN, owner=str(one["owner"]), role="finance_clerk"
        )
        assert {Deed.TAKE, Deed.RESOLVE} <= set(offered)
        await take_incident(incident_id=UUID(str(one["id"])), by="何敏", now=NOW)
        await api.resolve_incident(
            incident_id=UUID(str(one["id"])),
            by="何敏",
            resolution="已向渠道核实",
            now=NOW + timedelta(hours=1),
        )
        kept = await _rows("select action, by, note from incident_action order by at")
        assert kept == [
            {"action": "take", "by": "何敏", "note": ""},
            {"action": "resolve", "by": "何敏", "note": "已向渠道核实"},
        ]
        assert await _rows("select state, resolution from incident") == [
            {"state": "resolved", "resolution": "已向渠道核实"}
        ]


async def test_each_surplus_line_and_each_part_of_a_refund_is_an_incident_of_its_own(
    database: str,
) -> None:
    day = Day()
    line = days.Line("X", 300, days.at(9), "TX")
    parts = [replace(line, kind="refund", fen=100, refund_no=f"R{turn}") for turn in range(2)]
    day.bill(WECHAT).extend([line, line, line, *parts])
    day.receipts.append(days.Receipt("X", 300, days.at(9), "TX"))

    await reconciled(day, WECHAT)
    await reconcile_day(DAY, services=days.services_for(day, WECHAT), now=NOW)

    kinds = sorted(str(one["kind"]) for one in await _incidents())
    assert kinds == ["duplicate_in_bill"] * 2 + ["refund_not_in_ledger"] * 2


async def test_reconciling_moves_no_money(database: str) -> None:
    day = quiet_day()
    for inject, _, _ in FAULTS.values():
        inject(day)
    await days.post(day)
    before = await _ledger()

    await reconcile_day(DAY, services=days.services_for(day), now=NOW)

    assert await _ledger() == before


def test_every_kind_has_a_meaning_and_an_allowed_next_action() -> None:
    assert set(KINDS) == set(Kind)
    for meaning in KINDS.values():
        assert meaning.label
        assert meaning.cause.endswith("。")
        assert meaning.next_actions


def test_every_kind_decides_the_state_of_a_day() -> None:
    states = {kind: run_state([kind]).value for kind in Kind}

    assert {kind for kind, state in states.items() if state == "balanced"} == {Kind.IN_SUSPENSE}
    assert {kind for kind, state in states.items() if state == "blocked"} == {
        Kind.LEG_MISSING, Kind.LEG_UNPROVEN, Kind.UNKNOWN_MERCHANT,
    }  # fmt: skip
    assert run_state([]) == "balanced"


async def _rows(sql: str, *values: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return found


async def _incidents() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = await Tortoise.get_connection("default").execute_query_dict(
        "select * from incident"
    )
    return rows


async def _ledger() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = await Tortoise.get_connection("default").execute_query_dict(
        "select * from ledger_entry order by id"
    )
    return rows


async def _closed_attempt(out_trade_no: str) -> None:
    db = Tortoise.get_connection("default")
    (order,) = await db.execute_query_dict(
        """insert into pay_order (id, order_no, region, payer_id, amount_fen, state, created_at,
               expires_at, closed_at, close_reason)
           values (gen_random_uuid(), 'O1', '360101', gen_random_uuid(), 500, 'closed', $1, $1,
                   $1, 'expired') returning id""",
        [NOW],
    )
    await db.execute_query(
        """insert into pay_attempt (id, order_id, channel, account_id, scene, out_trade_no,
               amount_fen, state, created_at, expires_at, queries, refusal, close_reason)
           values (gen_random_uuid(), $1, 'wechat_pay', $2, 'native', $3, 500, 'closed', $4, $4,
                   0, '', 'expired')""",
        [order["id"], WECHAT, out_trade_no, NOW],
    )
