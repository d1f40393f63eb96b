"""Applying late money to its bill after all: asked by a maker, approved by a checker."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import ArrivedMoney, arrival_by_key
from estation.outside.pay_channels import Channel, ChannelReport, ChannelState
from estation.payments import refund_rules, rules
from estation.payments.actions.locking import Locked, LockedAttempt, lock_for_news
from estation.payments.actions.refunds.ask import Standing, lock_standings
from estation.payments.actions.settle import apply_from_suspense
from estation.payments.actions.storing import note_deed_of
from estation.payments.errors import (
    IncidentAlreadyResolved,
    IncidentNotFound,
    NothingToApply,
    SecondPersonNeeded,
)
from estation.payments.models import Incident, IncidentAction
from estation.payments.persons import Person, is_same, person
from estation.payments.refund_rules import APPLIED, MAX_NOTE, Deed
from estation.payments.rules import IncidentState, RefundState
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text

ASKED, REJECTED = "apply_asked", "apply_rejected"


@dataclass(frozen=True, slots=True)
class _Case:
    """An incident with its money, order and bills, all locked."""

    incident: Incident
    attempt: LockedAttempt
    locked: Locked
    report: ChannelReport


async def ask_to_apply(
    *, incident_id: UUID, by: str, by_id: UUID | None = None, note: str = "", now: datetime
) -> None:
    """A maker says that this late money should pay its bill; only the incident's history changes.

    Refuses IncidentNotFound, IncidentAlreadyResolved, NothingToApply, InvalidInput.
    """
    said = typed_text("note", note, most=MAX_NOTE, least=0)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        why = _why_not(case)
        if why:
            raise NothingToApply(why=why)
        await note_deed_of(db, case.incident.dedupe_key, ASKED, person(by, by_id), said, now)


async def approve_applying(
    *, incident_id: UUID, by: str, by_id: UUID | None = None, note: str = "", now: datetime
) -> str:
    """The checker's yes: suspense pays the payees and the order its bills, receipts leave, the
    incident is resolved by the transfer; its id. One transaction, through settle.

    Refuses IncidentNotFound, IncidentAlreadyResolved, NothingToApply (a bill changed, money is on
    its way back, nobody asked), SecondPersonNeeded, InvalidInput; nothing is changed then.
    """
    said = typed_text("note", note, most=MAX_NOTE, least=0)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        checker = person(by, by_id)
        await _check_second(case, checker)
        transfer_id = await apply_from_suspense(db, case.locked, case.attempt, case.report, now)
        await note_deed_of(
            db, case.incident.dedupe_key, APPLIED, checker, said, now, transfer_id=UUID(transfer_id)
        )
        await db.execute_query_dict(
            """update incident set state = 'resolved', resolved_at = $1::timestamptz,
               resolved_by = $2, resolution = $3 where id = $4""",
            [now, checker.shown, f"已入账到原缴费单，凭证 {transfer_id}", incident_id],
        )
    return transfer_id


async def reject_applying(
    *, incident_id: UUID, by: str, by_id: UUID | None = None, note: str, now: datetime
) -> None:
    """The checker's no, with its reason. Refuses as `approve_applying`, and InvalidInput."""
    said = typed_text("note", note, most=MAX_NOTE)
    async with in_transaction() as db:
        case = await _lock(db, incident_id)
        checker = person(by, by_id)
        await _check_second(case, checker)
        await note_deed_of(db, case.incident.dedupe_key, REJECTED, checker, said, now)


async def _lock(db: BaseDBAsyncClient, incident_id: UUID) -> _Case:
    """Order and bills, then the arrival, then the incident: as settle takes them."""
    incident = await Incident.get_or_none(id=incident_id)
    if incident is None:
        raise IncidentNotFound(incident_id=str(incident_id))
    if Deed.APPLY not in refund_rules.legal_deeds(incident.kind) or not incident.channel_trade_no:
        raise NothingToApply(why="not_this_kind")
    money = await arrival_by_key(rules.arrival_key(incident.account_id, incident.channel_trade_no))
    if money is None or money.kind != "suspense":
        raise NothingToApply(why="no_money")
    locked = await lock_for_news(db, [money.our_no])
    attempt = locked.attempts.get(money.our_no)
    if attempt is None:
        raise NothingToApply(why="no_order")
    (standing,) = await lock_standings(db, [money], [])
    _check_untouched(standing)
    await _check_no_open_order(db, attempt)
    incident = await Incident.select_for_update().get(id=incident_id)
    if incident.state is not IncidentState.OPEN:
        raise IncidentAlreadyResolved(incident_id=str(incident_id))
    return _Case(incident, attempt, locked, _as_report(money))


def _check_untouched(standing: Standing) -> None:
    """Nothing of it went back, is on its way, was applied already or settled outside."""
    harmless = (RefundState.REJECTED, RefundState.CLOSED)
    if any(refund.now.state not in harmless for refund in standing.refunds):
        raise NothingToApply(why="refunded")
    if standing.money.is_applied:
        raise NothingToApply(why="applied")
    if standing.settled_fen:
        raise NothingToApply(why="settled_outside")


async def _check_no_open_order(db: BaseDBAsyncClient, attempt: LockedAttempt) -> None:
    """Somebody may be paying the bill right now in another order."""
    rows = await db.execute_query_dict(
        "select 1 from pay_order_bill where is_open and bill_id = any($1::uuid[]) limit 1",
        [[bill.id for bill in attempt.order.bills]],
    )
    if rows:
        raise NothingToApply(why="in_another_order")


def _why_not(case: _Case) -> str:
    return rules.why_not_apply(
        attempt=case.attempt.now,
        order=case.attempt.order.now,
        bills=case.locked.bills_now(case.attempt.order),
        trade_no=case.report.channel_trade_no or "",
        amount_fen=case.report.paid_fen or 0,
    )


async def _check_second(case: _Case, by: Person) -> None:
    """The last word on applying must be another person's wish for it."""
    last = (
        await IncidentAction.filter(
            incident_id=case.incident.id, action__in=[ASKED, REJECTED, APPLIED]
        )
        .order_by("-at", "-id")
        .first()
    )
    if last is None or last.action != ASKED:
        raise NothingToApply(why="not_asked")
    if is_same(Person(last.by, last.by_id), by):
        raise SecondPersonNeeded


def _as_report(money: ArrivedMoney) -> ChannelReport:
    """What the channel said when the money came, from the books."""
    return ChannelReport(
        channel=Channel(money.account_id.partition(":")[0]),
        account_id=money.account_id,
        out_trade_no=money.our_no,
        state=ChannelState.PAID,
        channel_trade_no=money.channel_no,
        paid_fen=money.amount_fen,
        paid_at=money.occurred_at,
    )
