"""The only door to paid: news from channels in, one judgement and one transaction per batch.

Shape (DESIGN §10): lock many -> pure rules -> write many. Callbacks, active queries, closings
and healing all pass here.
"""

from collections import Counter as CountOf
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import structlog
from msgspec import Struct
from prometheus_client import Counter
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import LedgerConflict
from estation.outside.pay_channels import (
    Channel,
    ChannelReport,
    ChannelState,
    RefundReport,
    RefundStatus,
    VerifiedNotice,
)
from estation.payments import combining, refund_rules, rules
from estation.payments.actions.locking import Locked, LockedAttempt, lock_for_news
from estation.payments.actions.writing import Writing
from estation.payments.errors import NothingToApply
from estation.payments.rules import IncidentKind, OrderState, OutcomeKind, Posting, Verdict
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

SETTLED = Counter("estation_settled", "News from channels by what became of it", ["outcome"])


class SettleItem(Struct, frozen=True):
    """One piece of news: a verified notice (with or without a report), or a report we asked for.

    `refund` is its word about one refund number; a notice may speak of a payment and a refund.
    `message` is the notice as it came (`sealed_message`), to be kept with it.
    """

    channel: Channel
    account_id: str
    report: ChannelReport | None
    notice: VerifiedNotice | None = None
    refund: RefundReport | None = None
    message: bytes = b""


class Outcome(Struct, frozen=True):
    """What became of one piece of news; `transfer_id` when this very news posted money."""

    kind: OutcomeKind
    incident: IncidentKind | None = None
    order_id: UUID | None = None
    transfer_id: str | None = None


def from_notice(
    notice: VerifiedNotice, *, channel: Channel, account_id: str, message: bytes = b""
) -> SettleItem:
    return SettleItem(channel, account_id, notice.report, notice, notice.refund, message)


def from_report(report: ChannelReport) -> SettleItem:
    return SettleItem(report.channel, report.account_id, report)


def from_refund(report: RefundReport) -> SettleItem:
    """The channel's answer about a refund, asked for by us."""
    return SettleItem(report.channel, report.account_id, None, refund=report)


async def settle_batch(items: Sequence[SettleItem], *, now: datetime) -> list[Outcome]:
    """Settle all in one transaction, in order; nothing of it stays when it raises.

    Any news may come any number of times, in any order, several for one order in one batch:
    money is posted once, and every success ends applied or in an incident with its money in
    suspense. Notices are put into the inbox as handled in the same transaction.
    """
    try:
        outcomes = await _settle_together(items, now, trusting=True)
    except LedgerConflict as conflict:
        # Money we took for new is on the books already: look first, then judge again.
        log.warning("arrival_was_known", key=str(conflict))
        outcomes = await _settle_together(items, now, trusting=False)
    _tell(outcomes)
    return outcomes


async def _settle_together(
    items: Sequence[SettleItem], now: datetime, *, trusting: bool
) -> list[Outcome]:
    """One transaction. `trusting`: the first success of a live attempt is taken for new without
    asking the ledger, whose unique key has the last word anyway."""
    async with in_transaction() as db:
        locked = await lock_for_news(
            db,
            [item.report.out_trade_no for item in items if item.report],
            [item.refund.refund_no for item in items if item.refund],
        )
        keys = {
            key
            for item in items
            if not (trusting and _looks_new(item, locked))
            for key in _arrival_keys(item)
        }
        if keys:
            await locked.read_books(keys)
        partly_refunded = {
            (item.account_id, item.report.channel_trade_no)
            for item in items
            if item.report and item.report.refunded_fen and item.report.channel_trade_no
        }
        if partly_refunded:
            await locked.read_asked_refunds(db, partly_refunded)
        writing = Writing(now, locked, news=len(items))
        outcomes = [_settle_one(item, locked, writing) for item in items]
        await writing.write(db)
    return outcomes


async def apply_from_suspense(
    db: BaseDBAsyncClient,
    locked: Locked,
    attempt: LockedAttempt,
    money: ChannelReport,
    now: datetime,
) -> str:
    """Late money pays its closed order after all: suspense to payees, bills, receipts; the
    transfer's id. Joins the caller's transaction, which holds the locks and has two persons' word
    for it.

    Raises NothingToApply when the order, the amount or a bill stands in the way.
    """
    why = rules.why_not_apply(
        attempt=attempt.now,
        order=attempt.order.now,
        bills=locked.bills_now(attempt.order),
        trade_no=money.channel_trade_no or "",
        amount_fen=money.paid_fen or 0,
    )
    if why:
        raise NothingToApply(why=why)
    writing = Writing(now, locked, news=1)
    transfer_id = writing.apply(attempt, money, to=OrderState.PAID)
    await writing.write(db)
    return transfer_id


def _looks_new(item: SettleItem, locked: Locked) -> bool:
    attempt = locked.attempts.get(item.report.out_trade_no) if item.report else None
    return (
        attempt is not None
        and attempt.now.account_id == item.account_id
        and attempt.now.state in rules.LIVE
        and attempt.order.now.state is OrderState.OPEN
    )


async def settle_reports(
    items: Sequence[SettleItem], *, now: datetime
) -> list[Outcome | Exception]:
    """`settle_batch`, falling back to one by one: a poisoned item fails alone."""
    if not items:
        return []
    try:
        return list(await settle_batch(items, now=now))
    except Exception as failure:
        if len(items) == 1:
            log.error("settle_failed", out_trade_no=_number(items[0]), exc_info=failure)
            return [failure]
    return [answer for item in items for answer in await settle_reports([item], now=now)]


def _settle_one(item: SettleItem, locked: Locked, writing: Writing) -> Outcome:
    """Judge one item against the state left by those before it, and put down what it changes."""
    if item.refund is not None:
        return _settle_refund(item, item.refund, locked, writing)
    return _settle_payment(item, locked, writing)


def _settle_refund(
    item: SettleItem, report: RefundReport, locked: Locked, writing: Writing
) -> Outcome:
    """As for a payment; a notice that says something of the payment, too, is heard on both."""
    refund = locked.refunds.get(report.refund_no)
    verdict = refund_rules.judge_refund(report, refund.now if refund else None)
    transfer_id = None
    if refund is not None and verdict.to is not None:
        transfer_id = writing.refunds.follow(refund, report, verdict)
    if refund is not None and item.notice and report.status is RefundStatus.PROCESSING:
        # Alipay tells of a refund without its own amount: the query has the last word.
        writing.refunds.hurry(refund)
    if verdict.incident is not None:
        writing.open_refund_incident(verdict.incident, report, refund, item.notice)
    if item.report is not None:
        payment = _settle_payment(item, locked, writing)
        if payment.kind is OutcomeKind.INCIDENT:
            return payment
    elif item.notice is not None:
        writing.store(item.channel, item.account_id, item.notice, verdict, item.message)
    order_id = refund.order_id if refund else None
    return Outcome(verdict.outcome, verdict.incident, order_id, transfer_id)


def _settle_payment(item: SettleItem, locked: Locked, writing: Writing) -> Outcome:
    attempt = locked.attempts.get(item.report.out_trade_no) if item.report else None
    if item.report is not None and _is_combined(item.report, attempt):
        return _settle_combined(item, item.report, attempt, locked, writing)
    verdict = _judge(item, attempt, locked)
    arrival = None
    if item.report is not None and verdict.posting is not None:
        arrival = writing.post(item.report, attempt, verdict.posting)
    if item.report is not None and attempt is not None:
        _move(attempt, verdict, item.report, writing)
        if verdict.posting is Posting.PAYMENT and arrival is not None:
            writing.pay_bills(attempt, item.report, arrival.id)
    if verdict.incident is not None:
        key = writing.open_incident(item.account_id, item.channel, verdict.incident, item, attempt)
        cause = refund_rules.AUTOMATIC.get(verdict.incident)
        if cause and arrival and attempt and item.report:
            writing.give_back(attempt, item.report, arrival, cause, key)
    if item.notice is not None:
        writing.store(item.channel, item.account_id, item.notice, verdict, item.message)
    order_id = attempt.order.now.id if attempt else None
    return Outcome(verdict.outcome, verdict.incident, order_id, arrival.id if arrival else None)


def _is_combined(report: ChannelReport, attempt: LockedAttempt | None) -> bool:
    """A success in parts, or any success of an attempt that was asked for in parts."""
    if report.state is not ChannelState.PAID or attempt is None or report.parts:
        return bool(report.parts) and report.state is ChannelState.PAID
    return bool(attempt.now.parts) and attempt.now.account_id == report.account_id


def _settle_combined(
    item: SettleItem,
    report: ChannelReport,
    attempt: LockedAttempt | None,
    locked: Locked,
    writing: Writing,
) -> Outcome:
    """One verdict for all parts; one transfer for each, one incident for each in suspense."""
    judged = combining.judge_combined(
        report,
        attempt=attempt.now if attempt else None,
        order=attempt.order.now if attempt else None,
        bills=locked.bills_now(attempt.order) if attempt else [],
        arrivals=locked.arrivals,
    )
    verdict = judged.verdict
    posting = verdict.posting
    posted = {
        part.out_trade_no: writing.post_part(part, attempt, posting)
        for part in judged.post
        if posting
    }
    first = next((arrival.id for arrival in posted.values()), None)
    if attempt is not None:
        _move(attempt, verdict, report, writing)
        if verdict.posting is Posting.PAYMENT and first is not None:
            payees = {part.out_trade_no: part.payee_code for part in attempt.now.parts}
            parts = {payees[part.out_trade_no]: part for part in judged.post}
            writing.pay_bills(attempt, report, first, parts)
    if verdict.incident is not None:
        cause = refund_rules.AUTOMATIC.get(verdict.incident)
        for part in judged.tell or (None,):
            key = writing.open_incident(
                item.account_id, item.channel, verdict.incident, item, attempt, part
            )
            arrival = posted.get(part.out_trade_no) if part else None
            if cause and part and arrival and attempt:
                writing.give_back(attempt, part, arrival, cause, key)
    if item.notice is not None:
        writing.store(item.channel, item.account_id, item.notice, verdict, item.message)
    order_id = attempt.order.now.id if attempt else None
    return Outcome(verdict.outcome, verdict.incident, order_id, first)


def _move(
    attempt: LockedAttempt, verdict: Verdict, report: ChannelReport, writing: Writing
) -> None:
    was_live = attempt.now.state in rules.LIVE
    if verdict.attempt_to is not None:
        writing.move_attempt(attempt.now, verdict.attempt_to, report)
    if verdict.order_to is not None:
        writing.move_order(attempt.order, verdict, report)
        if not was_live:
            writing.hurry(attempt.order.now.id)


def _judge(item: SettleItem, attempt: LockedAttempt | None, locked: Locked) -> Verdict:
    if item.report is None:
        return rules.judge_other_news(item.notice.kind if item.notice else "")
    keys = _arrival_keys(item)
    return rules.judge(
        item.report,
        attempt=attempt.now if attempt else None,
        order=attempt.order.now if attempt else None,
        bills=locked.bills_now(attempt.order) if attempt else [],
        arrival=locked.arrivals.get(keys[0]) if keys else None,
    )


def _arrival_keys(item: SettleItem) -> list[str]:
    """Under which keys the books would have this success; a combined one has a key per part."""
    report = item.report
    if report is None or report.state is not ChannelState.PAID or not report.channel_trade_no:
        return []
    if report.parts:
        return [combining.part_key(part) for part in report.parts if part.channel_trade_no]
    return [rules.arrival_key(report.account_id, report.channel_trade_no)]


def _tell(outcomes: Sequence[Outcome]) -> None:
    """Counted, not logged: a line for each payment would cost more than settling it."""
    for kind, count in CountOf(outcome.kind for outcome in outcomes).items():
        SETTLED.labels(kind).inc(count)
    for outcome in outcomes:
        if outcome.incident is not None:
            log.warning(
                "incident_opened", kind=outcome.incident, order_id=str(outcome.order_id or "")
            )


def _number(item: SettleItem) -> str:
    said = item.report or item.refund
    return said.out_trade_no if said else ""
