"""What a bill, a stage and a receipt may become, as tables and pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from estation.inner.errors import (
    AmountOutOfRange,
    BillNotPaid,
    BillPaid,
    BillWithdrawn,
    NothingDue,
    StageBeforeNotDone,
    StageNotAllowed,
    TaxNotCleared,
    TextMissing,
    TextTooLong,
    UnknownPayee,
    WrongItemNumbers,
)
from estation.shared.errors import Refused
from estation.shared.fields import MAX_FEN

MAX_ITEMS = 60
MAX_FAILED_LOGINS = 5
LOCK = timedelta(minutes=15)
IDLE = timedelta(minutes=30)
LONGEST_SESSION = timedelta(hours=12)


class Role(StrEnum):
    """Who sits at the desk."""

    REGISTRAR = "registrar"  # 登记员
    FEE_CLERK = "fee_clerk"  # 收费员


class CaseState(StrEnum):
    OPEN = "open"  # 在办
    CLOSED = "closed"  # 办结
    WITHDRAWN = "withdrawn"  # 撤回


class Stage(StrEnum):
    """The boxes of the flow chart, in order."""

    CONTRACT = "contract"  # 网签
    ESCROW = "escrow"  # 资金托管
    LOAN = "loan"  # 抵押
    TAX = "tax"  # 纳税
    REGISTRATION = "registration"  # 登记


class StageState(StrEnum):
    WAITING = "waiting"
    DOING = "doing"
    DONE = "done"
    NOT_REQUIRED = "not_required"
    RETURNED = "returned"


PASSED = frozenset({StageState.DONE, StageState.NOT_REQUIRED})

STAGE_MOVES: dict[StageState, frozenset[StageState]] = {
    StageState.WAITING: frozenset({StageState.DOING, StageState.NOT_REQUIRED}),
    StageState.DOING: frozenset({StageState.DONE, StageState.RETURNED, StageState.NOT_REQUIRED}),
    StageState.RETURNED: frozenset({StageState.DOING}),
    StageState.DONE: frozenset(),
    StageState.NOT_REQUIRED: frozenset(),
}


class BillState(StrEnum):
    ISSUED = "issued"  # 待缴
    PAID = "paid"  # 已缴
    WITHDRAWN = "withdrawn"  # 已撤回
    REFUNDED = "refunded"  # 已全额退款: due again once it is revised


class BillMove(StrEnum):
    REVISE = "revise"
    WITHDRAW = "withdraw"
    PAYMENT = "payment"  # a receipt for exactly this version came back
    REFUND = "refund"  # all of its payment was given back


BILL_MOVES: dict[tuple[BillState, BillMove], BillState | type[Refused]] = {
    (BillState.ISSUED, BillMove.REVISE): BillState.ISSUED,
    (BillState.ISSUED, BillMove.WITHDRAW): BillState.WITHDRAWN,
    (BillState.ISSUED, BillMove.PAYMENT): BillState.PAID,
    (BillState.ISSUED, BillMove.REFUND): BillNotPaid,
    (BillState.PAID, BillMove.REFUND): BillState.REFUNDED,
    (BillState.WITHDRAWN, BillMove.REFUND): BillWithdrawn,
    (BillState.REFUNDED, BillMove.REVISE): BillState.ISSUED,
    (BillState.REFUNDED, BillMove.WITHDRAW): BillState.WITHDRAWN,
    (BillState.REFUNDED, BillMove.PAYMENT): BillPaid,
    (BillState.REFUNDED, BillMove.REFUND): BillNotPaid,
    (BillState.PAID, BillMove.REVISE): BillPaid,
    (BillState.PAID, BillMove.WITHDRAW): BillPaid,
    (BillState.PAID, BillMove.PAYMENT): BillPaid,
    (BillState.WITHDRAWN, BillMove.REVISE): BillWithdrawn,
    (BillState.WITHDRAWN, BillMove.WITHDRAW): BillWithdrawn,
    (BillState.WITHDRAWN, BillMove.PAYMENT): BillWithdrawn,
}


class Attention(StrEnum):
    """Why a person has to look at a receipt; empty when it fits its bill."""

    NONE = ""
    UNKNOWN_BILL = "unknown_bill"
    WITHDRAWN_BILL = "withdrawn_bill"
    OTHER_VERSION = "other_version"
    OTHER_AMOUNT = "other_amount"
    ALREADY_PAID = "already_paid"
    REFUNDED_BILL = "refunded_bill"
    CONTRADICTED = "contradicted"  # the same receipt came again with other content
    NEVER_SENT = "never_sent"  # it is here, and the online side does not know it


@dataclass(frozen=True, slots=True)
class Item:
    """One tax or fee as the clerk writes it. Amounts in fen, after relief."""

    seq: int
    code: str
    name: str
    payee_code: str
    base_fen: int | None
    rate: str
    relief_fen: int
    amount_fen: int
    formula: str
    legal_basis: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class BillFacts:
    """What of a bill decides about a receipt; `versions` gives each version's total in fen."""

    state: BillState
    version: int
    versions: Mapping[int, int]


def state_after(state: BillState, move: BillMove) -> BillState:
    """Raises BillPaid or BillWithdrawn when the move is not allowed."""
    answer = BILL_MOVES[state, move]
    if isinstance(answer, BillState):
        return answer
    raise answer()


def total_of(items: Sequence[Item], *, payee_codes: frozenset[str]) -> int:
    """The exact sum in fen of a bill that may be issued.

    Raises WrongItemNumbers, TextMissing, TextTooLong, UnknownPayee, AmountOutOfRange or
    NothingDue, naming the item.
    """
    numbers = [item.seq for item in items]
    if not 1 <= len(items) <= MAX_ITEMS or len(set(numbers)) != len(numbers):
        raise WrongItemNumbers(items=len(items))
    for item in items:
        _check_item(item, payee_codes)
    total = sum(item.amount_fen for item in items)
    if total > MAX_FEN:
        raise AmountOutOfRange(seq=0, field="amount")
    if total == 0:
        raise NothingDue()
    return total


TEXT_LIMITS = {"code": 32, "name": 64, "rate": 32, "formula": 512, "legal_basis": 512, "note": 512}
"""As in `outside.gate.rows`: what the other side could not store is refused here."""


def _check_item(item: Item, payee_codes: frozenset[str]) -> None:
    if not item.name.strip():
        raise TextMissing(seq=item.seq, field="name")
    if item.payee_code not in payee_codes:
        raise UnknownPayee(seq=item.seq, field="payee_code")
    for field, limit in TEXT_LIMITS.items():
        require_text(getattr(item, field), field, limit, seq=item.seq)
    amounts = {
        "base": item.base_fen or 0,
        "relief": item.relief_fen,
        "amount": item.amount_fen,
    }
    for field, fen in amounts.items():
        if not 0 <= fen <= MAX_FEN:
            raise AmountOutOfRange(seq=item.seq, field=field)


def require_text(
    text: str, field: str, limit: int, *, seq: int = 0, may_be_empty: bool = True
) -> None:
    """Raises TextMissing or TextTooLong naming the field."""
    if not may_be_empty and not text.strip():
        raise TextMissing(seq=seq, field=field)
    if len(text) > limit or "\x00" in text:
        raise TextTooLong(seq=seq, field=field, limit=limit)


def attention_of(bill: BillFacts | None, *, version: int, amount_fen: int) -> Attention:
    """What is wrong with a receipt for this version and amount; NONE means the bill is paid by it.

    The most telling reason wins: a withdrawn bill is named as such whatever version was paid.
    """
    if bill is None:
        return Attention.UNKNOWN_BILL
    if bill.state is BillState.WITHDRAWN:
        return Attention.WITHDRAWN_BILL
    if bill.state is BillState.PAID:
        return Attention.ALREADY_PAID
    if bill.state is BillState.REFUNDED:
        return Attention.REFUNDED_BILL
    if version != bill.version:
        return Attention.OTHER_VERSION
    if amount_fen != bill.versions[version]:
        return Attention.OTHER_AMOUNT
    return Attention.NONE


def stage_moves(stage: Stage, state: StageState) -> list[StageState]:
    """What this box may become next; 登记 itself is never skipped."""
    never = {StageState.NOT_REQUIRED} if stage is Stage.REGISTRATION else set()
    return [to for to in StageState if to in STAGE_MOVES[state] and to not in never]


def check_stage_move(
    stages: Mapping[Stage, StageState], stage: Stage, to: StageState, *, unpaid_bills: int
) -> None:
    """May this box of the flow chart become `to` (衔接控制)?

    Nothing is done before what stands in front of it; 纳税 and 登记 are not passed while a bill
    of the case waits for its money. Raises StageNotAllowed, StageBeforeNotDone, TaxNotCleared.
    """
    now = stages[stage]
    if to not in stage_moves(stage, now):
        raise StageNotAllowed(stage=stage.value, state=now.value, to=to.value)
    before = list(Stage)[: list(Stage).index(stage)]
    if to is StageState.DONE and any(stages[earlier] not in PASSED for earlier in before):
        raise StageBeforeNotDone(stage=stage.value)
    if to in PASSED and stage in (Stage.TAX, Stage.REGISTRATION) and unpaid_bills:
        raise TaxNotCleared(unpaid_bills=unpaid_bills)


def case_state_after(stages: Mapping[Stage, StageState]) -> CaseState:
    """A case is closed when its last box is done (登簿 is completion: 条例第二十一条)."""
    done = stages[Stage.REGISTRATION] is StageState.DONE
    return CaseState.CLOSED if done else CaseState.OPEN


def lock_after_failure(failed_logins: int, *, now: datetime) -> datetime | None:
    """Until when an account is locked after this many wrong passwords in a row."""
    return now + LOCK if failed_logins >= MAX_FAILED_LOGINS else None


class RefundState(StrEnum):
    """A refund order (退款指令) of the centre, from the clerk's wish to the online side's end."""

    ASKED = "asked"  # 待复核
    REJECTED = "rejected"  # 复核未通过
    ORDERED = "ordered"  # 已下达, nothing heard yet
    REFUNDING = "refunding"  # 退款中
    REFUNDED = "refunded"  # 已退款
    NOT_REFUNDED = "not_refunded"  # 未能退款
    REFUSED = "refused"  # 线上未受理


class Decision(StrEnum):
    APPROVE = "approve"
    REJECT = "reject"


DECISIONS: dict[tuple[RefundState, Decision], RefundState] = {
    (RefundState.ASKED, Decision.APPROVE): RefundState.ORDERED,
    (RefundState.ASKED, Decision.REJECT): RefundState.REJECTED,
}
"""Every other pair is refused: somebody decided already."""

HOLDS = frozenset({RefundState.ASKED, RefundState.ORDERED})
"""Orders in these states hold their sum, though the online side has told nothing of it yet."""

NEWS_HOLDS = frozenset({"refunding", "refunded"})
"""What the online side says of a refund while its sum is not to be had any more."""


class RefundAttention(StrEnum):
    """Why a person has to look at news of a refund; empty when it fits."""

    NONE = ""
    UNKNOWN_PAYMENT = "unknown_payment"
    CONTRADICTED = "contradicted"  # the same version came again with other content
    MORE_THAN_PAID = "more_than_paid"
    NEVER_SENT = "never_sent"  # it is here, and the online side does not know it


class EvidenceAttention(StrEnum):
    """Why a person has to look at evidence of a payment; empty when it fits."""

    NONE = ""
    UNKNOWN_PAYMENT = "unknown_payment"  # no receipt says that this order paid the bill
    MORE_THAN_PAID = "more_than_paid"  # of the bill, than its receipt says
    CONTRADICTED = "contradicted"  # the same version came again with other content
    NEVER_SENT = "never_sent"  # it is here, and the online side does not know it


def refundable_fen(
    paid_fen: int, *, told: Sequence[tuple[str, int]], ordered: Sequence[tuple[RefundState, int]]
) -> int:
    """What of a payment can still be ordered back: less what the online side told of refunds,
    less our own orders it has told nothing of. Never below zero."""
    gone = sum(fen for state, fen in told if state in NEWS_HOLDS)
    held = sum(fen for state, fen in ordered if state in HOLDS)
    return max(0, paid_fen - gone - held)


def state_of_order(amount_fen: int, told: Sequence[tuple[str, int]]) -> RefundState:
    """How an order stands when the online side told this of its refunds (one per account)."""
    states = {state for state, _ in told}
    if "refused" in states:
        return RefundState.REFUSED
    if sum(fen for state, fen in told if state == "refunded") == amount_fen:
        return RefundState.REFUNDED
    return RefundState.REFUNDING if "refunding" in states else RefundState.NOT_REFUNDED
