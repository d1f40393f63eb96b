"""How old the replicated copy is that a page shows, and whose part of it is late."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypedDict

from tortoise import Tortoise


@dataclass(frozen=True, slots=True)
class LateSource:
    """A centre whose news has not come for longer than its threshold (`gate_peer`)."""

    title: str
    as_of: datetime


@dataclass(frozen=True, slots=True)
class CopyAge:
    """The oldest watermark of the sources shown; None while nothing ever came from them.
    `lacking`: titles of those of which single rows that the page shows are set aside
    (`refused`)."""

    as_of: datetime | None
    late: tuple[LateSource, ...] = ()
    lacking: tuple[str, ...] = ()


class ShownAge(TypedDict):
    """The value that shared/as_of.html takes."""

    copy: CopyAge


OF_CASES = ("case", "case_event")
"""The topics that pages about cases show; a stream stands still for those of money."""


async def copy_age(
    sources: Iterable[str], *, now: datetime, of_all: bool = False, topics: Collection[str] = ()
) -> ShownAge:
    """Of the sources whose rows a page shows; of every active one, too, when it shows none or
    shows `of_all` what there is: that there is nothing more is known only up to a moment.
    `topics`: of whose rows it must say when single ones are set aside.

    The senders pack a heartbeat every few seconds, so silence is not normal.
    """
    found = await Tortoise.get_connection("default").execute_query_dict(
        """select distinct p.title, p.late_after_seconds, i.watermark,
                  exists (select from gate_refused_row r
                          where r.stream = p.stream_in and r.topic = any($3::text[])
                            and r.healed_at is null) as lacks_rows
           from gate_peer p join gate_incoming_stream i on i.stream = p.stream_in
           where i.watermark is not null
             and (p.name in (select peer from gate_peer_source where source = any($1::text[]))
                  or ($1 = '{}' or $2) and p.state = 'active')
           order by i.watermark, p.title""",
        [sorted(set(sources)), of_all, list(topics)],
    )
    late = (
        LateSource(row["title"], row["watermark"])
        for row in found
        if now - row["watermark"] > timedelta(seconds=row["late_after_seconds"])
    )
    as_of = found[0]["watermark"] if found else None
    lacking = tuple(row["title"] for row in found if row["lacks_rows"])
    return {"copy": CopyAge(as_of, tuple(late), lacking)}
