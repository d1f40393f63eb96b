"""Open orders whose bills are no longer as the citizen saw them: nobody should pay these."""

from collections.abc import Sequence
from uuid import UUID

from tortoise import Tortoise

from estation.fees.api import standing_of
from estation.payments import rules
from estation.payments.rules import BillNow


async def changed_orders(order_ids: Sequence[UUID]) -> set[UUID]:
    """Of these orders the open ones with a bill that was revised or withdrawn.

    Read without locks: a version only grows, so what changed stays changed. So does a total that
    was mended.
    """
    seen = await Tortoise.get_connection("default").execute_query_dict(
        """select order_id, bill_id, bill_version, amount_fen from pay_order_bill
           where order_id = any($1::uuid[]) and is_open""",
        [list(order_ids)],
    )
    standing = await standing_of([row["bill_id"] for row in seen]) if seen else {}
    found: set[UUID] = set()
    for row in seen:
        version, total_fen, state = standing[row["bill_id"]]
        bill = rules.bill_now(
            seen_version=row["bill_version"],
            version=version,
            seen_fen=row["amount_fen"],
            total_fen=total_fen,
            state=state,
        )
        # A paid one may be our own payment that was settled just now.
        if bill not in (BillNow.AS_SEEN, BillNow.PAID):
            found.add(row["order_id"])
    return found
