"""Which tables are copies of another side's: what proofs of equality are made over.

Every such table has the columns source and row_digest (`rows.digest` of the newest version's JSON
as it came; null for rows older than that column, zeros for rows somebody changed past the gate),
and what `key` and `version` are made of. Contexts register theirs where they receive them, in
`packets.py`; a program that serves both sides has both sides' here.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tortoise.backends.base.client import BaseDBAsyncClient

Withdraw = Callable[[str, Sequence[str], datetime], Awaitable[None]]
"""Takes a source, keys the sender does not know, and now; joins the caller's transaction."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One topic's rows in one table. `where` narrows a table that holds other things, too.

    `key` and `version` are SQL over the table's columns that say what `rows.identity` says of
    the row. `withdraw` takes rows out of use that the sender does not have; without it they are
    named and nothing else. None of them is ever deleted.
    """

    topic: str
    table: str
    where: str = ""
    key: str = "source_id"
    version: str = "version"
    withdraw: Withdraw | None = None


async def write_as_sent(db: BaseDBAsyncClient) -> None:
    """What the caller's transaction writes into copies is what their source sent.

    Whoever does not say so and changes parts of a copied thing (items, parties, holders) makes
    its digest void: the next proof finds it.
    """
    await db.execute_query("select set_config('estation.writes_as_sent', 'on', true)")


REPLICAS: dict[str, Replica] = {}
"""By topic."""


def register(*replicas: Replica) -> None:
    """Once per topic and program; the same twice is harmless. Raises ValueError for another."""
    for replica in replicas:
        if REPLICAS.setdefault(replica.topic, replica) != replica:
            raise ValueError(f"topic {replica.topic} is copied elsewhere already")
