"""Whether the books are still what they were: every digest again, from the raw rows.

Reads in pages of bounded size; the trust it needs is in the published heads alone, which others
hold copies of.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from tortoise import Tortoise

from estation.ledger import queries, rules
from estation.ledger.actions.publishing import file_content, file_name
from estation.ledger.queries import POSTED, HeadView, posted
from estation.ledger.rules import Block
from estation.outside.gate.keys import PeerKey
from estation.shared.transactions import in_transaction

MARGIN = timedelta(minutes=5)
"""A transfer older than this is in a block; the sealer comes every few seconds."""

MOST_BREAKS = 20
PAGE_BLOCKS = 500
PAGE_TRANSFERS = 2000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that is not as it was sealed or published. `what` is a stable word."""

    what: str
    book: str
    height: int | None = None
    transfer_id: str | None = None
    detail: str = ""


@dataclass(slots=True)
class Book:
    """What was recomputed of one book."""

    book: str
    height: int = 0
    digest: str = rules.GENESIS
    transfers: int = 0
    debit_fen: int = 0


@dataclass(slots=True)
class Verification:
    """`breaks` in the order found, blocks first, at most MOST_BREAKS; whole when there is none."""

    books: dict[str, Book] = field(default_factory=dict)
    heads: int = 0
    breaks: list[Break] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.breaks

    @property
    def is_full(self) -> bool:
        return len(self.breaks) >= MOST_BREAKS

    def note(self, what: str, book: str, **where: Any) -> None:
        if not self.is_full:
            self.breaks.append(Break(what, book, **where))


async def verify(
    *,
    now: datetime,
    keys: Mapping[str, PeerKey],
    folder: Path | None = None,
    book: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Verification:
    """Recompute blocks and chains, look for transfers in no or in two blocks, and hold all
    against the published heads (`keys` by key id, `folder` with their files) of one book or all.

    `progress` is told transfers done and to do. Stops reading blocks after MOST_BREAKS breaks.
    """
    found = Verification()
    heads = [head for head in await queries.every_head() if book is None or head.book == book]
    expected = _by_place(heads)
    total = await queries.sealed_count(book)
    done = 0
    async for page in _pages_of_blocks(book):
        async for count in _check_page(page, found, expected):
            done += count
            progress(done, total)
        if found.is_full:
            break
    await _check_membership(found, book, before=now - MARGIN)
    _check_heads(found, heads, expected, keys)
    if folder is not None:
        _check_files(found, heads, folder, book)
    return found


def _by_place(heads: list[HeadView]) -> dict[tuple[str, int], list[HeadView]]:
    """Heads by book and height; each is taken out when its block was met."""
    places: dict[tuple[str, int], list[HeadView]] = {}
    for head in heads:
        places.setdefault((head.book, head.height), []).append(head)
    return places


async def _pages_of_blocks(book: str | None) -> AsyncIterator[list[dict[str, Any]]]:
    after = 0
    while True:
        page = await Tortoise.get_connection("default").execute_query_dict(
            """select id, book, height, first_transfer_id::text as first_transfer_id,
                      last_transfer_id::text as last_transfer_id, transfer_count, debit_fen, root,
                      previous_digest, digest, sealed_at
               from ledger_block where id > $1 and ($2::text is null or book = $2)
               order by id limit $3""",
            [after, book, PAGE_BLOCKS],
        )
        if not page:
            return
        yield page
        after = page[-1]["id"]


async def _check_page(
    page: list[dict[str, Any]],
    found: Verification,
    expected: dict[tuple[str, int], list[HeadView]],
) -> AsyncIterator[int]:
    """Checks blocks in their order; yields how many transfers were looked at."""
    members = _Members(page)
    for row in page:
        block = _Block(row, found)
        async for member in members.of(row["id"]):
            block.take(member)
            if block.count % PAGE_TRANSFERS == 0:
                yield PAGE_TRANSFERS
        yield block.count % PAGE_TRANSFERS
        block.close(found.books.setdefault(row["book"], Book(row["book"])), expected)


class _Members:
    """The members of some blocks in order, read a page at a time."""

    def __init__(self, blocks: list[dict[str, Any]]) -> None:
        self._ids = [row["id"] for row in blocks]
        self._last = (0, -1)
        self._page: list[dict[str, Any]] = []
        self._at = 0
        self._is_over = False

    async def of(self, block_id: int) -> AsyncIterator[dict[str, Any]]:
        while (member := await self._peek()) is not None and member["block_id"] == block_id:
            self._at += 1
            yield member

    async def _peek(self) -> dict[str, Any] | None:
        if self._at == len(self._page) and not self._is_over:
            self._page, self._at = await self._read(), 0
            self._is_over = not self._page
            if self._page:
                self._last = (self._page[-1]["block_id"], self._page[-1]["position"])
        return self._page[self._at] if self._at < len(self._page) else None

    async def _read(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
            f"""select s.block_id, s.position, s.transfer_id::text as member, s.digest as sealed,
                       t.id is not null as stands, {POSTED}
                from ledger_sealed_transfer s left join ledger_transfer t on t.id = s.transfer_id
                where s.block_id between $1 and $2 and s.block_id = any($3::bigint[])
                  and (s.block_id, s.position) > ($4, $5)
                order by s.block_id, s.position limit $6""",  # noqa: S608
            [self._ids[0], self._ids[-1], self._ids, *self._last, PAGE_TRANSFERS],
        )
        return rows


class _Block:
    """One block being recomputed."""

    def __init__(self, row: dict[str, Any], found: Verification) -> None:
        self._said = row
        self._found = found
        self._leaves: list[bytes] = []
        self._debit_fen = 0
        self._ends: list[str] = []
        self.count = 0

    def take(self, member: dict[str, Any]) -> None:
        if member["position"] != self.count:
            self._broken("position_missing", transfer_id=member["member"])
        self.count += 1
        self._ends = [*self._ends[:1], member["member"]]
        if not member["stands"]:
            self._leaves.append(bytes(member["sealed"]))
            self._broken("transfer_missing", transfer_id=member["member"])
            return
        transfer = posted(member)
        digest = rules.transfer_digest(transfer)
        self._leaves.append(digest)
        self._debit_fen += transfer.debit_fen
        if digest != bytes(member["sealed"]):
            self._broken("transfer_changed", transfer_id=transfer.id)
        if not transfer.is_balanced:
            self._broken("transfer_unbalanced", transfer_id=transfer.id)
        if transfer.region != self._said["book"]:
            self._broken("transfer_of_another_book", transfer_id=transfer.id)

    def close(self, book: Book, expected: dict[tuple[str, int], list[HeadView]]) -> None:
        """Compare with what the block says, with the chain, and with what was published."""
        said = self._said
        block = Block(**{name: said[name] for name in Block.__struct_fields__})
        if block.height != book.height + 1:
            self._broken("block_missing", detail=f"after height {book.height}")
        elif block.previous_digest != book.digest:
            self._broken("chain_broken")
        if rules.merkle_root(self._leaves) != block.root:
            self._broken("root_differs")
        counted = (self.count, self._debit_fen, self._ends[:1], self._ends[-1:])
        first, last = [block.first_transfer_id], [block.last_transfer_id]
        if counted != (block.transfer_count, block.debit_fen, first, last):
            self._broken("sums_differ")
        if rules.block_digest(block) != said["digest"]:
            self._broken("block_changed")
        book.height, book.digest = block.height, said["digest"]
        book.transfers += self.count
        book.debit_fen += self._debit_fen
        for head in expected.pop((book.book, book.height), []):
            now_standing = (book.digest, book.transfers, book.debit_fen)
            if (head.digest, head.transfers, head.debit_fen) != now_standing:
                self._broken("published_otherwise", detail=f"head of {head.day}")

    def _broken(self, what: str, *, transfer_id: str | None = None, detail: str = "") -> None:
        self._found.note(
            what, self._said["book"], height=self._said["height"], transfer_id=transfer_id,
            detail=detail,
        )  # fmt: skip


async def _check_membership(found: Verification, book: str | None, *, before: datetime) -> None:
    """What no walk through the blocks can meet."""
    for what, statement in _MEMBERSHIP.items():
        async with in_transaction() as db:
            await db.execute_query("set local statement_timeout = '30min'")
            parameters = [book, before] if "$2" in statement else [book]
            rows = await db.execute_query_dict(f"{statement} limit {MOST_BREAKS}", parameters)
        for row in rows:
            found.note(what, row["book"], transfer_id=row["transfer_id"])


_MEMBERSHIP = {
    "transfer_not_sealed": """
        select t.region as book, t.id::text as transfer_id from ledger_transfer t
        where t.posted_at < $2 and ($1::text is null or t.region = $1)
          and not exists (select from ledger_sealed_transfer s where s.transfer_id = t.id)""",
    "transfer_sealed_twice": """
        select min(b.book) as book, s.transfer_id::text as transfer_id
        from ledger_sealed_transfer s join ledger_block b on b.id = s.block_id
        where $1::text is null or b.book = $1
        group by s.transfer_id having count(*) > 1""",
    "block_of_transfer_missing": """
        select coalesce(t.region, '') as book, s.transfer_id::text as transfer_id
        from ledger_sealed_transfer s left join ledger_transfer t on t.id = s.transfer_id
        where not exists (select from ledger_block b where b.id = s.block_id)
          and ($1::text is null or t.region = $1)""",
    "entry_without_transfer": """
        select coalesce($1::text, '') as book, e.transfer_id::text as transfer_id
        from ledger_entry e
        where not exists (select from ledger_transfer t where t.id = e.transfer_id)""",
}


def _check_heads(
    found: Verification,
    heads: list[HeadView],
    unmet: dict[tuple[str, int], list[HeadView]],
    keys: Mapping[str, PeerKey],
) -> None:
    found.heads = len(heads)
    for head in heads:
        key = keys.get(head.key_id)
        if key is None:
            found.note("head_key_unknown", head.book, height=head.height, detail=head.key_id)
        elif not key.verify(rules.head_text(head.head), bytes.fromhex(head.signature)):
            found.note("head_forged", head.book, height=head.height, detail=f"{head.day}")
    if found.is_full:
        return  # not all blocks were read
    for place in unmet.values():
        for head in place:
            found.note(
                "published_block_missing", head.book, height=head.height, detail=f"{head.day}"
            )


def _check_files(
    found: Verification, heads: list[HeadView], folder: Path, book: str | None
) -> None:
    """The folder and our record of it say the same, in both directions."""
    named = {file_name(head): head for head in heads}
    for name, head in named.items():
        file = folder / name
        if not file.exists():
            found.note("head_file_missing", head.book, height=head.height, detail=name)
        elif file.read_bytes() != file_content(head):
            found.note("head_file_differs", head.book, height=head.height, detail=name)
    for file in sorted(folder.glob("*.json")):
        day, _, whose = file.stem.rpartition("-")
        if file.name not in named and _is_day(day) and book in (None, whose):
            found.note("head_record_missing", whose, detail=file.name)


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
