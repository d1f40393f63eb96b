"""Gives every finding that is somebody's duty an owner."""

from datetime import date, datetime
from uuid import UUID

import orjson
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.payments.api import IncidentNote, put_incidents
from estation.reconciliation.rules import KINDS

OWNED = [kind.value for kind, meaning in KINDS.items() if meaning.opens_incident]


async def open_incidents(db: BaseDBAsyncClient, run_id: UUID, day: date, *, now: datetime) -> None:
    """One incident for finance per channel payment we do not have, once, whatever the run.

    Joins the caller's transaction. The amount is the channel's; healing goes through `settle`.
    """
    rows = await db.execute_query_dict(
        """select kind, channel, account_id, out_trade_no, their_fen,
                  evidence::text as evidence
           from reconciliation_difference where run_id = $1 and kind = any($2::text[])
           order by account_id, out_trade_no""",
        [run_id, OWNED],
    )
    notes = []
    for row in rows:
        evidence = orjson.loads(row["evidence"])
        trade_no = evidence["theirs"]["channel_trade_no"]
        notes.append(
            IncidentNote(
                kind=row["kind"],
                channel=row["channel"],
                account_id=row["account_id"],
                out_trade_no=row["out_trade_no"],
                channel_trade_no=trade_no,
                amount_fen=row["their_fen"],
                order_id=None,
                distinction=trade_no or row["out_trade_no"],
                evidence={"reconciled_day": str(day), **evidence},
            )
        )
    await put_incidents(db, notes, now=now)
