"""Books what a channel kept for a day: the fees of its proven bill, whatever was booked before."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import (
    Leg,
    Standing,
    TransferInput,
    channel_fee,
    clearing,
    post_many,
    standing_under,
)
from estation.payments.api import open_incident
from estation.reconciliation import queries, rules
from estation.reconciliation.actions import fetch
from estation.reconciliation.actions.locking import take_day
from estation.reconciliation.errors import KeptFileChanged
from estation.shared import ids
from estation.shared.clock import day_bounds
from estation.shared.crypto import Vault

TAKEN = "channel_fee"
RETURNED = "channel_fee_back"
"""The two kinds of transfers: what payments cost, and what came back with refunds."""

WHOLE_ACCOUNT = "000000"
"""The book of what belongs to no region, as money of no known order: an account serves many."""

MOST_FORGOTTEN = 62
"""Account-days that one run books beside its own: a month of two accounts."""

_NOTHING = Standing(0, 0)

log = structlog.get_logger()


async def book_fees(
    db: BaseDBAsyncClient, day: date, legs: Sequence[fetch.Leg], *, vault: Vault, now: datetime
) -> None:
    """Let the books hold exactly the fees of each account's newest proven bill of the day.

    What stands there already is not posted again; a corrected bill posts the difference, and no
    transfer is edited. Joins the caller's transaction, which holds the day's lock. Raises
    KeptFileChanged when a file to be booked is not what its digest says.
    """
    for leg in legs:
        if leg.state is rules.LegState.PROVEN:
            await _book(db, leg.account_id, day, vault, now)
    await _book_forgotten(db, day, {leg.account_id for leg in legs}, vault, now)


async def _book_forgotten(
    db: BaseDBAsyncClient, today: date, account_ids: Collection[str], vault: Vault, now: datetime
) -> None:
    """Days whose bills were proven before fees were booked, or whose mark was lost, oldest first
    and so many a run. A day that is just being reconciled books its own; a file that is not what
    its digest says is an incident, and stops no other."""
    for account_id, day in await queries.unbooked_days(
        account_ids, other_than=today, limit=MOST_FORGOTTEN
    ):
        if not await take_day(db, day):
            continue
        try:
            await _book(db, account_id, day, vault, now)
        except KeptFileChanged as changed:
            await tell_of_changed(changed, account_id, day, now=now)


async def tell_of_changed(
    changed: KeptFileChanged, account_id: str, day: date, *, now: datetime
) -> None:
    """Who keeps the evidence must find out, once for each file. Joins the caller's transaction."""
    log.error("fees_not_booked", account_id=account_id, day=str(day), **changed.details)
    await open_incident(
        kind="bill_file_changed",
        channel="",
        account_id=account_id,
        out_trade_no="",
        distinction=f"{day}:{changed.details['sha256']}",
        evidence={"day": str(day), **changed.details},
        owner="operator",
        now=now,
    )


def fee_number(account_id: str, day: date) -> str:
    """The number of ours under which the fees of an account's day are booked."""
    return f"{account_id} {day}"


async def _book(
    db: BaseDBAsyncClient, account_id: str, day: date, vault: Vault, now: datetime
) -> None:
    (file_id,) = await queries.newest_proven_files([account_id], [day])
    due = await queries.fees_of_file(file_id)
    standing = await standing_under(fee_number(account_id, day), channel_fee(account_id))
    missing = {
        TAKEN: due.taken_fen - standing.get(TAKEN, _NOTHING).fen,
        RETURNED: -due.returned_fen - standing.get(RETURNED, _NOTHING).fen,
    }
    if any(missing.values()):
        digest = await _digest(db, file_id, vault)
        await post_many(
            list(_transfers(account_id, day, digest, missing, standing, now)), now=now, db=db
        )
    await db.execute_query(
        """update channel_bill_file set booked_fee_fen = null
           where account_id = $1 and day = $2 and id <> $3 and booked_fee_fen is not null""",
        [account_id, day, file_id],
    )
    await db.execute_query(
        "update channel_bill_file set booked_fee_fen = $2 where id = $1", [file_id, due.net_fen]
    )


async def _digest(db: BaseDBAsyncClient, file_id: UUID, vault: Vault) -> str:
    """The file's SHA-256, recomputed from its bytes: money is booked on no other evidence."""
    rows = await db.execute_query_dict(
        "select sha256, content, is_sealed from channel_bill_file where id = $1", [file_id]
    )
    await asyncio.to_thread(queries.as_received, rows[0], vault)
    digest: str = rows[0]["sha256"]
    return digest


def _transfers(
    account_id: str,
    day: date,
    digest: str,
    missing: dict[str, int],
    standing: dict[str, Standing],
    now: datetime,
) -> Iterable[TransferInput]:
    for kind, fen in missing.items():
        if fen == 0:
            continue
        kept, paid = channel_fee(account_id), clearing(account_id)
        # The turn: a bill may be corrected, and the correction taken back.
        turn = standing.get(kind, _NOTHING).transfers
        yield TransferInput(
            id=str(ids.row_id(now)),
            idempotency_key=f"{kind}:{account_id}:{day}:{digest}:{turn}",
            kind=kind,
            region=WHOLE_ACCOUNT,
            order_id=None,
            our_no=fee_number(account_id, day),
            channel_no=digest,
            occurred_at=day_bounds(day)[1] - timedelta(microseconds=1),
            legs=[
                Leg(kept if fen > 0 else paid, debit_fen=abs(fen)),
                Leg(paid if fen > 0 else kept, credit_fen=abs(fen)),
            ],
        )
