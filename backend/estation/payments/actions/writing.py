"""What a batch of news changes, put down in memory first and then written set by set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import PaidMark, mark_paid
from estation.ledger.api import (
    Leg,
    TransferInput,
    clearing,
    payee_payable,
    post_many,
    suspense,
)
from estation.outside.gate.rows import ReceiptRow, ReceiptSplitRow
from estation.outside.pay_channels import Channel, ChannelReport, VerifiedNotice
from estation.payments import rules
from estation.payments.actions.locking import Locked, LockedAttempt, LockedOrder, SeenBill
from estation.payments.actions.storing import IncidentNote, NoticeNote, put_incidents, put_notices
from estation.payments.rules import (
    AttemptNow,
    AttemptState,
    CloseReason,
    IncidentKind,
    OrderState,
    Posting,
    Verdict,
)
from estation.shared import ids
from estation.shared.jsonb import clean_text

UNKNOWN_REGION = "000000"
"""Of money whose order we do not know: the whole city's finance looks after it."""

_MOVE = """
with attempt as (
    update pay_attempt p
    set state = t.state, next_query_at = null,
        channel_trade_no = coalesce(t.trade_no, p.channel_trade_no),
        paid_fen = coalesce(t.paid_fen, p.paid_fen), paid_at = coalesce(t.paid_at, p.paid_at),
        closed_at = case when t.state = 'closed' then $1::timestamptz else p.closed_at end,
        close_reason = case when t.state = 'closed' then t.reason else p.close_reason end
    from unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::text[])
        as t(id, state, trade_no, paid_fen, paid_at, reason)
    where p.id = t.id
), ended as (
    update pay_order o
    set state = t.state, paid_at = t.paid_at, close_reason = t.reason,
        closed_at = case when t.state = 'closed' then $1::timestamptz end
    from unnest($8::uuid[], $9::text[], $10::timestamptz[], $11::text[])
        as t(id, state, paid_at, reason)
    where o.id = t.id
)
update pay_order_bill b set is_open = false
from unnest($8::uuid[]) as t(id) where b.order_id = t.id and b.is_open
"""

_HURRY = """
update pay_attempt set next_query_at = $1
where order_id = any($2::uuid[]) and state in ('opening', 'open', 'abandoned')
"""
# The order ended through another attempt than its live one: close the live one at once.


@dataclass(frozen=True, slots=True)
class _Moved:
    state: AttemptState
    trade_no: str | None = None
    paid_fen: int | None = None
    paid_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Ended:
    state: OrderState
    paid_at: datetime | None = None
    reason: str = ""


class News(Protocol):
    """The settle item as far as writing needs it."""

    @property
    def report(self) -> ChannelReport | None: ...

    @property
    def notice(self) -> VerifiedNotice | None: ...


class Writing:
    """Collects changes; `locked` always shows the state after them, so the next item sees it."""

    def __init__(self, now: datetime, locked: Locked) -> None:
        self._now = now
        self._locked = locked
        self._attempts: dict[UUID, _Moved] = {}
        self._orders: dict[UUID, _Ended] = {}
        self._hurry: set[UUID] = set()
        self._transfers: list[TransferInput] = []
        self._marks: list[PaidMark] = []
        self._receipts: list[str] = []
        self._incidents: list[IncidentNote] = []
        self._notices: list[NoticeNote] = []

    def post(self, report: ChannelReport, attempt: LockedAttempt | None, kind: Posting) -> UUID:
        """Put down the transfer of one arrival; the caller has judged that it is new."""
        trade_no, amount, paid_at = _money(report)
        key = rules.arrival_key(report.account_id, trade_no)
        legs = [Leg(clearing(report.account_id), debit_fen=amount)]
        if kind is Posting.PAYMENT and attempt is not None:
            legs += _payee_legs(attempt.order)
        else:
            legs.append(Leg(suspense(report.account_id), credit_fen=amount))
        transfer = TransferInput(
            id=ids.row_id(self._now),
            idempotency_key=key,
            kind=kind,
            region=attempt.order.region if attempt else UNKNOWN_REGION,
            order_id=attempt.order.now.id if attempt else None,
            our_no=clean_text(report.out_trade_no, 64),
            channel_no=trade_no,
            occurred_at=paid_at,
            legs=legs,
        )
        self._transfers.append(transfer)
        self._locked.arrivals[key] = rules.Arrival(amount)
        return transfer.id

    def move_attempt(self, attempt: AttemptNow, to: AttemptState, report: ChannelReport) -> None:
        attempt.move(to)
        if to is AttemptState.PAID:
            attempt.channel_trade_no, attempt.paid_fen, paid_at = _money(report)
            self._attempts[attempt.id] = _Moved(
                to, attempt.channel_trade_no, attempt.paid_fen, paid_at
            )
        else:
            self._attempts[attempt.id] = _Moved(to, reason=CloseReason.CHANNEL)

    def move_order(self, order: LockedOrder, verdict: Verdict, report: ChannelReport) -> None:
        to = verdict.order_to
        if to is None:
            return
        order.now.move(to)
        if to is OrderState.PAID:
            self._orders[order.now.id] = _Ended(to, paid_at=report.paid_at)
        else:
            order.now.close_reason = str(verdict.incident)
            self._orders[order.now.id] = _Ended(to, reason=order.now.close_reason)

    def pay_bills(self, attempt: LockedAttempt, report: ChannelReport, transfer_id: UUID) -> None:
        """Mark each bill and put one receipt per bill into the outbox."""
        _, _, paid_at = _money(report)
        for seen in attempt.order.bills:
            self._locked.just_paid.add(seen.id)
            self._marks.append(PaidMark(bill_id=seen.id, version=seen.version, paid_at=paid_at))
            self._receipts.append(self._receipt(attempt, seen, report, transfer_id))

    def hurry(self, order_id: UUID) -> None:
        """Have the other attempts of this order closed at their channel without delay."""
        self._hurry.add(order_id)

    def open_incident(
        self,
        account_id: str,
        channel: Channel,
        kind: IncidentKind,
        item: News,
        attempt: LockedAttempt | None,
    ) -> None:
        """One incident per arrival of money, whoever reports it and however often."""
        report, notice = item.report, item.notice
        self._incidents.append(
            IncidentNote(
                kind=kind,
                channel=channel,
                account_id=account_id,
                out_trade_no=report.out_trade_no if report else _number(notice),
                channel_trade_no=report.channel_trade_no if report else None,
                amount_fen=(report.paid_fen or 0) if report else 0,
                order_id=attempt.order.now.id if attempt else None,
                distinction=_distinction(kind, report, notice),
                evidence=_evidence(report, notice, attempt),
            )
        )

    def store(
        self, channel: Channel, account_id: str, notice: VerifiedNotice, verdict: Verdict
    ) -> None:
        """Put the notice into the inbox as handled."""
        self._notices.append(
            NoticeNote(channel, account_id, notice, str(verdict.incident or verdict.outcome))
        )

    async def write(self, db: BaseDBAsyncClient) -> None:
        """A fixed order of tables, each sorted by key: two batches never wait for each other."""
        await post_many(self._transfers, now=self._now, db=db)
        if self._attempts or self._orders:
            await db.execute_query_dict(_MOVE, self._moves())
        if self._hurry:
            await db.execute_query_dict(_HURRY, [self._now, sorted(self._hurry)])
        if self._marks:
            await mark_paid(self._marks)
        await self._put_receipts(db)
        await put_incidents(db, self._incidents, now=self._now)
        await put_notices(db, self._notices, now=self._now)

    def _moves(self) -> list[Any]:
        attempts, orders = self._attempts, self._orders
        return [
            self._now,
            list(attempts),
            [moved.state for moved in attempts.values()],
            [moved.trade_no for moved in attempts.values()],
            [moved.paid_fen for moved in attempts.values()],
            [moved.paid_at for moved in attempts.values()],
            [moved.reason for moved in attempts.values()],
            list(orders),
            [ended.state for ended in orders.values()],
            [ended.paid_at for ended in orders.values()],
            [ended.reason for ended in orders.values()],
        ]

    def _receipt(
        self, attempt: LockedAttempt, seen: SeenBill, report: ChannelReport, transfer_id: UUID
    ) -> str:
        bill = self._locked.bills[seen.id]
        trade_no, _, paid_at = _money(report)
        row = ReceiptRow(
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
            transfer_id=str(transfer_id),
            splits=[
                ReceiptSplitRow(
                    payee_code=split.payee_code,
                    amount_fen=split.amount_fen,
                    receipt_no=split.receipt_no,
                )
                for split in seen.splits
            ],
        )
        return msgspec.json.encode(row).decode()

    async def _put_receipts(self, db: BaseDBAsyncClient) -> None:
        if self._receipts:
            await db.execute_query_dict(
                """insert into outbox_message
                       (id, topic, body, created_at, not_before, tries, last_error)
                   select t.id, 'receipt', t.body::jsonb, $1::timestamptz, $1::timestamptz, 0, ''
                   from unnest($2::uuid[], $3::text[]) as t(id, body)""",
                [self._now, ids.row_ids(self._now, len(self._receipts)), self._receipts],
            )


def _money(report: ChannelReport) -> tuple[str, int, datetime]:
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
