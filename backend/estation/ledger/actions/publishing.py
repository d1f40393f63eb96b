"""Publishing: once a day the head of every book is signed and put where outsiders can keep it.

Who rewrites the books afterwards has to rewrite what others have copied, too.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import orjson
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger import queries, rules
from estation.ledger.errors import PublishedOtherwise
from estation.ledger.queries import BookState, HeadView
from estation.ledger.rules import Head
from estation.outside.gate.keys import SealKey
from estation.shared import ids
from estation.shared.clock import beijing_day
from estation.shared.transactions import in_transaction

_PUBLISHING = 0x65737464
"""Advisory lock: one publisher at a time."""

CHECKED_FILES = 400
"""The files of the newest so many heads are looked after."""


async def publish_heads(*, key: SealKey, folder: Path, now: datetime) -> int:
    """Sign and publish the head of every book that has none for this Beijing day; how many.

    The rows are committed first; files that are missing are then written from them, bit for bit
    the same whenever that happens. Raises PublishedOtherwise when a file that is there says
    something else: it stays as it is, for it is evidence.
    """
    day = beijing_day(now)
    async with in_transaction() as db:
        await db.execute_query_dict("select pg_advisory_xact_lock($1)::text", [_PUBLISHING])
        known = await queries.books_published_on(db, day)
        fresh: list[BookState] = []
        if await queries.has_other_books(db, known):  # the sums are worth a look once a day only
            fresh = [book for book in await queries.newest_blocks(db) if book.book not in known]
        await _insert(db, fresh, key=key, now=now)
    write_files(await queries.published_heads(limit=CHECKED_FILES), folder)
    return len(fresh)


async def _insert(
    db: BaseDBAsyncClient, books: Sequence[BookState], *, key: SealKey, now: datetime
) -> None:
    for book in books:
        head = Head(
            day=beijing_day(now),
            book=book.book,
            height=book.height,
            digest=book.digest,
            transfers=book.transfers,
            debit_fen=book.debit_fen,
            published_at=now,
        )
        await db.execute_query_dict(
            """insert into ledger_head (id, day, book, height, digest, transfers, debit_fen,
                                        published_at, key_id, signature)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning 1""",
            [
                ids.row_id(now), head.day, head.book, head.height, head.digest, head.transfers,
                head.debit_fen, head.published_at, key.key_id, key.sign(rules.head_text(head)),
            ],
        )  # fmt: skip


def file_name(head: HeadView) -> str:
    """Regions are digits; whatever else one were, it stays within the folder."""
    book = head.book if head.book.isalnum() and head.book.isascii() else head.book.encode().hex()
    return f"{head.day.isoformat()}-{book}.json"


def file_content(head: HeadView) -> bytes:
    """What is published, and the exact text that was signed."""
    return orjson.dumps(
        {**as_dict(head), "signed_text": rules.head_text(head.head).decode()},
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def as_dict(head: HeadView) -> dict[str, object]:
    return {
        "day": head.day.isoformat(),
        "book": head.book,
        "height": head.height,
        "digest": head.digest,
        "transfers": head.transfers,
        "debit_fen": head.debit_fen,
        "published_at": head.published_at.isoformat(),
        "key_id": head.key_id,
        "signature": head.signature,
    }


def write_files(heads: Sequence[HeadView], folder: Path) -> None:
    """Each head as a file, whole or not at all. Raises PublishedOtherwise naming the first file
    that says something else, after all others were written."""
    folder.mkdir(parents=True, exist_ok=True)
    otherwise = []
    for head in heads:
        file = folder / file_name(head)
        content = file_content(head)
        if not file.exists():
            _write_whole(file, content)
        elif file.read_bytes() != content:
            otherwise.append(file.name)
    if otherwise:
        raise PublishedOtherwise(", ".join(sorted(otherwise)[:10]))


def _write_whole(file: Path, content: bytes) -> None:
    part = file.with_suffix(".part")
    with part.open("wb") as writing:
        writing.write(content)
        writing.flush()
        os.fsync(writing.fileno())
    part.rename(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
