"""Keeping what the other side says was paid, once each, and marking bills paid by it."""

import itertools
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog
from tortoise import Tortoise

from estation.inner import rules
from estation.inner.errors import ReceiptAlreadyHandled, ReceiptNotFound
from estation.inner.models import FeeReceipt
from estation.inner.rules import Attention, BillFacts, BillMove, BillState
from estation.outside.gate.rows import ReceiptRow
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

Key = tuple[str, str, str]
KEY = "source_id || ':' || order_no"
"""SQL: what the gate calls a receipt of a source."""


async def keep_receipts(
    receipts: Sequence[ReceiptRow],
    *,
    source: str,
    packet_seq: int,
    now: datetime,
    digests: Sequence[bytes] = (),
    repairs: bool = False,
) -> None:
    """Keep each receipt once and mark the bills paid that it fits; joins the caller's transaction.

    A receipt for a withdrawn, revised, already paid or unknown bill, or of another amount, is
    kept with the reason why a person must look; none is ever refused, because the money is
    real. The same receipt again changes nothing; with other content it is flagged, and becomes
    what was sent when it `repairs` ours. `digests`: of the rows as they came.
    """
    bills = await _lock_bills([row.source_id for row in receipts if row.source == source])
    kept = await _kept([_key(row) for row in receipts])
    new: list[FeeReceipt] = []
    for row, digest in itertools.zip_longest(receipts, digests):
        before = kept.get(_key(row))
        if before is not None and (repairs or before.attention == Attention.NEVER_SENT):
            said: dict[str, Any] = {**_content(row), "row_digest": digest}
            if before.attention == Attention.NEVER_SENT:
                bill = bills.get(row.source_id) if row.source == source else None
                said |= await _sent_after_all(row, bill, packet_seq=packet_seq, now=now)
            await FeeReceipt.filter(id=before.id).update(**said)
            continue
        if before is not None:
            await _compare(before, row)
            continue
        bill = bills.get(row.source_id) if row.source == source else None
        made = _judge(row, bill, packet_seq=packet_seq, now=now)
        made.row_digest = digest
        if repairs and bill is not None and await _is_the_lost_one(made, bill):
            made.attention = Attention.NONE.value
        kept[_key(row)] = made
        new.append(made)
    await FeeReceipt.bulk_create(new)
    await _mark_paid([bill for bill in bills.values() if bill.paid_by is not None], now=now)
    for made in new:
        log.info(
            "receipt_kept", bill_no=made.bill_no, order_no=made.order_no, attention=made.attention
        )


async def set_aside(source: str, keys: Sequence[str], *, now: datetime) -> None:
    """Receipts the online side does not know are no proof of payment any more, and wait for a
    person. What they did to their bills stays: whether money came is not a program's to say.

    `keys`: as the gate names them. Joins the caller's transaction.
    """
    await Tortoise.get_connection("default").execute_query(
        f"""update fee_receipt set attention = $1, handled_at = null, handled_by = '',
               handled_note = ''
           where source = $2 and {KEY} = any($3::text[])""",  # noqa: S608 - names of our own
        [Attention.NEVER_SENT.value, source, list(keys)],
    )
    log.error("receipts_never_sent", source=source, receipts=len(keys), at=now.isoformat())


async def mark_handled(receipt_id: UUID, *, note: str, handled_by: str, now: datetime) -> None:
    """A person looked at a receipt that did not fit and wrote down what was done.

    Raises ReceiptNotFound (also for one that needs nobody), ReceiptAlreadyHandled, TextMissing.
    """
    rules.require_text(note, "note", 256, may_be_empty=False)
    async with in_transaction():
        receipt = await FeeReceipt.select_for_update().get_or_none(id=receipt_id)
        if receipt is None or not receipt.attention:
            raise ReceiptNotFound()
        if receipt.handled_at is not None:
            raise ReceiptAlreadyHandled()
        receipt.handled_at, receipt.handled_by, receipt.handled_note = now, handled_by, note
        await receipt.save()
    log.info("receipt_handled", receipt_id=str(receipt_id))


def _key(row: ReceiptRow) -> Key:
    return row.source, row.source_id, row.order_no


class _LockedBill:
    """A bill under lock while a packet's receipts are judged one after the other."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.id: UUID = row["id"]
        self.facts = BillFacts(BillState(row["state"]), row["version"], {})
        self.paid_by: ReceiptRow | None = None


async def _lock_bills(bill_nos: Sequence[str]) -> dict[str, _LockedBill]:
    db = Tortoise.get_connection("default")
    rows = await db.execute_query_dict(
        """select id, bill_no, state, version from fee_bill where bill_no = any($1::text[])
           order by id for update""",
        [sorted(set(bill_nos))],
    )
    bills = {row["bill_no"]: _LockedBill(row) for row in rows}
    totals: dict[UUID, dict[int, int]] = {}
    for row in await db.execute_query_dict(
        """select bill_id, version, total_fen from fee_bill_version
           where bill_id = any($1::uuid[])""",
        [[bill.id for bill in bills.values()]],
    ):
        totals.setdefault(row["bill_id"], {})[row["version"]] = row["total_fen"]
    for bill in bills.values():
        bill.facts = BillFacts(bill.facts.state, bill.facts.version, totals.get(bill.id, {}))
    return bills


async def _kept(keys: Sequence[Key]) -> dict[Key, FeeReceipt]:
    order_nos = [order_no for _, _, order_no in keys]
    rows = await FeeReceipt.filter(order_no__in=order_nos)
    return {(row.source, row.source_id, row.order_no): row for row in rows}


def _judge(
    row: ReceiptRow, bill: _LockedBill | None, *, packet_seq: int, now: datetime
) -> FeeReceipt:
    attention = rules.attention_of(
        bill.facts if bill else None, version=row.bill_version, amount_fen=row.amount_fen
    )
    if bill is not None and attention is Attention.NONE:
        paid = rules.state_after(bill.facts.state, BillMove.PAYMENT)
        bill.facts = BillFacts(paid, bill.facts.version, bill.facts.versions)
        bill.paid_by = row
    if attention is not Attention.NONE:
        log.warning(
            "receipt_needs_attention",
            bill_no=row.bill_no,
            order_no=row.order_no,
            reason=attention.value,
        )
    return FeeReceipt(
        id=ids.row_id(now),
        source=row.source,
        source_id=row.source_id,
        order_no=row.order_no,
        bill_id=bill.id if bill else None,
        **_content(row),
        packet_seq=packet_seq,
        received_at=now,
        attention=attention.value,
    )


def _content(row: ReceiptRow) -> dict[str, Any]:
    """What the row says, by column."""
    return {
        "bill_no": row.bill_no,
        "bill_version": row.bill_version,
        "channel": row.channel,
        "out_trade_no": row.out_trade_no,
        "channel_trade_no": row.channel_trade_no,
        "transfer_id": row.transfer_id,
        "amount_fen": row.amount_fen,
        "splits": msgspec.to_builtins(row.splits),
        "paid_at": row.paid_at,
    }


async def _sent_after_all(
    row: ReceiptRow, bill: _LockedBill | None, *, packet_seq: int, now: datetime
) -> dict[str, Any]:
    """A receipt that was set aside is judged like one that comes for the first time."""
    made = _judge(row, bill, packet_seq=packet_seq, now=now)
    if bill is not None and await _is_the_lost_one(made, bill):
        made.attention = Attention.NONE.value
    return {"attention": made.attention, "bill_id": made.bill_id}


async def _is_the_lost_one(receipt: FeeReceipt, bill: _LockedBill) -> bool:
    """Whether the bill was paid by this very receipt, which is here no more."""
    found = await Tortoise.get_connection("default").execute_query_dict(
        """select exists (
             select from fee_bill b where b.id = $1 and b.paid_version = $2 and b.paid_at = $3
               and not exists (select from fee_receipt r where r.bill_id = b.id
                               and r.bill_version = $2 and r.attention = '')) as found""",
        [bill.id, receipt.bill_version, receipt.paid_at],
    )
    return bool(found[0]["found"])


async def _compare(before: FeeReceipt, row: ReceiptRow) -> None:
    """The first news stands; what contradicts it is shown, also when the first one fitted."""
    same = (
        before.bill_version == row.bill_version
        and before.amount_fen == row.amount_fen
        and before.out_trade_no == row.out_trade_no
        and before.channel_trade_no == row.channel_trade_no
        and before.splits == msgspec.to_builtins(row.splits)
    )
    if same:
        return
    log.error("receipt_contradicted", bill_no=row.bill_no, order_no=row.order_no)
    before.attention = Attention.CONTRADICTED.value
    before.handled_at = None
    # One of this very packet is not in the database yet: saving it then changes no row.
    await FeeReceipt.filter(id=before.id).update(
        attention=before.attention, handled_at=None, handled_by="", handled_note=""
    )


async def _mark_paid(bills: Sequence[_LockedBill], *, now: datetime) -> None:
    paid = [(bill.id, bill.paid_by) for bill in bills if bill.paid_by is not None]
    if not paid:
        return
    await Tortoise.get_connection("default").execute_query(
        """update fee_bill b
           set state = 'paid', paid_at = m.paid_at, paid_version = m.version, changed_at = $4
           from unnest($1::uuid[], $2::int[], $3::timestamptz[]) as m (id, version, paid_at)
           where b.id = m.id""",
        [
            [bill_id for bill_id, _ in paid],
            [row.bill_version for _, row in paid],
            [row.paid_at for _, row in paid],
            now,
        ],
    )
