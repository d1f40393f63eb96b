"""Files of split instructions and how they tie with the ledger."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from tortoise import Tortoise

from estation.ledger.api import payee_movements
from estation.payments.errors import SplitExportNotFound
from estation.payments.models import SplitExport

MOST_EXPORTS = 100


@dataclass(frozen=True, slots=True)
class SplitExportView:
    """One file, without its content. `total_fen` of the payments, `refund_fen` of the refunds."""

    export_no: str
    day: date
    account_id: str
    lines: int
    total_fen: int
    refund_fen: int
    fee_fen: int
    sha256: str
    made_by: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class SplitStanding:
    """A day at a collecting account: what the ledger owes its payees, and what was instructed.
    All in fen, refunds taken off."""

    day: date
    account_id: str
    ledger_fen: int
    instructed_fen: int

    @property
    def open_fen(self) -> int:
        return self.ledger_fen - self.instructed_fen


async def split_export(export_no: str) -> SplitExportView:
    """Raises SplitExportNotFound."""
    found = await _views("where x.export_no = $1", [export_no])
    if not found:
        raise SplitExportNotFound(export_no=export_no)
    return found[0]


async def split_exports(*, limit: int = MOST_EXPORTS) -> list[SplitExportView]:
    """The newest first."""
    return await _views("order by x.made_at desc, x.id desc limit $1", [min(limit, MOST_EXPORTS)])


async def split_file(export_no: str) -> bytes:
    """The file as it was made. Raises SplitExportNotFound."""
    # Tortoise would refuse a longer text than the column's as a program's mistake.
    row = await SplitExport.get_or_none(export_no=export_no) if len(export_no) <= 32 else None
    if row is None:
        raise SplitExportNotFound(export_no=export_no)
    return bytes(row.content)


async def split_standing(day: date, account_id: str) -> SplitStanding:
    """Read from the ledger and from the instructions apart, so that the two prove each other."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(case when i.is_refund then -i.amount_fen else i.amount_fen end), 0)
               ::bigint as fen
           from split_instruction i join split_export x on x.id = i.export_id
           where x.day = $1 and x.account_id = $2""",
        [day, account_id],
    )
    owed = sum(one.fen for one in await payee_movements(day, account_id))
    return SplitStanding(day, account_id, owed, int(rows[0]["fen"]))


async def _views(tail: str, values: list[Any]) -> list[SplitExportView]:
    """`tail` is one of this module's own constants."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select x.export_no, x.day, x.account_id, x.lines, x.total_fen, x.sha256, x.made_by,
                   x.made_at, s.refund_fen, s.fee_fen
            from split_export x cross join lateral (
                select coalesce(sum(i.amount_fen) filter (where i.is_refund), 0)::bigint
                           as refund_fen,
                       coalesce(sum(case when i.is_refund then -i.fee_fen else i.fee_fen end), 0)
                           ::bigint as fee_fen
                from split_instruction i where i.export_id = x.id) s
            {tail}""",  # noqa: S608
        values,
    )
    return [SplitExportView(**row) for row in rows]
