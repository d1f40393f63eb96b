"""What other contexts may ask of fees. Everything else here is private."""

from estation.fees.actions import (
    HOLDING,
    MARKING,
    LockedBill,
    PaidMark,
    check_marked,
    held_bill,
    lock_bills,
    mark_refunded,
    marking_arguments,
)
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
    "HOLDING",
    "MARKING",
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
    "check_marked",
    "held_bill",
    "items_of",
    "lock_bills",
    "mark_refunded",
    "marking_arguments",
    "noted_of",
    "numbered_bill",
    "sources_of",
    "standing_of",
]
