"""Asking about silent attempts, account by account, so that none waits for another's channel.

A claim is a lease: whoever took a row works on it alone, and after a crash its time comes again.
Only news that cannot wait (the order's end) sets a row's time to now amid a lease: two may then ask
at once, which is harmless, since what both hear is settled once, and better than a code that stays
payable for as long as the first one's next look is away.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog
from tortoise import Tortoise

from estation.payments import rules
from estation.payments.actions import asking, orders
from estation.payments.actions.asking import LEASE, Ending, Heard, WatchedAttempt
from estation.payments.actions.changes import changed_orders
from estation.payments.rules import CloseReason
from estation.services import Services
from estation.shared.clock import Clock
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

AT_ONCE = 8
"""Questions to one account's channel in flight together; so many are claimed at a time."""

_CLAIM = f"""
select {asking.WATCHED_COLUMNS}, a.queries
from pay_attempt a join pay_order o on o.id = a.order_id
where a.account_id = $1 and a.next_query_at <= $2
order by a.next_query_at, a.last_query_at nulls first, a.id limit $3 for update of a skip locked
"""  # noqa: S608  (our own constants, as below)
# Of those put off to the same moment the one that was asked last is the last to try again: it
# may be the one that its channel never answers.

_PUT_OFF = f"""
update pay_attempt a set next_query_at = $4
from (select w.id from pay_attempt w where w.account_id = $1 and w.next_query_at <= $2
      order by w.next_query_at limit $3 for update skip locked) due, pay_order o
where a.id = due.id and o.id = a.order_id
returning {asking.WATCHED_COLUMNS}
"""  # noqa: S608

_AGAIN = """
update pay_attempt a set next_query_at = t.at
from unnest($1::uuid[], $2::timestamptz[]) as t(id, at)
where a.id = t.id and a.next_query_at = $3
"""
# What moved meanwhile has a time of its own, or none.


@dataclass(frozen=True, slots=True)
class _Claim:
    """`again`: when its time comes again if nothing certain is heard now."""

    attempt: WatchedAttempt
    again: datetime


async def accounts_due(now: datetime) -> list[str]:
    """Accounts with attempts whose time has come."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select distinct account_id from pay_attempt where next_query_at <= $1 order by 1", [now]
    )
    return [row["account_id"] for row in rows]


async def query_account(
    account_id: str, services: Services, *, clock: Clock, limit: int
) -> Counter[str]:
    """Ask about up to `limit` due attempts of one account; end those nobody may pay.

    While its channel gives no answer one is asked now and then, the others are put off unasked.
    """
    counts = Counter(asked=0, answered=0, ended=0, not_ended=0)
    while limit > 0:
        now = clock()
        wanted = min(limit, services.outages.allowed(account_id, now=now, most=AT_ONCE))
        if not wanted:
            await _put_off(account_id, services, limit, now)
            break
        claims = await _claim(account_id, now, wanted)
        counts.update(await _work([claim.attempt for claim in claims], services, now))
        await _set_again(claims, now)
        limit -= len(claims)
        if len(claims) < wanted:
            break
    return counts


async def _work(due: Sequence[WatchedAttempt], services: Services, now: datetime) -> dict[str, int]:
    changed = await changed_orders([attempt.order_id for attempt in due])
    ending = [one for one in due if one.must_end(now) or one.order_id in changed]
    asked = [one for one in due if one not in ending]
    answers, endings = await asyncio.gather(
        asyncio.gather(*(_ask(attempt, services, now) for attempt in asked)),
        asyncio.gather(*(_end(attempt, services, now) for attempt in ending)),
    )
    heard = [answer for answer in answers if answer is not None]
    await asking.take_in(heard, now=now)
    not_ended = [
        attempt
        for attempt, how in zip(ending, endings, strict=True)
        if how not in (Ending.CLOSED, Ending.PAID)
    ]
    await asking.tell_of_silent(not_ended, now=now)
    await _end_changed(changed, now)
    return {
        "asked": len(asked),
        "answered": sum(answer.report is not None for answer in heard),
        "ended": len(ending) - len(not_ended),
        "not_ended": len(not_ended),
    }


async def _ask(attempt: WatchedAttempt, services: Services, now: datetime) -> Heard | None:
    try:
        return await asking.query(attempt, services, now=now)
    except Exception as failure:
        # One attempt's trouble must not keep the others' answers from being settled.
        log.error("ask_failed", out_trade_no=attempt.out_trade_no, exc_info=failure)
        return None


async def _end(attempt: WatchedAttempt, services: Services, now: datetime) -> Ending:
    try:
        return await asking.end_at_its_end(attempt, services, now=now)
    except Exception as failure:
        log.error("end_failed", out_trade_no=attempt.out_trade_no, exc_info=failure)
        return Ending.UNKNOWN


async def _end_changed(order_ids: set[UUID], now: datetime) -> None:
    for order_id in sorted(order_ids):
        await orders.end_order(order_id, reason=CloseReason.BILL_CHANGED, now=now)


async def _claim(account_id: str, now: datetime, limit: int) -> list[_Claim]:
    """Lease due attempts of one account, the longest due first. A lease is known by its next time
    being LEASE after its last question."""
    async with in_transaction() as db:
        rows = await db.execute_query_dict(_CLAIM, [account_id, now, limit])
        if rows:
            await db.execute_query_dict(
                """update pay_attempt set last_query_at = $1, queries = queries + 1,
                   next_query_at = $2 where id = any($3::uuid[])""",
                [now, now + LEASE, [row["id"] for row in rows]],
            )
    return [
        _Claim(
            asking.watched(row),
            rules.next_query_at(row["queries"] + 1, now=now, expires_at=row["order_expires_at"]),
        )
        for row in rows
    ]


async def _set_again(claims: Sequence[_Claim], now: datetime) -> None:
    """End the leases of those that are watched still."""
    if claims:
        await Tortoise.get_connection("default").execute_query_dict(
            _AGAIN,
            [
                [claim.attempt.id for claim in claims],
                [claim.again for claim in claims],
                now + LEASE,
            ],
        )


async def _put_off(account_id: str, services: Services, limit: int, now: datetime) -> None:
    """Until its channel may be tried again; what has waited too long is told all the same."""
    until = services.outages.until(account_id, now=now)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _PUT_OFF, [account_id, now, limit, until]
    )
    put_off = [asking.watched(row) for row in rows]
    changed = await changed_orders([attempt.order_id for attempt in put_off])
    late = [one for one in put_off if one.must_end(now) or one.order_id in changed]
    await asking.tell_of_silent(late, now=now)
    await _end_changed(changed, now)
