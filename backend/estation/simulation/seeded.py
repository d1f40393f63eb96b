"""Makes a run repeatable and killable: seeded identifiers, and commits that may never return."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tortoise.backends.asyncpg.client import TransactionWrapper

from estation.payments.actions import attempts
from estation.shared import ids
from estation.simulation.hazards import Crash, crash_at


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
def repeatable(seed: str) -> Iterator[None]:
    """Inside, identifiers come from the seed and a CrashPlan in `crash_at` is obeyed."""
    commit = TransactionWrapper.commit

    async def killable(wrapper: TransactionWrapper) -> None:
        plan = crash_at.get()
        if plan is None or not plan.reached():
            await commit(wrapper)
        elif plan.after:
            await commit(wrapper)
            raise Crash("after commit")
        else:
            await wrapper.rollback()
            raise Crash("before commit")

    secrets = SeededSecrets(random.Random(f"ids:{seed}"))
    with (
        mock.patch.object(ids, "secrets", secrets),
        mock.patch.object(TransactionWrapper, "commit", killable),
        # Nobody else is asking in the meantime: waiting would only take real time.
        mock.patch.object(attempts, "WAIT_STEPS", 1),
        mock.patch.object(attempts, "WAIT_STEP_SECONDS", 0),
    ):
        yield
