"""Transfers for the tests of the books."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from msgspec import structs
from tortoise import Tortoise

from estation.ledger import api
from estation.ledger.api import Leg, TransferInput
from estation.ledger.rules import PostedEntry, PostedTransfer
from estation.shared import ids

NOW = datetime(2026, 8, 3, 2, 0, tzinfo=UTC)
ACCOUNT = "wechat_pay:1900000109"
BOOK = "360101"


def payment(key: str = "arrival:1", amount_fen: int = 100, **changes: Any) -> TransferInput:
    made = TransferInput(
        id=str(ids.row_id(NOW)),
        idempotency_key=key,
        kind="payment",
        region=BOOK,
        order_id=None,
        our_no="T1",
        channel_no="4200",
        occurred_at=NOW,
        legs=[
            Leg(api.clearing(ACCOUNT), debit_fen=amount_fen),
            Leg(api.payee_payable("treasury"), credit_fen=amount_fen),
        ],
    )
    return structs.replace(made, **changes)


def standing(**changes: Any) -> PostedTransfer:
    """A payment of 100 fen as it stands in the books."""
    made = PostedTransfer(
        id=str(uuid4()),
        idempotency_key="arrival:1",
        input_hash="0" * 64,
        kind="payment",
        region=BOOK,
        order_id=str(uuid4()),
        our_no="T1",
        channel_no="4200",
        occurred_at=NOW,
        posted_at=NOW,
        reverses_id=None,
        entries=[
            PostedEntry(str(uuid4()), api.clearing(ACCOUNT), 100, 0),
            PostedEntry(str(uuid4()), api.payee_payable("treasury"), 0, 100),
        ],
    )
    return structs.replace(made, **changes)


async def post(*transfers: TransferInput) -> list[str]:
    return await api.post_many(transfers, now=NOW)


async def post_payments(count: int, *, book: str = BOOK, prefix: str = "p") -> list[str]:
    return await post(
        *(payment(f"{prefix}:{book}:{n}", 100 + n, region=book) for n in range(count))
    )


async def rows(sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(parameters)
    )
    return found


async def number(sql: str, *parameters: Any) -> int:
    return int(next(iter((await rows(sql, parameters))[0].values())))


async def as_dba(*statements: str) -> None:
    """What somebody with all rights over the database could do: no trigger stops him."""
    await Tortoise.get_connection("default").execute_script(
        "begin; set local session_replication_role = replica; " + "; ".join(statements) + "; commit"
    )
