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


class KeptFileChanged(Refused):
    """The stored bytes of a bill are not those whose digest was kept: somebody changed evidence."""

    code = "kept_file_changed"
    message = "存档的账单文件与存入时的摘要不符，可能被人改动过，请联系运维查明。"


class RunDoesNotTie(Exception):
    """A row of one side ended in no category: a mistake of ours, so no result is written."""
