"""What other contexts may ask of fees. Everything else here is private."""

from estation.fees.actions import LockedBill, PaidMark, lock_bills, mark_paid, mark_refunded
from estation.fees.errors import BillChanged, BillNotFound, BillNotPayable
from estation.fees.queries import (
    BillView,
    ItemView,
    NotedView,
    NumberedBill,
    bill_of,
    bills_numbered,
    bills_of,
    items_of,
    noted_of,
    numbered_bill,
    sources_of,
    standing_of,
)
from estation.fees.rules import BillState

__all__ = [
    "BillChanged",
    "BillNotFound",
    "BillNotPayable",
    "BillState",
    "BillView",
    "ItemView",
    "LockedBill",
    "NotedView",
    "NumberedBill",
    "PaidMark",
    "bill_of",
    "bills_numbered",
    "bills_of",
    "items_of",
    "lock_bills",
    "mark_paid",
    "mark_refunded",
    "noted_of",
    "numbered_bill",
    "sources_of",
    "standing_of",
]
