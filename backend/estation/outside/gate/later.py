"""Rows that came before anybody here handled their topic, once somebody does.

A newer program finds them parked and hands them over before the packets that wait, oldest packet
first: nobody need send them again. What cannot be taken in stops no stream, since its packet went
by long ago: it is set aside where its topic says so, and else stays parked, told once for a packet
and topic. Parts of files are brought in by `files.look_after_all`: they may have to wait for room.
"""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog
from msgspec import Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import events, positions, refused, rows
from estation.outside.gate.arriving import Arrival, Handler, Seal, Unseal
from estation.outside.gate.errors import RowRefused, is_about_a_value
from estation.outside.gate.events import Alarm, Finding, raise_finding
from estation.outside.gate.refused import RefusedRow
from estation.outside.gate.rows import AsSent
from estation.outside.gate.scope import Scope
from estation.shared.resealing import SealedTable
from estation.shared.transactions import in_transaction
from estation.shared.turns import Pauses

log = structlog.get_logger()

SEALED = (SealedTable("gate_parked_row", ("body_sealed",)),)
MAX_PACKETS = 50
MAX_ROWS_OF_PACKET = 20_000
_ABOUT = "parked:"
_WAITS = f"""stream = $1 and topic = any($2::text[]) and not exists (
  select from gate_event e where e.stream = p.stream and e.kind = 'unhealed'
    and e.distinction = '{_ABOUT}' || encode(p.digest, 'hex'))"""
"""SQL over `gate_parked_row p`: of these topics, and not told already as what nobody can take."""

_pauses = Pauses()
"""Of streams whose rows could not be handed over. In this process: another one finds out itself."""


async def take_up(
    stream: str,
    *,
    handlers: Mapping[str, Handler],
    scope: Scope,
    now: datetime,
    alarm: Alarm | None = None,
    seal: Seal | None = None,
    unseal: Unseal | None = None,
) -> int:
    """Hand over what was parked of topics that have a handler by now; how many rows are parked
    no more. At most MAX_PACKETS packets; call again for more.

    A handler that fails at the moment is asked again after growing pauses: what it did is undone
    at a cost. It holds up nothing that comes. Safe to run twice at once and to kill.
    """
    if not _pauses.may_begin(stream, now):
        return 0
    others = {*rows.PROTOCOL, *rows.loose_topics()}
    topics = [topic for topic in handlers if topic in rows.TOPICS and topic not in others]
    shelf = _Shelf(stream, topics, handlers, scope, alarm, seal, unseal, now)
    taken = 0
    try:
        for seq in await shelf.packets():
            taken += await shelf.take(seq)
        _pauses.went_well(stream)
    except Exception as failure:
        _pauses.failed(stream, now)
        # Its kind and place only: a database's message may quote personal data.
        frame = traceback.extract_tb(failure.__traceback__)[-1]
        where = f"{frame.filename}:{frame.lineno}"
        log.error("gate_parked_rows_wait", stream=stream, kind=type(failure).__name__, where=where)
    if taken:
        log.info("gate_parked_rows_taken_up", stream=stream, rows=taken)
    return taken


class _CannotTake(Exception):
    """Of a packet's rows at least one; each by itself may do better."""


@dataclass(frozen=True, slots=True)
class _Shelf:
    """What is parked of one stream, for one call."""

    stream: str
    topics: Sequence[str]
    handlers: Mapping[str, Handler]
    scope: Scope
    alarm: Alarm | None
    seal: Seal | None
    unseal: Unseal | None
    now: datetime

    async def packets(self) -> list[int]:
        """Those that brought what waits, the oldest first."""
        db = Tortoise.get_connection("default")
        found = await db.execute_query_dict(
            f"select distinct seq from gate_parked_row p where {_WAITS} order by seq limit $3",  # noqa: S608 - constants
            [self.stream, self.topics, MAX_PACKETS],
        )
        return [row["seq"] for row in found]

    async def take(self, seq: int) -> int:
        """All of them in one transaction as they came, or else each in one of its own."""
        try:
            return await self._hand_over(seq, None)
        except _CannotTake:
            pass
        db = Tortoise.get_connection("default")
        waiting = await db.execute_query_dict(
            f"""select line, topic from gate_parked_row p where {_WAITS} and seq = $3
                order by line limit $4""",  # noqa: S608 - constants
            [self.stream, self.topics, seq, MAX_ROWS_OF_PACKET],
        )
        taken = 0
        left: dict[str, list[tuple[int, str]]] = {}
        for row in waiting:
            try:
                taken += await self._hand_over(seq, row["line"])
            except _CannotTake as refusal:
                left.setdefault(row["topic"], []).append((row["line"], str(refusal)))
        for of_topic in left.values():
            await self._tell_all(seq, of_topic)
        return taken

    async def _hand_over(self, seq: int, line: int | None) -> int:
        async with in_transaction() as tx:
            if not await positions.claim(tx, self.stream):
                return 0
            found = await self._unpark(tx, seq, line)
            aside: list[RefusedRow] = []
            for topic in self.topics:
                of_topic = [row for row in found if row["topic"] == topic]
                if of_topic:
                    aside += await self._handle(topic, of_topic)
            await self._keep_aside(aside, seq)
        return len(found)

    async def _unpark(
        self, tx: BaseDBAsyncClient, seq: int, line: int | None
    ) -> list[dict[str, Any]]:
        found = await tx.execute_query_dict(
            f"""delete from gate_parked_row where id in (
                  select id from gate_parked_row p
                  where {_WAITS} and seq = $3 and ($4::int is null or line = $4)
                  order by line limit $5)
                returning seq, line, topic, body, body_sealed, created_at""",  # noqa: S608 - constants
            [self.stream, self.topics, seq, line, MAX_ROWS_OF_PACKET],
        )
        return sorted(found, key=lambda row: row["line"])

    async def _handle(self, topic: str, found: Sequence[dict[str, Any]]) -> list[RefusedRow]:
        """Those that were set aside. Raises _CannotTake; what a handler raises for later."""
        given: list[Struct] = []
        sent: list[AsSent] = []
        aside: list[RefusedRow] = []
        arrival = Arrival(
            self.stream,
            found[0]["seq"],
            # They tell of the time of their packet: newer words about the same are not undone.
            min(found[0]["created_at"], self.now),
            regions=self.scope.regions,
            sources=self.scope.sources,
        )
        for one in found:
            body = positions.body_of(one, self.unseal)
            try:
                row, as_sent = rows.read(topic, body)
            except rows.BadRow as bad:
                aside.append(_set_aside(topic, body, str(bad), arrival))
                continue
            if fault := self.scope.fault_of(row):
                raise _CannotTake(f"another {fault}'s row")
            given.append(row)
            sent.append(as_sent)
        try:
            by_handler = await refused.hand_over(
                self.handlers[topic], topic, given, replace(arrival, sent=sent)
            )
        except RowRefused as refusal:
            raise _CannotTake(str(refusal)) from refusal
        except Exception as failure:
            if not is_about_a_value(failure):
                raise
            raise _CannotTake(type(failure).__name__) from failure
        await refused.heal({topic: refused.without(by_handler, topic, given)}, now=self.now)
        return aside + by_handler

    async def _keep_aside(self, aside: Sequence[RefusedRow], seq: int) -> None:
        try:
            await refused.keep(
                aside, stream=self.stream, seq=seq, seal=self.seal, alarm=self.alarm, now=self.now
            )
        except RowRefused as refusal:
            raise _CannotTake(str(refusal)) from refusal

    async def _tell_all(self, seq: int, left: Sequence[tuple[int, str]]) -> None:
        """Once; they stay parked for whoever looks into them. Somebody hears of the first and how
        many they are: what is wrong with a program is wrong with thousands of them."""
        (line, why), *others = left
        await self._tell(seq, line, why, count=len(left), alarm=self.alarm)
        for line, why in others:
            await self._tell(seq, line, why)

    async def _tell(
        self, seq: int, line: int, why: str, *, count: int = 1, alarm: Alarm | None = None
    ) -> None:
        async with in_transaction() as tx:
            for row in await tx.execute_query_dict(
                """select topic, encode(digest, 'hex') as digest from gate_parked_row
                   where stream = $1 and seq = $2 and line = $3""",
                [self.stream, seq, line],
            ):
                finding = Finding(
                    "unhealed", self.stream, seq, row["topic"], count=count,
                    detail={"why": why[:500], "line": line}, about=f"{_ABOUT}{row['digest']}",
                )  # fmt: skip
                if not await events.is_told(self.stream, finding.kind, finding.distinction):
                    await raise_finding(finding, alarm, now=self.now)


def _set_aside(topic: str, body: bytes, why: str, arrival: Arrival) -> RefusedRow:
    row = refused.set_aside(topic, body, why)
    if row is None or not arrival.is_from(row.name.source):
        raise _CannotTake(why)
    return row
