"""What arrives through the gate about fees."""

from collections.abc import Collection, Sequence
from typing import cast
from uuid import UUID

import structlog
from msgspec import Struct
from tortoise import Tortoise

from estation.fees.actions import IncomingBill, IncomingItem, merge_bills
from estation.fees.rules import STATE_OF_ROW, fault_of
from estation.identity.api import BadPerson, upsert_persons
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival, Handler
from estation.outside.gate.rows import FeeBillRow
from estation.shared.crypto import Vault
from estation.shared.fields import MAX_FEN

log = structlog.get_logger()


def make_handler(vault: Vault, *, payees: Collection[str]) -> Handler:
    """The handler of topic `fee_bill`.

    Raises RowRefused naming the bill for a row that can never be right: amounts that do not add
    up, an unknown payee, an impossible identity number.
    """

    async def apply_fee_bills(rows: Sequence[Struct], arrival: Arrival) -> None:
        bills = [cast("FeeBillRow", row) for row in rows]
        for bill in bills:
            fault = fault_of(bill, payees=payees, most_fen=MAX_FEN)
            if fault:
                raise RowRefused(f"fee_bill {bill.source_id} v{bill.version}: {fault}")
        try:
            persons = await upsert_persons(
                [bill.payer for bill in bills], vault=vault, now=arrival.watermark
            )
        except BadPerson as bad:
            raise RowRefused(f"fee_bill payer: {bad.reason}") from None
        await merge_bills(
            Tortoise.get_connection("default"),
            [_incoming(bill, persons[bill.payer.id_type, bill.payer.id_no]) for bill in bills],
            data_as_of=arrival.watermark,
            now=arrival.watermark,
        )
        log.info("fee_bills_applied", stream=arrival.stream, seq=arrival.seq, rows=len(bills))

    return apply_fee_bills


def _incoming(bill: FeeBillRow, payer_id: UUID) -> IncomingBill:
    return IncomingBill(
        source=bill.source,
        source_id=bill.source_id,
        version=bill.version,
        region=bill.region,
        bill_no=bill.bill_no,
        case_source_id=bill.case_source_id,
        payer_id=payer_id,
        title=bill.title,
        state=STATE_OF_ROW[bill.state],
        total_fen=bill.total_fen,
        issued_at=bill.issued_at,
        due_on=bill.due_on.isoformat() if bill.due_on else None,
        items=[
            IncomingItem(
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
            for item in bill.items
        ],
    )
