"""Writing into the register (登簿): units, rights with their certificates, restrictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction
from uuid import UUID

import structlog
from tortoise import Tortoise

from estation.inner import outgoing, rules
from estation.inner.actions.numbers import take_certificate_numbers, take_numbers
from estation.inner.errors import (
    BadEntry,
    RestrictionLifted,
    RestrictionNotFound,
    RightNotCurrent,
    RightNotFound,
    UnitNotFound,
)
from estation.inner.models import Certificate, Restriction, Right, RightHolder, Unit
from estation.settings import InnerSettings
from estation.shared import identity_papers, ids
from estation.shared.clock import beijing_day
from estation.shared.fields import MAX_FEN
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

BATCH = 500
PROOF_KINDS = frozenset({"mortgage", "prenotice", "mortgage_prenotice", "easement", "residence"})
"""For these a 证明 is issued, for the others a 证书 (facts/domain §1.2)."""
MORTGAGES = frozenset({"mortgage", "mortgage_prenotice"})


@dataclass(frozen=True, slots=True)
class NewHolder:
    """Who will hold a right; shares only where it is held by shares."""

    name: str
    id_type: str
    id_no: str
    kind: str = "1"
    share: Fraction | None = None


@dataclass(frozen=True, slots=True)
class NewMortgage:
    """What only a mortgage has."""

    secured_fen: int
    debt_from: date
    debt_until: date
    rank: int = 1
    transfer_limited: bool = False


@dataclass(frozen=True, slots=True)
class NewRight:
    """A right to be registered; `kind` and `national_code` as in `rows.RightRow`."""

    kind: str
    national_code: str
    unit_code: str
    holders: Sequence[NewHolder]
    registered_at: datetime
    until: date | None = None
    case_no: str = ""
    mortgage: NewMortgage | None = None


@dataclass(frozen=True, slots=True)
class NewRestriction:
    """A restriction ordered by `organ`; `queue_position` counts those that stand before it."""

    kind: str
    unit_code: str
    organ: str
    document_no: str
    since: date
    until: date | None
    registered_at: datetime
    scope: str = "全部"
    queue_position: int = 0


async def add_units(units: Sequence[Unit], *, settings: InnerSettings, now: datetime) -> None:
    """New units, all or none. One transaction, gate rows included."""
    async with in_transaction():
        await Unit.bulk_create(units, batch_size=BATCH)
        await outgoing.send_units([unit.unit_code for unit in units], settings=settings, now=now)


async def register_rights(
    new_rights: Sequence[NewRight], *, settings: InnerSettings, now: datetime
) -> list[str]:
    """Register rights and issue their certificates, all or none; the rights' numbers, in order.

    Raises BadEntry naming what contradicts itself, UnitNotFound.
    """
    for new in new_rights:
        _check_right(new, today=beijing_day(now))
    async with in_transaction():
        await _require_units({new.unit_code for new in new_rights})
        numbers = await take_numbers("QL", [new.registered_at for new in new_rights])
        right_ids = ids.row_ids(now, len(new_rights))
        await Right.bulk_create(
            [
                _right(right_id, number, new)
                for right_id, number, new in zip(right_ids, numbers, new_rights, strict=True)
            ],
            batch_size=BATCH,
        )
        await RightHolder.bulk_create(
            [
                _holder(right_id, seq, holder, now)
                for right_id, new in zip(right_ids, new_rights, strict=True)
                for seq, holder in enumerate(new.holders, 1)
            ],
            batch_size=BATCH,
        )
        await _issue_certificates(right_ids, new_rights, now)
        await outgoing.send_rights(right_ids, settings=settings, now=now)
    log.info("rights_registered", count=len(numbers))
    return numbers


async def end_right(right_no: str, *, settings: InnerSettings, now: datetime) -> int:
    """The right is history and its certificate void (注销); the new version.

    Raises RightNotFound, RightNotCurrent.
    """
    async with in_transaction():
        right = await Right.select_for_update().get_or_none(right_no=right_no)
        if right is None:
            raise RightNotFound()
        if right.state != "current":
            raise RightNotCurrent()
        right.state = "historical"
        right.version += 1
        await right.save()
        await Certificate.filter(right_id=right.id).update(state="cancelled", version=right.version)
        await outgoing.send_rights([right.id], settings=settings, now=now)
    log.info("right_ended", right_no=right_no)
    return right.version


async def register_restrictions(
    new_restrictions: Sequence[NewRestriction], *, settings: InnerSettings, now: datetime
) -> list[str]:
    """Register restrictions, all or none; their numbers, in order.

    Raises BadEntry, UnitNotFound.
    """
    for new in new_restrictions:
        rules.require_text(new.organ, "organ", 128, may_be_empty=False)
        if new.until is not None and new.until < new.since:
            raise BadEntry(field="until")
    async with in_transaction():
        await _require_units({new.unit_code for new in new_restrictions})
        numbers = await take_numbers("XZ", [new.registered_at for new in new_restrictions])
        rows = [
            Restriction(
                id=ids.row_id(now),
                restriction_no=number,
                version=1,
                unit_id=new.unit_code,
                kind=new.kind,
                organ=new.organ,
                document_no=new.document_no,
                since=new.since,
                until=new.until,
                scope=new.scope,
                queue_position=new.queue_position,
                state="queued" if new.queue_position else "in_force",
                registered_at=new.registered_at,
                lifted_by="",
                lifted_document_no="",
            )
            for number, new in zip(numbers, new_restrictions, strict=True)
        ]
        await Restriction.bulk_create(rows, batch_size=BATCH)
        await outgoing.send_restrictions([row.id for row in rows], settings=settings, now=now)
    log.info("restrictions_registered", count=len(numbers))
    return numbers


async def lift_restriction(
    restriction_no: str, *, organ: str, document_no: str, settings: InnerSettings, now: datetime
) -> None:
    """Lift it (解封); those that waited behind it on the same unit move up by one.

    Raises RestrictionNotFound, RestrictionLifted.
    """
    async with in_transaction():
        lifted = await Restriction.get_or_none(restriction_no=restriction_no)
        if lifted is None:
            raise RestrictionNotFound()
        # The whole queue of the unit, in one order, so that two lifts do not cross.
        queue = await Restriction.filter(unit_id=lifted.unit_id).order_by("id").select_for_update()
        changed = []
        place = next(row.queue_position for row in queue if row.id == lifted.id)
        for row in queue:
            if row.id == lifted.id:
                if row.state == "lifted":
                    raise RestrictionLifted()
                row.state, row.lifted_at = "lifted", now
                row.lifted_by, row.lifted_document_no = organ, document_no
            elif row.state == "queued" and row.queue_position > place:
                row.queue_position -= 1
                row.state = "queued" if row.queue_position else "in_force"
            else:
                continue
            row.version += 1
            await row.save()
            changed.append(row.id)
        await outgoing.send_restrictions(changed, settings=settings, now=now)
    log.info("restriction_lifted", restriction_no=restriction_no, moved=len(changed) - 1)


def _check_right(new: NewRight, *, today: date) -> None:
    if not new.holders:
        raise BadEntry(field="holders")
    for seq, holder in enumerate(new.holders, 1):
        rules.require_text(holder.name, "name", 128, seq=seq, may_be_empty=False)
        if not identity_papers.valid_paper(holder.id_type, holder.id_no, today=today):
            raise BadEntry(seq=seq, field="id_no")
    shares = [holder.share for holder in new.holders if holder.share is not None]
    if shares and (len(shares) != len(new.holders) or min(shares) <= 0 or sum(shares) > 1):
        raise BadEntry(field="share")
    if (new.kind in MORTGAGES) != (new.mortgage is not None):
        raise BadEntry(field="mortgage")
    debt = new.mortgage
    if debt and (not 0 < debt.secured_fen <= MAX_FEN or debt.debt_until < debt.debt_from):
        raise BadEntry(field="mortgage")


async def _require_units(unit_codes: set[str]) -> None:
    found = await Tortoise.get_connection("default").execute_query_dict(
        "select count(*) as n from unit where unit_code = any($1::text[])", [list(unit_codes)]
    )
    if found[0]["n"] != len(unit_codes):
        raise UnitNotFound(field="unit_code")


def _right(right_id: UUID, number: str, new: NewRight) -> Right:
    debt = new.mortgage
    if len(new.holders) == 1:
        holding = "sole"
    else:
        holding = "shares" if new.holders[0].share is not None else "joint"
    if holding == "sole" and new.holders[0].share is not None:
        holding = "shares"
    return Right(
        id=right_id,
        right_no=number,
        version=1,
        kind=new.kind,
        national_code=new.national_code,
        unit_id=new.unit_code,
        holding=holding,
        registered_at=new.registered_at,
        until=new.until,
        state="current",
        case_no=new.case_no,
        secured_fen=debt.secured_fen if debt else None,
        debt_from=debt.debt_from if debt else None,
        debt_until=debt.debt_until if debt else None,
        rank=debt.rank if debt else None,
        transfer_limited=debt.transfer_limited if debt else None,
    )


def _holder(right_id: UUID, seq: int, holder: NewHolder, now: datetime) -> RightHolder:
    return RightHolder(
        id=ids.row_id(now),
        right_id=right_id,
        seq=seq,
        name=holder.name,
        id_type=holder.id_type,
        id_no=holder.id_no,
        kind=holder.kind,
        share_numerator=holder.share.numerator if holder.share else 0,
        share_denominator=holder.share.denominator if holder.share else 0,
    )


async def _issue_certificates(
    right_ids: Sequence[UUID], new_rights: Sequence[NewRight], now: datetime
) -> None:
    for kind in ("title", "proof"):
        wanted = [
            (right_id, new)
            for right_id, new in zip(right_ids, new_rights, strict=True)
            if (new.kind in PROOF_KINDS) == (kind == "proof")
        ]
        years = [beijing_day(new.registered_at).year for _, new in wanted]
        numbers = await take_certificate_numbers(kind, years)
        await Certificate.bulk_create(
            [
                Certificate(
                    id=ids.row_id(now),
                    number=number,
                    version=1,
                    kind=kind,
                    print_no="",
                    right_id=right_id,
                    issued_at=new.registered_at,
                    state="valid",
                )
                for number, (right_id, new) in zip(numbers, wanted, strict=True)
            ],
            batch_size=BATCH,
        )
