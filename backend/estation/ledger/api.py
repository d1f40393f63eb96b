"""What other contexts may use of the ledger."""

from estation.ledger.actions import post_many
from estation.ledger.errors import LedgerConflict, LedgerError, NotATransfer
from estation.ledger.queries import (
    CHANNEL_RECEIPTS,
    ChannelReceipt,
    StandingTransfer,
    balance,
    channel_receipts,
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
    "StandingTransfer",
    "TransferInput",
    "balance",
    "channel_receipts",
    "clearing",
    "payee_payable",
    "post_many",
    "suspense",
    "transfers_by_key",
    "unbalanced_transfers",
]
