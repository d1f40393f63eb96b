"""What an outgoing stream needs from time to time, whoever wakes up to see to it.

Lost files are written again, a snapshot and a proof leave each period, and when the peer stands
where our kept packets cannot help it any more, a snapshot is planned at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate import bounds as limits
from estation.outside.gate import events, refused, resending, sentlog, snapshots
from estation.outside.gate.bounds import Bounds, Pause
from estation.outside.gate.snapshots import Why

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often. `first_proof`: after a stream's first start, so that somebody sees one soon."""

    snapshot_every: timedelta = timedelta(days=1)
    prove_every: timedelta = timedelta(hours=1)
    first_proof: timedelta = timedelta(minutes=1)
    stuck_after: timedelta = timedelta(hours=1)


DEFAULT = Schedule()


def schedule_of(*, snapshot_hours: float, prove_minutes: float) -> Schedule:
    """From the settings."""
    return Schedule(timedelta(hours=snapshot_hours), timedelta(minutes=prove_minutes))


async def ensure(tx: BaseDBAsyncClient, stream: str) -> None:
    """The stream's row of `gate_upkeep` exists."""
    await tx.execute_query(
        """insert into gate_upkeep
           (stream, peer_seq, peer_is_behind, resent_from, resend_pause_seconds, proof_is_due,
            paused_reason, log_is_complete)
           values ($1, 0, false, 0, 0, false, '', true) on conflict do nothing""",
        [stream],
    )


async def look_after(
    stream: str,
    *,
    folder: Path,
    now: datetime,
    schedule: Schedule = DEFAULT,
    bounds: Bounds = limits.DEFAULT,
    further: Sequence[Path] = (),
) -> list[int]:
    """Plan and write again whatever is due; the seqs written again. Safe to run twice at once.
    With each period's proof some hundred events and rows that are too old go.

    `further`: other folders of the stream that answer. Bounded: some thousand rows of backfill,
    one window of packets per folder. What is planned leaves with
    the next `sending.pack_waiting`.
    """
    await ensure(_db(), stream)
    await sentlog.backfill(stream)
    await _plan_by_clock(stream, now, schedule)
    await _plan_for_stuck_peer(stream, now, schedule)
    return await resending.resend_due(
        stream, folder=folder, bounds=bounds, now=now, further=further
    )


async def prove(stream: str) -> None:
    """A proof of everything leaves with the next packets."""
    await ensure(_db(), stream)
    await _db().execute_query(
        "update gate_upkeep set proof_is_due = true where stream = $1", [stream]
    )


async def _forget_the_old(now: datetime) -> None:
    """Of every stream: those that only come in have no upkeep of their own."""
    await events.forget(now=now)
    await refused.forget(now=now)


async def _plan_by_clock(stream: str, now: datetime, schedule: Schedule) -> None:
    # The first time only sets the clock: a stream that has sent nothing needs neither. So does
    # a moment beyond a whole period: it was set when the clock was wrong.
    found = await _db().execute_query_dict(
        """update gate_upkeep u
           set snapshot_at = case when u.snapshot_at <= $2 or u.snapshot_at is null
                   or u.snapshot_at > $2::timestamptz + $3::interval
                 then $2::timestamptz + $3::interval else u.snapshot_at end,
               prove_at = case when u.prove_at is null then $2::timestamptz + $5::interval
                 when u.prove_at <= $2 or u.prove_at > $2::timestamptz + $4::interval
                 then $2::timestamptz + $4::interval else u.prove_at end,
               proof_is_due = u.proof_is_due or coalesce(u.prove_at <= $2, false)
           from (select stream, coalesce(snapshot_at <= $2, false) as due,
                        coalesce(prove_at <= $2, false) as proves from gate_upkeep
                 where stream = $1 for update) before
           where u.stream = before.stream
             and (least(u.snapshot_at, u.prove_at) <= $2 or u.snapshot_at is null
                  or u.snapshot_at > $2::timestamptz + $3::interval
                  or u.prove_at > $2::timestamptz + $4::interval)
           returning before.due as snapshot_is_due, before.proves""",
        [
            stream,
            now,
            schedule.snapshot_every,
            schedule.prove_every,
            min(schedule.first_proof, schedule.prove_every),
        ],
    )
    if found and found[0]["snapshot_is_due"]:
        await snapshots.plan(stream, Why.schedule, now=now)
    if found and found[0]["proves"]:
        await _forget_the_old(now)


async def _plan_for_stuck_peer(stream: str, now: datetime, schedule: Schedule) -> None:
    """A snapshot, once for each place where the peer stands still and cannot be helped otherwise.

    It lost its memory and asks for what we have forgotten; it stands still although we wrote
    the packets it misses again and again; or we may pack no further without its word. A moment
    in the future was written by a clock that was wrong: it puts nothing off.
    """
    found = await _db().execute_query_dict(
        """select u.paused_reason, u.peer_is_behind,
                  coalesce(u.peer_since <= $2::timestamptz - $4::interval or u.peer_since > $2,
                           false) as is_stuck,
                  (select min(seq) from gate_outgoing_packet p where p.stream = $1) > u.peer_seq + 1
                    and u.peer_since is not null and u.peer_seq < s.last_seq as is_forgotten,
                  exists (select from gate_snapshot n where n.stream = $1
                          and (n.state <> 'done' or n.planned_at <= $2 and n.planned_at >= case
                               when u.peer_since <= $2 then u.peer_since
                               else $2::timestamptz - $3::interval end)) as is_planned
           from gate_upkeep u join gate_outgoing_stream s using (stream) where u.stream = $1""",
        [stream, now, schedule.snapshot_every, schedule.stuck_after],
    )
    if not found or found[0]["is_planned"]:
        return
    peer = found[0]
    if peer["is_forgotten"]:
        await snapshots.plan(stream, Why.beyond_kept, now=now)
    elif peer["paused_reason"] == Pause.unconfirmed:
        await snapshots.plan(stream, Why.unconfirmed, now=now)
    elif peer["peer_is_behind"] and peer["is_stuck"]:
        await snapshots.plan(stream, Why.stuck, now=now)


def _db() -> BaseDBAsyncClient:
    return Tortoise.get_connection("default")
