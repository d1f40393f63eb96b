"""Gives every finding that is somebody's duty an owner."""

from collections import Counter
from datetime import date, datetime
from uuid import UUID

import orjson
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.payments.api import IncidentNote, put_incidents
from estation.reconciliation.rules import KINDS

OWNED = [kind.value for kind, meaning in KINDS.items() if meaning.opens_incident]


async def open_incidents(db: BaseDBAsyncClient, run_id: UUID, day: date, *, now: datetime) -> None:
    """One incident for finance per line of channel money that our ledger does not explain.

    Once, whatever the run; equal lines are told apart by their turn. Joins the caller's
    transaction. The amount is the channel's; healing goes through `settle`.
    """
    rows = await db.execute_query_dict(
        """select kind, channel, account_id, out_trade_no, their_fen,
                  evidence::text as evidence
           from reconciliation_difference where run_id = $1 and kind = any($2::text[])
           order by account_id, out_trade_no""",
        [run_id, OWNED],
    )
    notes = []
    turns: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        evidence = orjson.loads(row["evidence"])
        theirs = evidence["theirs"]
        trade_no = theirs["channel_trade_no"]
        # One payment may be refunded in parts.
        number = theirs["refund_no"] or trade_no or row["out_trade_no"]
        turns[row["kind"], row["account_id"], number] += 1
        turn = turns[row["kind"], row["account_id"], number]
        notes.append(
            IncidentNote(
                kind=row["kind"],
                channel=row["channel"],
                account_id=row["account_id"],
                out_trade_no=row["out_trade_no"],
                channel_trade_no=trade_no,
                amount_fen=row["their_fen"],
                order_id=None,
                distinction=number if turn == 1 else f"{number}:{turn}",
                evidence={"reconciled_day": str(day), **evidence},
            )
        )
    await put_incidents(db, notes, now=now)
