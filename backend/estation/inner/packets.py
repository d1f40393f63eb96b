"""What arrives through the gate: receipts of payments, what proves them, how refunds stand.

What the other side has received of ours (`received_up_to`) is kept by the gate itself.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from estation.inner.actions import evidence, receipts, refunds
from estation.outside.gate import more, replicas
from estation.outside.gate.receiving import Arrival, Handler
from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import PaymentEvidenceRow, ReceiptRow, RefundRow


async def _set_receipts_aside(source: str, keys: Sequence[str], now: datetime) -> None:
    await receipts.set_aside(source, keys, now=now)


async def _set_refunds_aside(source: str, keys: Sequence[str], now: datetime) -> None:
    await refunds.set_aside(source, keys, now=now)


async def _set_evidence_aside(source: str, keys: Sequence[str], now: datetime) -> None:
    await evidence.set_aside(source, keys, now=now)


replicas.register(
    Replica("receipt", "fee_receipt", key=receipts.KEY, version="1", withdraw=_set_receipts_aside),
    Replica("refund", "fee_refund_news", key=refunds.KEY, withdraw=_set_refunds_aside),
    Replica(
        "payment_evidence", "fee_payment_evidence", key=evidence.KEY, withdraw=_set_evidence_aside
    ),
)


def make_handlers(*, source: str, now: datetime) -> dict[str, Handler]:
    """Topic -> handler; each joins the transaction of the file it came in."""

    async def receipt(rows: Sequence[Struct], arrival: Arrival) -> None:
        given = [row for row in rows if isinstance(row, ReceiptRow)]
        await receipts.keep_receipts(
            given,
            source=source,
            packet_seq=arrival.seq,
            now=now,
            digests=[sent.digest for sent in arrival.as_sent(rows)],
            repairs=arrival.repairs,
        )
        await evidence.judge_again(given)
        await more.keep("receipt", rows, arrival, seal=None, now=now)

    async def refund(rows: Sequence[Struct], arrival: Arrival) -> None:
        await refunds.keep_refunds(
            [row for row in rows if isinstance(row, RefundRow)],
            source=source,
            packet_seq=arrival.seq,
            now=now,
            digests=[sent.digest for sent in arrival.as_sent(rows)],
            repairs=arrival.repairs,
        )
        await more.keep("refund", rows, arrival, seal=None, now=now)

    async def payment_evidence(rows: Sequence[Struct], arrival: Arrival) -> None:
        await evidence.keep_evidence(
            [row for row in rows if isinstance(row, PaymentEvidenceRow)],
            source=source,
            packet_seq=arrival.seq,
            now=now,
            digests=[sent.digest for sent in arrival.as_sent(rows)],
            repairs=arrival.repairs,
        )
        await more.keep("payment_evidence", rows, arrival, seal=None, now=now)

    # Evidence behind the receipts of its packet: it is judged by them.
    return {"receipt": receipt, "refund": refund, "payment_evidence": payment_evidence}
