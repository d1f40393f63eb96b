"""What may be paid, and what a replicated change of a bill means. Pure."""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Protocol


class BillState(StrEnum):
    """A bill as the citizen sees it."""

    PAYABLE = "payable"  # 待缴
    PAID = "paid"  # 已缴
    WITHDRAWN = "withdrawn"  # 已撤回
    REFUNDED = "refunded"  # 已全额退款; a version that came after the payment takes its place


STATE_OF_ROW: Mapping[str, BillState] = {
    "issued": BillState.PAYABLE,
    "withdrawn": BillState.WITHDRAWN,
}
"""The internal platform's word for a bill -> ours, unless it is paid here already."""


class Change(StrEnum):
    """What a replicated bill means for the one we have."""

    NEW = "new"
    NEWER = "newer"
    REPEATED = "repeated"  # the version we have, or one before it: nothing to do
    AFTER_PAYMENT = "after_payment"  # paid here, and the centre does not know yet: tell a person


def judge(*, version: int, ours: int | None, state: BillState | None) -> Change:
    """`ours` and `state` are the bill we have, None when we have none.

    A paid bill stays as it was paid; what the centre wants now is told to a person, and noted
    for the day when all that was paid was given back.
    """
    if ours is None:
        return Change.NEW
    if version <= ours:
        return Change.REPEATED
    return Change.AFTER_PAYMENT if state is BillState.PAID else Change.NEWER


class Item(Protocol):
    @property
    def seq(self) -> int: ...
    @property
    def payee_code(self) -> str: ...
    @property
    def amount_fen(self) -> int: ...
    @property
    def relief_fen(self) -> int: ...
    @property
    def base_fen(self) -> int | None: ...


class Row(Protocol):
    """What of a replicated bill can be wrong in itself."""

    @property
    def version(self) -> int: ...
    @property
    def total_fen(self) -> int: ...
    @property
    def items(self) -> Sequence[Item]: ...


def fault_of(row: Row, *, payees: Collection[str], most_fen: int) -> str:
    """Why a replicated bill can never be accepted, as a stable word; "" when it can.

    Amounts are never negative, the total is exactly the sum, every payee is one of ours.
    """
    if row.version < 1:
        return "version"
    if not row.items or len({item.seq for item in row.items}) != len(row.items):
        return "items"
    total = 0
    for item in row.items:
        total += item.amount_fen
        if not (
            0 <= item.amount_fen <= most_fen
            and 0 <= item.relief_fen <= most_fen
            and 0 <= (item.base_fen or 0) <= most_fen
        ):
            return "amount"
    if not 0 <= row.total_fen <= most_fen:
        return "amount"
    if total != row.total_fen:
        return "total"
    if any(item.payee_code not in payees for item in row.items):
        return "payee"
    return ""
