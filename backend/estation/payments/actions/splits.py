"""Making a file of split instructions: whatever of a day was not instructed yet, once; and what
came, or what it cost became known, after the file of an earlier day was made."""

from collections.abc import Collection, Mapping
from datetime import date, datetime
from uuid import UUID

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import payee_movements
from estation.payments.errors import (
    NothingToInstruct,
    SplitDayNotOver,
    SplitExportNotFound,
)
from estation.payments.models import SplitExport
from estation.payments.split_queries import (
    SplitExportView,
    fee_corrections,
    late_movements,
    split_export,
)
from estation.payments.splitting import Instruction, instructions_of, sheet_of
from estation.settings import Settings
from estation.shared import ids
from estation.shared.clock import beijing_day
from estation.shared.jsonb import jsonb_text
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

_INSERT = """
insert into split_instruction (id, export_id, transfer_id, payee_code, is_refund, amount_fen,
                               fee_fen)
select t.id, $1, t.transfer_id, t.payee_code, t.is_refund, t.amount_fen, t.fee_fen
from json_to_recordset($2::json) as t(id uuid, transfer_id uuid, payee_code text,
    is_refund boolean, amount_fen bigint, fee_fen bigint)
"""

_INSERT_CORRECTIONS = """
insert into split_fee_correction (id, export_id, transfer_id, payee_code, is_refund, fee_fen)
select t.id, $1, t.transfer_id, t.payee_code, t.is_refund, t.fee_fen
from json_to_recordset($2::json) as t(id uuid, transfer_id uuid, payee_code text,
    is_refund boolean, fee_fen bigint)
"""


async def make_split_export(
    *,
    day: date,
    account_id: str,
    by: str,
    fees: Mapping[str, int],
    fee_days: Collection[date] = (),
    settings: Settings,
    now: datetime,
) -> SplitExportView:
    """Instruct every transfer of a Beijing day (by the channel's clock) at a collecting account
    that was not instructed before; one transaction, one file.

    May be called again, and no transfer is ever in two files. What was applied after the file of
    its day goes with whichever file is made next, marked late. `fees` are the channel's by
    `splitting.fee_key`, also of the days of `late_splits`. `fee_days` are those whose bills were
    read since `fees_instructed_until`: what they change in transfers instructed before goes with
    this file as corrections. Refuses SplitDayNotOver, NothingToInstruct and SplitExportNotFound
    (not a collecting account).
    """
    if account_id not in settings.collecting_accounts.values():
        raise SplitExportNotFound(account_id=account_id)
    if day >= beijing_day(now):
        raise SplitDayNotOver(day=str(day))
    export_no = f"FZ{ids.trade_number(now)}"
    async with in_transaction() as db:
        # One maker of an account's files at a time: the second sees what the first instructed.
        await db.execute_query(
            "select pg_advisory_xact_lock(hashtextextended($1, 0))", [f"split:{account_id}"]
        )
        instructed = await _not_yet_instructed(db, day, account_id, fees, now)
        corrections = await fee_corrections(account_id, fees, fee_days)
        lines = [*instructed, *corrections]
        if not lines:
            raise NothingToInstruct(day=str(day), account_id=account_id)
        sheet = sheet_of(
            lines,
            export_no=export_no,
            day=day,
            account_id=account_id,
            payee_names={payee.code: payee.name for payee in settings.payees},
        )
        export = SplitExport(
            id=ids.row_id(now),
            export_no=export_no,
            day=day,
            account_id=account_id,
            lines=len(lines),
            total_fen=sum(line.amount_fen for line in lines if not line.is_refund),
            sha256=sheet.sha256,
            content=sheet.content,
            made_by=by[:64],
            made_at=now,
            fees_until=now,
        )
        await export.save(force_create=True)
        await _insert(db, _INSERT, export.id, instructed, now)
        await _insert(db, _INSERT_CORRECTIONS, export.id, corrections, now)
    late_lines = sum(line.is_late for line in instructed)
    log.info(
        "split_export_made",
        export_no=export_no,
        day=str(day),
        lines=len(lines),
        late_lines=late_lines,
        corrections=len(corrections),
    )
    return await split_export(export_no)


async def _not_yet_instructed(
    db: BaseDBAsyncClient, day: date, account_id: str, fees: Mapping[str, int], now: datetime
) -> list[Instruction]:
    """The day's first, then the late ones of other days."""
    movements = await payee_movements(day, account_id)
    late = await late_movements(account_id, now=now)
    has_file = await SplitExport.filter(day=day, account_id=account_id).exists()
    done = await db.execute_query_dict(
        "select distinct transfer_id from split_instruction where transfer_id = any($1::uuid[])",
        [list({one.transfer_id for one in movements})],
    )
    instructed = {row["transfer_id"] for row in done}
    ours = [one for one in movements if one.transfer_id not in instructed]
    others = [one for one in late if beijing_day(one.occurred_at) != day]
    return [
        *instructions_of(ours, fees, are_late=has_file),
        *instructions_of(others, fees, are_late=True),
    ]


async def _insert(
    db: BaseDBAsyncClient,
    statement: str,
    export_id: UUID,
    lines: list[Instruction],
    now: datetime,
) -> None:
    rows = [
        {
            "id": row_id,
            "transfer_id": line.transfer_id,
            "payee_code": line.payee_code,
            "is_refund": line.is_refund,
            "amount_fen": line.amount_fen,
            "fee_fen": line.fee_fen,
        }
        for line, row_id in zip(lines, ids.row_id_texts(now, len(lines)), strict=True)
    ]
    await db.execute_query_dict(statement, [export_id, jsonb_text(rows)])
