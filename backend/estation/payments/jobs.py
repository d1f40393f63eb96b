"""The janitor's rounds: silent attempts, ended orders, notices that would not settle, refunds.

Each is bounded per call, idempotent, and may run in several workers at once.
"""

import asyncio
from datetime import datetime

import structlog

from estation.outside.pay_channels import ChannelReport
from estation.payments import rules
from estation.payments.actions import asking, inbox, incidents, orders, watching
from estation.payments.actions.asking import WatchedAttempt
from estation.payments.actions.changes import changed_orders
from estation.payments.actions.refunds import send
from estation.payments.rules import CloseReason
from estation.services import Services
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

AT_ONCE = 8
"""Questions to channels in flight together."""


async def query_silent_attempts(
    services: Services, *, now: datetime, limit: int = 64
) -> dict[str, int]:
    """Ask the channels about watched attempts whose time has come; end those nobody may pay.

    The pauses grow to ten minutes and go on for as long as an attempt is watched. One that
    stays without a certain answer becomes an operator's incident.
    """
    due = await _claim_due(now, limit)
    changed = await changed_orders([attempt.order_id for attempt in due])
    ending = [one for one in due if one.must_end(now) or one.order_id in changed]
    asked = [one for one in due if one not in ending]
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(attempt: WatchedAttempt) -> ChannelReport | None:
        async with gate:
            try:
                return await asking.query(attempt, services)
            except Exception as failure:
                # One attempt's trouble must not keep the others' answers from being settled.
                log.error("ask_failed", out_trade_no=attempt.out_trade_no, exc_info=failure)
                return None

    async def end(attempt: WatchedAttempt) -> asking.Ending:
        async with gate:
            try:
                return await asking.end_at_its_end(attempt, services, now=now)
            except Exception as failure:
                log.error("end_failed", out_trade_no=attempt.out_trade_no, exc_info=failure)
                return asking.Ending.UNKNOWN

    reports = [report for report in await asyncio.gather(*map(ask, asked)) if report]
    await asking.settle_certain(reports, now=now)
    endings = await asyncio.gather(*map(end, ending))
    not_ended = [
        attempt
        for attempt, how in zip(ending, endings, strict=True)
        if how not in (asking.Ending.CLOSED, asking.Ending.PAID)
    ]
    await asking.tell_of_silent(not_ended, now=now)
    for order_id in sorted(changed):
        await orders.end_order(order_id, reason=CloseReason.BILL_CHANGED, now=now)
    return {
        "asked": len(asked),
        "answered": len(reports),
        "ended": len(ending) - len(not_ended),
        "not_ended": len(not_ended),
    }


async def close_due_orders(
    services: Services, *, now: datetime, limit: int = 200
) -> dict[str, int]:
    """Close open orders past their end that have no live attempt any more, and release bills.

    Live attempts are closed at their channel by `query_silent_attempts`, which comes at the
    order's end; an order never expires before that.
    """
    async with in_transaction() as db:
        rows = await db.execute_query_dict(
            """select o.id from pay_order o
               where o.id in (select b.order_id from pay_order_bill b where b.is_open)
               and o.state = 'open' and o.expires_at <= $1
               and not exists (select from pay_attempt a
                               where a.order_id = o.id and a.state in ('opening', 'open'))
               order by o.expires_at limit $2 for update skip locked""",
            [now, limit],
        )
        # Looked at again under the lock: an attempt may have been opened meanwhile.
        closed = await orders.close_unless_live(
            [row["id"] for row in rows], reason=CloseReason.EXPIRED, now=now
        )
    return {"closed": len(closed)}


async def redrive_inbox(services: Services, *, now: datetime, limit: int = 64) -> dict[str, int]:
    """Try again to settle notices that failed."""
    settled, failed = await inbox.redrive(now=now, limit=limit)
    return {"settled": settled, "failed": failed}


async def send_refunds(services: Services, *, now: datetime, limit: int = 32) -> dict[str, int]:
    """Bring due refunds to their channels, or ask about them."""
    return await send.send_refunds(services, now=now, limit=limit)


async def check_invariants(*, now: datetime) -> dict[str, int]:
    """One round of the invariants, unless another worker just made it; how many are broken."""
    looked = await watching.check_invariants(now=now)
    return {
        "looked": len(looked or ()),
        "broken": sum(bool(o.breaches.total) for o in looked or ()),
    }


async def escalate_overdue(*, now: datetime) -> dict[str, int]:
    """Leave a trace on incidents whose time is over."""
    return {"escalated": await incidents.escalate_overdue(now=now)}


async def _claim_due(now: datetime, limit: int) -> list[WatchedAttempt]:
    """Take due attempts and set their next time at once, so that a crash repeats nothing."""
    async with in_transaction() as db:
        rows = await db.execute_query_dict(
            f"""select {asking.WATCHED_COLUMNS}, a.queries
                from pay_attempt a join pay_order o on o.id = a.order_id
                where a.next_query_at <= $1
                order by a.next_query_at limit $2 for update of a skip locked""",  # noqa: S608
            [now, limit],
        )
        due = [asking.watched(row) for row in rows]
        times = [
            rules.next_query_at(row["queries"] + 1, now=now, expires_at=row["order_expires_at"])
            for row in rows
        ]
        await db.execute_query_dict(
            """update pay_attempt a set last_query_at = $1, queries = a.queries + 1,
               next_query_at = t.at
               from unnest($2::uuid[], $3::timestamptz[]) as t(id, at) where a.id = t.id""",
            [now, [attempt.id for attempt in due], times],
        )
    return due
