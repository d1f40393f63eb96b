"""The inbox once more: messages as they came are believed again and pass `settle` again.

On whole books nothing moves, however often it is done; after a restore from a backup it brings
what the backup did not know yet. It is read twice: money of which a later message says that it
went back is settled with that knowledge, as a channel would tell it today. A refund that the inbox
has as handled is not told once more: its news are steps on a way that may be taken twice, and the
channel is asked about every refund that has not ended.
"""

import itertools
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from msgspec import structs
from tortoise import Tortoise

from estation.outside.pay_channels import ChannelReport, NoticeRejected, RefundStatus
from estation.outside.pay_channels.messages import opened_message
from estation.payments.actions.settle import Outcome, SettleItem, from_notice, settle_reports
from estation.payments.rules import OutcomeKind
from estation.services import Services
from estation.shared import ids

AT_ONCE: Final = 64
_FIRST: Final = UUID(int=0)

_NEXT: Final = """
select m.id, m.message_sealed, n.account_id
from pay_notice_message m join pay_notice n on n.id = m.id
where m.id > $1 and m.id < $2 order by m.id limit $3
"""

_HANDLED: Final = """
select n.channel, n.account_id, n.event_key
from unnest($1::text[], $2::text[], $3::text[]) as t(channel, account_id, event_key)
join pay_notice n using (channel, account_id, event_key)
where n.handled_at is not null
"""


@dataclass(slots=True)
class Replayed:
    """`outcomes` by what settling said (`repeated` also of a refund's news that were handled);
    `unbelieved`: of an account or key that is no more, or not
    whole; `failed`: settling raised."""

    read: int = 0
    unbelieved: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class RawMessage(NamedTuple):
    """A message as it is kept, and of which account: all that a replay needs."""

    account_id: str
    sealed: bytes


async def replay_inbox(services: Services, *, now: datetime) -> Replayed:
    """Replay every kept message of before `now`, oldest first.

    Each is judged by the age it had when it came; the signature must hold by today's keys.
    """
    before = ids.earliest_id(now)
    return await _replay_all(lambda: _pages(after=_FIRST, before=before), services, now)


async def replay_lines(lines: Iterable[str], services: Services, *, now: datetime) -> Replayed:
    """As `replay_inbox`, of what `inbox_lines` wrote: into a database that was restored without
    it. Each message is kept here, too. `lines` must be there to be read twice. Raises ValueError
    for a line that is none of these."""
    if iter(lines) is lines:
        raise ValueError("lines that can be read once only")
    return await _replay_all(lambda: _pages_of(lines), services, now)


async def inbox_lines(*, since: datetime, until: datetime) -> AsyncIterator[str]:
    """The messages that came in between, each as a line for a file that is kept elsewhere; what
    names a payer stays sealed."""
    after, before = ids.earliest_id(since), ids.earliest_id(until)
    async for messages in _pages(after=after, before=before):
        for account_id, sealed in messages:
            yield orjson.dumps([account_id, b2a_base64(sealed, newline=False).decode()]).decode()


def _read_line(line: str) -> RawMessage:
    account_id, sealed = orjson.loads(line)
    return RawMessage(str(account_id), a2b_base64(sealed))


Pages = Callable[[], AsyncIterator[Sequence[RawMessage]]]
Trade = tuple[str, str]
"""A merchant account and the number that it knows a payment, or a part of one, by."""


async def _replay_all(pages: Pages, services: Services, now: datetime) -> Replayed:
    told, gone_back = Replayed(), set[Trade]()
    async for messages in pages():
        for item in _items(messages, services):
            gone_back.update(_given_back(item))
    async for messages in pages():
        items = [_with_what_we_know(item, gone_back) for item in _items(messages, services)]
        told.read += len(messages)
        told.unbelieved += len(messages) - len(items)
        for answer in await settle_again(items, now=now):
            if isinstance(answer, Exception):
                told.failed += 1
            else:
                told.outcomes[answer.kind] += 1
    return told


async def settle_again(items: Sequence[SettleItem], *, now: datetime) -> list[Outcome | Exception]:
    """`settle_reports`, for news that may have been settled long ago: what they say of a payment
    is judged anew, what they say of a refund only where the inbox does not have it as handled."""
    handled = await _handled([item for item in items if _tells_a_refund(item)])
    fresh = [
        _of_the_payment(item) if _key(item) in handled else item
        for item in items
        if item.report is not None or _key(item) not in handled
    ]
    answers = await settle_reports(fresh, now=now)
    return [*answers, *[Outcome(OutcomeKind.REPEATED)] * (len(items) - len(fresh))]


def _tells_a_refund(item: SettleItem) -> bool:
    return item.refund is not None or bool(item.report and item.report.refunded_fen)


def _of_the_payment(item: SettleItem) -> SettleItem:
    """Less what was handled of the refund; that there was one still decides about money that the
    books do not have."""
    report = item.report
    if report is not None and report.refunded_fen:
        report = replace(report, refunded_fen=None, was_refunded=True)
    return structs.replace(item, report=report, refund=None)


async def _handled(items: Sequence[SettleItem]) -> set[tuple[str, str, str]]:
    """The keys of those that the inbox has as handled."""
    if not items:
        return set()
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _HANDLED, [list(column) for column in zip(*map(_key, items), strict=True)]
    )
    return {(row["channel"], row["account_id"], row["event_key"]) for row in rows}


def _key(item: SettleItem) -> tuple[str, str, str]:
    """As the inbox has it; "" of what was no notice."""
    return str(item.channel), item.account_id, item.notice.event_key[:160] if item.notice else ""


def _given_back(item: SettleItem) -> set[Trade]:
    """Of which trades this says that money went, or is on its way, to the payer."""
    found, report, refund = set[Trade](), item.report, item.refund
    if report is not None and (report.was_refunded or report.refunded_fen):
        found |= _trades(report)
    if refund is not None and refund.status not in (RefundStatus.CLOSED, RefundStatus.NOT_FOUND):
        found.add((refund.account_id, refund.out_trade_no))
    return found


def _with_what_we_know(item: SettleItem, gone_back: set[Trade]) -> SettleItem:
    report = item.report
    if report is None or gone_back.isdisjoint(_trades(report)):
        return item
    return structs.replace(item, report=replace(report, was_refunded=True))


def _trades(report: ChannelReport) -> set[Trade]:
    parts = {(part.account_id, part.out_trade_no) for part in report.parts}
    return {(report.account_id, report.out_trade_no), *parts}


async def _pages_of(lines: Iterable[str]) -> AsyncIterator[Sequence[RawMessage]]:
    waiting = iter(lines)
    while messages := [_read_line(line) for line in itertools.islice(waiting, AT_ONCE)]:
        yield messages


async def _pages(*, after: UUID, before: UUID) -> AsyncIterator[list[RawMessage]]:
    while True:
        rows = await Tortoise.get_connection("default").execute_query_dict(
            _NEXT, [after, before, AT_ONCE]
        )
        if not rows:
            return
        yield [RawMessage(row["account_id"], bytes(row["message_sealed"])) for row in rows]
        after = rows[-1]["id"]


def _items(messages: Sequence[RawMessage], services: Services) -> list[SettleItem]:
    return [item for one in messages if (item := _item(one, services)) is not None]


def _item(raw: RawMessage, services: Services) -> SettleItem | None:
    """None for what would not be believed today."""
    channel = services.channels.get(raw.account_id)
    if channel is None:
        return None
    try:
        message = opened_message(services.vault, raw.sealed)
        notice = channel.open_notice(message.headers, message.body, now=message.believed_at)
    except (InvalidTag, NoticeRejected):
        return None
    return from_notice(
        notice, channel=channel.channel, account_id=raw.account_id, message=raw.sealed
    )
