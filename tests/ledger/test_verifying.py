"""Whoever changes the books as a database administrator could, is found out and named."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from tortoise import Tortoise

from estation.ledger import api, queries, rules, verifying
from estation.ledger.actions import publishing
from estation.ledger.rules import Block
from estation.outside.gate import keys
from tests.ledger.making import BOOK, NOW, as_dba, post_payments, rows

LATER = NOW + timedelta(hours=1)
PRIVATE, PUBLIC = keys.make_key()
SEAL = keys.load_seal_key(PRIVATE)
TRUSTED = {SEAL.key_id: keys.load_peer_key(PUBLIC)}


async def verified(
    folder: Path | None = None, book: str | None = None
) -> list[tuple[str, int | None, str | None]]:
    found = await api.verify(now=LATER, keys=TRUSTED, folder=folder, book=book)
    assert found.is_whole is (found.breaks == [])
    return [(one.what, one.height, one.transfer_id) for one in found.breaks]


async def three_blocks() -> list[list[str]]:
    """Of three, two and one payments."""
    made = []
    for n in (3, 2, 1):
        made.append(await post_payments(n, prefix=f"b{n}"))
        await api.seal(NOW)
    return [sorted(block) for block in made]


def kinds(found: Sequence[tuple[str, int | None, str | None]]) -> set[str]:
    return {what for what, _, _ in found}


async def test_untouched_books_are_whole(database: str, tmp_path: Path) -> None:
    await three_blocks()
    await post_payments(2, book="360102")
    await api.seal(NOW)
    await publishing.publish_heads(key=SEAL, folder=tmp_path, now=NOW)
    told: list[tuple[int, int]] = []

    found = await api.verify(
        now=LATER, keys=TRUSTED, folder=tmp_path, progress=lambda *at: told.append(at)
    )

    assert found.breaks == []
    assert found.heads == 2
    one, two = found.books[BOOK], found.books["360102"]
    assert (one.height, one.transfers, one.debit_fen) == (3, 6, 303 + 201 + 100)
    assert (two.height, two.transfers, two.debit_fen) == (1, 2, 201)
    newest = {state.book: state.digest for state in await queries.newest_blocks()}
    assert newest == {one.book: one.digest, two.book: two.digest}
    assert told[-1] == (8, 8)


async def test_books_without_anything_are_whole(database: str) -> None:
    assert await verified() == []


async def test_small_pages_find_the_same(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "PAGE_BLOCKS", 2)
    monkeypatch.setattr(verifying, "PAGE_TRANSFERS", 2)
    blocks = await three_blocks()
    assert await verified() == []

    await as_dba(f"update ledger_entry set debit_fen = 9 where transfer_id = '{blocks[2][0]}'"
                 " and debit_fen > 0")  # fmt: skip

    assert (await verified())[0] == ("transfer_changed", 3, blocks[2][0])


async def test_a_changed_amount_is_found_on_both_sides(database: str) -> None:
    """Both entries raised alike: it balances, and is still another transfer."""
    blocks = await three_blocks()
    victim = blocks[1][1]
    await as_dba(
        f"update ledger_entry set debit_fen = debit_fen + 1000 where transfer_id = '{victim}'"
        " and debit_fen > 0",
        f"update ledger_entry set credit_fen = credit_fen + 1000 where transfer_id = '{victim}'"
        " and credit_fen > 0",
    )

    found = await verified()

    assert found[0] == ("transfer_changed", 2, victim)
    assert kinds(found) == {"transfer_changed", "root_differs", "sums_differ"}


@pytest.mark.parametrize(
    "change",
    [
        "idempotency_key = 'another'", "input_hash = 'x'", "kind = 'suspense'", "our_no = 'T2'",
        "order_id = gen_random_uuid()", "channel_no = 'x'",
        "occurred_at = occurred_at + interval '1 microsecond'",
        "posted_at = posted_at - interval '1 microsecond'",
    ],
)  # fmt: skip
async def test_any_changed_column_is_found(database: str, change: str) -> None:
    victim = (await three_blocks())[0][1]

    await as_dba(f"update ledger_transfer set {change} where id = '{victim}'")

    assert await verified() == [("transfer_changed", 1, victim), ("root_differs", 1, None)]


async def test_money_moved_to_another_account_is_found(database: str) -> None:
    victim = (await three_blocks())[2][0]

    await as_dba(
        f"update ledger_entry set account = 'payee_payable:mine' where transfer_id = '{victim}'"
        " and credit_fen > 0"
    )

    assert (await verified())[0] == ("transfer_changed", 3, victim)


async def test_a_deleted_entry_is_found(database: str) -> None:
    victim = (await three_blocks())[0][0]

    await as_dba(f"delete from ledger_entry where transfer_id = '{victim}' and credit_fen > 0")

    found = await verified()
    assert found[:2] == [("transfer_changed", 1, victim), ("transfer_unbalanced", 1, victim)]


async def test_a_deleted_transfer_is_found_with_what_it_left(database: str) -> None:
    victim = (await three_blocks())[0][2]

    await as_dba(f"delete from ledger_transfer where id = '{victim}'")

    found = await verified()
    assert found[0] == ("transfer_missing", 1, victim)
    assert ("entry_without_transfer", None, victim) in found


async def test_a_transfer_taken_out_of_its_block_is_found(database: str) -> None:
    first = (await three_blocks())[0][0]

    await as_dba(f"delete from ledger_sealed_transfer where transfer_id = '{first}'")

    found = await verified()
    assert found[0][:2] == ("position_missing", 1)
    assert kinds(found) >= {"root_differs", "sums_differ", "transfer_not_sealed"}
    assert ("transfer_not_sealed", None, first) in found


async def test_two_exchanged_transfers_are_found(database: str) -> None:
    one, two, _ = (await three_blocks())[0]

    await as_dba(
        f"update ledger_sealed_transfer set position = 9 where transfer_id = '{one}'",
        f"update ledger_sealed_transfer set position = 0 where transfer_id = '{two}'",
        f"update ledger_sealed_transfer set position = 1 where transfer_id = '{one}'",
    )

    assert await verified() == [("root_differs", 1, None), ("sums_differ", 1, None)]


async def test_a_transfer_in_another_regions_book_is_found(database: str) -> None:
    victim = (await three_blocks())[0][0]

    await as_dba(f"update ledger_transfer set region = '360199' where id = '{victim}'")

    assert ("transfer_of_another_book", 1, victim) in await verified()


async def test_a_dropped_block_in_the_middle_is_found(database: str) -> None:
    await three_blocks()

    await as_dba(
        "delete from ledger_sealed_transfer where block_id ="
        " (select id from ledger_block where height = 2)",
        "delete from ledger_block where height = 2",
    )

    found = await verified()
    assert found[0] == ("block_missing", 3, None)
    assert "transfer_not_sealed" in kinds(found)


async def test_a_dropped_block_whose_transfers_stay_listed_is_found(database: str) -> None:
    blocks = await three_blocks()

    await as_dba("delete from ledger_block where height = 3")

    assert await verified() == [("block_of_transfer_missing", None, blocks[2][0])]


async def test_a_dropped_newest_block_is_found_once_it_was_published(
    database: str, tmp_path: Path
) -> None:
    await three_blocks()
    await publishing.publish_heads(key=SEAL, folder=tmp_path, now=NOW)
    await as_dba(
        "delete from ledger_sealed_transfer where block_id ="
        " (select id from ledger_block where height = 3)",
        "delete from ledger_block where height = 3",
    )
    assert ("published_block_missing", 3, None) in await verified()

    await api.seal(LATER)  # the sealer chains the transfer again, at another moment

    assert await verified() == [("published_otherwise", 3, None)]


@pytest.mark.parametrize(
    "change",
    ["debit_fen = 1", "transfer_count = 9", "sealed_at = sealed_at + interval '1 second'",
     "first_transfer_id = gen_random_uuid()", "last_transfer_id = gen_random_uuid()",
     "digest = 'x'", "root = 'x'"],
)  # fmt: skip
async def test_a_changed_block_is_found(database: str, change: str) -> None:
    await three_blocks()

    await as_dba(f"update ledger_block set {change} where height = 1")

    found = await verified()
    assert ("block_changed", 1, None) in found
    assert found[0][1] == 1


async def test_a_broken_link_is_found(database: str) -> None:
    await three_blocks()

    await as_dba("update ledger_block set previous_digest = 'x' where height = 2")

    assert await verified() == [("chain_broken", 2, None), ("block_changed", 2, None)]


async def test_a_transfer_in_two_blocks_is_found(database: str) -> None:
    victim = (await three_blocks())[0][0]
    await Tortoise.get_connection("default").execute_script(
        "alter table ledger_sealed_transfer drop constraint ledger_sealed_transfer_pkey"
    )
    try:
        await rows(
            """insert into ledger_sealed_transfer (transfer_id, block_id, position, digest)
               select transfer_id, (select max(id) from ledger_block), 1, digest
               from ledger_sealed_transfer where transfer_id = $1 returning 1""",
            [victim],
        )

        assert ("transfer_sealed_twice", None, victim) in await verified()
    finally:
        await Tortoise.get_connection("default").execute_script(
            "truncate ledger_sealed_transfer;"
            "alter table ledger_sealed_transfer add primary key (transfer_id)"
        )


async def test_a_fresh_transfer_may_wait_and_an_old_one_may_not(database: str) -> None:
    (waiting,) = await post_payments(1)

    early = await api.verify(now=NOW + verifying.MARGIN, keys={})
    late = await api.verify(now=NOW + verifying.MARGIN + timedelta(seconds=1), keys={})

    assert early.breaks == []
    assert [(one.what, one.transfer_id) for one in late.breaks] == [
        ("transfer_not_sealed", waiting)
    ]


async def rechain() -> None:
    """Everything sealed is computed again from what stands now: a perfect chain of lies."""
    digest = rules.GENESIS
    for row in await rows("select * from ledger_block order by id"):
        listed = await rows(
            "select transfer_id::text as id from ledger_sealed_transfer"
            " where block_id = $1 order by position", [row["id"]]
        )  # fmt: skip
        standing = await queries.posted_transfers([one["id"] for one in listed])
        those = [standing[one["id"]] for one in listed]
        leaves = [rules.transfer_digest(one) for one in those]
        block = Block(
            book=row["book"], height=row["height"], first_transfer_id=those[0].id,
            last_transfer_id=those[-1].id, transfer_count=len(those),
            debit_fen=sum(one.debit_fen for one in those), root=rules.merkle_root(leaves),
            previous_digest=digest, sealed_at=row["sealed_at"],
        )  # fmt: skip
        digest = rules.block_digest(block)
        await as_dba(
            f"update ledger_block set root = '{block.root}', debit_fen = {block.debit_fen},"
            f" previous_digest = '{block.previous_digest}', digest = '{digest}'"
            f" where id = {row['id']}",
            *(
                f"update ledger_sealed_transfer set digest = '\\x{leaf.hex()}'"
                f" where transfer_id = '{one.id}'"
                for one, leaf in zip(those, leaves, strict=True)
            ),
        )


async def tamper_and_rechain(folder: Path) -> None:
    victim = (await three_blocks())[0][0]
    await publishing.publish_heads(key=SEAL, folder=folder, now=NOW)
    await as_dba(
        f"update ledger_entry set debit_fen = 1 where transfer_id = '{victim}' and debit_fen > 0",
        f"update ledger_entry set credit_fen = 1 where transfer_id = '{victim}' and credit_fen > 0",
    )
    await rechain()


async def test_a_chain_made_anew_is_found_by_its_published_head(
    database: str, tmp_path: Path
) -> None:
    await tamper_and_rechain(tmp_path)

    assert await verified(tmp_path) == [("published_otherwise", 3, None)]


async def test_the_chain_alone_would_not_have_told(database: str, tmp_path: Path) -> None:
    """The negative control: without the head, the lie is perfect."""
    await tamper_and_rechain(tmp_path)
    await as_dba("delete from ledger_head")

    assert await verified() == []
    assert kinds(await verified(tmp_path)) == {"head_record_missing"}


async def test_a_head_that_follows_the_lie_lacks_the_signature(
    database: str, tmp_path: Path
) -> None:
    await tamper_and_rechain(tmp_path)
    await as_dba(
        "update ledger_head h set digest = b.digest,"
        " debit_fen = (select sum(debit_fen) from ledger_block)"
        " from ledger_block b where b.height = h.height"
    )

    assert kinds(await verified()) == {"head_forged"}
    assert kinds(await verified(tmp_path)) == {"head_forged", "head_file_differs"}


async def test_a_head_signed_by_a_stranger_is_found(database: str, tmp_path: Path) -> None:
    await three_blocks()
    stranger = keys.load_seal_key(keys.make_key()[0])
    await publishing.publish_heads(key=stranger, folder=tmp_path, now=NOW)

    assert await verified(tmp_path) == [("head_key_unknown", 3, None)]


@pytest.mark.parametrize("change", ["transfers = 5", "debit_fen = 5"])
async def test_a_head_whose_sums_are_others_is_found(
    database: str, tmp_path: Path, change: str
) -> None:
    await three_blocks()
    await publishing.publish_heads(key=SEAL, folder=tmp_path, now=NOW)

    await as_dba(f"update ledger_head set {change}")

    assert await verified() == [("published_otherwise", 3, None), ("head_forged", 3, None)]


async def test_a_missing_or_changed_file_is_found(database: str, tmp_path: Path) -> None:
    await three_blocks()
    await publishing.publish_heads(key=SEAL, folder=tmp_path, now=NOW)
    file = tmp_path / f"2026-08-03-{BOOK}.json"
    (tmp_path / "notes.json").write_text("{}")

    file.write_bytes(file.read_bytes() + b" ")
    assert await verified(tmp_path) == [("head_file_differs", 3, None)]
    file.unlink()
    assert await verified(tmp_path) == [("head_file_missing", 3, None)]


async def test_one_book_is_verified_alone(database: str, tmp_path: Path) -> None:
    victim = (await three_blocks())[0][0]
    await post_payments(1, book="360102")
    await api.seal(NOW)
    await publishing.publish_heads(key=SEAL, folder=tmp_path, now=NOW)
    await as_dba(f"update ledger_transfer set kind = 'x' where id = '{victim}'")

    assert await verified(tmp_path, "360102") == []
    assert (await verified(tmp_path, BOOK))[0] == ("transfer_changed", 1, victim)


async def test_a_ruined_ledger_is_told_in_few_words(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "PAGE_BLOCKS", 1)
    for n in range(3):
        await post_payments(15, prefix=f"n{n}")
        await api.seal(NOW)
    await as_dba("update ledger_transfer set kind = 'x'")

    found = await api.verify(now=LATER, keys={})

    assert len(found.breaks) == verifying.MOST_BREAKS
    assert found.books[BOOK].height == 2  # the third block was not read any more
