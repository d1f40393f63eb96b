"""Making a file of split instructions: whatever of a day was not instructed yet, once."""

from collections.abc import Mapping
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
from estation.payments.split_queries import SplitExportView, split_export
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


async def make_split_export(
    *,
    day: date,
    account_id: str,
    by: str,
    fees: Mapping[str, int],
    settings: Settings,
    now: datetime,
) -> SplitExportView:
    """Instruct every transfer of a Beijing day (by the channel's clock) at a collecting account
    that was not instructed before; one transaction, one file.

    May be called again: money that arrived late makes another file, and no transfer is ever in
    two. `fees` are the channel's by `splitting.fee_key`. Refuses SplitDayNotOver,
    NothingToInstruct and SplitExportNotFound (not a collecting account).
    """
    if account_id not in settings.collecting_accounts.values():
        raise SplitExportNotFound(account_id=account_id)
    if day >= beijing_day(now):
        raise SplitDayNotOver(day=str(day))
    export_no = f"FZ{ids.trade_number(now)}"
    async with in_transaction() as db:
        # One maker of an account's day at a time: the second sees what the first instructed.
        await db.execute_query(
            "select pg_advisory_xact_lock(hashtextextended($1, 0))", [f"split:{account_id}:{day}"]
        )
        lines = await _not_yet_instructed(db, day, account_id, fees)
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
        )
        await export.save(force_create=True)
        await _insert(db, export.id, lines, now)
    log.info("split_export_made", export_no=export_no, day=str(day), lines=len(lines))
    return await split_export(export_no)


async def _not_yet_instructed(
    db: BaseDBAsyncClient, day: date, account_id: str, fees: Mapping[str, int]
) -> list[Instruction]:
    movements = await payee_movements(day, account_id)
    done = await db.execute_query_dict(
        "select distinct transfer_id from split_instruction where transfer_id = any($1::uuid[])",
        [list({one.transfer_id for one in movements})],
    )
    instructed = {row["transfer_id"] for row in done}
    return instructions_of([one for one in movements if one.transfer_id not in instructed], fees)


async def _insert(
    db: BaseDBAsyncClient, export_id: UUID, lines: list[Instruction], now: datetime
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
    await db.execute_query_dict(_INSERT, [export_id, jsonb_text(rows)])
