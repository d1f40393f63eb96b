"""Refunds as plain values: for staff, for the payer, and what could still be given back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise

from estation.ledger.api import ArrivedMoney, arrivals_by_id, payments_of_order
from estation.outside.pay_channels import Channel
from estation.payments import refund_rules
from estation.payments.errors import ArrivalNotFound, RefundNotFound
from estation.payments.models import (
    IncidentAction,
    OutsideSettlement,
    PayOrder,
    PayOrderSplit,
    Refund,
    RefundShare,
)
from estation.payments.refund_rules import (
    FOR_THE_PAYER,
    PAID_BY_HAND,
    REDIRECT_REFUSED,
    Deed,
    PayersRefund,
    Share,
    for_the_payer,
)
from estation.payments.rules import OutsideState, RefundCause, RefundSource, RefundState

PAGE_SIZE = 50
MAX_PAGE = 200
MAX_OF_ONE = 200
"""Refunds of one order that are shown; WeChat Pay allows fifty per trade."""


@dataclass(frozen=True, slots=True)
class RefundView:
    """One refund, for staff. `shares` is empty for money that was never applied."""

    id: UUID
    refund_no: str
    request_id: UUID
    cause: RefundCause
    state: RefundState
    taken_from: RefundSource
    channel: Channel
    account_id: str
    out_trade_no: str
    channel_trade_no: str
    arrival_id: UUID
    order_id: UUID | None
    amount_fen: int
    total_fen: int
    reason: str
    asked_by: str
    asked_by_id: UUID | None
    asked_at: datetime
    decided_by: str
    decided_at: datetime | None
    decision_note: str
    channel_refund_no: str | None
    received_account: str
    tries: int
    next_try_at: datetime | None
    last_error: str
    ended_at: datetime | None
    shares: list[Share]


@dataclass(frozen=True, slots=True)
class RefundPage:
    """One page of at most PAGE_SIZE refunds, newest first; `total_fen` is of all that match."""

    rows: list[RefundView]
    total: int
    total_fen: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class RefundableView:
    """What is left of one arrival, and of whom; believe `refundable_fen` when asking.

    `suspense_fen`: what of it is still in suspense without two persons' word on it; refunds only
    asked for are in it.
    """

    arrival_id: UUID
    account_id: str
    out_trade_no: str
    channel_trade_no: str
    paid_at: datetime
    amount_fen: int
    refundable_fen: int
    left: list[Share]
    suspense_fen: int = 0


@dataclass(frozen=True, slots=True)
class CitizenRefund:
    """What the payer may know. `at`: when it ended, or was decided; `received_account` in the
    channel's own, masked words; `is_of_payment`: of what paid the order, not of money that was
    set aside."""

    refund_no: str
    state: PayersRefund
    cause: RefundCause
    amount_fen: int
    reason: str
    channel: Channel
    at: datetime
    received_account: str
    is_of_payment: bool


async def refund_view(refund_id: UUID) -> RefundView:
    """Raises RefundNotFound."""
    row = await Refund.get_or_none(id=refund_id)
    if row is None:
        raise RefundNotFound(refund_id=str(refund_id))
    return (await _views([row]))[0]


async def refunds_of_request(request_id: UUID) -> list[RefundView]:
    """Raises RefundNotFound when there is no such request."""
    rows = await Refund.filter(request_id=request_id).order_by("id")
    if not rows:
        raise RefundNotFound(request_id=str(request_id))
    return await _views(rows)


async def list_refunds(*, state: RefundState | None = None, page: int = 1) -> RefundPage:
    """Newest first; `page` counts from 1 and is bounded."""
    query = Refund.filter(state=state) if state else Refund.all()
    total = await query.count()
    pages = max(1, min(MAX_PAGE, -(-total // PAGE_SIZE)))
    page = min(max(1, page), pages)
    rows = await query.order_by("-asked_at", "-id").offset((page - 1) * PAGE_SIZE).limit(PAGE_SIZE)
    return RefundPage(await _views(rows), total, await _total_fen(state), page, pages)


async def refunds_of_arrival(arrival_id: UUID) -> list[RefundView]:
    rows = await Refund.filter(arrival_id=arrival_id).order_by("asked_at", "id").limit(MAX_OF_ONE)
    return await _views(rows)


async def refundable_of(
    *, order_id: UUID | None = None, arrival_id: UUID | None = None
) -> list[RefundableView]:
    """What could be given back now of an order's payments, or of one arrival. Without locks:
    asking looks again. Raises ArrivalNotFound."""
    if order_id is not None:
        money = await payments_of_order(order_id)
    else:
        money = await arrivals_by_id([arrival_id]) if arrival_id else []
    if not money:
        raise ArrivalNotFound
    return [await _refundable(one) for one in money]


async def refunds_of_order(person_id: UUID, order_id: UUID) -> list[CitizenRefund]:
    """The payer's view, oldest first; nothing of another person's order."""
    if not await PayOrder.filter(id=order_id, payer_id=person_id).exists():
        return []
    rows = (
        await Refund.filter(order_id=order_id, state__in=list(FOR_THE_PAYER))
        .order_by("asked_at", "id")
        .limit(MAX_OF_ONE)
    )
    redirected = await redirected_of([row.id for row in rows])
    by_hand = await paid_by_hand_of([row.id for row in rows])
    return [
        CitizenRefund(
            refund_no=row.refund_no,
            state=for_the_payer(
                row.state,
                is_redirected=row.id in redirected,
                is_paid_by_hand=row.id in by_hand,
            ),
            cause=row.cause,
            amount_fen=row.amount_fen,
            reason=row.reason,
            channel=row.channel,
            at=by_hand.get(row.id) or row.ended_at or row.decided_at or row.asked_at,
            # Of money that went to our own card the channel names that card.
            received_account="" if row.id in redirected else row.received_account,
            is_of_payment=row.taken_from is RefundSource.PAYMENT,
        )
        for row in rows
    ]


async def redirected_of(refund_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these refunds whose money went to our own card, or may have: ordered at the
    channel more often than it said a certain no."""
    if not refund_ids:
        return set()
    ordered = Counter[UUID]()
    deeds = IncidentAction.filter(
        refund_id__in=list(refund_ids), action__in=[Deed.REDIRECT_REFUND.value, REDIRECT_REFUSED]
    )
    for refund_id, action in await deeds.values_list("refund_id", "action"):
        ordered[refund_id] += -1 if action == REDIRECT_REFUSED else 1
    return {refund_id for refund_id, times in ordered.items() if times > 0}


async def paid_by_hand_of(refund_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Those of these refunds that two persons booked as paid out to the payer, and when."""
    if not refund_ids:
        return {}
    found = IncidentAction.filter(refund_id__in=list(refund_ids), action=PAID_BY_HAND)
    return {deed.refund_id: deed.at for deed in await found if deed.refund_id is not None}


async def _refundable(money: ArrivedMoney) -> RefundableView:
    refunds = await Refund.filter(
        arrival_id=money.id, state__in=[str(state) for state in refund_rules.RESERVES]
    )
    rest = money.amount_fen - sum(refund.amount_fen for refund in refunds)
    outside = await OutsideSettlement.filter(arrival_id=money.id, state=OutsideState.APPROVED)
    settled_fen = sum(one.amount_fen for one in outside)
    in_suspense = refund_rules.unsettled_fen(
        money.amount_fen, [(one.state, one.amount_fen) for one in refunds], settled_fen
    )
    left = []
    if money.kind == "payment":
        splits = await PayOrderSplit.filter(
            order_id=money.order_id, payee_code__in=money.payees
        ).order_by("receipt_no")
        taken = await RefundShare.filter(refund_id__in=[refund.id for refund in refunds])
        left = refund_rules.left_of(
            [Share(row.bill_id, row.payee_code, row.amount_fen) for row in splits],
            [Share(row.bill_id, row.payee_code, row.amount_fen) for row in taken],
        )
    return RefundableView(
        arrival_id=money.id,
        account_id=money.account_id,
        out_trade_no=money.our_no,
        channel_trade_no=money.channel_no,
        paid_at=money.occurred_at,
        amount_fen=money.amount_fen,
        refundable_fen=0 if money.is_applied else max(rest - settled_fen, 0),
        left=left,
        suspense_fen=0 if money.kind == "payment" or money.is_applied else in_suspense,
    )


async def _views(rows: list[Refund]) -> list[RefundView]:
    shares: dict[UUID, list[Share]] = {}
    found = await RefundShare.filter(refund_id__in=[row.id for row in rows]).order_by("payee_code")
    for share in found:
        one = Share(share.bill_id, share.payee_code, share.amount_fen)
        shares.setdefault(share.refund_id, []).append(one)
    return [
        RefundView(**{name: getattr(row, name) for name in _COLUMNS}, shares=shares.get(row.id, []))
        for row in rows
    ]


_COLUMNS = [name for name in RefundView.__slots__ if name != "shares"]


async def _total_fen(state: RefundState | None) -> int:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(amount_fen), 0)::bigint as fen from pay_refund
           where ($1::text is null or state = $1)""",
        [str(state) if state else None],
    )
    return int(rows[0]["fen"])
