"""Asking channels: querying an attempt, and closing one so that nobody can pay it any more.

No transaction is open while a channel thinks; what it says goes through settle.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import structlog
from tortoise import Tortoise

from estation.outside.pay_channels import (
    Channel,
    ChannelError,
    ChannelReport,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    PayChannel,
    Scene,
)
from estation.outside.pay_channels.outages import NOT_CONFIGURED
from estation.payments import rules
from estation.payments.actions.hearing import CLOSING, NO_ANSWER, note_heard
from estation.payments.actions.locking import lock_order
from estation.payments.actions.settle import from_report, settle_reports
from estation.payments.actions.storing import OPERATOR, IncidentNote, put_incidents
from estation.payments.combining import whole_number
from estation.payments.errors import AttemptNotFound
from estation.payments.rules import AttemptState, CloseReason, IncidentKind, OrderState
from estation.services import Services
from estation.shared.transactions import in_transaction
from estation.shared.typed import is_text

log = structlog.get_logger()

TALK_SECONDS: Final = 60.0
"""The longest that one attempt or refund may be at its channel: three calls, each with a refresh
of certificates, are less."""
LEASE: Final = timedelta(seconds=90)
"""So long a claim keeps others from the same row: longer than a talk, and over after a crash."""

CERTAIN = frozenset({ChannelState.PAID, ChannelState.CLOSED})
"""Only these move anything of ours."""


class Ending(StrEnum):
    """How an effort to close an attempt came out."""

    CLOSED = "closed"  # Certain: it can never be paid.
    PAID = "paid"  # Money had arrived; it is settled.
    UNSEEN = "unseen"  # The channel knows no such trade yet: not the same as closed.
    BUSY = "busy"  # The payer is at it; try later.
    UNKNOWN = "unknown"  # No usable answer.


@dataclass(frozen=True, slots=True)
class WatchedAttempt:
    """An attempt the channel is asked about, with what of its order matters for that."""

    id: UUID
    order_id: UUID
    channel: Channel
    account_id: str
    scene: Scene
    out_trade_no: str
    state: AttemptState
    expires_at: datetime
    order_state: OrderState
    order_expires_at: datetime

    def must_end(self, now: datetime) -> bool:
        return rules.must_end(
            self.state, self.order_state, order_expires_at=self.order_expires_at, now=now
        )


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """How an attempt stood before and after; `answer` is the channel's state or an Ending, None
    when the channel gave none."""

    out_trade_no: str
    before: AttemptState
    after: AttemptState
    answer: str | None


WATCHED_COLUMNS = """a.id, a.order_id, a.channel, a.account_id, a.scene, a.out_trade_no, a.state,
    a.expires_at, o.state as order_state, o.expires_at as order_expires_at"""


def watched(row: dict[str, Any]) -> WatchedAttempt:
    """From a row of WATCHED_COLUMNS; further columns are ignored."""
    return WatchedAttempt(
        id=row["id"],
        order_id=row["order_id"],
        channel=Channel(row["channel"]),
        account_id=row["account_id"],
        scene=Scene(row["scene"]),
        out_trade_no=row["out_trade_no"],
        state=AttemptState(row["state"]),
        expires_at=row["expires_at"],
        order_state=OrderState(row["order_state"]),
        order_expires_at=row["order_expires_at"],
    )


def channel_of(account_id: str, services: Services) -> PayChannel:
    """Raises ChannelUnknown for an account taken out of the settings: its money may still come."""
    channel = services.channels.get(account_id)
    if channel is None:
        raise ChannelUnknown(NOT_CONFIGURED, account_id)
    return channel


@asynccontextmanager
async def talking_to(
    account_id: str, services: Services, *, now: datetime
) -> AsyncIterator[PayChannel]:
    """The account's channel, for a few calls that end in time, whatever they do.

    Nothing of ours is waited for inside: its slowness would pass for the channel's. Raises
    ChannelUnknown after TALK_SECONDS, and for an account out of the settings.
    """
    with services.outages.listening(account_id, now=now):
        channel = channel_of(account_id, services)
        limit = asyncio.timeout(TALK_SECONDS)
        try:
            async with limit:
                yield channel
        except TimeoutError as late:
            if not limit.expired():
                raise
            raise ChannelUnknown("TIMEOUT", f"no end within {TALK_SECONDS} s") from late


@dataclass(frozen=True, slots=True)
class Heard:
    """What a channel answered about an attempt; `report` is None when it gave no answer."""

    attempt_id: UUID
    said: str
    report: ChannelReport | None


async def query(attempt: WatchedAttempt, services: Services, *, now: datetime) -> Heard:
    """The channel's word. Settles nothing: the caller takes it in."""
    report = None
    try:
        async with talking_to(attempt.account_id, services, now=now) as channel:
            report = await channel.query(attempt.out_trade_no)
        said = str(report.state)
    except ChannelError as trouble:
        _log_trouble("query_failed", attempt, trouble)
        said = f"{NO_ANSWER}:{trouble.code}"
    return Heard(attempt.id, said, report)


async def query_and_settle(
    attempt: WatchedAttempt, services: Services, *, now: datetime
) -> ChannelState | None:
    """Ask once and act on a certain answer; None when the channel gave none."""
    heard = await query(attempt, services, now=now)
    await take_in([heard], now=now)
    return heard.report.state if heard.report else None


async def take_in(answers: Sequence[Heard], *, now: datetime) -> None:
    """Settle those that say something certain, then put all of them down. A failure is logged; the
    next query brings it again, since the attempt stays watched."""
    reports = [heard.report for heard in answers if heard.report is not None]
    await settle_reports([from_report(one) for one in reports if one.state in CERTAIN], now=now)
    await asyncio.gather(*(_put_down(heard.attempt_id, [heard.said], now) for heard in answers))


async def _put_down(attempt_id: UUID, said: Sequence[str], now: datetime) -> None:
    """For whoever looks into it later: no money waits for it, or fails with it."""
    try:
        await note_heard(attempt_id, said, at=now)
    except Exception as failure:
        log.error("answer_not_noted", attempt_id=str(attempt_id), exc_info=failure)


async def end_at_channel(attempt: WatchedAttempt, services: Services, *, now: datetime) -> Ending:
    """Query, close, query again: only what the channel calls closed is closed.

    A number the channel never knew is closed here when its life and a margin are over.
    """
    heard: list[str] = []
    said: ChannelReport | Ending = Ending.UNKNOWN
    try:
        async with talking_to(attempt.account_id, services, now=now) as channel:
            said = await _end(attempt, channel, heard)
    except ChannelError as trouble:
        _log_trouble("close_failed", attempt, trouble)
        heard.append(f"{NO_ANSWER}:{trouble.code}")
    ending = await _settled(said, now) if isinstance(said, ChannelReport) else said
    await _put_down(attempt.id, heard, now)
    if ending is Ending.UNSEEN and rules.life_is_over(attempt.expires_at, now=now):
        await _move(attempt, AttemptState.CLOSED, reason=CloseReason.NEVER_SEEN, now=now)
        return Ending.CLOSED
    return ending


async def end_at_its_end(attempt: WatchedAttempt, services: Services, *, now: datetime) -> Ending:
    """`end_at_channel` for an attempt that nobody may pay any more.

    A code nobody scanned leaves the screen at once, so that it does not block the bill.
    """
    ending = await end_at_channel(attempt, services, now=now)
    if ending is Ending.UNSEEN:
        await abandon(attempt, now=now)
    return ending


async def tell_of_silent(attempts: Sequence[WatchedAttempt], *, now: datetime) -> None:
    """One incident per attempt for those without a certain answer long after their order's end."""
    silent = [one for one in attempts if rules.is_silent_too_long(one.order_expires_at, now=now)]
    if silent:
        async with in_transaction() as db:
            await put_incidents(db, [_silence(attempt) for attempt in silent], now=now)


async def ask_again(out_trade_no: str, services: Services, *, now: datetime) -> AskedAgain:
    """Ask the channel about one attempt at a person's wish, and act on a certain answer.

    One that nobody may pay any more is closed there. One that stays without a certain answer is
    watched again, whatever was lost of its next time. Refuses AttemptNotFound.
    """
    attempt = await _watched(out_trade_no)
    if attempt.must_end(now):
        answer: str | None = await end_at_its_end(attempt, services, now=now)
    else:
        answer = await query_and_settle(attempt, services, now=now)
    await Tortoise.get_connection("default").execute_query_dict(
        """update pay_attempt set next_query_at = $1 where id = $2
           and state in ('opening', 'open', 'abandoned') and next_query_at is null""",
        [now + rules.FIRST_QUERY, attempt.id],
    )
    after = await _watched(out_trade_no)
    answered = str(answer) if answer else None
    return AskedAgain(attempt.out_trade_no, attempt.state, after.state, answered)


async def close_now(out_trade_no: str, services: Services, *, now: datetime) -> AskedAgain:
    """Close one attempt at its channel, so that nobody can pay it; `answer` is an Ending.

    For a second code that should not be. Refuses AttemptNotFound.
    """
    attempt = await _watched(out_trade_no)
    answer = await end_at_its_end(attempt, services, now=now)
    after = await _watched(out_trade_no)
    return AskedAgain(attempt.out_trade_no, attempt.state, after.state, str(answer))


async def abandon(attempt: WatchedAttempt, *, now: datetime) -> bool:
    """Take a code the channel knows nothing of off the screen; it stays watched. False: it may
    not be abandoned, because the channel should know it."""
    if not rules.may_be_abandoned(attempt.state, attempt.scene):
        return False
    return await _move(attempt, AttemptState.ABANDONED, now=now)


async def _end(
    attempt: WatchedAttempt, channel: PayChannel, heard: list[str]
) -> ChannelReport | Ending:
    """The channel's certain word, not settled yet, or how else the effort came out. All answers
    go into `heard`, also when one fails to come."""
    number = attempt.out_trade_no
    before = await channel.query(number)
    heard.append(str(before.state))
    if before.state in CERTAIN:
        return before
    outcome = await channel.close(number)
    heard.append(f"{CLOSING}:{outcome}")
    if outcome is CloseOutcome.TRY_LATER:
        return Ending.BUSY
    after = await channel.query(number)
    heard.append(str(after.state))
    if after.state in CERTAIN:
        return after
    nobody_knows = before.state is after.state is ChannelState.NOT_FOUND
    return Ending.UNSEEN if nobody_knows else Ending.BUSY


async def _settled(report: ChannelReport, now: datetime) -> Ending:
    (outcome,) = await settle_reports([from_report(report)], now=now)
    if isinstance(outcome, Exception):
        return Ending.UNKNOWN
    return Ending.PAID if report.state is ChannelState.PAID else Ending.CLOSED


async def _watched(out_trade_no: str) -> WatchedAttempt:
    """The attempt of this number; of a combined payment's part, which the payees' bills and their
    incidents name, the one the channel knows the whole by."""
    if not is_text(out_trade_no):
        raise AttemptNotFound
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select {WATCHED_COLUMNS} from pay_attempt a join pay_order o on o.id = a.order_id
            where a.out_trade_no = $1""",  # noqa: S608  (our own constant)
        [whole_number(out_trade_no)],
    )
    if not rows:
        raise AttemptNotFound
    return watched(rows[0])


async def _move(
    attempt: WatchedAttempt, to: AttemptState, *, now: datetime, reason: str = ""
) -> bool:
    """Move under the order's lock, unless the attempt has moved meanwhile."""
    if to not in rules.ATTEMPT_MOVES[attempt.state]:
        raise rules.IllegalMove(f"attempt {attempt.state} -> {to}")
    async with in_transaction() as db:
        await lock_order(db, attempt.order_id)
        rows = await db.execute_query_dict(
            """update pay_attempt set state = $1::text, close_reason = $2,
               closed_at = case when $3 then $4::timestamptz end,
               next_query_at = case when $3 then null else next_query_at end
               where id = $5 and state = $6::text returning id""",
            [str(to), reason, to is AttemptState.CLOSED, now, attempt.id, str(attempt.state)],
        )
    return bool(rows)


def _silence(attempt: WatchedAttempt) -> IncidentNote:
    return IncidentNote(
        kind=IncidentKind.SILENT_ATTEMPT,
        channel=attempt.channel,
        account_id=attempt.account_id,
        out_trade_no=attempt.out_trade_no,
        channel_trade_no=None,
        amount_fen=0,
        order_id=attempt.order_id,
        distinction=attempt.out_trade_no,
        evidence={
            "attempt": {"state": attempt.state, "scene": attempt.scene},
            "order": {"state": attempt.order_state, "expires_at": attempt.order_expires_at},
        },
        owner=OPERATOR,
    )


def _log_trouble(event: str, attempt: WatchedAttempt, trouble: ChannelError) -> None:
    log.warning(
        event,
        out_trade_no=attempt.out_trade_no,
        code=trouble.code,
        request_id=trouble.request_id,
    )
