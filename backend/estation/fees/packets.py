"""What arrives through the gate about fees."""

from collections.abc import Collection, Sequence
from typing import cast

import structlog
from msgspec import Struct
from tortoise import Tortoise

from estation.fees.actions import (
    IncomingBill,
    is_known,
    keep_as_sent,
    known_bills,
    merge_bills,
)
from estation.fees.repairing import withdraw_bills
from estation.fees.rules import fault_of
from estation.identity.api import BadPerson, Speaker, upsert_persons
from estation.outside.gate import replicas
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival, Handler
from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import FeeBillRow
from estation.shared.crypto import Vault
from estation.shared.fields import MAX_FEN

log = structlog.get_logger()

replicas.register(Replica("fee_bill", "bill", withdraw=withdraw_bills))


def make_handler(vault: Vault, *, payees: Collection[str]) -> Handler:
    """The handler of topic `fee_bill`.

    Raises RowRefused naming the bill for a row that can never be right: amounts that do not add
    up, an unknown payee, an impossible identity number.
    """

    async def apply_fee_bills(rows: Sequence[Struct], arrival: Arrival) -> None:
        bills = [cast("FeeBillRow", row) for row in rows]
        for bill in bills:
            fault = arrival.fault_of(bill) or fault_of(bill, payees=payees, most_fen=MAX_FEN)
            if fault:
                raise RowRefused(f"{_name(bill)}: {fault}")
        db = Tortoise.get_connection("default")
        known = await known_bills(db, bills)
        sent = list(zip(bills, arrival.as_sent(rows), strict=True))
        news = [
            (bill, as_sent)
            for bill, as_sent in sent
            if arrival.repairs or not is_known(bill, known)
        ]
        try:
            persons = await upsert_persons(
                [bill.payer for bill, _ in news],
                vault=vault,
                by=Speaker(arrival.peer, arrival.reach),
                now=arrival.watermark,
            )
        except BadPerson as bad:
            raise RowRefused(f"{_name(news[bad.position][0])}: payer {bad.reason}") from None
        incoming = [
            IncomingBill(bill, persons[bill.payer.id_type, bill.payer.id_no], as_sent.digest)
            for bill, as_sent in news
        ]
        fates = await merge_bills(
            db, incoming, data_as_of=arrival.watermark, known=known, repairs=arrival.repairs
        )
        await keep_as_sent(db, sent, vault=vault, data_as_of=arrival.watermark)
        counts = {str(fate): met for fate, met in fates.items() if met}
        log.info(
            "fee_bills_applied",
            stream=arrival.stream,
            seq=arrival.seq,
            known=len(bills) - len(news),
            **counts,
        )

    return apply_fee_bills


def _name(bill: FeeBillRow) -> str:
    """Which row it is, for the staff who have to mend it; no personal data."""
    return f"fee_bill {bill.source_id} v{bill.version}"
