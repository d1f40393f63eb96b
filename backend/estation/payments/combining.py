"""Which merchant account a payment goes to, and the judgement on a combined payment. Pure.

A combined payment (合单) is one act of the payer and several trades of the channel: one part per
payee at the payee's own merchant account, all under one combining number.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estation.outside.pay_channels import (
    COMBINED_SCENES,
    ChannelReport,
    ChannelState,
    ReportPart,
    Scene,
)
from estation.payments import rules
from estation.payments.rules import (
    Arrival,
    AttemptNow,
    AttemptState,
    BillNow,
    IncidentKind,
    OrderNow,
    OutcomeKind,
    Part,
    Posting,
    Verdict,
)

MOST_PARTS = 50
"""Sub-orders of one combined payment. Source: WeChat Pay APIv3, combine-transactions."""

_PART_NO = re.compile(r"(.{1,29})-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Route:
    """The merchant account that is asked, with the parts of a combined payment."""

    account_id: str
    parts: tuple[Part, ...] = ()


def route_of(
    sums: Mapping[str, int],
    *,
    scene: Scene,
    out_trade_no: str,
    merchants: Mapping[str, str],
    collecting: str,
    combining: str | None,
) -> Route:
    """Where a payment goes: fen per payee in `sums`, the payees' own accounts at this channel in
    `merchants`.

    Straight to the payees where each has an account of its own and the scene can do that; else
    to the city's collecting account, which owes them a split instruction.
    """
    owed = {payee: fen for payee, fen in sorted(sums.items()) if fen > 0}
    own = {payee: merchants[payee] for payee in owed if payee in merchants}
    if not owed or len(own) < len(owed):
        return Route(collecting)
    if len(owed) == 1:
        return Route(next(iter(own.values())))
    if combining is None or scene not in COMBINED_SCENES or len(owed) > MOST_PARTS:
        return Route(collecting)
    parts = (
        Part(payee, own[payee], part_number(out_trade_no, turn), fen)
        for turn, (payee, fen) in enumerate(owed.items(), start=1)
    )
    return Route(combining, tuple(parts))


def part_number(out_trade_no: str, turn: int) -> str:
    """`<number>-01`: our number of one part, at most 32 characters as the channel wants it."""
    number = f"{out_trade_no}-{turn:02d}"
    if _PART_NO.fullmatch(number) is None:
        raise ValueError(f"no part number {turn} of {out_trade_no!r}")
    return number


def is_part(number: str) -> bool:
    """True of a number that we give to one part of a combined payment."""
    return _PART_NO.fullmatch(number) is not None


def whole_number(number: str) -> str:
    """The combining number of a part's number; any other number as it is."""
    found = _PART_NO.fullmatch(number)
    return found[1] if found else number


def parts_of(stored: Iterable[Mapping[str, Any]] | None) -> tuple[Part, ...]:
    """The parts of an attempt's row."""
    return tuple(Part(**part) for part in stored or ())


@dataclass(frozen=True, slots=True)
class CombinedVerdict:
    """The verdict on the whole; `post` the parts whose money is new to the books, `tell` those
    that get an incident each (none of them: one incident for the whole)."""

    verdict: Verdict
    post: tuple[ReportPart, ...] = ()
    tell: tuple[ReportPart, ...] = ()


def judge_combined(
    report: ChannelReport,
    *,
    attempt: AttemptNow | None,
    order: OrderNow | None,
    bills: list[BillNow],
    arrivals: Mapping[str, Arrival],
) -> CombinedVerdict:
    """Decide once about all parts of a combined payment: all are applied, or none.

    Called for PAID reports with parts, and for any PAID report on an attempt that has parts.
    `arrivals` is what the ledger has under the parts' keys. Every part that is paid ends in a
    transfer: of the payment, or in suspense with an incident of its own.
    """
    paid = tuple(part for part in report.parts if part.state is ChannelState.PAID)
    if not rules.is_complete(report) or not _parts_are_complete(paid):
        return CombinedVerdict(_verdict(IncidentKind.INCOMPLETE_NEWS))
    fresh = tuple(part for part in paid if part_key(part) not in arrivals)
    ours = attempt if attempt and attempt.account_id == report.account_id else None
    if _contradicts_the_books(paid, arrivals):
        return _aside(IncidentKind.CONTRADICTING_NEWS, fresh)
    if ours is None or order is None:
        kind = IncidentKind.WRONG_ACCOUNT if attempt else IncidentKind.UNKNOWN_ORDER
        return _aside(kind, fresh) if fresh else CombinedVerdict(rules.REPEATED)
    if ours.state is AttemptState.PAID:
        was_short = ours.paid_fen != ours.amount_fen
        kind = IncidentKind.WRONG_AMOUNT if was_short else IncidentKind.DOUBLE_PAYMENT
        return _aside(kind, fresh) if fresh else CombinedVerdict(rules.REPEATED)
    if len(fresh) < len(paid):
        # Some of it came before we knew the numbers, and waits in suspense already.
        return _ended(IncidentKind.UNKNOWN_ORDER, order, fresh, paid)
    reason = unlike_asked(report, ours.parts) or rules.in_the_way(report, ours, order, bills)
    if reason is not None:
        return _ended(reason, order, fresh, fresh)
    return CombinedVerdict(rules.APPLIED, post=fresh)


def unlike_asked(report: ChannelReport, asked: Sequence[Part]) -> IncidentKind | None:
    """Why the parts of a success are not those we asked for, all of them paid; None: they are."""
    said = {part.out_trade_no: part for part in report.parts}
    wanted = {part.out_trade_no: part for part in asked}
    if len(said) < len(report.parts) or not said.keys() <= wanted.keys():
        return IncidentKind.CONTRADICTING_NEWS
    if any(said[number].account_id != wanted[number].account_id for number in said):
        return IncidentKind.WRONG_ACCOUNT
    amounts = {part.out_trade_no: part.amount_fen for part in asked}
    paid = {
        number: part.paid_fen for number, part in said.items() if part.state is ChannelState.PAID
    }
    if paid != amounts or report.paid_fen != sum(amounts.values()):
        return IncidentKind.WRONG_AMOUNT
    return None


def part_key(part: ReportPart) -> str:
    """The ledger's idempotency key of one part's arrival at its own merchant account."""
    return rules.arrival_key(part.account_id, part.channel_trade_no or "")


def _parts_are_complete(paid: Sequence[ReportPart]) -> bool:
    """At least one, each naming its money, no trade twice: what is paid can be booked."""
    named = all(
        part.channel_trade_no and part.paid_at and part.paid_fen and part.paid_fen > 0
        for part in paid
    )
    return bool(paid) and named and len({part_key(part) for part in paid}) == len(paid)


def _contradicts_the_books(paid: Sequence[ReportPart], arrivals: Mapping[str, Arrival]) -> bool:
    return any(
        known.amount_fen != part.paid_fen
        for part in paid
        if (known := arrivals.get(part_key(part))) is not None
    )


def _aside(kind: IncidentKind, fresh: tuple[ReportPart, ...]) -> CombinedVerdict:
    """What is new goes to suspense; attempt and order stay as they are."""
    posting = Posting.SUSPENSE if fresh else None
    return CombinedVerdict(_verdict(kind, posting), post=fresh, tell=fresh)


def _ended(
    kind: IncidentKind,
    order: OrderNow,
    fresh: tuple[ReportPart, ...],
    tell: tuple[ReportPart, ...],
) -> CombinedVerdict:
    """The attempt is paid, nothing is applied, and the order ends."""
    posting = Posting.SUSPENSE if fresh else None
    return CombinedVerdict(rules.set_aside(kind, order, posting=posting), post=fresh, tell=tell)


def _verdict(kind: IncidentKind, posting: Posting | None = None) -> Verdict:
    return Verdict(OutcomeKind.INCIDENT, kind, posting)
