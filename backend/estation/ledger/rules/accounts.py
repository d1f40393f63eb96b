"""The accounts of the books: how they are named, where they grow, which may go below zero. Pure."""

import functools
import re
from typing import Literal

from msgspec import Struct

from estation.ledger.errors import NotATransfer

CLEARING = "channel_clearing"
PAYEE = "payee_payable"
SUSPENSE = "suspense"
REFUND_IN_FLIGHT = "refund_in_flight"
SETTLED_OUTSIDE = "settled_outside"
OVERPAID_BACK = "overpaid_back"
RECEIVED_OUTSIDE = "received_outside"
WRITTEN_OFF = "written_off"
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
    # What finance paid, or gave to whom it belongs, by other ways than the channel: the money
    # itself still stands at the merchant account, and is finance's own now.
    SETTLED_OUTSIDE: AccountKind("credit", may_go_negative=False, whose=_MERCHANT),
    # 多退应收: what a channel gave back that was not left to give; whoever got it owes it to us.
    OVERPAID_BACK: AccountKind("debit", may_go_negative=False, whose=_MERCHANT),
    # What finance received at its own bank, beside the channel: of such a claim (追回), or a refund
    # that went to our own card (改退). The merchant account is short of it: the counterpart of
    # SETTLED_OUTSIDE.
    RECEIVED_OUTSIDE: AccountKind("debit", may_go_negative=False, whose=_MERCHANT),
    # 核销: a loss, what an office decided not to claim any longer.
    WRITTEN_OFF: AccountKind("debit", may_go_negative=False, whose=_MERCHANT),
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


def settled_outside(account_id: str) -> str:
    """The account of money that was in suspense and was settled outside the channels."""
    return f"{SETTLED_OUTSIDE}:{account_id}"


def overpaid_back(account_id: str) -> str:
    """The account of what was given back beyond what was left to give: a claim of ours."""
    return f"{OVERPAID_BACK}:{account_id}"


def received_outside(account_id: str) -> str:
    """The account of what came back to finance by other ways than to the merchant account."""
    return f"{RECEIVED_OUTSIDE}:{account_id}"


def written_off(account_id: str) -> str:
    """The account of claims that were given up by decision: a loss."""
    return f"{WRITTEN_OFF}:{account_id}"


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


@functools.lru_cache(maxsize=4096)
def find_account(name: str) -> AccountKind | None:
    """What holds of this account; None for a name outside the grammar."""
    return ACCOUNT_KINDS[name.partition(":")[0]] if _ACCOUNT.fullmatch(name) else None


def is_account(name: str) -> bool:
    return find_account(name) is not None


def account_kind(account: str) -> AccountKind:
    """What holds of this account. Raises NotATransfer for a name outside the grammar."""
    kind = find_account(account)
    if kind is None:
        raise NotATransfer(f"no such account: {account[:96]!r}")
    return kind
