"""Reversals and holds on the real books: once, whole, and never of a reversal."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from msgspec import structs
from tortoise.exceptions import IntegrityError

from estation.ledger import api
from estation.ledger.api import (
    AlreadyReversed,
    LedgerConflict,
    LedgerError,
    Leg,
    NoSuchTransfer,
    NotAReversal,
)
from estation.shared.transactions import in_transaction
from tests.ledger.making import ACCOUNT, NOW, as_dba, number, payment, post, rows

LATER = NOW + timedelta(days=2)
TRANSFERS = "select count(*) from ledger_transfer"


def hold(order_no: str, order_id: UUID | None = None) -> api.TransferInput:
    shares = {"treasury": 700, "non_tax": 80}
    return api.hold_input(order_no, order_id or uuid4(), "360101", shares, NOW)


async def test_a_reversal_brings_every_account_back(database: str) -> None:
    (original,) = await post(payment(order_id=uuid4()))

    (reversal,) = await post(await api.reverse(original, now=LATER))

    assert await api.balance(api.clearing(ACCOUNT)) == 0
    assert await api.balance(api.payee_payable("treasury")) == 0
    (row,) = await rows("select * from ledger_transfer where id = $1", [reversal])
    assert (str(row["reverses_id"]), row["kind"], row["idempotency_key"]) == (
        original, "reversal", f"reversal:{original}")  # fmt: skip
    assert row["occurred_at"] == LATER
    assert await api.unbalanced_transfers() == []


async def test_a_reversal_posted_again_is_a_replay(database: str) -> None:
    (original,) = await post(payment())
    reversal = await api.reverse(original, now=LATER)
    (known,) = await post(reversal)

    (again,) = await post(structs.replace(reversal, id=str(uuid4())))

    assert again == known
    assert await number(TRANSFERS) == 2


async def test_a_transfer_is_reversed_once(database: str) -> None:
    (original,) = await post(payment())
    reversal = await api.reverse(original, now=LATER)
    await post(reversal)

    with pytest.raises(LedgerConflict):  # the same key at another moment
        await post(await api.reverse(original, now=LATER + timedelta(seconds=1)))
    with pytest.raises(AlreadyReversed):
        await post(structs.replace(reversal, id=str(uuid4()), idempotency_key="another"))

    assert await number(TRANSFERS) == 2
    assert await api.balance(api.clearing(ACCOUNT)) == 0


async def test_of_many_reversals_at_once_one_stands(database: str) -> None:
    (original,) = await post(payment())

    async def undo(n: int) -> object:
        async with in_transaction() as db:
            reversal = await api.reverse(original, now=LATER)
            named = structs.replace(reversal, idempotency_key=f"undo:{n}")
            return await api.post_many([named], now=LATER, db=db)

    ends = await asyncio.gather(*(undo(n) for n in range(6)), return_exceptions=True)

    assert sorted(type(end).__name__ for end in ends) == ["AlreadyReversed"] * 5 + ["list"]
    assert await number(TRANSFERS) == 2


async def test_a_reversal_is_not_reversed(database: str) -> None:
    (original,) = await post(payment())
    (reversal,) = await post(await api.reverse(original, now=LATER))

    with pytest.raises(NotAReversal):
        await api.reverse(reversal, now=LATER)

    assert await number(TRANSFERS) == 2


async def test_what_does_not_stand_is_not_reversed(database: str) -> None:
    (original,) = await post(payment())
    reversal = await api.reverse(original, now=LATER)

    with pytest.raises(NoSuchTransfer):
        await api.reverse(uuid4(), now=LATER)
    with pytest.raises(NoSuchTransfer):
        await post(structs.replace(reversal, reverses_id=str(uuid4())))

    assert await number(TRANSFERS) == 1


async def test_half_a_reversal_is_refused_at_the_door(database: str) -> None:
    (original,) = await post(payment())
    reversal = await api.reverse(original, now=LATER)
    half = [Leg(leg.account, leg.debit_fen // 2, leg.credit_fen // 2) for leg in reversal.legs]

    with pytest.raises(NotAReversal):
        await post(payment("innocent"), structs.replace(reversal, legs=half))

    assert await number(TRANSFERS) == 1


async def test_one_batch_may_post_and_reverse(database: str) -> None:
    (original,) = await post(payment())

    found = await post(
        payment("new", 30), await api.reverse(original, now=LATER), payment("arrival:1")
    )

    assert found[2] == original
    assert await api.balance(api.clearing(ACCOUNT)) == 30


async def test_the_database_itself_refuses_a_reversal_of_nothing(database: str) -> None:
    own = str(uuid4())
    for kind, undoes in (
        ("payment", f"'{uuid4()}'"),
        ("reversal", "null"),
        ("reversal", f"'{own}'"),
    ):
        with pytest.raises(IntegrityError, match="ck_ledger_transfer_reverses"):
            await rows(
                "insert into ledger_transfer (id, idempotency_key, input_hash, kind, region,"
                " our_no, channel_no, occurred_at, posted_at, reverses_id)"
                f" values ('{own}', 'k', '', '{kind}', '', '', '', now(), now(), {undoes})"
                " returning 1"
            )

    assert await number(TRANSFERS) == 0


async def test_a_hold_moves_no_money_and_is_released_whole(database: str) -> None:
    order = uuid4()
    await post(hold("N1", order))
    assert await api.balance(api.hold_expected()) == 780
    assert await api.balance(api.hold_payee("treasury")) == -700
    assert await api.balance(api.payee_payable("treasury")) == 0

    released = await api.release_holds([order], LATER)

    assert released == 1
    assert await number("select count(*) from ledger_transfer where kind = 'hold_release'"
                        " and idempotency_key = 'hold_release:N1'") == 1  # fmt: skip
    for account in (api.hold_expected(), api.hold_payee("treasury"), api.hold_payee("non_tax")):
        assert await api.balance(account) == 0


async def test_releasing_again_or_what_has_no_hold_does_nothing(database: str) -> None:
    order, other = uuid4(), uuid4()
    await post(hold("N1", order), payment(order_id=other))
    await api.release_holds([order], LATER)

    again = await api.release_holds([order, other, uuid4()], LATER + timedelta(hours=1))

    assert again == 0
    assert await api.release_holds([], LATER) == 0
    assert await number(TRANSFERS) == 3


async def test_two_janitors_release_a_hold_once(database: str) -> None:
    orders = [uuid4() for _ in range(3)]
    await post(*(hold(f"N{n}", order) for n, order in enumerate(orders)))

    released = await asyncio.gather(
        *(api.release_holds(orders, LATER + timedelta(seconds=n)) for n in range(4))
    )

    assert sorted(released) == [0, 0, 0, 3]
    assert await api.balance(api.hold_expected()) == 0


async def test_a_hold_is_not_reversed_as_money_is(database: str) -> None:
    (held,) = await post(hold("N1"))

    with pytest.raises(NotAReversal):
        await api.reverse(held, now=LATER)

    assert await number(TRANSFERS) == 1


async def test_unreleased_holds_are_listed_oldest_first_once_sealed(database: str) -> None:
    orders = [uuid4() for _ in range(4)]
    holds = [
        structs.replace(hold(f"N{n}", order), occurred_at=NOW - timedelta(minutes=n))
        for n, order in enumerate(orders)
    ]
    await post(*holds)
    await api.release_holds(orders[3:], LATER)  # released before any sealer came
    await api.seal(LATER)

    await api.release_holds(orders[1:2], LATER)  # released after

    listed = await api.unreleased_holds(10)
    assert [(str(one.order_id), one.order_no) for one in listed] == [
        (str(orders[2]), "N2"), (str(orders[0]), "N0")]  # fmt: skip
    assert listed[0].occurred_at == NOW - timedelta(minutes=2)
    assert [one.order_no for one in await api.unreleased_holds(1)] == ["N2"]
    await api.seal(LATER)
    assert await number("select count(*) from ledger_open_hold") == 2


async def test_an_account_below_zero_is_found_unless_it_may_be(database: str) -> None:
    to_treasury = Leg(api.payee_payable("treasury"), debit_fen=30)
    await post(
        payment("in", 50),
        payment("fee", legs=[Leg(api.channel_fee(ACCOUNT), 90), Leg(api.clearing(ACCOUNT), 0, 90)]),
        payment("out", legs=[to_treasury, Leg(api.refund_in_flight(ACCOUNT), 0, 30)]),
    )
    assert await api.negative_accounts() == []

    await post(
        payment("out2", legs=[to_treasury, Leg(api.refund_in_flight(ACCOUNT), 0, 30)]),
        payment("left", legs=[Leg(api.refund_in_flight(ACCOUNT), 61), Leg(api.bank("x"), 0, 61)]),
        payment("gone", legs=[Leg(api.suspense(ACCOUNT), 5), Leg(api.clearing(ACCOUNT), 0, 5)]),
    )

    assert sorted(await api.negative_accounts()) == [
        (api.payee_payable("treasury"), -10),
        (api.refund_in_flight(ACCOUNT), -1),
        (api.suspense(ACCOUNT), -5),
    ]


async def test_a_hold_below_zero_is_found_on_either_side(database: str) -> None:
    order = uuid4()
    await post(hold("N1", order))
    await api.release_holds([order], LATER)
    await as_dba("delete from ledger_entry where transfer_id in"
                 " (select id from ledger_transfer where kind = 'hold')")  # fmt: skip

    found = dict(await api.negative_accounts())

    assert found == {"hold_expected:any": -780, "hold_payee:treasury": -700,
                     "hold_payee:non_tax": -80}  # fmt: skip


def test_every_no_of_the_ledger_is_a_ledger_error() -> None:
    assert all(
        issubclass(one, LedgerError) for one in (NotAReversal, AlreadyReversed, NoSuchTransfer)
    )
