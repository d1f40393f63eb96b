"""What a peer may write: rows of its own sources, in its own regions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Scope:
    """`regions`: GB/T 2260 codes or beginnings of them ("3601" is the whole city); none: any."""

    sources: Collection[str]
    regions: Sequence[str] = ()

    def fault_of(self, row: object) -> Literal["", "source", "region"]:
        """Which field of the row is another's; "" for none. A row without a source or region
        (what a peer reports about our own packets, say) is nobody's."""
        source = getattr(row, "source", None)
        region = getattr(row, "region", None)
        if source is not None and source not in self.sources:
            return "source"
        return "region" if region is not None and not self.covers(region) else ""

    def covers(self, region: str) -> bool:
        return not self.regions or region.startswith(tuple(self.regions))
