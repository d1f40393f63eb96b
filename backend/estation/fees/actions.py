"""Changes to bills; each joins the caller's transaction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.rules import BillState
from estation.shared import ids

_LOCK = """
select id, source, source_id, bill_no, region, payer_id, version, state, total_fen
from bill where id = any($1::uuid[]) order by id for update
"""

_SPLIT = """
select i.bill_id, i.payee_code, sum(i.amount_fen)::bigint as amount_fen
from bill_item i join bill b on b.id = i.bill_id and b.version = i.version
where i.bill_id = any($1::uuid[]) and i.amount_fen > 0
group by i.bill_id, i.payee_code order by i.bill_id, i.payee_code
"""

_MARK_PAID = """
update bill b set state = 'paid', paid_at = t.paid_at, paid_version = t.version
from unnest($1::uuid[], $2::int[], $3::timestamptz[]) as t(id, version, paid_at)
where b.id = t.id and b.state = 'payable' and b.version = t.version
returning b.id
"""

_MERGE_BILLS = """
with news as (
    select distinct on (source, source_id) * from jsonb_to_recordset($1::jsonb) as t(
        id uuid, source text, source_id text, version int, region text, bill_no text,
        case_source_id text, payer_id uuid, title text, state text, total_fen bigint,
        issued_at timestamptz, due_on date)
    order by source, source_id, version desc
)
insert into bill as b (id, source, source_id, version, region, bill_no, case_source_id, payer_id,
                       title, state, total_fen, issued_at, due_on, data_as_of)
select id, source, source_id, version, region, bill_no, case_source_id, payer_id, title, state,
       total_fen, issued_at, due_on, $2::timestamptz
from news order by source, source_id
on conflict (source, source_id) do update set
    version = excluded.version, region = excluded.region, bill_no = excluded.bill_no,
    case_source_id = excluded.case_source_id, payer_id = excluded.payer_id,
    title = excluded.title, total_fen = excluded.total_fen, issued_at = excluded.issued_at,
    due_on = excluded.due_on, data_as_of = excluded.data_as_of,
    state = case when b.state = 'paid' then b.state else excluded.state end
where b.version < excluded.version and b.state <> 'paid'
"""
# A paid bill keeps the version that was paid; newer news of it is told upwards, not applied.

_PUT_ITEMS = """
insert into bill_item (id, bill_id, version, seq, code, name, payee_code, base_fen, rate,
                       relief_fen, amount_fen, formula, legal_basis, note)
select t.id, b.id, t.version, t.seq, t.code, t.name, t.payee_code, t.base_fen, t.rate,
       t.relief_fen, t.amount_fen, t.formula, t.legal_basis, t.note
from jsonb_to_recordset($1::jsonb) as t(
    id uuid, source text, source_id text, version int, seq int, code text, name text,
    payee_code text, base_fen bigint, rate text, relief_fen bigint, amount_fen bigint,
    formula text, legal_basis text, note text)
join bill b on b.source = t.source and b.source_id = t.source_id
on conflict (bill_id, version, seq) do nothing
"""

_CHANGED_AFTER_PAYMENT = """
insert into outbox_message (id, topic, body, created_at, not_before, tries, last_error)
select gen_random_uuid(), 'bill_changed_after_payment',
       jsonb_build_object('bill_id', b.id, 'bill_no', b.bill_no, 'total_fen', b.total_fen,
                          'paid_version', b.paid_version, 'version', t.version, 'state', t.state,
                          'new_total_fen', t.total_fen),
       $2::timestamptz, $2::timestamptz, 0, ''
from jsonb_to_recordset($1::jsonb)
    as t(source text, source_id text, version int, state text, total_fen bigint)
join bill b on b.source = t.source and b.source_id = t.source_id
where b.state = 'paid' and t.version > b.paid_version
"""


@dataclass(frozen=True, slots=True)
class LockedBill:
    """A bill that nobody else can change until the caller's transaction ends.

    `payee_split`: what each payee gets of the newest version; the sum is `total_fen`.
    """

    id: UUID
    source: str
    source_id: str
    bill_no: str
    region: str
    payer_id: UUID
    version: int
    state: BillState
    total_fen: int
    payee_split: dict[str, int]


@dataclass(frozen=True, slots=True)
class PaidMark:
    """This version of this bill was paid at the channel at `paid_at`."""

    bill_id: UUID
    version: int
    paid_at: datetime


async def lock_bills(bill_ids: list[UUID]) -> list[LockedBill]:
    """Lock these bills in the order of their ids, so that two callers never wait for each other.

    Missing ids are simply not in the answer.
    """
    db = Tortoise.get_connection("default")
    rows = await db.execute_query_dict(_LOCK, [bill_ids])
    splits: dict[UUID, dict[str, int]] = {}
    for row in await db.execute_query_dict(_SPLIT, [bill_ids]):
        splits.setdefault(row["bill_id"], {})[row["payee_code"]] = row["amount_fen"]
    return [
        LockedBill(
            **{**row, "state": BillState(row["state"])}, payee_split=splits.get(row["id"], {})
        )
        for row in rows
    ]


async def mark_paid(marks: Sequence[PaidMark]) -> None:
    """Payable -> paid for locked bills of exactly these versions.

    Raises RuntimeError when one of them was not payable: the caller judged without the lock.
    """
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _MARK_PAID,
        [
            [mark.bill_id for mark in marks],
            [mark.version for mark in marks],
            [mark.paid_at for mark in marks],
        ],
    )
    if len(rows) != len({mark.bill_id for mark in marks}):
        raise RuntimeError("a bill was marked paid that was not payable in this version")


@dataclass(frozen=True, slots=True)
class IncomingItem:
    """An item as it came through the gate."""

    seq: int
    code: str
    name: str
    payee_code: str
    base_fen: int | None
    rate: str
    relief_fen: int
    amount_fen: int
    formula: str
    legal_basis: str
    note: str


@dataclass(frozen=True, slots=True)
class IncomingBill:
    """A bill as it came through the gate, its payer found among the persons."""

    source: str
    source_id: str
    version: int
    region: str
    bill_no: str
    case_source_id: str
    payer_id: UUID
    title: str
    state: BillState
    total_fen: int
    issued_at: datetime
    due_on: str | None
    items: Sequence[IncomingItem]


async def merge_bills(
    db: BaseDBAsyncClient, bills: Sequence[IncomingBill], *, data_as_of: datetime, now: datetime
) -> None:
    """Apply replicated bills: newer versions win, repeats and older ones change nothing.

    Four statements however many bills. Every version's items are kept. News about a bill that is
    paid here becomes an outbox message `bill_changed_after_payment`.
    """
    heads = msgspec.json.encode([_head(bill, now) for bill in bills]).decode()
    items = msgspec.json.encode([item for bill in bills for item in _items(bill, now)]).decode()
    await db.execute_query_dict(_CHANGED_AFTER_PAYMENT, [heads, now])
    await db.execute_query_dict(_MERGE_BILLS, [heads, data_as_of])
    await db.execute_query_dict(_PUT_ITEMS, [items])


def _head(bill: IncomingBill, now: datetime) -> dict[str, object]:
    return {
        "id": ids.row_id(now),
        "source": bill.source,
        "source_id": bill.source_id,
        "version": bill.version,
        "region": bill.region,
        "bill_no": bill.bill_no,
        "case_source_id": bill.case_source_id,
        "payer_id": bill.payer_id,
        "title": bill.title,
        "state": bill.state,
        "total_fen": bill.total_fen,
        "issued_at": bill.issued_at,
        "due_on": bill.due_on,
    }


def _items(bill: IncomingBill, now: datetime) -> list[dict[str, object]]:
    return [
        {
            "id": ids.row_id(now),
            "source": bill.source,
            "source_id": bill.source_id,
            "version": bill.version,
            **asdict(item),
        }
        for item in bill.items
    ]
