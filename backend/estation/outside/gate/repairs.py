"""What one part of a repair says; the receiver and the conformance kit read it alike."""

from typing import NamedTuple

from msgspec import Struct

from estation.outside.gate import merkle, refused, rows
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.refused import RefusedRow
from estation.outside.gate.rows import AsSent, RepairRow


class Sent(NamedTuple):
    """A row of a repair, its JSON as it came, its version."""

    row: Struct
    as_sent: AsSent
    version: int


def read(part: RepairRow) -> dict[str, Sent | RefusedRow]:
    """The part's rows by key, of a topic that is known here; those that nobody can read, where
    the topic goes on without them, as they are set aside.

    Raises RowRefused unless they are rows of this topic and source, each under its key, all of
    the part, in order.
    """
    found: dict[str, Sent | RefusedRow] = {}
    try:
        for raw in part.rows:
            name, one = _read_one(part.topic, bytes(raw))
            if name is not None and name.source == part.source:
                found[name.key] = one
    except (rows.BadRow, KeyError) as bad:
        raise RowRefused(f"repair of {part.topic}: {bad}") from None
    if list(found) != part.keys or len(part.rows) != len(part.keys):
        raise RowRefused(f"repair of {part.topic}: keys")
    if not all(covers(part, key) for key in part.keys):
        raise RowRefused(f"repair of {part.topic}: a key of another part")
    if sorted(part.keys, key=str.encode) != part.keys:
        raise RowRefused(f"repair of {part.topic}: order")
    return found


def _read_one(topic: str, body: bytes) -> tuple[rows.Identity | None, Sent | RefusedRow]:
    try:
        row = rows.decode_row(topic, body)
        as_sent = rows.as_sent(body, row)
    except rows.BadRow as bad:
        aside = refused.set_aside(topic, body, str(bad)) if topic in rows.TOPICS else None
        if aside is None:
            raise
        return aside.name, aside
    name = rows.identity(topic, row)
    return name, Sent(row, as_sent, name.version if name is not None else 0)


def covers(part: RepairRow, key: str) -> bool:
    """Whether it speaks of this key."""
    place = key.encode()
    return (
        merkle.bucket_of(key) == part.bucket
        and place > part.after.encode()
        and (part.upto is None or place <= part.upto.encode())
    )
