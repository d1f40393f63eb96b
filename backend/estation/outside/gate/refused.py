"""Rows set aside: one that this side cannot take in does not hold up ten thousand others.

Only of topics whose rule says so (`rows.ON_BAD_ROW`), and only a row that still says which thing
it is and is the sender's to write. It is kept with its reason until a row of that thing comes that
can be taken in, of the same or a newer version: a correction, a repair, or a snapshot, which
brings it again. What is kept here is never written into a copy. As long as it is open, proofs know
the difference it makes (`merkle`), somebody owns an incident about it, and pages built on the
source's rows say that something is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta, Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import events, replicas, rows
from estation.outside.gate.arriving import Arrival, Handler
from estation.outside.gate.errors import RowRefused, is_about_a_value
from estation.outside.gate.events import Alarm, Finding, raise_finding
from estation.outside.gate.rows import AsSent, Identity
from estation.shared import ids
from estation.shared.resealing import SealedTable
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

MAX_OF_PACKET = 20
"""So many of one topic and packet are mistakes in rows; more are a mistake in the sender's
program, and the packet waits for somebody to look."""
MAX_OPEN = 1000
"""Of one stream; then it stops as it does for any other topic."""
KEEP = timedelta(days=90)
"""How long those are kept that are over."""
SEALED = (SealedTable("gate_refused_row", ("body_sealed",)),)
BEGINS, ENDS = "row_refused", "row_taken_in"

Seal = Callable[[str], bytes]
"""Of a row's JSON, which may be personal data. Without one only its digest is kept."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was set aside. `why` names the field and never the value."""

    topic: str
    name: Identity
    digest: bytes
    body: bytes
    why: str


class _Named(Struct, frozen=True):
    """What a row must still say of itself."""

    source: rows.Source
    source_id: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[^:]+$")]
    version: rows.Version | None = None


_named_decoder = msgspec.json.Decoder(_Named)


def set_aside(topic: str, body: bytes, why: str) -> RefusedRow | None:
    """None when the row cannot be: its topic stops, it does not say which thing it is, or it has
    no canonical form, by which proofs could know it."""
    if not rows.may_skip(topic):
        return None
    try:
        named = _named_decoder.decode(body)
        digest = rows.digest(body)
    except (rows.BadRow, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    version = named.version or rows.only_version(topic)
    if version is None:
        return None
    return RefusedRow(topic, Identity(named.source, named.source_id, version), digest, body, why)


async def hand_over(
    handler: Handler, topic: str, given: Sequence[Struct], arrival: Arrival
) -> list[RefusedRow]:
    """Give a handler its rows (`arrival.sent` says how they came); those that were set aside.

    Raises RowRefused for a refusal that concerns more than single rows, or rows of a topic that
    stops, and what else the handler raises. Joins the caller's transaction.
    """
    if not rows.may_skip(topic):
        await handler(given, arrival)
        return []
    aside: list[RefusedRow] = []
    await _apply(handler, topic, list(zip(given, arrival.sent, strict=True)), arrival, aside)
    return aside


async def _apply(
    handler: Handler,
    topic: str,
    given: list[tuple[Struct, AsSent]],
    arrival: Arrival,
    aside: list[RefusedRow],
) -> None:
    while given:
        try:
            async with in_transaction():
                sent = [as_sent for _, as_sent in given]
                await handler([row for row, _ in given], replace(arrival, sent=sent))
        except RowRefused as refusal:
            if refusal.position is None:
                raise
            _put_aside(topic, given.pop(refusal.position)[1].body, str(refusal), arrival, aside)
        except Exception as failure:
            if not is_about_a_value(failure):
                raise
            if len(given) == 1:
                _put_aside(topic, given.pop()[1].body, type(failure).__name__, arrival, aside)
                return
            # Which one it is nobody says: the halves, each by itself, find it.
            half = len(given) // 2
            await _apply(handler, topic, given[:half], arrival, aside)
            await _apply(handler, topic, given[half:], arrival, aside)
            return
        else:
            return


def without(aside: Sequence[RefusedRow], topic: str, given: Sequence[Struct]) -> Sequence[Struct]:
    """The rows of a topic that were taken in, as far as one can tell by their names: of a thing
    that came twice in one version neither counts."""
    if not aside:
        return given
    names = {row.name for row in aside if row.topic == topic}
    return [row for row in given if rows.identity(topic, row) not in names]


def _put_aside(
    topic: str, body: bytes, why: str, arrival: Arrival, aside: list[RefusedRow]
) -> None:
    row = set_aside(topic, body, why)
    if row is None or not arrival.is_from(row.name.source):
        raise RowRefused(why)
    aside.append(row)
    require_few(aside)


def require_few(aside: Sequence[RefusedRow]) -> None:
    """Raises RowRefused when these are more of one packet than single mistakes."""
    if len(aside) > MAX_OF_PACKET:
        raise RowRefused(f"more than {MAX_OF_PACKET} rows, the first: {aside[0].why}")


async def keep(
    aside: Sequence[RefusedRow],
    *,
    stream: str,
    seq: int,
    seal: Seal | None,
    alarm: Alarm | None,
    now: datetime,
) -> None:
    """Into quarantine, told once each; one whose thing is here in a newer version is only kept.

    Raises RowRefused when too many are open. Joins the caller's transaction.
    """
    for row in aside:
        await _keep_one(row, stream, seq, seal, alarm, now)
    if aside and await _open_of(stream) > MAX_OPEN:
        raise RowRefused(f"more than {MAX_OPEN} rows are set aside: {aside[0].why}")


async def heal(stream: str, taken: Mapping[str, Sequence[Struct]], *, now: datetime) -> None:
    """Rows of these topics were taken in: what was set aside of the same things, in the same or
    an older version, is over. Joins the caller's transaction."""
    if not any(given for topic, given in taken.items() if rows.may_skip(topic)):
        return
    waiting = await _db().execute_query_dict(
        """select id, topic, source, key, version from gate_refused_row
           where stream = $1 and healed_at is null""",
        [stream],
    )
    if not waiting:
        return
    newest: dict[tuple[str, str, str], int] = {}
    for topic in {one["topic"] for one in waiting}:
        for row in taken.get(topic, ()):
            name = rows.identity(topic, row)
            if name is not None:
                thing = (topic, name.source, name.key)
                newest[thing] = max(name.version, newest.get(thing, 0))
    for one in waiting:
        if newest.get((one["topic"], one["source"], one["key"]), 0) >= one["version"]:
            await _end(one["id"], stream, "taken_in", now)


async def forget(*, now: datetime, limit: int = 500) -> None:
    """Those that have been over for long, some hundred at a time."""
    await _db().execute_query(
        """delete from gate_refused_row where id in (
             select id from gate_refused_row where healed_at < $1 order by healed_at limit $2)""",
        [now - KEEP, limit],
    )


async def _keep_one(
    row: RefusedRow,
    stream: str,
    seq: int,
    seal: Seal | None,
    alarm: Alarm | None,
    now: datetime,
) -> None:
    name = row.name
    before = await _open_row(row)
    if before is not None and (before["version"], before["digest"]) == (name.version, row.digest):
        await _db().execute_query(
            "update gate_refused_row set times = times + 1, seen_at = $2 where id = $1",
            [before["id"], now],
        )
        return
    is_old = await _is_held(row) or (before is not None and before["version"] > name.version)
    if before is not None and not is_old:
        await _end(before["id"], stream, "newer_refused", now)
    row_id = ids.row_id(now)
    await _db().execute_query(
        """insert into gate_refused_row
             (id, stream, seq, topic, source, key, version, digest, body_sealed, reason, times,
              at, seen_at, healed_at, healed_by)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $11, $11, $12, $13)""",
        [
            row_id, stream, seq, row.topic, name.source, name.key, name.version, row.digest,
            seal(row.body.decode()) if seal is not None else None, row.why[:512], now,
            now if is_old else None, "older" if is_old else "",
        ],
    )  # fmt: skip
    if is_old:
        log.warning("gate_old_row_refused", stream=stream, seq=seq, topic=row.topic)
        return
    await raise_finding(
        Finding(
            BEGINS, stream, seq, row.topic, name.source, 1, [name.key],
            {"version": name.version, "why": row.why[:500], "row": str(row_id)},
            about=str(row_id),
        ),
        alarm,
        now=now,
    )  # fmt: skip


async def _open_row(row: RefusedRow) -> dict[str, Any] | None:
    found = await _db().execute_query_dict(
        """select id, version, digest from gate_refused_row
           where topic = $1 and source = $2 and key = $3 and healed_at is null for update""",
        [row.topic, row.name.source, row.name.key],
    )
    return {**found[0], "digest": bytes(found[0]["digest"])} if found else None


async def _is_held(row: RefusedRow) -> bool:
    """Whether the copy has the thing in a newer version, or in just this one: a row that was taken
    in once and would not be today is no news."""
    replica = replicas.REPLICAS.get(row.topic)
    if replica is None:
        return False
    found = await _db().execute_query_dict(
        f"""select exists (select from {replica.table}
              where source = $1 and {replica.key} = $2
                and (({replica.version}) > $3 or ({replica.version}) = $3 and row_digest = $4))
              as found""",  # noqa: S608 - names of our own
        [row.name.source, row.name.key, row.name.version, row.digest],
    )
    return bool(found[0]["found"])


async def _end(row_id: Any, stream: str, how: str, now: datetime) -> None:
    await _db().execute_query(
        "update gate_refused_row set healed_at = $2, healed_by = $3 where id = $1",
        [row_id, now, how],
    )
    await events.record(stream, ENDS, now=now, distinction=str(row_id), detail={"how": how})
    log.info("gate_refused_row_over", stream=stream, row=str(row_id), how=how)


async def _open_of(stream: str) -> int:
    found = await _db().execute_query_dict(
        """select count(*) as n from gate_refused_row
           where stream = $1 and healed_at is null""",
        [stream],
    )
    return int(found[0]["n"])


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
