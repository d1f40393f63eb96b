"""The inbox once more: messages as they came are believed again and pass `settle` again.

On whole books nothing moves, however often it is done; after a restore from a backup it brings
what the backup did not know yet.
"""

import itertools
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from tortoise import Tortoise

from estation.outside.pay_channels import NoticeRejected
from estation.outside.pay_channels.messages import opened_message
from estation.payments.actions.settle import SettleItem, from_notice, settle_reports
from estation.services import Services
from estation.shared import ids

AT_ONCE: Final = 64
_FIRST: Final = UUID(int=0)

_NEXT: Final = """
select m.id, m.message_sealed, n.account_id
from pay_notice_message m join pay_notice n on n.id = m.id
where m.id > $1 and m.id < $2 order by m.id limit $3
"""


@dataclass(slots=True)
class Replayed:
    """`outcomes` by what settling said; `unbelieved`: of an account or key that is no more, or not
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
    told = Replayed()
    async for messages in _pages(after=_FIRST, before=ids.earliest_id(now)):
        await _replay(messages, told, services, now)
    return told


async def replay_lines(lines: Iterable[str], services: Services, *, now: datetime) -> Replayed:
    """As `replay_inbox`, of what `inbox_lines` wrote: into a database that was restored without
    it. Each message is kept here, too. Raises ValueError for a line that is none of these."""
    told, waiting = Replayed(), iter(lines)
    while messages := [_read_line(line) for line in itertools.islice(waiting, AT_ONCE)]:
        await _replay(messages, told, services, now)
    return told


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


async def _replay(
    messages: Sequence[RawMessage], told: Replayed, services: Services, now: datetime
) -> None:
    items = [item for one in messages if (item := _item(one, services)) is not None]
    told.read += len(messages)
    told.unbelieved += len(messages) - len(items)
    for answer in await settle_reports(items, now=now):
        if isinstance(answer, Exception):
            told.failed += 1
        else:
            told.outcomes[answer.kind] += 1


async def _pages(*, after: UUID, before: UUID) -> AsyncIterator[list[RawMessage]]:
    while True:
        rows = await Tortoise.get_connection("default").execute_query_dict(
            _NEXT, [after, before, AT_ONCE]
        )
        if not rows:
            return
        yield [RawMessage(row["account_id"], bytes(row["message_sealed"])) for row in rows]
        after = rows[-1]["id"]


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
