"""Orders, attempts and incidents as plain values; nothing here writes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise

from estation.ledger.api import UNRELEASED_HOLDS, PaymentNumbers, payments_of
from estation.outside.pay_channels import Channel, Scene
from estation.payments.combining import parts_of, whole_number
from estation.payments.errors import IncidentNotFound, OrderNotFound
from estation.payments.models import Incident, Notice, PayAttempt, PayOrder, PayOrderBill
from estation.payments.models import PayOrderSplit as SplitRow
from estation.payments.refund_rules import APPLICABLE, APPLIED
from estation.payments.rules import (
    BOUND_TO_A_PAYER,
    H5_LINK_LIFE,
    LIVE,
    AttemptState,
    IncidentState,
    OrderState,
    Part,
)

MADE_AT = "made_at"
"""In a stored ticket: when the channel gave it."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try at one channel; of the four ticket fields at most one is set.

    `ticket_until` is when the ticket must be asked for again, where that is before the end;
    `parts` the sub-orders of a combined payment.
    """

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
    trade_no: str | None = None
    ticket_until: datetime | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class UnexpectedOrder:
    """An open order the books do not expect; `shares` in fen per payee."""

    id: UUID
    order_no: str
    region: str
    created_at: datetime
    shares: dict[str, int]


@dataclass(frozen=True, slots=True)
class OrderBillView:
    bill_id: UUID
    bill_no: str
    title: str
    version: int
    amount_fen: int


@dataclass(frozen=True, slots=True)
class SplitView:
    """What one payee gets of one bill, and the number of the receipt for it.

    The last three are the payment's numbers and merchant account once it is paid: of the payee's
    own part, where there are parts.
    """

    payee_code: str
    payee_name: str
    bill_id: UUID
    amount_fen: int
    receipt_no: str
    out_trade_no: str = ""
    channel_trade_no: str = ""
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class OrderView:
    """A pay order as its payer may see it; `close_reason` when closed (rules.CloseReason, or the
    incident kind that ended it); `paid_attempt` is the one that was applied, `applied_at` when
    its money was booked."""

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
    closed_at: datetime | None = None
    applied_at: datetime | None = None


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
    assigned_to_id: UUID | None = None


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
    """Of these numbers the ones whose attempt is closed or refused here; set-based.

    A channel's bill names the parts of a combined payment, each at its payee's account.
    """
    whole: dict[str, list[str]] = {}
    for number in out_trade_nos:
        whole.setdefault(whole_number(number), []).append(number)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select out_trade_no from pay_attempt
           where out_trade_no = any($1::text[]) and state in ('closed', 'refused')""",
        [list(whole)],
    )
    return [number for row in rows for number in whole[row["out_trade_no"]]]


async def untold_late(*, since: datetime, limit: int) -> dict[UUID, datetime]:
    """Payments made of money that waited in suspense, of which no centre was told by what they
    are proved: transfer -> when the money arrived. Newest first, of incidents opened since then.
    Joins the caller's transaction."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select a.transfer_id, t.occurred_at
           from incident i join incident_action a on a.incident_id = i.id and a.action = $1
               join ledger_transfer t on t.id = a.transfer_id
           where i.kind = any($2::text[]) and i.opened_at >= $3 and not exists (
               select from payment_evidence e where e.transfer_id = a.transfer_id)
           order by a.at desc, a.id desc limit $4""",
        [APPLIED, sorted(APPLICABLE), since, limit],
    )
    return {row["transfer_id"]: row["occurred_at"] for row in rows}


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
        trade_no=ticket.get("trade_no"),
        ticket_until=_ticket_until(row),
        parts=parts_of(row.parts),
    )


def payer_mark(scene: Scene, payer: str | None) -> str | None:
    """Digest of the wallet or address a ticket of this scene is bound to, if of any."""
    if payer is None or scene not in BOUND_TO_A_PAYER | {Scene.H5}:
        return None
    return hashlib.sha256(payer.encode()).hexdigest()


def ticket_made_at(row: PayAttempt) -> datetime | None:
    said = (row.ticket or {}).get(MADE_AT)
    return datetime.fromisoformat(said) if said else None


def _ticket_until(row: PayAttempt) -> datetime | None:
    made_at = ticket_made_at(row)
    return made_at + H5_LINK_LIFE if made_at and row.scene is Scene.H5 else None


async def payee_sums(order_id: UUID) -> dict[str, int]:
    """What each payee gets of an order, over all its bills."""
    sums: dict[str, int] = {}
    for split in await SplitRow.filter(order_id=order_id):
        sums[split.payee_code] = sums.get(split.payee_code, 0) + split.amount_fen
    return sums


async def live_attempt_serves(order_id: UUID, openid: str | None) -> bool:
    """False when the order's live ticket is bound to another wallet than this openid's."""
    row = await PayAttempt.filter(order_id=order_id, state__in=list(LIVE)).first()
    if row is None or row.scene not in BOUND_TO_A_PAYER:
        return True
    return row.payer_mark == payer_mark(row.scene, openid)


async def _view(order: PayOrder) -> OrderView:
    bills = await PayOrderBill.filter(order_id=order.id).order_by("bill_no")
    splits = await SplitRow.filter(order_id=order.id).order_by("receipt_no")
    attempts = await PayAttempt.filter(order_id=order.id).order_by("created_at")
    live = next((row for row in attempts if row.state in LIVE), None)
    payments = await payments_of(order.id) if order.state is OrderState.PAID else []
    paid = _applied(payments, attempts)
    numbers = _numbers_by_payee(paid, payments)
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
            SplitView(
                row.payee_code,
                row.payee_name,
                row.bill_id,
                row.amount_fen,
                row.receipt_no,
                *numbers.get(row.payee_code, numbers.get("", ("", "", ""))),
            )
            for row in splits
        ],
        live_attempt=attempt_view(live) if live else None,
        paid_attempt=attempt_view(paid) if paid else None,
        closed_at=order.closed_at if order.state is OrderState.CLOSED else None,
        applied_at=max((payment.posted_at for payment in payments), default=None),
    )


def _applied(
    payments: Sequence[PaymentNumbers], attempts: Sequence[PayAttempt]
) -> PayAttempt | None:
    """The attempt that paid the order. Others may have brought money too; that waits in suspense,
    and the books alone tell which one was applied."""
    applied = {(payment.our_no, payment.channel_no) for payment in payments}
    part_numbers = {payment.our_no for payment in payments}
    for row in attempts:
        if (row.out_trade_no, row.channel_trade_no) in applied:
            return row
        if any(part.out_trade_no in part_numbers for part in parts_of(row.parts)):
            return row
    return None


def _numbers_by_payee(
    paid: PayAttempt | None, payments: Sequence[PaymentNumbers]
) -> dict[str, tuple[str, str, str]]:
    """Our number, the channel's and the merchant account of each payee's money; under "" when all
    came at once."""
    if paid is None:
        return {}
    if not paid.parts:
        return {"": (paid.out_trade_no, paid.channel_trade_no or "", paid.account_id)}
    channel_nos = {payment.our_no: payment.channel_no for payment in payments}
    return {
        part.payee_code: (
            part.out_trade_no,
            channel_nos.get(part.out_trade_no, ""),
            part.account_id,
        )
        for part in parts_of(paid.parts)
    }


async def ended_on_hold(limit: int) -> list[UUID]:
    """Orders that are not open (or not there) and whose money the books expect still; those
    that have waited longest first."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select h.order_id from ({UNRELEASED_HOLDS}) h
            left join pay_order o on o.id = h.order_id
            where o.state is distinct from 'open' order by h.occurred_at limit $1""",  # noqa: S608
        [limit],
    )
    return [row["order_id"] for row in rows]


async def open_without_hold(limit: int) -> list[UnexpectedOrder]:
    """Open orders that the books do not expect, the oldest first: there should be none."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select o.id, o.order_no, o.region, o.created_at,
                  (select json_object_agg(s.payee_code, s.fen)::text from (
                      select payee_code, sum(amount_fen) as fen from pay_order_split
                      where order_id = o.id group by payee_code) s) as shares
           from pay_order o
           where o.id in (select b.order_id from pay_order_bill b where b.is_open)
             and o.state = 'open' and not exists (
                 select from ledger_transfer t where t.order_id = o.id and t.kind = 'hold')
           order by o.id limit $1""",
        [limit],
    )
    return [UnexpectedOrder(**{**row, "shares": orjson.loads(row["shares"])}) for row in rows]


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
        assigned_to_id=row.assigned_to_id,
    )
