"""Asking for a refund: what is left is looked at under the lock of each arrival."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import lock_bills
from estation.ledger.api import (
    ArrivedMoney,
    arrival_by_key,
    arrivals_by_id,
    payments_of_order,
)
from estation.outside.pay_channels import Channel
from estation.payments import queries, refund_rules, rules
from estation.payments.actions.refund_locking import (
    LockedRefund,
    Pot,
    ended_claims_fen,
    lock_arrivals,
    read_refunds,
    settled_fen,
)
from estation.payments.actions.refund_writing import RefundWriting
from estation.payments.actions.storing import note_deed
from estation.payments.errors import (
    ArrivalNotFound,
    RefundableChanged,
    RefundNotPossible,
    RefundTooMuch,
)
from estation.payments.models import Incident, PayOrder, PayOrderSplit
from estation.payments.refund_rules import RefundNow, Share
from estation.payments.rules import RefundCause, RefundSource, RefundState
from estation.shared import ids
from estation.shared.errors import InvalidInput
from estation.shared.jsonb import clean_text
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be given back. `shares` empty: from the payees in the defined order; `bill_id`:
    only of this bill. `believed_refundable_fen`: what the asker thinks is left of it."""

    amount_fen: int
    believed_refundable_fen: int
    reason: str
    shares: Sequence[Share] = ()
    bill_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and why; `decided_by` when two persons decided already (the centre's orders)."""

    cause: RefundCause
    by: str
    by_id: UUID | None = None
    decided_by: str = ""
    source: str = ""
    source_id: str = ""
    incident_key: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """A locked arrival with its refunds: what is left, and of whom (nobody for suspense).
    `settled_fen`: what of it was settled outside the channels; `rest_fen`: what is left of the
    whole arrival, below zero when more was given away than came, and has not come back since."""

    money: ArrivedMoney
    refunds: list[LockedRefund]
    left: list[Share]
    refundable_fen: int
    rest_fen: int
    settled_fen: int = 0


async def ask_refund(
    *,
    amount_fen: int,
    believed_refundable_fen: int,
    reason: str,
    by: str,
    now: datetime,
    by_id: UUID | None = None,
    order_id: UUID | None = None,
    arrival_id: UUID | None = None,
    incident_id: UUID | None = None,
    shares: Sequence[Share] = (),
) -> UUID:
    """A maker asks to give back money of an order, or of one arrival (also the one an incident
    is about); the request's id, one refund per arrival. A checker decides.

    Refuses ArrivalNotFound, RefundableChanged (412, with the present sum), RefundTooMuch,
    RefundNotPossible (the channel's limits), InvalidInput; nothing is changed then.
    """
    said = typed_text("reason", reason, most=refund_rules.MAX_REASON)
    wish = Wish(amount_fen, believed_refundable_fen, said, shares)
    incident = None
    if incident_id is not None:
        await queries.incident(incident_id)
        incident = await Incident.get(id=incident_id)
    asker = Asker(
        RefundCause.STAFF,
        clean_text(by, 64),
        by_id,
        incident_key=incident.dedupe_key if incident else "",
    )
    async with in_transaction() as db:
        money = await _money_meant(order_id, arrival_id, incident)
        request_id, refunds = await make_request(db, money, wish, asker, now=now)
        for refund in refunds if incident else ():
            await note_deed(
                db,
                refund.incident_key,
                deed="refund_asked",
                by=by,
                by_id=by_id,
                now=now,
                note=wish.reason,
                refund_id=refund.now.id,
            )
    return request_id


async def make_request(
    db: BaseDBAsyncClient,
    money: Sequence[ArrivedMoney],
    wish: Wish,
    asker: Asker,
    *,
    now: datetime,
) -> tuple[UUID, list[LockedRefund]]:
    """One refund per arrival the wish needs, asked or (with `decided_by`) approved; joins the
    caller's transaction. Takes the locks itself: bills, then arrivals."""
    reason = clean_text(wish.reason.strip(), refund_rules.MAX_REASON)
    if not reason or len(wish.reason) > refund_rules.MAX_REASON:
        raise InvalidInput(field="reason")
    if wish.amount_fen <= 0:
        raise InvalidInput(field="amount_fen")
    splits = await _splits(money, wish.bill_id)
    bill_ids = sorted({share.bill_id for share in splits})
    bills = await lock_bills(bill_ids, with_split=False) if bill_ids else []
    standings = await lock_standings(db, money, splits)
    refundable = sum(standing.refundable_fen for standing in standings)
    if refundable != wish.believed_refundable_fen:
        raise RefundableChanged(refundable_fen=refundable)
    parts = _parts(standings, wish, refundable)
    request_id = ids.row_id(now)
    writing = RefundWriting(now, {str(bill.id): bill for bill in bills})
    made = []
    for standing, amount_fen, shares in parts:
        check_channel(standing, now=now)
        refund = await _refund(standing, amount_fen, shares, reason, asker, now)
        writing.add(
            refund,
            request_id=request_id,
            asked_by=asker.by,
            asked_by_id=asker.by_id,
            decided_by=asker.decided_by,
        )
        made.append(refund)
    await writing.post_and_write(db)
    return request_id, made


async def lock_standings(
    db: BaseDBAsyncClient, money: Sequence[ArrivedMoney], splits: Sequence[Share]
) -> list[Standing]:
    """Lock the arrivals; what of each is left, counting every refund not rejected or closed.

    `splits` limits it to some bills, then also what counts as refundable.
    """
    arrival_ids = [one.id for one in money]
    await lock_arrivals(db, arrival_ids)
    refunds = await read_refunds(db, "r.arrival_id = any($1::uuid[])", arrival_ids)
    settled = await settled_fen(db, arrival_ids)
    claims = await ended_claims_fen(db, arrival_ids)
    # Read again: whether suspense was applied is only certain under the lock.
    return [
        _standing(one, refunds, splits, settled.get(one.id, 0), claims.get(one.id, 0))
        for one in await arrivals_by_id(arrival_ids)
    ]


def _standing(
    money: ArrivedMoney,
    refunds: Sequence[LockedRefund],
    splits: Sequence[Share],
    settled: int,
    ended_claims: int,
) -> Standing:
    own = [refund for refund in refunds if refund.arrival_id == money.id]
    rest = refund_rules.refundable_fen(
        money.amount_fen + ended_claims,
        [(refund.now.state, refund.now.amount_fen) for refund in own],
    )
    if money.kind == "suspense":
        rest -= settled + (money.amount_fen if money.is_applied else 0)
        return Standing(money, own, [], max(rest, 0), rest, settled)
    taken = [share for one in own if one.now.state in refund_rules.RESERVES for share in one.shares]
    theirs = [share for share in splits if share.payee_code in money.payees]
    shares = refund_rules.left_of(theirs, taken)
    left = min(sum(share.amount_fen for share in shares), max(rest, 0))
    return Standing(money, own, shares, left, rest)


def _parts(
    standings: Sequence[Standing], wish: Wish, refundable: int
) -> list[tuple[Standing, int, list[Share]]]:
    """Which arrival gives how much. Raises RefundTooMuch, InvalidInput."""
    left = [share for standing in standings for share in standing.left]
    if not left:
        if len(standings) != 1 or wish.shares:
            raise InvalidInput(field="shares")
        if wish.amount_fen > refundable:
            raise RefundTooMuch(refundable_fen=refundable)
        return [(standings[0], wish.amount_fen, [])]
    if wish.amount_fen > refundable:
        raise RefundTooMuch(refundable_fen=refundable)
    shares = list(wish.shares) or refund_rules.take_in_order(wish.amount_fen, left)
    if sum(share.amount_fen for share in shares) != wish.amount_fen:
        raise InvalidInput(field="shares")
    if not refund_rules.covers(left, shares):
        raise RefundTooMuch(refundable_fen=refundable)
    parts = []
    for standing in standings:
        theirs = {(share.bill_id, share.payee_code) for share in standing.left}
        own = [share for share in shares if (share.bill_id, share.payee_code) in theirs]
        if own:
            parts.append((standing, sum(share.amount_fen for share in own), own))
    return parts


def check_channel(standing: Standing, *, now: datetime, own: int = 0) -> None:
    """Raises RefundNotPossible when the channel would never take one more; `own` of those there
    are the ones being decided."""
    channel = Channel(standing.money.account_id.partition(":")[0])
    so_far = sum(refund.now.state is not RefundState.REJECTED for refund in standing.refunds)
    why = refund_rules.hindrance(
        channel, paid_at=standing.money.occurred_at, refunds_so_far=so_far - own, now=now
    )
    if why is not None:
        raise RefundNotPossible(why=why, account_id=standing.money.account_id)


async def _money_meant(
    order_id: UUID | None, arrival_id: UUID | None, incident: Incident | None
) -> list[ArrivedMoney]:
    """Raises ArrivalNotFound."""
    money: list[ArrivedMoney] = []
    if order_id is not None:
        money = await payments_of_order(order_id)
    elif arrival_id is not None:
        money = await arrivals_by_id([arrival_id])
    elif incident is not None and incident.channel_trade_no:
        key = rules.arrival_key(incident.account_id, incident.channel_trade_no)
        found = await arrival_by_key(key)
        money = [found] if found else []
    if not money:
        raise ArrivalNotFound
    return money


async def _splits(money: Sequence[ArrivedMoney], bill_id: UUID | None) -> list[Share]:
    """What the payees got of each bill of the orders these payments paid."""
    order_ids = {one.order_id for one in money if one.kind == "payment" and one.order_id}
    rows = await PayOrderSplit.filter(order_id__in=list(order_ids)).order_by("receipt_no")
    return [
        Share(row.bill_id, row.payee_code, row.amount_fen)
        for row in rows
        if bill_id in (None, row.bill_id)
    ]


async def _refund(
    standing: Standing,
    amount_fen: int,
    shares: list[Share],
    reason: str,
    asker: Asker,
    now: datetime,
) -> LockedRefund:
    money = standing.money
    order = await PayOrder.get_or_none(id=money.order_id) if money.order_id else None
    return LockedRefund(
        now=RefundNow(
            id=ids.row_id(now),
            refund_no=ids.trade_number(now),
            account_id=money.account_id,
            out_trade_no=money.our_no,
            amount_fen=amount_fen,
            state=RefundState.APPROVED if asker.decided_by else RefundState.ASKED,
        ),
        cause=asker.cause,
        taken_from=RefundSource.PAYMENT if shares else RefundSource.SUSPENSE,
        channel=Channel(money.account_id.partition(":")[0]),
        channel_trade_no=money.channel_no,
        arrival_id=money.id,
        order_id=money.order_id,
        order_no=order.order_no if order else "",
        region=money.region,
        total_fen=money.amount_fen,
        reason=reason,
        incident_key=asker.incident_key,
        source=asker.source,
        source_id=asker.source_id,
        channel_refund_no=None,
        told=0,
        shares=shares,
        # What is asked for is there: that was just looked at.
        pots=[Pot(fen) for fen in [share.amount_fen for share in shares] or [amount_fen]],
    )
