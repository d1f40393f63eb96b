"""Every committed transfer gets into exactly one block, whatever the order of commits."""

import asyncio
import random
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from tortoise import Tortoise

from estation.ledger import api, metrics, queries, rules
from estation.ledger.actions import sealing
from estation.shared.migrating import asyncpg_dsn
from estation.shared.transactions import in_transaction
from tests.ledger.making import BOOK, NOW, as_dba, number, payment, post_payments, rows

LATER = NOW + timedelta(seconds=30)
UNSEALED = """select count(*) from ledger_transfer t where not exists (
    select from ledger_sealed_transfer s where s.transfer_id = t.id)"""
SEALED = "select count(*) from ledger_sealed_transfer"


async def members(book: str = BOOK) -> list[list[str]]:
    """The transfers of each block of a book, in order."""
    found = await rows(
        """select array_agg(s.transfer_id::text order by s.position) as ids
           from ledger_block b join ledger_sealed_transfer s on s.block_id = b.id
           where b.book = $1 group by b.height order by b.height""",
        [book],
    )
    return [row["ids"] for row in found]


async def test_a_block_says_what_is_in_it_and_names_the_one_before(database: str) -> None:
    first = await post_payments(2)
    await api.seal(NOW)
    second = await post_payments(1, prefix="q")

    sealed = await api.seal(LATER)

    assert sealed == api.Sealed(blocks=1, transfers=1)
    one, two = await rows("select * from ledger_block order by height")
    assert (one["book"], one["height"], one["transfer_count"], one["debit_fen"]) == (
        BOOK, 1, 2, 201)  # fmt: skip
    assert (two["height"], two["sealed_at"]) == (2, LATER)
    assert (one["previous_digest"], two["previous_digest"]) == (rules.GENESIS, one["digest"])
    standing = await queries.posted_transfers(first)
    leaves = [rules.transfer_digest(standing[one]) for one in sorted(first)]
    assert one["root"] == rules.merkle_root(leaves)
    assert await members() == [sorted(first), second]
    assert (str(one["first_transfer_id"]), str(one["last_transfer_id"])) == (
        min(first), max(first))  # fmt: skip


async def test_nothing_new_makes_no_block(database: str) -> None:
    await post_payments(1)
    await api.seal(NOW)

    assert await api.seal(LATER) == api.Sealed(0, 0)
    assert await number("select count(*) from ledger_block") == 1


async def test_every_region_is_a_book_of_its_own(database: str) -> None:
    await post_payments(2, book="360101")
    await post_payments(3, book="360102")

    sealed = await api.seal(NOW)

    assert sealed == api.Sealed(blocks=2, transfers=5)
    found = await rows("select book, height, transfer_count as n from ledger_block order by book")
    assert [tuple(row.values()) for row in found] == [("360101", 1, 2), ("360102", 1, 3)]


async def test_a_full_pass_leaves_the_rest_to_the_next(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PASS_TRANSFERS", 4)
    for n in range(3):
        await post_payments(3, prefix=f"batch{n}")

    sealed = await api.seal(NOW)

    assert sealed == api.Sealed(blocks=3, transfers=9)
    assert await number(UNSEALED) == 0
    assert [len(block) for block in await members()] == [4, 4, 1]


async def test_a_call_ends_after_its_passes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "PASS_TRANSFERS", 2)
    monkeypatch.setattr(sealing, "PASSES", 2)
    await post_payments(5)

    assert await api.seal(NOW) == api.Sealed(blocks=2, transfers=4)
    assert await api.seal(NOW) == api.Sealed(blocks=1, transfers=1)


async def held(url: str) -> asyncpg.Connection:
    """A transaction that has written one transfer and does not commit."""
    connection = await asyncpg.connect(asyncpg_dsn(url))
    await connection.execute("begin")
    transfer_id = str(uuid4())
    await connection.execute(
        """insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, our_no,
                                        channel_no, occurred_at, posted_at)
           values ($1, 'held', '', 'payment', $2, '', '', $3, $3)""",
        transfer_id, BOOK, NOW,
    )  # fmt: skip
    await connection.execute(
        """insert into ledger_entry (id, transfer_id, account, debit_fen, credit_fen)
           values (gen_random_uuid(), $1, 'suspense:alipay:1', 7, 0),
                  (gen_random_uuid(), $1, 'payee_payable:a', 0, 7)""",
        transfer_id,
    )
    return connection


async def test_a_transfer_that_commits_late_is_sealed_once_and_holds_nobody_up(
    database: str,
) -> None:
    """It has the smallest transaction number of all, and commits after four sealings."""
    late = await held(database)
    for n in range(3):
        await post_payments(2, prefix=f"early{n}")
        assert await api.seal(NOW) == api.Sealed(blocks=1, transfers=2)
    assert await api.seal(NOW) == api.Sealed(0, 0)

    await late.execute("commit")
    await post_payments(2, prefix="after")

    assert await api.seal(LATER) == api.Sealed(blocks=1, transfers=3)
    assert await number(UNSEALED) == 0
    assert await number(SEALED) == 9
    assert (await rows(
        """select t.idempotency_key as key from ledger_block b
           join ledger_transfer t on t.id = b.first_transfer_id where b.height = 4"""
    ))[0]["key"] == "held"  # fmt: skip
    await late.close()


async def test_the_negative_control_a_mark_at_the_newest_number_would_skip_it(
    database: str,
) -> None:
    """The floor that would be natural, and wrong: above the newest transfer seen."""
    late = await held(database)
    await post_payments(2)
    newest = await number("select max(posted_xid::text::bigint) from ledger_transfer")
    await late.execute("commit")

    missed = await number(
        "select count(*) from ledger_transfer where posted_xid::text::bigint <= $1"
        " and idempotency_key = 'held'", newest
    )  # fmt: skip

    assert missed == 1
    assert await api.seal(NOW) == api.Sealed(blocks=1, transfers=3)
    await late.close()


async def test_what_rolls_back_is_never_sealed(database: str) -> None:
    late = await held(database)
    await post_payments(1)
    await api.seal(NOW)
    await late.execute("rollback")
    await post_payments(1, prefix="after")

    assert await api.seal(LATER) == api.Sealed(blocks=1, transfers=1)
    assert await number(SEALED) == 2
    await late.close()


async def test_many_writers_and_sealers_at_once_lose_and_double_nothing(database: str) -> None:
    chance = random.Random(7)  # noqa: S311
    start = asyncio.Barrier(8)

    async def write(who: int) -> None:
        await start.wait()
        for n in range(12):
            async with in_transaction() as db:
                made = payment(f"{who}:{n}", region=f"36010{who % 2 + 1}")
                await api.post_many([made], now=NOW, db=db)
                await asyncio.sleep(chance.random() / 50)  # commits in another order than it began
                if n % 5 == 4:
                    await db.execute_query("savepoint a")

    async def keep_sealing() -> int:
        await start.wait()
        sealed = 0
        for _ in range(40):
            done = await api.seal(NOW)
            sealed += done.transfers if done else 0
            await asyncio.sleep(0.005)
        return sealed

    results = await asyncio.gather(*(write(n) for n in range(6)), keep_sealing(), keep_sealing())
    rest = await api.seal(LATER)

    assert rest is not None
    assert sum(done for done in results if done) + rest.transfers == 72
    assert await number(SEALED) == 72
    assert await number(UNSEALED) == 0
    found = await api.verify(now=NOW, keys={})
    assert found.breaks == []
    assert sum(book.transfers for book in found.books.values()) == 72


async def test_one_sealer_works_at_a_time(database: str) -> None:
    await post_payments(1)
    other = await asyncpg.connect(asyncpg_dsn(database))
    await other.execute("select pg_advisory_lock($1)", sealing._SEALING)

    assert await api.seal(NOW) is None
    assert await number(UNSEALED) == 1

    await other.close()
    assert await api.seal(NOW) == api.Sealed(1, 1)


async def test_a_database_that_counts_its_transactions_anew_is_looked_through_once(
    database: str,
) -> None:
    """Restored from a dump: the old numbers are far ahead of the new ones."""
    await post_payments(2)
    await api.seal(NOW)
    await post_payments(1, prefix="dumped")  # not sealed when the dump was made
    await as_dba(
        "update ledger_transfer set posted_xid = '4000000000000'",
        "update ledger_block set floor_xid = '4000000000000'",
    )
    await post_payments(1, prefix="restored")

    assert await api.seal(LATER) == api.Sealed(blocks=1, transfers=2)
    await post_payments(1, prefix="more")
    assert await api.seal(LATER) == api.Sealed(blocks=1, transfers=1)
    assert await number(UNSEALED) == 0


@pytest.mark.parametrize("table", ["ledger_block", "ledger_sealed_transfer", "ledger_head"])
@pytest.mark.parametrize("verb", ["update {table} set {column} = {column}", "delete from {table}"])
async def test_the_chain_cannot_be_changed(database: str, table: str, verb: str) -> None:
    await post_payments(1)
    await api.seal(NOW)
    await rows(
        """insert into ledger_head select gen_random_uuid(), '2026-08-03', book, height, digest,
           1, 1, now(), '', '' from ledger_block returning 1"""
    )
    column = "position" if table == "ledger_sealed_transfer" else "digest"

    with pytest.raises(Exception, match="append-only"):
        await Tortoise.get_connection("default").execute_script(
            verb.format(table=table, column=column)
        )


async def test_a_transfer_that_lost_its_entries_is_sealed_and_told_of(database: str) -> None:
    """Somebody with all rights came before the sealer: it must not stand still for that."""
    await post_payments(1)
    await as_dba("delete from ledger_entry")

    await api.seal(NOW)

    found = await api.verify(now=NOW, keys={})
    assert [one.what for one in found.breaks] == ["transfer_unbalanced"]


async def test_looking_for_new_transfers_costs_the_same_in_a_large_book(database: str) -> None:
    await Tortoise.get_connection("default").execute_script(
        """insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, our_no,
                                        channel_no, occurred_at, posted_at, posted_xid)
           select gen_random_uuid(), 'old' || n, '', 'payment', '360101', '', '', now(), now(),
                  (100 + n % 500)::text::xid8 from generate_series(1, 20000) n;
           insert into ledger_block (book, height, first_transfer_id, last_transfer_id,
                                     transfer_count, debit_fen, root, previous_digest, digest,
                                     sealed_at, floor_xid)
           select '360101', 1, gen_random_uuid(), gen_random_uuid(), 20000, 1, '', '', '', now(),
                  pg_snapshot_xmin(pg_current_snapshot());
           insert into ledger_sealed_transfer (transfer_id, block_id, position, digest)
           select id, (select max(id) from ledger_block), row_number() over (), ''
           from ledger_transfer;
           analyze ledger_transfer; analyze ledger_sealed_transfer"""
    )
    await post_payments(3)
    floor = (await rows("select floor_xid::text as floor from ledger_block"))[0]["floor"]

    plan = await rows(
        "explain (analyze, format json) " + sealing._UNSEALED.replace("$1", f"'{floor}'")
        .replace("$2", "2000")
    )  # fmt: skip

    text = str(plan)
    assert "ix_ledger_transfer_posted_xid" in text
    assert "Seq Scan" not in text
    assert await api.seal(NOW) == api.Sealed(1, 3)


async def test_the_gauges_tell_blocks_and_the_age_of_what_waits(database: str) -> None:
    await metrics.refresh(NOW)
    assert (metrics.BLOCKS._value.get(), metrics.UNSEALED_AGE._value.get()) == (0, 0)
    await post_payments(1, book="360101")
    await post_payments(1, book="360102")
    await api.seal(NOW)
    await post_payments(1, prefix="waits")

    await metrics.refresh(NOW + timedelta(seconds=90))

    assert (metrics.BLOCKS._value.get(), metrics.UNSEALED_AGE._value.get()) == (2, 90)
