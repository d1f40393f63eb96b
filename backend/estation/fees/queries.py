"""What can be asked about bills; every answer is a plain value."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise

from estation.fees.errors import BillNotFound
from estation.fees.rules import BillState

MOST_BILLS = 200
"""Nobody has more; a list is never unbounded."""


@dataclass(frozen=True, slots=True)
class ItemView:
    """One tax or fee of the newest version; `base_fen` is None where nothing is multiplied."""

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
class BillView:
    """A bill as its payer sees it; `items` is empty in lists."""

    id: UUID
    source: str
    bill_no: str
    title: str
    version: int
    state: BillState
    total_fen: int
    region: str
    case_source_id: str
    issued_at: datetime
    due_on: date | None
    paid_at: datetime | None
    data_as_of: datetime
    items: tuple[ItemView, ...] = ()


_BILLS = """
select id, source, bill_no, title, coalesce(paid_version, version) as version, state, total_fen,
       region, case_source_id, issued_at, due_on, paid_at, data_as_of
from bill where payer_id = $1
"""


async def bills_of(person_id: UUID) -> list[BillView]:
    """A payer's bills, newest first, without items."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"{_BILLS} order by issued_at desc, id limit {MOST_BILLS}", [person_id]
    )
    return [_view(row, ()) for row in rows]


async def bill_of(person_id: UUID, bill_id: UUID) -> BillView:
    """One bill with the items of its version (of the paid version once paid).

    Raises BillNotFound, also for other people's bills.
    """
    db = Tortoise.get_connection("default")
    rows = await db.execute_query_dict(f"{_BILLS} and id = $2", [person_id, bill_id])
    if not rows:
        raise BillNotFound
    return _view(rows[0], await items_of(bill_id, rows[0]["version"]))


async def items_of(bill_id: UUID, version: int) -> tuple[ItemView, ...]:
    """The items of any version there was. Whoever asks knows that the viewer may see them."""
    items = await Tortoise.get_connection("default").execute_query_dict(
        """select seq, code, name, payee_code, base_fen, rate, relief_fen, amount_fen, formula,
                  legal_basis, note
           from bill_item where bill_id = $1 and version = $2 order by seq""",
        [bill_id, version],
    )
    return tuple(ItemView(**item) for item in items)


@dataclass(frozen=True, slots=True)
class NumberedBill:
    """Whose bill a number means, and where it comes from; centres may number alike."""

    id: UUID
    payer_id: UUID
    bill_no: str
    source: str
    source_id: str


async def bills_numbered(bill_no: str) -> list[NumberedBill]:
    """The bills that carry this number, a few at most."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select id, payer_id, bill_no, source, source_id from bill
           where bill_no = $1 order by source, source_id limit 20""",
        [bill_no],
    )
    return [NumberedBill(**row) for row in rows]


async def numbered_bill(bill_id: UUID) -> NumberedBill | None:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select id, payer_id, bill_no, source, source_id from bill where id = $1", [bill_id]
    )
    return NumberedBill(**rows[0]) if rows else None


async def sources_of(bill_ids: Sequence[UUID]) -> set[str]:
    """The centres that issued these bills."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select distinct source from bill where id = any($1::uuid[])", [list(bill_ids)]
    )
    return {row["source"] for row in rows}


@dataclass(frozen=True, slots=True)
class NotedView:
    """What the centre wants of a bill that is paid here: once all was given back this is due."""

    state: BillState
    total_fen: int
    is_another_payers: bool


async def noted_of(bill_id: UUID) -> NotedView | None:
    """The newest change of a paid bill; None when there is none, or the bill is not paid."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select n.state, n.total_fen, n.payer_id <> b.payer_id as is_another_payers
           from bill b join bill_noted n on n.bill_id = b.id and n.version = b.version
           where b.id = $1 and b.state = 'paid' and b.version > b.paid_version""",
        [bill_id],
    )
    return NotedView(**{**rows[0], "state": BillState(rows[0]["state"])}) if rows else None


async def standing_of(bill_ids: Sequence[UUID]) -> dict[UUID, tuple[int, int, BillState]]:
    """Version, total in fen and state of these bills now, not locked; missing ones are not in the
    answer."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select id, version, total_fen, state from bill where id = any($1::uuid[])",
        [list(bill_ids)],
    )
    return {row["id"]: (row["version"], row["total_fen"], BillState(row["state"])) for row in rows}


def _view(row: dict[str, Any], items: tuple[ItemView, ...]) -> BillView:
    return BillView(**{**row, "state": BillState(row["state"])}, items=items)
