"""News that the right platform really signed and that is wrong all the same: kept, never applied.

It is answered 200 (the channel told us, it need not tell again), stands in the inbox with an
incident that somebody owns, and no bill becomes paid by it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from estation.payments.invariants import broken_invariants
from tests.entrance.running import Online, running_online
from tests.forgery.city import digest, open_orders
from tests.forgery.forging import ALIPAY_DOOR, WECHAT_DOOR, Forgery, Genuine
from tests.forgery.wire import send_all
from tests.outside.counterparts import NOW
from tests.payments.city import MONEY, count, rows

EACH = 12
ADDRESSES = ["203.0.113.1"]
Teller = Callable[[Random, Genuine, int], Forgery]


@pytest.fixture
async def online(own_database_url: str, tmp_path: Path) -> AsyncIterator[Online]:
    async with running_online(tmp_path, database_url=own_database_url, now=NOW) as running:
        yield running


def wechat_total(total: Callable[[Random, int], Any], currency: str = "CNY") -> Teller:
    return lambda chance, order, n: order.told_by_wechat(
        n, amount={"total": total(chance, order.fen), "currency": currency}
    )


def alipay_total(total: Callable[[Random, int], str]) -> Teller:
    return lambda chance, order, n: order.told_by_alipay(n, total_amount=total(chance, order.fen))


def yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02d}"


def unreadable_total(chance: Random, fen: int) -> Any:
    return chance.choice(
        [0, -fen, float(fen), fen / 100, str(fen), 1e3, True, None, [fen], {"fen": fen}, 10**16,
         10**30, "817524.00"]
    )  # fmt: skip


def unreadable_yuan(chance: Random, fen: int) -> str:
    return chance.choice(
        ["0", "0.00", "-8175.24", "1e3", "8175.240", "8,175.24", "NaN", "inf", "0x10", "8175.24元",
         "８１７５.24", " 8175.24", "8175", "9" * 30, "."]
    )  # fmt: skip


WECHAT: dict[str, tuple[Teller, set[str]]] = {
    "a fen more": (wechat_total(lambda _, fen: fen + 1), {"wrong_amount"}),
    "a fen less": (wechat_total(lambda _, fen: fen - 1), {"wrong_amount"}),
    "one fen": (wechat_total(lambda _, fen: 1), {"wrong_amount"}),
    "another sum": (
        wechat_total(lambda chance, fen: fen + chance.randrange(2, 10**7)),
        {"wrong_amount"},
    ),
    "yuan for fen": (wechat_total(lambda _, fen: fen * 100), {"wrong_amount"}),
    "no readable money": (wechat_total(unreadable_total), {"unreadable_news"}),
    "other currency": (wechat_total(lambda _, fen: fen, "USD"), {"unreadable_news"}),
    "no amount": (
        lambda chance, order, n: order.told_by_wechat(n, amount=chance.choice([None, {}, 5])),
        {"unreadable_news"},
    ),
    "no trade number": (
        lambda chance, order, n: order.told_by_wechat(n, transaction_id=chance.choice([None, 5])),
        {"unreadable_news"},
    ),
    "an order nobody made": (
        lambda chance, order, n: Genuine(f"20990101NOBODY{n:010d}", order.fen).told_by_wechat(n),
        {"unknown_order"},
    ),
    "no possible number": (
        lambda chance, order, n: order.told_by_wechat(
            n, out_trade_no=chance.choice(["x", "' or 1=1 --", "中文订单号码", "a" * 40, 5, None])
        ),
        {"unreadable_news"},
    ),
    "all together": (
        lambda chance, order, n: order.told_by_wechat(
            n, combine_out_trade_no=order.number, combine_mchid="1900000109", sub_orders=[n]
        ),
        {"unreadable_news"},
    ),
}

ALIPAY: dict[str, tuple[Teller, set[str]]] = {
    "a fen more": (alipay_total(lambda _, fen: yuan(fen + 1)), {"wrong_amount"}),
    "a fen less": (alipay_total(lambda _, fen: yuan(fen - 1)), {"wrong_amount"}),
    "another sum": (
        alipay_total(lambda chance, fen: yuan(fen + chance.randrange(2, 10**7))),
        {"wrong_amount"},
    ),
    "fen for yuan": (alipay_total(lambda _, fen: f"{fen}.00"), {"wrong_amount"}),
    "no readable money": (alipay_total(unreadable_yuan), {"unreadable_news", "wrong_amount"}),
    "no money named": (alipay_total(lambda _, fen: ""), {"unreadable_news"}),
    "already given back": (
        lambda chance, order, n: order.told_by_alipay(n, refund_fee=yuan(chance.randrange(1, 99))),
        {"already_refunded"},
    ),
    "an order nobody made": (
        lambda chance, order, n: Genuine(f"20990102NOBODY{n:010d}", order.fen).told_by_alipay(n),
        {"unknown_order"},
    ),
}


@pytest.mark.parametrize("channel", ["wechat_pay", "alipay"])
async def test_what_is_wrong_is_kept_owned_and_never_applied(online: Online, channel: str) -> None:
    kinds = WECHAT if channel == "wechat_pay" else ALIPAY
    chance = Random(1)  # noqa: S311 -- a repeatable crowd
    orders = await open_orders(EACH * len(kinds), channel=channel)
    told = [
        (name, expected, teller(chance, orders[n], n))
        for n, (name, (teller, expected)) in enumerate(list(kinds.items()) * EACH)
    ]

    answers = await send_all(online.port, [one[2] for one in told], addresses=ADDRESSES)

    assert Counter(answer.status for answer in answers) == {200: len(told)}
    assert await _nothing_is_paid()
    await _each_is_owned(told)
    assert await broken_invariants() == {}
    first = await digest()
    again = [await send_all(online.port, [one[2] for one in told], addresses=ADDRESSES)]
    second = await digest()
    again += [await send_all(online.port, [one[2] for one in told], addresses=ADDRESSES)]
    assert {answer.status for answers in again for answer in answers} == {200}
    assert await digest() == second, "told for the third time, it changed something"
    # Told again, news of a refund is looked at once more (unexpected_refund); nothing else moves.
    assert [name for name in first if first[name] != second[name]] in ([], ["incident"])


async def _nothing_is_paid() -> bool:
    paid = [
        await count("bill", "state = 'paid' or paid_at is not null"),
        await count("pay_order", "state = 'paid'"),
        await count("ledger_transfer", "kind = 'payment'"),
        await count("pay_notice", "outcome = 'applied'"),
        await count("outbox_message", "topic like '%receipt%'"),
    ]
    return paid == [0] * 5


async def _each_is_owned(told: list[tuple[str, set[str], Forgery]]) -> None:
    incidents = await rows("select kind, owner from incident where state = 'open'")
    expected = set().union(*(kinds for _, kinds, _ in told))

    assert {one["kind"] for one in incidents} == expected
    assert all(one["owner"] for one in incidents)
    assert await count("pay_notice", "handled_at is null") == 0
    # Equal unreadable words are one piece of news; everything else has its own incident.
    assert len(incidents) >= await count("ledger_transfer", "kind = 'suspense'")
    kept = await rows("select outcome, count(*) as n from pay_notice group by outcome")
    assert {one["outcome"] for one in kept} == expected


async def test_one_channels_word_about_the_others_order_is_not_applied(online: Online) -> None:
    """Rightly signed by each platform, about a number that lives at the other."""
    of_wechat = await open_orders(EACH)
    of_alipay = await open_orders(EACH, channel="alipay")
    told = [order.told_by_alipay(n) for n, order in enumerate(of_wechat)]
    told += [order.told_by_wechat(n) for n, order in enumerate(of_alipay)]

    answers = await send_all(online.port, told, addresses=ADDRESSES)

    assert {answer.status for answer in answers} == {200}
    assert await _nothing_is_paid()
    assert await count("incident", "kind = 'wrong_account'") == 2 * EACH
    assert await count("ledger_transfer", "kind = 'suspense'") == 2 * EACH
    assert await broken_invariants() == {}


async def test_true_news_pays_once_and_its_replays_pay_nothing(online: Online) -> None:
    """Its own replay, under other ids, at other doors, and its money claimed for other orders."""
    of_wechat = await open_orders(EACH)
    of_alipay = await open_orders(EACH, channel="alipay")
    unpaid = await open_orders(EACH)
    true = [order.told_by_wechat(n) for n, order in enumerate(of_wechat)]
    true += [order.told_by_alipay(n) for n, order in enumerate(of_alipay)]
    await send_all(online.port, true, addresses=ADDRESSES)
    assert await count("pay_order", "state = 'paid'") == 2 * EACH
    before = await digest()

    again = await send_all(online.port, true * 5, addresses=ADDRESSES)
    elsewhere = [_at(one, ALIPAY_DOOR if one.door == WECHAT_DOOR else WECHAT_DOOR) for one in true]
    strange = await send_all(online.port, elsewhere, addresses=ADDRESSES)
    unchanged = await digest() == before
    # The first orders' channel numbers, said of orders that nobody paid.
    stolen = [order.told_by_wechat(n) for n, order in enumerate(unpaid)]
    await send_all(online.port, stolen, addresses=ADDRESSES)

    assert {answer.status for answer in again} == {200}
    assert all(400 <= answer.status < 500 for answer in strange)
    assert unchanged
    assert await count("pay_order", "state = 'paid'") == 2 * EACH
    assert await count("ledger_transfer", MONEY) == 2 * EACH
    assert await count("bill", "state = 'paid' or paid_at is not null") == 2 * EACH
    assert await count("incident") == EACH
    assert await broken_invariants() == {}


def _at(forgery: Forgery, door: str) -> Forgery:
    return Forgery(forgery.kind, door, forgery.headers, forgery.body)
