"""Rows set aside: one that this side cannot take in does not hold up ten thousand others.

Only of topics whose rule says so (`rows.ON_BAD_ROW`), and only a row that still says which thing
it is and is the sender's to write. It is kept with its reason until a row of that thing comes that
can be taken in, of the same or a newer version: a correction, a repair, or a snapshot, which
brings it again. What is kept here is never written into a copy. As long as it is open, proofs know
the difference it makes (`merkle`), somebody owns an incident about it, and pages built on the
source's rows say that something is missing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec
import structlog
from msgspec import Meta, Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import events, merkle, replicas, rows
from estation.outside.gate.arriving import Arrival, Handler, Seal
from estation.outside.gate.errors import RowRefused, is_about_a_value
from estation.outside.gate.events import Alarm, Finding, raise_finding
from estation.outside.gate.rows import AsSent, Identity
from estation.shared import ids
from estation.shared.resealing import SealedTable
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

MAX_OF_PACKET = 20
"""So many new ones of a packet are mistakes in rows; more are a mistake in the sender's program,
and the packet waits for somebody to look. Those that were set aside before count no more."""
MAX_OPEN = 1000
"""Of one stream; then it stops as it does for any other topic."""
KEEP = timedelta(days=90)
"""How long those are kept that are over."""
SEALED = (SealedTable("gate_refused_row", ("body_sealed",)),)
OLDER, GIVEN_UP = "older", "given_up"
BEGINS, ENDS = "row_refused", "row_taken_in"

Thing = tuple[str, str, str]
"""Topic, source, key."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that was set aside. `why` names the field and never the value."""

    topic: str
    name: Identity
    digest: bytes
    body: bytes
    why: str

    @property
    def thing(self) -> Thing:
        return self.topic, self.name.source, self.name.key


@dataclass(frozen=True, slots=True)
class Waiting:
    """One that is set aside, `times` how often it came."""

    id: UUID
    stream: str
    source: str
    key: str
    version: int
    times: int


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
    whole = list(zip(given, arrival.sent, strict=True))
    turn = _Turn(handler, topic, arrival)
    if not await turn.took(whole):
        for piece in await _others_and_known(topic, whole):
            await turn.apply(piece)
    return turn.aside


_Given = list[tuple[Struct, AsSent]]


class _Turn:
    """A handler's rows of one packet. Each of them is handed over a few times at most, however
    many of them are refused."""

    def __init__(self, handler: Handler, topic: str, arrival: Arrival) -> None:
        self._handler = handler
        self._topic = topic
        self._arrival = arrival
        self.aside: list[RefusedRow] = []

    async def took(self, given: _Given) -> bool:
        """Whether all of them are taken in, as nearly always; False when single ones cannot be."""
        try:
            await self._give(given)
        except Exception as failure:
            if not _is_about_single_rows(failure):
                raise
            return False
        return True

    async def apply(self, given: _Given) -> None:
        """Piece by piece, those aside that cannot be taken in."""
        waiting = [given]
        while waiting:
            piece = waiting.pop()
            if not piece:
                continue
            try:
                await self._give(piece)
            except Exception as failure:
                if not _is_about_single_rows(failure):
                    raise
                at = getattr(failure, "position", None)
                if at is not None:
                    self._put_aside(piece[at][1].body, str(failure))
                    waiting += [piece[at + 1 :], piece[:at]]
                elif len(piece) == 1:
                    self._put_aside(piece[0][1].body, type(failure).__name__)
                else:
                    # Which one it is nobody says: the halves, each by itself, find it.
                    half = len(piece) // 2
                    waiting += [piece[half:], piece[:half]]

    async def _give(self, given: _Given) -> None:
        async with in_transaction():
            sent = [as_sent for _, as_sent in given]
            await self._handler([row for row, _ in given], replace(self._arrival, sent=sent))

    def _put_aside(self, body: bytes, why: str) -> None:
        row = set_aside(self._topic, body, why)
        if row is None or not self._arrival.is_from(row.name.source):
            raise RowRefused(why)
        self.aside.append(row)
        require_bounded(self.aside)


def _is_about_single_rows(failure: Exception) -> bool:
    if isinstance(failure, RowRefused):
        return failure.position is not None
    return is_about_a_value(failure)


async def _others_and_known(topic: str, given: _Given) -> list[_Given]:
    """In two, so that those known to be refused cost the others no further tries; without those
    that are here just as they came, which need not be handed over."""
    names = [rows.identity(topic, row) or Identity("", "", 0) for row, _ in given]
    things = {(topic, name.source, name.key) for name in names}
    known = {(one.thing, one.version, one.digest) for one in await _kept_of(things)}
    held = {(thing, *here) for thing, here in (await _held_of(things)).items()}
    others: _Given = []
    again: _Given = []
    for pair, name in zip(given, names, strict=True):
        one = ((topic, name.source, name.key), name.version, pair[1].digest)
        if one not in held:
            (again if one in known else others).append(pair)
    return [others, again]


def without(aside: Sequence[RefusedRow], topic: str, given: Sequence[Struct]) -> Sequence[Struct]:
    """The rows of a topic that were taken in, as far as one can tell by their names: of a thing
    that came twice in one version neither counts."""
    if not aside:
        return given
    names = {row.name for row in aside if row.topic == topic}
    return [row for row in given if rows.identity(topic, row) not in names]


def require_bounded(aside: Sequence[RefusedRow]) -> None:
    """Raises RowRefused when these are more of one packet than may be open. How many of them are
    news is known only when they are kept."""
    if len(aside) > 2 * MAX_OPEN:
        raise RowRefused(f"more than {2 * MAX_OPEN} rows, the first: {aside[0].why}")


async def keep(
    aside: Sequence[RefusedRow],
    *,
    stream: str,
    seq: int,
    seal: Seal | None,
    alarm: Alarm | None,
    now: datetime,
    is_newest: bool = False,
    most: int | None = None,
) -> int:
    """Into quarantine, told once each; how many are news: neither known already nor here.

    One whose thing is here in a newer version is only kept; `is_newest` says that the sender has
    no newer one, whatever is here (repairs, jumps). Raises RowRefused when more than `most`
    (MAX_OF_PACKET) are news, or too many are open. Joins the caller's transaction.
    """
    if not aside:
        return 0
    things = {row.thing for row in aside}
    shelf = _Shelf(await _kept_of(things), await _held_of(things), is_newest)
    news = 0
    again: list[UUID] = []
    for row in aside:
        known = shelf.known(row)
        if known is not None:
            again.append(known)
        elif not shelf.is_held(row):
            news += 1
            require_few(news, row, most)
            await _keep_one(row, shelf, stream, seq, seal, alarm, now)
    await _db().execute_query(
        """update gate_refused_row set times = times + 1, seen_at = $2, stream = $3, seq = $4
           where id = any($1::uuid[])""",
        [again, now, stream, seq],
    )
    if news and await _open_of(stream) > MAX_OPEN:
        raise RowRefused(f"more than {MAX_OPEN} rows are set aside: {aside[0].why}")
    return news


def require_few(news: int, last: RefusedRow, most: int | None = None) -> None:
    """Raises RowRefused when so many are more than single mistakes."""
    bound = MAX_OF_PACKET if most is None else most
    if news > bound:
        raise RowRefused(f"more than {bound} rows are new, the last: {last.why}")


@dataclass(slots=True)
class _Kept:
    """A row in quarantine: open, given up, or of those that never were the newest."""

    id: UUID
    thing: Thing
    version: int
    digest: bytes
    healed_by: str


class _Shelf:
    """What is known of the things of some refused rows, kept up to date while they are put away."""

    def __init__(
        self, kept: Sequence[_Kept], held: Mapping[Thing, tuple[int, bytes]], is_newest: bool
    ) -> None:
        self._open = {one.thing: one for one in kept if not one.healed_by}
        self._over = {(one.thing, one.version, one.digest): one for one in kept if one.healed_by}
        self._held = held
        self._is_newest = is_newest

    def open_of(self, row: RefusedRow) -> _Kept | None:
        return self._open.get(row.thing)

    def known(self, row: RefusedRow) -> UUID | None:
        """The one that is kept and is this one."""
        waits = self._open.get(row.thing)
        if waits is not None and (waits.version, waits.digest) == (row.name.version, row.digest):
            return waits.id
        over = self._over.get((row.thing, row.name.version, row.digest))
        if over is None or (self._is_newest and waits is not None):
            return None
        return over.id if over.healed_by == GIVEN_UP or self.is_old(row) else None

    def is_held(self, row: RefusedRow) -> bool:
        """Just so: a row that was taken in once and would not be today is no news."""
        return self._held.get(row.thing) == (row.name.version, row.digest)

    def is_old(self, row: RefusedRow) -> bool:
        if self._is_newest:
            return False
        waits, here = self._open.get(row.thing), self._held.get(row.thing, (0, b""))
        return max(here[0], waits.version if waits is not None else 0) > row.name.version

    def put(self, row: RefusedRow, row_id: UUID, healed_by: str) -> None:
        one = _Kept(row_id, row.thing, row.name.version, row.digest, healed_by)
        if healed_by:
            self._over[row.thing, one.version, one.digest] = one
        else:
            self._open[row.thing] = one


async def heal(taken: Mapping[str, Sequence[Struct]], *, now: datetime) -> None:
    """Rows of these topics were taken in: what was set aside of the same things, in the same or
    an older version, is over, whatever stream it came with. Of a thing that has but one version
    any other is no version of it, and is over too. Joins the caller's transaction."""
    for topic, given in taken.items():
        if not given or not rows.may_skip(topic):
            continue
        waiting = await waiting_of(topic)
        if not waiting:
            continue
        newest: dict[tuple[str, str], int] = {}
        for row in given:
            name = rows.identity(topic, row)
            if name is not None:
                thing = (name.source, name.key)
                newest[thing] = max(name.version, newest.get(thing, 0))
        for one in waiting:
            version = newest.get((one.source, one.key))
            if version is not None and (rows.only_version(topic) or version >= one.version):
                await end(one, "taken_in", now)


async def forget(*, now: datetime, limit: int = 500) -> None:
    """Those that have been over for long and come no more, some hundred at a time."""
    await _db().execute_query(
        """delete from gate_refused_row where id in (
             select id from gate_refused_row where healed_at < $1 and seen_at < $1
             order by healed_at limit $2)""",
        [now - KEEP, limit],
    )


async def waiting_of(
    topic: str, source: str | None = None, db: BaseDBAsyncClient | None = None
) -> list[Waiting]:
    """Those of a topic that nothing of their sender has ended, given up ones among them."""
    found = await (db or _db()).execute_query_dict(
        f"""select id, stream, source, key, version, times from gate_refused_row
            where topic = $1 and ($2::text is null or source = $2) and {merkle.STILL_REFUSED}""",  # noqa: S608
        [topic, source],
    )
    return [Waiting(**row) for row in found]


async def open_row(row_id: UUID) -> Waiting | None:
    """The one of this number, locked, while it is open. Joins the caller's transaction."""
    found = await _db().execute_query_dict(
        """select id, stream, source, key, version, times from gate_refused_row
           where id = $1 and healed_at is null for update""",
        [row_id],
    )
    return Waiting(**found[0]) if found else None


async def end_unchanged(over: Sequence[Waiting], how: str, *, now: datetime) -> None:
    """Those that did not come again since they were read are over. Joins the transaction."""
    for one in over:
        still = await _db().execute_query_dict(
            """select id from gate_refused_row where id = $1 and times = $2 and version = $3
               for update""",
            [one.id, one.times, one.version],
        )
        if still:
            await end(one, how, now)


async def end_as_sent(
    topic: str, source: str, sent: Mapping[str, tuple[int, bytes]], *, now: datetime
) -> None:
    """Of these things (by key: version and digest) the sender has nothing newer: where that is
    what is here, what was set aside of them is over. Joins the caller's transaction."""
    waiting = [one for one in await waiting_of(topic, source) if one.key in sent]
    here = await _held_of({(topic, source, one.key) for one in waiting})
    for one in waiting:
        if here.get((topic, source, one.key)) == sent[one.key]:
            await end(one, "not_sent", now)


async def end(one: Waiting, how: str, now: datetime) -> None:
    """`how`: taken_in, not_sent (its sender does not have it, or not in this version), or
    GIVEN_UP."""
    await _db().execute_query(
        "update gate_refused_row set healed_at = $2, healed_by = $3 where id = $1",
        [one.id, now, how],
    )
    await events.record(one.stream, ENDS, now=now, distinction=str(one.id), detail={"how": how})
    log.info("gate_refused_row_over", stream=one.stream, row=str(one.id), how=how)


async def _keep_one(
    row: RefusedRow,
    shelf: _Shelf,
    stream: str,
    seq: int,
    seal: Seal | None,
    alarm: Alarm | None,
    now: datetime,
) -> None:
    name = row.name
    is_old = shelf.is_old(row)
    before = None if is_old else shelf.open_of(row)
    row_id = before.id if before is not None else ids.row_id(now)
    await _db().execute_query(
        """insert into gate_refused_row as r
             (id, stream, seq, topic, source, key, version, digest, body_sealed, reason, times,
              at, seen_at, healed_at, healed_by)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $11, $11, $12, $13)
           on conflict (id) do update set
             stream = excluded.stream, seq = excluded.seq, version = excluded.version,
             digest = excluded.digest, body_sealed = excluded.body_sealed,
             reason = excluded.reason, times = r.times + 1, seen_at = excluded.seen_at""",
        [
            row_id, stream, seq, row.topic, name.source, name.key, name.version, row.digest,
            seal(row.body.decode()) if seal is not None else None, row.why[:512], now,
            now if is_old else None, OLDER if is_old else "",
        ],
    )  # fmt: skip
    shelf.put(row, row_id, OLDER if is_old else "")
    if is_old:
        log.warning("gate_old_row_refused", stream=stream, seq=seq, topic=row.topic)
    elif before is not None:
        log.warning("gate_refused_row_again", stream=stream, seq=seq, row=str(row_id))
    else:
        await raise_finding(
            Finding(
                BEGINS, stream, seq, row.topic, name.source, 1, [name.key],
                {"version": name.version, "why": row.why[:500], "row": str(row_id)},
                about=str(row_id),
            ),
            alarm,
            now=now,
        )  # fmt: skip


async def _kept_of(things: Collection[Thing]) -> list[_Kept]:
    """What is kept of these things and says something of rows that come now."""
    found = await _db().execute_query_dict(
        """select r.id, r.topic, r.source, r.key, r.version, r.digest, r.healed_by
           from gate_refused_row r
             join unnest($1::text[], $2::text[], $3::text[]) as t(topic, source, key)
               on r.topic = t.topic and r.source = t.source and r.key = t.key
           where r.healed_at is null or r.healed_by = any($4::text[])
           order by r.id for update of r""",
        [*_in_columns(things), [OLDER, GIVEN_UP]],
    )
    return [
        _Kept(
            row["id"], (row["topic"], row["source"], row["key"]), row["version"],
            bytes(row["digest"]), row["healed_by"],
        )
        for row in found
    ]  # fmt: skip


async def _held_of(things: Collection[Thing]) -> dict[Thing, tuple[int, bytes]]:
    """Version and digest of what is here of them; phantoms are not."""
    by_copy: dict[tuple[str, str], list[str]] = {}
    for topic, source, key in things:
        by_copy.setdefault((topic, source), []).append(key)
    held: dict[Thing, tuple[int, bytes]] = {}
    for (topic, source), keys in by_copy.items():
        replica = replicas.REPLICAS.get(topic)
        if replica is None:
            continue
        found = await _db().execute_query_dict(
            f"""select key, version, digest from ({merkle.rows_of(replica)}) as here
                where key = any($3::text[])""",  # noqa: S608 - names of our own
            [topic, source, keys],
        )
        for row in found:
            held[topic, source, row["key"]] = row["version"], bytes(row["digest"] or b"")
    return held


def _in_columns(things: Collection[Thing]) -> list[list[str]]:
    listed = list(things)
    return [[thing[place] for thing in listed] for place in range(3)]


async def _open_of(stream: str) -> int:
    found = await _db().execute_query_dict(
        """select count(*) as n from gate_refused_row
           where stream = $1 and healed_at is null""",
        [stream],
    )
    return int(found[0]["n"])


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
