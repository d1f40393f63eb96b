"""Which tables are copies of another side's: what proofs of equality are made over.

Every such table has the columns source, source_id, version, region, data_as_of and row_digest
(`rows.digest` of the newest version's JSON as it came; null for rows older than that column).
Contexts register theirs where they receive them, in `packets.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replica:
    """One topic's rows in one table. `where` narrows a table that holds other things, too."""

    topic: str
    table: str
    where: str = ""


REPLICAS: dict[str, Replica] = {}
"""By topic."""


def register(*replicas: Replica) -> None:
    """Once per topic and program; the same twice is harmless. Raises ValueError for another."""
    for replica in replicas:
        if REPLICAS.setdefault(replica.topic, replica) != replica:
            raise ValueError(f"topic {replica.topic} is copied elsewhere already")
