"""What a transfer must be before it may be posted. Pure."""

import functools
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import orjson
from msgspec import Struct

from estation.ledger.errors import NotATransfer
from estation.shared.fields import MAX_FEN

CLEARING = "channel_clearing"
PAYEE = "payee_payable"
SUSPENSE = "suspense"

_ACCOUNT = re.compile(
    rf"({CLEARING}|{SUSPENSE}):[a-z_]{{1,16}}:[A-Za-z0-9]{{1,32}}|{PAYEE}:[a-z0-9_]{{1,32}}"
)
"""The small grammar of account names: what it is, then whose."""

_KIND = re.compile(r"[a-z_]{1,32}")


class Leg(Struct, frozen=True):
    """One entry: fen on exactly one side."""

    account: str
    debit_fen: int = 0
    credit_fen: int = 0


class TransferInput(Struct, frozen=True, kw_only=True):
    """One movement of money to post. `id` is a UUID's text, `occurred_at` the channel's clock."""

    id: str
    idempotency_key: str
    kind: str
    region: str
    order_id: UUID | None
    our_no: str
    channel_no: str
    occurred_at: datetime
    legs: Sequence[Leg]


def clearing(account_id: str) -> str:
    """The account of money that stands at one merchant account of a channel."""
    return f"{CLEARING}:{account_id}"


def payee_payable(payee_code: str) -> str:
    """The account of what we owe a payee."""
    return f"{PAYEE}:{payee_code}"


def suspense(account_id: str) -> str:
    """The account of money that arrived and is nobody's yet."""
    return f"{SUSPENSE}:{account_id}"


@functools.lru_cache(maxsize=4096)
def is_account(name: str) -> bool:
    return _ACCOUNT.fullmatch(name) is not None


@functools.lru_cache(maxsize=256)
def is_kind(name: str) -> bool:
    return _KIND.fullmatch(name) is not None


def check(transfer: TransferInput) -> None:
    """Raises NotATransfer unless it is balanced, above zero and names known accounts."""
    debit = credit = 0
    for leg in transfer.legs:
        left, right = leg.debit_fen, leg.credit_fen
        if left < 0 or right < 0 or (left > 0) == (right > 0):
            raise NotATransfer("a leg has exactly one side above zero")
        if not is_account(leg.account):
            raise NotATransfer(f"no such account: {leg.account[:96]!r}")
        debit += left
        credit += right
    if debit != credit or not 0 < debit <= MAX_FEN:
        raise NotATransfer(f"not balanced: {debit} debit, {credit} credit")
    if len({leg.account for leg in transfer.legs}) != len(transfer.legs):
        raise NotATransfer("an account occurs twice")
    if not is_kind(transfer.kind) or not 0 < len(transfer.idempotency_key) <= 160:
        raise NotATransfer("kind or key is malformed")


def input_hash(transfer: TransferInput) -> str:
    """SHA-256 over what the transfer says, injectively encoded; its row id is not part of it."""
    said = [
        transfer.kind,
        transfer.region,
        str(transfer.order_id) if transfer.order_id else None,
        transfer.our_no,
        transfer.channel_no,
        transfer.occurred_at.astimezone(UTC).isoformat(),
        sorted([leg.account, leg.debit_fen, leg.credit_fen] for leg in transfer.legs),
    ]
    return hashlib.sha256(orjson.dumps(said)).hexdigest()
