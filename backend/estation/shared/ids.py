"""Identifiers: time-ordered row ids and order numbers fit for every channel."""

import secrets
from datetime import datetime
from uuid import UUID

from estation.shared.clock import BEIJING

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U, so a clerk can read it out on the phone."""


def row_id(now: datetime) -> UUID:
    """A UUID version 7 (RFC 9562 §5.7): ordered by millisecond, 74 random bits."""
    milliseconds = int(now.timestamp() * 1000)
    value = (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return UUID(int=value | 0b10 << 62 | secrets.randbits(62))


def earliest_id(moment: datetime) -> UUID:
    """No row id made at or after `moment` is smaller: a bound for looking only at younger rows."""
    return UUID(int=(int(moment.timestamp() * 1000) & (2**48 - 1)) << 80)


def row_id_texts(now: datetime, count: int) -> list[str]:
    """Many at once as text, for set-based writes: `row_id` would be a good part of their cost."""
    head = f"{int(now.timestamp() * 1000) & (2**48 - 1):012x}"
    head = f"{head[:8]}-{head[8:]}-7"
    noise = secrets.token_bytes(10 * count).hex()
    texts = []
    for at in range(0, 20 * count, 20):
        variant = "89ab"[int(noise[at + 3], 16) & 3]
        texts.append(
            f"{head}{noise[at : at + 3]}-{variant}{noise[at + 4 : at + 7]}"
            f"-{noise[at + 7 : at + 19]}"
        )
    return texts


def row_ids(now: datetime, count: int) -> list[UUID]:
    """As `row_id_texts`, for callers that hold on to the ids."""
    return [UUID(text) for text in row_id_texts(now, count)]


def trade_number(now: datetime) -> str:
    """24 characters: Beijing date and 16 random ones (80 bits).

    Within WeChat Pay's `out_trade_no` (6-32 of 0-9 A-Z a-z _ - | *) and Alipay's (≤64 of
    A-Z a-z 0-9 _).
    """
    return now.astimezone(BEIJING).strftime("%Y%m%d") + "".join(
        secrets.choice(_ALPHABET) for _ in range(16)
    )
