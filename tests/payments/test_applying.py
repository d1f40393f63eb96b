"""Late money that cannot go back may pay its bill after all, when two persons say so."""

import asyncio
from datetime import datetime
from uuid import UUID

import pytest

from estation.fees.models import Bill
from estation.ledger.api import balance
from estation.outside.pay_channels import ChannelRefused
from estation.payments import api, jobs
from estation.payments.api import OrderState, OrderView
from estation.payments.errors import (
    IncidentAlreadyResolved,
    IncidentNotFound,
    NothingToApply,
    RefundableChanged,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from tests.payments.city import TOTAL, City, count, later, rows

SUSPENSE = "suspense:wechat_pay:1900000109"


@pytest.fixture
def city() -> City:
    return City()


async def late(city: City, *, refund_fails: bool = True) -> tuple[Bill, OrderView, UUID]:
    """Money that came after its order's end, whose refund the channel would not make."""
    bill, order, number = await city.opened()
    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    await jobs.close_due_orders(city.services, now=later(minutes=15))
    city.wechat.pay(number, at=later(minutes=14))
    await api.settle_batch([api.from_report(city.wechat.report(number))], now=later(minutes=16))
    if refund_fails:
        city.wechat.trouble["refund"] = ChannelRefused("USER_ACCOUNT_ABNORMAL")
        await jobs.send_refunds(city.services, now=later(minutes=16))
        city.wechat.trouble.clear()
    (incident,) = await rows("select id from incident where kind = 'paid_after_expiry'")
    return bill, order, incident["id"]


async def ask(incident_id: UUID, by: str = "maker") -> None:
    await api.ask_to_apply(incident_id=incident_id, by=by, note="市民要求", now=later(hours=1))


async def approve(incident_id: UUID, by: str = "checker") -> str:
    return await api.approve_applying(incident_id=incident_id, by=by, now=later(hours=2))


async def test_two_persons_apply_late_money_to_its_bill(database: str, city: City) -> None:
    bill, order, incident_id = await late(city)

    await ask(incident_id)
    between = await balance(SUSPENSE)
    transfer_id = await approve(incident_id)

    assert between == -TOTAL
    assert await balance(SUSPENSE) == 0
    assert await balance("payee_payable:treasury") == -817_524
    assert str((await Bill.get(id=bill.id)).state) == "paid"
    shown = await api.order_of(city.person_id, order.id)
    assert (shown.state, shown.paid_at) == (OrderState.PAID, later(minutes=14))
    assert shown.paid_attempt is not None
    incident = await api.incident(incident_id)
    assert (incident.state, incident.resolved_by) == ("resolved", "checker")
    assert transfer_id in incident.resolution
    actions = await rows("select action, by from incident_action order by at, id")
    assert [(row["action"], row["by"]) for row in actions][-2:] == [
        ("apply_asked", "maker"),
        ("applied", "checker"),
    ]
    assert await rows("select topic from outbox_message") == [{"topic": "receipt"}]
    assert await broken_invariants() == {}


async def test_applied_money_can_be_given_back_like_any_payment(database: str, city: City) -> None:
    _, order, incident_id = await late(city)
    await ask(incident_id)
    await approve(incident_id)

    (left,) = await api.refundable_of(order_id=order.id)
    request_id = await api.ask_refund(
        order_id=order.id,
        amount_fen=TOTAL,
        believed_refundable_fen=TOTAL,
        reason="退还",
        by="maker",
        now=later(hours=3),
    )
    await api.approve_refund(request_id=request_id, by="checker", now=later(hours=3))
    with pytest.raises(RefundableChanged):
        await api.ask_refund(
            incident_id=incident_id,
            amount_fen=TOTAL,
            believed_refundable_fen=TOTAL,
            reason="退还",
            by="maker",
            now=later(hours=3),
        )

    assert left.refundable_fen == TOTAL
    assert await broken_invariants() == {}


async def test_nobody_applies_alone_unasked_or_twice(database: str, city: City) -> None:
    _, _, incident_id = await late(city)

    with pytest.raises(NothingToApply) as unasked:
        await approve(incident_id)
    await ask(incident_id)
    with pytest.raises(SecondPersonNeeded):
        await approve(incident_id, by="maker")
    still = await balance(SUSPENSE)
    answers = await asyncio.gather(
        approve(incident_id), approve(incident_id, by="third"), return_exceptions=True
    )

    assert unasked.value.details == {"why": "not_asked"}
    assert still == -TOTAL
    assert sorted(isinstance(answer, str) for answer in answers) == [False, True]
    assert await count("ledger_transfer", "kind = 'payment'") == 1
    with pytest.raises((NothingToApply, IncidentAlreadyResolved)):
        await ask(incident_id)


async def test_a_rejected_wish_must_be_asked_again(database: str, city: City) -> None:
    _, _, incident_id = await late(city)
    await ask(incident_id)

    await api.reject_applying(
        incident_id=incident_id, by="checker", note="先退款", now=later(hours=2)
    )

    with pytest.raises(NothingToApply):
        await approve(incident_id)
    assert await balance(SUSPENSE) == -TOTAL


async def test_money_on_its_way_back_is_not_applied(database: str, city: City) -> None:
    _, _, incident_id = await late(city, refund_fails=False)

    with pytest.raises(NothingToApply) as refusal:
        await ask(incident_id)

    assert refusal.value.details == {"why": "refunded"}
    assert await count("incident_action") == 0


@pytest.mark.parametrize("change", ["version = 2", "version = 2, state = 'withdrawn'"])
async def test_a_bill_that_changed_meanwhile_is_not_paid_by_old_money(
    database: str, city: City, change: str
) -> None:
    bill, _, incident_id = await late(city)
    await ask(incident_id)
    await rows(f"update bill set {change} where id = $1 returning id", bill.id)

    with pytest.raises(NothingToApply) as refusal:
        await approve(incident_id)

    assert refusal.value.details == {"why": "bill_changed"}
    assert await balance(SUSPENSE) == -TOTAL


async def test_a_bill_in_another_open_order_is_left_to_it(database: str, city: City) -> None:
    bill, _, incident_id = await late(city)
    now: datetime = later(minutes=20)
    await city.order(await Bill.get(id=bill.id), now=now)

    with pytest.raises(NothingToApply) as refusal:
        await ask(incident_id)

    assert refusal.value.details == {"why": "in_another_order"}


async def test_other_incidents_offer_no_applying(database: str, city: City) -> None:
    _, _, number = await city.opened()
    await api.settle_batch(
        [api.from_report(city.paid(number, amount_fen=1))], now=later(seconds=30)
    )
    (incident,) = await api.list_incidents()

    with pytest.raises(NothingToApply):
        await ask(incident.id)
    with pytest.raises(IncidentNotFound):
        await ask(UUID(int=1))


async def test_an_officer_takes_an_incident_on(database: str, city: City) -> None:
    """And ends it: the money has gone back by two persons' word."""
    _, _, incident_id = await late(city)
    request_id = await api.ask_refund(
        incident_id=incident_id, amount_fen=TOTAL, believed_refundable_fen=TOTAL, reason="退还",
        by="maker", now=later(minutes=30),
    )  # fmt: skip
    await api.approve_refund(request_id=request_id, by="checker", now=later(minutes=31))

    taken = await api.take_incident(incident_id=incident_id, by="officer", now=later(hours=1))
    await api.resolve_incident(
        incident_id=incident_id, by="officer", resolution="已原路退回", now=later(hours=2)
    )

    assert taken.assigned_to == "officer"
    actions = await rows("select action, by from incident_action order by at, id")
    assert [row["action"] for row in actions][-2:] == ["take", "resolve"]
    with pytest.raises(IncidentAlreadyResolved):
        await api.take_incident(incident_id=incident_id, by="other", now=later(hours=3))
