"""The inbox and the incidents: inserts that never double."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.pay_channels import Channel, VerifiedNotice
from estation.payments import rules
from estation.shared import ids
from estation.shared.jsonb import clean_text, jsonb_text

FINANCE = "finance"
OPERATOR = "operator"

_PUT_NOTICES = """
insert into pay_notice as n (id, channel, account_id, event_key, kind, out_trade_no, plaintext,
                             received_at, handled_at, outcome, tries, last_error)
select t.id, t.channel, t.account_id, t.event_key, t.kind, t.out_trade_no, t.plaintext::jsonb,
       $1::timestamptz, $1::timestamptz, t.outcome, 0, ''
from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[])
    as t(id, channel, account_id, event_key, kind, out_trade_no, plaintext, outcome)
order by t.channel, t.account_id, t.event_key
on conflict (channel, account_id, event_key) do update
set handled_at = excluded.handled_at, outcome = excluded.outcome, next_try_at = null
where n.handled_at is null
"""

_PUT_INCIDENTS = """
insert into incident (id, dedupe_key, kind, state, owner, channel, account_id, out_trade_no,
                      channel_trade_no, amount_fen, order_id, evidence, opened_at, due_at,
                      resolved_by, resolution)
select t.id, t.dedupe_key, t.kind, 'open', t.owner, t.channel, t.account_id, t.out_trade_no,
       t.channel_trade_no, t.amount_fen, t.order_id, t.evidence::jsonb, $1::timestamptz,
       $2::timestamptz, '', ''
from unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::bigint[], $12::uuid[], $13::text[])
    as t(id, dedupe_key, kind, owner, channel, account_id, out_trade_no, channel_trade_no,
         amount_fen, order_id, evidence)
order by t.dedupe_key
on conflict (dedupe_key) do nothing
"""


@dataclass(frozen=True, slots=True)
class NoticeNote:
    """A notice that was dealt with, and how."""

    channel: Channel
    account_id: str
    notice: VerifiedNotice
    outcome: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.channel, self.account_id, clean_text(self.notice.event_key, 160)


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
        return clean_text(f"{self.kind}:{self.account_id}:{self.distinction}", 160)


async def put_notices(db: BaseDBAsyncClient, notes: Sequence[NoticeNote], *, now: datetime) -> None:
    """Into the inbox as handled; a row that waited unhandled becomes handled."""
    once = {note.key: note for note in reversed(notes)}  # the first of equal news has the outcome
    if not once:
        return
    channels, accounts, event_keys = zip(*once, strict=True)
    await db.execute_query_dict(
        _PUT_NOTICES,
        [
            now,
            ids.row_ids(now, len(once)),
            list(channels),
            list(accounts),
            list(event_keys),
            [clean_text(note.notice.kind, 32) for note in once.values()],
            [clean_text(note.notice.out_trade_no, 64) for note in once.values()],
            [jsonb_text(note.notice.plaintext) for note in once.values()],
            [note.outcome for note in once.values()],
        ],
    )


async def put_incidents(
    db: BaseDBAsyncClient, notes: Sequence[IncidentNote], *, now: datetime
) -> None:
    """Open each incident once, due after a day."""
    if not notes:
        return
    await db.execute_query_dict(
        _PUT_INCIDENTS,
        [
            now,
            now + rules.INCIDENT_DUE,
            ids.row_ids(now, len(notes)),
            [note.dedupe_key for note in notes],
            [note.kind for note in notes],
            [note.owner for note in notes],
            [note.channel for note in notes],
            [note.account_id for note in notes],
            [clean_text(note.out_trade_no, 64) for note in notes],
            [note.channel_trade_no and clean_text(note.channel_trade_no, 64) for note in notes],
            [note.amount_fen for note in notes],
            [note.order_id for note in notes],
            [jsonb_text(note.evidence) for note in notes],
        ],
    )
