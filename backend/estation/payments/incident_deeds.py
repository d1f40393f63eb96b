"""Who may do what about an incident: kind × state × owner × role, as data. Pure."""

from collections.abc import Mapping

from estation.payments.combining import is_part
from estation.payments.refund_rules import Deed, legal_deeds
from estation.payments.rules import IncidentKind, IncidentState

CHECKER = "finance_checker"
FINANCE = frozenset({"finance_clerk", CHECKER})
OPERATOR = frozenset({"operator"})

OWNER_ROLES: Mapping[str, frozenset[str]] = {"finance": FINANCE, "operator": OPERATOR}
"""Finance decides about money; operators about news that our own programs failed on. An
incident of an owner nobody knows is finance's."""

ROLES: Mapping[Deed, frozenset[str]] = {
    Deed.TAKE: FINANCE | OPERATOR,
    Deed.RESOLVE: FINANCE | OPERATOR,
    Deed.ASK_CHANNEL: FINANCE | OPERATOR,
    Deed.REFUND: FINANCE,
    Deed.APPLY: FINANCE,
    Deed.SETTLE_OUTSIDE: FINANCE,
    Deed.REDIRECT_REFUND: FINANCE,
    Deed.PAY_BY_HAND: FINANCE,
    Deed.END_CLAIM: FINANCE,
    Deed.ESCALATE: frozenset(),  # the system alone
}

ABOUT_ONE_PAYMENT = frozenset(
    {
        IncidentKind.UNKNOWN_ORDER,
        IncidentKind.WRONG_ACCOUNT,
        IncidentKind.WRONG_AMOUNT,
        IncidentKind.PAID_AFTER_CLOSE,
        IncidentKind.PAID_AFTER_EXPIRY,
        IncidentKind.BILL_WITHDRAWN,
        IncidentKind.BILL_REVISED,
        IncidentKind.BILL_ALREADY_PAID,
        IncidentKind.DOUBLE_PAYMENT,
        IncidentKind.ALREADY_REFUNDED,
        IncidentKind.UNEXPECTED_REFUND,
        IncidentKind.CONTRADICTING_NEWS,
        IncidentKind.INCOMPLETE_NEWS,
        IncidentKind.UNSETTLED_NEWS,
        IncidentKind.SILENT_ATTEMPT,
        IncidentKind.UNOWNED_SUSPENSE,
        IncidentKind.REFUND_CLOSED,
        "missing_in_ledger",
        "status_differs",
        "amount_differs",
        "trade_no_differs",
        "duplicate_in_bill",
    }
)
"""Asking the channel again may tell what is true."""

ORDER = (
    Deed.TAKE,
    Deed.ASK_CHANNEL,
    Deed.REFUND,
    Deed.APPLY,
    Deed.SETTLE_OUTSIDE,
    Deed.REDIRECT_REFUND,
    Deed.PAY_BY_HAND,
    Deed.END_CLAIM,
    Deed.RESOLVE,
)
"""As the page offers them."""


NOT_OF_A_PART = frozenset({Deed.APPLY})
"""A part's money is one of several arrivals of its order; only all of them together pay it."""


def deeds_for(
    *, kind: str, state: IncidentState, owner: str, role: str | None, number: str = ""
) -> tuple[Deed, ...]:
    """What an officer of this role may do now, in the page's order; nothing about a closed one.
    `number`: the incident's out_trade_no, which says whether it is about a part."""
    if state is not IncidentState.OPEN or role not in OWNER_ROLES.get(owner, FINANCE):
        return ()
    legal = legal_deeds(kind) | ({Deed.ASK_CHANNEL} if kind in ABOUT_ONE_PAYMENT else frozenset())
    if is_part(number):
        legal -= NOT_OF_A_PART
    return tuple(deed for deed in ORDER if deed in legal and role in ROLES[deed])
