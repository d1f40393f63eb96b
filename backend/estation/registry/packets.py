"""What arrives through the gate about the register."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

import structlog
from msgspec import Struct
from tortoise import Tortoise

from estation.outside.gate import replicas
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival, Handler
from estation.outside.gate.replicas import Replica
from estation.registry import rules
from estation.registry.actions import KINDS, Incoming, Kind, merge_rows
from estation.shared.clock import beijing_day
from estation.shared.crypto import Vault

log = structlog.get_logger()

replicas.register(
    *(Replica(kind.topic, kind.table, is_read_in_use=True) for kind in KINDS.values())
)

_FAULTS: dict[str, Callable[[Any, date], str]] = {
    "unit": lambda row, today: rules.fault_of_unit(row),
    "right": lambda row, today: rules.fault_of_right(row, today=today),
    "restriction": lambda row, today: rules.fault_of_restriction(row),
    "certificate": lambda row, today: rules.fault_of_certificate(row, today=today),
}


def make_handlers(vault: Vault) -> dict[str, Handler]:
    """The handlers of the register's topics.

    They raise RowRefused, naming the row and what of it is wrong, for a row that can never be
    right or that is not the sender's to write.
    """
    return {topic: _make_handler(kind, vault) for topic, kind in KINDS.items()}


def _make_handler(kind: Kind, vault: Vault) -> Handler:
    async def apply_rows(rows: Sequence[Struct], arrival: Arrival) -> None:
        given: Sequence[Any] = rows
        today = beijing_day(arrival.watermark)
        for position, row in enumerate(given):
            foreign = arrival.fault_of(row) or _foreign_unit(row, arrival)
            fault = foreign or _FAULTS[kind.topic](row, today)
            if fault:
                # No personal data: which row it is, for the staff who have to mend it.
                raise RowRefused(
                    f"{kind.topic} {row.source_id} v{row.version}: {fault}",
                    position=None if foreign else position,
                )
        changed = await merge_rows(
            Tortoise.get_connection("default"),
            kind,
            list(map(Incoming, given, arrival.as_sent(rows))),
            vault=vault,
            data_as_of=arrival.watermark,
            repairs=arrival.repairs,
        )
        log.info(
            "registry_applied",
            topic=kind.topic,
            stream=arrival.stream,
            seq=arrival.seq,
            rows=len(rows),
            changed=changed,
        )

    return apply_rows


def _foreign_unit(row: Any, arrival: Arrival) -> str:
    """A row may call itself the sender's region and still speak of a unit of another."""
    return "" if all(arrival.covers(code[:6]) for code in _unit_codes(row)) else "unit_code"


def _unit_codes(row: Any) -> Iterator[str]:
    if hasattr(row, "unit_codes"):
        yield from row.unit_codes
    else:
        yield row.unit_code
