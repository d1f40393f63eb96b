"""Makes a run repeatable and mortal: chance from a seed, answers in their turn, and commits that
may never return."""

import asyncio
import os
import random
import re
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Final, TypeVar
from unittest import mock

from tortoise.backends.asyncpg.client import AsyncpgDBClient, TransactionWrapper

from estation.payments.actions import attempts
from estation.simulation.kills import Blow, Fate, name_of_commit, running

_WRITES: Final = re.compile(
    r"\binsert\s+into\b|\bdelete\s+from\b|\bmerge\s+into\b|(?<!for )\bupdate\b", re.IGNORECASE
)


T = TypeVar("T")


class SeededSecrets:
    """The three calls that `shared.ids` makes of the `secrets` module, from a seed: for programs
    whose other chance is not theirs alone."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def randbits(self, bits: int) -> int:
        return self._chance.getrandbits(bits)

    def token_bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)

    def choice(self, values: Sequence[Any]) -> Any:
        return self._chance.choice(values)


class _Patient(selectors.DefaultSelector):
    """Hears of answers only when nothing else is left to do.

    How far the other tasks have come when the database answers one of them would hang on how
    busy the machine is; and with it whose turn at the connection is next.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:  # tasks or timers are due
            return []
        return super().select(timeout)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in a loop whose tasks take the same turns on any machine."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Patient())) as runner:
        return runner.run(main)


@contextmanager
def repeatable(seed: str, fate: Fate) -> Iterator[None]:
    """Inside, all chance comes from the seed, no thread comes in between, and every commit of a
    program is in the hands of fate: those of transactions, and those of single statements that
    write. (PostgreSQL's chance is the schema's that `running` makes.)"""
    noise = random.Random(f"ids:{seed}").randbytes
    with ExitStack() as patched:
        for target, name, value in (
            (os, "urandom", noise),
            (random, "_urandom", noise),  # the source of `secrets`
            (asyncio, "to_thread", _at_once),
            (TransactionWrapper, "commit", _struck_commit(fate)),
            # Nobody else is asking in the meantime: waiting would only take real time.
            (attempts, "WAIT_STEPS", 1),
            (attempts, "WAIT_STEP_SECONDS", 0),
            *(
                (AsyncpgDBClient, verb, _struck_statement(fate, getattr(AsyncpgDBClient, verb)))
                for verb in ("execute_query", "execute_query_dict", "execute_insert")
            ),
        ):
            patched.enter_context(mock.patch.object(target, name, value))
        yield


async def _at_once(work: Callable[..., T], *args: Any, **values: Any) -> T:
    """In place of a thread, which would be ready sooner or later."""
    return work(*args, **values)


def _struck_commit(fate: Fate) -> Callable[[TransactionWrapper], Awaitable[None]]:
    commit = TransactionWrapper.commit

    async def struck(wrapper: TransactionWrapper) -> None:
        if isinstance(wrapper._parent, TransactionWrapper):
            await commit(wrapper)  # a savepoint: nothing is committed yet
            return
        blow, point = _fate_of_this()
        if blow and blow.is_before:
            await wrapper.rollback()
            blow.strike(point)
        await commit(wrapper)
        fate.commits += 1
        if blow:
            blow.strike(point)

    return struck


def _struck_statement(fate: Fate, statement: Any) -> Any:
    async def struck(client: AsyncpgDBClient, query: str, values: Any = None) -> Any:
        if isinstance(client, TransactionWrapper) or not _writes(query):
            return await statement(client, query, values)
        blow, point = _fate_of_this()
        if blow and blow.is_before:
            blow.strike(point)
        answer = await statement(client, query, values)
        fate.commits += 1
        if blow:
            blow.strike(point)
        return answer

    return struck


def _fate_of_this() -> tuple[Blow | None, str]:
    program = running.get()
    if program is None:
        return None, ""
    point = name_of_commit()
    return program.at(point), point


@cache
def _writes(query: str) -> bool:
    return _WRITES.search(query) is not None
