"""Changes to bills; each joins the caller's transaction."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.repairing import confirm_paid, forget_items
from estation.fees.rules import STATE_OF_ROW, BillState, Change, judge
from estation.outside.gate import replicas
from estation.outside.gate.rows import AsSent, FeeBillRow
from estation.shared import ids
from estation.shared.bulk import copy_rows, staged
from estation.shared.columns import array_text, moment_text
from estation.shared.crypto import Vault
from estation.shared.resealing import SealedTable
from estation.shared.together import Part

log = structlog.get_logger()

SEALED: Final = (SealedTable("bill_as_sent", ("body_sealed",)),)
"""For `shared.resealing`."""

HOLDING: Final = """
held as (
    select id, source, source_id, bill_no, region, payer_id,
           coalesce(paid_version, version) as version, state, total_fen
    from bill where id = any(array(select bill_id from meant)) order by id for update
)"""
"""Locking as part of a statement that has a step `meant` with the ids in `bill_id`. Whoever waits
for a row sees it as it is then, not as it was when the statement began."""

_LOCK = f"""
with meant as (select unnest($1::text::uuid[]) as bill_id), {HOLDING}
select * from held
"""  # noqa: S608 - constants

_SPLIT = """
select i.bill_id, i.payee_code, sum(i.amount_fen)::bigint as amount_fen
from bill_item i join bill b on b.id = i.bill_id and i.version = coalesce(b.paid_version, b.version)
where i.bill_id = any($1::uuid[]) and i.amount_fen > 0
group by i.bill_id, i.payee_code order by i.bill_id, i.payee_code
"""

_MARKED = """
marked as (
    update bill b set state = 'paid', paid_at = t.paid_at, paid_version = t.version
    from unnest($1::text::uuid[], $2::text::int[], $3::text::timestamptz[])
        as t(id, version, paid_at)
    where b.id = t.id and b.id = any($1::text::uuid[])
      and b.state = 'payable' and b.version = t.version
    returning b.id
)"""
# `= any` says nothing new; it lets PostgreSQL walk the index once for the whole batch.

MARKING: Final = Part(_MARKED, "(select count(*) from marked)", 3)
"""Marking paid as part of a statement: `marking_arguments` in, the answer to `check_marked`."""

_MARK_REFUNDED = """
update bill b set state = 'refunded' from unnest($1::uuid[], $2::int[]) as t(id, version)
where b.id = t.id and b.state = 'paid' and b.paid_version = t.version
returning b.id
"""

_WITH_NEWS = """
update bill b set row_digest = null from bill_noted n
where b.id = any($1::uuid[]) and b.version > b.paid_version
  and n.bill_id = b.id and n.version = b.version
returning b.id
"""
# A digest that stands while the content changes is taken for a change past the gate and voided;
# the one that comes with the content is not.

_BRING_BACK = """
update bill b set region = n.region, bill_no = n.bill_no, case_source_id = n.case_source_id,
    payer_id = n.payer_id, title = n.title, state = n.state, total_fen = n.total_fen,
    issued_at = n.issued_at, due_on = n.due_on, data_as_of = n.data_as_of,
    row_digest = n.row_digest, paid_at = null, paid_version = null
from bill_noted n
where b.id = any($1::uuid[]) and n.bill_id = b.id and n.version = b.version
"""

_KNOWN = """
select b.id, b.source, b.source_id, b.version
from bill b join unnest($1::text::text[], $2::text::text[]) as t(source, source_id)
    on b.source = t.source and b.source_id = t.source_id
"""

_LOCK_KNOWN = """
select source, source_id, state from bill where id = any($1::uuid[]) order by id for update
"""
# By id, like `lock_bills`: a packet and a payment never wait for each other in a circle.

_HEAD = (
    "id", "source", "source_id", "version", "region", "bill_no", "case_source_id", "payer_id",
    "title", "state", "total_fen", "issued_at", "due_on", "data_as_of", "row_digest",
)  # fmt: skip
_ITEM = (
    "id", "bill_id", "version", "seq", "code", "name", "payee_code", "base_fen", "rate",
    "relief_fen", "amount_fen", "formula", "legal_basis", "note",
)  # fmt: skip

_MERGE_BILLS = """
merge into bill b using stage_bill s on b.id = s.id
when matched and (b.version < s.version or $1::boolean) and b.state <> 'paid' then update set
    version = s.version, region = s.region, bill_no = s.bill_no,
    case_source_id = s.case_source_id, payer_id = s.payer_id, title = s.title,
    total_fen = s.total_fen, issued_at = s.issued_at, due_on = s.due_on,
    data_as_of = s.data_as_of, state = s.state, row_digest = s.row_digest,
    paid_at = null, paid_version = null
"""
# The bills are locked already, by id; those of them that are new never come here. Of a refunded
# bill its payment is past: the newer version is due anew.

_MERGE_ITEMS = """
insert into bill_item ({columns}) select {columns} from stage_bill_item
on conflict (bill_id, version, seq) do nothing
""".format(columns=", ".join(_ITEM))  # noqa: S608 - names of our own

_AS_SENT = ("id", "source", "source_id", "version", "body_sealed", "data_as_of")
_KEEP_AS_SENT = """
insert into bill_as_sent (id, source, source_id, version, body_sealed, data_as_of)
select id, source, source_id, version, body_sealed, data_as_of from stage_bill_as_sent
on conflict (source, source_id, version) do nothing
"""

_NOTE_AFTER_PAYMENT = """
with news as (
    select t.*, b.bill_no, b.total_fen as paid_fen, b.paid_version
    from jsonb_to_recordset($1::jsonb)
        as t(id uuid, source text, source_id text, version int, region text, new_bill_no text,
             case_source_id text, payer_id uuid, title text, state text, total_fen bigint,
             issued_at timestamptz, due_on date, digest text)
    join bill b on b.source = t.source and b.source_id = t.source_id
), seen as (
    update bill b set version = n.version, row_digest = decode(n.digest, 'hex') from news n
    where b.source = n.source and b.source_id = n.source_id
    returning b.id as bill_id, n.id as message_id
), noted as (
    insert into bill_noted (id, bill_id, version, region, bill_no, case_source_id, payer_id,
                            title, state, total_fen, issued_at, due_on, data_as_of, row_digest)
    select n.id, s.bill_id, n.version, n.region, n.new_bill_no, n.case_source_id, n.payer_id,
           n.title, n.state, n.total_fen, n.issued_at, n.due_on, $2::timestamptz,
           decode(n.digest, 'hex')
    from news n join seen s on s.message_id = n.id
    on conflict (bill_id, version) do nothing
)
insert into outbox_message (id, topic, body, created_at, not_before, tries, last_error)
select n.id, $3::text,
       jsonb_build_object('bill_id', s.bill_id, 'bill_no', n.bill_no, 'total_fen', n.paid_fen,
                          'paid_version', n.paid_version, 'version', n.version, 'state', n.state,
                          'new_total_fen', n.total_fen),
       $2::timestamptz, $2::timestamptz, 0, ''
from news n join seen s on s.message_id = n.id
"""
# The bill notes the version, so that the same news again tells nobody a second time. Its head is
# kept whole beside the bill, whose own columns go on saying what was paid.

CHANGED_AFTER_PAYMENT = "bill_changed_after_payment"
"""Outbox topic: a bill paid here was revised or withdrawn by the centre afterwards."""


_STATES = {state.value: state for state in BillState}


class LockedBill(Struct, frozen=True):
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


class PaidMark(Struct, frozen=True):
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
    _, rows = await db.execute_query(_LOCK, [array_text(list(map(str, bill_ids)))])
    splits: dict[UUID, dict[str, int]] = {}
    for row in await db.execute_query_dict(_SPLIT, [bill_ids]) if with_split else ():
        splits.setdefault(row["bill_id"], {})[row["payee_code"]] = row["amount_fen"]
    return [held_bill(row, splits.get(row["id"], {})) for row in rows]


def held_bill(row: Mapping[str, Any], payee_split: dict[str, int]) -> LockedBill:
    """From a row of HOLDING."""
    return LockedBill(
        row["id"],
        row["source"],
        row["source_id"],
        row["bill_no"],
        row["region"],
        row["payer_id"],
        row["version"],
        _STATES[row["state"]],
        row["total_fen"],
        payee_split,
    )


def marking_arguments(marks: Sequence[PaidMark]) -> list[str]:
    """What goes in where MARKING is part of a statement: payable -> paid for locked bills of
    exactly these versions."""
    return [
        array_text([str(mark.bill_id) for mark in marks]),
        array_text([str(mark.version) for mark in marks]),
        array_text([moment_text(mark.paid_at) for mark in marks]),
    ]


def check_marked(marks: Sequence[PaidMark], marked: int) -> None:
    """Raises RuntimeError when one of them was not payable: the caller judged without the lock,
    and nothing of its transaction may be committed."""
    if marked != len(marks) and marked != len({mark.bill_id for mark in marks}):
        raise RuntimeError("a bill was marked paid that was not payable in this version")


async def mark_refunded(bills: Sequence[tuple[UUID, int]]) -> None:
    """Paid -> refunded for locked bills that were paid in exactly these versions.

    The payment is past: where the centre revised or withdrew the bill since, the newest version
    noted takes its place at once, payable or withdrawn. A bill that is not paid in that version
    any more stays as it is: it was issued anew, and what came back belongs to its earlier life.
    """
    db = Tortoise.get_connection("default")
    done = await db.execute_query_dict(
        _MARK_REFUNDED, [[bill_id for bill_id, _ in bills], [version for _, version in bills]]
    )
    changed = await db.execute_query_dict(_WITH_NEWS, [[row["id"] for row in done]]) if done else []
    if changed:
        await db.execute_query(_BRING_BACK, [[row["id"] for row in changed]])
        log.info("refunded_bills_brought_back", bills=len(changed))


class IncomingBill(Struct, frozen=True, gc=False):
    """A bill as it came through the gate, its payer found among the persons (an id or its text).

    `digest` is that of the row as it came, None when it came from nowhere.
    """

    row: FeeBillRow
    payer_id: UUID | str
    digest: bytes | None = None


BillKey = tuple[str, str]
"""(source, source_id)"""


Known = Mapping[BillKey, tuple[UUID, int]]
"""The bills we had before: row id and version."""


async def known_bills(db: BaseDBAsyncClient, rows: Sequence[FeeBillRow]) -> Known:
    """Only the importer, which is one per source, adds bills and changes their versions."""
    keys = {(row.source, row.source_id) for row in rows}
    _, found = await db.execute_query(
        _KNOWN,
        [
            array_text([source for source, _ in keys]),
            array_text([source_id for _, source_id in keys]),
        ],
    )
    return {(row["source"], row["source_id"]): (row["id"], row["version"]) for row in found}


def is_known(row: FeeBillRow, known: Known) -> bool:
    """Whether we have exactly this version: neither it nor its payer is touched then."""
    ours = known.get((row.source, row.source_id))
    return ours is not None and ours[1] == row.version


async def merge_bills(
    db: BaseDBAsyncClient,
    bills: Sequence[IncomingBill],
    *,
    data_as_of: datetime,
    repairs: bool = False,
    known: Known | None = None,
) -> Mapping[Change, int]:
    """Apply replicated bills: newer versions win, repeats and older ones change nothing.

    A handful of statements however many bills; how many bills met which fate. Every version's
    items are kept. News about a bill that is paid here changes neither its state nor its
    amount: it becomes an outbox message CHANGED_AFTER_PAYMENT, and is noted until all of the
    payment was given back (`mark_refunded`). With `repairs` an unpaid bill becomes what was sent
    whatever is here. `known`: `known_bills` of the same
    transaction, when asked already.
    """
    if known is None:
        known = await known_bills(db, [bill.row for bill in bills])
    newest = {_key(bill): bill for bill in sorted(bills, key=_version)}
    await replicas.write_as_sent(db, "fee_bill", newest)
    newer = [
        known[key][0]
        for key, bill in newest.items()
        if key in known and (repairs or _version(bill) > known[key][1])
    ]
    states = await _lock_known(db, newer)
    fates = _fates(newest, known, states, repairs=repairs)
    if repairs:
        await _repair(db, fates, known, data_as_of)
    new = fates[Change.NEW]
    bill_ids: dict[BillKey, UUID | str] = {
        **{key: bill_id for key, (bill_id, _) in known.items()},
        **dict(zip(map(_key, new), ids.row_id_texts(data_as_of, len(new)), strict=True)),
    }
    await copy_rows(db, "bill", _HEAD, _heads(new, bill_ids, data_as_of))
    await _put_newer(db, fates[Change.NEWER], bill_ids, data_as_of, repairs=repairs)
    await _note_after_payment(db, fates[Change.AFTER_PAYMENT], data_as_of)
    anew = {_key(bill) for bill in fates[Change.NEWER]} if repairs else set()
    await _put_items(db, bills, known, bill_ids, data_as_of, anew=anew)
    return {change: len(met) for change, met in fates.items()}


def _fates(
    newest: Mapping[BillKey, IncomingBill],
    known: Known,
    states: Mapping[BillKey, BillState],
    *,
    repairs: bool,
) -> dict[Change, list[IncomingBill]]:
    fates: dict[Change, list[IncomingBill]] = {change: [] for change in Change}
    if not known:  # most packets bring nothing but new bills
        fates[Change.NEW] = list(newest.values())
        return fates
    for key, bill in newest.items():
        ours = known[key][1] if key in known else None
        # Written anew as if it were newer, unless it was paid.
        is_due = repairs and states.get(key) in (BillState.PAYABLE, BillState.WITHDRAWN)
        fate = judge(version=_version(bill), ours=0 if is_due else ours, state=states.get(key))
        fates[fate].append(bill)
    return fates


async def keep_as_sent(
    db: BaseDBAsyncClient,
    bills: Sequence[tuple[FeeBillRow, AsSent]],
    *,
    vault: Vault,
    data_as_of: datetime,
) -> None:
    """Keep the whole row, sealed, of every version that says more than we know. Once each."""
    more = [(row, sent) for row, sent in bills if sent.says_more]
    if not more:
        return
    row_ids = ids.row_id_texts(data_as_of, len(more))
    rows = (
        (
            row_id,
            row.source,
            row.source_id,
            row.version,
            vault.seal(sent.body.decode()),
            data_as_of,
        )
        for row_id, (row, sent) in zip(row_ids, more, strict=True)
    )
    async with staged(db, "bill_as_sent", _AS_SENT, rows):
        await db.execute_query(_KEEP_AS_SENT)


async def _lock_known(db: BaseDBAsyncClient, bill_ids: Sequence[UUID]) -> dict[BillKey, BillState]:
    if not bill_ids:
        return {}
    rows = await db.execute_query_dict(_LOCK_KNOWN, [list(bill_ids)])
    return {(row["source"], row["source_id"]): BillState(row["state"]) for row in rows}


async def _put_newer(
    db: BaseDBAsyncClient,
    bills: Sequence[IncomingBill],
    bill_ids: Mapping[BillKey, UUID | str],
    data_as_of: datetime,
    *,
    repairs: bool,
) -> None:
    if bills:
        async with staged(db, "bill", _HEAD, _heads(bills, bill_ids, data_as_of)):
            await db.execute_query(_MERGE_BILLS, [repairs])


async def _repair(
    db: BaseDBAsyncClient,
    fates: Mapping[Change, Sequence[IncomingBill]],
    known: Known,
    data_as_of: datetime,
) -> None:
    """Items first: changing them past the gate voids the bill's digest, which is written then."""
    await forget_items(db, [(known[_key(bill)][0], _version(bill)) for bill in fates[Change.NEWER]])
    await confirm_paid(
        db,
        [
            (known[_key(bill)][0], bill.row, bill.payer_id, bill.digest)
            for bill in fates[Change.REPEATED]
            if bill.digest is not None
        ],
        data_as_of=data_as_of,
    )


async def _note_after_payment(
    db: BaseDBAsyncClient, bills: Sequence[IncomingBill], data_as_of: datetime
) -> None:
    if bills:
        log.warning("bills_changed_after_payment", bills=len(bills))
        await db.execute_query(
            _NOTE_AFTER_PAYMENT, [_news(bills, data_as_of), data_as_of, CHANGED_AFTER_PAYMENT]
        )


async def _put_items(
    db: BaseDBAsyncClient,
    bills: Sequence[IncomingBill],
    known: Known,
    bill_ids: Mapping[BillKey, UUID | str],
    data_as_of: datetime,
    *,
    anew: Collection[BillKey],
) -> None:
    """The items of every version given, each version once, and those of bills written anew.

    A bill that was not known has no items yet: they go straight into the table. Of a known one
    an older version may have come before.
    """
    versions = {(_key(bill), _version(bill)): bill.row for bill in bills}
    new: list[FeeBillRow] = []
    more: list[FeeBillRow] = []
    for (key, version), row in versions.items():
        if key not in known:
            new.append(row)
        elif known[key][1] != version or key in anew:
            more.append(row)
    await copy_rows(db, "bill_item", _ITEM, _items(new, bill_ids, data_as_of))
    if more:
        async with staged(db, "bill_item", _ITEM, _items(more, bill_ids, data_as_of)):
            await db.execute_query(_MERGE_ITEMS)


def _key(bill: IncomingBill) -> BillKey:
    return bill.row.source, bill.row.source_id


def _version(bill: IncomingBill) -> int:
    return bill.row.version


def _heads(
    bills: Sequence[IncomingBill], bill_ids: Mapping[BillKey, UUID | str], data_as_of: datetime
) -> Iterator[tuple[object, ...]]:
    """The columns `_HEAD`."""
    for bill in bills:
        row = bill.row
        yield (
            bill_ids[row.source, row.source_id],
            row.source,
            row.source_id,
            row.version,
            row.region,
            row.bill_no,
            row.case_source_id,
            bill.payer_id,
            row.title,
            STATE_OF_ROW[row.state].value,
            row.total_fen,
            row.issued_at,
            row.due_on,
            data_as_of,
            bill.digest,
        )


def _items(
    rows: Sequence[FeeBillRow], bill_ids: Mapping[BillKey, UUID | str], now: datetime
) -> Iterator[tuple[object, ...]]:
    """The columns `_ITEM`."""
    row_ids = iter(ids.row_id_texts(now, sum(len(row.items) for row in rows)))
    for row in rows:
        bill_id = bill_ids[row.source, row.source_id]
        for item in row.items:
            yield (next(row_ids), bill_id, row.version, *_values(item))


_values = attrgetter(*_ITEM[3:])


def _news(bills: Sequence[IncomingBill], now: datetime) -> str:
    """What came about bills that are paid already, as JSON."""
    return msgspec.json.encode(
        [
            {
                "id": row_id,
                "source": bill.row.source,
                "source_id": bill.row.source_id,
                "version": bill.row.version,
                "region": bill.row.region,
                "new_bill_no": bill.row.bill_no,
                "case_source_id": bill.row.case_source_id,
                "payer_id": bill.payer_id,
                "title": bill.row.title,
                "state": STATE_OF_ROW[bill.row.state],
                "total_fen": bill.row.total_fen,
                "issued_at": bill.row.issued_at,
                "due_on": bill.row.due_on,
                "digest": bill.digest.hex() if bill.digest else None,
            }
            for row_id, bill in zip(ids.row_ids(now, len(bills)), bills, strict=True)
        ]
    ).decode()
