"""Files of split instructions and how they tie with the ledger."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from tortoise import Tortoise

from estation.ledger.api import PayeeMovement, payee_movements
from estation.payments.errors import SplitExportNotFound
from estation.payments.models import SplitExport
from estation.payments.splitting import Instructed, Instruction, corrections_of, refund_keys
from estation.shared.clock import beijing_day, day_bounds
from estation.shared.typed import is_text

MOST_EXPORTS = 100
LATE_DAYS = 92
"""How far back money is looked for that came after its day's instructions; older days can still
be asked for by name."""

_LATE = """
select distinct t.id, (t.occurred_at at time zone 'Asia/Shanghai')::date as day
from ledger_transfer t
where t.occurred_at >= $2 and t.occurred_at < $3
and t.posted_at >= (date_trunc('day', t.occurred_at at time zone 'Asia/Shanghai')
                    + interval '1 day') at time zone 'Asia/Shanghai'
and exists (
    select from split_export x where x.account_id = $1
    and x.day >= (t.occurred_at at time zone 'Asia/Shanghai')::date
    and x.made_at <= t.posted_at + interval '10 minutes')
and not exists (select from split_instruction i where i.transfer_id = t.id)
"""
# Ten minutes: a transfer gets its `posted_at` before it is committed, and the maker of a file did
# not see it until then.


_INSTRUCTED = """
select t.id as transfer_id, t.idempotency_key, t.kind, t.our_no, t.channel_no, t.occurred_at,
       i.payee_code, case when i.is_refund then -i.amount_fen else i.amount_fen end as fen,
       i.fee_fen + coalesce((
           select sum(c.fee_fen) from split_fee_correction c
           where c.transfer_id = i.transfer_id and c.payee_code = i.payee_code), 0)::bigint
           as fee_fen
from ledger_transfer t
join split_instruction i on i.transfer_id = t.id
join split_export x on x.id = i.export_id and x.account_id = $1
where {which}
order by t.occurred_at, t.id, 'payee_payable:' || i.payee_code
"""
_OF_A_DAY = _INSTRUCTED.format(which="t.occurred_at >= $2 and t.occurred_at < $3")
_BY_KEY = _INSTRUCTED.format(which="t.idempotency_key = any($2::text[])")


@dataclass(frozen=True, slots=True)
class SplitExportView:
    """One file, without its content. `total_fen` of the payments, `refund_fen` of the refunds;
    `late_lines` were applied after their day's file was made, `corrections` are of fees alone."""

    export_no: str
    day: date
    account_id: str
    lines: int
    late_lines: int
    corrections: int
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


@dataclass(frozen=True, slots=True)
class LateSplits:
    """What of a day waits for the next file because it came after the day's own. `fen`: refunds
    taken off."""

    day: date
    account_id: str
    transfers: int
    fen: int


@dataclass(frozen=True, slots=True)
class LateFees:
    """What of a day's fees became known after its transfers were instructed, and waits for the
    next file. `fen`: returned fees taken off."""

    day: date
    account_id: str
    transfers: int
    fen: int


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
    may_be = len(export_no) <= 32 and is_text(export_no)
    row = await SplitExport.get_or_none(export_no=export_no) if may_be else None
    if row is None:
        raise SplitExportNotFound(export_no=export_no)
    return bytes(row.content)


async def split_standing(day: date, account_id: str) -> SplitStanding:
    """What is owed is read from the ledger and what was instructed from the instructions (also
    those in a later day's file), so that the two prove each other."""
    start, end = day_bounds(day)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(case when i.is_refund then -i.amount_fen else i.amount_fen end), 0)
               ::bigint as fen
           from split_instruction i join split_export x on x.id = i.export_id
           join ledger_transfer t on t.id = i.transfer_id
           where t.occurred_at >= $1 and t.occurred_at < $2 and x.account_id = $3""",
        [start, end, account_id],
    )
    owed = sum(one.fen for one in await payee_movements(day, account_id))
    return SplitStanding(day, account_id, owed, int(rows[0]["fen"]))


async def late_movements(account_id: str, *, now: datetime) -> list[PayeeMovement]:
    """What was posted at a collecting account after the instructions of its day (or of a later
    one) had been made and is instructed nowhere yet; by day and time. Today's is not late."""
    today = beijing_day(now)
    first, _ = day_bounds(today - timedelta(days=LATE_DAYS))
    end, _ = day_bounds(today)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _LATE, [account_id, first, end]
    )
    wanted = {row["id"] for row in rows}
    days = sorted({row["day"] for row in rows})
    return [
        one
        for day in days
        for one in await payee_movements(day, account_id)
        if one.transfer_id in wanted
    ]


async def late_splits(account_id: str, *, now: datetime) -> list[LateSplits]:
    """The same by day, for people."""
    by_day: dict[date, list[PayeeMovement]] = {}
    for one in await late_movements(account_id, now=now):
        by_day.setdefault(beijing_day(one.occurred_at), []).append(one)
    return [
        LateSplits(
            day=day,
            account_id=account_id,
            transfers=len({one.transfer_id for one in movements}),
            fen=sum(one.fen for one in movements),
        )
        for day, movements in by_day.items()
    ]


async def fees_instructed_until(account_id: str) -> datetime | None:
    """Bills read until then are in the account's files; None while there is no file. A file from
    before corrections knew of nothing for certain: the beginning of time."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select count(*) as files, max(fees_until) as until from split_export
           where account_id = $1""",
        [account_id],
    )
    if not rows[0]["files"]:
        return None
    return rows[0]["until"] or datetime(1970, 1, 1, tzinfo=UTC)


async def fee_corrections(
    account_id: str, fees: Mapping[str, int], days: Collection[date]
) -> list[Instruction]:
    """What the fees of these days' bills change in what was instructed, by time.

    Payments are looked for on those days and beside them (the channel's midnight is not always
    ours), refunds by their number on whatever day. Joins the caller's transaction.
    """
    db = Tortoise.get_connection("default")
    around = {day + timedelta(days=shift) for day in days for shift in (-1, 0, 1)}
    told: dict[tuple[UUID, str], Instructed] = {}
    for day in sorted(around):
        told |= _told(await db.execute_query_dict(_OF_A_DAY, [account_id, *day_bounds(day)]))
    if days:
        told |= _told(await db.execute_query_dict(_BY_KEY, [account_id, refund_keys(fees)]))
    return sorted(
        corrections_of(list(told.values()), fees),
        key=lambda one: (one.occurred_at, one.transfer_id, one.payee_code),
    )


def _told(rows: Sequence[dict[str, Any]]) -> dict[tuple[UUID, str], Instructed]:
    return {
        (row["transfer_id"], row["payee_code"]): Instructed(
            fee_fen=row.pop("fee_fen"), movement=PayeeMovement(**row)
        )
        for row in map(dict, rows)
    }


async def late_fees(
    account_id: str, fees: Mapping[str, int], days: Collection[date]
) -> list[LateFees]:
    """The same by day, for people."""
    by_day: dict[date, list[Instruction]] = {}
    for one in await fee_corrections(account_id, fees, days):
        by_day.setdefault(beijing_day(one.occurred_at), []).append(one)
    return [
        LateFees(
            day=day,
            account_id=account_id,
            transfers=len({line.transfer_id for line in lines}),
            fen=sum(-line.fee_fen if line.is_refund else line.fee_fen for line in lines),
        )
        for day, lines in by_day.items()
    ]


async def _views(tail: str, values: list[Any]) -> list[SplitExportView]:
    """`tail` is one of this module's own constants."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select x.export_no, x.day, x.account_id, x.lines, x.total_fen, x.sha256, x.made_by,
                   x.made_at, s.refund_fen, s.fee_fen + c.fee_fen as fee_fen, s.late_lines,
                   c.corrections
            from split_export x cross join lateral (
                select coalesce(sum(i.amount_fen) filter (where i.is_refund), 0)::bigint
                           as refund_fen,
                       coalesce(sum(case when i.is_refund then -i.fee_fen else i.fee_fen end), 0)
                           ::bigint as fee_fen,
                       count(*) filter (
                           where (t.occurred_at at time zone 'Asia/Shanghai')::date <> x.day
                           or exists (select from split_export e where e.account_id = x.account_id
                                      and e.day = x.day and e.made_at < x.made_at)) as late_lines
                from split_instruction i join ledger_transfer t on t.id = i.transfer_id
                where i.export_id = x.id) s
            cross join lateral (
                select count(*) as corrections,
                       coalesce(sum(case when k.is_refund then -k.fee_fen else k.fee_fen end), 0)
                           ::bigint as fee_fen
                from split_fee_correction k where k.export_id = x.id) c
            {tail}""",  # noqa: S608
        values,
    )
    return [SplitExportView(**row) for row in rows]
