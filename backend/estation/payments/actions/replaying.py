"""The inbox once more: messages as they came are believed again and pass `settle` again.

On whole books nothing moves, however often it is done; after a restore from a backup it brings
what the backup did not know yet.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

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
select m.notice_id, m.sealed, n.account_id
from pay_notice_message m join pay_notice n on n.id = m.notice_id
where m.notice_id > $1 and m.notice_id < $2 order by m.notice_id limit $3
"""


@dataclass(slots=True)
class Replayed:
    """`outcomes` by what settling said; `unbelieved`: of an account or key that is no more, or not
    whole; `failed`: settling raised."""

    read: int = 0
    unbelieved: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


async def replay_inbox(services: Services, *, now: datetime) -> Replayed:
    """Replay every kept message of before `now`, oldest first.

    Each is judged by the age it had when it came; the signature must hold by today's keys.
    """
    told = Replayed()
    async for rows in _pages(before=ids.earliest_id(now)):
        items = [item for row in rows if (item := _item(row, services)) is not None]
        told.read += len(rows)
        told.unbelieved += len(rows) - len(items)
        for answer in await settle_reports(items, now=now):
            if isinstance(answer, Exception):
                told.failed += 1
            else:
                told.outcomes[answer.kind] += 1
    return told


async def _pages(*, before: UUID) -> AsyncIterator[Sequence[dict[str, Any]]]:
    after = _FIRST
    while True:
        rows = await Tortoise.get_connection("default").execute_query_dict(
            _NEXT, [after, before, AT_ONCE]
        )
        if not rows:
            return
        yield rows
        after = rows[-1]["notice_id"]


def _item(row: dict[str, Any], services: Services) -> SettleItem | None:
    """None for what would not be believed today."""
    channel = services.channels.get(row["account_id"])
    if channel is None:
        return None
    try:
        message = opened_message(services.vault, row["sealed"])
        notice = channel.open_notice(message.headers, message.body, now=message.believed_at)
    except (InvalidTag, NoticeRejected):
        return None
    return from_notice(notice, channel=channel.channel, account_id=row["account_id"])
