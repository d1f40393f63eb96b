"""What a batch of news changes, put down in memory first and then written set by set."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import PaidMark
from estation.ledger.api import (
    Leg,
    TransferInput,
    clearing,
    payee_payable,
    post_many,
    suspense,
)
from estation.outside.gate.rows import ReceiptRow, ReceiptSplitRow
from estation.outside.pay_channels import (
    Channel,
    ChannelReport,
    RefundReport,
    ReportPart,
    VerifiedNotice,
)
from estation.payments import rules
from estation.payments.actions.locking import (
    Locked,
    LockedAttempt,
    LockedOrder,
    SeenBill,
    Split,
)
from estation.payments.actions.refund_locking import LockedRefund
from estation.payments.actions.refund_writing import RefundWriting, automatic_refund
from estation.payments.actions.statements import (
    AttemptChange,
    HandledNotice,
    OrderChange,
    Told,
    hurry_others,
    write_changes,
)
from estation.payments.actions.storing import IncidentNote, put_incidents
from estation.payments.refund_rules import SYSTEM, RefundVerdict
from estation.payments.rules import (
    AttemptNow,
    AttemptState,
    CloseReason,
    IncidentKind,
    OrderState,
    Posting,
    RefundCause,
    Verdict,
)
from estation.shared import ids
from estation.shared.columns import moment_text
from estation.shared.jsonb import jsonb_text, struct_text

NO_PARTS: Mapping[str, ReportPart] = {}

UNKNOWN_REGION = "000000"
"""Of money whose order we do not know: the whole city's finance looks after it."""


OF_THE_REFUND = frozenset({IncidentKind.REFUND_CLOSED, IncidentKind.REFUND_ABNORMAL})
"""One of these per refund, whatever else the channel says with it."""


class News(Protocol):
    """The settle item as far as writing needs it."""

    @property
    def report(self) -> ChannelReport | None: ...

    @property
    def notice(self) -> VerifiedNotice | None: ...


class Writing:
    """Collects changes; `locked` always shows the state after them, so the next item sees it."""

    def __init__(self, now: datetime, locked: Locked, *, news: int) -> None:
        self._now = now
        self._locked = locked
        # Up to a notice, a transfer and a receipt each; more receipts get ids of their own.
        self._ids = ids.row_id_texts(now, 3 * news)
        self._attempts: dict[UUID, AttemptChange] = {}
        self._orders: dict[UUID, OrderChange] = {}
        self._hurry: set[UUID] = set()
        self._transfers: list[TransferInput] = []
        self._marks: list[PaidMark] = []
        self._receipts: list[Told] = []
        self._incidents: list[IncidentNote] = []
        self._notices: dict[tuple[str, str, str], HandledNotice] = {}
        self._messages: list[tuple[str, bytes]] = []
        self._refunds: RefundWriting | None = None

    @property
    def refunds(self) -> RefundWriting:
        """What happens to refunds in this batch; most batches have none."""
        if self._refunds is None:
            self._refunds = RefundWriting(self._now, self._locked.bills)
        return self._refunds

    def post(
        self, report: ChannelReport, attempt: LockedAttempt | None, kind: Posting
    ) -> TransferInput:
        """Put down the transfer of one arrival; the caller has judged that it is new."""
        is_payment = kind is Posting.PAYMENT and attempt is not None
        credits = _payee_legs(attempt.order) if is_payment and attempt else None
        return self._post(report, attempt, kind, credits)

    def post_part(
        self, part: ReportPart, attempt: LockedAttempt | None, kind: Posting
    ) -> TransferInput:
        """The same for one part of a combined payment: from its merchant to its payee."""
        credits = None
        if kind is Posting.PAYMENT and attempt is not None:
            asked = next(p for p in attempt.now.parts if p.out_trade_no == part.out_trade_no)
            credits = [Leg(payee_payable(asked.payee_code), credit_fen=asked.amount_fen)]
        return self._post(part, attempt, kind, credits)

    def _post(
        self,
        report: ChannelReport | ReportPart,
        attempt: LockedAttempt | None,
        kind: Posting,
        credits: Sequence[Leg] | None,
    ) -> TransferInput:
        """Clearing to `credits`, or to suspense."""
        trade_no, amount, paid_at = _money(report)
        key = rules.arrival_key(report.account_id, trade_no)
        legs = [
            Leg(clearing(report.account_id), debit_fen=amount),
            *(credits or [Leg(suspense(report.account_id), credit_fen=amount)]),
        ]
        transfer = TransferInput(
            id=self._new_id(),
            idempotency_key=key,
            kind=kind,
            region=attempt.order.region if attempt else UNKNOWN_REGION,
            order_id=attempt.order.now.id if attempt else None,
            our_no=report.out_trade_no[:64],
            channel_no=trade_no,
            occurred_at=paid_at,
            legs=legs,
        )
        self._transfers.append(transfer)
        self._locked.arrivals[key] = rules.Arrival(amount)
        return transfer

    def apply(self, attempt: LockedAttempt, report: ChannelReport, *, to: OrderState) -> str:
        """Put down that money which waited in suspense pays its order after all; the transfer's
        id. The caller has judged that it may, and that nothing of it is on its way back."""
        trade_no, amount, paid_at = _money(report)
        transfer = TransferInput(
            id=self._new_id(),
            idempotency_key=f"applied:{rules.arrival_key(report.account_id, trade_no)}",
            kind=Posting.PAYMENT,
            region=attempt.order.region,
            order_id=attempt.order.now.id,
            our_no=report.out_trade_no,
            channel_no=trade_no,
            occurred_at=paid_at,
            legs=[
                Leg(suspense(report.account_id), debit_fen=amount),
                *_payee_legs(attempt.order),
            ],
        )
        self._transfers.append(transfer)
        attempt.order.now.move(to)
        self._orders[attempt.order.now.id] = OrderChange(
            str(attempt.order.now.id), to, moment_text(paid_at), ""
        )
        self.pay_bills(attempt, report, transfer.id)
        return transfer.id

    def give_back(
        self,
        attempt: LockedAttempt,
        report: ChannelReport | ReportPart,
        arrival: TransferInput,
        cause: RefundCause,
        incident_key: str,
    ) -> None:
        """Send an arrival that was set aside on its way back; it is this very batch's."""
        refund = automatic_refund(
            now=self._now,
            cause=cause,
            incident_key=incident_key,
            transfer=arrival,
            account_id=report.account_id,
            channel=attempt.now.channel,
            order_no=attempt.order.order_no,
            amount_fen=_money(report)[1],
        )
        self._locked.refunds[refund.now.refund_no] = refund
        self.refunds.add(refund, request_id=refund.now.id, asked_by=SYSTEM, decided_by=SYSTEM)

    def move_attempt(self, attempt: AttemptNow, to: AttemptState, report: ChannelReport) -> None:
        attempt.move(to)
        trade_no, paid_fen, paid_at, reason = None, None, None, None
        if to is AttemptState.PAID:
            trade_no, amount, moment = _money(report)
            attempt.channel_trade_no, attempt.paid_fen = trade_no, amount
            paid_fen, paid_at = str(amount), moment_text(moment)
        else:
            reason = CloseReason.CHANNEL
        self._attempts[attempt.id] = AttemptChange(
            str(attempt.id), to, trade_no, paid_fen, paid_at, reason
        )

    def move_order(self, order: LockedOrder, verdict: Verdict, report: ChannelReport) -> None:
        to = verdict.order_to
        if to is None:
            return
        order.now.move(to)
        paid_at, reason = None, ""
        if to is OrderState.PAID:
            paid_at = moment_text(report.paid_at) if report.paid_at else None
        else:
            reason = order.now.close_reason = str(verdict.incident)
        self._orders[order.now.id] = OrderChange(str(order.now.id), to, paid_at, reason)

    def pay_bills(
        self,
        attempt: LockedAttempt,
        report: ChannelReport,
        transfer_id: str,
        parts: Mapping[str, ReportPart] = NO_PARTS,
    ) -> None:
        """Mark each bill and put one receipt per bill into the outbox. `parts`: by payee, where
        each payee's own merchant account received its share."""
        _, _, paid_at = _money(report)
        for seen in attempt.order.bills:
            self._locked.just_paid.add(seen.id)
            bill_id = self._locked.bills[seen.id].id
            self._marks.append(PaidMark(bill_id, seen.version, paid_at))
            body = self._receipt(attempt, seen, report, transfer_id, parts)
            self._receipts.append(Told(self._new_id(), struct_text(body)))

    def hurry(self, order_id: UUID) -> None:
        """Have the other attempts of this order closed at their channel without delay: the order
        ended through another attempt than its live one."""
        self._hurry.add(order_id)

    def open_incident(
        self,
        account_id: str,
        channel: Channel,
        kind: IncidentKind,
        item: News,
        attempt: LockedAttempt | None,
        part: ReportPart | None = None,
    ) -> str:
        """One incident per arrival of money, whoever reports it and however often; its key.
        `part` is the arrival meant, of a report about several."""
        report, notice = item.report, item.notice
        said = part or report
        note = IncidentNote(
            kind=kind,
            channel=channel,
            account_id=part.account_id if part else account_id,
            out_trade_no=said.out_trade_no if said else _number(notice),
            channel_trade_no=said.channel_trade_no if said else None,
            amount_fen=(said.paid_fen or 0) if said else 0,
            order_id=attempt.order.now.id if attempt else None,
            distinction=(part and part.channel_trade_no) or _distinction(kind, report, notice),
            evidence=_evidence(report, notice, attempt),
        )
        self._incidents.append(note)
        return note.dedupe_key

    def open_refund_incident(
        self,
        kind: IncidentKind,
        report: RefundReport,
        refund: LockedRefund | None,
        notice: VerifiedNotice | None,
    ) -> None:
        """One per refund number and what was said of it. A refund that closed needs none of its
        own when an incident waits for it."""
        if kind is IncidentKind.REFUND_CLOSED and refund is not None and refund.incident_key:
            return
        said = (report.status, report.amount_fen) if kind not in OF_THE_REFUND else ()
        self._incidents.append(
            IncidentNote(
                kind=kind,
                channel=report.channel,
                account_id=report.account_id,
                out_trade_no=report.out_trade_no,
                channel_trade_no=refund.channel_trade_no if refund else None,
                amount_fen=report.amount_fen or (refund.now.amount_fen if refund else 0),
                order_id=refund.order_id if refund else None,
                distinction=":".join(str(part) for part in (report.refund_no, *said)),
                evidence={
                    "report": asdict(report),
                    "refund_no": report.refund_no,
                    "event_key": notice.event_key if notice else None,
                    "plaintext": notice.plaintext if notice else None,
                    "refund": {"state": refund.now.state, "amount_fen": refund.now.amount_fen}
                    if refund
                    else None,
                },
            )
        )

    def store(
        self,
        channel: Channel,
        account_id: str,
        notice: VerifiedNotice,
        verdict: Verdict | RefundVerdict,
        message: bytes,
    ) -> None:
        """Put the notice into the inbox as handled; of equal news the first has the outcome, and
        its message is kept."""
        event_key = notice.event_key[:160]
        if (channel, account_id, event_key) not in self._notices:
            notice_id = self._new_id()
            if message:
                self._messages.append((notice_id, message))
            self._notices[channel, account_id, event_key] = HandledNotice(
                notice_id,
                channel,
                account_id,
                event_key,
                notice.kind[:32],
                notice.out_trade_no[:64],
                jsonb_text(notice.plaintext),
                verdict.incident or verdict.outcome,
            )

    async def write(self, db: BaseDBAsyncClient) -> None:
        """A fixed order of tables, each sorted by key: two batches never wait for each other."""
        if self._refunds is not None:
            self._transfers += self._refunds.transfers
            self._incidents += self._refunds.incidents
        undoing = any(transfer.reverses_id is not None for transfer in self._transfers)
        if undoing:
            await post_many(self._transfers, now=self._now, db=db)
        await write_changes(
            db,
            transfers=() if undoing else self._transfers,
            marks=self._marks,
            attempts=list(self._attempts.values()),
            orders=list(self._orders.values()),
            receipts=self._receipts,
            notices=list(self._notices.values()),
            messages=self._messages,
            now=self._now,
        )
        await put_incidents(db, self._incidents, now=self._now)
        if self._refunds is not None:
            await self._refunds.write(db)
        await hurry_others(db, sorted(self._hurry), now=self._now)

    def _new_id(self) -> str:
        return self._ids.pop() if self._ids else ids.row_id_texts(self._now, 1)[0]

    def _receipt(
        self,
        attempt: LockedAttempt,
        seen: SeenBill,
        report: ChannelReport,
        transfer_id: str,
        parts: Mapping[str, ReportPart],
    ) -> ReceiptRow:
        bill = self._locked.bills[seen.id]
        trade_no, _, paid_at = _money(report)
        return ReceiptRow(
            source=bill.source,
            source_id=bill.source_id,
            bill_version=seen.version,
            bill_no=bill.bill_no,
            order_no=attempt.order.order_no,
            channel=attempt.now.channel,
            out_trade_no=report.out_trade_no,
            channel_trade_no=trade_no,
            paid_at=paid_at,
            amount_fen=seen.amount_fen,
            transfer_id=transfer_id,
            splits=[_split_row(split, parts.get(split.payee_code)) for split in seen.splits],
        )


def _split_row(split: Split, part: ReportPart | None) -> ReceiptSplitRow:
    return ReceiptSplitRow(
        payee_code=split.payee_code,
        amount_fen=split.amount_fen,
        receipt_no=split.receipt_no,
        account_id=part.account_id if part else "",
        channel_trade_no=(part.channel_trade_no or "") if part else "",
    )


def _money(report: ChannelReport | ReportPart) -> tuple[str, int, datetime]:
    if report.channel_trade_no is None or report.paid_fen is None or report.paid_at is None:
        raise ValueError("an incomplete success may not move anything")
    return report.channel_trade_no, report.paid_fen, report.paid_at


def _payee_legs(order: LockedOrder) -> Sequence[Leg]:
    sums: dict[str, int] = {}
    for bill in order.bills:
        for split in bill.splits:
            sums[split.payee_code] = sums.get(split.payee_code, 0) + split.amount_fen
    return [Leg(payee_payable(payee), credit_fen=amount) for payee, amount in sums.items()]


def _number(notice: VerifiedNotice | None) -> str:
    return notice.out_trade_no if notice else ""


def _distinction(
    kind: IncidentKind, report: ChannelReport | None, notice: VerifiedNotice | None
) -> str:
    """What makes a second incident of a kind another one; equal for repeats of the same news."""
    if report is None:
        return notice.event_key if notice else ""
    if kind is IncidentKind.UNEXPECTED_REFUND:
        return f"{report.channel_trade_no}:{report.refunded_fen}"
    if kind is IncidentKind.CONTRADICTING_NEWS:
        return f"{report.out_trade_no}:{report.channel_trade_no}:{report.state}:{report.paid_fen}"
    return report.channel_trade_no or report.out_trade_no


def _evidence(
    report: ChannelReport | None, notice: VerifiedNotice | None, attempt: LockedAttempt | None
) -> dict[str, Any]:
    """The raw message and the state it met, for the person who decides."""
    return {
        "report": asdict(report) if report else None,
        "event_key": notice.event_key if notice else None,
        "plaintext": notice.plaintext if notice else None,
        "attempt": {"state": attempt.now.state, "amount_fen": attempt.now.amount_fen}
        if attempt
        else None,
        "order": {"state": attempt.order.now.state, "order_no": attempt.order.order_no}
        if attempt
        else None,
    }
