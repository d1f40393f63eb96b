"""What the ledger will not do. These are bugs or attacks, so they are loud, not refusals."""


class LedgerError(Exception):
    """Base of the ledger's errors."""


class NotATransfer(LedgerError):
    """Unbalanced, empty, negative, too large, or an account outside the grammar."""


class LedgerConflict(LedgerError):
    """The idempotency key is taken by a transfer that says something else."""


class NotAReversal(LedgerError):
    """It does not undo the transfer it names, or that one undoes another itself."""


class AlreadyReversed(LedgerError):
    """A transfer is undone once."""


class NoSuchTransfer(LedgerError):
    """No transfer stands in the books under this id."""


class PublishedOtherwise(LedgerError):
    """A file of the published folder says something else than our record of that day."""
