"""Which tables are copies of another side's: what proofs of equality are made over.

Every such table has the columns source and row_digest (`rows.digest` of the newest version's JSON
as it came; null for rows older than that column, zeros for rows somebody changed past the gate),
and what `key` and `version` are made of. Contexts register theirs where they receive them, in
`packets.py`; a program that serves both sides has both sides' here.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from tortoise.backends.base.client import BaseDBAsyncClient

Withdraw = Callable[[str, Sequence[str], datetime], Awaitable[None]]
"""Takes a source, keys the sender does not know, and now; joins the caller's transaction."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One topic's rows in one table. `where` narrows a table that holds other things, too.

    `key` and `version` are SQL over the table's columns that say what `rows.identity` says of
    the row. Rows the sender does not have are named, and never deleted: `withdraw` takes them
    out of use, or `is_read_in_use` says that whoever reads the table leaves them out (`in_use`).
    Of other tables they are named and nothing else.
    """

    topic: str
    table: str
    where: str = ""
    key: str = "source_id"
    version: str = "version"
    withdraw: Withdraw | None = None
    is_read_in_use: bool = False

    @property
    def takes_out_of_use(self) -> bool:
        return self.withdraw is not None or self.is_read_in_use


_WRITE_AS_SENT = """
with known_after_all as (
    delete from gate_phantom p using unnest($2::text[], $3::text[]) as t(source, key)
    where p.topic = $1 and p.source = t.source and p.key = t.key
)
select set_config('estation.writes_as_sent', 'on', true)
"""


async def write_as_sent(
    db: BaseDBAsyncClient, topic: str, names: Collection[tuple[str, str]]
) -> None:
    """What the caller's transaction writes into copies is what their source sent.

    Whoever does not say so and changes parts of a copied thing (items, parties, holders) makes
    its digest void: the next proof finds it. `names`: (source, key) of what came; whatever of it
    was a phantom is none any more.
    """
    await db.execute_query(
        _WRITE_AS_SENT, [topic, [source for source, _ in names], [key for _, key in names]]
    )


def in_use(topic: str, table: str) -> str:
    """SQL: rows of `table` (its name or alias) but those that are none of their source's."""
    return (
        f"not exists (select from gate_phantom where gate_phantom.topic = '{topic}'"
        f" and gate_phantom.source = {table}.source and gate_phantom.key = {table}.source_id)"
    )


REPLICAS: dict[str, Replica] = {}
"""By topic."""


def register(*replicas: Replica) -> None:
    """Once per topic and program; the same twice is harmless. Raises ValueError for another."""
    for replica in replicas:
        if REPLICAS.setdefault(replica.topic, replica) != replica:
            raise ValueError(f"topic {replica.topic} is copied elsewhere already")
