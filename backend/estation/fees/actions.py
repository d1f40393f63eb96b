"""Changes to bills; each joins the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
import structlog
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.rules import STATE_OF_ROW, BillState, Change, judge
from estation.outside.gate.rows import FeeBillRow
from estation.shared import ids

log = structlog.get_logger()

_LOCK = """
select id, source, source_id, bill_no, region, payer_id,
       coalesce(paid_version, version) as version, state, total_fen
from bill where id = any($1::uuid[]) order by id for update
"""

_SPLIT = """
select i.bill_id, i.payee_code, sum(i.amount_fen)::bigint as amount_fen
from bill_item i join bill b on b.id = i.bill_id and i.version = coalesce(b.paid_version, b.version)
where i.bill_id = any($1::uuid[]) and i.amount_fen > 0
group by i.bill_id, i.payee_code order by i.bill_id, i.payee_code
"""

_MARK_PAID = """
update bill b set state = 'paid', paid_at = t.paid_at, paid_version = t.version
from unnest($1::uuid[], $2::int[], $3::timestamptz[]) as t(id, version, paid_at)
where b.id = t.id and b.state = 'payable' and b.version = t.version
returning b.id
"""

_KNOWN = """
select b.source, b.source_id, b.version
from bill b join unnest($1::text[], $2::text[]) as t(source, source_id)
    on b.source = t.source and b.source_id = t.source_id
"""

_LOCK_KNOWN = """
select b.source, b.source_id, b.version, b.state
from bill b join unnest($1::text[], $2::text[]) as t(source, source_id)
    on b.source = t.source and b.source_id = t.source_id
order by b.id for update of b
"""
# By id, like `lock_bills`: a packet and a payment never wait for each other in a circle.

_PUT_BILLS = """
insert into bill as b (id, source, source_id, version, region, bill_no, case_source_id, payer_id,
                       title, state, total_fen, issued_at, due_on, data_as_of)
select id, source, source_id, version, region, bill_no, case_source_id, payer_id, title, state,
       total_fen, issued_at, due_on, $2::timestamptz
from jsonb_to_recordset($1::jsonb) as t(
    id uuid, source text, source_id text, version int, region text, bill_no text,
    case_source_id text, payer_id uuid, title text, state text, total_fen bigint,
    issued_at timestamptz, due_on date)
order by source, source_id
on conflict (source, source_id) do update set
    version = excluded.version, region = excluded.region, bill_no = excluded.bill_no,
    case_source_id = excluded.case_source_id, payer_id = excluded.payer_id,
    title = excluded.title, total_fen = excluded.total_fen, issued_at = excluded.issued_at,
    due_on = excluded.due_on, data_as_of = excluded.data_as_of, state = excluded.state,
    paid_at = null, paid_version = null
where b.version < excluded.version and b.state <> 'paid'
"""

# Of a refunded bill its payment is past: the newer version is due anew.

_NOTE_AFTER_PAYMENT = """
with news as (
    select t.*, b.bill_no, b.total_fen as paid_fen, b.paid_version
    from jsonb_to_recordset($1::jsonb)
        as t(id uuid, source text, source_id text, version int, state text, total_fen bigint)
    join bill b on b.source = t.source and b.source_id = t.source_id
), seen as (
    update bill b set version = n.version from news n
    where b.source = n.source and b.source_id = n.source_id
    returning b.id as bill_id, n.id as message_id
)
insert into outbox_message (id, topic, body, created_at, not_before, tries, last_error)
select n.id, $3::text,
       jsonb_build_object('bill_id', s.bill_id, 'bill_no', n.bill_no, 'total_fen', n.paid_fen,
                          'paid_version', n.paid_version, 'version', n.version, 'state', n.state,
                          'new_total_fen', n.total_fen),
       $2::timestamptz, $2::timestamptz, 0, ''
from news n join seen s on s.message_id = n.id
"""
# The bill notes the version, so that the same news again tells nobody a second time.

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

CHANGED_AFTER_PAYMENT = "bill_changed_after_payment"
"""Outbox topic: a bill paid here was revised or withdrawn by the centre afterwards."""


_STATES = {state.value: state for state in BillState}


@dataclass(frozen=True, slots=True)
class LockedBill:
    """A bill that nobody else can change until the caller's transaction ends.

    `version` is the newest one, of a paid bill the one that was paid. `payee_split`: what each
    payee gets of that version; the sum is `total_fen`.
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


async def lock_bills(bill_ids: list[UUID], *, with_split: bool = True) -> list[LockedBill]:
    """Lock these bills in the order of their ids, so that two callers never wait for each other.

    Missing ids are simply not in the answer. `with_split=False` leaves `payee_split` empty, for
    callers that know the shares already: one statement less.
    """
    db = Tortoise.get_connection("default")
    _, rows = await db.execute_query(_LOCK, [bill_ids])
    splits: dict[UUID, dict[str, int]] = {}
    for row in await db.execute_query_dict(_SPLIT, [bill_ids]) if with_split else ():
        splits.setdefault(row["bill_id"], {})[row["payee_code"]] = row["amount_fen"]
    return [
        LockedBill(
            row["id"],
            row["source"],
            row["source_id"],
            row["bill_no"],
            row["region"],
            row["payer_id"],
            row["version"],
            _STATES[row["state"]],
            row["total_fen"],
            splits.get(row["id"], {}),
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


async def mark_refunded(bills: Sequence[tuple[UUID, int]]) -> None:
    """Paid -> refunded for locked bills that were paid in exactly these versions.

    A bill that is not paid in that version any more stays as it is: it was issued anew, and
    what came back belongs to its earlier life.
    """
    await Tortoise.get_connection("default").execute_query_dict(
        """update bill b set state = 'refunded' from unnest($1::uuid[], $2::int[]) as t(id, version)
           where b.id = t.id and b.state = 'paid' and b.paid_version = t.version""",
        [[bill_id for bill_id, _ in bills], [version for _, version in bills]],
    )


@dataclass(frozen=True, slots=True)
class IncomingBill:
    """A bill as it came through the gate, its payer found among the persons."""

    row: FeeBillRow
    payer_id: UUID


BillKey = tuple[str, str]
"""(source, source_id)"""


async def merge_bills(
    db: BaseDBAsyncClient, bills: Sequence[IncomingBill], *, data_as_of: datetime
) -> Mapping[Change, int]:
    """Apply replicated bills: newer versions win, repeats and older ones change nothing.

    A handful of statements however many bills; how many bills met which fate. Every version's
    items are kept. News about a bill that is paid here changes neither its state nor its
    amount: it becomes an outbox message CHANGED_AFTER_PAYMENT.
    """
    newest = {_key(bill): bill for bill in sorted(bills, key=_version)}
    known = await _known(db, list(newest))
    newer = [key for key, bill in newest.items() if _version(bill) > known.get(key, 0)]
    states = await _lock_known(db, [key for key in newer if key in known])
    fates: dict[Change, list[IncomingBill]] = {change: [] for change in Change}
    for key, bill in newest.items():
        fate = judge(version=_version(bill), ours=known.get(key), state=states.get(key))
        fates[fate].append(bill)
    await _put(db, fates[Change.NEW] + fates[Change.NEWER], data_as_of)
    await _note_after_payment(db, fates[Change.AFTER_PAYMENT], data_as_of)
    await _put_items(db, [b for b in bills if known.get(_key(b)) != _version(b)], data_as_of)
    return {change: len(met) for change, met in fates.items()}


async def _known(db: BaseDBAsyncClient, keys: Sequence[BillKey]) -> dict[BillKey, int]:
    """The versions we have. Only the importer, which is one per source, changes them."""
    rows = await db.execute_query_dict(_KNOWN, _columns(keys))
    return {(row["source"], row["source_id"]): row["version"] for row in rows}


async def _lock_known(db: BaseDBAsyncClient, keys: Sequence[BillKey]) -> dict[BillKey, BillState]:
    if not keys:
        return {}
    rows = await db.execute_query_dict(_LOCK_KNOWN, _columns(keys))
    return {(row["source"], row["source_id"]): BillState(row["state"]) for row in rows}


async def _put(db: BaseDBAsyncClient, bills: Sequence[IncomingBill], data_as_of: datetime) -> None:
    if bills:
        await db.execute_query(_PUT_BILLS, [_heads(bills, data_as_of), data_as_of])


async def _note_after_payment(
    db: BaseDBAsyncClient, bills: Sequence[IncomingBill], data_as_of: datetime
) -> None:
    if bills:
        log.warning("bills_changed_after_payment", bills=len(bills))
        await db.execute_query(
            _NOTE_AFTER_PAYMENT, [_heads(bills, data_as_of), data_as_of, CHANGED_AFTER_PAYMENT]
        )


async def _put_items(
    db: BaseDBAsyncClient, bills: Sequence[IncomingBill], data_as_of: datetime
) -> None:
    """The items of every version given, each version once."""
    rows = {(_key(bill), _version(bill)): bill.row for bill in bills}.values()
    row_ids = iter(ids.row_ids(data_as_of, sum(len(row.items) for row in rows)))
    items = [
        {
            "id": next(row_ids),
            "source": row.source,
            "source_id": row.source_id,
            "version": row.version,
            **msgspec.structs.asdict(item),
        }
        for row in rows
        for item in row.items
    ]
    if items:
        await db.execute_query(_PUT_ITEMS, [_json(items)])


def _columns(keys: Sequence[BillKey]) -> list[list[str]]:
    return [[source for source, _ in keys], [source_id for _, source_id in keys]]


def _key(bill: IncomingBill) -> BillKey:
    return bill.row.source, bill.row.source_id


def _version(bill: IncomingBill) -> int:
    return bill.row.version


def _json(rows: Sequence[dict[str, object]]) -> str:
    return msgspec.json.encode(rows).decode()


def _heads(bills: Sequence[IncomingBill], now: datetime) -> str:
    """Everything but the items, as JSON."""
    return _json(
        [
            {
                "id": row_id,
                "source": bill.row.source,
                "source_id": bill.row.source_id,
                "version": bill.row.version,
                "region": bill.row.region,
                "bill_no": bill.row.bill_no,
                "case_source_id": bill.row.case_source_id,
                "payer_id": bill.payer_id,
                "title": bill.row.title,
                "state": STATE_OF_ROW[bill.row.state],
                "total_fen": bill.row.total_fen,
                "issued_at": bill.row.issued_at,
                "due_on": bill.row.due_on,
            }
            for row_id, bill in zip(ids.row_ids(now, len(bills)), bills, strict=True)
        ]
    )
