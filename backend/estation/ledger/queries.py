"""What the books say."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger import rules
from estation.ledger.rules import PostedEntry, PostedTransfer
from estation.shared.clock import day_bounds

CHANNEL_RECEIPTS = f"""
select t.id as transfer_id, t.kind, t.order_id, t.our_no as out_trade_no,
       t.channel_no as channel_trade_no, e.debit_fen as amount_fen, t.occurred_at,
       substr(e.account, {len(rules.CLEARING) + 2}) as account_id
from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
where t.occurred_at >= $1 and t.occurred_at < $2 and e.debit_fen > 0
  and starts_with(e.account, '{rules.CLEARING}:') and t.kind in ('payment', 'suspense')
"""  # noqa: S608  (our own constants)
"""The rows of `channel_receipts` for all merchant accounts in [$1, $2), as a query to join with:
a reconciled day stays in the database."""


_SIGNS = ", ".join(
    f"('{name}', {1 if kind.normal_side == 'debit' else -1})"
    for name, kind in rules.ACCOUNT_KINDS.items()
    if not kind.may_go_negative
)

NEGATIVE_ACCOUNTS = f"""
select e.account, sum((e.debit_fen - e.credit_fen) * k.sign)::bigint as fen
from ledger_entry e join (values {_SIGNS}) as k(kind, sign)
  on k.kind = split_part(e.account, ':', 1)
group by e.account having sum((e.debit_fen - e.credit_fen) * k.sign) < 0
"""  # noqa: S608  (our own constants)
"""Accounts below zero that may not be: no rows, ever."""

UNRELEASED_HOLDS = """
select h.transfer_id, h.order_id, h.order_no, h.occurred_at from ledger_open_hold h
where (select r.id from ledger_transfer r where r.reverses_id = h.transfer_id) is null
"""
"""Holds that nothing has undone, as a query to join with. A new one is listed once it is sealed."""

POSTED = """t.id::text as id, t.idempotency_key, t.input_hash, t.kind, t.region,
       t.order_id::text as order_id, t.our_no, t.channel_no, t.occurred_at, t.posted_at,
       t.reverses_id::text as reverses_id,
       (select json_agg(json_build_array(e.id, e.account, e.debit_fen, e.credit_fen)
                        order by e.account collate "C", e.id)::text
        from ledger_entry e where e.transfer_id = t.id) as entries"""
"""The columns of `posted`, from `ledger_transfer t`: everything a transfer says."""

_HEADS = """
select day, book, height, digest, transfers, debit_fen, published_at, key_id,
       encode(signature, 'hex') as signature
from ledger_head"""

BOOKS = """
with recursive books as (
    (select book from ledger_block order by book limit 1)
    union all
    select (select b.book from ledger_block b where b.book > books.book order by b.book limit 1)
    from books where books.book is not null
)"""
"""The few books of many blocks, by hopping through the index."""

_SEALING_STATE = f"""{BOOKS}
select (select coalesce(sum((select max(b.height) from ledger_block b
                             where b.book = books.book)), 0)::bigint
        from books where books.book is not null) as blocks,
       (select min(t.posted_at) from ledger_transfer t
        where t.posted_xid >= coalesce(
            (select floor_xid from ledger_block order by id desc limit 1), '0'::xid8)
          and (select s.block_id from ledger_sealed_transfer s
               where s.transfer_id = t.id limit 1) is null) as oldest
"""  # noqa: S608  (our own constants)


@dataclass(frozen=True, slots=True)
class UnreleasedHold:
    """An order whose expected money is still on hold."""

    order_id: UUID
    order_no: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class SealingState:
    """Blocks sealed in all books, and the age of the oldest transfer in none; 0 when all are."""

    blocks: int
    unsealed_age_seconds: float


@dataclass(frozen=True, slots=True)
class BookState:
    """The newest block of a book, and what all its blocks hold together."""

    book: str
    height: int
    digest: str
    sealed_at: datetime
    transfers: int
    debit_fen: int


@dataclass(frozen=True, slots=True)
class HeadView:
    """A published head as everybody may check it; the signature in hexadecimal."""

    day: date
    book: str
    height: int
    digest: str
    transfers: int
    debit_fen: int
    published_at: datetime
    key_id: str
    signature: str

    @property
    def head(self) -> rules.Head:
        names = rules.Head.__struct_fields__
        return rules.Head(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class StandingTransfer:
    """A posted transfer; `amount_fen` is the sum of its debits."""

    id: UUID
    idempotency_key: str
    input_hash: str
    kind: str
    amount_fen: int


@dataclass(frozen=True, slots=True)
class ChannelReceipt:
    """Money that arrived at a merchant account: kind is payment (applied) or suspense."""

    transfer_id: UUID
    kind: str
    order_id: UUID | None
    out_trade_no: str
    channel_trade_no: str
    amount_fen: int
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class TransferView:
    """A posted transfer with its legs (account, debit fen, credit fen), for staff."""

    id: UUID
    kind: str
    channel_no: str
    occurred_at: datetime
    posted_at: datetime
    legs: list[tuple[str, int, int]]


@dataclass(frozen=True, slots=True)
class PaymentNumbers:
    """Which payment it was: our out_trade_no and the channel's trade number; and when it came
    into the books."""

    our_no: str
    channel_no: str
    posted_at: datetime


async def transfers_about(our_no: str, *, limit: int = 50) -> list[TransferView]:
    """The transfers under one number of ours, oldest first."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id, t.kind, t.channel_no, t.occurred_at, t.posted_at,
                  (select json_agg(json_build_array(e.account, e.debit_fen, e.credit_fen)
                                   order by e.credit_fen > 0, e.account)::text
                   from ledger_entry e where e.transfer_id = t.id) as legs
           from ledger_transfer t where t.our_no = $1 order by t.posted_at, t.id limit $2""",
        [our_no, limit],
    )
    return [
        TransferView(**{**row, "legs": [tuple(leg) for leg in orjson.loads(row["legs"] or "[]")]})
        for row in rows
    ]


async def payments_of(order_id: UUID) -> list[PaymentNumbers]:
    """The numbers of all that was applied to an order: one, or one per part of a combined
    payment."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select our_no, channel_no, posted_at from ledger_transfer
           where order_id = $1 and kind = 'payment' order by our_no, channel_no""",
        [order_id],
    )
    return [PaymentNumbers(**row) for row in rows]


async def transfers_by_key(keys: Sequence[str]) -> dict[str, StandingTransfer]:
    """The transfers standing under these idempotency keys; joins the caller's transaction."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id, t.idempotency_key, t.input_hash, t.kind,
                  (select sum(e.debit_fen) from ledger_entry e where e.transfer_id = t.id)::bigint
                      as amount_fen
           from ledger_transfer t where t.idempotency_key = any($1::text[])""",
        [list(keys)],
    )
    return {row["idempotency_key"]: StandingTransfer(**row) for row in rows}


@dataclass(frozen=True, slots=True)
class PayeeMovement:
    """What one transfer at a merchant account owes a payee: fen above zero, below for refunds.
    `idempotency_key` says what it was posted for."""

    transfer_id: UUID
    idempotency_key: str
    kind: str
    our_no: str
    channel_no: str
    occurred_at: datetime
    payee_code: str
    fen: int


async def payee_movements(day: date, account_id: str) -> list[PayeeMovement]:
    """What the applied payments and the refunds of a Beijing day (the channel's clock) at a
    merchant account change in what its payees are owed; ordered by time.

    Payments are those from clearing and those that waited in suspense first. Refunds are known
    by the account of money on its way back, also where one is reversed.
    """
    start, end = day_bounds(day)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id as transfer_id, t.idempotency_key, t.kind, t.our_no, t.channel_no,
                  t.occurred_at,
                  split_part(p.account, ':', 2) as payee_code, p.credit_fen - p.debit_fen as fen
           from ledger_transfer t
           join ledger_entry p on p.transfer_id = t.id and starts_with(p.account, $3)
           where t.occurred_at >= $1 and t.occurred_at < $2 and exists (
               select from ledger_entry m where m.transfer_id = t.id
               and (m.account in ($4, $6) and t.kind = 'payment' or m.account = $5))
           order by t.occurred_at, t.id, p.account""",
        [
            start,
            end,
            f"{rules.PAYEE}:",
            rules.clearing(account_id),
            rules.refund_in_flight(account_id),
            rules.suspense(account_id),
        ],
    )
    return [PayeeMovement(**row) for row in rows]


@dataclass(frozen=True, slots=True)
class Standing:
    """What transfers of one kind moved on an account: debits less credits in fen."""

    transfers: int
    fen: int


async def standing_under(our_no: str, account: str) -> dict[str, Standing]:
    """What the transfers under a number of ours moved on an account, by their kind; what undoes
    one counts with it. Joins the caller's transaction."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(undone.kind, t.kind) as kind, count(*) as transfers,
                  sum(e.debit_fen - e.credit_fen)::bigint as fen
           from ledger_transfer t
           join ledger_entry e on e.transfer_id = t.id and e.account = $2
           left join ledger_transfer undone on undone.id = t.reverses_id
           where t.our_no = $1 group by 1""",
        [our_no, account],
    )
    return {row["kind"]: Standing(int(row["transfers"]), int(row["fen"])) for row in rows}


async def balance(account: str) -> int:
    """Debits less credits of an account in fen."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(debit_fen), 0)::bigint - coalesce(sum(credit_fen), 0)::bigint as fen
           from ledger_entry where account = $1""",
        [account],
    )
    return int(rows[0]["fen"])


async def open_claim_fen(account_id: str, our_no: str, channel_no: str) -> int:
    """What was given back of the money of one channel number beyond what was left of it. All of
    it stands under the number of ours by which the money came, and is found by that."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(e.debit_fen - e.credit_fen), 0)::bigint as fen
           from ledger_entry e join ledger_transfer t on t.id = e.transfer_id
           where e.account = $1 and t.our_no = $2 and t.channel_no = $3""",
        [rules.overpaid_back(account_id), our_no, channel_no],
    )
    return int(rows[0]["fen"])


async def channel_receipts(day: date, account_id: str) -> list[ChannelReceipt]:
    """All money that arrived at `account_id` on a Beijing day by the channel's clock.

    Suspense is included: the channel's bill names that money too. Ordered by out_trade_no.
    """
    start, end = day_bounds(day)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id as transfer_id, t.kind, t.order_id, t.our_no as out_trade_no,
                  t.channel_no as channel_trade_no, e.debit_fen as amount_fen, t.occurred_at
           from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
           where t.occurred_at >= $1 and t.occurred_at < $2
             and e.account = $3 and e.debit_fen > 0 and t.kind in ('payment', 'suspense')
           order by t.our_no, t.channel_no""",
        [start, end, rules.clearing(account_id)],
    )
    return [ChannelReceipt(**row) for row in rows]


async def unbalanced_transfers(*, limit: int = 100) -> list[UUID]:
    """Invariant: no rows. Transfers whose entries do not sum to zero, or that have none."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select t.id from ledger_transfer t left join ledger_entry e on e.transfer_id = t.id
           group by t.id
           having count(e.id) < 2 or sum(e.debit_fen) <> sum(e.credit_fen) limit $1""",
        [limit],
    )
    return [row["id"] for row in rows]


def posted(row: dict[str, Any]) -> PostedTransfer:
    """From a row of POSTED; further columns are left alone."""
    said = {name: row[name] for name in PostedTransfer.__struct_fields__ if name != "entries"}
    entries = [PostedEntry(*entry) for entry in orjson.loads(row["entries"] or "[]")]
    return PostedTransfer(**said, entries=entries)


async def posted_transfers(ids: Sequence[str]) -> dict[str, PostedTransfer]:
    """The standing transfers under these ids, whole; joins the caller's transaction."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"select {POSTED} from ledger_transfer t where t.id = any($1::uuid[])",  # noqa: S608
        [list(ids)],
    )
    return {row["id"]: posted(row) for row in rows}


async def holds_of(order_ids: Sequence[UUID]) -> list[PostedTransfer]:
    """The holds of these orders that nothing has undone; joins the caller's transaction."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select {POSTED} from ledger_transfer t
            where t.order_id = any($1::uuid[]) and t.kind = '{rules.HOLD_KIND}'
              and (select r.id from ledger_transfer r where r.reverses_id = t.id) is null
            order by t.id""",  # noqa: S608
        [list(order_ids)],
    )
    return [posted(row) for row in rows]


async def unreleased_holds(limit: int) -> list[UnreleasedHold]:
    """Holds that nothing has undone, oldest first. A new one is listed once it is sealed."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select order_id, order_no, occurred_at from ({UNRELEASED_HOLDS}) h
            order by occurred_at limit $1""",  # noqa: S608  (our own constant)
        [limit],
    )
    return [UnreleasedHold(**row) for row in rows]


async def negative_accounts(*, limit: int = 100) -> list[tuple[str, int]]:
    """Invariant: no rows. Accounts below zero that may not be, with their balance in fen."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"{NEGATIVE_ACCOUNTS} limit $1", [limit]
    )
    return [(row["account"], int(row["fen"])) for row in rows]


async def sealing_state(now: datetime) -> SealingState:
    """How many blocks there are, and how old the oldest transfer is that is in none."""
    rows = await Tortoise.get_connection("default").execute_query_dict(_SEALING_STATE)
    oldest: datetime | None = rows[0]["oldest"]
    age = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
    return SealingState(int(rows[0]["blocks"]), age)


async def newest_blocks(db: BaseDBAsyncClient | None = None) -> list[BookState]:
    """Every book with its newest block and all that stands in it so far, by book."""
    rows = await (db or Tortoise.get_connection("default")).execute_query_dict(
        """select b.book, b.height, b.digest, b.sealed_at, sums.transfers, sums.debit_fen
           from (select book, max(height) as height, sum(transfer_count)::bigint as transfers,
                        sum(debit_fen)::bigint as debit_fen from ledger_block group by book) sums
           join ledger_block b on b.book = sums.book and b.height = sums.height
           order by b.book"""
    )
    return [BookState(**row) for row in rows]


async def published_heads(*, limit: int) -> list[HeadView]:
    """The newest published heads, newest day first."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"{_HEADS} order by day desc, book limit $1",
        [limit],
    )
    return [HeadView(**row) for row in rows]


async def tops_of(db: BaseDBAsyncClient, books: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Height and digest of the newest block of each of these books; a new book has none."""
    rows = await db.execute_query_dict(
        """select top.book, top.height, top.digest
           from unnest($1::text[]) as wanted(book) cross join lateral (
               select b.book, b.height, b.digest from ledger_block b
               where b.book = wanted.book order by b.height desc limit 1) top""",
        [list(books)],
    )
    return {row["book"]: (row["height"], row["digest"]) for row in rows}


async def books_published_on(db: BaseDBAsyncClient, day: date) -> set[str]:
    rows = await db.execute_query_dict("select book from ledger_head where day = $1", [day])
    return {row["book"] for row in rows}


async def has_other_books(db: BaseDBAsyncClient, known: set[str]) -> bool:
    """Whether there are blocks of a book that is not one of these."""
    rows = await db.execute_query_dict(
        f"{BOOKS} select count(*) as n from books where book <> all($1::text[])",  # noqa: S608
        [sorted(known)],
    )
    return bool(rows[0]["n"])


async def every_head() -> list[HeadView]:
    """All published heads, oldest first: one a day and book."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"{_HEADS} order by day, book"
    )
    return [HeadView(**row) for row in rows]


async def sealed_count(book: str | None) -> int:
    """Transfers in the blocks of one book or all, as the blocks say."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(transfer_count), 0)::bigint as n from ledger_block
           where $1::text is null or book = $1""",
        [book],
    )
    return int(rows[0]["n"])
