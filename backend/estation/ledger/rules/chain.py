"""How transfers are chained into blocks: what is digested, and how. Pure.

Every digest is SHA-256 over the JSON text of one array of strings, integers and nulls in a fixed
order, the first of which says what it is. JSON gives such an array back unchanged, so different
things never have the same text.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
from msgspec import Struct

from estation.ledger.rules.transfers import PostedTransfer

GENESIS = "0" * 64
"""What the first block of a book names as its predecessor."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAF, _NODE = b"\x00", b"\x01"


class Block(Struct, frozen=True, kw_only=True):
    """What a block says; `digest` binds all of it and, through `previous_digest`, all before it.

    `book` is a region, `height` counts from 1, `debit_fen` is the sum over its transfers.
    """

    book: str
    height: int
    first_transfer_id: str
    last_transfer_id: str
    transfer_count: int
    debit_fen: int
    root: str
    previous_digest: str
    sealed_at: datetime


class Head(Struct, frozen=True, kw_only=True):
    """What is published of a book: its newest block, and all that stands in it so far.

    `day` is the Beijing day of publication.
    """

    day: date
    book: str
    height: int
    digest: str
    transfers: int
    debit_fen: int
    published_at: datetime


def said_by(transfer: PostedTransfer) -> bytes:
    """Everything a standing transfer says, as one text that no other transfer has."""
    return _text(
        "transfer/1",
        transfer.id,
        transfer.idempotency_key,
        transfer.input_hash,
        transfer.kind,
        transfer.region,
        transfer.order_id,
        transfer.our_no,
        transfer.channel_no,
        _microseconds(transfer.occurred_at),
        _microseconds(transfer.posted_at),
        transfer.reverses_id,
        [[e.account, e.debit_fen, e.credit_fen, e.id] for e in transfer.entries],
    )


def transfer_digest(transfer: PostedTransfer) -> bytes:
    return hashlib.sha256(said_by(transfer)).digest()


def merkle_root(leaves: Sequence[bytes]) -> str:
    """The tree hash of RFC 6962 §2.1 over the digests of a block's transfers in their order."""
    level = [hashlib.sha256(_LEAF + leaf).digest() for leaf in leaves]
    if not level:
        return hashlib.sha256(b"").hexdigest()
    while len(level) > 1:
        pairs = [
            hashlib.sha256(_NODE + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=False)
        ]
        level = [*pairs, level[-1]] if len(level) % 2 else pairs
    return level[0].hex()


def block_digest(block: Block) -> str:
    text = _text(
        "block/1",
        block.book,
        block.height,
        block.first_transfer_id,
        block.last_transfer_id,
        block.transfer_count,
        block.debit_fen,
        block.root,
        block.previous_digest,
        _microseconds(block.sealed_at),
    )
    return hashlib.sha256(text).hexdigest()


def head_text(head: Head) -> bytes:
    """The bytes that are signed."""
    return _text(
        "head/1",
        head.day.isoformat(),
        head.book,
        head.height,
        head.digest,
        head.transfers,
        head.debit_fen,
        _microseconds(head.published_at),
    )


def sealed_floor(*, oldest_running: int, last_taken: int | None) -> int:
    """From which database transaction on the next sealing has to look.

    Everything below `oldest_running` had ended before we looked, so it was seen; of a full batch
    only what stands before its last row is certain (`last_taken`, else None).
    """
    return oldest_running if last_taken is None else min(oldest_running, last_taken)


def _text(*said: Any) -> bytes:
    return orjson.dumps(said)


def _microseconds(moment: datetime) -> int:
    """Since 1970 in UTC: the precision of the database, the same in every time zone."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
