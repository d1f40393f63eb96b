"""`in_transaction` for this project: Tortoise's, with the two holes around BEGIN closed.

Tortoise 1.1.9 takes a connection from the pool and points the task's context at it before it
sends BEGIN. When BEGIN fails (the server died) or is cancelled (the caller hung up), nobody
gives either back: the task then sees a released connection for ever, and the pool shrinks by
one. Both were reproduced; see tests/shared/test_transactions.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionContextPooled
from tortoise.connection import get_connections
from tortoise.transactions import in_transaction as _tortoise_transaction


@asynccontextmanager
async def in_transaction() -> AsyncIterator[BaseDBAsyncClient]:
    """One transaction on the default connection; nested in another one, a savepoint of it.

    Commits on leaving, rolls back when anything is raised, and leaves task and pool as they were
    whatever happens to the connection.
    """
    context: Any = _tortoise_transaction()
    try:
        client: BaseDBAsyncClient = await context.__aenter__()
    except BaseException:
        if hasattr(context, "token"):
            get_connections().reset(context.token)
        await asyncio.shield(_give_back(context))
        raise
    try:
        yield client
    except BaseException as failure:
        if not await context.__aexit__(type(failure), failure, failure.__traceback__):
            raise
    else:
        await context.__aexit__(None, None, None)


async def _give_back(context: Any) -> None:
    """The connection of a half-made entry goes back to its pool."""
    if not isinstance(context, TransactionContextPooled):
        return  # a savepoint: the outer transaction looks after the connection
    connection = context.client._connection
    if connection is not None:
        with contextlib.suppress(Exception):  # a broken connection is dropped by the pool
            await context.client._parent._pool.release(connection)
