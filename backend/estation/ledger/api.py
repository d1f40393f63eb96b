"""What other contexts may use of the ledger."""

from estation.ledger.actions import post_many
from estation.ledger.errors import LedgerConflict, LedgerError, NotATransfer
from estation.ledger.queries import (
    CHANNEL_RECEIPTS,
    ChannelReceipt,
    PaymentNumbers,
    StandingTransfer,
    TransferView,
    balance,
    channel_receipts,
    payment_of,
    transfers_about,
    transfers_by_key,
    unbalanced_transfers,
)
from estation.ledger.rules import (
    Leg,
    TransferInput,
    clearing,
    payee_payable,
    suspense,
)

__all__ = [
    "CHANNEL_RECEIPTS",
    "ChannelReceipt",
    "LedgerConflict",
    "LedgerError",
    "Leg",
    "NotATransfer",
    "PaymentNumbers",
    "StandingTransfer",
    "TransferInput",
    "TransferView",
    "balance",
    "channel_receipts",
    "clearing",
    "payee_payable",
    "payment_of",
    "post_many",
    "suspense",
    "transfers_about",
    "transfers_by_key",
    "unbalanced_transfers",
]
