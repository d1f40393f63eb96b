"""What a repair of the copy means for bills; each function joins the caller's transaction.

Nothing here touches what was paid: a paid bill that is not as the centre sent it stays as it is,
and the proof goes on saying so until a person has looked.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.rules import STATE_OF_ROW
from estation.outside.gate.rows import FeeBillRow

_FORGET_ITEMS = """
delete from bill_item i using unnest($1::uuid[], $2::int[]) as t(bill_id, version)
where i.bill_id = t.bill_id and i.version = t.version
"""

_CONFIRM_PAID = """
with sent as (
    select * from jsonb_to_recordset($1::jsonb) as n(
        id uuid, version int, digest text, region text, bill_no text,
        case_source_id text, payer_id uuid, title text, state text, total_fen bigint,
        issued_at timestamptz, due_on date, items jsonb)
), noted as (
    insert into bill_noted (id, bill_id, version, region, bill_no, case_source_id, payer_id,
                            title, state, total_fen, issued_at, due_on, data_as_of, row_digest)
    select gen_random_uuid(), n.id, n.version, n.region, n.bill_no, n.case_source_id, n.payer_id,
           n.title, n.state, n.total_fen, n.issued_at, n.due_on, $2::timestamptz,
           decode(n.digest, 'hex')
    from sent n join bill b on b.id = n.id and b.state = 'paid' and n.version > b.paid_version
    on conflict (bill_id, version) do update set
        region = excluded.region, bill_no = excluded.bill_no,
        case_source_id = excluded.case_source_id, payer_id = excluded.payer_id,
        title = excluded.title, state = excluded.state, total_fen = excluded.total_fen,
        issued_at = excluded.issued_at, due_on = excluded.due_on, row_digest = excluded.row_digest
)
update bill b set row_digest = decode(n.digest, 'hex'), version = n.version
from sent n
where b.id = n.id and b.state in ('paid', 'refunded')
  and (n.version > b.paid_version or (
    n.version = b.paid_version
    and (b.region, b.bill_no, b.case_source_id, b.payer_id, b.title, b.total_fen, b.issued_at)
      = (n.region, n.bill_no, n.case_source_id, n.payer_id, n.title, n.total_fen, n.issued_at)
    and b.due_on is not distinct from n.due_on
    and n.items = (
      select jsonb_agg(jsonb_build_array(seq, code, name, payee_code, base_fen, rate, relief_fen,
                                         amount_fen, formula, legal_basis, note) order by seq)
      from bill_item i where i.bill_id = b.id and i.version = n.version)))
"""

_WITHDRAW = """
with known as (
    select id from bill where source = $1 and source_id = any($2::text[]) and state = 'payable'
    order by id for update
)
update bill set state = 'withdrawn', data_as_of = $3, row_digest = decode(repeat('00', 32), 'hex')
where id in (select id from known)
"""
# Not as it was sent any more: should the centre have the bill after all, a repair writes it anew.


async def forget_items(db: BaseDBAsyncClient, versions: Sequence[tuple[UUID, int]]) -> None:
    """Of unpaid bills (id, version) that are written anew."""
    await db.execute_query(
        _FORGET_ITEMS, [[bill_id for bill_id, _ in versions], [number for _, number in versions]]
    )


async def confirm_paid(
    db: BaseDBAsyncClient,
    bills: Sequence[tuple[UUID, FeeBillRow, UUID | str, bytes]],
    *,
    data_as_of: datetime,
) -> None:
    """Note of paid bills (id, row, payer, digest) that they are as sent, where they are.

    Compares amounts, words and items with what was paid; a version that came after the payment
    is noted as it was sent.
    """
    if bills:
        await db.execute_query(
            _CONFIRM_PAID,
            [msgspec.json.encode([_news(*bill) for bill in bills]).decode(), data_as_of],
        )


async def withdraw_bills(source: str, source_ids: Sequence[str], now: datetime) -> None:
    """The centre never issued these: nobody may pay them any more. Paid ones stay as they are."""
    await Tortoise.get_connection("default").execute_query(
        _WITHDRAW, [source, list(source_ids), now]
    )


def _news(bill_id: UUID, row: FeeBillRow, payer_id: UUID | str, digest: bytes) -> dict[str, object]:
    return {
        "id": bill_id,
        "version": row.version,
        "digest": digest.hex(),
        "region": row.region,
        "bill_no": row.bill_no,
        "case_source_id": row.case_source_id,
        "payer_id": payer_id,
        "title": row.title,
        "state": STATE_OF_ROW[row.state],
        "total_fen": row.total_fen,
        "issued_at": row.issued_at,
        "due_on": row.due_on,
        "items": [
            [
                item.seq, item.code, item.name, item.payee_code, item.base_fen, item.rate,
                item.relief_fen, item.amount_fen, item.formula, item.legal_basis, item.note,
            ]
            for item in sorted(row.items, key=lambda item: item.seq)
        ],
    }  # fmt: skip
