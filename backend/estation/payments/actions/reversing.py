"""Undoing a transfer that only a hand can have posted: by its mirror, on two persons' word."""

from datetime import datetime
from uuid import UUID

from estation.ledger.api import AlreadyReversed, LedgerConflict, post_many, reverse
from estation.payments.actions.storing import A_MOMENT, note_deed_of
from estation.payments.errors import (
    IncidentAlreadyResolved,
    IncidentNotFound,
    NotReversible,
    SecondPersonNeeded,
)
from estation.payments.models import Incident
from estation.payments.persons import is_same, person
from estation.payments.rules import IncidentState
from estation.payments.staff_words import TRANSFER_WORDS
from estation.shared.transactions import in_transaction

REVERSAL_ASKED, REVERSED = "reversal_asked", "reversed"

POSTED_BY_ACTIONS = frozenset(TRANSFER_WORDS)
"""What payments, refunds and holds post is undone by them alone."""


async def reverse_by_hand(
    *,
    transfer_id: UUID,
    incident_id: UUID,
    asked_by: str,
    asked_by_id: UUID,
    approved_by: str,
    approved_by_id: UUID,
    now: datetime,
) -> UUID:
    """Post the mirror of a transfer that none of our actions posts; its id. Both stay, and both
    persons stand in the history of the open incident that led there. One transaction.

    Refuses SecondPersonNeeded, IncidentNotFound, IncidentAlreadyResolved, NotReversible (none of
    this id, one of our actions', or undone already).
    """
    maker, checker = person(asked_by, asked_by_id), person(approved_by, approved_by_id)
    if is_same(maker, checker):
        raise SecondPersonNeeded
    async with in_transaction() as db:
        incident = await Incident.select_for_update().get_or_none(id=incident_id)
        if incident is None:
            raise IncidentNotFound(incident_id=str(incident_id))
        if incident.state is not IncidentState.OPEN:
            raise IncidentAlreadyResolved(incident_id=str(incident_id))
        rows = await db.execute_query_dict(
            "select kind from ledger_transfer where id = $1", [transfer_id]
        )
        if not rows or rows[0]["kind"] in POSTED_BY_ACTIONS:
            raise NotReversible
        mirror = await reverse(transfer_id, now=now)
        try:
            (posted,) = await post_many([mirror], now=now, db=db)
        except (AlreadyReversed, LedgerConflict):
            raise NotReversible from None
        for deed, who, at in (
            (REVERSAL_ASKED, maker, now),
            (REVERSED, checker, now + A_MOMENT),
        ):
            await note_deed_of(
                db,
                incident.dedupe_key,
                deed,
                who,
                str(transfer_id),
                at,
                transfer_id=UUID(posted),
            )
    return UUID(posted)
