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
from estation.identity.api import BadPerson, SealedPersons, Speaker, put_persons, seal_persons
from estation.outside.gate import replicas
from estation.outside.gate.arriving import Arrival, Handler, TwoSteps
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import FeeBillRow
from estation.shared.crypto import Vault
from estation.shared.fields import MAX_FEN

log = structlog.get_logger()

replicas.register(Replica("fee_bill", "bill", withdraw=withdraw_bills))


def make_handler(vault: Vault, *, payees: Collection[str]) -> Handler:
    """The handler of topic `fee_bill`, in two steps: payers are judged and sealed before the turn.

    Raises RowRefused naming the bill for a row that can never be right: amounts that do not add
    up, an unknown payee, an impossible identity number.
    """
    handling = _Handling(vault, payees)
    return TwoSteps(handling.prepare, handling.apply)


class _Handling:
    """Of one program; all it remembers is a guess."""

    def __init__(self, vault: Vault, payees: Collection[str]) -> None:
        self._vault = vault
        self._payees = payees
        self._expects_news = True

    def prepare(self, rows: Sequence[Struct], arrival: Arrival) -> SealedPersons | None:
        """The payers of all bills, when most of the packet before was new to us: those of bills
        we have are neither sealed nor written."""
        if not self._expects_news:
            return None
        self._require_right(rows, arrival)
        return self._payers(rows, arrival)

    async def apply(
        self, rows: Sequence[Struct], arrival: Arrival, sealed: SealedPersons | None
    ) -> None:
        if sealed is None:
            self._require_right(rows, arrival)
        bills = [cast("FeeBillRow", row) for row in rows]
        db = Tortoise.get_connection("default")
        known = await known_bills(db, bills)
        sent = list(zip(bills, arrival.as_sent(rows), strict=True))
        news = (
            [(bill, as_sent) for bill, as_sent in sent if not is_known(bill, known)]
            if known and not arrival.repairs
            else sent
        )
        if sealed is None or len(news) < len(bills):
            # What a bill says of its payer that we know already must not count as said again.
            sealed = self._payers([bill for bill, _ in news], arrival)
        payers = await put_persons(sealed)
        incoming = [
            IncomingBill(bill, payer, as_sent.digest)
            for (bill, as_sent), payer in zip(news, payers, strict=True)
        ]
        fates = await merge_bills(
            db, incoming, data_as_of=arrival.watermark, known=known, repairs=arrival.repairs
        )
        await keep_as_sent(db, sent, vault=self._vault, data_as_of=arrival.watermark)
        self._expects_news = 2 * len(news) >= len(bills)
        counts = {str(fate): met for fate, met in fates.items() if met}
        log.info(
            "fee_bills_applied",
            stream=arrival.stream,
            seq=arrival.seq,
            known=len(bills) - len(news),
            **counts,
        )

    def _require_right(self, rows: Sequence[Struct], arrival: Arrival) -> None:
        for row in rows:
            bill = cast("FeeBillRow", row)
            fault = arrival.fault_of(bill) or fault_of(bill, payees=self._payees, most_fen=MAX_FEN)
            if fault:
                raise RowRefused(f"{_name(bill)}: {fault}")

    def _payers(self, rows: Sequence[Struct], arrival: Arrival) -> SealedPersons:
        bills = [cast("FeeBillRow", row) for row in rows]
        try:
            return seal_persons(
                [bill.payer for bill in bills],
                vault=self._vault,
                by=Speaker(arrival.peer, arrival.reach),
                now=arrival.watermark,
            )
        except BadPerson as bad:
            raise RowRefused(f"{_name(bills[bad.position])}: payer {bad.reason}") from None


def _name(bill: FeeBillRow) -> str:
    """Which row it is, for the staff who have to mend it; no personal data."""
    return f"fee_bill {bill.source_id} v{bill.version}"
