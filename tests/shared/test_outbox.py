"""Messages leave at least once, never before their transaction, never for ever."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tortoise import Tortoise

from estation.shared import outbox
from estation.shared.transactions import in_transaction

pytestmark = pytest.mark.usefixtures("database")
NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)


async def claim(now: datetime = NOW, limit: int = 10) -> list[str]:
    db = Tortoise.get_connection("default")
    return [row["body"] for row in await outbox.claim(db, now=now, limit=limit, topics=["a"])]


async def test_a_rolled_back_message_never_existed() -> None:
    async def put_and_fail() -> None:
        async with in_transaction():
            await outbox.put("a", {"n": 1}, now=NOW)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await put_and_fail()

    assert await claim() == []


async def test_two_claimers_get_different_messages() -> None:
    for n in range(20):
        await outbox.put("a", {"n": n}, now=NOW)

    first, second = await asyncio.gather(claim(), claim())

    assert len(first) == len(second) == 10
    assert not {str(body) for body in first} & {str(body) for body in second}


async def test_a_claimed_message_comes_back_after_its_lease() -> None:
    await outbox.put("a", {"n": 1}, now=NOW)
    await claim()

    assert await claim(NOW + outbox.LEASE - timedelta(seconds=1)) == []
    assert len(await claim(NOW + outbox.LEASE)) == 1


async def test_a_message_that_always_fails_is_set_aside_for_staff() -> None:
    db = Tortoise.get_connection("default")
    await outbox.put("a", {"n": 1}, now=NOW)
    moment = NOW
    for _ in range(outbox.MAX_TRIES):
        (row,) = await outbox.claim(db, now=moment, limit=1, topics=["a"])
        await outbox.mark_failed(db, row["id"], tries=row["tries"], error="no", now=moment)
        moment += timedelta(minutes=11)

    assert await claim(moment + timedelta(days=1)) == []
    message = await outbox.OutboxMessage.get()
    assert message.dead_at is not None
    assert message.last_error == "no"


async def test_two_workers_holding_one_message_deliver_it_once() -> None:
    db = Tortoise.get_connection("default")
    message_id = await outbox.put("a", {"n": 1}, now=NOW)
    await claim()
    await claim(NOW + outbox.LEASE)

    async def deliver() -> bool:
        async with in_transaction() as tx:
            return await outbox.mark_sent(tx, message_id, now=NOW)

    assert sorted(await asyncio.gather(deliver(), deliver())) == [False, True]
    assert await outbox.revive_dead(db, now=NOW) == 0


async def test_what_was_set_aside_can_be_revived() -> None:
    db = Tortoise.get_connection("default")
    message_id = await outbox.put("a", {"n": 1}, now=NOW)
    assert await outbox.mark_failed(db, message_id, tries=outbox.MAX_TRIES, error="no", now=NOW)
    await db.execute_query("update outbox_message set dead_at = $1", [NOW])

    assert await claim(NOW + timedelta(days=1)) == []
    assert await outbox.revive_dead(db, now=NOW) == 1
    assert len(await claim(NOW)) == 1


async def test_what_is_put_behind_a_large_lot_does_not_wait_for_all_of_it() -> None:
    lot = [{"n": n} for n in range(outbox.A_SECOND + 1)]
    await outbox.put_many("a", lot, now=NOW)
    await outbox.put_many("a", [{"n": "of the lot, too"}], now=NOW, before=len(lot))
    await outbox.put("a", {"n": "behind"}, now=NOW)

    at_once = await claim(NOW, limit=1000)
    a_second_later = await claim(NOW + timedelta(seconds=1), limit=1000)

    assert sorted(map(str, at_once)) == sorted(map(str, [*lot[:-1], {"n": "behind"}]))
    assert sorted(map(str, a_second_later)) == sorted(map(str, [lot[-1], {"n": "of the lot, too"}]))
