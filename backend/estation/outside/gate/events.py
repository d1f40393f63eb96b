"""What happened to a stream that a person may ask about later, and whom to tell."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
from tortoise import Tortoise

from estation.shared import ids

log = structlog.get_logger()

MAX_NAMED = 100
"""Keys a finding names."""
KEEP = timedelta(days=30)
KEEP_STANDSTILLS = timedelta(days=400)
STANDSTILLS = ("stopped", "jumped")
"""Kept for longer: how often the gate stood still, and why, is asked about a year later."""
_FORGET = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a replicated topic that somebody must look at.

    `kind`: `repaired` (rows here were not what was sent; they are now), `unhealed` (they still
    are not, or one that was parked cannot be taken in), `phantom` (rows here that the sender does
    not have), `jumped` (packets were lost for good and a snapshot took their place),
    `file_incomplete` (parts of a file do not come), `stopped` (what came was refused, and the
    stream stands still).
    `about`: what makes it one of its kind, "" for its place in the stream.
    """

    kind: str
    stream: str
    seq: int
    topic: str = ""
    source: str = ""
    count: int = 0
    keys: Sequence[str] = ()
    detail: dict[str, Any] = field(default_factory=dict)
    about: str = ""

    @property
    def distinction(self) -> str:
        return self.about or f"{self.stream}:{self.seq}:{self.topic}:{self.source}"

    @property
    def named(self) -> list[str]:
        """The first of the keys; the others are counted."""
        return list(self.keys)[:MAX_NAMED]


Alarm = Callable[[Finding, datetime], Awaitable[None]]
"""Opens an incident, say; joins the caller's transaction."""


async def record(
    stream: str,
    kind: str,
    *,
    now: datetime,
    distinction: str = "",
    first_seq: int | None = None,
    last_seq: int | None = None,
    reason: str = "",
    detail: dict[str, Any],
) -> bool:
    """Keep it; with a `distinction` the same is kept once, and False says it was there.

    No personal data in `detail`. Joins the caller's transaction.
    """
    kept = await Tortoise.get_connection("default").execute_query_dict(
        """insert into gate_event
           (id, stream, kind, distinction, first_seq, last_seq, reason, detail, at)
           values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9)
           on conflict (stream, kind, distinction) where distinction <> '' do nothing
           returning id""",
        [
            ids.row_id(now),
            stream,
            kind,
            distinction,
            first_seq,
            last_seq,
            reason,
            msgspec.json.encode(detail).decode(),
            now,
        ],
    )
    return bool(kept)


async def forget(*, now: datetime, limit: int = _FORGET) -> int:
    """Old events go, some hundred at a time; how many. Not so a shortage that is not over, nor the
    word that one is over while it is kept itself: what is shown is made of the two."""
    gone = await Tortoise.get_connection("default").execute_query_dict(
        """delete from gate_event where id in (
             select e.id from gate_event e
             where e.at < $1 and (e.kind <> all($3::text[]) or e.at < $2)
               and (e.kind <> 'no_room' or exists (
                 select from gate_event o where o.stream = e.stream and o.kind = 'room_again'
                   and o.distinction = e.distinction))
               and (e.kind <> 'room_again' or not exists (
                 select from gate_event o where o.stream = e.stream and o.kind = 'no_room'
                   and o.distinction = e.distinction))
             order by e.at limit $4)
           returning id""",
        [now - KEEP, now - KEEP_STANDSTILLS, list(STANDSTILLS), limit],
    )
    return len(gone)


async def is_told(stream: str, kind: str, distinction: str) -> bool:
    """Whether it is kept already."""
    found = await Tortoise.get_connection("default").execute_query_dict(
        """select exists (select from gate_event
                          where stream = $1 and kind = $2 and distinction = $3) as found""",
        [stream, kind, distinction],
    )
    return bool(found[0]["found"])


async def raise_finding(finding: Finding, alarm: Alarm | None, *, now: datetime) -> None:
    """Keep a finding, log it and tell whoever wants to know."""
    log.error(
        f"gate_{finding.kind}",
        stream=finding.stream,
        seq=finding.seq,
        topic=finding.topic,
        rows=finding.count,
    )
    await record(
        finding.stream,
        finding.kind,
        now=now,
        distinction=finding.distinction,
        first_seq=finding.seq,
        last_seq=finding.seq,
        detail={
            "topic": finding.topic,
            "source": finding.source,
            "rows": finding.count,
            "keys": finding.named,
            **finding.detail,
        },
    )
    if alarm is not None:
        await alarm(finding, now)
