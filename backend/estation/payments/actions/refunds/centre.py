"""Following the registration centre's refund orders; two persons there decided already."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import structlog
from msgspec import to_builtins
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import lock_bills
from estation.ledger.api import payments_of_order
from estation.outside.gate.rows import RefundOrderRow, RefundRow
from estation.payments.actions.refund_locking import lock_arrivals
from estation.payments.actions.refunds.ask import Asker, Wish, make_request
from estation.payments.actions.storing import IncidentNote, put_incidents
from estation.payments.errors import ArrivalNotFound, SecondPersonNeeded
from estation.payments.models import Incident, Refund
from estation.payments.refund_rules import Share
from estation.payments.rules import IncidentKind, RefundCause
from estation.shared import ids, outbox
from estation.shared.errors import Refused
from estation.shared.transactions import in_transaction

log = structlog.get_logger()


async def follow_orders(
    db: BaseDBAsyncClient, orders: Sequence[RefundOrderRow], *, now: datetime
) -> None:
    """Make the refunds of these orders, or answer each that cannot be followed with the reason
    and an incident. Joins the caller's transaction; an order that came before changes nothing.
    """
    meant = await _meant(db, orders)
    # All locks in their order, before the first order is looked at.
    await lock_bills(sorted(bill_id for _, bill_id in meant.values()), with_split=False)
    money = [
        one
        for order_id in {order_id for order_id, _ in meant.values()}
        for one in await payments_of_order(order_id)
    ]
    await lock_arrivals(db, [one.id for one in money])
    for order in orders:
        if not await _is_known(order):
            await _follow(db, order, meant.get(_key(order)), now)


_KEEP = """
insert into centre_refund_order as o (id, source, source_id, version, region, bill_source_id,
                                      order_no, amount_fen, data_as_of, row_digest)
select distinct on (source, source_id) id, source, source_id, version, region, bill_source_id,
       order_no, amount_fen, $10::timestamptz, digest
from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[],
            $8::bigint[], $9::bytea[]) with ordinality
  as t(id, source, source_id, version, region, bill_source_id, order_no, amount_fen, digest, place)
order by source, source_id, version desc, place desc
on conflict (source, source_id) do update set
    version = excluded.version, region = excluded.region,
    bill_source_id = excluded.bill_source_id, order_no = excluded.order_no,
    amount_fen = excluded.amount_fen, data_as_of = excluded.data_as_of,
    row_digest = excluded.row_digest
where o.version < excluded.version or $11
"""


async def keep_orders(
    db: BaseDBAsyncClient,
    orders: Sequence[tuple[RefundOrderRow, bytes]],
    *,
    data_as_of: datetime,
    repairs: bool,
) -> None:
    """Keep these orders, with their digests, as the copy that is compared with the centre's.

    The newest version counts, or with `repairs` what came. Joins the caller's transaction.
    """
    columns = [
        (
            ids.row_id(data_as_of), one.source, one.source_id, one.version, one.region,
            one.bill_source_id, one.order_no, one.amount_fen, digest,
        )
        for one, digest in orders
    ]  # fmt: skip
    given = [list(column) for column in zip(*columns, strict=True)]
    await db.execute_query(_KEEP, [*given, data_as_of, repairs])


Key = tuple[str, str, str]


def _key(order: RefundOrderRow) -> Key:
    return order.source, order.bill_source_id, order.order_no


async def _meant(
    db: BaseDBAsyncClient, orders: Sequence[RefundOrderRow]
) -> dict[Key, tuple[UUID, UUID]]:
    """The pay order and the bill each one names, where there are such."""
    rows = await db.execute_query_dict(
        """select b.source, b.source_id, o.order_no, o.id as order_id, b.id as bill_id
           from unnest($1::text[], $2::text[], $3::text[]) as t(source, source_id, order_no)
           join bill b on b.source = t.source and b.source_id = t.source_id
           join pay_order o on o.order_no = t.order_no
           join pay_order_bill ob on ob.order_id = o.id and ob.bill_id = b.id""",
        [list(column) for column in zip(*map(_key, orders), strict=True)],
    )
    return {
        (row["source"], row["source_id"], row["order_no"]): (row["order_id"], row["bill_id"])
        for row in rows
    }


async def _is_known(order: RefundOrderRow) -> bool:
    return (
        await Refund.filter(source=order.source, source_id=order.source_id).exists()
        or await Incident.filter(dedupe_key=_refusal(order, "").dedupe_key).exists()
    )


async def _follow(
    db: BaseDBAsyncClient,
    order: RefundOrderRow,
    meant: tuple[UUID, UUID] | None,
    now: datetime,
) -> None:
    try:
        if meant is None:
            raise ArrivalNotFound
        if order.asked_by == order.approved_by:
            raise SecondPersonNeeded
        # A savepoint: a refusal leaves nothing of this order behind.
        async with in_transaction() as inner:
            await _make(inner, order, *meant, now=now)
    except Refused as refusal:
        log.warning("refund_order_refused", source_id=order.source_id, reason=refusal.code)
        await put_incidents(db, [_refusal(order, refusal.code)], now=now)
        await outbox.put("refund", to_builtins(_answer(order, refusal.code, now)), now=now)


async def _make(
    db: BaseDBAsyncClient, order: RefundOrderRow, order_id: UUID, bill_id: UUID, *, now: datetime
) -> None:
    money = await payments_of_order(order_id)
    if not money:
        raise ArrivalNotFound
    wish = Wish(
        amount_fen=order.amount_fen,
        believed_refundable_fen=order.believed_refundable_fen,
        reason=order.reason,
        shares=[Share(bill_id, share.payee_code, share.amount_fen) for share in order.shares],
        bill_id=bill_id,
    )
    asker = Asker(
        RefundCause.CENTRE,
        by=order.asked_by,
        decided_by=order.approved_by,
        source=order.source,
        source_id=order.source_id,
    )
    await make_request(db, money, wish, asker, now=now)


def _refusal(order: RefundOrderRow, why: str) -> IncidentNote:
    return IncidentNote(
        kind=IncidentKind.REFUND_ORDER_REFUSED,
        channel="",
        account_id="",
        out_trade_no="",
        channel_trade_no=None,
        amount_fen=order.amount_fen,
        order_id=None,
        distinction=f"{order.source}:{order.source_id}",
        evidence={"why_not": why, "order": to_builtins(order)},
    )


def _answer(order: RefundOrderRow, why: str, now: datetime) -> RefundRow:
    """The centre hears which order was not followed; there is no refund and no number."""
    return RefundRow(
        source=order.source,
        source_id=order.bill_source_id,
        version=1,
        refund_no="",
        order_source_id=order.source_id,
        order_no=order.order_no,
        bill_no="",
        state="refused",
        amount_fen=order.amount_fen,
        shares=order.shares,
        channel="",
        channel_refund_no="",
        at=now,
        transfer_id="",
        reason=order.reason,
        why_not=why,
    )
