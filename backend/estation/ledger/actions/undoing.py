"""Correcting the books: a standing transfer is undone by its mirror, once, never changed."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from estation.ledger import queries, rules
from estation.ledger.actions.posting import post_many
from estation.ledger.errors import NoSuchTransfer
from estation.ledger.rules import TransferInput
from estation.shared.transactions import in_transaction

_RELEASING = 0x65737462
"""Advisory lock: two janitors must not post the same releases at different moments."""


async def reverse(transfer_id: UUID | str, *, now: datetime) -> TransferInput:
    """The transfer that undoes a standing one to the fen, for the caller to post.

    Posting it a second time, or another one for the same original, raises AlreadyReversed or
    LedgerConflict. Raises NoSuchTransfer, and NotAReversal when the original undoes something
    itself or is a hold (see release_holds).
    """
    standing = await queries.posted_transfers([str(transfer_id)])
    original = standing.get(str(transfer_id))
    if original is None:
        raise NoSuchTransfer(str(transfer_id))
    return rules.mirror(
        original, kind=rules.REVERSAL_KIND, key=rules.reversal_key(original.id), now=now
    )


async def release_holds(order_ids: Sequence[UUID], now: datetime) -> int:
    """Undo the holds of orders that are no longer open; how many. Twice changes nothing.

    For orders that have no hold, or whose hold was released, nothing is done.
    """
    if not order_ids:
        return 0
    async with in_transaction() as db:
        await db.execute_query_dict("select pg_advisory_xact_lock($1)::text", [_RELEASING])
        releases = [
            rules.mirror(
                hold,
                kind=rules.HOLD_RELEASE_KIND,
                key=rules.hold_release_key(hold.our_no),
                now=now,
            )
            for hold in await queries.holds_of(order_ids)
        ]
        await post_many(releases, now=now, db=db)
    return len(releases)
