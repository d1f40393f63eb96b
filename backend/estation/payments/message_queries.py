"""Channels' messages as staff may read them: as they came, with the payer masked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag

from estation.outside.pay_channels.messages import KeptMessage, opened_message
from estation.payments.models import Notice, NoticeMessage
from estation.payments.staff_queries import as_pretty
from estation.shared.crypto import Vault

SHOWN = 20
"""Messages on one page; a number has one or two."""
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class MessageView:
    """A notice and its message; `raw` is "" once it is past its time, `said` its plaintext."""

    at: datetime
    channel: str
    kind: str
    outcome: str
    raw: str
    said: str


async def messages_about(numbers: Sequence[str], vault: Vault) -> list[MessageView]:
    """Of the inbox's notices about these numbers, oldest first, at most SHOWN."""
    notices = (
        await Notice.filter(out_trade_no__in=list(numbers))
        .order_by("received_at", "id")
        .limit(SHOWN)
    )
    kept = await NoticeMessage.filter(id__in=[notice.id for notice in notices])
    sealed: Mapping[UUID, bytes] = {message.id: message.message_sealed for message in kept}
    return [
        MessageView(
            at=notice.received_at,
            channel=notice.channel,
            kind=notice.kind,
            outcome=notice.outcome if notice.handled_at else notice.last_error,
            raw=_raw(sealed.get(notice.id), vault),
            said=as_pretty(notice.plaintext, vault),
        )
        for notice in notices
    ]


def _raw(sealed: bytes | None, vault: Vault) -> str:
    if sealed is None:
        return ""
    try:
        message = opened_message(vault, sealed)
    except InvalidTag:
        return "（密钥不符，无法打开）"
    head = "\n".join(f"{name}: {value}" for name, value in message.headers.items())
    return f"{head}\n\n{as_pretty(_body(message), vault)}"


def _body(message: KeptMessage) -> Any:
    """In fields, so that those that name the payer can be masked."""
    text = message.body.decode(errors="replace")
    if message.headers.get("content-type", "").startswith(_FORM):
        # Broken bytes of another charset are of no matter here: the plaintext shows them right.
        return dict(parse_qsl(text, keep_blank_values=True, errors="replace"))
    try:
        return orjson.loads(message.body)
    except orjson.JSONDecodeError:
        return text
