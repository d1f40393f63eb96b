"""What one part of a repair says; the receiver and the conformance kit read it alike."""

from typing import NamedTuple

from msgspec import Struct

from estation.outside.gate import merkle, rows
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.rows import AsSent, RepairRow


class Sent(NamedTuple):
    """A row of a repair, its JSON as it came, its version."""

    row: Struct
    as_sent: AsSent
    version: int


def read(part: RepairRow) -> dict[str, Sent]:
    """The part's rows by key, of a topic that is known here.

    Raises RowRefused unless they are rows of this topic and source, each under its key, all of
    the part, in order.
    """
    found: dict[str, Sent] = {}
    try:
        for raw in part.rows:
            body = bytes(raw)
            row = rows.decode_row(part.topic, body)
            name = rows.identity(part.topic, row)
            if name is not None and name.source == part.source:
                found[name.key] = Sent(row, rows.as_sent(body, row), name.version)
    except (rows.BadRow, KeyError) as bad:
        raise RowRefused(f"repair of {part.topic}: {bad}") from None
    if list(found) != part.keys or len(part.rows) != len(part.keys):
        raise RowRefused(f"repair of {part.topic}: keys")
    if not all(covers(part, key) for key in part.keys):
        raise RowRefused(f"repair of {part.topic}: a key of another part")
    if sorted(part.keys, key=str.encode) != part.keys:
        raise RowRefused(f"repair of {part.topic}: order")
    return found


def covers(part: RepairRow, key: str) -> bool:
    """Whether it speaks of this key."""
    place = key.encode()
    return (
        merkle.bucket_of(key) == part.bucket
        and place > part.after.encode()
        and (part.upto is None or place <= part.upto.encode())
    )
