"""What the pages are given: plain values, never model objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from estation.inner.rules import (
    BillState,
    CaseState,
    Item,
    RefundState,
    Role,
    Stage,
    StageState,
)

PAGE_SIZE = 25


@dataclass(frozen=True, slots=True)
class Clerk:
    """Who works at the desk in this request."""

    staff_id: UUID
    session_id: UUID
    login: str
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its rows, its number from 1, and how many rows there are in all."""

    rows: Sequence[Any]
    number: int
    total: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE_SIZE))


@dataclass(frozen=True, slots=True)
class CaseLine:
    """One row of the case list. `stage` is the first box that is not passed yet."""

    case_no: str
    matter: str
    address: str
    hall: str
    state: CaseState
    stage: Stage | None
    stage_state: StageState | None
    parties: str
    opened_at: datetime
    bills: int
    unpaid_fen: int


@dataclass(frozen=True, slots=True)
class PartyView:
    seq: int
    role: str
    name: str
    id_type: str
    id_no: str  # masked
    phone: str  # masked


@dataclass(frozen=True, slots=True)
class StageView:
    stage: Stage
    state: StageState
    at: datetime | None
    note: str


@dataclass(frozen=True, slots=True)
class BillLine:
    bill_no: str
    case_no: str
    payer: str
    payer_role: str
    title: str
    state: BillState
    version: int
    total_fen: int
    issued_at: datetime
    due_on: date | None
    paid_at: datetime | None


@dataclass(frozen=True, slots=True)
class CaseView:
    case_no: str
    version: int
    matter: str
    state: CaseState
    hall: str
    unit_code: str
    address: str
    usage: str
    area_m2: str
    district: str
    opened_at: datetime
    parties: list[PartyView]
    stages: list[StageView]
    bills: list[BillLine]


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version of a bill with its items."""

    version: int
    state: BillState
    total_fen: int
    due_on: date | None
    reason: str
    made_by: str
    made_at: datetime
    items: list[Item]


@dataclass(frozen=True, slots=True)
class ReceiptView:
    id: UUID
    bill_no: str
    known_bill: bool
    bill_version: int
    order_no: str
    channel: str
    out_trade_no: str
    channel_trade_no: str
    transfer_id: str
    amount_fen: int
    splits: list[dict[str, Any]]
    paid_at: datetime
    packet_seq: int
    received_at: datetime
    attention: str
    handled_at: datetime | None
    handled_by: str
    handled_note: str


@dataclass(frozen=True, slots=True)
class RefundOrderView:
    """A refund order of ours; `shares` empty: the platform takes it in its order."""

    refund_no: str
    bill_no: str
    order_no: str
    amount_fen: int
    shares: list[dict[str, Any]]
    reason: str
    state: RefundState
    asked_by: str
    asked_at: datetime
    decided_by: str
    decided_at: datetime | None
    decision_note: str
    why_not: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class RefundNewsView:
    """How a refund stands on the online side, whoever started it."""

    refund_no: str
    order_source_id: str
    state: str
    amount_fen: int
    shares: list[dict[str, Any]]
    channel: str
    channel_refund_no: str
    at: datetime
    reason: str
    attention: str


@dataclass(frozen=True, slots=True)
class EvidenceView:
    """What proves a payment: the line of the channel's own bill, and its signed notice."""

    order_no: str
    out_trade_no: str
    version: int
    channel: str
    merchant_id: str
    channel_trade_no: str
    paid_at: datetime
    amount_fen: int
    bill_fen: int
    channel_day: date
    file_digest: str
    file_line: int
    proved_at: datetime
    notice_id: str
    notice_digest: str
    attention: str


@dataclass(frozen=True, slots=True)
class StrayEvidenceView:
    """Evidence that stands with no bill, or does not fit. `source_id`: which bill the online side
    means, `bill_no`: ours, "" where we know none of it."""

    source: str
    source_id: str
    bill_no: str
    proof: EvidenceView


@dataclass(frozen=True, slots=True)
class BillView:
    """A bill with all its versions, newest first, and what came back for it."""

    line: BillLine
    payer: PartyView
    case_open: bool
    paid_version: int | None
    versions: list[VersionView]
    receipts: list[ReceiptView]
    refund_orders: list[RefundOrderView]
    refund_news: list[RefundNewsView]
    evidence: list[EvidenceView]
