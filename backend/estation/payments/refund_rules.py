"""Giving money back: what is still there, from whom it is taken, what a channel's word means. Pure.

A refund belongs to one *arrival*: the ledger transfer (payment or suspense) that recorded money
at one merchant account.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from estation.outside.pay_channels import Channel, RefundReport, RefundStatus
from estation.payments.rules import (
    NOTED,
    REFUND_MOVES,
    REPEATED,
    IllegalMove,
    IncidentKind,
    OutcomeKind,
    RefundCause,
    RefundState,
    Verdict,
)

SYSTEM = "system"
"""Who asked for and decided what the platform does by itself."""

AUTOMATIC: Mapping[IncidentKind, RefundCause] = {
    IncidentKind.DOUBLE_PAYMENT: RefundCause.DOUBLE_PAYMENT,
    IncidentKind.BILL_ALREADY_PAID: RefundCause.BILL_CHANGED,
    IncidentKind.PAID_AFTER_CLOSE: RefundCause.PAID_LATE,
    IncidentKind.PAID_AFTER_EXPIRY: RefundCause.PAID_LATE,
    IncidentKind.BILL_REVISED: RefundCause.BILL_CHANGED,
    IncidentKind.BILL_WITHDRAWN: RefundCause.BILL_CHANGED,
}
"""Money set aside for these reasons goes back by itself; any other waits for a person."""

AUTOMATIC_REASON: Mapping[RefundCause, str] = {
    RefundCause.DOUBLE_PAYMENT: "重复支付，原路退回",
    RefundCause.PAID_LATE: "订单结束后到账，原路退回",
    RefundCause.BILL_CHANGED: "缴费单已变更或已缴清，原路退回",
}

RESERVES = frozenset(set(RefundState) - {RefundState.REJECTED, RefundState.CLOSED})
"""Refunds in these states use up what can still be given back."""

IN_FLIGHT = frozenset({RefundState.APPROVED, RefundState.PROCESSING, RefundState.ABNORMAL})
"""Reserved in the ledger, and not ended."""

GONE = IN_FLIGHT | {RefundState.SUCCEEDED}
"""Out of suspense, or out of what the payees have."""

UNFINISHED = IN_FLIGHT | {RefundState.ASKED}


class PayersRefund(StrEnum):
    """A refund as its payer may know it. Stable: programs read it."""

    REFUNDING = "refunding"
    ABNORMAL = "abnormal"  # the payer's account cannot take it: a person finds another way
    REFUNDED = "refunded"
    NOT_REFUNDED = "not_refunded"
    PAID_BY_HAND = "paid_by_hand"  # a person paid it out by transfer


FOR_THE_PAYER: Mapping[RefundState, PayersRefund] = {
    RefundState.APPROVED: PayersRefund.REFUNDING,
    RefundState.PROCESSING: PayersRefund.REFUNDING,
    RefundState.ABNORMAL: PayersRefund.ABNORMAL,
    RefundState.SUCCEEDED: PayersRefund.REFUNDED,
    RefundState.CLOSED: PayersRefund.NOT_REFUNDED,
}
"""What was only asked for, or rejected, is the office's own business."""


def for_the_payer(
    state: RefundState, *, is_redirected: bool, is_paid_by_hand: bool = False
) -> PayersRefund:
    """A state of FOR_THE_PAYER in the payer's words. Redirected to our own card, the money is not
    with the payer, whatever the channel says, before two persons booked that it was paid out."""
    if is_paid_by_hand:
        return PayersRefund.PAID_BY_HAND
    return PayersRefund.ABNORMAL if is_redirected else FOR_THE_PAYER[state]


TAKING_ORDER = ("non_tax", "maintenance_fund", "treasury")
"""From whom a part is taken first when nobody says otherwise (decision 20). Payees that are not
named stand before the last."""

REFUND_UNFINISHED_AFTER = timedelta(hours=24)

FIRST_LOOK = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=10)
FIRST_WAIT_FOR_MONEY = timedelta(minutes=2)
LONGEST_WAIT_FOR_MONEY = timedelta(minutes=30)

NOT_ENOUGH_CODES = ("NOT_ENOUGH", "SELLER_BALANCE_NOT_ENOUGH")
"""How the channels say that the merchant account is short of money; Alipay's has a prefix."""

MAX_REASON = 80

MAX_NOTE = 200
"""Of a maker or checker, at a wish or its answer."""


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What a channel allows. `most_refunds`: of one trade; None: as many as one likes. `apart`
    is the channel's minute with a margin, for a first request may travel slower than the next.
    Sources: WeChat Pay v3 refund/domestic; Alipay alipay.trade.refund (twelve months)."""

    most_refunds: int | None
    apart: timedelta
    within: timedelta


LIMITS: Mapping[Channel, ChannelLimits] = {
    Channel.WECHAT_PAY: ChannelLimits(50, timedelta(seconds=75), timedelta(days=365)),
    Channel.ALIPAY: ChannelLimits(None, timedelta(0), timedelta(days=365)),
}


class Deed(StrEnum):
    """What a person may do about an incident; each leaves a row in its history."""

    TAKE = "take"
    RESOLVE = "resolve"
    REFUND = "refund"  # by a maker, approved by a checker
    APPLY = "apply"  # to the still payable bill, by a maker, approved by a checker
    SETTLE_OUTSIDE = "settle_outside"  # outside the channels, by a maker and a checker
    PAY_BY_HAND = "pay_by_hand"  # a redirected refund to its payer, by a maker and a checker
    END_CLAIM = "end_claim"  # of ours: it came back or is given up, by a maker and a checker
    REDIRECT_REFUND = "redirect_refund"  # an abnormal one to our own card, by maker and checker
    ASK_CHANNEL = "ask_channel"  # ask again about the payment, and settle the answer
    ESCALATE = "escalate"  # by the system alone, when the time is over


REDIRECT_REFUSED: Final = "redirect_refused"
"""The channel's certain no to a Deed.REDIRECT_REFUND, in the same history."""

PAID_BY_HAND: Final = "paid_by_hand"
"""Deed.PAY_BY_HAND once two persons booked it: in the same history, and as a kind of transfer."""

APPLIED: Final = "applied"
"""Deed.APPLY once two persons agreed, in the same history."""

_GIVE_AWAY = frozenset({Deed.REFUND, Deed.SETTLE_OUTSIDE})
"""How money leaves suspense for good."""

LEGAL_DEEDS: Mapping[str, frozenset[Deed]] = {
    IncidentKind.PAID_AFTER_CLOSE: _GIVE_AWAY | {Deed.APPLY},
    IncidentKind.PAID_AFTER_EXPIRY: _GIVE_AWAY | {Deed.APPLY},
    IncidentKind.DOUBLE_PAYMENT: _GIVE_AWAY,
    IncidentKind.BILL_ALREADY_PAID: _GIVE_AWAY,
    IncidentKind.BILL_REVISED: _GIVE_AWAY,
    IncidentKind.BILL_WITHDRAWN: _GIVE_AWAY,
    IncidentKind.WRONG_AMOUNT: _GIVE_AWAY,
    IncidentKind.WRONG_ACCOUNT: _GIVE_AWAY,
    IncidentKind.UNKNOWN_ORDER: _GIVE_AWAY,
    IncidentKind.UNOWNED_SUSPENSE: _GIVE_AWAY,
    IncidentKind.ALREADY_REFUNDED: _GIVE_AWAY,
    IncidentKind.CONTRADICTING_NEWS: _GIVE_AWAY,
    IncidentKind.REFUND_CLOSED: _GIVE_AWAY,
    IncidentKind.REFUND_ABNORMAL: frozenset({Deed.REDIRECT_REFUND, Deed.PAY_BY_HAND}),
    IncidentKind.REFUND_OVERPAID: frozenset({Deed.END_CLAIM}),
}
"""Beside these, every open incident may be taken on, and resolved in words once none of its money
is in suspense (`unsettled_fen`)."""

APPLICABLE = frozenset(kind for kind, deeds in LEGAL_DEEDS.items() if Deed.APPLY in deeds)
"""Incidents of money that came too late, and may pay its bill after all."""


def legal_deeds(kind: str) -> frozenset[Deed]:
    return LEGAL_DEEDS.get(kind, frozenset()) | {Deed.TAKE, Deed.RESOLVE}


@dataclass(frozen=True, slots=True)
class Share:
    """What one payee has, or gives back, of one bill."""

    bill_id: UUID
    payee_code: str
    amount_fen: int


@dataclass(slots=True)
class RefundNow:
    """What of a locked refund decides. Mutable: several news of one batch may concern it.

    `is_redirected`: abnormal once, it was ordered to our own card, and the channel did not
    certainly refuse.
    """

    id: UUID
    refund_no: str
    account_id: str
    out_trade_no: str
    amount_fen: int
    state: RefundState
    is_redirected: bool = False

    def move(self, to: RefundState) -> None:
        if to not in REFUND_MOVES[self.state]:
            raise IllegalMove(f"refund {self.state} -> {to}")
        self.state = to


@dataclass(frozen=True, slots=True)
class RefundVerdict:
    """What one word about a refund changes. `again`: it was taken for closed, so the money is
    reserved anew first."""

    outcome: OutcomeKind
    to: RefundState | None = None
    incident: IncidentKind | None = None
    again: bool = False


def judge_refund(report: RefundReport, refund: RefundNow | None) -> RefundVerdict:
    """Decide about the channel's word on one refund number; `refund` is ours of that number."""
    if report.status is RefundStatus.NOT_FOUND:
        return _no_change(NOTED)
    if refund is None or not _is_about(report, refund):
        return _only(IncidentKind.UNEXPECTED_REFUND)
    if refund.state in (RefundState.ASKED, RefundState.REJECTED):
        # The channel was never asked for it by us.
        return _only(IncidentKind.UNEXPECTED_REFUND)
    if report.status is RefundStatus.SUCCESS:
        return _judge_success(report, refund)
    to = _STATE_OF[report.status]
    if refund.state is to:
        return _no_change(REPEATED)
    if to not in REFUND_MOVES[refund.state]:
        return _judge_after_the_end(to, refund)
    if to is RefundState.PROCESSING:
        return RefundVerdict(OutcomeKind.NOTED, to)
    if to is RefundState.CLOSED:
        return RefundVerdict(OutcomeKind.CLOSED, to, IncidentKind.REFUND_CLOSED)
    return RefundVerdict(OutcomeKind.INCIDENT, to, IncidentKind.REFUND_ABNORMAL)


_STATE_OF: Mapping[RefundStatus, RefundState] = {
    RefundStatus.PROCESSING: RefundState.PROCESSING,
    RefundStatus.CLOSED: RefundState.CLOSED,
    RefundStatus.ABNORMAL: RefundState.ABNORMAL,
}


def _is_about(report: RefundReport, refund: RefundNow) -> bool:
    """An amount is compared wherever the channel names one."""
    return (
        report.account_id == refund.account_id
        and report.out_trade_no in ("", refund.out_trade_no)
        and report.amount_fen in (None, refund.amount_fen)
    )


def _judge_success(report: RefundReport, refund: RefundNow) -> RefundVerdict:
    if report.amount_fen is None or report.at is None:
        return _only(IncidentKind.INCOMPLETE_NEWS)
    if refund.state is RefundState.SUCCEEDED:
        return _no_change(REPEATED)
    if refund.state is RefundState.CLOSED:
        return RefundVerdict(
            OutcomeKind.INCIDENT,
            RefundState.SUCCEEDED,
            IncidentKind.CONTRADICTING_NEWS,
            again=True,
        )
    return RefundVerdict(OutcomeKind.APPLIED, RefundState.SUCCEEDED)


def _judge_after_the_end(to: RefundState, refund: RefundNow) -> RefundVerdict:
    """Neither "processing" nor "abnormal" carries a time. What we knew before the end and hear
    again after it is old news: under way, or the failure that was answered by redirecting."""
    if to is RefundState.PROCESSING:
        return _no_change(NOTED)
    ended_by_redirect = refund.is_redirected and refund.state is RefundState.SUCCEEDED
    if to is RefundState.ABNORMAL and ended_by_redirect:
        return _no_change(REPEATED)
    return _only(IncidentKind.CONTRADICTING_NEWS)


def _no_change(verdict: Verdict) -> RefundVerdict:
    return RefundVerdict(verdict.outcome)


def _only(kind: IncidentKind) -> RefundVerdict:
    return RefundVerdict(OutcomeKind.INCIDENT, incident=kind)


def refundable_fen(total_fen: int, refunds: Iterable[tuple[RefundState, int]]) -> int:
    """What of an arrival is neither given back nor promised."""
    return total_fen - sum(fen for state, fen in refunds if state in RESERVES)


def unsettled_fen(
    total_fen: int, refunds: Iterable[tuple[RefundState, int]], settled_fen: int
) -> int:
    """What of an arrival in suspense is neither given back, nor on its way by two persons' word,
    nor settled outside. A refund that only was asked for keeps nothing from being forgotten."""
    gone = sum(fen for state, fen in refunds if state in GONE)
    return max(total_fen - gone - settled_fen, 0)


def left_of(shares: Sequence[Share], taken: Iterable[Share]) -> list[Share]:
    """The shares less what was taken of each; those with nothing left are gone."""
    used: dict[tuple[UUID, str], int] = {}
    for share in taken:
        key = (share.bill_id, share.payee_code)
        used[key] = used.get(key, 0) + share.amount_fen
    rests = [
        Share(s.bill_id, s.payee_code, s.amount_fen - used.get((s.bill_id, s.payee_code), 0))
        for s in shares
    ]
    return [rest for rest in rests if rest.amount_fen > 0]


def take_in_order(amount_fen: int, left: Sequence[Share]) -> list[Share]:
    """Who gives back how much when nobody says: payee by payee in TAKING_ORDER, within a payee
    bill by bill by id, each as far as it has. Raises ValueError when there is not enough."""
    taken: list[Share] = []
    missing = amount_fen
    for share in sorted(left, key=_place):
        part = min(share.amount_fen, missing)
        if part > 0:
            taken.append(Share(share.bill_id, share.payee_code, part))
            missing -= part
    if missing or amount_fen <= 0:
        raise ValueError(f"{amount_fen} fen cannot be taken")
    return taken


def covers(left: Sequence[Share], wanted: Sequence[Share]) -> bool:
    """True when each wanted share is above zero, named once, and there."""
    there = {(share.bill_id, share.payee_code): share.amount_fen for share in left}
    named = {(share.bill_id, share.payee_code) for share in wanted}
    return len(named) == len(wanted) and all(
        0 < share.amount_fen <= there.get((share.bill_id, share.payee_code), 0) for share in wanted
    )


def _place(share: Share) -> tuple[float, str, str]:
    last = len(TAKING_ORDER) - 1
    known = share.payee_code in TAKING_ORDER
    rank = float(TAKING_ORDER.index(share.payee_code)) if known else last - 0.5
    return rank, share.payee_code, str(share.bill_id)


class Hindrance(StrEnum):
    """Why a channel would never take a refund. Stable; shown to staff."""

    TOO_MANY = "too_many"
    TOO_OLD = "too_old"


def hindrance(
    channel: Channel, *, paid_at: datetime, refunds_so_far: int, now: datetime
) -> Hindrance | None:
    """`refunds_so_far`: those of the same trade that were not rejected."""
    limits = LIMITS[channel]
    if now - paid_at > limits.within:
        return Hindrance.TOO_OLD
    if limits.most_refunds is not None and refunds_so_far >= limits.most_refunds:
        return Hindrance.TOO_MANY
    return None


def next_look(tries: int, *, now: datetime) -> datetime:
    """When to ask about a refund again: 10 s doubling to 10 min, for ever until it ends."""
    doubled: int = 2 ** min(max(tries - 1, 0), 10)
    return now + min(FIRST_LOOK * doubled, LONGEST_PAUSE)


def next_try_for_money(tries: int, *, now: datetime) -> datetime:
    """When to try again after the account was short of money: 2 min doubling to half an hour."""
    doubled: int = 2 ** min(max(tries - 1, 0), 10)
    return now + min(FIRST_WAIT_FOR_MONEY * doubled, LONGEST_WAIT_FOR_MONEY)


def is_short_of_money(code: str) -> bool:
    return code.upper().rpartition(".")[2] in NOT_ENOUGH_CODES


def is_unfinished_too_long(decided_at: datetime, *, now: datetime) -> bool:
    return decided_at + REFUND_UNFINISHED_AFTER <= now


def start_key(refund_no: str, *, again: bool = False) -> str:
    """The ledger key under which a refund's money is reserved; `again`: after it was reversed."""
    return f"refund_start:{refund_no}:again" if again else f"refund_start:{refund_no}"


def is_started_again(key: str) -> bool:
    """Whether a ledger key reserves a refund's money anew, after it was reversed."""
    return key == start_key(refund_no_of(key), again=True)


def refund_no_of(key: str) -> str:
    """The refund that a ledger key of it names."""
    return key.partition(":")[2].partition(":")[0]


def refund_key(refund_no: str) -> str:
    return f"refund:{refund_no}"


def reversal_key(refund_no: str) -> str:
    return f"refund_reversal:{refund_no}"
