"""No wait for the database is without an end."""

import asyncio

import asyncpg
import pytest
from tortoise import Tortoise

from estation.shared.connections import MAX_CONNECTIONS, WAITS
from estation.shared.migrating import asyncpg_dsn
from estation.shared.transactions import in_transaction


@pytest.mark.parametrize("name", WAITS)
async def test_every_connection_has_its_limits(database: str, name: str) -> None:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select reset_val, setting from pg_settings where name = $1", [name]
    )

    assert int(rows[0]["setting"]) > 0


async def test_people_waiting_for_a_held_row_do_not_stop_others(database: str) -> None:
    holder = await asyncpg.connect(asyncpg_dsn(database))
    await holder.execute("create table if not exists held (n int); insert into held values (1)")
    try:
        async with holder.transaction():
            await holder.execute("select * from held for update")
            waiters = [asyncio.create_task(_wait_for_the_row()) for _ in range(8)]
            await asyncio.sleep(0.2)

            async with asyncio.timeout(5), in_transaction() as db:
                await db.execute_query("select 1")
        await asyncio.gather(*waiters)
    finally:
        await holder.execute("drop table held")
        await holder.close()

    assert MAX_CONNECTIONS > 8


async def test_a_connection_that_was_left_in_a_transaction_comes_back_clean(
    database: str,
) -> None:
    client = Tortoise.get_connection("default")
    await client.execute_query("select 1")  # opens the pool
    pool = client._pool
    for _ in range(MAX_CONNECTIONS):
        async with pool.acquire() as connection:
            await connection.execute("begin")
            await connection.execute("select 1")

    async with pool.acquire() as connection:
        assert not connection.is_in_transaction()


async def _wait_for_the_row() -> None:
    async with in_transaction() as db:
        await db.execute_query("select * from held for update")
