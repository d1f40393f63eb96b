"""Money in suspense that is settled outside the channels (线下处理): asked by a maker with a
document, booked by a checker. It leaves suspense by a transfer of its own, never by words."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import (
    ArrivedMoney,
    Leg,
    TransferInput,
    arrival_by_key,
    post_many,
    settled_outside,
    suspense,
)
from estation.payments import refund_rules, rules
from estation.payments.actions.refunds.ask import Standing, lock_standings
from estation.payments.actions.refunds.wishes import decide, require_another
from estation.payments.actions.storing import note_deed_of
from estation.payments.errors import (
    IncidentAlreadyResolved,
    IncidentNotFound,
    NothingToSettleOutside,
    OutsideAlreadyAsked,
    OutsideNotAsked,
    RefundableChanged,
)
from estation.payments.models import Incident, OutsideSettlement
from estation.payments.persons import Person, person
from estation.payments.refund_rules import MAX_NOTE, Deed
from estation.payments.rules import IncidentState, OutsideState
from estation.shared import ids
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text

MAX_REASON, MAX_DOCUMENT_NO = 200, 64

ASKED, REJECTED, SETTLED = "outside_asked", "outside_rejected", "settled_outside"


@dataclass(frozen=True, slots=True)
class _Case:
    """An open incident and its money in suspense, both locked."""

    incident: Incident
    standing: Standing


async def ask_to_settle_outside(
    *,
    incident_id: UUID,
    believed_fen: int,
    reason: str,
    document_no: str,
    by: str,
    by_id: UUID | None = None,
    now: datetime,
) -> UUID:
    """A maker says that what is left of the incident's money was dealt with outside, and by
    which document; the wish's id. Nothing moves before a checker agrees.

    Refuses IncidentNotFound, IncidentAlreadyResolved, NothingToSettleOutside,
    RefundableChanged (412, with the present sum), OutsideAlreadyAsked, InvalidInput.
    """
    said = typed_text("reason", reason, most=MAX_REASON)
    number = typed_text("document_no", document_no, most=MAX_DOCUMENT_NO)
    maker = person(by, by_id)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        _check_sum(case.standing, believed_fen)
        money = case.standing.money
        asked = OutsideSettlement.filter(arrival_id=money.id, state=OutsideState.ASKED)
        if await asked.exists():
            raise OutsideAlreadyAsked
        wish = OutsideSettlement(
            id=ids.row_id(now),
            incident_id=incident_id,
            arrival_id=money.id,
            account_id=money.account_id,
            amount_fen=believed_fen,
            state=OutsideState.ASKED,
            reason=said,
            document_no=number,
            asked_by=maker.shown,
            asked_by_id=maker.account,
            asked_at=now,
        )
        await wish.save(force_create=True)
        await note_deed_of(db, case.incident.dedupe_key, ASKED, maker, f"{said}（{number}）", now)
    return wish.id


async def approve_settling_outside(
    *,
    incident_id: UUID,
    believed_fen: int,
    by: str,
    by_id: UUID | None = None,
    note: str = "",
    now: datetime,
) -> str:
    """The checker's yes: what is left moves from suspense to the account of money settled
    outside; the transfer's id. The incident is resolved by it, unless a refund of the rest still
    waits for its own checker. One transaction.

    Refuses IncidentNotFound, IncidentAlreadyResolved, NothingToSettleOutside, OutsideNotAsked,
    RefundableChanged (412: not the sum the checker saw, or more or less is left by now),
    SecondPersonNeeded (the maker may not check), InvalidInput; nothing is changed then.
    """
    said = typed_text("note", note, most=MAX_NOTE, least=0)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        checker = person(by, by_id)
        wish = await _wish(case, checker)
        if wish.amount_fen != believed_fen:
            raise RefundableChanged(refundable_fen=wish.amount_fen)
        _check_sum(case.standing, wish.amount_fen)
        (transfer_id,) = await post_many([_transfer(wish, case.standing.money, now)], now=now)
        await decide(wish, OutsideState.APPROVED, checker, said, now, UUID(transfer_id))
        await note_deed_of(
            db,
            case.incident.dedupe_key,
            SETTLED,
            checker,
            wish.document_no,
            now,
            transfer_id=UUID(transfer_id),
        )
        if refund_rules.unsettled_fen(
            case.standing.money.amount_fen,
            [(one.now.state, one.now.amount_fen) for one in case.standing.refunds],
            case.standing.settled_fen + wish.amount_fen,
        ):
            return transfer_id
        await db.execute_query_dict(
            """update incident set state = 'resolved', resolved_at = $1::timestamptz,
               resolved_by = $2, resolution = $3 where id = $4""",
            [
                now,
                checker.shown,
                f"已线下处理：{wish.reason}（{wish.document_no}），凭证 {transfer_id}",
                incident_id,
            ],
        )
    return transfer_id


async def reject_settling_outside(
    *, incident_id: UUID, by: str, by_id: UUID | None = None, note: str, now: datetime
) -> None:
    """The checker's no, with its reason. Refuses as `approve_settling_outside`, and
    InvalidInput."""
    said = typed_text("note", note, most=MAX_NOTE)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        checker = person(by, by_id)
        wish = await _wish(case, checker)
        await decide(wish, OutsideState.REJECTED, checker, said, now)
        await note_deed_of(db, case.incident.dedupe_key, REJECTED, checker, said, now)


async def _lock(db: BaseDBAsyncClient, incident_id: UUID) -> _Case:
    """The arrival, then the incident: as applying and resolving take them."""
    incident = await Incident.get_or_none(id=incident_id)
    if incident is None:
        raise IncidentNotFound(incident_id=str(incident_id))
    may_be = Deed.SETTLE_OUTSIDE in refund_rules.legal_deeds(incident.kind)
    if not may_be or not incident.channel_trade_no:
        raise NothingToSettleOutside
    money = await arrival_by_key(rules.arrival_key(incident.account_id, incident.channel_trade_no))
    if money is None or money.kind != "suspense":
        raise NothingToSettleOutside
    (standing,) = await lock_standings(db, [money], [])
    incident = await Incident.select_for_update().get(id=incident_id)
    if incident.state is not IncidentState.OPEN:
        raise IncidentAlreadyResolved(incident_id=str(incident_id))
    return _Case(incident, standing)


def _check_sum(standing: Standing, believed_fen: int) -> None:
    if standing.refundable_fen != believed_fen:
        raise RefundableChanged(refundable_fen=standing.refundable_fen)
    if not standing.refundable_fen:
        raise NothingToSettleOutside


async def _wish(case: _Case, by: Person) -> OutsideSettlement:
    """What the maker asked about this money, to be answered by another person: under whichever
    of its incidents, for that one may be resolved by now."""
    wish = await OutsideSettlement.get_or_none(
        arrival_id=case.standing.money.id, state=OutsideState.ASKED
    )
    if wish is None:
        raise OutsideNotAsked
    require_another(wish, by)
    return wish


def _transfer(wish: OutsideSettlement, money: ArrivedMoney, now: datetime) -> TransferInput:
    return TransferInput(
        id=str(ids.row_id(now)),
        idempotency_key=f"settled_outside:{wish.id}",
        kind=SETTLED,
        region=money.region,
        order_id=money.order_id,
        our_no=money.our_no,
        channel_no=money.channel_no,
        occurred_at=now,
        legs=[
            Leg(suspense(money.account_id), debit_fen=wish.amount_fen),
            Leg(settled_outside(money.account_id), credit_fen=wish.amount_fen),
        ],
    )
