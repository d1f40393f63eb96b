"""How files become rows: strictly in order, each in one transaction with its position.

Refused files go to `quarantine/` and the stream says why it stands still; whatever lies
behind stays in `incoming/` and is applied when the right file has come. Applied files are
deleted after the commit: position and digest are in the database, the sender can write the
file again, and a second copy would only be personal data lying about.
"""

import asyncio
import contextlib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import (
    bounds,
    events,
    folders,
    jumping,
    parked,
    patience,
    positions,
    refused,
    reporting,
    room,
    rows,
    shortage,
    symbols,
)
from estation.outside.gate import format as packets
from estation.outside.gate.arriving import Arrival, Handler, OwnedRow, Seal, TwoSteps
from estation.outside.gate.errors import BadPacket, Reason, RowRefused, is_about_a_value
from estation.outside.gate.events import Alarm, Finding
from estation.outside.gate.folders import Listing, NotOurs
from estation.outside.gate.jumping import JUMP_AFTER, Jump, NoJump
from estation.outside.gate.keys import KeyRing, PeerKey
from estation.outside.gate.positions import Position
from estation.outside.gate.proving import Prover
from estation.outside.gate.refused import RefusedRow
from estation.outside.gate.rows import AsSent
from estation.outside.gate.scope import Scope
from estation.outside.gate.shortage import Where
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

MAX_FILES_PER_CALL = 50
TRIES_BEFORE_JUMP = 6
"""So often we try to store a packet that is here before a snapshot may take its place: a database
that is away for a minute comes back, and every version then crosses after all."""
FLOOD = 1000
"""So much junk at once is no mistake any more that somebody might want to look at."""
READ_AHEAD_BYTES = 2 * 1024 * 1024
"""The next file is read and made ready while the database works on this one, unless that would
need much room."""
READ_AHEAD_LINES = packets.FREE_LINES_BYTES
"""What it may unpack to, for the same reason."""

__all__ = [
    "Arrival",
    "Handler",
    "OwnedRow",
    "ReceiveReport",
    "apply_incoming",
    "begin_anew",
    "release",
    "resume",
    "watermark_of",
]


@dataclass(slots=True)
class ReceiveReport:
    """What one call did. `busy`: another importer has the stream, nothing was done."""

    applied: list[int] = field(default_factory=list)
    rows: int = 0
    parked_rows: int = 0
    duplicates: int = 0
    quarantined: list[tuple[str, Reason]] = field(default_factory=list)
    parked_files: int = 0
    stopped_reason: str = ""
    busy: bool = False


async def apply_incoming(
    stream: str,
    *,
    folder: Path,
    peer_key: PeerKey | KeyRing,
    handlers: Mapping[str, Handler],
    now: datetime,
    reply_stream: str | None = None,
    scope: Scope | None = None,
    alarm: Alarm | None = None,
    seal: Seal | None = None,
    jump_after: timedelta = JUMP_AFTER,
    disk_reserve: int = bounds.DEFAULT.disk_reserve,
    max_files: int = MAX_FILES_PER_CALL,
) -> ReceiveReport:
    """Apply what lies in `folder` (`incoming/`), at most `max_files` files, and settle as many
    repeats; call again for more.

    Within a file topics are applied in the order of `handlers`, rows of one topic in the
    file's order. Rows without a handler are parked. With `reply_stream` the peer is told,
    every few seconds at most, up to where we are, and asked for rows that are not here as it
    sent them. A row outside of `scope`, of whatever topic, is a bad row. `alarm` hears of rows
    that were healed, are none of the sender's, or were lost, and once of each standstill for which
    something that came was refused, or row that was set aside (`refused`; `seal` hides what it
    says). Safe to run twice at once and to kill.

    A stream that stood still for `jump_after` goes on behind the newest complete snapshot; so
    does one whose next packet is here but could not be stored by then, however often it was
    tried. While a large proof is compared, what comes meanwhile is applied too.
    """
    prover = Prover(handlers, reply_stream, alarm, now, seal)
    word = reporting.PeersWord(reply_stream, now=now)
    own = _with_own(handlers, prover, word)
    importer = _Importer(stream, folder, peer_key, own, prover, word, now, scope, alarm, seal)
    try:
        is_at_work = True
        while is_at_work:
            listing = await asyncio.to_thread(folders.list_incoming, folder, stream)
            await asyncio.to_thread(folders.drop_remnants, folder, listing, now=now)
            await room.make_room(
                stream, folder, listing, disk_reserve=disk_reserve, alarm=alarm, now=now
            )
            if listing.symbols:
                listing = await _assemble(stream, folder, listing, alarm, now)
            if listing.is_cut:
                await _look_past_junk(stream, folder, listing, max_files)
            strays = await asyncio.to_thread(importer.movable, listing.strays)
            await importer.set_strays_aside(strays[:max_files])
            await importer.end_flood(strays[max_files:])
            await importer.apply(listing.packets, max_files)
            await importer.jump(listing.packets, jump_after)
            if reply_stream is not None:
                await reporting.report_back(stream, reply_stream, now=now)
            # A large proof takes seconds; what comes meanwhile does not wait for it.
            is_at_work = await prover.is_comparing()
    finally:
        await prover.stop()
    if importer.report.quarantined:
        await positions.forget_quarantined(_db(), stream)
    return importer.report


async def _look_past_junk(stream: str, folder: Path, listing: Listing, max_files: int) -> None:
    """However much lies in the folder: the packets that are next are found by their names."""
    position = await positions.position_of(_db(), stream)
    first = position.last_seq + 1
    await asyncio.to_thread(folders.add_next, listing, folder, stream, first, max_files)


async def _assemble(
    stream: str, folder: Path, listing: Listing, alarm: Alarm | None, now: datetime
) -> Listing:
    """The folder's packets with those whose symbols are enough by now."""
    if not symbols.is_installed():
        log.error("gate_symbols_unreadable", stream=stream, files=len(listing.symbols))
        strays = [(name, Reason.foreign_name) for name in listing.symbols]
        return Listing(listing.packets, [], [*listing.strays, *strays])
    position = await positions.position_of(_db(), stream)
    assembled = await asyncio.to_thread(
        symbols.assemble,
        folder,
        listing.symbols,
        applied=position.last_seq,
        whole=listing.packets,
        now=now,
    )
    if assembled.beyond:
        await shortage.begins(
            stream, Where.symbols, detail={"files": assembled.beyond}, alarm=alarm, now=now
        )
    if not assembled.packets:
        return listing
    log.info("gate_assembled", stream=stream, seqs=assembled.packets)
    return await asyncio.to_thread(folders.list_incoming, folder, stream)


async def watermark_of(stream: str) -> datetime | None:
    """Everything that happened on the other side up to this moment is here (`data_as_of`)."""
    found = await Tortoise.get_connection("default").execute_query_dict(
        "select watermark from gate_incoming_stream where stream = $1", [stream]
    )
    return found[0]["watermark"] if found else None


async def resume(stream: str) -> None:
    """A person looked at the fork and wants the stream to go on from its position: our history of
    it is the true one."""
    await Tortoise.get_connection("default").execute_query(
        """update gate_incoming_stream
           set stopped_reason = '', stopped_detail = '', stopped_at = null, retry_at = null
           where stream = $1""",
        [stream],
    )


async def begin_anew(stream: str) -> None:
    """A person says that the peer's present history is the true one, and ours of it is not: it
    came back from a backup, or a twin's packets were applied.

    Its packets are applied from number 1 on while it still has that one, else from its next
    snapshot on; what we have and it has not is then named by proofs.
    """
    async with in_transaction() as tx:
        await positions.begin_anew(tx, stream)


async def release(stream: str, seq: int, *, folder: Path) -> bool:
    """Put the newest quarantined file of this position back into `folder` (`incoming/`).

    For a person who has removed the cause on this side (a payee was missing, say). The file is
    judged again like any other. False when none is kept.
    """
    found = await Tortoise.get_connection("default").execute_query_dict(
        """select kept_as from gate_incoming_file
           where stream = $1 and seq = $2 and state = 'quarantined'
           order by received_at desc, id desc limit 1""",
        [stream, seq],
    )
    return bool(found) and await asyncio.to_thread(
        folders.release, folder, found[0]["kept_as"], packets.file_name(stream, seq)
    )


def _with_own(
    handlers: Mapping[str, Handler], prover: Prover, word: reporting.PeersWord
) -> dict[str, Handler]:
    """The protocol's own business: what the peer received of our packets and wants of them
    first, what must hold behind this packet last."""
    first: dict[str, Handler] = {
        reporting.TOPIC: word.keep,
        "rows_wanted": prover.answer,
    }
    last: dict[str, Handler] = {
        "repair": prover.repair,
        "snapshot": prover.note_end,
        "proof": prover.prove,
    }
    others = {
        topic: handler for topic, handler in handlers.items() if topic not in {**first, **last}
    }
    return {**first, **others, **last}


_MAX_LEFT = 20_000
_left: dict[Path, tuple[int, int]] = {}
"""What lies in `incoming/` and may not be moved by us, as it was when we tried."""


class _TooMuchAhead(Exception):
    """The next file is read at its turn only."""


class _HandlerFailed(Exception):
    """Carries the topic; the cause is the handler's exception."""


@dataclass(frozen=True, slots=True)
class _Content:
    """A file's rows, read and checked, before the database hears of them."""

    head: packets.Head
    handled: dict[str, list[Struct]]
    sent: dict[str, list[AsSent]]
    parked: list[tuple[int, str, bytes]]
    ready: dict[str, Any] = field(default_factory=dict)
    """What handlers in two steps made of their rows already."""
    aside: list[RefusedRow] = field(default_factory=list)
    """Rows nobody here can read, of topics that go on without them."""


class _Importer:
    """One call of `apply_incoming`."""

    def __init__(
        self,
        stream: str,
        folder: Path,
        peer_key: PeerKey | KeyRing,
        handlers: dict[str, Handler],
        prover: Prover,
        word: reporting.PeersWord,
        now: datetime,
        scope: Scope | None = None,
        alarm: Alarm | None = None,
        seal: Seal | None = None,
    ) -> None:
        self._stream = stream
        self._folder = folder
        self._peer_key = peer_key
        self._handlers = handlers
        self._prover = prover
        self._word = word
        self._now = now
        self._scope = scope
        self._alarm = alarm
        self._seal = seal
        self._template = Arrival(
            stream,
            0,
            now,
            regions=scope.regions if scope else (),
            sources=scope.sources if scope else (),
        )
        self._ahead: tuple[int, asyncio.Task[_Content]] | None = None
        self._failed_now = False
        self.report = ReceiveReport()

    async def set_strays_aside(self, strays: Sequence[tuple[str, Reason]]) -> None:
        """Things that are no packets of this stream stop nothing; they only must not stay.

        Those that we may not move do stay, and stop nothing either.
        """
        for name, reason in strays:
            await self._quarantine(_db(), name, None, BadPacket(reason), stops=False)

    def movable(self, strays: Sequence[tuple[str, Reason]]) -> list[tuple[str, Reason]]:
        """Without those that we may not move, until they or their permissions change."""
        return [
            stray
            for stray in strays
            if (self._folder / stray[0]) not in _left
            or folders.mark_of(self._folder / stray[0]) != _left[self._folder / stray[0]]
        ]

    async def end_flood(self, strays: Sequence[tuple[str, Reason]]) -> None:
        """Junk far beyond what is worth keeping as evidence goes at once, counted in one record.

        Not so packets of other streams: they only went the wrong way.
        """
        junk = [name for name, reason in strays if reason is not Reason.foreign_stream]
        if len(junk) < FLOOD:
            return
        removed = await asyncio.to_thread(folders.clear, self._folder, junk)
        if not removed:
            return  # we may not: as good as not there
        detail = f"{removed} entries removed"
        await positions.record_quarantined(
            _db(), self._stream, seq=None, file_name="", digest="", reason=Reason.flood,
            detail=detail, kept_as="", file_id=ids.row_id(self._now), now=self._now,
        )  # fmt: skip
        log.error("gate_flooded", stream=self._stream, detail=detail)

    async def apply(self, found: dict[int, str], max_files: int) -> None:
        """What is next goes first: repeats, however many lie there, hold nothing up."""
        db = _db()
        self._failed_now = False
        position = await positions.position_of(db, self._stream)
        if position.stopped_reason and not position.needs_a_person:
            await self._listen_ahead(found, position)
        repeats = sorted(seq for seq in found if seq <= position.last_seq)[:max_files]
        budget = max_files
        try:
            while budget > 0 and self._may_go_on(position):
                seq = position.last_seq + 1
                following = found.get(seq + 1) if budget > 1 else None
                if seq not in found:
                    break
                if not await self._apply_next(position, found[seq], following):
                    if any(name == found[seq] for name, _ in self.report.quarantined):
                        del found[seq]  # a refused file is as good as none
                    break
                budget -= 1
                position = await positions.position_of(db, self._stream)
        finally:
            await self._forget_ahead()
        for seq in repeats:
            await self._settle_repeat(seq, found.pop(seq))
        if not self.report.busy:
            await self._note_what_waits(found, budget)

    async def _listen_ahead(self, found: Mapping[int, str], position: Position) -> None:
        """Behind our own gap lies what the peer received of ours: our re-sends need not wait."""
        if self._word.about is None:
            return
        heard = await asyncio.to_thread(
            parked.newest_word,
            self._folder,
            self._stream,
            found,
            after=position.last_seq + 1,
            about=self._word.about,
            peer_key=self._peer_key,
        )
        if heard is not None:
            await self._word.hear_ahead(*heard)

    def _may_go_on(self, position: Position) -> bool:
        return not position.needs_a_person and (
            position.retry_at is None
            or not self._now < position.retry_at <= self._now + positions.MAX_RETRY
        )

    async def _note_what_waits(self, found: dict[int, str], budget: int) -> None:
        position = await positions.position_of(_db(), self._stream)
        self.report.stopped_reason = position.stopped_reason
        await self._tell_refusal(position)
        if budget <= 0:
            return
        ahead = sum(seq > position.last_seq + 1 for seq in found)
        missing = position.last_seq + 1 not in found or bool(position.stopped_reason)
        self.report.parked_files = ahead if missing else 0
        await positions.note_parked_files(
            _db(), self._stream, position, self.report.parked_files, now=self._now
        )
        if self.report.parked_files and not position.stopped_reason:
            self.report.stopped_reason = Reason.gap.value

    async def _tell_refusal(self, position: Position) -> None:
        """Once for each standstill and reason, however often we look. By the position and not
        when the file is set aside: then a crash in between hides nothing."""
        if not position.is_refused or position.stopped_at is None:
            return
        since = position.stopped_at.isoformat()
        finding = Finding(
            "stopped",
            self._stream,
            position.last_seq + 1,
            detail={
                "reason": position.stopped_reason,
                "detail": position.stopped_detail,
                "stopped_at": since,
                "needs_a_person": position.needs_a_person,
            },
            about=f"{self._stream}:{position.stopped_reason}:{since}",
        )
        if await events.is_told(self._stream, finding.kind, finding.distinction):
            return
        async with in_transaction():
            await events.raise_finding(finding, self._alarm, now=self._now)

    async def jump(self, found: dict[int, str], jump_after: timedelta) -> None:
        """Go on behind a snapshot that is here completely, when what is missing does not come."""
        position = await positions.position_of(_db(), self._stream)
        # Whoever just failed waits before the next try; the jump is part of this one.
        may_try = self._failed_now or self._may_go_on(position)
        if self.report.busy or not may_try or not self._is_stuck(position, found, jump_after):
            return
        run = await asyncio.to_thread(
            jumping.find_run,
            self._folder,
            self._stream,
            found,
            after=position.last_seq + 1,
            peer_key=self._peer_key,
        )
        if run is None or await jumping.was_refused(self._stream, run):
            return
        try:
            await self._jump(run, found, position)
        except FileNotFoundError:
            return  # another importer was faster
        except (BadPacket, RowRefused, NoJump) as refusal:
            await jumping.note_refusal(self._stream, run, str(refusal), now=self._now)
        except Exception as failure:
            if is_about_a_value(failure):
                why = type(failure).__name__
                await jumping.note_refusal(self._stream, run, why, now=self._now)
                return
            wrapped = _HandlerFailed("snapshot")
            wrapped.__cause__ = failure
            await self._stop_and_retry(position, wrapped)

    def _is_stuck(self, position: Position, found: dict[int, str], after: timedelta) -> bool:
        cannot_store = self._failed_now and position.failures >= TRIES_BEFORE_JUMP
        return (
            (position.last_seq + 1 not in found or cannot_store)
            and position.stopped_at is not None
            and not self._now - after < position.stopped_at <= self._now
            and any(seq > position.last_seq + 1 for seq in found)
        )

    async def _jump(self, run: jumping.Run, found: dict[int, str], position: Position) -> None:
        jump = Jump(
            run,
            stream=self._stream,
            folder=self._folder,
            found=found,
            peer_key=self._peer_key,
            handlers=self._handlers,
            template=self._template,
            require_own=self._require_own,
            alarm=self._alarm,
            seal=self._seal,
            now=self._now,
        )
        patience.allow(run.seconds_allowed)
        async with in_transaction() as tx:
            if not await self._still_next(tx, position):
                return
            await jump.apply(tx, position)
        await self._prover.compare(run.last)
        for seq in range(run.first, run.last + 1):
            await asyncio.to_thread(folders.remove, self._folder / found[seq])
            self.report.applied.append(seq)
        self.report.parked_files = 0
        self.report.stopped_reason = ""

    async def _settle_repeat(self, seq: int, name: str) -> None:
        """A position we have passed: the same packet is dropped cheaply, another is a fork."""
        path = self._folder / name
        try:
            head = packets.read_head(await asyncio.to_thread(folders.read_beginning, path))
            packets.check_name(head, stream=self._stream, seq=seq)
            applied = await positions.applied_digest(_db(), self._stream, seq)
            if applied is not None and head.digest != applied:
                packets.check_seal(head, self._peer_key)
                raise BadPacket(Reason.fork, f"seq {seq} was applied with another content")
        except FileNotFoundError:
            return
        except BadPacket as bad:
            # Damage to a mere repeat harms nobody; a second history under our peer's seal does.
            await self._quarantine(_db(), name, seq, bad, stops=bad.reason is Reason.fork)
            return
        await asyncio.to_thread(folders.remove, path)
        await positions.count_duplicate(_db(), self._stream)
        self.report.duplicates += 1

    async def _apply_next(
        self, position: Position, name: str, following: str | None = None
    ) -> bool:
        """Apply the file at position + 1. True when the position moved (by us).

        `following`: the name of the file behind it, to be read meanwhile.
        """
        seq = position.last_seq + 1
        path = self._folder / name
        try:
            content = await self._content_of(path, seq)
            self._read_ahead(following, seq + 1)
            async with in_transaction() as tx:
                if not await self._still_next(tx, position):
                    return False
                if content.head.manifest.previous != position.last_digest:
                    raise BadPacket(Reason.fork, f"seq {seq} continues another history")
                await self._hand_over(tx, content)
        except FileNotFoundError:
            return False  # another importer was faster
        except BadPacket as bad:
            await self._quarantine(_db(), name, seq, bad, stops=True)
            return False
        except _HandlerFailed as failure:
            await self._stop_and_retry(position, failure)
            return False
        await self._prover.compare(seq)
        await asyncio.to_thread(folders.remove, path)
        self._count(content)
        return True

    async def _content_of(self, path: Path, seq: int) -> _Content:
        """Of a file that was read ahead, or is read now."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == seq:
            with contextlib.suppress(_TooMuchAhead):
                return await ahead[1]
        return await asyncio.to_thread(self._read, path, seq)

    def _read_ahead(self, name: str | None, seq: int) -> None:
        """Nothing is believed or done with it before its turn: it is only read and unpacked."""
        path = self._folder / (name or "")
        if name is not None and folders.size_of(path) <= READ_AHEAD_BYTES:
            self._ahead = (
                seq,
                asyncio.create_task(asyncio.to_thread(self._read, path, seq, READ_AHEAD_LINES)),
            )

    async def _forget_ahead(self) -> None:
        """What was read for a turn that did not come; a bad file is met again at its turn."""
        if self._ahead is not None:
            await asyncio.wait([self._ahead[1]])
            self._ahead[1].exception()
            self._ahead = None

    def _read(
        self, path: Path, seq: int, max_lines_bytes: int = packets.MAX_LINES_BYTES
    ) -> _Content:
        """Everything that can be checked without the database. Blocking."""
        data = folders.read_bounded(path)
        head = packets.read_head(data)
        packets.check_name(head, stream=self._stream, seq=seq)
        packets.check_seal(head, self._peer_key)
        if head.manifest.lines_length > max_lines_bytes:
            raise _TooMuchAhead
        handled: dict[str, list[Struct]] = {topic: [] for topic in self._handlers}
        sent: dict[str, list[AsSent]] = {topic: [] for topic in self._handlers}
        parked: list[tuple[int, str, bytes]] = []
        aside: list[RefusedRow] = []
        for number, line in enumerate(packets.read_lines(data, head), 1):
            if line.topic in handled and line.topic in rows.TOPICS:
                try:
                    row, as_sent = rows.read(line.topic, bytes(line.row))
                except rows.BadRow as bad:
                    aside.append(self._set_aside(line, number, bad))
                    _require_bounded(aside)
                    continue
                self._require_own(row, line, number)
                handled[line.topic].append(row)
                sent[line.topic].append(as_sent)
            else:
                self._require_own(rows.owner_of(line.row), line, number)
                parked.append((number, line.topic, bytes(line.row)))
        content = _Content(head, handled, sent, parked, aside=aside)
        self._make_ready(content)
        return content

    def _set_aside(self, line: packets.Line, number: int, bad: rows.BadRow) -> RefusedRow:
        """Raises BadPacket where the stream has to stop for it."""
        body = bytes(line.row)
        row = refused.set_aside(line.topic, body, str(bad))
        if row is None:
            detail = f"line {number}, topic {line.topic}: {bad}"
            raise BadPacket(Reason.bad_row, detail) from bad
        self._require_own(rows.owner_of(body), line, number)
        if not self._template.is_from(row.name.source):
            raise BadPacket(
                Reason.bad_row, f"line {number}, topic {line.topic}: another source's row"
            )
        return row

    def _make_ready(self, content: _Content) -> None:
        for topic, topic_rows in content.handled.items():
            handler = self._handlers[topic]
            if topic_rows and isinstance(handler, TwoSteps):
                with contextlib.suppress(Exception):  # said again at the rows' turn
                    content.ready[topic] = handler.prepare(
                        topic_rows, self._arrival(content, topic)
                    )

    def _arrival(self, content: _Content, topic: str) -> Arrival:
        manifest = content.head.manifest
        return replace(
            self._template,
            seq=manifest.seq,
            watermark=positions.known_up_to(manifest, self._now),
            sent=content.sent[topic],
        )

    def _require_own(self, row: object, line: packets.Line, number: int) -> None:
        """Also of rows that are only kept: whoever reads them later need not ask again."""
        fault = self._scope.fault_of(row) if self._scope is not None else ""
        if fault:
            raise BadPacket(
                Reason.bad_row, f"line {number}, topic {line.topic}: another {fault}'s row"
            )

    async def _still_next(self, tx: BaseDBAsyncClient, position: Position) -> bool:
        if not await positions.claim(tx, self._stream):
            self.report.busy = True
            return False
        locked = await positions.position_of(tx, self._stream, lock=True)
        if locked.last_seq != position.last_seq or locked.needs_a_person:
            self.report.busy = True
            return False
        return True

    async def _hand_over(self, tx: BaseDBAsyncClient, content: _Content) -> None:
        manifest = content.head.manifest
        aside = list(content.aside)
        taken: dict[str, Sequence[Struct]] = {}
        for topic, topic_rows in content.handled.items():
            if topic_rows:
                refused_here = await self._handle(topic, content)
                aside += refused_here
                taken[topic] = refused.without(refused_here, topic, topic_rows)
        await refused.heal(taken, now=self._now)
        await self._keep_aside(aside, manifest.seq)
        if content.parked:
            await positions.park_rows(
                tx, content.head, content.parked, now=self._now, seal=self._seal
            )
        talk = len(content.handled.get(reporting.TOPIC, ()))
        await positions.record_applied(
            tx, content.head, content=manifest.count > talk, now=self._now
        )

    async def _keep_aside(self, aside: Sequence[RefusedRow], seq: int) -> None:
        try:
            await refused.keep(
                aside, stream=self._stream, seq=seq, seal=self._seal, alarm=self._alarm,
                now=self._now,
            )  # fmt: skip
        except RowRefused as refusal:
            raise BadPacket(Reason.bad_row, str(refusal)) from refusal

    async def _handle(self, topic: str, content: _Content) -> list[RefusedRow]:
        """Which rows it refused, the others being applied."""
        handler, topic_rows = self._handlers[topic], content.handled[topic]
        arrival = self._arrival(content, topic)
        try:
            if isinstance(handler, TwoSteps) and not rows.may_skip(topic):
                await handler.apply(topic_rows, arrival, content.ready.get(topic))
                return []
            return await refused.hand_over(handler, topic, topic_rows, arrival)
        except RowRefused as refusal:
            raise BadPacket(Reason.bad_row, f"topic {topic}: {refusal}") from refusal
        except Exception as failure:
            if is_about_a_value(failure):
                kind = type(failure).__name__
                raise BadPacket(Reason.bad_row, f"topic {topic}: {kind}") from failure
            raise _HandlerFailed(topic) from failure

    async def _stop_and_retry(self, position: Position, failure: _HandlerFailed) -> None:
        self._failed_now = True
        # The message of a database error quotes values, which may be personal data: it is
        # neither stored nor logged, only its kind and place.
        cause = failure.__cause__
        frame = traceback.extract_tb(cause.__traceback__)[-1] if cause else None
        detail = f"topic {failure}: {type(cause).__name__}"
        log.error(
            "gate_handler_failed",
            stream=self._stream,
            seq=position.last_seq + 1,
            detail=detail,
            where=f"{frame.filename}:{frame.lineno}" if frame else "",
        )
        await positions.stop_and_retry(
            _db(), self._stream, detail, position.failures, now=self._now
        )

    async def _quarantine(
        self, db: BaseDBAsyncClient, name: str, seq: int | None, bad: BadPacket, *, stops: bool
    ) -> None:
        """First the record, then the move: a crash between the two only repeats the record."""
        path = self._folder / name
        digest = await asyncio.to_thread(folders.digest_of, path)
        file_id = ids.row_id(self._now)
        harmless = folders.harmless_name(name)
        kept_as = await positions.record_quarantined(
            db,
            self._stream,
            seq=seq,
            file_name=harmless,
            digest=digest,
            reason=bad.reason,
            detail=bad.detail,
            kept_as=f"{file_id}-{harmless}",
            file_id=file_id,
            now=self._now,
        )
        if stops:
            await positions.stop(db, self._stream, bad.reason, bad.detail, now=self._now)
        try:
            await asyncio.to_thread(folders.quarantine, self._folder, name, kept_as)
        except NotOurs as problem:
            self.report.quarantined.append((name, bad.reason))
            await positions.take_back_quarantined(db, file_id)
            await self._leave(name, bad, problem)
            return
        log.error(
            "gate_quarantined",
            stream=self._stream,
            seq=seq,
            reason=bad.reason.value,
            detail=bad.detail,
            kept_as=kept_as,
        )
        self.report.quarantined.append((name, bad.reason))

    async def _leave(self, name: str, bad: BadPacket, problem: OSError) -> None:
        """It stays in `incoming/`; told once, also after a restart."""
        path = self._folder / name
        mark = await asyncio.to_thread(folders.mark_of, path)
        if mark is not None:
            while len(_left) >= _MAX_LEFT:
                del _left[next(iter(_left))]
            _left[path] = mark
        why = problem.strerror or type(problem).__name__
        harmless = folders.harmless_name(name)
        if await events.record(
            self._stream,
            "left",
            now=self._now,
            distinction=harmless,
            reason=bad.reason.value,
            detail={"file_name": harmless, "why": why},
        ):
            log.error("gate_file_left", stream=self._stream, file_name=harmless, why=why)

    def _count(self, content: _Content) -> None:
        manifest = content.head.manifest
        self.report.applied.append(manifest.seq)
        self.report.rows += manifest.count
        self.report.parked_rows += len(content.parked)
        log.info(
            "gate_applied",
            stream=self._stream,
            seq=manifest.seq,
            rows=manifest.count,
            parked_rows=len(content.parked),
        )


def _require_bounded(aside: Sequence[RefusedRow]) -> None:
    try:
        refused.require_bounded(aside)
    except RowRefused as refusal:
        raise BadPacket(Reason.bad_row, str(refusal)) from refusal


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
