"""Refunds asked by a maker and approved by a checker, and those the centre orders."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from estation.fees.actions import IncomingBill, merge_bills
from estation.fees.models import Bill
from estation.ledger.api import balance
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import (
    FeeBillRow,
    FeeItemRow,
    PartyRow,
    RefundOrderRow,
    RefundShareRow,
    decode_row,
)
from estation.outside.pay_channels import RefundStatus
from estation.payments import api, jobs, packets
from estation.payments.actions import refund_locking
from estation.payments.actions.refunds import ask as asking
from estation.payments.api import OrderView, Share
from estation.payments.errors import (
    ArrivalNotFound,
    RefundableChanged,
    RefundAlreadyDecided,
    RefundNotAbnormal,
    RefundNotPossible,
    RefundTooMuch,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from estation.shared.errors import InvalidInput
from estation.shared.transactions import in_transaction
from tests.identity.people import VAULT
from tests.payments.city import MONEY, SHARES, TOTAL, City, count, later, rows
from tests.payments.fakes import NOW

CLEARING = "channel_clearing:wechat_pay:1900000109"
IN_FLIGHT = "refund_in_flight:wechat_pay:1900000109"
SUSPENSE = "suspense:wechat_pay:1900000109"
AN_HOUR_LATER = later(hours=1)


@pytest.fixture
def city() -> City:
    return City()


async def paid(city: City, shares: dict[str, int] | None = None) -> tuple[Bill, OrderView, str]:
    bill, order, number = await city.opened(shares)
    await api.settle_batch([api.from_report(city.paid(number))], now=later(seconds=30))
    return bill, order, number


async def ask(order: OrderView, amount_fen: int, **changes: Any) -> UUID:
    values: dict[str, Any] = {
        "order_id": order.id,
        "amount_fen": amount_fen,
        "believed_refundable_fen": TOTAL,
        "reason": "契税多缴退还",
        "by": "maker",
        "now": later(hours=1),
    }
    return await api.ask_refund(**{**values, **changes})


async def approve(request_id: UUID, by: str = "checker", now: datetime = AN_HOUR_LATER) -> None:
    await api.approve_refund(request_id=request_id, by=by, now=now)


async def send(city: City, at: datetime) -> None:
    city.wechat.now = city.alipay.now = at
    await jobs.send_refunds(city.services, now=at)


async def give_back(city: City, at: datetime) -> None:
    """Send what is due, and have the channel finish and tell."""
    await send(city, at)
    items = []
    for number, refund in list(city.wechat.refunds.items()):
        if refund.status is RefundStatus.PROCESSING:
            items.append(api.from_refund(city.wechat.finish(number, at=at)))
    await api.settle_batch(items, now=at)


async def told() -> list[dict[str, Any]]:
    """What the centre will read of refunds, oldest first."""
    messages = await rows(
        "select body::text as body from outbox_message where topic = 'refund' order by id"
    )
    return [
        {
            name: getattr(decode_row("refund", message["body"]), name)
            for name in ("state", "version", "amount_fen", "refund_no", "why_not")
        }
        for message in messages
    ]


async def test_nothing_leaves_before_a_second_person_agrees(database: str, city: City) -> None:
    bill, order, _ = await paid(city)

    request_id = await ask(order, 8_000)
    await send(city, later(hours=1))
    before = (await balance(IN_FLIGHT), len(city.wechat.refunds))
    await approve(request_id)
    reserved = await balance(IN_FLIGHT)
    await give_back(city, later(hours=2))

    assert before == (0, 0)
    assert reserved == -8_000
    assert await balance(IN_FLIGHT) == 0
    assert await balance(CLEARING) == TOTAL - 8_000
    assert str((await Bill.get(id=bill.id)).state) == "paid", "only part of it came back"
    assert [one["state"] for one in await told()] == ["refunding", "refunded"]
    assert await broken_invariants() == {}


async def test_the_whole_payment_given_back_makes_the_bill_refunded(
    database: str, city: City
) -> None:
    bill, order, _ = await paid(city)

    await approve(await ask(order, 8_000))
    await give_back(city, later(hours=2))
    partly = str((await Bill.get(id=bill.id)).state)
    await approve(await ask(order, TOTAL - 8_000, believed_refundable_fen=TOTAL - 8_000))
    await give_back(city, later(hours=3))

    assert partly == "paid"
    assert str((await Bill.get(id=bill.id)).state) == "refunded"
    assert await balance("payee_payable:treasury") == await balance("payee_payable:non_tax") == 0
    assert await balance(CLEARING) == 0
    assert await broken_invariants() == {}


async def test_who_asked_may_not_approve_and_not_reject(database: str, city: City) -> None:
    _, order, _ = await paid(city)
    request_id = await ask(order, 100)

    with pytest.raises(SecondPersonNeeded):
        await approve(request_id, by="maker")
    with pytest.raises(SecondPersonNeeded):
        await api.reject_refund(request_id=request_id, by="maker", note="no", now=later(hours=1))

    assert await rows("select state, decided_by from pay_refund") == [
        {"state": "asked", "decided_by": ""}
    ]
    assert await balance(IN_FLIGHT) == 0


async def test_a_stale_belief_is_refused_with_the_present_sum(database: str, city: City) -> None:
    _, order, _ = await paid(city)
    await ask(order, 100)

    with pytest.raises(RefundableChanged) as refusal:
        await ask(order, 100)

    assert refusal.value.http_status == 412
    assert refusal.value.details == {"refundable_fen": TOTAL - 100}
    assert await count("pay_refund") == 1


async def test_a_rejected_refund_frees_its_sum(database: str, city: City) -> None:
    _, order, _ = await paid(city)
    request_id = await ask(order, TOTAL)

    await api.reject_refund(request_id=request_id, by="checker", note="不符", now=later(hours=1))
    await ask(order, TOTAL)

    with pytest.raises(RefundAlreadyDecided):
        await approve(request_id)
    with pytest.raises(InvalidInput):
        await api.reject_refund(request_id=request_id, by="checker", note=" ", now=later(hours=1))
    states = await rows("select state, decision_note from pay_refund order by asked_at, id")
    assert {(row["state"], row["decision_note"]) for row in states} == {
        ("rejected", "不符"),
        ("asked", ""),
    }
    assert await broken_invariants() == {}


async def two_times_sixty_percent(order: OrderView) -> Sequence[object]:
    return await asyncio.gather(
        *(ask(order, TOTAL * 6 // 10, by=f"maker{n}") for n in (1, 2)), return_exceptions=True
    )


async def test_of_two_refunds_of_sixty_percent_at_once_one_wins(database: str, city: City) -> None:
    """D3"""
    _, order, _ = await paid(city)

    answers = await two_times_sixty_percent(order)

    assert sorted(type(answer).__name__ for answer in answers) == ["RefundableChanged", "UUID"]
    assert await count("pay_refund") == 1
    assert await broken_invariants() == {}


@pytest.fixture
def no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both makers have read what is left before either writes."""
    unlocked = refund_locking.LOCK_ARRIVALS.replace("for update", "")
    monkeypatch.setattr(refund_locking, "LOCK_ARRIVALS", unlocked)
    both_have_read = asyncio.Barrier(2)
    real = asking.lock_standings

    async def read_together(*args: Any) -> Any:
        standings = await real(*args)
        await both_have_read.wait()
        return standings

    async def no_bills(bill_ids: list[UUID], *, with_split: bool) -> list[Bill]:
        return list(await Bill.filter(id__in=bill_ids))

    monkeypatch.setattr(asking, "lock_standings", read_together)
    monkeypatch.setattr(asking, "lock_bills", no_bills)


async def test_without_the_lock_both_would_win(database: str, city: City, no_lock: None) -> None:
    """D3, negative control: the lock of the arrival is what makes the test above pass."""
    _, order, _ = await paid(city)

    answers = await two_times_sixty_percent(order)

    assert [type(answer).__name__ for answer in answers] == ["UUID", "UUID"]
    asked = await rows("select amount_fen from pay_refund where state = 'asked'")
    assert sum(row["amount_fen"] for row in asked) > TOTAL


async def test_should_both_be_asked_for_neither_gets_a_yes_while_the_other_waits(
    database: str, city: City, no_lock: None
) -> None:
    """D3: the checker's yes reads again what is left."""
    _, order, _ = await paid(city)
    first, second = await two_times_sixty_percent(order)
    assert isinstance(first, UUID)
    assert isinstance(second, UUID)

    for request_id in (first, second):
        with pytest.raises(RefundableChanged):
            await approve(request_id)
    await api.reject_refund(request_id=second, by="checker", note="重复", now=later(hours=1))
    await approve(first)

    states = await rows("select state from pay_refund order by state")
    assert [row["state"] for row in states] == ["approved", "rejected"]
    assert await broken_invariants() == {}


@pytest.mark.parametrize("amount_fen", [0, -1])
async def test_an_amount_of_nothing_is_refused(database: str, city: City, amount_fen: int) -> None:
    _, order, _ = await paid(city)

    with pytest.raises(InvalidInput):
        await ask(order, amount_fen)

    assert await count("pay_refund") == 0


async def test_more_than_is_left_is_refused(database: str, city: City) -> None:
    bill, order, _ = await paid(city)

    with pytest.raises(RefundTooMuch):
        await ask(order, TOTAL + 1)
    with pytest.raises(RefundTooMuch):
        await ask(order, 8_001, shares=[Share(bill.id, "non_tax", 8_001)])
    with pytest.raises(RefundTooMuch):
        await ask(order, 1, shares=[Share(bill.id, "nobody", 1)])
    with pytest.raises(InvalidInput):
        await ask(order, 9, shares=[Share(bill.id, "non_tax", 8)])

    assert await count("pay_refund") == 0


async def test_a_part_is_taken_from_the_payees_in_the_defined_order(
    database: str, city: City
) -> None:
    """Decision 20: the registration fee first, the treasury last."""
    _, order, _ = await paid(city)

    await approve(await ask(order, 8_100))

    shares = await rows("select payee_code, amount_fen from pay_refund_share order by payee_code")
    assert shares == [
        {"payee_code": "non_tax", "amount_fen": 8_000},
        {"payee_code": "treasury", "amount_fen": 100},
    ]
    assert await balance("payee_payable:non_tax") == 0


async def test_the_maker_may_say_who_gives_back(database: str, city: City) -> None:
    bill, order, _ = await paid(city)

    await approve(await ask(order, 500, shares=[Share(bill.id, "treasury", 500)]))

    assert await balance("payee_payable:treasury") == -(SHARES["treasury"] - 500)
    assert await broken_invariants() == {}


async def test_the_channels_limits_are_told_before_anybody_is_asked(
    database: str, city: City
) -> None:
    _, order, _ = await paid(city)

    with pytest.raises(RefundNotPossible) as too_old:
        await ask(order, 1, now=NOW + timedelta(days=365, seconds=1))
    request_id = await ask(order, 1, now=NOW + timedelta(days=364))
    with pytest.raises(RefundNotPossible):
        await approve(request_id, now=NOW + timedelta(days=366))

    assert too_old.value.details["why"] == "too_old"
    assert await rows("select state from pay_refund") == [{"state": "asked"}]


async def test_the_fifty_first_part_is_refused(database: str, city: City) -> None:
    _, order, _ = await paid(city)
    for n in range(50):
        await ask(order, 1, believed_refundable_fen=TOTAL - n)

    with pytest.raises(RefundNotPossible) as refusal:
        await ask(order, 1, believed_refundable_fen=TOTAL - 50)

    assert refusal.value.details["why"] == "too_many"
    assert await count("pay_refund") == 50


async def test_parts_of_one_trade_go_to_the_channel_a_minute_apart(
    database: str, city: City
) -> None:
    _, order, _ = await paid(city)
    for n in range(3):
        await approve(await ask(order, 10, believed_refundable_fen=TOTAL - 10 * n))

    sent = []
    for seconds in (0, 1, 59, 74, 75, 76, 149, 150, 151):
        await send(city, later(hours=2, seconds=seconds))
        sent.append(len(city.wechat.refunds))

    assert sent == [1, 1, 1, 1, 2, 2, 2, 3, 3], "a minute, and a margin for the way"
    assert {row["state"] for row in await rows("select state from pay_refund")} == {"processing"}
    assert await count("pay_refund", "last_error <> ''") == 0


async def test_money_in_suspense_is_given_back_for_its_incident(database: str, city: City) -> None:
    """The wrong amount waits for a person, who asks; the incident is resolved by the proof."""
    _, _, number = await city.opened()
    await api.settle_batch(
        [api.from_report(city.paid(number, amount_fen=5_000))], now=later(seconds=30)
    )
    (incident,) = await api.list_incidents()

    request_id = await api.ask_refund(
        incident_id=incident.id,
        amount_fen=5_000,
        believed_refundable_fen=5_000,
        reason="金额不符，原路退回",
        by="maker",
        now=later(hours=1),
    )
    await approve(request_id, now=later(hours=1, minutes=1))
    await give_back(city, later(hours=2))

    assert await balance(SUSPENSE) == await balance(CLEARING) == 0
    assert (await api.incident(incident.id)).resolved_by == "system"
    actions = await rows("select action, by from incident_action order by at, id")
    assert [row["action"] for row in actions] == ["refund_asked", "refund_approved", "refunded"]
    assert [row["by"] for row in actions] == ["maker", "checker", "system"]
    assert await told() == [], "the centre never heard of this money"
    assert await broken_invariants() == {}


async def test_a_part_of_suspense_leaves_its_incident_open(database: str, city: City) -> None:
    _, _, number = await city.opened()
    await api.settle_batch(
        [api.from_report(city.paid(number, amount_fen=5_000))], now=later(seconds=30)
    )
    (incident,) = await api.list_incidents()
    for n in range(2):
        request_id = await api.ask_refund(
            incident_id=incident.id,
            amount_fen=2_500,
            believed_refundable_fen=5_000 - 2_500 * n,
            reason="退回",
            by="maker",
            now=later(hours=1),
        )
        await approve(request_id)
        await give_back(city, later(hours=2 + n))
        if n == 0:
            assert (await api.incident(incident.id)).resolved_at is None

    assert (await api.incident(incident.id)).resolved_at is not None


async def test_an_abnormal_refund_can_be_sent_to_the_merchants_card(
    database: str, city: City
) -> None:
    _, order, _ = await paid(city)
    await approve(await ask(order, 500))
    await send(city, later(hours=1))
    (refund,) = await rows("select id, refund_no from pay_refund")
    with pytest.raises(RefundNotAbnormal):
        await redirect(city, refund["id"])
    report = city.wechat.finish(refund["refund_no"], RefundStatus.ABNORMAL)
    await api.settle_batch([api.from_refund(report)], now=later(hours=2))

    await redirect(city, refund["id"])
    between = (await api.refund_view(refund["id"])).state
    await give_back(city, later(hours=4))

    assert between == "processing"
    assert (await api.refund_view(refund["id"])).state == "succeeded"
    (incident,) = await rows("select id, state from incident where kind = 'refund_abnormal'")
    assert incident["state"] == "open"  # the money is on our card: a person pays it out
    (told,) = await api.refunds_of_order(city.person_id, order.id)
    assert told.state == "abnormal"
    actions = await rows("select action, by from incident_action order by at, id")
    assert actions[:2] == [
        {"action": "redirect_asked", "by": "maker"},
        {"action": "redirect_refund", "by": "officer"},
    ]
    assert "redirect_refund" in api.legal_deeds("refund_abnormal")


async def redirect(city: City, refund_id: UUID) -> None:
    """Both persons' words."""
    await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=2, minutes=30))
    await api.redirect_abnormal(
        refund_id=refund_id, by="officer", services=city.services, now=later(hours=3)
    )


async def test_the_payer_sees_a_refund_and_nobody_else_does(database: str, city: City) -> None:
    _, order, _ = await paid(city)
    request_id = await ask(order, 500)
    asked = await api.refunds_of_order(city.person_id, order.id)
    await approve(request_id)
    (refunding,) = await api.refunds_of_order(city.person_id, order.id)
    await give_back(city, later(hours=2))
    (refunded,) = await api.refunds_of_order(city.person_id, order.id)

    assert asked == []
    assert (refunding.state, refunding.amount_fen) == ("refunding", 500)
    assert (refunded.state, refunded.received_account) == ("refunded", "招商银行信用卡0403")
    assert refunded.at == later(hours=2)
    assert await api.refunds_of_order(UUID(int=1), order.id) == []
    (view,) = await api.refundable_of(order_id=order.id)
    assert view.refundable_fen == TOTAL - 500
    page = await api.list_refunds(page=99)
    assert (page.total, page.total_fen, page.page) == (1, 500, 1)


async def test_there_is_nothing_to_refund_of_an_unpaid_order(database: str, city: City) -> None:
    _, order, _ = await city.opened()

    with pytest.raises(ArrivalNotFound):
        await ask(order, 1)


def order_row(bill: Bill, order: OrderView, **changes: Any) -> RefundOrderRow:
    values: dict[str, Any] = {
        "source": bill.source,
        "source_id": "TK20260803000001",
        "version": 1,
        "region": bill.region,
        "bill_source_id": bill.source_id,
        "order_no": order.order_no,
        "amount_fen": 8_000,
        "believed_refundable_fen": TOTAL,
        "shares": [],
        "reason": "登记费退还",
        "asked_by": "shoufei",
        "approved_by": "dengji",
        "approved_at": NOW,
    }
    return RefundOrderRow(**{**values, **changes})


async def receive(
    *order_rows: RefundOrderRow, source: str = "jc-center", regions: Sequence[str] = ()
) -> None:
    handler = packets.make_handler(lambda: later(hours=1), VAULT.seal)
    await handler(order_rows, Arrival(f"{source}-online", 1, later(hours=1), regions=regions))


async def test_the_centres_order_is_followed_and_told_at_each_change(
    database: str, city: City
) -> None:
    bill, order, _ = await paid(city)

    await receive(order_row(bill, order))
    await receive(order_row(bill, order))
    await give_back(city, later(hours=2))

    (refund,) = await rows("select cause, state, asked_by, decided_by, source_id from pay_refund")
    assert refund == {
        "cause": "centre",
        "state": "succeeded",
        "asked_by": "shoufei",
        "decided_by": "dengji",
        "source_id": "TK20260803000001",
    }
    heard = await told()
    assert [(one["state"], one["version"]) for one in heard] == [("refunding", 1), ("refunded", 2)]
    assert await balance("payee_payable:non_tax") == 0
    assert await broken_invariants() == {}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"believed_refundable_fen": TOTAL - 1}, "refundable_changed"),
        ({"amount_fen": TOTAL + 1}, "refund_too_much"),
        ({"order_no": "NOTOURS"}, "arrival_not_found"),
        ({"bill_source_id": "NOTOURS"}, "arrival_not_found"),
        ({"approved_by": "shoufei"}, "second_person_needed"),
        (
            {"shares": [RefundShareRow(payee_code="non_tax", amount_fen=1)]},
            "invalid_input",
        ),
    ],
)
async def test_an_order_that_cannot_be_followed_is_answered_once_with_the_reason(
    database: str, city: City, changes: dict[str, Any], why: str
) -> None:
    bill, order, _ = await paid(city)

    await receive(order_row(bill, order, **changes))
    await receive(order_row(bill, order, **changes))

    (heard,) = await told()
    assert (heard["state"], heard["why_not"], heard["refund_no"]) == ("refused", why, "")
    (incident,) = await rows("select kind, state from incident")
    assert incident == {"kind": "refund_order_refused", "state": "open"}
    assert await count("pay_refund") == 0
    assert await count("ledger_transfer", MONEY) == 1


async def test_one_impossible_order_does_not_hold_up_the_others(database: str, city: City) -> None:
    bill, order, _ = await paid(city)
    other, other_order, _ = await paid(city)

    await receive(
        order_row(bill, order, amount_fen=TOTAL + 1),
        order_row(other, other_order, source_id="TK2"),
    )

    assert {one["state"] for one in await told()} == {"refused", "refunding"}


async def test_an_order_of_another_centre_stops_at_the_door(database: str, city: City) -> None:
    bill, order, _ = await paid(city)

    with pytest.raises(RowRefused):
        await receive(order_row(bill, order), source="other-center")

    assert await count("pay_refund") == 0


async def test_an_order_of_another_region_stops_at_the_door(database: str, city: City) -> None:
    bill, order, _ = await paid(city)

    with pytest.raises(RowRefused, match="region"):
        await receive(order_row(bill, order), regions=("999999",))

    assert await count("pay_refund") == 0


async def test_a_refunded_bill_that_is_issued_anew_can_be_paid_again(
    database: str, city: City
) -> None:
    bill, order, _ = await paid(city)
    await approve(await ask(order, TOTAL))
    await give_back(city, later(hours=2))

    await reissue(bill)
    again = await city.order(await Bill.get(id=bill.id), now=later(hours=3))
    number = (await city.attempt(again, now=later(hours=3))).out_trade_no
    (outcome,) = await api.settle_batch(
        [api.from_report(city.paid(number))], now=later(hours=3, minutes=1)
    )

    assert outcome.kind == "applied"
    shown = await api.paid_order_for_bill(city.person_id, bill.id)
    assert shown is not None
    assert shown.id == again.id
    assert await broken_invariants() == {}


async def reissue(bill: Bill) -> None:
    """The centre's next version of the bill comes through the gate."""
    row = FeeBillRow(
        source=bill.source,
        source_id=bill.source_id,
        version=2,
        region=bill.region,
        bill_no=bill.bill_no,
        case_source_id=bill.case_source_id,
        title=bill.title,
        payer=PartyRow(role="buyer", name="林晓舟", id_type="1", id_no="1", phone="1"),
        state="issued",
        issued_at=NOW,
        due_on=None,
        total_fen=TOTAL,
        items=[
            FeeItemRow(
                seq=seq,
                code="deed_tax",
                name="契税",
                payee_code=payee,
                base_fen=None,
                rate="",
                relief_fen=0,
                amount_fen=amount_fen,
                formula="",
                legal_basis="",
            )
            for seq, (payee, amount_fen) in enumerate(SHARES.items(), start=1)
        ],
    )
    async with in_transaction() as db:
        await merge_bills(db, [IncomingBill(row, bill.payer_id)], data_as_of=later(hours=3))
