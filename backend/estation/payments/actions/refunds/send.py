"""Taking approved refunds to their channels, and asking until each has ended.

A refund was committed with its number before anybody calls; every retry, also after a crash,
says the same. No transaction is open while a channel thinks; what it says goes through settle.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from tortoise import Tortoise

from estation.outside.pay_channels import (
    Channel,
    ChannelError,
    ChannelRefused,
    PayChannel,
    RefundReport,
    RefundRequest,
    RefundStatus,
)
from estation.payments import refund_rules
from estation.payments.actions.asking import LEASE, talking_to
from estation.payments.actions.attempts import NOTICE_PATHS
from estation.payments.actions.refund_locking import (
    LockedRefund,
    lock_arrivals,
    lock_refunds,
    read_refunds,
)
from estation.payments.actions.refund_writing import refund_incident
from estation.payments.actions.settle import from_refund, settle_reports
from estation.payments.actions.storing import FINANCE, OPERATOR, put_incidents
from estation.payments.rules import IncidentKind
from estation.services import Services
from estation.settings import Settings
from estation.shared.clock import Clock
from estation.shared.jsonb import clean_text, jsonb_text
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

AT_ONCE = 8
"""Refunds at one account's channel together; so many are claimed at a time."""

_COLUMNS = """r.id, r.refund_no, r.channel, r.account_id, r.out_trade_no, r.channel_trade_no,
       r.arrival_id, r.amount_fen, r.total_fen, r.reason, r.tries, r.decided_at,
       r.sent_at is not null as was_sent"""

_ONE_BY_ONE = "select pg_advisory_xact_lock(hashtextextended('refunds ' || $1::text, 0))::text"
"""Two claims for one account follow each other: else each could send a first request of the same
trade, seeing the other's as not sent yet."""

_DUE = f"""
select {_COLUMNS}
from pay_refund r
where r.account_id = $4 and r.next_try_at <= $1::timestamptz
  and r.state in ('approved', 'processing', 'abnormal')
  and (r.sent_at is not null or not exists (
      select from pay_refund o where o.arrival_id = r.arrival_id and o.id <> r.id
      and (o.sent_at > $1::timestamptz - ($3::jsonb ->> r.channel)::interval
           or (o.sent_at is null and o.next_try_at is not null and o.id < r.id))))
order by r.next_try_at, r.tries, r.id limit $2 for update of r skip locked
"""  # noqa: S608  (our own constants, as below)
# A trade's refunds go to the channel for the first time one after the other, as far apart as it
# wants; asking again about one that was sent needs no distance.

_CLAIM = """
update pay_refund set tries = tries + 1, sent_at = coalesce(sent_at, $1::timestamptz),
    next_try_at = $3::timestamptz
where id = any($2::uuid[])
"""

_AGAIN = """
update pay_refund r set next_try_at = t.at
from unnest($1::uuid[], $2::timestamptz[]) as t(id, at)
where r.id = t.id and r.next_try_at = $3
"""

_PUT_OFF = f"""
update pay_refund r set next_try_at = $4
from (select w.id from pay_refund w where w.account_id = $1 and w.next_try_at <= $2
      order by w.next_try_at limit $3 for update skip locked) due
where r.id = due.id
returning {_COLUMNS}
"""  # noqa: S608

_TROUBLE = """
update pay_refund r set last_error = $2,
    state = case when r.state = 'approved' and not $3::boolean then 'processing' else r.state end,
    next_try_at = case when $3::boolean then $4::timestamptz else r.next_try_at end
where r.id = $1 and r.state in ('approved', 'processing', 'abnormal')
"""


@dataclass(frozen=True, slots=True)
class DueRefund:
    """A refund whose turn it is; `was_sent`: the channel may know its number already."""

    id: UUID
    refund_no: str
    channel: Channel
    account_id: str
    out_trade_no: str
    channel_trade_no: str
    arrival_id: UUID
    amount_fen: int
    total_fen: int
    reason: str
    tries: int
    decided_at: datetime
    was_sent: bool


async def accounts_due(now: datetime) -> list[str]:
    """Accounts with refunds whose time has come."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select distinct account_id from pay_refund where next_try_at <= $1 order by 1", [now]
    )
    return [row["account_id"] for row in rows]


async def send_account(
    account_id: str, services: Services, *, clock: Clock, limit: int
) -> Counter[str]:
    """Bring up to `limit` due refunds of one account a step further. Idempotent, for several
    workers: a claim is a lease.

    Unfinished ones are asked about for ever, with growing pauses; one that finds its account
    short of money waits longer; one without an end after a day is an operator's incident. While
    the channel gives no answer one is tried now and then, the others are put off untried.
    """
    counts = Counter(asked=0, answered=0)
    while limit > 0:
        now = clock()
        wanted = min(limit, services.outages.allowed(account_id, now=now, most=AT_ONCE))
        if not wanted:
            await _put_off(account_id, services, limit, now)
            break
        due = await _claim(account_id, now, wanted)
        counts.update(asked=len(due), answered=await _work(due, services, now))
        limit -= len(due)
        if len(due) < wanted:
            break
    return counts


async def _work(due: Sequence[DueRefund], services: Services, now: datetime) -> int:
    """How many were answered."""
    answers = await asyncio.gather(*(_ask(refund, services, now) for refund in due))
    reports = [answer for answer in answers if isinstance(answer, RefundReport)]
    await settle_reports([from_refund(report) for report in reports], now=now)
    for refund, answer in zip(due, answers, strict=True):
        if isinstance(answer, Exception):
            await _note_trouble(refund, answer, now)
    await _tell_of_unfinished([refund for refund in due if _is_late(refund, now)], now)
    await _set_again(due, now)
    return len(reports)


async def _ask(refund: DueRefund, services: Services, now: datetime) -> RefundReport | Exception:
    try:
        async with talking_to(refund.account_id, services, now=now) as channel:
            return await _word_of(refund, channel, services.settings)
    except Exception as trouble:
        # One refund's trouble must not keep the others' answers from being settled.
        known = isinstance(trouble, ChannelError)
        log.warning(
            "refund_trouble",
            refund_no=refund.refund_no,
            code=trouble.code if isinstance(trouble, ChannelError) else repr(trouble),
            exc_info=None if known else trouble,
        )
        return trouble


def refund_request(refund: DueRefund, settings: Settings) -> RefundRequest:
    """Made from stored values only, so that asking again says exactly the same."""
    account = refund.account_id.split(":", 1)[1]
    return RefundRequest(
        refund_no=refund.refund_no,
        out_trade_no=refund.out_trade_no,
        channel_trade_no=refund.channel_trade_no,
        amount_fen=refund.amount_fen,
        total_fen=refund.total_fen,
        reason=refund.reason,
        notify_url=f"{settings.public_url}/notices/{NOTICE_PATHS[refund.channel]}/{account}",
    )


async def _claim(account_id: str, now: datetime, limit: int) -> list[DueRefund]:
    """Lease due refunds of one account."""
    apart = {
        str(channel): f"{limits.apart.total_seconds():.0f} seconds"
        for channel, limits in refund_rules.LIMITS.items()
    }
    async with in_transaction() as db:
        await db.execute_query_dict(_ONE_BY_ONE, [account_id])
        rows = await db.execute_query_dict(_DUE, [now, limit, jsonb_text(apart), account_id])
        due = [_due(row) for row in rows]
        if due:
            await db.execute_query_dict(_CLAIM, [now, [one.id for one in due], now + LEASE])
    return due


async def _set_again(due: Sequence[DueRefund], now: datetime) -> None:
    """End the leases of those that have not ended; what was said meanwhile has its own time."""
    if due:
        await Tortoise.get_connection("default").execute_query_dict(
            _AGAIN,
            [
                [refund.id for refund in due],
                [refund_rules.next_look(refund.tries, now=now) for refund in due],
                now + LEASE,
            ],
        )


async def _put_off(account_id: str, services: Services, limit: int, now: datetime) -> None:
    """Until its channel may be tried again; what has waited too long is told all the same."""
    until = services.outages.until(account_id, now=now)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _PUT_OFF, [account_id, now, limit, until]
    )
    await _tell_of_unfinished([one for one in map(_due, rows) if _is_late(one, now)], now)


def _due(row: dict[str, Any]) -> DueRefund:
    return DueRefund(**{**row, "channel": Channel(row["channel"]), "tries": row["tries"] + 1})


async def _word_of(refund: DueRefund, channel: PayChannel, settings: Settings) -> RefundReport:
    """Ask for it, or about it when it may have landed before; again only when it did not."""
    if refund.was_sent:
        known = await channel.query_refund(refund.refund_no, out_trade_no=refund.out_trade_no)
        if known.status is not RefundStatus.NOT_FOUND:
            return known
    try:
        return await channel.refund(refund_request(refund, settings))
    except ChannelRefused as refusal:
        if refund_rules.is_short_of_money(refusal.code):
            raise
        return await _refused(refund, channel, refusal)


async def _refused(refund: DueRefund, channel: PayChannel, refusal: ChannelRefused) -> RefundReport:
    """A certain no; only once the channel also knows nothing of the number it is closed."""
    known = await channel.query_refund(refund.refund_no, out_trade_no=refund.out_trade_no)
    if known.status is not RefundStatus.NOT_FOUND:
        return known
    return RefundReport(
        channel=refund.channel,
        account_id=refund.account_id,
        out_trade_no=refund.out_trade_no,
        refund_no=refund.refund_no,
        status=RefundStatus.CLOSED,
        raw={"refused": refusal.code, "request_id": refusal.request_id},
    )


async def _note_trouble(refund: DueRefund, trouble: Exception, now: datetime) -> None:
    """Without a certain answer it may be under way. Short of money it is certainly not."""
    short = isinstance(trouble, ChannelError) and refund_rules.is_short_of_money(trouble.code)
    async with in_transaction() as db:
        await lock_arrivals(db, [refund.arrival_id])
        await db.execute_query_dict(
            _TROUBLE,
            [
                refund.id,
                clean_text(str(trouble) or repr(trouble), 200),
                short,
                refund_rules.next_try_for_money(refund.tries, now=now),
            ],
        )
        if short:
            found = await read_refunds(db, "r.id = $1", refund.id)
            await _tell(db, IncidentKind.REFUND_NOT_ENOUGH, found, FINANCE, now)


async def _tell_of_unfinished(late: Sequence[DueRefund], now: datetime) -> None:
    if not late:
        return
    async with in_transaction() as db:
        found = await lock_refunds(db, [refund.refund_no for refund in late])
        unfinished = [one for one in found.values() if one.now.state in refund_rules.IN_FLIGHT]
        await _tell(db, IncidentKind.REFUND_UNFINISHED, unfinished, OPERATOR, now)


async def _tell(
    db: Any, kind: IncidentKind, refunds: Sequence[LockedRefund], owner: str, now: datetime
) -> None:
    notes = [
        refund_incident(kind, refund, {"state": refund.now.state}, owner=owner)
        for refund in refunds
    ]
    await put_incidents(db, notes, now=now)


def _is_late(refund: DueRefund, now: datetime) -> bool:
    return refund_rules.is_unfinished_too_long(refund.decided_at, now=now)
