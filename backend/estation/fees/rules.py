"""What may be paid, and what a replicated change of a bill means. Pure."""

from enum import StrEnum


class BillState(StrEnum):
    """A bill as the citizen sees it."""

    PAYABLE = "payable"  # 待缴
    PAID = "paid"  # 已缴
    WITHDRAWN = "withdrawn"  # 已撤回
