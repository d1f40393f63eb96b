"""Where something is refused for want of room: kept in view from then until there is room again.

Nothing is lost by it (what was refused comes again, or waits), but it comes late, and somebody
must make room or find out who fills it. A shortage is two events: `no_room` when it begins, told
to whoever owns it, and `room_again`, which ends it without anybody's help. It ends with more room
than it began with, so that what is just full is one shortage and not one for each file.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import structlog
from tortoise import Tortoise

from estation.outside.gate import events
from estation.outside.gate.events import Alarm, Finding, raise_finding
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

BEGINS, ENDS = "no_room", "room_again"


class Where(StrEnum):
    """What has no room. Stable codes, shown to staff."""

    disk = "disk"  # of what comes in: refused files and packets far ahead gave way
    symbols = "symbols"  # more symbols came than are kept: those farthest ahead gave way
    device = "device"  # the device takes no symbols: packets stay in `outgoing/`
    files = "files"  # of large files in parts: their parts wait in the database


OPEN = f"""gate_event e where e.kind = '{BEGINS}' and not exists (
  select from gate_event o where o.stream = e.stream and o.kind = '{ENDS}'
    and o.distinction = e.distinction)"""
"""SQL: shortages that are not over, as `e`."""


async def begins(
    stream: str, where: Where, *, detail: dict[str, Any], alarm: Alarm | None, now: datetime
) -> None:
    """Keep and tell it once, until it is over."""
    if where in await open_of(stream):
        return
    about = f"{stream}:{where.value}:{ids.row_id(now)}"
    finding = Finding(
        BEGINS, stream, 0, detail={"where": where.value, "shortage": about, **detail}, about=about
    )
    async with in_transaction():
        await raise_finding(finding, alarm, now=now)


async def ends(stream: str, where: Where, *, now: datetime) -> None:
    """There is room again; nothing when there always was."""
    found = await Tortoise.get_connection("default").execute_query_dict(
        f"select e.distinction from {OPEN} and e.stream = $1 and e.detail ->> 'where' = $2",  # noqa: S608 - a constant
        [stream, where.value],
    )
    for row in found:
        await events.record(stream, ENDS, now=now, distinction=row["distinction"], detail={})
        log.info("gate_room_again", stream=stream, where=where.value)


async def open_of(stream: str) -> set[str]:
    """Where this stream has no room."""
    found = await Tortoise.get_connection("default").execute_query_dict(
        f"select e.detail ->> 'where' as place from {OPEN} and e.stream = $1",  # noqa: S608 - a constant
        [stream],
    )
    return {row["place"] for row in found}
