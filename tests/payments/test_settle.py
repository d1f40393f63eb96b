"""The one door to paid: every success ends applied or as an incident with its money kept."""

import asyncio
import dataclasses
from typing import Any

import pytest

from estation.fees.models import Bill
from estation.ledger.api import balance
from estation.outside.pay_channels import (
    Channel,
    ChannelReport,
    ChannelState,
    RefundReport,
    RefundStatus,
    Scene,
)
from estation.payments import api
from estation.payments.actions import locking, statements
from estation.payments.api import OrderState, OutcomeKind, SettleItem
from estation.payments.invariants import broken_invariants
from estation.payments.rules import IncidentKind
from estation.shared.transactions import in_transaction
from estation.shared.typed import NotText
from tests.payments.city import MONEY, TOTAL, City, count, later, make_bill, rows
from tests.payments.fakes import NOW

CLEARING = "channel_clearing:wechat_pay:1900000109"
SUSPENSE = "suspense:wechat_pay:1900000109"
IN_FLIGHT = "refund_in_flight:wechat_pay:1900000109"


@pytest.fixture
def city() -> City:
    return City()


def notice_item(city: City, report: ChannelReport) -> SettleItem:
    return api.from_notice(
        city.wechat.notice(report), channel=report.channel, account_id=report.account_id
    )


async def settle(*items: SettleItem) -> list[api.Outcome]:
    return await api.settle_batch(items, now=later(seconds=30))


async def test_a_success_pays_the_order_its_bill_and_every_payee(database: str, city: City) -> None:
    bill, order, number = await city.opened()

    (outcome,) = await settle(notice_item(city, city.paid(number)))

    assert outcome.kind is OutcomeKind.APPLIED
    paid = await api.order_of(city.person_id, order.id)
    assert (paid.state, paid.paid_at) == (OrderState.PAID, NOW)
    assert paid.paid_attempt is not None
    assert paid.paid_attempt.channel_trade_no == city.wechat.trades[number].trade_no
    assert str((await Bill.get(id=bill.id)).state) == "paid"
    assert await balance(CLEARING) == TOTAL
    assert await balance("payee_payable:treasury") == -817_524
    assert await balance("payee_payable:non_tax") == -8_000
    assert await broken_invariants() == {}


async def test_the_receipt_leaves_with_the_payment(database: str, city: City) -> None:
    bill, order, number = await city.opened()

    (outcome,) = await settle(notice_item(city, city.paid(number)))

    (message,) = await rows("select topic, body::text as body from outbox_message")
    assert message["topic"] == "receipt"
    for said in (bill.source_id, order.order_no, number, str(outcome.transfer_id)):
        assert said in message["body"]


async def test_the_notice_is_in_the_inbox_as_handled(database: str, city: City) -> None:
    _, _, number = await city.opened()

    await settle(notice_item(city, city.paid(number)))

    (kept,) = await api.notices_about(number)
    assert kept.handled_at is not None
    assert kept.outcome == "applied"
    assert kept.plaintext["total"] == TOTAL


async def test_the_same_callback_ten_times_at_once_moves_money_once(
    database: str, city: City
) -> None:
    """D5: a duplicate is answered as good news and changes nothing."""
    _, _, number = await city.opened()
    item = notice_item(city, city.paid(number))

    answers = await asyncio.gather(*(settle(item) for _ in range(10)))

    kinds = sorted(answer.kind for (answer,) in answers)
    assert kinds == ["applied"] + ["repeated"] * 9
    assert await count("ledger_transfer", MONEY) == 1
    assert await count("outbox_message") == 1
    assert await count("pay_notice") == 1
    assert await count("incident") == 0


async def test_the_same_callback_ten_times_in_one_batch_moves_money_once(
    database: str, city: City
) -> None:
    _, _, number = await city.opened()
    item = notice_item(city, city.paid(number))

    outcomes = await settle(*[item] * 10)

    assert [o.kind for o in outcomes] == ["applied"] + ["repeated"] * 9
    assert await count("ledger_transfer", MONEY) == 1


async def test_the_same_odd_news_twice_in_one_batch_is_one_incident(
    database: str, city: City
) -> None:
    """Another's refund is told of until somebody hears it: no batch may fail of that."""
    _, _, number = await city.opened()
    news = RefundReport(
        channel=city.wechat.channel,
        account_id=city.wechat.account_id,
        out_trade_no=number,
        refund_no="R-NOBODY",
        status=RefundStatus.SUCCESS,
        amount_fen=100,
        at=NOW,
    )

    outcomes = await settle(*[SettleItem(news.channel, news.account_id, None, None, news)] * 2)

    assert [outcome.kind for outcome in outcomes] == ["incident"] * 2
    assert await count("incident", "kind = 'unexpected_refund'") == 1


async def test_without_its_lock_two_callbacks_would_both_be_judged_unpaid(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the lock is what makes the test above pass."""
    _, _, number = await city.opened()
    item = notice_item(city, city.paid(number))
    unlocked = locking._LOCK_FOR_NEWS
    for lock in ("for update of o, a", "for update"):
        assert lock in unlocked
        unlocked = unlocked.replace(lock, "", 1)
    monkeypatch.setattr(locking, "_LOCK_FOR_NEWS", unlocked)
    both_have_read = asyncio.Barrier(2)

    async def read_together(*args: Any, **kwargs: Any) -> locking.Locked:
        locked = await locking.lock_for_news(*args, **kwargs)
        await both_have_read.wait()
        return locked

    monkeypatch.setattr("estation.payments.actions.settle.lock_for_news", read_together)

    answers = await asyncio.gather(settle(item), settle(item), return_exceptions=True)

    kinds = [a[0].kind for a in answers if isinstance(a, list)]
    failures = [a for a in answers if isinstance(a, BaseException)]
    assert kinds == [OutcomeKind.APPLIED]
    assert len(failures) == 1, "the second believed to be the first, too, and was stopped loudly"
    assert await count("ledger_transfer", MONEY) == await count("outbox_message") == 1


async def test_a_callback_before_the_ticket_was_stored_is_applied(
    database: str, city: City
) -> None:
    """The channel may be faster than our own commit of its answer."""
    bill = await make_bill(city.person_id)
    order = await city.order(bill)
    outcomes: list[api.Outcome] = []

    async def pay_before_the_answer_comes_back(number: str) -> None:
        outcomes.extend(await settle(notice_item(city, city.paid(number, amount_fen=TOTAL))))

    city.wechat.during["open"] = pay_before_the_answer_comes_back
    attempt = await city.attempt(order)

    assert [o.kind for o in outcomes] == ["applied"]
    assert attempt.state == "paid"
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_money_for_an_unknown_order_is_kept_in_suspense_once(
    database: str, city: City
) -> None:
    item = notice_item(city, city.paid("20260803UNKNOWN000000001"))

    first, again = await settle(item, item)
    (third,) = await settle(item)

    assert (first.kind, first.incident) == (OutcomeKind.INCIDENT, "unknown_order")
    assert (again.kind, third.kind) == (OutcomeKind.REPEATED, OutcomeKind.REPEATED)
    assert await balance(SUSPENSE) == -TOTAL
    (incident,) = await api.list_incidents()
    assert (incident.owner, incident.amount_fen) == ("finance", TOTAL)
    assert incident.due_at > incident.opened_at
    assert await broken_invariants() == {}


async def test_money_that_came_before_its_number_was_known_is_never_posted_twice(
    database: str, city: City
) -> None:
    """A restored database may forget an order the channel knows; its money waits for a person."""
    bill, order, number = await city.opened()
    report = city.paid(number)
    await rows("update pay_attempt set out_trade_no = 'X' where out_trade_no = $1", number)
    await settle(notice_item(city, report))
    await rows("update pay_attempt set out_trade_no = $1 where out_trade_no = 'X'", number)

    (outcome,) = await settle(api.from_report(report))

    assert outcome.kind is OutcomeKind.INCIDENT
    assert await count("ledger_transfer", MONEY) == 1
    assert await count("incident") == 1
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.CLOSED
    assert str((await Bill.get(id=bill.id)).state) == "payable"
    assert await broken_invariants() == {}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("state = 'withdrawn'", "bill_withdrawn"),
        ("version = 2", "bill_revised"),
        ("state = 'paid', paid_at = now()", "bill_already_paid"),
    ],
)
async def test_money_for_a_changed_bill_waits_and_the_bill_is_not_blocked(
    database: str, city: City, change: str, kind: str
) -> None:
    bill, order, number = await city.opened()
    await rows(f"update bill set {change} where id = $1", bill.id)
    before = await rows("select * from bill")

    (outcome,) = await settle(notice_item(city, city.paid(number)))

    assert (outcome.kind, outcome.incident) == (OutcomeKind.INCIDENT, kind)
    after = await api.order_of(city.person_id, order.id)
    assert (after.state, after.close_reason) == (OrderState.CLOSED, kind)
    assert after.paid_attempt is None, "its money waits; it paid nothing"
    assert await rows("select * from bill") == before
    assert await api.open_order_for_bill(city.person_id, bill.id) is None
    assert (await balance(SUSPENSE), await balance(IN_FLIGHT)) == (0, -TOTAL), "it goes back"
    assert await count("outbox_message") == 0


@pytest.mark.parametrize("amount_fen", [1, TOTAL - 1, TOTAL + 1])
async def test_a_wrong_amount_is_never_applied(database: str, city: City, amount_fen: int) -> None:
    """D5"""
    bill, order, number = await city.opened()

    (outcome,) = await settle(notice_item(city, city.paid(number, amount_fen=amount_fen)))

    assert outcome.incident == "wrong_amount"
    assert str((await Bill.get(id=bill.id)).state) == "payable"
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.CLOSED
    assert await balance(SUSPENSE) == -amount_fen
    assert await broken_invariants() == {}


async def test_news_from_another_of_our_accounts_leaves_the_attempt_alone(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()
    report = dataclasses.replace(city.paid(number), account_id="wechat_pay:1900000999")

    (outcome,) = await settle(api.from_report(report))

    assert outcome.incident == "wrong_account"
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN
    assert await balance("suspense:wechat_pay:1900000999") == -TOTAL
    assert await broken_invariants() == {}


async def test_a_late_success_of_an_order_that_is_still_open_is_applied(
    database: str, city: City
) -> None:
    _, _, number = await city.opened()

    (outcome,) = await api.settle_batch([api.from_report(city.paid(number))], now=later(minutes=20))

    assert outcome.kind is OutcomeKind.APPLIED


@pytest.mark.parametrize(
    ("reason", "kind"), [("cancelled", "paid_after_close"), ("expired", "paid_after_expiry")]
)
async def test_money_after_the_end_of_its_order_waits_for_a_person(
    database: str, city: City, reason: str, kind: str
) -> None:
    """D1: the outcome that is told is the one in the tables."""
    bill, order, number = await city.opened()
    closed = ChannelReport(Channel.WECHAT_PAY, city.wechat.account_id, number, ChannelState.CLOSED)
    await settle(api.from_report(closed))
    await rows(
        "update pay_order set state='closed', closed_at=now(), close_reason=$1 where id=$2",
        reason,
        order.id,
    )
    await rows("update pay_order_bill set is_open = false where order_id = $1", order.id)

    (outcome,) = await settle(notice_item(city, city.paid(number)))

    assert outcome.incident == kind
    after = await api.order_of(city.person_id, order.id)
    assert (after.state, after.close_reason) == (OrderState.CLOSED, reason)
    assert str((await Bill.get(id=bill.id)).state) == "payable"
    assert await broken_invariants() == {}


async def test_a_paid_order_shows_the_payment_that_was_applied(database: str, city: City) -> None:
    """Not the first one made: its money came second and goes back."""
    order = await city.order(await make_bill(city.person_id))
    first = await city.attempt(order)
    second = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    city.alipay.pay(second.out_trade_no)
    await settle(
        api.from_report(city.alipay.report(second.out_trade_no)),
        notice_item(city, city.paid(first.out_trade_no)),
    )

    shown = await api.order_of(city.person_id, order.id)

    states = {one.out_trade_no: one.state for one in await api.attempts_of_order(order.id)}
    assert set(states.values()) == {"paid"}
    assert shown.paid_attempt is not None
    assert shown.paid_attempt.out_trade_no == second.out_trade_no


async def test_a_second_trade_number_under_a_paid_number_is_a_double_payment(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()
    report = city.paid(number)
    await settle(api.from_report(report))

    (outcome,) = await settle(
        api.from_report(dataclasses.replace(report, channel_trade_no="4200999"))
    )

    assert outcome.incident == "double_payment"
    assert (await balance(SUSPENSE), await balance(IN_FLIGHT)) == (0, -TOTAL), "it goes back"
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_contradicting_news_of_a_payment_moves_nothing(database: str, city: City) -> None:
    _, order, number = await city.opened()
    report = city.paid(number)
    await settle(api.from_report(report))

    other_amount, closed = await settle(
        api.from_report(dataclasses.replace(report, paid_fen=1)),
        api.from_report(
            dataclasses.replace(
                report, state=ChannelState.CLOSED, channel_trade_no=None, paid_fen=None
            )
        ),
    )

    assert other_amount.incident == closed.incident == "contradicting_news"
    assert await count("ledger_transfer", MONEY) == 1
    assert await count("incident") == 2
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_a_success_that_does_not_name_its_money_moves_nothing(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()

    (outcome,) = await settle(
        api.from_report(dataclasses.replace(city.paid(number), channel_trade_no=None))
    )

    assert outcome.incident == "incomplete_news"
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN
    assert await count("ledger_transfer", MONEY) == 0


async def test_news_of_a_refund_we_never_asked_for_has_an_owner(database: str, city: City) -> None:
    """D14: Alipay repeats the success after a partial refund. It is no second payment."""
    _, order, number = await city.opened()
    report = city.paid(number)
    await settle(api.from_report(report))

    (outcome,) = await settle(api.from_report(dataclasses.replace(report, refunded_fen=100)))

    assert outcome.incident == "unexpected_refund"
    assert await count("ledger_transfer", MONEY) == 1
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID


async def test_contradictions_inside_one_batch_end_like_one_after_the_other(
    database: str, city: City
) -> None:
    _, order, number = await city.opened()
    report = city.paid(number)
    closed = dataclasses.replace(
        report, state=ChannelState.CLOSED, channel_trade_no=None, paid_fen=None, paid_at=None
    )

    outcomes = await settle(
        api.from_report(closed),
        api.from_report(report),
        api.from_report(closed),
        api.from_report(report),
    )

    assert [o.kind for o in outcomes] == ["closed", "applied", "incident", "repeated"]
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.PAID
    assert await broken_invariants() == {}


@pytest.mark.parametrize("held", ["pay_order", "bill"])
async def test_a_bill_that_changes_while_its_payment_waits_is_judged_as_it_is_then(
    database: str, city: City, held: str
) -> None:
    """Order and bill are locked by one statement: it began before the change was committed."""
    bill, order, number = await city.opened()
    item = notice_item(city, city.paid(number))
    row = {"pay_order": order.id, "bill": bill.id}[held]
    is_held = asyncio.Event()
    settling = asyncio.create_task(_settle_after(is_held, item))

    async with in_transaction() as db:
        await db.execute_query_dict(f"select 1 from {held} where id = $1 for update", [row])
        await db.execute_query_dict(
            "update bill set version = version + 1 where id = $1", [bill.id]
        )
        is_held.set()
        await _somebody_waits_for_a_lock()
    (outcome,) = await settling

    assert outcome.incident is IncidentKind.BILL_REVISED
    assert await balance(CLEARING) == TOTAL
    assert await count("outbox_message", "topic = 'receipt'") == 0


async def test_no_bill_is_locked_while_an_attempt_is_waited_for(database: str, city: City) -> None:
    """The fixed order: who holds an order may still need its bill."""
    opened = sorted([await city.opened() for _ in range(2)], key=lambda one: one[1].id)
    items = [notice_item(city, city.paid(number)) for _, _, number in opened]
    last = opened[-1][1]
    is_held = asyncio.Event()
    settling = asyncio.create_task(_settle_after(is_held, *items))

    async with in_transaction() as db:
        await db.execute_query_dict("select 1 from pay_order where id = $1 for update", [last.id])
        is_held.set()
        await _somebody_waits_for_a_lock()
        free = await db.execute_query_dict("select id from bill for update skip locked")
    outcomes = await settling

    assert len(free) == 2
    assert [one.kind for one in outcomes] == ["applied"] * 2


async def _settle_after(event: asyncio.Event, *items: SettleItem) -> list[api.Outcome]:
    """Begun outside the holder's transaction: a task born in it would share its connection."""
    await event.wait()
    return await settle(*items)


async def _somebody_waits_for_a_lock() -> None:
    async with asyncio.timeout(10):
        while not await rows("select 1 from pg_locks where not granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_many_orders_settle_in_one_batch(database: str, city: City) -> None:
    opened = [await city.opened({"treasury": 100 + n, "non_tax": 1}) for n in range(12)]

    outcomes = await settle(*(notice_item(city, city.paid(number)) for _, _, number in opened))

    assert {o.kind for o in outcomes} == {OutcomeKind.APPLIED}
    assert await count("ledger_transfer", MONEY) == 12
    assert await count("bill", "state = 'paid'") == 12
    assert await broken_invariants() == {}


async def test_batches_in_opposite_order_do_not_wait_for_each_other_for_ever(
    database: str, city: City
) -> None:
    opened = [await city.opened({"treasury": 100 + n}) for n in range(8)]
    items = [notice_item(city, city.paid(number)) for _, _, number in opened]

    await asyncio.wait_for(
        asyncio.gather(*(settle(*order) for order in (items, items[::-1]) for _ in range(3))), 20
    )

    assert await count("ledger_transfer", MONEY) == 8


async def test_a_poisoned_item_fails_alone(database: str, city: City) -> None:
    good = [await city.opened({"treasury": 100 + n}) for n in range(3)]
    items = [notice_item(city, city.paid(number)) for _, _, number in good]
    poison = api.from_report(city.paid("X\x00Y", trade_no="4200POISON"))

    answers = await api.settle_reports(
        [items[0], poison, items[1], items[2]], now=later(seconds=30)
    )

    assert isinstance(answers[1], Exception)
    settled = [answers[0], answers[2], answers[3]]
    assert [a.kind for a in settled if isinstance(a, api.Outcome)] == ["applied"] * 3


async def test_a_batch_that_fails_leaves_nothing(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash just before the commit: everything or nothing."""
    _, order, number = await city.opened()
    item = notice_item(city, city.paid(number))

    async def write_and_die(*args: Any, **kwargs: Any) -> None:
        await statements.write_changes(*args, **kwargs)
        raise ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr("estation.payments.actions.writing.write_changes", write_and_die)
        with pytest.raises(ConnectionError):
            await settle(item)

    assert await count("ledger_transfer", MONEY) == await count("outbox_message") == 0
    assert (await api.order_of(city.person_id, order.id)).state is OrderState.OPEN
    (outcome,) = await settle(item)
    assert outcome.kind is OutcomeKind.APPLIED


async def test_a_bill_cannot_be_paid_by_two_orders_at_the_same_moment(
    database: str, city: City
) -> None:
    """Two orders over one bill cannot both be open; the late money of the first is set aside."""
    bill, first, first_number = await city.opened()
    report = city.paid(first_number)
    city.wechat.trades[first_number].state = ChannelState.NOT_PAID
    await api.cancel_order(
        person_id=city.person_id, order_id=first.id, services=city.services, now=NOW
    )
    second = await city.order(await Bill.get(id=bill.id))
    second_number = (await city.attempt(second)).out_trade_no
    both = [api.from_report(report), api.from_report(city.paid(second_number))]

    answers = await asyncio.gather(*(settle(item) for item in both))

    assert sorted(a.kind for (a,) in answers) == ["applied", "incident"]
    assert await balance(CLEARING) == 2 * TOTAL
    assert (await balance(SUSPENSE), await balance(IN_FLIGHT)) == (0, -TOTAL), "it goes back"
    assert await broken_invariants() == {}


async def test_a_nul_in_a_name_does_not_stop_the_clerk_and_none_is_kept_in_the_words(
    database: str, city: City
) -> None:
    await settle(notice_item(city, city.paid("20260803NOBODYKNOWSIT")))
    (incident,) = await api.list_incidents()
    request_id = await api.ask_refund(
        incident_id=incident.id, amount_fen=TOTAL, believed_refundable_fen=TOTAL, reason="退还",
        by="maker", now=NOW,
    )  # fmt: skip
    await api.approve_refund(request_id=request_id, by="checker", now=NOW)
    with pytest.raises(NotText):
        await api.resolve_incident(
            incident_id=incident.id, by="s\x00", resolution="已\x00核实", now=NOW
        )
    before = (await api.incident(incident.id)).state

    resolved = await api.resolve_incident(
        incident_id=incident.id, by="s\x00", resolution="已核实\r\n另函告", now=NOW
    )

    assert before == "open"
    assert resolved.resolution == "已核实\r\n另函告"
    assert resolved.resolved_by == "s\N{REPLACEMENT CHARACTER}"
