"""Issuing, revising and withdrawing fee bills; every version stays in the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import structlog
from tortoise import Tortoise
from tortoise.exceptions import IntegrityError

from estation.inner import outgoing, queries, rules
from estation.inner.actions.numbers import take_numbers
from estation.inner.errors import (
    BillChanged,
    BillExists,
    BillNotFound,
    CaseNotFound,
    CaseNotOpen,
    PayerNotInCase,
)
from estation.inner.models import FeeBill, FeeBillItem, FeeBillVersion
from estation.inner.rules import BillMove, BillState, CaseState, Item
from estation.settings import InnerSettings
from estation.shared import ids
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

BATCH = 500


@dataclass(frozen=True, slots=True)
class NewBill:
    """One payer's bill. `bill_id` is made with the form, so that sending it twice is harmless."""

    bill_id: UUID
    case_no: str
    payer_seq: int
    title: str
    issued_at: datetime
    due_on: date | None
    items: Sequence[Item]


async def issue_bills(
    new_bills: Sequence[NewBill], *, made_by: str, settings: InnerSettings, now: datetime
) -> list[str]:
    """Issue bills, all or none; their 缴款单号, in order. One transaction, gate rows included.

    Raises CaseNotFound, CaseNotOpen, PayerNotInCase, TextMissing, TextTooLong, and what
    `rules.total_of` raises.
    """
    payees = payee_codes(settings)
    totals = [rules.total_of(new.items, payee_codes=payees) for new in new_bills]
    for new in new_bills:
        rules.require_text(new.title, "title", 128, may_be_empty=False)
    async with in_transaction():
        cases = await _lock_open_cases([new.case_no for new in new_bills])
        payers = await _payers([cases[new.case_no] for new in new_bills])
        numbers = await take_numbers("JF", [new.issued_at for new in new_bills])
        rows = [
            FeeBill(
                id=new.bill_id,
                bill_no=number,
                case_id=cases[new.case_no],
                payer_id=_payer(payers, cases[new.case_no], new.payer_seq),
                title=new.title,
                state=BillState.ISSUED,
                version=1,
                total_fen=total,
                issued_at=new.issued_at,
                due_on=new.due_on,
                changed_at=now,
            )
            for new, number, total in zip(new_bills, numbers, totals, strict=True)
        ]
        await FeeBill.bulk_create(rows, batch_size=BATCH)
        await _write_versions(rows, reason="", made_by=made_by, now=now)
        await _write_items({new.bill_id: (1, new.items) for new in new_bills}, now=now)
        await outgoing.send_bills([row.id for row in rows], settings=settings, now=now)
    log.info("bills_issued", count=len(numbers), first=numbers[0] if numbers else "")
    return numbers


async def issue_bill(new: NewBill, *, made_by: str, settings: InnerSettings, now: datetime) -> str:
    """As `issue_bills`, for the one at the counter.

    The same form sent again gives the same 缴款单号; with other content it raises BillExists.
    """
    try:
        return (await issue_bills([new], made_by=made_by, settings=settings, now=now))[0]
    except IntegrityError:
        before = await FeeBill.get_or_none(id=new.bill_id)
        if before is None:
            raise
    total = rules.total_of(new.items, payee_codes=payee_codes(settings))
    if (before.version, before.total_fen, before.title) != (1, total, new.title):
        raise BillExists(bill_no=before.bill_no)
    return before.bill_no


async def revise_bill(
    bill_no: str,
    *,
    expected_version: int,
    title: str,
    due_on: date | None,
    items: Sequence[Item],
    reason: str,
    made_by: str,
    settings: InnerSettings,
    now: datetime,
) -> int:
    """Replace what is due by a new version; its number. One transaction.

    Raises BillNotFound, BillPaid, BillWithdrawn, BillChanged (someone else was faster),
    TextMissing (a reason is required), and what `rules.total_of` raises.
    """
    rules.require_text(title, "title", 128, may_be_empty=False)
    rules.require_text(reason, "reason", 256, may_be_empty=False)
    total = rules.total_of(items, payee_codes=payee_codes(settings))
    async with in_transaction():
        bill = await _lock_bill(bill_no, BillMove.REVISE, expected_version)
        bill.version += 1
        bill.state, bill.paid_at, bill.paid_version = BillState.ISSUED, None, None
        bill.title, bill.due_on, bill.total_fen = title, due_on, total
        bill.issued_at = bill.changed_at = now
        await bill.save()
        await _write_versions([bill], reason=reason, made_by=made_by, now=now)
        await _write_items({bill.id: (bill.version, items)}, now=now)
        await outgoing.send_bills([bill.id], settings=settings, now=now)
    log.info("bill_revised", bill_no=bill_no, version=bill.version, amount_fen=total)
    return bill.version


async def withdraw_bill(
    bill_no: str,
    *,
    expected_version: int,
    reason: str,
    made_by: str,
    settings: InnerSettings,
    now: datetime,
) -> int:
    """Nothing is due any more; a version of its own with the last items. One transaction.

    Raises BillNotFound, BillPaid, BillWithdrawn, BillChanged, TextMissing.
    """
    rules.require_text(reason, "reason", 256, may_be_empty=False)
    async with in_transaction():
        bill = await _lock_bill(bill_no, BillMove.WITHDRAW, expected_version)
        items = await queries.items_of(bill.id, bill.version)
        bill.version += 1
        bill.state, bill.paid_at, bill.paid_version = BillState.WITHDRAWN, None, None
        bill.changed_at = now
        await bill.save()
        await _write_versions([bill], reason=reason, made_by=made_by, now=now)
        await _write_items({bill.id: (bill.version, items)}, now=now)
        await outgoing.send_bills([bill.id], settings=settings, now=now)
    log.info("bill_withdrawn", bill_no=bill_no, version=bill.version)
    return bill.version


def payee_codes(settings: InnerSettings) -> frozenset[str]:
    return frozenset(payee.code for payee in settings.payees)


async def _lock_bill(bill_no: str, move: BillMove, expected_version: int) -> FeeBill:
    """The bill, locked, when this move is allowed. What it is comes before who was faster."""
    bill = await FeeBill.select_for_update().get_or_none(bill_no=bill_no)
    if bill is None:
        raise BillNotFound()
    rules.state_after(bill.state, move)
    if bill.version != expected_version:
        raise BillChanged(version=bill.version)
    return bill


async def _lock_open_cases(case_nos: Sequence[str]) -> dict[str, UUID]:
    """受理号 -> row id. The lock keeps a case from being closed while a bill is issued."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select id, case_no, state from case_file where case_no = any($1::text[])
           order by id for update""",
        [sorted(set(case_nos))],
    )
    found = {row["case_no"]: row for row in rows}
    for case_no in case_nos:
        if case_no not in found:
            raise CaseNotFound()
        if found[case_no]["state"] != CaseState.OPEN:
            raise CaseNotOpen()
    return {case_no: row["id"] for case_no, row in found.items()}


async def _payers(case_ids: Sequence[UUID]) -> dict[tuple[UUID, int], UUID]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        "select id, case_id, seq from case_party where case_id = any($1::uuid[])",
        [list(case_ids)],
    )
    return {(row["case_id"], row["seq"]): row["id"] for row in rows}


def _payer(payers: dict[tuple[UUID, int], UUID], case_id: UUID, seq: int) -> UUID:
    if (case_id, seq) not in payers:
        raise PayerNotInCase(field="payer")
    return payers[case_id, seq]


async def _write_versions(
    bills: Sequence[FeeBill], *, reason: str, made_by: str, now: datetime
) -> None:
    await FeeBillVersion.bulk_create(
        [
            FeeBillVersion(
                id=ids.row_id(now),
                bill_id=bill.id,
                version=bill.version,
                state=bill.state,
                total_fen=bill.total_fen,
                due_on=bill.due_on,
                reason=reason,
                made_by=made_by,
                made_at=bill.issued_at if bill.version == 1 else now,
            )
            for bill in bills
        ],
        batch_size=BATCH,
    )


async def _write_items(versions: dict[UUID, tuple[int, Sequence[Item]]], *, now: datetime) -> None:
    await FeeBillItem.bulk_create(
        [
            FeeBillItem(
                id=ids.row_id(now),
                bill_id=bill_id,
                version=version,
                seq=item.seq,
                code=item.code,
                name=item.name,
                payee_code=item.payee_code,
                base_fen=item.base_fen,
                rate=item.rate,
                relief_fen=item.relief_fen,
                amount_fen=item.amount_fen,
                formula=item.formula,
                legal_basis=item.legal_basis,
                note=item.note,
            )
            for bill_id, (version, items) in versions.items()
            for item in items
        ],
        batch_size=BATCH,
    )
