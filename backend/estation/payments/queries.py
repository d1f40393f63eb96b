"""Orders, attempts and incidents as plain values; nothing here writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise

from estation.ledger.api import payment_of
from estation.outside.pay_channels import Channel, Scene
from estation.payments.errors import IncidentNotFound, OrderNotFound
from estation.payments.models import Incident, Notice, PayAttempt, PayOrder, PayOrderBill
from estation.payments.models import PayOrderSplit as SplitRow
from estation.payments.rules import LIVE, AttemptState, IncidentState, OrderState


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try at one channel; of the three ticket fields at most one is set."""

    id: UUID
    channel: Channel
    scene: Scene
    state: AttemptState
    out_trade_no: str
    amount_fen: int
    qr_content: str | None
    jsapi_parameters: dict[str, str] | None
    redirect_url: str | None
    expires_at: datetime
    channel_trade_no: str | None
    paid_at: datetime | None


@dataclass(frozen=True, slots=True)
class OrderBillView:
    bill_id: UUID
    bill_no: str
    title: str
    version: int
    amount_fen: int


@dataclass(frozen=True, slots=True)
class SplitView:
    """What one payee gets of one bill, and the number of the receipt for it."""

    payee_code: str
    payee_name: str
    bill_id: UUID
    amount_fen: int
    receipt_no: str


@dataclass(frozen=True, slots=True)
class OrderView:
    """A pay order as its payer may see it; `close_reason` when closed (rules.CloseReason, or the
    incident kind that ended it); `paid_attempt` is the one that was applied."""

    id: UUID
    order_no: str
    state: OrderState
    amount_fen: int
    created_at: datetime
    expires_at: datetime
    paid_at: datetime | None
    close_reason: str
    bills: list[OrderBillView]
    splits: list[SplitView]
    live_attempt: AttemptView | None
    paid_attempt: AttemptView | None


@dataclass(frozen=True, slots=True)
class IncidentView:
    id: UUID
    kind: str
    state: IncidentState
    owner: str
    channel: str
    account_id: str
    out_trade_no: str
    channel_trade_no: str | None
    amount_fen: int
    order_id: UUID | None
    evidence: dict[str, Any]
    opened_at: datetime
    due_at: datetime
    resolved_at: datetime | None
    resolved_by: str
    resolution: str
    assigned_to: str


@dataclass(frozen=True, slots=True)
class NoticeView:
    """A notice in the inbox, for the timeline of an incident."""

    id: UUID
    channel: Channel
    account_id: str
    event_key: str
    kind: str
    out_trade_no: str
    plaintext: dict[str, Any]
    received_at: datetime
    handled_at: datetime | None
    outcome: str
    last_error: str


async def order_of(person_id: UUID, order_id: UUID) -> OrderView:
    """Raises OrderNotFound, also for another person's order."""
    order = await PayOrder.get_or_none(id=order_id, payer_id=person_id)
    if order is None:
        raise OrderNotFound(order_id=str(order_id))
    return await _view(order)


async def open_order_for_bill(person_id: UUID, bill_id: UUID) -> OrderView | None:
    """The asker's open order that holds this bill, if any."""
    link = await PayOrderBill.get_or_none(bill_id=bill_id, is_open=True).prefetch_related("order")
    if link is None or link.order.payer_id != person_id:
        return None
    return await _view(link.order)


async def orders_of(person_id: UUID, *, limit: int = 50) -> list[OrderView]:
    """The newest orders first."""
    orders = await PayOrder.filter(payer_id=person_id).order_by("-created_at").limit(limit)
    return [await _view(order) for order in orders]


async def paid_order_for_bill(person_id: UUID, bill_id: UUID) -> OrderView | None:
    """The asker's order that paid this bill last, if any; also when it was given back since."""
    link = (
        await PayOrderBill.filter(bill_id=bill_id, order__state=OrderState.PAID)
        .order_by("-bill_version")
        .prefetch_related("order")
        .first()
    )
    if link is None or link.order.payer_id != person_id:
        return None
    return await _view(link.order)


async def list_incidents(
    *, state: IncidentState | None = IncidentState.OPEN, limit: int = 100, offset: int = 0
) -> list[IncidentView]:
    """The most urgent first; `state=None` lists all."""
    query = Incident.all() if state is None else Incident.filter(state=state)
    rows = await query.order_by("due_at", "id").offset(offset).limit(limit)
    return [incident_view(row) for row in rows]


async def incident(incident_id: UUID) -> IncidentView:
    """Raises IncidentNotFound."""
    row = await Incident.get_or_none(id=incident_id)
    if row is None:
        raise IncidentNotFound(incident_id=str(incident_id))
    return incident_view(row)


async def notices_about(out_trade_no: str, *, limit: int = 50) -> list[NoticeView]:
    """The inbox's rows about one number, oldest first."""
    rows = await Notice.filter(out_trade_no=out_trade_no).order_by("received_at", "id").limit(limit)
    return [
        NoticeView(
            id=row.id,
            channel=row.channel,
            account_id=row.account_id,
            event_key=row.event_key,
            kind=row.kind,
            out_trade_no=row.out_trade_no,
            plaintext=row.plaintext,
            received_at=row.received_at,
            handled_at=row.handled_at,
            outcome=row.outcome,
            last_error=row.last_error,
        )
        for row in rows
    ]


async def attempts_of_order(order_id: UUID) -> list[AttemptView]:
    """All tries of an order, oldest first; for staff."""
    rows = await PayAttempt.filter(order_id=order_id).order_by("created_at", "id").limit(100)
    return [attempt_view(row) for row in rows]


async def ended_unpaid(out_trade_nos: Sequence[str]) -> list[str]:
    """Of these numbers the ones whose attempt is closed or refused here; set-based."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select out_trade_no from pay_attempt
           where out_trade_no = any($1::text[]) and state in ('closed', 'refused')""",
        [list(out_trade_nos)],
    )
    return [row["out_trade_no"] for row in rows]


async def open_incident_count() -> int:
    return await Incident.filter(state=IncidentState.OPEN).count()


def attempt_view(row: PayAttempt) -> AttemptView:
    ticket = row.ticket or {}
    return AttemptView(
        id=row.id,
        channel=row.channel,
        scene=row.scene,
        state=row.state,
        out_trade_no=row.out_trade_no,
        amount_fen=row.amount_fen,
        qr_content=ticket.get("qr_content"),
        jsapi_parameters=ticket.get("jsapi_parameters"),
        redirect_url=ticket.get("redirect_url"),
        expires_at=row.expires_at,
        channel_trade_no=row.channel_trade_no,
        paid_at=row.paid_at,
    )


async def _view(order: PayOrder) -> OrderView:
    bills = await PayOrderBill.filter(order_id=order.id).order_by("bill_no")
    splits = await SplitRow.filter(order_id=order.id).order_by("receipt_no")
    attempts = await PayAttempt.filter(order_id=order.id).order_by("created_at")
    live = next((row for row in attempts if row.state in LIVE), None)
    paid = await _applied(order, attempts)
    return OrderView(
        id=order.id,
        order_no=order.order_no,
        state=order.state,
        amount_fen=order.amount_fen,
        created_at=order.created_at,
        expires_at=order.expires_at,
        paid_at=order.paid_at,
        close_reason=order.close_reason,
        bills=[
            OrderBillView(row.bill_id, row.bill_no, row.title, row.bill_version, row.amount_fen)
            for row in bills
        ],
        splits=[
            SplitView(row.payee_code, row.payee_name, row.bill_id, row.amount_fen, row.receipt_no)
            for row in splits
        ],
        live_attempt=attempt_view(live) if live else None,
        paid_attempt=attempt_view(paid) if paid else None,
    )


async def _applied(order: PayOrder, attempts: Sequence[PayAttempt]) -> PayAttempt | None:
    """The attempt that paid the order. Others may have brought money too; that waits in suspense,
    and the books alone tell which one was applied."""
    payment = await payment_of(order.id) if order.state is OrderState.PAID else None
    if payment is None:
        return None
    numbers = (payment.our_no, payment.channel_no)
    return next(
        (row for row in attempts if (row.out_trade_no, row.channel_trade_no) == numbers), None
    )


def incident_view(row: Incident) -> IncidentView:
    return IncidentView(
        id=row.id,
        kind=row.kind,
        state=row.state,
        owner=row.owner,
        channel=row.channel,
        account_id=row.account_id,
        out_trade_no=row.out_trade_no,
        channel_trade_no=row.channel_trade_no,
        amount_fen=row.amount_fen,
        order_id=row.order_id,
        evidence=row.evidence,
        opened_at=row.opened_at,
        due_at=row.due_at,
        resolved_at=row.resolved_at,
        resolved_by=row.resolved_by,
        resolution=row.resolution,
        assigned_to=row.assigned_to,
    )
