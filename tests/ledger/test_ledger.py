"""The books: balanced, append-only, and one key says one thing."""

import asyncio
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import pytest
from msgspec import structs
from tortoise import Tortoise
from tortoise.exceptions import OperationalError

from estation.ledger import api, rules
from estation.ledger.api import LedgerConflict, Leg, NotATransfer, TransferInput
from estation.shared.transactions import in_transaction

NOW = datetime(2026, 8, 3, 2, 0, tzinfo=UTC)
ACCOUNT = "wechat_pay:1900000109"


def transfer(key: str = "arrival:1", amount_fen: int = 100) -> TransferInput:
    return TransferInput(
        id=str(uuid4()),
        idempotency_key=key,
        kind="payment",
        region="360101",
        order_id=None,
        our_no="T1",
        channel_no="4200",
        occurred_at=NOW,
        legs=[
            Leg(api.clearing(ACCOUNT), debit_fen=amount_fen),
            Leg(api.payee_payable("treasury"), credit_fen=amount_fen),
        ],
    )


async def transfers() -> int:
    found = await Tortoise.get_connection("default").execute_query_dict(
        "select count(*) as n from ledger_transfer"
    )
    return int(found[0]["n"])


async def test_a_posted_transfer_shows_in_the_balances(database: str) -> None:
    await api.post_many([transfer("a", 100), transfer("b", 50)], now=NOW)

    assert await api.balance(api.clearing(ACCOUNT)) == 150
    assert await api.balance(api.payee_payable("treasury")) == -150
    assert await api.unbalanced_transfers() == []


async def test_the_same_key_and_input_is_a_replay(database: str) -> None:
    first = transfer()
    (known,) = await api.post_many([first], now=NOW)

    (again,) = await api.post_many([structs.replace(first, id=str(uuid4()))], now=NOW)

    assert again == known == first.id
    assert await transfers() == 1


@pytest.mark.parametrize(
    "change", [{"kind": "suspense"}, {"our_no": "T2"}, {"region": "360102"}, {"order_id": uuid4()}]
)
async def test_the_same_key_with_other_input_is_a_loud_conflict(
    database: str, change: dict[str, Any]
) -> None:
    await api.post_many([transfer()], now=NOW)

    with pytest.raises(LedgerConflict):
        async with in_transaction():
            await api.post_many(
                [transfer("other"), structs.replace(transfer(), **change)],
                now=NOW,
            )

    assert await transfers() == 1


async def test_one_key_posted_by_many_at_once_is_posted_once(database: str) -> None:
    async def post() -> object:
        async with in_transaction():
            return await api.post_many([transfer()], now=NOW)

    ids = await asyncio.gather(*(post() for _ in range(8)))

    assert len({str(i) for i in ids}) == 1
    assert await transfers() == 1


@pytest.mark.parametrize(
    "legs",
    [
        [],
        [Leg("payee_payable:treasury", debit_fen=1)],
        [Leg("payee_payable:treasury", debit_fen=1), Leg("suspense:alipay:1", credit_fen=2)],
        [Leg("payee_payable:treasury", 1, 1), Leg("suspense:alipay:1", 1, 1)],
        [Leg("payee_payable:treasury", -1), Leg("suspense:alipay:1", credit_fen=-1)],
        [Leg("payee_payable:treasury"), Leg("suspense:alipay:1")],
        [Leg("bank", debit_fen=1), Leg("suspense:alipay:1", credit_fen=1)],
        [Leg("payee_payable:treasury", debit_fen=1), Leg("payee_payable:treasury", credit_fen=1)],
        [Leg("payee_payable:a", debit_fen=10**14), Leg("suspense:alipay:1", credit_fen=10**14)],
    ],
)
async def test_what_is_no_transfer_is_not_posted(database: str, legs: list[Leg]) -> None:
    with pytest.raises(NotATransfer):
        await api.post_many([structs.replace(transfer(), legs=legs)], now=NOW)

    assert await transfers() == 0


@pytest.mark.parametrize(
    "statement",
    [
        "update ledger_transfer set kind = 'x'",
        "delete from ledger_entry",
        "update ledger_entry set debit_fen = debit_fen + 1 where debit_fen > 0",
    ],
)
async def test_the_books_cannot_be_changed(database: str, statement: str) -> None:
    await api.post_many([transfer()], now=NOW)

    with pytest.raises((OperationalError, Exception), match="append-only"):
        await Tortoise.get_connection("default").execute_script(statement)

    assert await api.balance(api.clearing(ACCOUNT)) == 100


async def test_a_days_receipts_are_those_of_the_channels_beijing_day(database: str) -> None:
    midnight = datetime(2026, 8, 3, 16, 0, tzinfo=UTC)  # 00:00 of the 4th in Beijing
    inputs = [
        structs.replace(transfer(key), our_no=key, occurred_at=at)
        for key, at in (("evening", NOW), ("midnight", midnight))
    ]
    await api.post_many(inputs, now=NOW)

    third = await api.channel_receipts(date(2026, 8, 3), ACCOUNT)
    fourth = await api.channel_receipts(date(2026, 8, 4), ACCOUNT)

    assert [row.out_trade_no for row in third] == ["evening"]
    assert [(row.out_trade_no, row.amount_fen) for row in fourth] == [("midnight", 100)]
    assert await api.channel_receipts(date(2026, 8, 4), "alipay:1") == []


def test_the_hash_ignores_the_row_id_and_the_order_of_legs_only() -> None:
    first = transfer()
    same = structs.replace(first, id=str(uuid4()), legs=list(reversed(first.legs)))

    assert rules.input_hash(first) == rules.input_hash(same)
    assert rules.input_hash(first) != rules.input_hash(transfer(amount_fen=101))


def test_different_entries_never_look_alike_to_the_hash() -> None:
    """D9: joining fields with a separator is not injective; JSON is."""
    first = structs.replace(transfer(), our_no="a|b", channel_no="c")
    other = structs.replace(transfer(), our_no="a", channel_no="b|c")

    assert rules.input_hash(first) != rules.input_hash(other)
