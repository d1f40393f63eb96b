"""A dying server or a caller who hangs up costs one transaction, never a task or a connection."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from tortoise import Tortoise
from tortoise.backends.asyncpg.client import TransactionWrapper
from tortoise.exceptions import OperationalError
from tortoise.transactions import in_transaction as tortoises_own

from estation.shared.transactions import in_transaction


@pytest.fixture
def begin_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies between taking a connection and BEGIN."""
    real, calls = TransactionWrapper.begin, iter([True])

    async def begin(wrapper: TransactionWrapper) -> None:
        if next(calls, False):
            raise asyncpg.ConnectionDoesNotExistError("connection was closed")
        await real(wrapper)

    monkeypatch.setattr(TransactionWrapper, "begin", begin)


async def after_a_failed_begin(make: Callable[[], Any]) -> Any:
    """What the task takes for its connection afterwards."""
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await _select_one(make)
    return Tortoise.get_connection("default")


@pytest.mark.usefixtures("database", "begin_fails_once")
async def test_a_task_works_again_after_its_begin_failed() -> None:
    connection = await asyncio.create_task(after_a_failed_begin(in_transaction))

    assert not isinstance(connection, TransactionWrapper)
    await _select_one(in_transaction)


@pytest.mark.usefixtures("database", "begin_fails_once")
async def test_tortoises_own_transaction_leaves_the_task_with_a_dead_one() -> None:
    """The negative control: why we have our own."""
    connection = await asyncio.create_task(after_a_failed_begin(tortoises_own))

    assert isinstance(connection, TransactionWrapper)


async def _select_one(make: Callable[[], Any]) -> None:
    async with make() as tx:
        await tx.execute_query("select 1")


async def test_callers_who_hang_up_leave_no_connection_behind(database: str) -> None:
    chance = random.Random(1)  # noqa: S311 - a seeded schedule, no secret

    async def one() -> None:
        async with in_transaction() as tx:
            await tx.execute_query("select 1")

    await one()
    for _ in range(300):
        task = asyncio.create_task(one())
        for _ in range(chance.randint(1, 12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(5):
        await asyncio.gather(*(asyncio.create_task(one()) for _ in range(20)))


async def test_a_nested_one_is_a_savepoint(database: str) -> None:
    async with in_transaction() as outer:
        await outer.execute_query("create temporary table kept (n int) on commit drop")
        with pytest.raises(OperationalError):
            await _fails_inside()
        rows = await outer.execute_query_dict("select count(*) as n from kept")

    assert rows == [{"n": 0}]
    assert Tortoise.get_connection("default") is not outer


async def _fails_inside() -> None:
    async with in_transaction() as inner:
        await inner.execute_query("insert into kept values (1)")
        await inner.execute_query("select 1/0")
