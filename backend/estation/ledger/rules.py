"""What a transfer must be before it may be posted. Pure."""

import functools
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import orjson
from msgspec import Struct

from estation.ledger.errors import NotATransfer
from estation.shared.fields import MAX_FEN

CLEARING = "channel_clearing"
PAYEE = "payee_payable"
SUSPENSE = "suspense"
REFUND_IN_FLIGHT = "refund_in_flight"
CHANNEL_FEE = "channel_fee"
HOLD_EXPECTED = "hold_expected"
HOLD_PAYEE = "hold_payee"
BANK = "bank"

ANY_CHANNEL = "any"
"""A hold's channel while the citizen has not chosen a wallet."""


class AccountKind(Struct, frozen=True):
    """What holds of every account of one kind. `whose` is the shape of what follows the colon.

    `normal_side` is where its balance grows; an account that may not go negative never has more
    on its other side. Memo accounts carry no money and sum to zero among themselves.
    """

    normal_side: Literal["debit", "credit"]
    may_go_negative: bool
    whose: str
    is_memo: bool = False


_MERCHANT = r"[a-z_]{1,16}:[A-Za-z0-9]{1,32}"
_PAYEE_CODE = r"[a-z0-9_]{1,32}"

ACCOUNT_KINDS: dict[str, AccountKind] = {
    # Fees and pay-outs may be booked before the receipts they belong to.
    CLEARING: AccountKind("debit", may_go_negative=True, whose=_MERCHANT),
    PAYEE: AccountKind("credit", may_go_negative=False, whose=_PAYEE_CODE),
    SUSPENSE: AccountKind("credit", may_go_negative=False, whose=_MERCHANT),
    REFUND_IN_FLIGHT: AccountKind("credit", may_go_negative=False, whose=_MERCHANT),
    # A fee comes back with its refund, perhaps in a later period.
    CHANNEL_FEE: AccountKind("debit", may_go_negative=True, whose=_MERCHANT),
    HOLD_EXPECTED: AccountKind(
        "debit", may_go_negative=False, whose=rf"{_MERCHANT}|{ANY_CHANNEL}", is_memo=True
    ),
    HOLD_PAYEE: AccountKind("credit", may_go_negative=False, whose=_PAYEE_CODE, is_memo=True),
    BANK: AccountKind("debit", may_go_negative=True, whose=_PAYEE_CODE),
}
"""The books' accounts by what they are; the invariants read their signs from here."""

_ACCOUNT = re.compile("|".join(rf"{name}:(?:{kind.whose})" for name, kind in ACCOUNT_KINDS.items()))
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


def refund_in_flight(account_id: str) -> str:
    """The account of money we asked a channel to give back and that has not left yet."""
    return f"{REFUND_IN_FLIGHT}:{account_id}"


def channel_fee(account_id: str) -> str:
    """The account of what a channel keeps for its service."""
    return f"{CHANNEL_FEE}:{account_id}"


def hold_expected(account_id: str = ANY_CHANNEL) -> str:
    """The memo account of what open orders are expected to bring."""
    return f"{HOLD_EXPECTED}:{account_id}"


def hold_payee(payee_code: str) -> str:
    """The memo account of a payee's share in open orders."""
    return f"{HOLD_PAYEE}:{payee_code}"


def bank(payee_code: str) -> str:
    """The account of what has arrived at a payee's bank."""
    return f"{BANK}:{payee_code}"


def account_kind(account: str) -> AccountKind:
    """What holds of this account. Raises NotATransfer for a name outside the grammar."""
    if not is_account(account):
        raise NotATransfer(f"no such account: {account[:96]!r}")
    return ACCOUNT_KINDS[account.partition(":")[0]]


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
