"""The rows that cross the gate, typed once and used by both sides.

A topic names its row type. Money is integer fen, moments are RFC 3339 with offset, days are
ISO dates. `source` is the issuing centre; `(source, source_id)` names a thing for ever and
`version` grows with each change of it.
"""

from datetime import date, datetime
from typing import Literal

from msgspec import Struct


class PartyRow(Struct, frozen=True, kw_only=True):
    """A person in a matter, identified at the counter."""

    role: str  # buyer, seller, mortgagee …
    name: str
    id_type: str  # code table zjzl: "1" is the resident identity card
    id_no: str
    phone: str


class StageRow(Struct, frozen=True, kw_only=True):
    """One box of the flow chart (网签→资金托管→抵押→纳税→登记)."""

    stage: str  # contract, escrow, loan, tax, registration
    state: str  # waiting, doing, done, not_required, returned
    at: datetime | None = None
    note: str = ""


class CaseRow(Struct, frozen=True, kw_only=True):
    """Topic `case`: the whole present state of one matter (办件)."""

    source: str
    source_id: str
    version: int
    region: str
    case_no: str
    matter: str
    hall: str
    unit_code: str
    address: str
    opened_at: datetime
    state: str  # open, closed, withdrawn
    parties: list[PartyRow]
    stages: list[StageRow]


class FeeItemRow(Struct, frozen=True, kw_only=True):
    """One tax or fee. `amount_fen` = what is due after relief; zero items are shown as exempt."""

    seq: int
    code: str
    name: str
    payee_code: str
    base_fen: int | None
    rate: str
    relief_fen: int
    amount_fen: int
    formula: str
    legal_basis: str
    note: str = ""


class FeeBillRow(Struct, frozen=True, kw_only=True):
    """Topic `fee_bill`: one payer's bill for one case; `version` grows when revised."""

    source: str
    source_id: str
    version: int
    region: str
    bill_no: str
    case_source_id: str
    title: str
    payer: PartyRow
    state: Literal["issued", "withdrawn"]
    issued_at: datetime
    due_on: date | None
    total_fen: int
    items: list[FeeItemRow]


class ReceiptSplitRow(Struct, frozen=True, kw_only=True):
    """What one payee got of a payment, and our receipt number for it."""

    payee_code: str
    amount_fen: int
    receipt_no: str


class ReceiptRow(Struct, frozen=True, kw_only=True):
    """Topic `receipt`: one bill was paid, once. Keyed by (source, source_id, order_no)."""

    source: str
    source_id: str
    bill_version: int
    bill_no: str
    order_no: str
    channel: str
    out_trade_no: str
    channel_trade_no: str
    paid_at: datetime
    amount_fen: int
    transfer_id: str
    splits: list[ReceiptSplitRow]


class ReceivedUpToRow(Struct, frozen=True, kw_only=True):
    """Topic `received_up_to`: what the opposite side has applied, as ordinary data."""

    stream: str
    seq: int
    digest: str
    at: datetime


TOPICS: dict[str, type[Struct]] = {
    "case": CaseRow,
    "fee_bill": FeeBillRow,
    "receipt": ReceiptRow,
    "received_up_to": ReceivedUpToRow,
}
