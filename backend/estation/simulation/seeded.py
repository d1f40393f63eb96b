"""Makes a run repeatable and mortal: seeded identifiers, and commits that may never return."""

import random
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Final
from unittest import mock

from tortoise.backends.asyncpg.client import AsyncpgDBClient, TransactionWrapper

from estation.payments.actions import attempts
from estation.shared import ids
from estation.simulation.kills import Blow, Fate, name_of_commit, running

_WRITES: Final = re.compile(
    r"\binsert\s+into\b|\bdelete\s+from\b|\bmerge\s+into\b|(?<!for )\bupdate\b", re.IGNORECASE
)


class SeededSecrets:
    """The three calls that `shared.ids` makes of the `secrets` module, from a seed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def randbits(self, bits: int) -> int:
        return self._chance.getrandbits(bits)

    def token_bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)

    def choice(self, values: Sequence[Any]) -> Any:
        return self._chance.choice(values)


@contextmanager
def repeatable(seed: str, fate: Fate) -> Iterator[None]:
    """Inside, identifiers come from the seed, and every commit of a program is in the hands of
    fate: those of transactions, and those of single statements that write."""
    secrets = SeededSecrets(random.Random(f"ids:{seed}"))
    with ExitStack() as patched:
        for target, name, value in (
            (ids, "secrets", secrets),
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
