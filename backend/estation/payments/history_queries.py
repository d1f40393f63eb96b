"""A citizen's orders over the years, page by page, and money of theirs that waits for a person."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise

from estation.ledger.api import arrivals_by_id
from estation.payments.combining import parts_of
from estation.payments.models import Incident, OutsideSettlement, PayAttempt, PayOrder, Refund
from estation.payments.refund_queries import (
    CitizenRefund,
    paid_by_hand_of,
    redirected_of,
    refunds_of_order,
)
from estation.payments.refund_rules import FOR_THE_PAYER, PayersRefund, for_the_payer
from estation.payments.rules import (
    CloseReason,
    IncidentKind,
    IncidentState,
    OrderState,
    OutsideState,
    RefundSource,
    RefundState,
)

PAGE_SIZE = 10
MAX_PAGE = 100
ORDERS_OF_A_BILL = 5
"""So many of a bill's newest orders are looked at for money that could not be applied."""

UNDER_REVIEW = frozenset(
    {
        IncidentKind.WRONG_AMOUNT,
        IncidentKind.WRONG_ACCOUNT,
        IncidentKind.UNKNOWN_ORDER,
        IncidentKind.ALREADY_REFUNDED,
    }
)
"""Money set aside for these reasons goes nowhere until a person has looked; its payer is told."""


_UNDER_WAY = frozenset({PayersRefund.REFUNDING, PayersRefund.ABNORMAL})


@dataclass(frozen=True, slots=True)
class PastRefund:
    """A refund in a list. `is_of_payment`: of what paid the order, not of money set aside."""

    state: PayersRefund
    amount_fen: int
    is_of_payment: bool


@dataclass(frozen=True, slots=True)
class PastOrder:
    """One line of a citizen's history; `refunds` in the order they were asked for.
    `is_settled_outside`: all its money that could not be applied, as far as it did not go back."""

    id: UUID
    order_no: str
    state: OrderState
    amount_fen: int
    created_at: datetime
    paid_at: datetime | None
    closed_at: datetime | None
    close_reason: str
    titles: list[str]
    refunds: list[PastRefund]
    is_settled_outside: bool


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """At most PAGE_SIZE orders, newest first; `total` of all there are."""

    rows: list[PastOrder]
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """Money that arrived for an order and could not be applied; a person looks at it."""

    kind: IncidentKind
    amount_fen: int
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class SettledOutside:
    """What of an order's money was dealt with outside the channels (线下处理), when last.
    `is_all`: nothing else of the order that could not be applied waits for anybody."""

    amount_fen: int
    at: datetime
    is_all: bool


@dataclass(frozen=True, slots=True)
class EndedOrder:
    """An order that ended unpaid, and why; what became since of money that arrived for it:
    `is_settled_outside` as a PastOrder's, `aside` what a person still looks at."""

    id: UUID
    close_reason: str
    refunds: list[CitizenRefund]
    aside: list[SetAside]
    is_settled_outside: bool


async def history_of(person_id: UUID, *, page: int = 1) -> HistoryPage:
    """`page` counts from 1 and is bounded."""
    total = await PayOrder.filter(payer_id=person_id).count()
    pages = max(1, min(MAX_PAGE, -(-total // PAGE_SIZE)))
    page = min(max(1, page), pages)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select o.id, o.order_no, o.state, o.amount_fen, o.created_at, o.paid_at, o.closed_at,
                  o.close_reason,
                  (select json_agg(b.title order by b.bill_no)::text
                   from pay_order_bill b where b.order_id = o.id) as titles,
                  (select json_agg(json_build_array(r.id, r.state, r.amount_fen, r.taken_from)
                                   order by r.asked_at, r.id)::text
                   from pay_refund r
                   where r.order_id = o.id and r.state = any($4::text[])) as refunds
           from pay_order o where o.payer_id = $1
           order by o.created_at desc, o.id desc offset $2 limit $3""",
        [person_id, (page - 1) * PAGE_SIZE, PAGE_SIZE, [str(state) for state in FOR_THE_PAYER]],
    )
    refunds = [orjson.loads(row["refunds"] or "[]") for row in rows]
    refund_ids = [UUID(refund[0]) for own in refunds for refund in own]
    redirected = await redirected_of(refund_ids)
    by_hand = await paid_by_hand_of(refund_ids)
    settled = await settled_outside_of([row["id"] for row in rows])
    orders = [
        _past_order(row, [_past_refund(refund, redirected, by_hand) for refund in own], settled)
        for row, own in zip(rows, refunds, strict=True)
    ]
    return HistoryPage(orders, total, page, pages)


async def set_aside_of(person_id: UUID, order_id: UUID) -> list[SetAside]:
    """The payer's money under review, oldest first; nothing of another person's order."""
    if not await PayOrder.filter(id=order_id, payer_id=person_id).exists():
        return []
    incidents = (
        await Incident.filter(
            out_trade_no__in=await _numbers_of(order_id),
            kind__in=[str(kind) for kind in UNDER_REVIEW],
            state=IncidentState.OPEN,
            amount_fen__gt=0,
        )
        .order_by("opened_at", "id")
        .limit(PAGE_SIZE)
    )
    return [SetAside(IncidentKind(one.kind), one.amount_fen, one.opened_at) for one in incidents]


async def settled_outside_of(order_ids: Sequence[UUID]) -> dict[UUID, SettledOutside]:
    """Of these orders, by their ids, those with money settled outside; the caller knows whose
    they are."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select i.order_id, sum(s.amount_fen)::bigint as amount_fen, max(s.decided_at) as at,
                  array_agg(distinct s.arrival_id) as arrivals
           from outside_settlement s join incident i on i.id = s.incident_id
           where s.state = 'approved' and i.order_id = any($1::uuid[]) group by i.order_id""",
        [list(order_ids)],
    )
    if not rows:
        return {}
    waiting = await _waiting([row["order_id"] for row in rows])
    open_arrivals = await _not_covered([one for row in rows for one in row["arrivals"]])
    return {
        row["order_id"]: SettledOutside(
            row["amount_fen"],
            row["at"],
            row["order_id"] not in waiting and open_arrivals.isdisjoint(row["arrivals"]),
        )
        for row in rows
    }


async def _waiting(order_ids: Sequence[UUID]) -> set[UUID | None]:
    """Those of these orders with money under review."""
    incidents = Incident.filter(
        order_id__in=list(order_ids),
        kind__in=[str(kind) for kind in UNDER_REVIEW],
        state=IncidentState.OPEN,
        amount_fen__gt=0,
    )
    return {incident.order_id for incident in await incidents}


async def _not_covered(arrival_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these arrivals of which something neither went back nor was settled outside."""
    left = {money.id: money.amount_fen for money in await arrivals_by_id(arrival_ids)}
    for settled in await OutsideSettlement.filter(
        arrival_id__in=list(left), state=OutsideState.APPROVED
    ):
        left[settled.arrival_id] -= settled.amount_fen
    for refund in await Refund.filter(arrival_id__in=list(left), state=RefundState.SUCCEEDED):
        left[refund.arrival_id] -= refund.amount_fen
    return {arrival_id for arrival_id, fen in left.items() if fen > 0}


async def last_ended(person_id: UUID, bill_id: UUID, *, since: datetime) -> EndedOrder | None:
    """The bill's newest order, when it ended unpaid at or after `since`, or when money that arrived
    for it and could not be applied has found its end since then, or none yet."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select o.id, o.state, o.closed_at, o.close_reason
           from pay_order_bill b join pay_order o on o.id = b.order_id
           where b.bill_id = $1 and o.payer_id = $2
           order by o.created_at desc, o.id desc limit 1""",
        [bill_id, person_id],
    )
    if not rows or rows[0]["state"] != OrderState.CLOSED:
        return None
    return await _ended(person_id, rows[0], since=since)


async def not_applied(person_id: UUID, bill_id: UUID, *, since: datetime) -> EndedOrder | None:
    """Money that came for the bill and could not be applied, when it has found its end at or after
    `since`, or none yet: of the newest of its last orders that has any. Also of a paid order,
    which somebody paid twice; then `close_reason` is that."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select o.id, o.state, o.closed_at, o.close_reason
           from pay_order_bill b join pay_order o on o.id = b.order_id
           where b.bill_id = $1 and o.payer_id = $2 and o.state <> 'open'
           order by o.created_at desc, o.id desc limit $3""",
        [bill_id, person_id, ORDERS_OF_A_BILL],
    )
    for row in rows:
        ended = await _ended(person_id, row, since=since)
        if ended and (ended.refunds or ended.aside or ended.is_settled_outside):
            return ended
    return None


async def _ended(person_id: UUID, row: Mapping[str, Any], *, since: datetime) -> EndedOrder | None:
    """None when its payer has known how it ended since before `since`."""
    order_id, reason, closed_at = row["id"], row["close_reason"], row["closed_at"]
    refunds = await refunds_of_order(person_id, order_id)
    aside = await set_aside_of(person_id, order_id)
    settled = (await settled_outside_of([order_id])).get(order_id)
    is_settled = settled is not None and settled.is_all
    if row["state"] == OrderState.PAID:
        reason, closed_at = IncidentKind.DOUBLE_PAYMENT, None
        refunds = [one for one in refunds if not one.is_of_payment]
    ended = EndedOrder(order_id, reason, refunds, aside, is_settled)
    if _is_open(ended):
        return ended
    ends = [closed_at, settled and settled.at, *(one.at for one in refunds)]
    return ended if any(at is not None and at >= since for at in ends) else None


def _is_open(ended: EndedOrder) -> bool:
    """Its payer still waits for money."""
    if ended.is_settled_outside:
        return False
    states = [one.state for one in ended.refunds]
    # One that failed is past when another followed it.
    failed = states[-1:] == [PayersRefund.NOT_REFUNDED]
    if ended.aside or failed or _UNDER_WAY.intersection(states):
        return True
    return not states and ended.close_reason not in list(CloseReason)


async def _numbers_of(order_id: UUID) -> Sequence[str]:
    """All numbers money may have come under, those of combined payments' parts too."""
    attempts = await PayAttempt.filter(order_id=order_id).order_by("created_at").limit(100)
    return [
        number
        for attempt in attempts
        for number in (
            attempt.out_trade_no,
            *(part.out_trade_no for part in parts_of(attempt.parts)),
        )
    ]


def _past_refund(
    columns: list[Any], redirected: set[UUID], by_hand: Collection[UUID]
) -> PastRefund:
    refund_id, state, amount_fen, taken_from = columns
    is_redirected, is_paid = UUID(refund_id) in redirected, UUID(refund_id) in by_hand
    return PastRefund(
        for_the_payer(RefundState(state), is_redirected=is_redirected, is_paid_by_hand=is_paid),
        amount_fen,
        taken_from == RefundSource.PAYMENT,
    )


def _past_order(
    row: dict[str, Any], refunds: list[PastRefund], settled: Mapping[UUID, SettledOutside]
) -> PastOrder:
    titles = orjson.loads(row["titles"] or "[]")
    state = OrderState(row["state"])
    outside = settled.get(row["id"])
    is_settled_outside = outside is not None and outside.is_all
    return PastOrder(
        **{**row, "state": state, "titles": titles, "refunds": refunds},
        is_settled_outside=is_settled_outside,
    )
