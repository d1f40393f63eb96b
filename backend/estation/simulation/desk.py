"""The staff of a city: a maker and a checker of finance, and the centre's refund orders."""

import random
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise

from estation.fees.api import BillView
from estation.outside.gate.rows import RefundOrderRow
from estation.payments import api
from estation.payments.actions.refunds.centre import follow_orders
from estation.payments.queries import IncidentView, OrderView
from estation.payments.refund_queries import RefundView
from estation.payments.rules import ClaimEnd, IncidentKind, OrderState, RefundSource, RefundState
from estation.payments.staff_queries import (
    OpenClaim,
    arrival_of,
    open_claims,
    redirecting,
    refund_of,
)
from estation.services import Services
from estation.shared.clock import beijing_day
from estation.shared.transactions import in_transaction

MAKER, CHECKER = "经办甲", "复核乙"


async def ask(order: OrderView, *, chance: random.Random, now: datetime) -> int:
    """The maker asks for a part or all of a paid order; sometimes believing an old amount.

    The fen asked for, 0 when nothing could be. Raises what ask_refund refuses.
    """
    if order.state is not OrderState.PAID:
        return 0
    left = sum(one.refundable_fen for one in await api.refundable_of(order_id=order.id))
    if not left:
        return 0
    amount = left if chance.random() < 0.5 else chance.randint(1, left)
    await api.ask_refund(
        order_id=order.id,
        amount_fen=amount,
        believed_refundable_fen=left + (1 if chance.random() < 0.1 else 0),
        reason="登记撤回，退还税费",
        by=MAKER,
        now=now,
    )
    return amount


async def decide(asked: RefundView, *, chance: random.Random, now: datetime) -> str:
    """The checker approves most; the maker may try, and must be refused."""
    if chance.random() < 0.15:
        await api.reject_refund(request_id=asked.request_id, by=CHECKER, note="不予退款", now=now)
        return "rejected"
    by = MAKER if chance.random() < 0.1 else CHECKER
    await api.approve_refund(request_id=asked.request_id, by=by, now=now)
    return "approved"


async def give_back_suspense(order_ids: list[UUID], *, chance: random.Random, now: datetime) -> int:
    """The maker has money of an open incident given back, wholly or in part; how much he asked
    for. 0 when no money waits. Raises what ask_refund refuses."""
    waiting = await _rows(_WAITING, order_ids)
    if not waiting:
        return 0
    found = chance.choice(waiting)
    (left,) = await api.refundable_of(arrival_id=found["arrival_id"])
    if not left.refundable_fen:
        return 0
    amount: int = chance.choice([left.refundable_fen, chance.randint(1, left.refundable_fen)])
    await api.ask_refund(
        incident_id=found["incident_id"],
        amount_fen=amount,
        believed_refundable_fen=left.refundable_fen,
        reason="款项不符，原路退回",
        by=MAKER,
        now=now,
    )
    return amount


async def apply_late_money(order_ids: list[UUID], *, chance: random.Random, now: datetime) -> bool:
    """Two persons let money that came late pay its order after all; False when none waits.
    Raises what applying refuses."""
    late = [
        row
        for row in await _rows(_WAITING, order_ids)
        if row["kind"] in ("paid_after_close", "paid_after_expiry")
    ]
    if not late:
        return False
    incident_id = chance.choice(late)["incident_id"]
    await api.ask_to_apply(incident_id=incident_id, by=MAKER, now=now)
    by = MAKER if chance.random() < 0.1 else CHECKER
    await api.approve_applying(incident_id=incident_id, by=by, now=now)
    return True


_WAITING = """
select i.id as incident_id, i.kind, t.id as arrival_id
from incident i join ledger_transfer t on t.channel_no = i.channel_trade_no and t.kind = 'suspense'
where i.state = 'open' and i.order_id = any($1::uuid[]) order by i.opened_at, i.dedupe_key
"""


async def _rows(sql: str, *values: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return found


async def redirect(abnormal: RefundView, services: Services, *, now: datetime) -> None:
    """The maker asks, the checker agrees; alone the maker would be refused."""
    await api.ask_redirect(refund_id=abnormal.id, by=MAKER, now=now)
    await api.redirect_abnormal(refund_id=abnormal.id, by=CHECKER, services=services, now=now)


async def settle_outside(incident: IncidentView, *, chance: random.Random, now: datetime) -> str:
    """An officer would close it in words; where money is in suspense the maker asks to settle it
    outside, and the checker mostly agrees. What was done. Raises what the actions refuse."""
    if chance.random() < 0.5:
        await api.resolve_incident(
            incident_id=incident.id, by=MAKER, resolution="已与市民说明", now=now
        )
        return "closed in words"
    left = await _left_of(incident)
    await api.ask_to_settle_outside(
        incident_id=incident.id,
        believed_fen=left,
        reason="已转账退还",
        document_no="回单 1",
        by=MAKER,
        now=now,
    )
    if chance.random() < 0.35:
        await api.reject_settling_outside(
            incident_id=incident.id, by=CHECKER, note="回单未附", now=now
        )
        return "rejected"
    await api.approve_settling_outside(
        incident_id=incident.id, believed_fen=left, by=CHECKER, now=now
    )
    return "settled outside"


async def give_back_another_way(order_ids: list[UUID], *, now: datetime) -> RefundView | None:
    """A refund was closed and its money is still here: it is asked for again with all that is
    left, or settled outside; which refund that was. Raises what the actions refuse."""
    for closed in await refunds_in(RefundState.CLOSED, order_ids):
        (left,) = await api.refundable_of(arrival_id=closed.arrival_id)
        if left.refundable_fen < closed.amount_fen or closed.order_id is None:
            continue
        if closed.taken_from is RefundSource.PAYMENT:
            all_left = await api.refundable_of(order_id=closed.order_id)
            fen = sum(one.refundable_fen for one in all_left)
            request = await api.ask_refund(
                order_id=closed.order_id,
                amount_fen=fen,
                believed_refundable_fen=fen,
                reason="退款未成，再次退还",
                by=MAKER,
                now=now,
            )
            await api.approve_refund(request_id=request, by=CHECKER, now=now)
            return closed
        for row in await _rows(_WAITING, [closed.order_id]):
            if row["arrival_id"] == closed.arrival_id:
                await _settle_outside(row["incident_id"], left.refundable_fen, now=now)
                return closed
    return None


async def _settle_outside(incident_id: UUID, fen: int, *, now: datetime) -> None:
    await api.ask_to_settle_outside(
        incident_id=incident_id,
        believed_fen=fen,
        reason="已转账退还",
        document_no="回单 1",
        by=MAKER,
        now=now,
    )
    await api.approve_settling_outside(
        incident_id=incident_id, believed_fen=fen, by=CHECKER, now=now
    )


async def claims_of(order_ids: list[UUID]) -> list[OpenClaim]:
    found, _ = await open_claims(limit=1000)
    return [one for one in found if one.incident.order_id in order_ids]


async def end_claim(claim: OpenClaim, *, chance: random.Random, now: datetime) -> str:
    """The maker asks, unless that was done, and the checker mostly agrees; what became of it.
    Raises what the actions refuse."""
    incident_id, wish = claim.incident.id, claim.claim.wish
    amount, kind = (wish.amount_fen, wish.kind) if wish else _draw_end(claim, chance)
    if wish is None:
        await _ask_to_end(claim, kind, amount, now=now)
    if chance.random() < 0.2:
        await api.reject_ending_claim(incident_id=incident_id, by=CHECKER, note="回单未附", now=now)
        return "claim_rejected"
    by = MAKER if chance.random() < 0.1 else CHECKER
    await api.approve_ending_claim(incident_id=incident_id, believed_fen=amount, by=by, now=now)
    return f"claim_{kind}"


def _draw_end(claim: OpenClaim, chance: random.Random) -> tuple[int, ClaimEnd]:
    all_of_it = claim.claim.claim_fen
    amount = all_of_it if chance.random() < 0.6 else chance.randint(1, all_of_it)
    return amount, chance.choice([ClaimEnd.RECOVERED, ClaimEnd.WRITTEN_OFF])


async def _ask_to_end(claim: OpenClaim, kind: ClaimEnd, amount_fen: int, *, now: datetime) -> None:
    await api.ask_to_end_claim(
        incident_id=claim.incident.id,
        kind=kind,
        amount_fen=amount_fen,
        believed_fen=claim.claim.claim_fen,
        document_no="回单 2",
        reason="财政局决定" if kind is ClaimEnd.WRITTEN_OFF else "",
        received_on=beijing_day(now) if kind is ClaimEnd.RECOVERED else None,
        by=MAKER,
        now=now,
    )


async def end_whole_claim(claim: OpenClaim, services: Services, *, now: datetime) -> bool:
    """At ease: what hinders it first (an abnormal refund of the same money is redirected), then
    all that is left came back. True when the claim is over."""
    if claim.claim.refund_no:
        for stuck in await refunds_in(RefundState.ABNORMAL, _order_of(claim)):
            if stuck.refund_no == claim.claim.refund_no:
                await redirect(stuck, services, now=now)
        return False
    wish = claim.claim.wish
    if wish is not None:
        await api.reject_ending_claim(
            incident_id=claim.incident.id, by=CHECKER, note="金额已变", now=now
        )
    await _ask_to_end(claim, ClaimEnd.RECOVERED, claim.claim.claim_fen, now=now)
    await api.approve_ending_claim(
        incident_id=claim.incident.id, believed_fen=claim.claim.claim_fen, by=CHECKER, now=now
    )
    return True


def _order_of(claim: OpenClaim) -> list[UUID]:
    return [claim.incident.order_id] if claim.incident.order_id else []


async def pay_by_hand(order_ids: list[UUID], *, chance: random.Random, now: datetime) -> bool:
    """Finance paid the payer of a redirected refund, and two persons book it; False when none
    waits. Raises what booking refuses."""
    for incident in await api.list_incidents(limit=1000):
        if incident.kind != IncidentKind.REFUND_ABNORMAL or incident.order_id not in order_ids:
            continue
        stands = await redirecting(incident)
        if stands is None or stands.by_hand is None or stands.by_hand.word == "paid":
            continue
        refund_id = await refund_of(incident)
        await api.ask_paying_by_hand(refund_id=refund_id, document_no="回单 3", by=MAKER, now=now)
        by = MAKER if chance.random() < 0.1 else CHECKER
        await api.approve_paying_by_hand(refund_id=refund_id, by=by, now=now)
        return True
    return False


async def _left_of(incident: IncidentView) -> int:
    arrival = await arrival_of(incident)
    return sum(one.refundable_fen for one in await api.refundable_of(arrival_id=arrival))


async def centre_orders(
    order: OrderView, bill: BillView, *, number: int, chance: random.Random, now: datetime
) -> int:
    """The centre decided to give back a paid bill, wholly or partly; it may believe too much."""
    amount = bill.total_fen if chance.random() < 0.5 else chance.randint(1, bill.total_fen)
    row = RefundOrderRow(
        source="jc-center",
        source_id=f"{bill.bill_no}-r{number}",
        version=1,
        region=bill.region,
        bill_source_id=bill.bill_no.removeprefix("B"),
        order_no=order.order_no,
        amount_fen=amount,
        believed_refundable_fen=bill.total_fen,
        shares=[],
        reason="中心退费",
        asked_by="收费员",
        approved_by="科长",
        approved_at=now,
    )
    async with in_transaction() as db:
        await follow_orders(db, [row], now=now)
    return amount


async def refunds_in(state: RefundState, order_ids: list[UUID]) -> list[RefundView]:
    page = await api.list_refunds(state=state, page=1)
    return [refund for refund in page.rows if refund.order_id in order_ids]
