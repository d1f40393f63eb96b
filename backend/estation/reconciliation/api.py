"""What the command line and the pages may use of reconciliation."""

from dataclasses import asdict
from typing import Any

import orjson

from estation.reconciliation.actions.evidence import tell_of_late
from estation.reconciliation.actions.reconcile import reconcile_day
from estation.reconciliation.actions.sealing import unsealed_bills, walks_over_bills
from estation.reconciliation.errors import BillFileNotFound, DayNotOver, RunNotFound
from estation.reconciliation.queries import (
    MAX_DIFFERENCES,
    BillFileView,
    DayView,
    DifferenceView,
    RunView,
    bill_file,
    bill_files,
    channel_fees,
    days,
    differences,
    earlier_runs,
    fee_days,
    latest_run,
    split_fees,
    waiting_fees,
)
from estation.reconciliation.rules import KINDS, Kind, LegState, Meaning, RunState, Severity

__all__ = [
    "KINDS",
    "MAX_DIFFERENCES",
    "BillFileNotFound",
    "BillFileView",
    "DayNotOver",
    "DayView",
    "DifferenceView",
    "Kind",
    "LegState",
    "Meaning",
    "RunNotFound",
    "RunState",
    "RunView",
    "Severity",
    "as_dict",
    "bill_file",
    "bill_files",
    "channel_fees",
    "days",
    "differences",
    "earlier_runs",
    "fee_days",
    "latest_run",
    "reconcile_day",
    "split_fees",
    "tell_of_late",
    "unsealed_bills",
    "waiting_fees",
    "walks_over_bills",
]


def as_dict(view: RunView) -> dict[str, Any]:
    """The run as JSON values, for programs. Money in fen, moments in RFC 3339."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(asdict(view)))
    return plain
