"""The five-minute round of the invariants: every breach is counted and becomes an incident."""

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as clock_time
from typing import Any

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.payments.actions.storing import IncidentNote, put_incidents
from estation.payments.invariant_meanings import incident_kind, meaning_of, runbook_of
from estation.payments.invariants import BEGINNING, INVARIANTS, Breaches, breaches_of
from estation.payments.models import Incident, InvariantCheck
from estation.payments.rules import IncidentState
from estation.shared.clock import BEIJING
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

EVERY = timedelta(minutes=5)
RECENT = timedelta(days=3)
"""What was made in these days is looked at in every round: a late success comes within 25 hours."""

WHOLE_AT = clock_time(3, 0)
"""Everything is looked at once a night, after this hour in Beijing."""

ATTACHED = 100
"""Breaches kept with an incident."""

_LOCK = 0x696E7661
"""Advisory lock: of several workers one looks."""


@dataclass(frozen=True, slots=True)
class Looked:
    """How one rule was found; `whole`: everything was looked at, not only recent rows."""

    name: str
    breaches: Breaches
    whole: bool
    took_ms: int


async def check_invariants(*, now: datetime, again: bool = False) -> list[Looked] | None:
    """Look at every rule in one snapshot, count, and open incidents for what breaks one.

    None when another worker is at it or was just now (`again` looks all the same). A rule that
    was broken is looked at whole until it holds; the others whole once a night. The snapshot is
    read-only and its own transaction: a settle that runs meanwhile is seen wholly or not at all.
    """
    looked = await _look(now, again=again)
    if looked is None:
        return None
    async with in_transaction() as db:
        await _remember(db, looked, now)
        await _open_incidents(db, looked, now)
    for one in looked:
        if one.breaches.total:
            log.error("invariant_broken", invariant=one.name, breaches=one.breaches.total)
    return looked


async def _look(now: datetime, *, again: bool) -> list[Looked] | None:
    async with in_transaction() as db:
        await db.execute_script(
            "set transaction isolation level repeatable read, read only;"
            " set local statement_timeout = '600s'"
        )
        rows = await db.execute_query_dict(
            "select pg_try_advisory_xact_lock($1) as is_ours", [_LOCK]
        )
        if not rows[0]["is_ours"]:
            return None
        known = {check.name: check for check in await InvariantCheck.filter(name__in=INVARIANTS)}
        if not again and _was_just_now(known.values(), now):
            return None
        return [await _look_at(name, known.get(name), now) for name in INVARIANTS]


def _was_just_now(checks: Any, now: datetime) -> bool:
    newest = max((check.checked_at for check in checks), default=BEGINNING)
    return bool(newest <= now < newest + EVERY * 0.8)


async def _look_at(name: str, known: InvariantCheck | None, now: datetime) -> Looked:
    whole = must_look_whole(
        whole_at=known.whole_at if known else None,
        was_broken=bool(known and known.breaches),
        now=now,
    )
    began = time.perf_counter()
    since = BEGINNING if whole else now - RECENT
    found = await breaches_of(name, now=now, since=since, limit=ATTACHED)
    return Looked(name, found, whole, round((time.perf_counter() - began) * 1000))


def must_look_whole(*, whole_at: datetime | None, was_broken: bool, now: datetime) -> bool:
    """True when a rule was broken last time, or has not been looked at whole since the night."""
    night = datetime.combine(now.astimezone(BEIJING).date(), WHOLE_AT, tzinfo=BEIJING)
    last_night = night if night <= now else night - timedelta(days=1)
    return was_broken or whole_at is None or whole_at < last_night


async def _remember(db: BaseDBAsyncClient, looked: list[Looked], now: datetime) -> None:
    await db.execute_query_dict(
        """insert into invariant_check as c (name, checked_at, whole_at, breaches, took_ms)
           select t.name, $1::timestamptz, case when t.whole then $1::timestamptz end, t.breaches,
                  t.took_ms
           from unnest($2::text[], $3::boolean[], $4::int[], $5::int[])
               as t(name, whole, breaches, took_ms) order by t.name
           on conflict (name) do update set checked_at = excluded.checked_at,
               whole_at = coalesce(excluded.whole_at, c.whole_at),
               breaches = excluded.breaches, took_ms = excluded.took_ms""",
        [
            now,
            [one.name for one in looked],
            [one.whole for one in looked],
            [min(one.breaches.total, 2**31 - 1) for one in looked],
            [one.took_ms for one in looked],
        ],
    )


async def _open_incidents(db: BaseDBAsyncClient, looked: list[Looked], now: datetime) -> None:
    for one in looked:
        if one.breaches.total:
            note = await _note_for(one)
            if note is not None:
                await put_incidents(db, [note], now=now)


async def _note_for(one: Looked) -> IncidentNote | None:
    """For the breaches that no open incident tells of yet. A resolved one tells of nothing: when
    the rule is broken still or again, somebody has to look again."""
    kind = incident_kind(one.name)
    open_ones = await Incident.filter(kind=kind, state=IncidentState.OPEN).limit(ATTACHED)
    told = {row for incident in open_ones for row in incident.evidence.get("rows", ())}
    fresh = [row for row in one.breaches.first if row not in told]
    if not fresh or (open_ones and one.breaches.total > ATTACHED):
        return None  # beyond the limit the first incident stands for all of them
    digest = hashlib.sha256("\n".join(fresh).encode()).hexdigest()[:24]
    # How many there were before tells a new breach from the same one told twice at once.
    turn = await Incident.filter(kind=kind).count()
    meaning = meaning_of(one.name)
    return IncidentNote(
        kind=kind,
        channel="",
        account_id="",
        out_trade_no="",
        channel_trade_no=None,
        amount_fen=0,
        order_id=None,
        distinction=f"{digest}:{turn}",
        evidence={
            "invariant": one.name,
            "meaning": meaning.words,
            "rows": fresh,
            "total": one.breaches.total,
            "runbook": runbook_of(one.name),
        },
        owner=meaning.owner,
    )
