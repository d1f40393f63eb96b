"""The janitor's rounds: silent attempts, ended orders, notices that would not settle, refunds.

Each is bounded per call, idempotent, and may run in several workers at once.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from estation.payments.actions import inbox, incidents, orders, silences, silent, watching
from estation.payments.actions.refunds import send
from estation.payments.rules import CloseReason
from estation.services import Services
from estation.shared.transactions import in_transaction
from estation.shared.turns import Turns, side_by_side


async def query_silent_attempts(
    services: Services, *, now: datetime, limit: int = 64
) -> dict[str, int]:
    """Ask the channels about watched attempts whose time has come; end those nobody may pay.
    All accounts side by side, up to `limit` of each; ended when the slowest has.

    The pauses grow to ten minutes and go on for as long as an attempt is watched. One that
    stays without a certain answer becomes an operator's incident.
    """
    done = await side_by_side(
        await silent.accounts_due(now),
        lambda account_id: silent.query_account(
            account_id, services, clock=lambda: now, limit=limit
        ),
    )
    return _together(done, "asked", "answered", "ended", "not_ended")


def silent_turns(services: Services, *, limit: int = 64) -> Turns:
    """`query_silent_attempts` for a worker: an account whose channel is slow is late alone."""
    return Turns(
        "silent",
        silent.accounts_due,
        lambda account_id: silent.query_account(
            account_id, services, clock=services.clock, limit=limit
        ),
    )


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


async def release_holds(*, now: datetime, limit: int = 500) -> dict[str, int]:
    """Release in the books what orders were expected to bring that are no longer open."""
    return {"released": await orders.release_ended(now=now, limit=limit)}


async def expect_forgotten(*, now: datetime, limit: int = 500) -> dict[str, int]:
    """Have the books expect what open orders bring, where they do not."""
    return {"expected": await orders.expect_forgotten(now=now, limit=limit)}


async def redrive_inbox(services: Services, *, now: datetime, limit: int = 64) -> dict[str, int]:
    """Try again to settle notices that failed."""
    settled, failed = await inbox.redrive(now=now, limit=limit)
    return {"settled": settled, "failed": failed}


async def forget_messages(*, now: datetime) -> dict[str, int]:
    """Let messages go that are past their time; for a bounded time per call."""
    return {"forgotten": await inbox.forget_messages(now=now)}


async def send_refunds(services: Services, *, now: datetime, limit: int = 32) -> dict[str, int]:
    """Bring due refunds to their channels, or ask about them: all accounts side by side, up to
    `limit` of each."""
    done = await side_by_side(
        await send.accounts_due(now),
        lambda account_id: send.send_account(account_id, services, clock=lambda: now, limit=limit),
    )
    return _together(done, "asked", "answered")


def refund_turns(services: Services, *, limit: int = 32) -> Turns:
    """`send_refunds` for a worker: an account whose channel is slow is late alone."""
    return Turns(
        "refunds",
        send.accounts_due,
        lambda account_id: send.send_account(
            account_id, services, clock=services.clock, limit=limit
        ),
    )


async def note_silences(services: Services, *, now: datetime) -> dict[str, int]:
    """Write down which accounts give no answer."""
    return await silences.note_silences(services, now=now)


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


async def end_gate_stops(*, now: datetime) -> dict[str, int]:
    """Resolve incidents of streams that stood still and went on."""
    return {"ended": await incidents.end_gate_stops(now=now)}


def _together(counts: Sequence[Counter[str]], *names: str) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in names}
