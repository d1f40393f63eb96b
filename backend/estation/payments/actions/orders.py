"""The life of an order: made, cancelled, refreshed, ended."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from tortoise import Tortoise
from tortoise.exceptions import IntegrityError

from estation.fees.api import (
    BillChanged,
    BillNotFound,
    BillNotPayable,
    BillView,
    LockedBill,
    bill_of,
    lock_bills,
)
from estation.ledger.api import hold_input, post_many, release_holds
from estation.payments import queries
from estation.payments.actions import asking
from estation.payments.actions.asking import Ending, WatchedAttempt
from estation.payments.actions.changes import changed_orders
from estation.payments.actions.locking import lock_order
from estation.payments.errors import (
    AmountChanged,
    AnotherAttemptLive,
    ChannelTrouble,
    OrderAlreadyOpen,
)
from estation.payments.models import PayOrder, PayOrderBill, PayOrderSplit
from estation.payments.queries import OrderView
from estation.payments.rules import CloseReason, OrderState, next_query_at
from estation.services import Services
from estation.settings import Settings
from estation.shared import ids
from estation.shared.errors import InvalidInput
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

MAX_BILLS = 20
QUERY_PAUSE = timedelta(seconds=3)
"""A page may ask as often as it likes; the channel is asked at most this often per attempt."""


@dataclass(frozen=True, slots=True)
class BillChoice:
    """A bill in the version the citizen saw."""

    bill_id: UUID
    version: int


async def start_order(
    *,
    person_id: UUID,
    bills: Sequence[BillChoice],
    expected_fen: int,
    settings: Settings,
    now: datetime,
) -> OrderView:
    """Make an open order of these bills; no channel is asked yet. One transaction.

    Refuses BillNotFound, BillNotPayable, BillChanged (with the present version and amount),
    AmountChanged (with the present sum) and OrderAlreadyOpen (with the order when it is the
    asker's own); nothing is changed then.
    """
    if not 1 <= len(bills) <= MAX_BILLS or len({bill.bill_id for bill in bills}) != len(bills):
        raise InvalidInput(field="bills")
    shown = {bill.bill_id: await bill_of(person_id, bill.bill_id) for bill in bills}
    order_id = ids.row_id(now)
    try:
        async with in_transaction():
            locked = await lock_bills(sorted(shown))
            amount_fen = _checked_sum(locked, bills, person_id)
            if amount_fen != expected_fen:
                raise AmountChanged(amount_fen=amount_fen)
            await _insert(order_id, person_id, locked, shown, settings, now)
    except IntegrityError as clash:
        if "uq_pay_order_bill_open" not in str(clash):
            raise
        raise await _already_open(person_id, sorted(shown)) from None
    return await queries.order_of(person_id, order_id)


async def cancel_order(
    *, person_id: UUID, order_id: UUID, services: Services, now: datetime
) -> OrderView:
    """End an unpaid order for its payer: closed at the channel first, then here.

    Money that turns out to have arrived is settled instead, and the view says so. An order
    that has ended is returned as it is. Raises AnotherAttemptLive or ChannelTrouble when the
    channel would not close it now; the order stays open then.
    """
    order = await queries.order_of(person_id, order_id)
    if order.state is OrderState.OPEN:
        await free_the_way(order_id, services, now=now)
        await end_order(order_id, reason=CloseReason.CANCELLED, now=now)
    return await queries.order_of(person_id, order_id)


async def refresh_order(
    *, person_id: UUID, order_id: UUID, services: Services, now: datetime
) -> OrderView:
    """The order, after asking the channel when nobody has asked for some seconds.

    An order past its end, or with a bill no longer as seen, is ended: at the channel first.
    Never fails because of a channel: then the view is simply as old as it was. One that is out
    is not waited for.
    """
    order = await queries.order_of(person_id, order_id)
    if order.state is not OrderState.OPEN:
        return order
    is_changed = bool(await changed_orders([order_id]))
    attempt = await live_attempt(order_id)
    if attempt is not None and await _may_ask(attempt, services, now):
        if is_changed or attempt.must_end(now):
            await asking.end_at_its_end(attempt, services, now=now)
        else:
            await asking.query_and_settle(attempt, services, now=now)
    if order.expires_at <= now:
        await end_order(order_id, reason=CloseReason.EXPIRED, now=now)
    elif is_changed:
        await end_order(order_id, reason=CloseReason.BILL_CHANGED, now=now)
    return await queries.order_of(person_id, order_id)


async def free_the_way(order_id: UUID, services: Services, *, now: datetime) -> None:
    """Close or abandon the order's live attempt, so that the bill may be paid another way.

    Raises AnotherAttemptLive (somebody may be paying) or ChannelTrouble (no answer). Returns
    also when the attempt turned out to be paid: the order is settled then.
    """
    attempt = await live_attempt(order_id)
    if attempt is None:
        return
    ending = await asking.end_at_channel(attempt, services, now=now)
    if ending is Ending.UNKNOWN:
        raise ChannelTrouble
    if ending is Ending.BUSY:
        raise AnotherAttemptLive
    if ending is Ending.UNSEEN and not await asking.abandon(attempt, now=now):
        raise AnotherAttemptLive


async def end_order(order_id: UUID, *, reason: str, now: datetime) -> bool:
    """Close an open order whose attempts all ended, and release its bills. One transaction.

    False when it is not open any more or an attempt is live (the janitor comes again).
    """
    async with in_transaction() as db:
        order = await lock_order(db, order_id)
        if order is None or order["state"] != OrderState.OPEN:
            return False
        return bool(await close_unless_live([order_id], reason=reason, now=now))


async def close_unless_live(order_ids: list[UUID], *, reason: str, now: datetime) -> list[UUID]:
    """Close those of these locked, open orders that have no live attempt."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """with ended as (
               update pay_order o set state = 'closed', closed_at = $1, close_reason = $2
               where o.id = any($3::uuid[]) and o.state = 'open' and not exists (
                   select from pay_attempt a
                   where a.order_id = o.id and a.state in ('opening', 'open'))
               returning o.id
           ), released as (
               update pay_order_bill b set is_open = false
               from ended where b.order_id = ended.id and b.is_open
           )
           select id from ended""",
        [now, reason, order_ids],
    )
    return [row["id"] for row in rows]


async def release_ended(*, now: datetime, limit: int) -> int:
    """Release in the books what orders were expected to bring that are no longer open; how many.

    Not in the transaction that ends an order: a callback pays nothing for it, and the books
    expect the money a few seconds longer. Twice, or by two workers, changes nothing.
    """
    return await release_holds(await queries.ended_on_hold(limit), now)


async def expect_forgotten(*, now: datetime, limit: int) -> int:
    """Post the holds of open orders that have none (made before there were holds, or lost by a
    hand in the database); how many."""
    forgotten = await queries.open_without_hold(limit)
    holds = [
        hold_input(order.order_no, order.id, order.region, order.shares, order.created_at)
        for order in forgotten
    ]
    await post_many(holds, now=now)
    for order in forgotten:
        log.warning("order_was_not_expected", order_no=order.order_no)
    return len(forgotten)


async def live_attempt(order_id: UUID) -> WatchedAttempt | None:
    """The order's one attempt that may be paid now."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select {asking.WATCHED_COLUMNS}
            from pay_attempt a join pay_order o on o.id = a.order_id
            where a.order_id = $1 and a.state in ('opening', 'open')""",  # noqa: S608 - constants
        [order_id],
    )
    return asking.watched(rows[0]) if rows else None


def _checked_sum(
    locked: Sequence[LockedBill], choices: Sequence[BillChoice], person_id: UUID
) -> int:
    versions = {choice.bill_id: choice.version for choice in choices}
    if len(locked) != len(versions) or any(bill.payer_id != person_id for bill in locked):
        raise BillNotFound
    for bill in locked:
        if bill.state != "payable" or bill.total_fen <= 0:
            raise BillNotPayable(bill_id=str(bill.id), state=bill.state)
        if bill.version != versions[bill.id]:
            raise BillChanged(bill_id=str(bill.id), version=bill.version, amount_fen=bill.total_fen)
        if sum(bill.payee_split.values()) != bill.total_fen:
            raise ValueError(f"bill {bill.id}: the payees' shares are not its total")
    return sum(bill.total_fen for bill in locked)


async def _insert(
    order_id: UUID,
    person_id: UUID,
    locked: Sequence[LockedBill],
    shown: dict[UUID, BillView],
    settings: Settings,
    now: datetime,
) -> None:
    order = PayOrder(
        id=order_id,
        order_no=ids.trade_number(now),
        region=locked[0].region,
        payer_id=person_id,
        amount_fen=sum(bill.total_fen for bill in locked),
        state=OrderState.OPEN,
        created_at=now,
        expires_at=now + timedelta(minutes=settings.order_minutes),
    )
    await order.save(force_create=True)
    await PayOrderBill.bulk_create(
        PayOrderBill(
            id=ids.row_id(now),
            order_id=order_id,
            bill_id=bill.id,
            bill_no=bill.bill_no,
            title=shown[bill.id].title,
            bill_version=bill.version,
            amount_fen=bill.total_fen,
            is_open=True,
        )
        for bill in locked
    )
    await PayOrderSplit.bulk_create(_splits(order, locked, settings, now))
    # The books expect this money while the order is open.
    shares = sum((Counter(bill.payee_split) for bill in locked), Counter[str]())
    await post_many([hold_input(order.order_no, order_id, order.region, shares, now)], now=now)


def _splits(
    order: PayOrder, locked: Sequence[LockedBill], settings: Settings, now: datetime
) -> list[PayOrderSplit]:
    names = {payee.code: payee.name for payee in settings.payees}
    shares = [
        (bill.id, payee_code, amount_fen)
        for bill in locked
        for payee_code, amount_fen in sorted(bill.payee_split.items())
        if amount_fen > 0
    ]
    return [
        PayOrderSplit(
            id=ids.row_id(now),
            order_id=order.id,
            bill_id=bill_id,
            payee_code=payee_code,
            payee_name=names.get(payee_code, payee_code),
            amount_fen=amount_fen,
            receipt_no=f"{order.order_no}-{number:02d}",
        )
        for number, (bill_id, payee_code, amount_fen) in enumerate(shares, start=1)
    ]


async def _already_open(person_id: UUID, bill_ids: Sequence[UUID]) -> OrderAlreadyOpen:
    for bill_id in bill_ids:
        order = await queries.open_order_for_bill(person_id, bill_id)
        if order is not None:
            return OrderAlreadyOpen(order_id=str(order.id))
    return OrderAlreadyOpen()


async def _may_ask(attempt: WatchedAttempt, services: Services, now: datetime) -> bool:
    """Claim the right to ask the channel now; one asker per attempt and pause, all tabs counted,
    and none while the janitor is asking (its lease is not over)."""
    if services.outages.until(attempt.account_id, now=now) > now:
        return False
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """update pay_attempt set last_query_at = $1, queries = queries + 1, next_query_at = $2
           where id = $3 and state in ('opening', 'open') and created_at <= $4
             and (last_query_at is null or last_query_at <= $4)
             and (next_query_at <= $1 or next_query_at is distinct from last_query_at + $5)
           returning queries""",
        [
            now,
            next_query_at(0, now=now, expires_at=attempt.order_expires_at),
            attempt.id,
            now - QUERY_PAUSE,
            asking.LEASE,
        ],
    )
    # Last, because who takes the one try must use it.
    return bool(rows) and services.outages.allowed(attempt.account_id, now=now, most=1) > 0
