"""What the staff pages and the command read of past runs."""

import asyncio
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zlib import error as ZlibError

import structlog
from cryptography.exceptions import InvalidTag
from tortoise import Tortoise

from estation.payments.api import LateFees, fee_key, fees_instructed_until, late_fees, late_splits
from estation.reconciliation.errors import BillFileNotFound, KeptFileChanged, RunNotFound
from estation.reconciliation.rules import Kind
from estation.shared.clock import beijing_day
from estation.shared.crypto import KeyNotHeld, Vault

log = structlog.get_logger()

_FEE_FEN = "(abs(fee_fen_e3) + 500) / 1000"
"""Thousandths rounded half up per line, as the channels settle them."""

READING = timedelta(hours=1)
"""Longer than any bill takes from its download to its last stored line."""

FEE_DAYS = 92
"""How far back a bill's news changes what was instructed, as late money is looked for."""

MAX_DIFFERENCES = 500
"""On one page or in one printed run; the rest is counted, and the CSV has all."""


@dataclass(frozen=True, slots=True)
class DifferenceView:
    """One finding; `theirs` and `ours` are the two rows as found, or None."""

    id: UUID
    kind: Kind
    channel: str
    account_id: str
    out_trade_no: str
    our_fen: int | None
    their_fen: int | None
    theirs: dict[str, Any] | None
    ours: dict[str, Any] | None
    leg: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its first MAX_DIFFERENCES findings; `counts` counts all of them by kind."""

    id: UUID
    day: date
    state: str
    started_at: datetime
    finished_at: datetime
    started_by: str
    rules_version: str
    legs: list[dict[str, Any]]
    counts: dict[str, int]
    matched: int
    matched_fen: int
    input_digest: str
    result_digest: str
    differences: list[DifferenceView]


@dataclass(frozen=True, slots=True)
class DayView:
    """A day in the list; `state` is None when it was never reconciled."""

    day: date
    state: str | None
    matched: int
    matched_fen: int
    counts: dict[str, int]
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class BillFileView:
    """A kept raw file, without its content."""

    id: UUID
    channel: str
    account_id: str
    day: date
    sha256: str
    byte_count: int
    line_count: int | None
    fetched_at: datetime
    seen_at: datetime


_RUN = """id, day, state, started_at, finished_at, started_by, rules_version, legs, counts,
    matched, matched_fen, input_digest, result_digest"""


async def latest_run(day: date) -> RunView:
    """The newest run of a day. Raises RunNotFound."""
    rows = await _rows(
        f"select {_RUN} from reconciliation_run where day = $1 order by started_at desc, id desc"  # noqa: S608
        " limit 1",
        [day],
    )
    if not rows:
        raise RunNotFound(day=str(day))
    return await _run(rows[0])


async def run(run_id: UUID) -> RunView:
    """Raises RunNotFound."""
    rows = await _rows(f"select {_RUN} from reconciliation_run where id = $1", [run_id])  # noqa: S608
    if not rows:
        raise RunNotFound()
    return await _run(rows[0])


async def _run(row: dict[str, Any]) -> RunView:
    parsed = {**row, "legs": _json(row["legs"]), "counts": _json(row["counts"])}
    return RunView(**parsed, differences=await differences(row["id"]))


async def earlier_runs(day: date, *, limit: int = 20) -> list[dict[str, Any]]:
    """The runs of a day, newest first: id, state, started_at, started_by, result_digest."""
    return await _rows(
        """select id, state, started_at, started_by, result_digest from reconciliation_run
           where day = $1 order by started_at desc, id desc limit $2""",
        [day, limit],
    )


async def differences(
    run_id: UUID, *, limit: int = MAX_DIFFERENCES, after: UUID | None = None
) -> list[DifferenceView]:
    """Ordered by kind, account and number; `after` continues behind a row (for exports)."""
    rows = await _rows(
        """select d.id, d.kind, d.channel, d.account_id, d.out_trade_no, d.our_fen, d.their_fen,
                  d.evidence
           from reconciliation_difference d
           where d.run_id = $1 and ($2::uuid is null or (d.kind, d.account_id, d.out_trade_no, d.id)
                > (select kind, account_id, out_trade_no, id
                   from reconciliation_difference where id = $2))
           order by d.kind, d.account_id, d.out_trade_no, d.id limit $3""",
        [run_id, after, limit],
    )
    return [_difference(row) for row in rows]


def _difference(row: dict[str, Any]) -> DifferenceView:
    evidence = _json(row.pop("evidence"))
    return DifferenceView(
        **{**row, "kind": Kind(row["kind"])},
        theirs=evidence.get("theirs"),
        ours=evidence.get("ours"),
        leg=evidence.get("leg"),
    )


async def days(first: date, last: date) -> list[DayView]:
    """Every day from `last` back to `first` with its newest run. At most 400 days."""
    rows = await _rows(
        """select d::date as day, r.state, coalesce(r.matched, 0) as matched,
                  coalesce(r.matched_fen, 0) as matched_fen, r.counts, r.finished_at
           from generate_series($1::date, $2::date, interval '1 day') d
           left join lateral (select * from reconciliation_run where day = d::date
                              order by started_at desc, id desc limit 1) r on true
           order by day desc limit 400""",
        [first, last],
    )
    return [DayView(**{**row, "counts": _json(row["counts"]) or {}}) for row in rows]


async def bill_files(day: date) -> list[BillFileView]:
    """All files the channels ever gave for a day, newest news first."""
    rows = await _rows(
        """select id, channel, account_id, day, sha256, byte_count, line_count, fetched_at, seen_at
           from channel_bill_file where day = $1
           order by account_id, seen_at desc, sha256 limit 200""",
        [day],
    )
    return [BillFileView(**row) for row in rows]


async def bill_file(day: date, file_id: UUID, *, vault: Vault) -> tuple[BillFileView, bytes]:
    """A kept file and its bytes as received. Raises BillFileNotFound, KeptFileChanged."""
    rows = await _rows(
        """select id, channel, account_id, day, sha256, byte_count, line_count, fetched_at,
                  seen_at, content, is_sealed
           from channel_bill_file where day = $1 and id = $2""",
        [day, file_id],
    )
    if not rows:
        raise BillFileNotFound()
    row = rows[0]
    content = await asyncio.to_thread(as_received, row, vault)
    del row["content"], row["is_sealed"]
    return BillFileView(**row), content


def as_received(row: Mapping[str, Any], vault: Vault) -> bytes:
    """The bytes of a kept file, proved by its digest: `content`, `is_sealed` and `sha256` of its
    row. A large file takes a second, so call it in a thread. Raises KeptFileChanged, KeyNotHeld."""
    digest: str = row["sha256"]
    content = bytes(row["content"])
    try:
        content = vault.open_file(content) if row["is_sealed"] else content
    except KeyNotHeld:  # Nobody changed it: it waits for its key.
        raise
    except (InvalidTag, ValueError, ZlibError):  # ValueError: too short to have been sealed
        content = b""
    if hashlib.sha256(content).hexdigest() != digest:
        # The asker is told, and may be a program: somebody changed evidence.
        log.error("kept_file_changed", sha256=digest)
        raise KeptFileChanged(sha256=digest)
    return content


async def newest_proven_files(account_ids: Sequence[str], days_: Sequence[date]) -> list[UUID]:
    """For each account and day the proven file the channel gave last."""
    rows = await _rows(
        """select distinct on (account_id, day) id from channel_bill_file
           where account_id = any($1::text[]) and day = any($2::date[]) and line_count is not null
           order by account_id, day, seen_at desc, sha256""",
        [list(account_ids), list(days_)],
    )
    return [row["id"] for row in rows]


async def unbooked_days(
    account_ids: Collection[str], *, other_than: date, limit: int
) -> list[tuple[str, date]]:
    """Accounts' days with a proven bill of which no fee was ever booked, oldest first; joins the
    caller's transaction."""
    rows = await _rows(
        """select account_id, day from channel_bill_file
           where account_id = any($1::text[]) and line_count is not null and day <> $2
           group by account_id, day having count(booked_fee_fen) = 0
           order by day, account_id limit $3""",
        [sorted(account_ids), other_than, limit],
    )
    return [(row["account_id"], row["day"]) for row in rows]


@dataclass(frozen=True, slots=True)
class BillFees:
    """What one bill says the channel keeps of payments, and gives back of it with refunds."""

    taken_fen: int
    returned_fen: int

    @property
    def net_fen(self) -> int:
        return self.taken_fen - self.returned_fen


async def fees_of_file(file_id: UUID) -> BillFees:
    """Each line in whole fen; joins the caller's transaction."""
    rows = await _rows(
        f"""select coalesce(sum(fen) filter (where kind = 'payment'), 0)::bigint as taken_fen,
                   coalesce(-sum(fen) filter (where kind = 'refund'), 0)::bigint as returned_fen
            from (select kind, case when fee_fen_e3 < 0 then -1 else 1 end * ({_FEE_FEN}) as fen
                  from channel_bill_line where bill_file_id = $1) lines""",  # noqa: S608
        [file_id],
    )
    return BillFees(**rows[0])


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a channel is expected to pay out for a day, in fen, from the lines of its bill.

    `stated_fen` is what the bill's own totals say; None where it does not state them.
    """

    gross_fen: int
    refund_fen: int
    fee_fen: int
    fee_back_fen: int
    stated_fen: int | None

    @property
    def net_fen(self) -> int:
        return self.gross_fen - self.refund_fen - self.fee_fen + self.fee_back_fen

    @property
    def differs(self) -> bool:
        return self.stated_fen is not None and self.stated_fen != self.net_fen


async def settlement_of(file_id: UUID) -> Settlement:
    """Of one proven file; joins the caller's transaction."""
    rows = await _rows(
        """select coalesce(sum(l.amount_fen) filter (where l.kind = 'payment'), 0)::bigint
                      as gross_fen,
                  coalesce(sum(l.amount_fen) filter (where l.kind = 'refund'), 0)::bigint
                      as refund_fen,
                  (select f.settlement_fen from channel_bill_file f where f.id = $1) as stated_fen
           from channel_bill_line l where l.bill_file_id = $1""",
        [file_id],
    )
    fees = await fees_of_file(file_id)
    return Settlement(**rows[0], fee_fen=fees.taken_fen, fee_back_fen=fees.returned_fen)


async def channel_fees(day: date, account_id: str) -> dict[str, int]:
    """The channel's fees of a day in whole fen, by `payments.api.fee_key`, from proven bills of
    the day and its neighbours; {} while there is none."""
    return await _line_fees(day, account_id, with_none=False)


async def _line_fees(day: date, account_id: str, *, with_none: bool) -> dict[str, int]:
    """`with_none`: also of lines that cost nothing. Of two lines the later one's."""
    around = [day + timedelta(days=shift) for shift in (-1, 0, 1)]
    rows = await _rows(
        f"""select l.kind, l.channel_trade_no, l.refund_no, {_FEE_FEN} as fen
            from channel_bill_line l join channel_bill_file f on f.id = l.bill_file_id
            where l.bill_file_id = any($1::uuid[]) and ($2 or l.fee_fen_e3 <> 0)
            order by f.day, l.line_no""",  # noqa: S608
        [await newest_proven_files([account_id], around), with_none],
    )
    return {_key_of(row): int(row["fen"]) for row in rows}


def _key_of(line: Mapping[str, Any]) -> str:
    is_refund = line["kind"] == "refund"
    number = (line["refund_no"] or "") if is_refund else line["channel_trade_no"]
    return fee_key(number, is_refund=is_refund)


async def _gone_fees(account_id: str, days_: Collection[date]) -> dict[str, int]:
    """What a superseded bill of these days named a fee of and no bill that counts names any more:
    it costs nothing. A line that moved to the bill of another day is not gone."""
    around = [min(days_) + timedelta(days=n) for n in range(-1, 2 * FEE_DAYS)]
    counting = await newest_proven_files([account_id], around)
    rows = await _rows(
        """select distinct l.kind, l.channel_trade_no, l.refund_no
           from channel_bill_line l join channel_bill_file f on f.id = l.bill_file_id
           where f.account_id = $1 and f.day = any($2::date[]) and f.line_count is not null
             and f.id <> all($3::uuid[]) and l.fee_fen_e3 <> 0""",
        [account_id, list(days_), counting],
    )
    if not rows:
        return {}
    still = await _rows(
        """select distinct kind, channel_trade_no, refund_no from channel_bill_line
           where bill_file_id = any($1::uuid[])
             and (kind = 'refund' and refund_no = any($2::text[])
                  or kind <> 'refund' and channel_trade_no = any($3::text[]))""",
        [
            counting,
            [row["refund_no"] for row in rows if row["kind"] == "refund"],
            [row["channel_trade_no"] for row in rows if row["kind"] != "refund"],
        ],
    )
    return dict.fromkeys({_key_of(row) for row in rows} - {_key_of(row) for row in still}, 0)


async def _news_of_fees(account_id: str, days_: Collection[date]) -> dict[str, int]:
    """What the bills of these days say now, also that something costs nothing (any more)."""
    found = await _gone_fees(account_id, days_) if days_ else {}
    for one in sorted(days_):
        found |= await _line_fees(one, account_id, with_none=True)
    return found


async def fee_days(account_id: str, *, now: datetime) -> list[date]:
    """The days whose proven bills were read since the account's last file of split instructions
    was made: what they say may change the fees of what was instructed by then."""
    until = await fees_instructed_until(account_id)
    if until is None:
        return []
    # A bill counts as seen when its download began: a large one may be read after that file.
    rows = await _rows(
        """select distinct day from channel_bill_file
           where account_id = $1 and line_count is not null and seen_at >= $2 and day >= $3
           order by day""",
        [account_id, until - READING, beijing_day(now) - timedelta(days=FEE_DAYS)],
    )
    return [row["day"] for row in rows]


async def split_fees(
    day: date, account_id: str, *, now: datetime, late: Collection[date] = ()
) -> dict[str, int]:
    """The fees for a file of split instructions: those of the day, and of the days whose late
    money goes with it; of the `late` days (see `fee_days`) also that there is none (any more)."""
    days = {day, *(one.day for one in await late_splits(account_id, now=now))}
    found: dict[str, int] = {}
    for one in sorted(days - set(late)):
        found |= await channel_fees(one, account_id)
    return found | await _news_of_fees(account_id, late)


async def waiting_fees(account_id: str, *, now: datetime) -> list[LateFees]:
    """What came to be known of fees since the account's last file, and waits for the next."""
    days = await fee_days(account_id, now=now)
    return await late_fees(account_id, await _news_of_fees(account_id, days), days)


async def hashes(file_ids: Sequence[UUID]) -> list[str]:
    rows = await _rows(
        "select sha256 from channel_bill_file where id = any($1::uuid[])", [list(file_ids)]
    )
    return [row["sha256"] for row in rows]


async def _rows(sql: str, arguments: list[object]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, arguments
    )
    return [dict(row) for row in rows]


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
