"""How long a peer's turn may last, and who may have longer.

A turn that hangs is broken off, so that it cannot hold its place for ever. One whose work is known
to be large says so when that begins: broken off each time, it would never be done.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

_limit: ContextVar[asyncio.Timeout | None] = ContextVar("turn", default=None)


@asynccontextmanager
async def at_most(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError when what is within takes longer and nobody allowed it more."""
    async with asyncio.timeout(seconds) as limit:
        token = _limit.set(limit)
        try:
            yield
        finally:
            _limit.reset(token)


def allow(seconds: float) -> None:
    """The turn under way, if there is one, may last so long from now; never shorter than before."""
    limit = _limit.get()
    ends = limit.when() if limit is not None else None
    if limit is not None and ends is not None:
        limit.reschedule(max(ends, asyncio.get_running_loop().time() + seconds))
