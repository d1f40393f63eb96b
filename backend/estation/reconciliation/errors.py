"""Every way reconciliation refuses."""

from estation.shared.errors import NotFound, Refused


class DayNotOver(Refused):
    """A day after today has no bill and no ledger to compare."""

    code = "day_not_over"
    http_status = 422
    message = "这一天还没有到，不能对账。"


class RunNotFound(NotFound):
    code = "run_not_found"
    message = "这一天还没有对账结果。"


class BillFileNotFound(NotFound):
    code = "bill_file_not_found"
    message = "没有这份账单文件。"


class KeptFileChanged(Exception):
    """The stored bytes of a bill are not those whose digest was kept: somebody changed evidence."""


class RunDoesNotTie(Exception):
    """A row of one side ended in no category: a mistake of ours, so no result is written."""
