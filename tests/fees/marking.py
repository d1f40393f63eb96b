"""Marking bills paid outside of settling, as a statement of its own."""

from collections.abc import Sequence

from tortoise import Tortoise

from estation.fees.api import MARKING, PaidMark, check_marked, marking_arguments
from estation.shared.together import statement


async def mark_paid(marks: Sequence[PaidMark]) -> None:
    """Payable -> paid, in the caller's transaction and under its lock."""
    db = Tortoise.get_connection("default")
    _, rows = await db.execute_query(statement(MARKING), marking_arguments(marks))
    check_marked(marks, rows[0][0])
