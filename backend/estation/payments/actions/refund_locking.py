"""The locks of refunds: of their orders and bills first, then of the arrivals they belong to."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from msgspec import Struct
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.pay_channels import Channel
from estation.payments.refund_rules import RefundNow, Share
from estation.payments.rules import RefundCause, RefundSource, RefundState

_LOCK_ORDERS = """
select id from pay_order
where id in (select order_id from pay_attempt where out_trade_no = any($1::text[])
             union select order_id from pay_refund where refund_no = any($2::text[]))
order by id for update
"""

LOCK_ARRIVALS = "select id from ledger_transfer where id = any($1::uuid[]) order by id for update"
"""Refunds of an arrival are made and changed only under this lock."""

_REFUNDS = """
select r.*, o.order_no,
       (select json_agg(json_build_array(s.bill_id, s.payee_code, s.amount_fen, (
                select coalesce(sum(p.amount_fen), 0) from pay_order_split p
                where p.order_id = r.order_id and p.bill_id = s.bill_id
                  and p.payee_code = s.payee_code) - (
                select coalesce(sum(x.amount_fen), 0) from pay_refund_share x
                join pay_refund y on y.id = x.refund_id and y.order_id = r.order_id
                where x.bill_id = s.bill_id and x.payee_code = s.payee_code
                  and y.state in ('approved', 'processing', 'abnormal', 'succeeded')))
            order by s.payee_code, s.bill_id)::text
        from pay_refund_share s where s.refund_id = r.id) as shares,
       (r.total_fen - (
            select coalesce(sum(y.amount_fen), 0) from pay_refund y
            where y.arrival_id = r.arrival_id
              and y.state in ('approved', 'processing', 'abnormal', 'succeeded')) - (
            select coalesce(sum(s.amount_fen), 0) from outside_settlement s
            where s.arrival_id = r.arrival_id and s.state = 'approved') + (
            select coalesce(sum(c.amount_fen), 0) from claim_settlement c
            where c.arrival_id = r.arrival_id and c.state = 'approved')
        - case when exists (
            select from ledger_transfer t join ledger_transfer a
                on a.idempotency_key = 'applied:' || t.idempotency_key
            where t.id = r.arrival_id) then r.total_fen else 0 end)::bigint as left_fen,
       (select count(*) filter (where d.action = 'redirect_refund')
             > count(*) filter (where d.action = 'redirect_refused')
        from incident i join incident_action d on d.incident_id = i.id
        where i.dedupe_key = left('refund_abnormal:' || r.account_id || ':' || r.refund_no, 160)
          and d.refund_id = r.id) as is_redirected
from pay_refund r left join pay_order o on o.id = r.order_id
"""


class Pot(Struct):
    """Where a refund's money is taken from, shared by all refunds read together that take from it.
    Below zero: so much was given away that was not there, and is a claim of ours."""

    left_fen: int

    def take(self, fen: int) -> int:
        """How much of it is not there."""
        short = min(fen, max(fen - self.left_fen, 0))
        self.left_fen -= fen
        return short

    def put_back(self, fen: int) -> int:
        """How much of it ends a claim."""
        owed = min(fen, max(-self.left_fen, 0))
        self.left_fen += fen
        return owed


class LockedRefund(Struct):
    """A refund whose arrival is locked; `told` is the version the centre was last told. `pots`:
    one for each share, or the arrival's own for money in suspense."""

    now: RefundNow
    cause: RefundCause
    taken_from: RefundSource
    channel: Channel
    channel_trade_no: str
    arrival_id: UUID
    order_id: UUID | None
    order_no: str
    region: str
    total_fen: int
    reason: str
    incident_key: str
    source: str
    source_id: str
    channel_refund_no: str | None
    told: int
    shares: list[Share]
    pots: list[Pot]


async def lock_orders_of_news(
    db: BaseDBAsyncClient, out_trade_nos: Sequence[str], refund_nos: Sequence[str]
) -> set[UUID]:
    """Lock the orders of both kinds of news in one order of ids; the bills the refunds touch.

    Without it two batches could each hold an order the other one's refund needs.
    """
    await db.execute_query_dict(_LOCK_ORDERS, [list(out_trade_nos), list(refund_nos)])
    rows = await db.execute_query_dict(
        """select distinct s.bill_id from pay_refund r join pay_refund_share s
           on s.refund_id = r.id where r.refund_no = any($1::text[])""",
        [list(refund_nos)],
    )
    return {row["bill_id"] for row in rows}


async def lock_refunds(
    db: BaseDBAsyncClient, refund_nos: Collection[str]
) -> dict[str, LockedRefund]:
    """Lock the arrivals of these refunds and read them; unknown numbers are not in the answer."""
    wanted = sorted(set(refund_nos))
    rows = await db.execute_query_dict(
        "select distinct arrival_id from pay_refund where refund_no = any($1::text[])", [wanted]
    )
    await lock_arrivals(db, [row["arrival_id"] for row in rows])
    found = await read_refunds(db, "r.refund_no = any($1::text[])", wanted)
    return {refund.now.refund_no: refund for refund in found}


async def lock_arrivals(db: BaseDBAsyncClient, arrival_ids: Sequence[UUID]) -> None:
    await db.execute_query_dict(LOCK_ARRIVALS, [sorted(arrival_ids)])


async def read_refunds(db: BaseDBAsyncClient, where: str, value: object) -> list[LockedRefund]:
    """`where` is constant text over `r`; the oldest first. The caller holds the arrivals' locks."""
    rows = await db.execute_query_dict(
        f"{_REFUNDS} where {where} order by r.asked_at, r.id", [value]
    )
    pots: dict[object, Pot] = {}
    return [_refund(row, pots) for row in rows]


async def asked_fen(
    db: BaseDBAsyncClient, trades: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], int]:
    """What we asked the channel to give back of each (account, channel trade number)."""
    rows = await db.execute_query_dict(
        """select r.account_id, r.channel_trade_no, sum(r.amount_fen)::bigint as fen
           from pay_refund r join unnest($1::text[], $2::text[]) as t(account_id, trade_no)
             on r.account_id = t.account_id and r.channel_trade_no = t.trade_no
           where r.state in ('approved', 'processing', 'abnormal', 'succeeded')
           group by r.account_id, r.channel_trade_no""",
        [[account for account, _ in trades], [number for _, number in trades]],
    )
    return {(row["account_id"], row["channel_trade_no"]): row["fen"] for row in rows}


async def settled_fen(db: BaseDBAsyncClient, arrival_ids: Sequence[UUID]) -> Mapping[UUID, int]:
    """What of these arrivals was settled outside the channels; the caller holds their locks."""
    rows = await db.execute_query_dict(
        """select arrival_id, sum(amount_fen)::bigint as fen from outside_settlement
           where arrival_id = any($1::uuid[]) and state = 'approved' group by arrival_id""",
        [list(arrival_ids)],
    )
    return {row["arrival_id"]: row["fen"] for row in rows}


async def ended_claims_fen(
    db: BaseDBAsyncClient, arrival_ids: Sequence[UUID]
) -> Mapping[UUID, int]:
    """What was given back of these arrivals beyond their amount, and came back or was given up;
    the caller holds their locks."""
    rows = await db.execute_query_dict(
        """select arrival_id, sum(amount_fen)::bigint as fen from claim_settlement
           where arrival_id = any($1::uuid[]) and state = 'approved' group by arrival_id""",
        [list(arrival_ids)],
    )
    return {row["arrival_id"]: row["fen"] for row in rows}


def _refund(row: Mapping[str, Any], pots: dict[object, Pot]) -> LockedRefund:
    shares = orjson.loads(row["shares"] or "[]")
    lefts: list[tuple[object, int]] = [
        ((row["order_id"], bill_id, payee), left) for bill_id, payee, _, left in shares
    ]
    if row["taken_from"] == RefundSource.SUSPENSE:
        lefts = [((row["arrival_id"],), row["left_fen"])]
    return LockedRefund(
        now=RefundNow(
            id=row["id"],
            refund_no=row["refund_no"],
            account_id=row["account_id"],
            out_trade_no=row["out_trade_no"],
            amount_fen=row["amount_fen"],
            state=RefundState(row["state"]),
            is_redirected=row["is_redirected"],
        ),
        cause=RefundCause(row["cause"]),
        taken_from=RefundSource(row["taken_from"]),
        channel=Channel(row["channel"]),
        channel_trade_no=row["channel_trade_no"],
        arrival_id=row["arrival_id"],
        order_id=row["order_id"],
        order_no=row["order_no"] or "",
        region=row["region"],
        total_fen=row["total_fen"],
        reason=row["reason"],
        incident_key=row["incident_key"],
        source=row["source"],
        source_id=row["source_id"],
        channel_refund_no=row["channel_refund_no"],
        told=row["version"],
        shares=[Share(UUID(bill_id), payee, fen) for bill_id, payee, fen, _ in shares],
        pots=[pots.setdefault(key, Pot(left)) for key, left in lefts],
    )
