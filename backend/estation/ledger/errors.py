"""What the ledger will not do. These are bugs or attacks, so they are loud, not refusals."""


class LedgerError(Exception):
    """Base of the ledger's errors."""


class NotATransfer(LedgerError):
    """Unbalanced, empty, negative, too large, or an account outside the grammar."""


class LedgerConflict(LedgerError):
    """The idempotency key is taken by a transfer that says something else."""
