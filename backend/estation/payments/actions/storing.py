"""Incidents: inserted once, however often the same news comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.payments import rules
from estation.payments.persons import Person
from estation.shared import ids
from estation.shared.jsonb import clean_text, jsonb_text

FINANCE = "finance"
OPERATOR = "operator"

A_MOMENT = timedelta(milliseconds=1)
"""Between two persons' words put down at once, so that the history tells first who asked."""

_PUT_INCIDENTS = """
insert into incident (id, dedupe_key, kind, state, owner, channel, account_id, out_trade_no,
                      channel_trade_no, amount_fen, order_id, evidence, opened_at, due_at,
                      resolved_by, resolution, assigned_to)
select t.id, t.dedupe_key, t.kind, 'open', t.owner, t.channel, t.account_id, t.out_trade_no,
       t.channel_trade_no, t.amount_fen, t.order_id, t.evidence, $2::timestamptz,
       $3::timestamptz, '', '', ''
from json_to_recordset($1::json) as t(
    id uuid, dedupe_key text, kind text, owner text, channel text, account_id text,
    out_trade_no text, channel_trade_no text, amount_fen bigint, order_id uuid, evidence jsonb)
order by t.dedupe_key
on conflict (dedupe_key) do update
set state = 'open', resolved_at = null, resolved_by = '', resolution = '',
    due_at = excluded.due_at, evidence = incident.evidence || excluded.evidence
where incident.state = 'resolved' and incident.resolved_by <> 'system'
  and incident.kind = any($4::text[])
"""
# What was closed in words and is found to be so still opens again; news of the past does not.


@dataclass(frozen=True, slots=True)
class IncidentNote:
    """News that fits nothing. The same kind, account and `distinction` is the same incident."""

    kind: str
    channel: str
    account_id: str
    out_trade_no: str
    channel_trade_no: str | None
    amount_fen: int
    order_id: UUID | None
    distinction: str
    evidence: dict[str, Any]
    owner: str = FINANCE

    @property
    def dedupe_key(self) -> str:
        return f"{self.kind}:{self.account_id}:{self.distinction}"[:160]


async def put_incidents(
    db: BaseDBAsyncClient, notes: Sequence[IncidentNote], *, now: datetime
) -> None:
    """Open each incident once, due after a day; of notes about the same one the first counts."""
    if notes:
        # One statement cannot meet a row twice, and a batch may bring the same news twice.
        once = list({note.dedupe_key: note for note in reversed(notes)}.values())
        entry_ids = ids.row_id_texts(now, len(once))
        rows = [_row(note, entry_id) for note, entry_id in zip(once, entry_ids, strict=True)]
        await db.execute_query_dict(
            _PUT_INCIDENTS,
            [jsonb_text(rows), now, now + rules.INCIDENT_DUE, list(rules.OPEN_AGAIN)],
        )


def _row(note: IncidentNote, entry_id: str) -> dict[str, Any]:
    trade_no = note.channel_trade_no
    return {
        "id": entry_id,
        "dedupe_key": note.dedupe_key,
        "kind": note.kind,
        "owner": note.owner,
        "channel": note.channel,
        "account_id": note.account_id,
        "out_trade_no": note.out_trade_no[:64],
        "channel_trade_no": trade_no[:64] if trade_no else None,
        "amount_fen": note.amount_fen,
        "order_id": note.order_id,
        "evidence": note.evidence,
    }


async def note_deed(
    db: BaseDBAsyncClient,
    incident_key: str,
    *,
    deed: str,
    by: str,
    now: datetime,
    by_id: UUID | None = None,
    note: str = "",
    refund_id: UUID | None = None,
    transfer_id: UUID | None = None,
) -> None:
    """What somebody did, in the history of the incident of this key; nothing when there is none."""
    await db.execute_query_dict(
        """insert into incident_action (id, incident_id, action, by, at, note, refund_id,
               transfer_id, by_id)
           select $1::uuid, id, $2, $3, $4::timestamptz, $5, $6::uuid, $7::uuid, $9::uuid
           from incident where dedupe_key = $8""",
        [
            ids.row_id(now),
            deed,
            clean_text(by, 64),
            now,
            clean_text(note, 2000),
            refund_id,
            transfer_id,
            incident_key,
            by_id,
        ],
    )


async def note_deed_of(
    db: BaseDBAsyncClient,
    incident_key: str,
    deed: str,
    by: Person,
    note: str,
    now: datetime,
    *,
    refund_id: UUID | None = None,
    transfer_id: UUID | None = None,
) -> None:
    """`note_deed` of a maker or checker, with the account that tells two persons apart."""
    await note_deed(
        db,
        incident_key,
        deed=deed,
        by=by.shown,
        by_id=by.account,
        note=note,
        now=now,
        refund_id=refund_id,
        transfer_id=transfer_id,
    )
