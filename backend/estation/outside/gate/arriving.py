"""What a handler is told of the rows it gets."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from estation.outside.gate import rows
from estation.outside.gate.rows import AsSent


class OwnedRow(Protocol):
    """A row of a replicated table."""

    @property
    def source(self) -> str: ...
    @property
    def region(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """Which packet rows came in, and how recent the sender's data are up to it."""

    stream: str
    seq: int
    watermark: datetime
    """Never later than our own clock when it came (`positions.known_up_to`)."""
    sent: Sequence[AsSent] = ()
    """The JSON of the handler's rows as it came, in their order."""
    regions: Sequence[str] = ()
    """GB/T 2260 codes, or beginnings of them, that this source may write; empty: any."""
    sources: Collection[str] = ()
    """Those it speaks for; empty: the one its stream is named after."""
    repairs: bool = False
    """The rows are what the sender holds now: they replace ours, also of the same version."""
    is_kept_back: bool = False
    """The rows came with an earlier packet and have waited in the database since (`files`)."""

    @property
    def own_sources(self) -> Collection[str]:
        """A stream is named `<source>-<destination>`, for destinations without a hyphen."""
        return self.sources or (self.peer,)

    def is_from(self, source: str) -> bool:
        """Whether this source is the stream's: nobody speaks for another."""
        return source in self.own_sources

    @property
    def peer(self) -> str:
        """Who sends the stream."""
        return self.stream.rpartition("-")[0]

    @property
    def reach(self) -> int:
        """Digits of the narrowest region code it may write in: 0 for everywhere, 6 a county."""
        return max(map(len, self.regions), default=0)

    def covers(self, region: str) -> bool:
        """Whether this source may write rows of the region."""
        return not self.regions or region.startswith(tuple(self.regions))

    def fault_of(self, row: OwnedRow) -> str:
        """Which of its fields the sender of this row may not have written; "" for none."""
        if not self.is_from(row.source):
            return "source"
        return "" if self.covers(row.region) else "region"

    def as_sent(self, topic_rows: Sequence[Struct]) -> Sequence[AsSent]:
        """`sent`, made from the rows themselves when they came from no file."""
        return self.sent or [rows.as_sent(msgspec.json.encode(row), row) for row in topic_rows]


Seal = Callable[[str], bytes]
"""Of a row's JSON, which may be personal data. What is refused without one leaves its digest only,
what is not understood is kept as it is: a side that seals nothing has neither."""
Unseal = Callable[[bytes], str]

Handler = Callable[[Sequence[Struct], Arrival], Awaitable[None]]
"""Gets all rows of its topic of one file, in the file's order, inside the file's transaction.

The same thing may come several times in one call; rows may have been applied before. Raise
RowRefused for a row that can never be accepted (a value no table holds is one, too); anything
else means "try again later". With `repairs` a row replaces what is here whatever its version,
except what was paid.
"""


@dataclass(frozen=True, slots=True)
class TwoSteps:
    """A handler whose rows are made ready before their turn, while the database is at work.

    `prepare` runs in a thread, knows no database and changes nothing outside of what it returns;
    whatever it raises is forgotten, and met again when `apply` does without. `apply` gets None
    for rows that nobody made ready.
    """

    prepare: Callable[[Sequence[Struct], Arrival], Any]
    apply: Callable[[Sequence[Struct], Arrival, Any], Awaitable[None]]

    async def __call__(self, topic_rows: Sequence[Struct], arrival: Arrival) -> None:
        await self.apply(topic_rows, arrival, None)
