"""While an order is open the books expect its money, payee by payee, and no longer."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from estation.ledger.api import (
    balance,
    hold_input,
    post_many,
    release_holds,
    seal,
    unbalanced_transfers,
    unreleased_holds,
    verify,
)
from estation.payments import api, jobs
from estation.payments.api import OrderState
from estation.payments.errors import OrderAlreadyOpen
from estation.payments.invariants import broken_invariants
from tests.payments.city import SHARES, TOTAL, City, count, later, make_bill, rows
from tests.payments.fakes import NOW
from tests.payments.plants import by_hand

pytestmark = pytest.mark.usefixtures("database")

EXPECTED = "hold_expected:any"


@pytest.fixture
def city() -> City:
    return City()


async def sealed_and_released(seconds: float = 20) -> dict[str, int]:
    """The list of open holds is the sealer's."""
    await seal(later(seconds=seconds))
    return await jobs.release_holds(now=later(seconds=seconds))


async def test_an_open_order_is_expected_in_the_books_payee_by_payee(city: City) -> None:
    _, order, _ = await city.opened()

    assert await balance(EXPECTED) == TOTAL
    for payee, fen in SHARES.items():
        assert await balance(f"hold_payee:{payee}") == -fen
    (hold,) = await rows("select * from ledger_transfer")
    assert (hold["kind"], hold["our_no"], hold["order_id"]) == ("hold", order.order_no, order.id)
    assert (hold["region"], hold["occurred_at"]) == ("360101", NOW)
    assert await broken_invariants() == {}


async def test_bills_of_one_order_are_expected_together(city: City) -> None:
    bills = [
        await make_bill(city.person_id, {"treasury": 700, "non_tax": 80}),
        await make_bill(city.person_id, {"treasury": 50, "maintenance_fund": 9, "non_tax": 0}),
    ]

    await city.order(*bills)

    entries = await rows("select account, debit_fen, credit_fen from ledger_entry order by 1")
    assert [tuple(entry.values()) for entry in entries] == [
        (EXPECTED, 839, 0),
        ("hold_payee:maintenance_fund", 0, 9),
        ("hold_payee:non_tax", 0, 80),
        ("hold_payee:treasury", 0, 750),
    ]
    assert await broken_invariants() == {}


async def test_an_order_that_is_refused_leaves_no_hold(city: City) -> None:
    bill, _, _ = await city.opened()

    with pytest.raises(OrderAlreadyOpen):
        await city.order(bill)

    assert await count("ledger_transfer", "kind = 'hold'") == 1
    assert await count("pay_order") == 1


async def test_what_ended_in_any_way_is_expected_no_longer(city: City) -> None:
    """Paid, cancelled, paid one fen too much (set aside), expired; one is open still."""
    _, paid, number = await city.opened()
    await api.settle_batch([api.from_report(city.paid(number))], now=later(seconds=5))
    _, cancelled, _ = await city.opened()
    await api.cancel_order(
        person_id=city.person_id, order_id=cancelled.id, services=city.services, now=later()
    )
    _, _, odd = await city.opened()
    report = city.paid(odd, amount_fen=TOTAL + 1)
    await api.settle_batch([api.from_report(report)], now=later(seconds=5))
    _, expired, _ = await city.opened()
    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    await jobs.close_due_orders(city.services, now=later(minutes=15))
    still_open = await city.order(await make_bill(city.person_id), now=later(minutes=15))
    before = await balance(EXPECTED)

    first = await sealed_and_released(16 * 60)
    again = await sealed_and_released(16 * 60 + 5)

    assert before == 5 * TOTAL
    assert (first, again) == ({"released": 4}, {"released": 0})
    assert await balance(EXPECTED) == still_open.amount_fen
    assert [hold.order_no for hold in await unreleased_holds(10)] == [still_open.order_no]
    assert (await api.order_of(city.person_id, paid.id)).state is OrderState.PAID
    assert (await api.order_of(city.person_id, expired.id)).state is OrderState.CLOSED
    assert await broken_invariants() == {}


async def test_late_money_applied_to_a_closed_order_brings_no_hold_back(city: City) -> None:
    _, order, _ = await city.opened()
    await api.cancel_order(
        person_id=city.person_id, order_id=order.id, services=city.services, now=later()
    )
    await sealed_and_released()
    await by_hand(
        f"update pay_order set state = 'paid', paid_at = created_at, close_reason = ''"
        f" where id = '{order.id}'"
    )

    assert await sealed_and_released(30) == {"released": 0}
    assert await balance(EXPECTED) == 0
    assert await count("ledger_transfer", "kind = 'hold_release'") == 1


async def test_a_round_is_bounded_and_open_orders_keep_no_ended_one_waiting(city: City) -> None:
    """However many older orders are open (an outage of their channel), the ended ones go."""
    for n in range(5):
        await city.opened({"treasury": 100 + n})
    for n in range(3):
        _, order, _ = await city.opened({"treasury": 200 + n})
        await api.cancel_order(
            person_id=city.person_id, order_id=order.id, services=city.services, now=later()
        )
    await seal(later(seconds=10))

    released = [
        (await jobs.release_holds(now=later(seconds=10 + n), limit=2))["released"] for n in range(3)
    ]

    assert released == [2, 1, 0]


async def test_two_workers_release_a_hold_once(city: City) -> None:
    _, _, number = await city.opened()
    await api.settle_batch([api.from_report(city.paid(number))], now=later(seconds=5))
    await seal(later(seconds=10))

    both = await asyncio.gather(*(jobs.release_holds(now=later(seconds=20)) for _ in range(3)))

    assert sorted(one["released"] for one in both) == [0, 0, 1]
    assert await balance(EXPECTED) == 0


async def test_holds_are_no_money_and_the_chain_holds_them(city: City) -> None:
    """They are sealed and verified as all transfers, and touch no account of money."""
    _, _, number = await city.opened()
    await api.settle_batch([api.from_report(city.paid(number))], now=later(seconds=5))
    await sealed_and_released()
    await seal(later(seconds=25))

    verified = await verify(now=later(hours=1), keys={})

    assert verified.is_whole
    assert verified.books["360101"].transfers == 3
    assert await unbalanced_transfers() == []
    moved = await rows(
        """select distinct split_part(e.account, ':', 1) as what, t.kind from ledger_entry e
           join ledger_transfer t on t.id = e.transfer_id order by 2, 1"""
    )
    assert [(row["kind"], row["what"]) for row in moved] == [
        ("hold", "hold_expected"),
        ("hold", "hold_payee"),
        ("hold_release", "hold_expected"),
        ("hold_release", "hold_payee"),
        ("payment", "channel_clearing"),
        ("payment", "payee_payable"),
    ]


async def test_an_open_order_nobody_expects_is_expected_again(city: City) -> None:
    """Made before there were holds; two workers find it at once."""
    _, order, _ = await city.opened()
    ended = await city.order(await make_bill(city.person_id))
    await by_hand("delete from ledger_entry", "delete from ledger_transfer")
    await api.cancel_order(
        person_id=city.person_id, order_id=ended.id, services=city.services, now=later()
    )
    broken = await broken_invariants()

    both = await asyncio.gather(*(jobs.expect_forgotten(now=later(minutes=1)) for _ in range(2)))
    again = await jobs.expect_forgotten(now=later(minutes=2))

    assert broken == {
        "every_open_order_is_expected_in_the_books": [order.order_no],
        "the_books_expect_what_open_orders_bring": ["360101"],
    }
    assert max(one["expected"] for one in both) == 1
    assert again == {"expected": 0}
    assert await balance(EXPECTED) == TOTAL
    assert await broken_invariants() == {}


async def test_a_hold_of_no_order_is_told_and_released(city: City) -> None:
    await city.opened()
    await post_many([hold_input("none", uuid4(), "360101", {"treasury": 5}, NOW)], now=NOW)

    broken = await broken_invariants()
    released = await sealed_and_released()

    assert broken == {"the_books_expect_what_open_orders_bring": ["360101"]}
    assert released == {"released": 1}
    assert await broken_invariants() == {}


async def test_a_hold_released_too_early_is_told(city: City) -> None:
    _, order, _ = await city.opened()

    await release_holds([order.id], later(seconds=1))

    assert list(await broken_invariants()) == [
        "every_open_order_is_expected_in_the_books",
        "the_books_expect_what_open_orders_bring",
    ]


async def test_the_lag_of_a_release_is_no_breach_for_ten_minutes(city: City) -> None:
    """Counted from the news, not from the moment of payment, which may be a day before."""
    _, order, number = await city.opened()
    city.wechat.pay(number, at=NOW - timedelta(hours=20))
    await api.settle_batch([api.from_report(city.wechat.report(number))], now=later(minutes=1))
    rule = "no_hold_outlives_its_order"

    soon = await broken_invariants(now=later(minutes=11))
    late = await broken_invariants(now=later(minutes=11, seconds=1))

    assert rule not in soon
    assert late[rule] == [order.order_no]
