"""The one place that takes the locks of money: orders with their attempts, then bills, by id."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from msgspec import Struct
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import HOLDING, LockedBill, held_bill
from estation.ledger.api import transfers_by_key
from estation.outside.pay_channels import Channel
from estation.payments.actions.refund_locking import (
    LockedRefund,
    asked_fen,
    lock_orders_of_news,
    lock_refunds,
)
from estation.payments.combining import parts_of
from estation.payments.rules import (
    Arrival,
    AttemptNow,
    AttemptState,
    BillNow,
    OrderNow,
    OrderState,
    arrival_key,
    bill_now,
)
from estation.shared.columns import array_text

_LOCK_FOR_NEWS = f"""
with attempt as materialized (
    select a.id as attempt_id, a.order_id, a.channel, a.account_id, a.out_trade_no, a.amount_fen,
           a.state as attempt_state, a.channel_trade_no, a.paid_fen, a.parts::text as parts,
           o.order_no, o.region as order_region, o.state as order_state, o.close_reason,
           (select json_agg(json_build_array(b.bill_id, b.bill_version, b.amount_fen))::text
            from pay_order_bill b where b.order_id = o.id) as bills,
           (select json_agg(json_build_array(s.bill_id, s.payee_code, s.amount_fen, s.receipt_no)
                            order by s.receipt_no)::text
            from pay_order_split s where s.order_id = o.id) as splits
    from pay_attempt a join pay_order o on o.id = a.order_id
    where a.out_trade_no = any($1::text[])
    order by o.id, a.id
    for update of o, a
), meant as (
    select bill_id from pay_order_bill where order_id = any(array(select order_id from attempt))
    union all select unnest($2::text::uuid[])
), {HOLDING}
select attempt.*, held.* from attempt left join held on false
union all select attempt.*, held.* from held left join attempt on false
"""  # noqa: S608 - constants
# Both rows are locked: after waiting for a lock PostgreSQL re-reads only what it locks, and an
# attempt read in its older version would be judged as unpaid. The aggregated rows never change.
# No bill is locked before the last attempt: `meant` asks for all of them first.

_CHANNELS = {channel.value: channel for channel in Channel}
_ATTEMPT_STATES = {state.value: state for state in AttemptState}
_ORDER_STATES = {state.value: state for state in OrderState}


class Split(Struct, frozen=True):
    """What one payee gets of one bill of an order."""

    payee_code: str
    amount_fen: int
    receipt_no: str


class SeenBill(Struct):
    """A bill as the citizen saw it, with its splits. `id` is the UUID as text."""

    id: str
    version: int
    amount_fen: int
    splits: list[Split]


class LockedOrder(Struct):
    now: OrderNow
    order_no: str
    region: str
    bills: list[SeenBill]


class LockedAttempt(Struct):
    now: AttemptNow
    order: LockedOrder


@dataclass(slots=True)
class Locked:
    """All that a batch of news may touch."""

    attempts: dict[str, LockedAttempt]  # by out_trade_no
    bills: dict[str, LockedBill]  # by the id's text
    arrivals: dict[str, Arrival] = field(default_factory=dict)  # by ledger key
    refunds: dict[str, LockedRefund] = field(default_factory=dict)  # by refund number
    just_paid: set[str] = field(default_factory=set)  # by earlier news of the same batch

    async def read_books(self, keys: Collection[str]) -> None:
        """Learn which of these arrivals the ledger has. Under the locks, or it would be late."""
        standing = await transfers_by_key(sorted(keys))
        self.arrivals = {key: Arrival(known.amount_fen) for key, known in standing.items()}

    async def read_asked_refunds(
        self, db: BaseDBAsyncClient, trades: Collection[tuple[str, str]]
    ) -> None:
        """Learn what we asked to be given back of these (account, trade number). Without locks:
        a refund the channel knows was committed here before it was asked for."""
        for (account_id, trade_no), fen in (await asked_fen(db, sorted(trades))).items():
            known = self.arrivals.get(key := arrival_key(account_id, trade_no))
            if known is not None:
                self.arrivals[key] = Arrival(known.amount_fen, fen)

    def bills_now(self, order: LockedOrder) -> list[BillNow]:
        """The order's bills against the versions it was made with."""
        return [
            BillNow.PAID
            if seen.id in self.just_paid
            else bill_now(
                seen_version=seen.version,
                version=self.bills[seen.id].version,
                seen_fen=seen.amount_fen,
                total_fen=self.bills[seen.id].total_fen,
                state=self.bills[seen.id].state,
            )
            for seen in order.bills
        ]


async def lock_for_news(
    db: BaseDBAsyncClient, out_trade_nos: Sequence[str], refund_nos: Sequence[str] = ()
) -> Locked:
    """Lock the attempts of these numbers, their orders and bills, in the fixed order; then the
    arrivals of these refunds, with their bills taken in their place."""
    more_bills = await lock_orders_of_news(db, out_trade_nos, refund_nos) if refund_nos else ()
    _, rows = await db.execute_query(
        _LOCK_FOR_NEWS, [sorted(set(out_trade_nos)), array_text(list(map(str, more_bills)))]
    )
    orders: dict[UUID, LockedOrder] = {}
    attempts = {
        row["out_trade_no"]: _attempt(row, orders) for row in rows if row["attempt_id"] is not None
    }
    bills = {str(row["id"]): held_bill(row, {}) for row in rows if row["id"] is not None}
    locked = Locked(attempts, bills)
    if refund_nos:
        locked.refunds = await lock_refunds(db, refund_nos)
    return locked


async def lock_order(db: BaseDBAsyncClient, order_id: UUID) -> dict[str, Any] | None:
    """Lock one order; its attempts change only under this lock. The row, or None."""
    rows = await db.execute_query_dict(
        "select * from pay_order where id = $1 for update", [order_id]
    )
    return rows[0] if rows else None


def _attempt(row: Mapping[str, Any], orders: dict[UUID, LockedOrder]) -> LockedAttempt:
    order = orders.get(row["order_id"])
    if order is None:
        order = orders[row["order_id"]] = _order(row)
    return LockedAttempt(
        AttemptNow(
            id=row["attempt_id"],
            channel=_CHANNELS[row["channel"]],
            account_id=row["account_id"],
            amount_fen=row["amount_fen"],
            state=_ATTEMPT_STATES[row["attempt_state"]],
            channel_trade_no=row["channel_trade_no"],
            paid_fen=row["paid_fen"],
            parts=parts_of(orjson.loads(row["parts"])) if row["parts"] else (),
        ),
        order,
    )


def _order(row: Mapping[str, Any]) -> LockedOrder:
    splits: dict[str, list[Split]] = {}
    for bill_id, payee_code, amount_fen, receipt_no in orjson.loads(row["splits"] or "[]"):
        splits.setdefault(bill_id, []).append(Split(payee_code, amount_fen, receipt_no))
    return LockedOrder(
        now=OrderNow(row["order_id"], _ORDER_STATES[row["order_state"]], row["close_reason"]),
        order_no=row["order_no"],
        region=row["order_region"],
        bills=[
            SeenBill(bill_id, version, amount_fen, splits.get(bill_id, []))
            for bill_id, version, amount_fen in orjson.loads(row["bills"] or "[]")
        ],
    )
