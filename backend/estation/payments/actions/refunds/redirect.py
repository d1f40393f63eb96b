"""An abnormal refund to the merchant's own card: asked by a maker, ordered by a checker."""

from datetime import datetime
from uuid import UUID

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.pay_channels import ChannelError, ChannelRefused
from estation.payments.actions.asking import channel_of
from estation.payments.actions.refund_locking import LockedRefund, lock_refunds
from estation.payments.actions.refund_writing import refund_incident, refund_incident_key
from estation.payments.actions.settle import from_refund, settle_batch
from estation.payments.actions.storing import FINANCE, note_deed_of, put_incidents
from estation.payments.errors import (
    RedirectNotAsked,
    RedirectRefused,
    RefundNotAbnormal,
    RefundNotFound,
    SecondPersonNeeded,
)
from estation.payments.models import IncidentAction, Refund
from estation.payments.persons import Person, is_same, person
from estation.payments.refund_rules import MAX_NOTE, REDIRECT_REFUSED, SYSTEM, Deed
from estation.payments.rules import IncidentKind, RefundState
from estation.services import Services
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text

log = structlog.get_logger()

ASKED, REJECTED, ORDERED = "redirect_asked", "redirect_rejected", Deed.REDIRECT_REFUND.value


async def ask_redirect(
    *, refund_id: UUID, by: str, by_id: UUID | None = None, note: str = "", now: datetime
) -> None:
    """A maker says that this refund should go to our own card; only the history changes.

    Refuses RefundNotFound, RefundNotAbnormal, InvalidInput.
    """
    said = typed_text("note", note, most=MAX_NOTE, least=0)
    async with in_transaction() as db:
        refund = await _lock_abnormal(db, refund_id)
        # There is always an incident to write it under, whatever became of the first.
        told = refund_incident(IncidentKind.REFUND_ABNORMAL, refund, {}, owner=FINANCE)
        await put_incidents(db, [told], now=now)
        await _note(db, refund, ASKED, person(by, by_id), said, now)


async def redirect_abnormal(
    *, refund_id: UUID, by: str, by_id: UUID | None = None, services: Services, now: datetime
) -> None:
    """The checker's yes: the channel pays the refund to the merchant's own card, from where
    finance pays the citizen by transfer. The order is in the incident's history before the
    channel is asked, and the channel's certain no after it; when it failed, a checker may have it
    asked again.

    Refuses RefundNotFound, RefundNotAbnormal, RedirectNotAsked, SecondPersonNeeded (the maker
    may not check), RedirectRefused (by the channel).
    """
    async with in_transaction() as db:
        refund = await _lock_abnormal(db, refund_id)
        checker = person(by, by_id)
        await _check_second(refund, checker, may_repeat=True)
        await _note(db, refund, ORDERED, checker, "", now)
    try:
        report = await channel_of(refund.now.account_id, services).redirect_refund(
            refund.now.refund_no, channel_refund_no=refund.channel_refund_no or ""
        )
    except ChannelError as trouble:
        log.warning("redirect_failed", refund_no=refund.now.refund_no, code=trouble.code)
        if isinstance(trouble, ChannelRefused):
            async with in_transaction() as db:
                await _note(db, refund, REDIRECT_REFUSED, Person(SYSTEM), trouble.code, now)
        raise RedirectRefused(reason=trouble.code) from None
    await settle_batch([from_refund(report)], now=now)


async def reject_redirect(
    *, refund_id: UUID, by: str, by_id: UUID | None = None, note: str, now: datetime
) -> None:
    """The checker's no, with its reason. Refuses as `redirect_abnormal`, and InvalidInput."""
    said = typed_text("note", note, most=MAX_NOTE)
    async with in_transaction() as db:
        refund = await _lock_abnormal(db, refund_id)
        checker = person(by, by_id)
        await _check_second(refund, checker, may_repeat=False)
        await _note(db, refund, REJECTED, checker, said, now)


async def last_word(refund_id: UUID) -> IncidentAction | None:
    """What was last said about redirecting this refund."""
    return (
        await IncidentAction.filter(refund_id=refund_id, action__in=[ASKED, REJECTED, ORDERED])
        .order_by("-at", "-id")
        .first()
    )


async def _lock_abnormal(db: BaseDBAsyncClient, refund_id: UUID) -> LockedRefund:
    found = await Refund.get_or_none(id=refund_id)
    if found is None:
        raise RefundNotFound(refund_id=str(refund_id))
    refund = (await lock_refunds(db, [found.refund_no]))[found.refund_no]
    if refund.now.state is not RefundState.ABNORMAL or not refund.channel_refund_no:
        raise RefundNotAbnormal(state=refund.now.state)
    return refund


async def _check_second(refund: LockedRefund, by: Person, *, may_repeat: bool) -> None:
    """`may_repeat`: two persons ordered it already, and the channel did not do it."""
    last = await last_word(refund.now.id)
    if last is not None and last.action == ORDERED and may_repeat:
        return
    if last is None or last.action != ASKED:
        raise RedirectNotAsked
    if is_same(Person(last.by, last.by_id), by):
        raise SecondPersonNeeded


async def _note(
    db: BaseDBAsyncClient, refund: LockedRefund, deed: str, by: Person, note: str, now: datetime
) -> None:
    key = refund_incident_key(IncidentKind.REFUND_ABNORMAL, refund.now)
    await note_deed_of(db, key, deed, by, note, now, refund_id=refund.now.id)
