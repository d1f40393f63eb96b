"""The life of an order and its attempts as data, and the judgement on a channel's news. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from estation.outside.pay_channels import Channel, ChannelReport, ChannelState, Scene


class OrderState(StrEnum):
    """A pay order (缴费订单): what the citizen wants to pay, once."""

    OPEN = "open"
    PAID = "paid"
    CLOSED = "closed"


class AttemptState(StrEnum):
    """One try at one channel under its own out_trade_no."""

    OPENING = "opening"  # Committed here; the channel has not answered (or answered "unknown").
    OPEN = "open"  # The channel gave a ticket.
    ABANDONED = "abandoned"  # Taken off the screen while the channel knew no trade; still watched.
    PAID = "paid"  # Money arrived under this number, applied or not.
    CLOSED = "closed"  # It can never be paid any more.
    REFUSED = "refused"  # The channel refused to open it: no money can arrive.


class RefundCause(StrEnum):
    """Why money is given back. Stable; shown to the payer in plain words."""

    DOUBLE_PAYMENT = "double_payment"  # paid twice: by the platform itself
    PAID_LATE = "paid_late"  # paid after the order had ended: by the platform itself
    BILL_CHANGED = "bill_changed"  # revised, withdrawn or paid while being paid: by itself
    STAFF = "staff"  # asked by a maker of finance, approved by a checker
    CENTRE = "centre"  # ordered by the internal platform through the gate


class RefundState(StrEnum):
    """One refund under its own refund number."""

    ASKED = "asked"  # waits for the checker
    REJECTED = "rejected"  # the checker said no
    APPROVED = "approved"  # money is reserved in the ledger; the channel is to be asked
    PROCESSING = "processing"  # the channel accepted it (or gave no certain answer)
    ABNORMAL = "abnormal"  # the payer's account cannot take it: a person decides
    SUCCEEDED = "succeeded"  # the payer has the money
    CLOSED = "closed"  # certain: not given back; the reservation is reversed


class RefundSource(StrEnum):
    """From which side of the books a refund is taken."""

    SUSPENSE = "suspense"  # money that was never applied
    PAYMENT = "payment"  # money that was applied: the payees give it back


class OutsideState(StrEnum):
    """Money in suspense that finance settles outside the channels (线下处理)."""

    ASKED = "asked"  # waits for the checker
    REJECTED = "rejected"  # the checker said no
    APPROVED = "approved"  # booked out of suspense


class ClaimEnd(StrEnum):
    """How a claim of ours, or a part of it, ends (多退应收)."""

    RECOVERED = "recovered"  # the payer's money came back
    WRITTEN_OFF = "written_off"  # given up by the decision of an office


class IncidentState(StrEnum):
    OPEN = "open"
    RESOLVED = "resolved"


class IncidentKind(StrEnum):
    """Why news about money fits nothing. Shown to staff; stable."""

    UNKNOWN_ORDER = "unknown_order"
    WRONG_ACCOUNT = "wrong_account"
    WRONG_AMOUNT = "wrong_amount"
    PAID_AFTER_CLOSE = "paid_after_close"
    PAID_AFTER_EXPIRY = "paid_after_expiry"
    BILL_WITHDRAWN = "bill_withdrawn"
    BILL_REVISED = "bill_revised"
    BILL_ALREADY_PAID = "bill_already_paid"
    DOUBLE_PAYMENT = "double_payment"
    ALREADY_REFUNDED = "already_refunded"
    UNEXPECTED_REFUND = "unexpected_refund"
    CONTRADICTING_NEWS = "contradicting_news"
    INCOMPLETE_NEWS = "incomplete_news"
    UNREADABLE_NEWS = "unreadable_news"  # Believed, but of a kind we cannot act on.
    UNSETTLED_NEWS = "unsettled_news"
    UNOWNED_SUSPENSE = "unowned_suspense"  # Found in the books, with nobody looking after it.
    SILENT_ATTEMPT = "silent_attempt"  # No news: its channel gives no certain answer.
    REFUND_CLOSED = "refund_closed"  # The channel will not give the money back.
    REFUND_ABNORMAL = "refund_abnormal"  # The payer's account cannot take it.
    REFUND_NOT_ENOUGH = "refund_not_enough"  # The merchant account is short of money.
    REFUND_UNFINISHED = "refund_unfinished"  # No end after a day.
    REFUND_OVERPAID = "refund_overpaid"  # Given back beyond what was left of it: a claim of ours.
    REFUND_ORDER_REFUSED = "refund_order_refused"  # The centre's order could not be followed.


class CloseReason(StrEnum):
    """Why an order ended unpaid, or an attempt without money; incident kinds are used too."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    BILL_CHANGED = "bill_changed"  # Revised or withdrawn before anybody paid.
    CHANNEL = "channel"  # The channel says so.
    NEVER_SEEN = "never_seen"  # The channel never knew it, and its life is over.


REFUND_MOVES: Mapping[RefundState, frozenset[RefundState]] = {
    RefundState.ASKED: frozenset({RefundState.APPROVED, RefundState.REJECTED}),
    RefundState.REJECTED: frozenset(),
    RefundState.APPROVED: frozenset(
        {
            RefundState.PROCESSING,
            RefundState.ABNORMAL,
            RefundState.SUCCEEDED,
            RefundState.CLOSED,
        }
    ),
    RefundState.PROCESSING: frozenset(
        {RefundState.ABNORMAL, RefundState.SUCCEEDED, RefundState.CLOSED}
    ),
    RefundState.ABNORMAL: frozenset(
        {RefundState.PROCESSING, RefundState.SUCCEEDED, RefundState.CLOSED}
    ),
    # Money beats words: a success after "closed" is still money that left.
    RefundState.CLOSED: frozenset({RefundState.SUCCEEDED}),
    RefundState.SUCCEEDED: frozenset(),
}

ORDER_MOVES: Mapping[OrderState, frozenset[OrderState]] = {
    OrderState.OPEN: frozenset({OrderState.PAID, OrderState.CLOSED}),
    OrderState.PAID: frozenset(),
    # Only by two persons, who apply money that came late to a bill that is still as it was.
    OrderState.CLOSED: frozenset({OrderState.PAID}),
}

ATTEMPT_MOVES: Mapping[AttemptState, frozenset[AttemptState]] = {
    AttemptState.OPENING: frozenset(
        {
            AttemptState.OPEN,
            AttemptState.ABANDONED,
            AttemptState.PAID,
            AttemptState.CLOSED,
            AttemptState.REFUSED,
        }
    ),
    AttemptState.OPEN: frozenset({AttemptState.ABANDONED, AttemptState.PAID, AttemptState.CLOSED}),
    AttemptState.ABANDONED: frozenset({AttemptState.PAID, AttemptState.CLOSED}),
    # Money beats words: a success after "closed" or "refused" is still money that arrived.
    AttemptState.CLOSED: frozenset({AttemptState.PAID}),
    AttemptState.REFUSED: frozenset({AttemptState.PAID}),
    AttemptState.PAID: frozenset(),
}

LIVE = frozenset({AttemptState.OPENING, AttemptState.OPEN})
"""The payer may be paying it now; at most one of these per order."""

WATCHED = LIVE | {AttemptState.ABANDONED}
"""The channel is still asked about these."""

UNSEEN_UNTIL_SCANNED = frozenset({Scene.PRECREATE, Scene.WAP, Scene.PAGE})
"""Alipay makes the trade when the payer scans or opens it; before that it is "not found"."""

BOUND_TO_A_PAYER = frozenset({Scene.JSAPI, Scene.MINI_PROGRAM, Scene.TRADE_CREATE})
"""Only the wallet the ticket was made for can pay with it."""

MOST_UNSEEN_CODES = 20
"""Of one bill, given out and not scanned by anybody; each is asked about until it is over."""

H5_LINK_LIFE = timedelta(minutes=4)
"""WeChat Pay's h5_url opens for five minutes; the payer needs one to tap it."""

LATE_MARGIN = timedelta(minutes=10)
"""A payer who began before the code's end may finish after it."""

FIRST_QUERY = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=10)
LONGEST_PAUSE_WHILE_PAYABLE = timedelta(minutes=4)
"""A payment whose notices are all lost is found within five minutes, however often it was asked
about before."""

SILENT_AFTER = timedelta(hours=1)
"""So long after its order's end an attempt without a certain answer is an operator's matter."""

HARMLESS_NEWS = ("SECURITY_ECHO",)
"""Kinds of notices that say nothing of money (WeChat Pay's self-test)."""

MAX_INBOX_TRIES = 20

MESSAGES_KEPT = timedelta(days=180)
"""So long a notice's message is kept as it came; what it said stays in the inbox."""

MOST_HEARD = 24
"""Entries kept of what a channel answered about one attempt: the first half and the last."""

INCIDENT_DUE = timedelta(hours=24)

OPEN_AGAIN = (
    IncidentKind.SILENT_ATTEMPT,
    IncidentKind.REFUND_ABNORMAL,
    IncidentKind.REFUND_NOT_ENOUGH,
    IncidentKind.REFUND_UNFINISHED,
    IncidentKind.UNOWNED_SUSPENSE,
    IncidentKind.UNSETTLED_NEWS,
)
"""Kinds that tell of something that still is so: words do not end them while it lasts."""

PAID_BUT_NOT_BOOKED = frozenset({"missing_in_ledger", "status_differs"})
"""Kinds of the reconciliation: the channel's bill has money that our ledger does not have."""


ENDED_BY_TWO = frozenset({IncidentKind.INCOMPLETE_NEWS, IncidentKind.CONTRADICTING_NEWS})
"""The channel names money otherwise than our books do, which no look at the books refutes: words
end it only when a second person says them too."""


class IllegalMove(Exception):
    """A bug: somebody asked for a transition that is not in the tables."""


@dataclass(slots=True)
class OrderNow:
    """What of a locked order decides. Mutable: several news of one batch may concern it."""

    id: UUID
    state: OrderState
    close_reason: str = ""

    def move(self, to: OrderState) -> None:
        if to not in ORDER_MOVES[self.state]:
            raise IllegalMove(f"order {self.state} -> {to}")
        self.state = to


@dataclass(frozen=True, slots=True)
class Part:
    """A sub-order of a combined payment as it was asked for: what one payee is to get."""

    payee_code: str
    account_id: str
    out_trade_no: str
    amount_fen: int


@dataclass(slots=True)
class AttemptNow:
    """What of a locked attempt decides; `paid_fen` and `channel_trade_no` once it is paid."""

    id: UUID
    channel: Channel
    account_id: str
    amount_fen: int
    state: AttemptState
    channel_trade_no: str | None = None
    paid_fen: int | None = None
    parts: tuple[Part, ...] = ()

    def move(self, to: AttemptState) -> None:
        if to not in ATTEMPT_MOVES[self.state]:
            raise IllegalMove(f"attempt {self.state} -> {to}")
        self.state = to


class BillNow(StrEnum):
    """A locked bill, compared with the version the citizen saw when the order was made."""

    AS_SEEN = "as_seen"
    REVISED = "revised"
    WITHDRAWN = "withdrawn"
    PAID = "paid"


def bill_now(
    *, seen_version: int, version: int, seen_fen: int, total_fen: int, state: str
) -> BillNow:
    """`state` is the fees context's word for the locked row. A refunded bill counts as revised:
    only a newer version of it may be paid. So does one of another total: a copy that was wrong
    is mended without a new version."""
    if state == "paid":
        return BillNow.PAID
    if state == "withdrawn":
        return BillNow.WITHDRAWN
    if state != "payable" or (version, total_fen) != (seen_version, seen_fen):
        return BillNow.REVISED
    return BillNow.AS_SEEN


@dataclass(frozen=True, slots=True)
class Arrival:
    """Money of this channel trade number that is already in the ledger; `refunds_fen` is what we
    have asked the channel to give back of it."""

    amount_fen: int
    refunds_fen: int = 0


class Posting(StrEnum):
    """The two kinds of transfer that record money arriving; each arrival has exactly one."""

    PAYMENT = "payment"  # clearing -> payees
    SUSPENSE = "suspense"  # clearing -> suspense, until a person decides


class OutcomeKind(StrEnum):
    """What became of one piece of news."""

    APPLIED = "applied"
    REPEATED = "repeated"
    INCIDENT = "incident"
    CLOSED = "closed"
    NOTED = "noted"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one piece of news changes; None means: stays as it is."""

    outcome: OutcomeKind
    incident: IncidentKind | None = None
    posting: Posting | None = None
    attempt_to: AttemptState | None = None
    order_to: OrderState | None = None


NOTED = Verdict(OutcomeKind.NOTED)
REPEATED = Verdict(OutcomeKind.REPEATED)
APPLIED = Verdict(
    OutcomeKind.APPLIED,
    posting=Posting.PAYMENT,
    attempt_to=AttemptState.PAID,
    order_to=OrderState.PAID,
)

BILL_IN_THE_WAY: Mapping[BillNow, IncidentKind | None] = {
    BillNow.AS_SEEN: None,
    BillNow.REVISED: IncidentKind.BILL_REVISED,
    BillNow.WITHDRAWN: IncidentKind.BILL_WITHDRAWN,
    BillNow.PAID: IncidentKind.BILL_ALREADY_PAID,
}


def judge(
    report: ChannelReport,
    *,
    attempt: AttemptNow | None,
    order: OrderNow | None,
    bills: list[BillNow],
    arrival: Arrival | None,
) -> Verdict:
    """Decide about one channel report.

    `attempt` and `order` (both or none) are those of the report's out_trade_no, locked; `bills`
    the order's bills; `arrival` what the ledger has under this account and channel trade number.
    A PAID report ends in exactly one of applied, repeated or an incident.
    """
    if report.state is ChannelState.PAID:
        return _judge_paid(report, attempt, order, bills, arrival)
    if report.state is ChannelState.CLOSED:
        return _judge_closed(report, attempt)
    # Not paid, paying, not found: at most an older truth than ours. Never a reason to move.
    return NOTED


def judge_other_news(kind: str) -> Verdict:
    """News that is not about a payment's state, by the notice's kind.

    News of a refund that names its number is judged by `refund_rules`; a refund without one, and
    news of a kind we cannot read, may be about money: a person looks at it.
    """
    if kind.startswith(HARMLESS_NEWS):
        return NOTED
    is_refund = kind.upper().startswith("REFUND")
    return _only(IncidentKind.UNEXPECTED_REFUND if is_refund else IncidentKind.UNREADABLE_NEWS)


def _judge_closed(report: ChannelReport, attempt: AttemptNow | None) -> Verdict:
    if attempt is None or attempt.account_id != report.account_id:
        return NOTED
    if attempt.state is AttemptState.PAID:
        return _only(IncidentKind.CONTRADICTING_NEWS)
    if AttemptState.CLOSED not in ATTEMPT_MOVES[attempt.state]:
        return REPEATED
    return Verdict(OutcomeKind.CLOSED, attempt_to=AttemptState.CLOSED)


def _judge_paid(
    report: ChannelReport,
    attempt: AttemptNow | None,
    order: OrderNow | None,
    bills: list[BillNow],
    arrival: Arrival | None,
) -> Verdict:
    if not is_complete(report):
        return _only(IncidentKind.INCOMPLETE_NEWS)
    ours = attempt if attempt and attempt.account_id == report.account_id else None
    if arrival is not None:
        return _judge_known(report, ours, order, arrival)
    if ours is None or order is None:
        kind = IncidentKind.WRONG_ACCOUNT if attempt else IncidentKind.UNKNOWN_ORDER
        return Verdict(OutcomeKind.INCIDENT, kind, Posting.SUSPENSE)
    if ours.state is AttemptState.PAID:
        return Verdict(OutcomeKind.INCIDENT, IncidentKind.DOUBLE_PAYMENT, Posting.SUSPENSE)
    reason = in_the_way(report, ours, order, bills)
    return set_aside(reason, order) if reason else APPLIED


def _judge_known(
    report: ChannelReport, attempt: AttemptNow | None, order: OrderNow | None, arrival: Arrival
) -> Verdict:
    """The money of this trade number is on our books already: nothing is posted again."""
    if report.paid_fen != arrival.amount_fen:
        return _only(IncidentKind.CONTRADICTING_NEWS)
    if attempt is not None and order is not None and attempt.state is not AttemptState.PAID:
        # It came before we knew the number, and waits in suspense with its incident.
        return set_aside(IncidentKind.UNKNOWN_ORDER, order, posting=None)
    if (report.refunded_fen or 0) > arrival.refunds_fen:
        return _only(IncidentKind.UNEXPECTED_REFUND)
    return REPEATED


def in_the_way(
    report: ChannelReport, attempt: AttemptNow, order: OrderNow, bills: list[BillNow]
) -> IncidentKind | None:
    """The first reason not to apply this money. Lateness alone is none: an order that is past
    its end but still open, with bills as seen, is paid."""
    if report.paid_fen != attempt.amount_fen:
        return IncidentKind.WRONG_AMOUNT
    if report.refunded_fen or report.was_refunded:
        return IncidentKind.ALREADY_REFUNDED
    if order.state is OrderState.PAID:
        return IncidentKind.DOUBLE_PAYMENT
    if order.state is OrderState.CLOSED:
        late = order.close_reason == CloseReason.EXPIRED
        return IncidentKind.PAID_AFTER_EXPIRY if late else IncidentKind.PAID_AFTER_CLOSE
    return next((kind for bill in bills if (kind := BILL_IN_THE_WAY[bill])), None)


def set_aside(
    kind: IncidentKind, order: OrderNow, *, posting: Posting | None = Posting.SUSPENSE
) -> Verdict:
    """The attempt is paid, the money waits, and the order ends so that no bill stays blocked."""
    ends = OrderState.CLOSED if order.state is OrderState.OPEN else None
    return Verdict(OutcomeKind.INCIDENT, kind, posting, AttemptState.PAID, ends)


def _only(kind: IncidentKind) -> Verdict:
    return Verdict(OutcomeKind.INCIDENT, kind)


def is_complete(report: ChannelReport) -> bool:
    """True when a success names its money: trade number, amount above zero, moment."""
    return (
        bool(report.channel_trade_no) and (report.paid_fen or 0) > 0 and report.paid_at is not None
    )


def why_not_apply(
    *, attempt: AttemptNow, order: OrderNow, bills: list[BillNow], trade_no: str, amount_fen: int
) -> str:
    """Why late money in suspense may not pay its closed order after all; "" when it may."""
    if order.state is not OrderState.CLOSED:
        return "not_closed"
    if (attempt.state, attempt.channel_trade_no) != (AttemptState.PAID, trade_no):
        return "other_payment"
    if not attempt.amount_fen == attempt.paid_fen == amount_fen:
        return "wrong_amount"
    if any(bill is not BillNow.AS_SEEN for bill in bills):
        return "bill_changed"
    return ""


def arrival_key(account_id: str, channel_trade_no: str) -> str:
    """The ledger's idempotency key of one success at a channel, applied or not."""
    return f"arrival:{account_id}:{channel_trade_no}"


def next_query_at(queries: int, *, now: datetime, expires_at: datetime) -> datetime:
    """When to ask next, after `queries` questions: 10 s, 20 s, 40 s … 4 min while it may be paid,
    then 10 min; and at the end.

    For ever while the attempt is watched: two days of "unknown" are still not "failed" (D12).
    """
    doubled: int = 2 ** min(queries, 10)
    is_over = life_is_over(expires_at, now=now)
    longest = LONGEST_PAUSE if is_over else LONGEST_PAUSE_WHILE_PAYABLE
    after = now + min(FIRST_QUERY * doubled, longest)
    return min(after, expires_at) if now < expires_at else after


def must_end(
    state: AttemptState, order: OrderState, *, order_expires_at: datetime, now: datetime
) -> bool:
    """True when an attempt has to be closed at its channel: nobody may pay it any more."""
    if state is AttemptState.ABANDONED:
        return True
    return state in LIVE and (order is not OrderState.OPEN or order_expires_at <= now)


def is_silent_too_long(order_expires_at: datetime, *, now: datetime) -> bool:
    """True when an attempt that still has no certain answer needs a person's eye."""
    return order_expires_at + SILENT_AFTER <= now


def ticket_serves(scene: Scene, made_at: datetime | None, *, now: datetime) -> bool:
    """False when the channel must be asked for the ticket again, under the same number."""
    return scene is not Scene.H5 or made_at is None or now < made_at + H5_LINK_LIFE


def inbox_pause(tries: int) -> timedelta:
    """How long to wait after `tries` failures to settle a notice: 2 s doubling to 10 min."""
    doubled: int = 2 ** min(tries, 10)
    return min(timedelta(seconds=2) * doubled, LONGEST_PAUSE)


def life_is_over(expires_at: datetime, *, now: datetime) -> bool:
    """True when a number the channel never knew can no longer become a trade."""
    return expires_at + LATE_MARGIN <= now


def may_be_abandoned(state: AttemptState, scene: Scene) -> bool:
    """True when "not found" is what an unused code looks like, so that it may leave the screen.

    Without a stored ticket nobody ever saw the code; an unscanned Alipay code has no trade yet.
    """
    return state is AttemptState.OPENING or (
        state is AttemptState.OPEN and scene in UNSEEN_UNTIL_SCANNED
    )
