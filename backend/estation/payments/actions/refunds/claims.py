"""A claim of ours (多退应收) has two ways home: the payer's money came back, or an office gave it
up. Asked by a maker with a document, booked by a checker; it ends at zero, not by words."""

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import (
    ArrivedMoney,
    Leg,
    TransferInput,
    arrival_by_key,
    open_claim_fen,
    overpaid_back,
    post_many,
    received_outside,
    written_off,
)
from estation.payments import refund_rules, rules
from estation.payments.actions.refunds.ask import lock_standings
from estation.payments.actions.refunds.wishes import decide, require_another
from estation.payments.actions.storing import A_MOMENT, note_deed_of
from estation.payments.errors import (
    ClaimChanged,
    ClaimEndAlreadyAsked,
    ClaimEndNotAsked,
    IncidentAlreadyResolved,
    IncidentNotFound,
    NoClaim,
    RefundUnderWay,
)
from estation.payments.models import ClaimSettlement, Incident
from estation.payments.persons import Person, person
from estation.payments.refund_rules import MAX_NOTE, Deed
from estation.payments.rules import ClaimEnd, IncidentKind, IncidentState, OutsideState
from estation.payments.staff_words import claim_words
from estation.shared import ids
from estation.shared.clock import beijing_day
from estation.shared.errors import InvalidInput
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text

MAX_REASON, MAX_DOCUMENT_NO = 200, 64

ASKED, REJECTED = "claim_asked", "claim_rejected"
BOOKED = {
    ClaimEnd.RECOVERED: "claim_recovered",
    ClaimEnd.WRITTEN_OFF: "claim_written_off",
}
"""Deeds in an incident's history, and the kinds of transfers that end a claim."""


@dataclass(frozen=True, slots=True)
class _Case:
    """An open incident and the claim it is about, the arrival and the incident locked."""

    incident: Incident
    money: ArrivedMoney
    claim_fen: int


async def ask_to_end_claim(
    *,
    incident_id: UUID,
    kind: ClaimEnd,
    amount_fen: int,
    believed_fen: int,
    document_no: str,
    reason: str = "",
    received_on: date | None = None,
    by: str,
    by_id: UUID | None = None,
    now: datetime,
) -> UUID:
    """A maker says that the claim, or a part of it, came back from the payer on a Beijing day
    (`document_no`: the bank's receipt), or was given up by an office (its decision, and `reason`:
    whose and why); the wish's id. Nothing moves before a checker agrees.

    Refuses IncidentNotFound, IncidentAlreadyResolved, NoClaim, ClaimChanged (412, with the present
    sum), ClaimEndAlreadyAsked, InvalidInput.
    """
    number = typed_text("document_no", document_no, most=MAX_DOCUMENT_NO)
    needs_reason = kind is ClaimEnd.WRITTEN_OFF
    said = typed_text("reason", reason, most=MAX_REASON, least=1 if needs_reason else 0)
    _check_day(kind, received_on, now)
    maker = person(by, by_id)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        if case.claim_fen != believed_fen:
            raise ClaimChanged(claim_fen=case.claim_fen)
        if not 0 < amount_fen <= case.claim_fen:
            raise InvalidInput(field="amount_fen")
        asked = ClaimSettlement.filter(arrival_id=case.money.id, state=OutsideState.ASKED)
        if await asked.exists():
            raise ClaimEndAlreadyAsked
        wish = ClaimSettlement(
            id=ids.row_id(now),
            incident_id=incident_id,
            arrival_id=case.money.id,
            account_id=case.money.account_id,
            kind=kind,
            amount_fen=amount_fen,
            state=OutsideState.ASKED,
            reason=said,
            document_no=number,
            received_on=received_on,
            asked_by=maker.shown,
            asked_by_id=maker.account,
            asked_at=now,
        )
        await wish.save(force_create=True)
        await note_deed_of(db, case.incident.dedupe_key, ASKED, maker, claim_words(wish), now)
    return wish.id


async def approve_ending_claim(
    *,
    incident_id: UUID,
    believed_fen: int,
    by: str,
    by_id: UUID | None = None,
    note: str = "",
    now: datetime,
) -> str:
    """The checker's yes: the sum leaves the claim's account; the transfer's id. The incidents of
    this claim are resolved once nothing of it is left. One transaction.

    Refuses IncidentNotFound, IncidentAlreadyResolved, NoClaim, ClaimEndNotAsked, ClaimChanged (412:
    not the sum the checker saw, or less is claimed by now), RefundUnderWay (another refund of this
    money may still end the claim by closing), SecondPersonNeeded, InvalidInput; nothing is changed
    then.
    """
    said = typed_text("note", note, most=MAX_NOTE, least=0)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        checker = person(by, by_id)
        wish = await _wish(case, checker)
        if wish.amount_fen != believed_fen:
            raise ClaimChanged(claim_fen=wish.amount_fen)
        if wish.amount_fen > case.claim_fen:
            raise ClaimChanged(claim_fen=case.claim_fen)
        await _check_nothing_under_way(db, case)
        (transfer_id,) = await post_many([_transfer(wish, case.money, now)], now=now)
        await decide(wish, OutsideState.APPROVED, checker, said, now, UUID(transfer_id))
        await note_deed_of(
            db,
            case.incident.dedupe_key,
            BOOKED[wish.kind],
            checker,
            claim_words(wish),
            now,
            transfer_id=UUID(transfer_id),
        )
        if wish.amount_fen == case.claim_fen:
            await _resolve(db, case, wish, checker, transfer_id, now)
    return transfer_id


async def reject_ending_claim(
    *, incident_id: UUID, by: str, by_id: UUID | None = None, note: str, now: datetime
) -> None:
    """The checker's no, with its reason. Refuses as `approve_ending_claim`, but for the sums."""
    said = typed_text("note", note, most=MAX_NOTE)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        checker = person(by, by_id)
        wish = await _wish(case, checker)
        await decide(wish, OutsideState.REJECTED, checker, said, now)
        await note_deed_of(db, case.incident.dedupe_key, REJECTED, checker, said, now)


async def end_claim(
    *,
    incident_id: UUID,
    kind: ClaimEnd,
    amount_fen: int,
    believed_fen: int,
    document_no: str,
    reason: str = "",
    received_on: date | None = None,
    asked_by: str,
    asked_by_id: UUID,
    approved_by: str,
    approved_by_id: UUID,
    now: datetime,
) -> str:
    """Both persons' words in one transaction, for who has both before him; the transfer's id.
    Refuses as `ask_to_end_claim` and `approve_ending_claim`; nothing is changed then."""
    async with in_transaction():
        await ask_to_end_claim(
            incident_id=incident_id,
            kind=kind,
            amount_fen=amount_fen,
            believed_fen=believed_fen,
            document_no=document_no,
            reason=reason,
            received_on=received_on,
            by=asked_by,
            by_id=asked_by_id,
            now=now,
        )
        return await approve_ending_claim(
            incident_id=incident_id,
            believed_fen=amount_fen,
            by=approved_by,
            by_id=approved_by_id,
            now=now + A_MOMENT,
        )


def _check_day(kind: ClaimEnd, received_on: date | None, now: datetime) -> None:
    """Money that came back came back on a day that has been; what is given up has none."""
    if kind is ClaimEnd.WRITTEN_OFF:
        if received_on is not None:
            raise InvalidInput(field="received_on")
    elif received_on is None or received_on > beijing_day(now):
        raise InvalidInput(field="received_on")


async def _lock(db: BaseDBAsyncClient, incident_id: UUID) -> _Case:
    """The arrival, then the incident: as settling outside takes them."""
    incident = await Incident.get_or_none(id=incident_id)
    if incident is None:
        raise IncidentNotFound(incident_id=str(incident_id))
    may_be = Deed.END_CLAIM in refund_rules.legal_deeds(incident.kind)
    if not may_be or not incident.channel_trade_no:
        raise NoClaim
    money = await arrival_by_key(rules.arrival_key(incident.account_id, incident.channel_trade_no))
    if money is None:
        raise NoClaim
    await lock_standings(db, [money], [])
    incident = await Incident.select_for_update().get(id=incident_id)
    if incident.state is not IncidentState.OPEN:
        raise IncidentAlreadyResolved(incident_id=str(incident_id))
    claim_fen = await open_claim_fen(money.account_id, money.our_no, money.channel_no)
    if claim_fen <= 0:
        raise NoClaim
    return _Case(incident, money, claim_fen)


async def _check_nothing_under_way(db: BaseDBAsyncClient, case: _Case) -> None:
    """Raises RefundUnderWay."""
    (standing,) = await lock_standings(db, [case.money], [])
    for refund in standing.refunds:
        if refund.now.state in refund_rules.IN_FLIGHT:
            raise RefundUnderWay(refund_no=refund.now.refund_no)


async def _wish(case: _Case, by: Person) -> ClaimSettlement:
    """What the maker asked about this claim, to be answered by another person: under whichever of
    its incidents."""
    wish = await ClaimSettlement.get_or_none(arrival_id=case.money.id, state=OutsideState.ASKED)
    if wish is None:
        raise ClaimEndNotAsked
    require_another(wish, by)
    return wish


def _transfer(wish: ClaimSettlement, money: ArrivedMoney, now: datetime) -> TransferInput:
    where = received_outside if wish.kind is ClaimEnd.RECOVERED else written_off
    return TransferInput(
        id=str(ids.row_id(now)),
        idempotency_key=f"claim_end:{wish.id}",
        kind=BOOKED[wish.kind],
        region=money.region,
        order_id=money.order_id,
        our_no=money.our_no,
        channel_no=money.channel_no,
        occurred_at=now,
        legs=[
            Leg(where(money.account_id), debit_fen=wish.amount_fen),
            Leg(overpaid_back(money.account_id), credit_fen=wish.amount_fen),
        ],
    )


async def _resolve(
    db: BaseDBAsyncClient,
    case: _Case,
    wish: ClaimSettlement,
    by: Person,
    transfer_id: str,
    now: datetime,
) -> None:
    """Every incident of this claim: two refunds of one arrival may have made it."""
    await db.execute_query_dict(
        """update incident set state = 'resolved', resolved_at = $1::timestamptz,
           resolved_by = $2, resolution = $3
           where kind = $4 and account_id = $5 and channel_trade_no = $6 and state = 'open'""",
        [
            now,
            by.shown,
            f"多退应收已结清：{claim_words(wish)}，凭证 {transfer_id}",
            str(IncidentKind.REFUND_OVERPAID),
            case.money.account_id,
            case.incident.channel_trade_no,
        ],
    )
