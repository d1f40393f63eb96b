"""What is digested, and that nothing can be changed without the digest telling."""

import hashlib
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from estation.ledger import rules
from estation.ledger.rules import Block, Head, PostedEntry, PostedTransfer
from tests.ledger.making import NOW, standing

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
moments = st.integers(0, 2**52).map(lambda us: EPOCH + timedelta(microseconds=us))
fen = st.integers(0, 2**62)
identities = st.uuids().map(str)
entries = st.lists(st.builds(PostedEntry, identities, words, fen, fen), max_size=3)
transfers = st.builds(
    PostedTransfer,
    id=identities, idempotency_key=words, input_hash=words, kind=words, region=words,
    order_id=st.none() | identities, our_no=words, channel_no=words, occurred_at=moments,
    posted_at=moments, reverses_id=st.none() | identities, entries=entries,
)  # fmt: skip


def read_back(said: bytes) -> PostedTransfer:
    """The transfer again from its canonical text: what can be read back was not confused."""
    tag, *fields, occurred, posted_at, reverses_id, legs = orjson.loads(said)
    assert tag == "transfer/1"
    names = ("id", "idempotency_key", "input_hash", "kind", "region", "order_id", "our_no",
             "channel_no")  # fmt: skip
    return PostedTransfer(
        **dict(zip(names, fields, strict=True)),
        occurred_at=EPOCH + timedelta(microseconds=occurred),
        posted_at=EPOCH + timedelta(microseconds=posted_at),
        reverses_id=reverses_id,
        entries=[PostedEntry(leg[3], *leg[:3]) for leg in legs],
    )


@given(transfers)
def test_the_canonical_text_gives_the_transfer_back_whole(transfer: PostedTransfer) -> None:
    """D9: an encoding that can be undone is injective: different entries never look alike."""
    assert read_back(rules.said_by(transfer)) == transfer


@given(transfers, transfers)
def test_different_transfers_have_different_digests(
    one: PostedTransfer, two: PostedTransfer
) -> None:
    assert (rules.transfer_digest(one) == rules.transfer_digest(two)) == (one == two)


TRANSFER = standing(order_id=None)
TRANSFER_CHANGES: list[dict[str, Any]] = [
    {"id": str(UUID(int=1))},
    {"idempotency_key": "arrival:2"},
    {"input_hash": "1" * 64},
    {"kind": "suspense"},
    {"region": "360102"},
    {"order_id": str(UUID(int=1))},
    {"our_no": "T2"},
    {"channel_no": "4201"},
    {"our_no": "T14200", "channel_no": ""},
    {"occurred_at": NOW + timedelta(microseconds=1)},
    {"posted_at": NOW - timedelta(microseconds=1)},
    {"reverses_id": str(UUID(int=1))},
    {"entries": []},
    {"entries": TRANSFER.entries[:1]},
    {"entries": TRANSFER.entries[::-1]},
    *(
        {"entries": [structs.replace(TRANSFER.entries[0], **change), TRANSFER.entries[1]]}
        for change in ({"account": "bank:a"}, {"debit_fen": 101}, {"credit_fen": 1}, {"id": "x"})
    ),
]


@pytest.mark.parametrize("change", TRANSFER_CHANGES)
def test_nothing_of_a_transfer_changes_unnoticed(change: dict[str, Any]) -> None:
    changed = structs.replace(TRANSFER, **change)

    assert rules.transfer_digest(changed) != rules.transfer_digest(TRANSFER)


def test_a_digest_is_the_sha256_of_the_canonical_text() -> None:
    assert rules.transfer_digest(TRANSFER) == hashlib.sha256(rules.said_by(TRANSFER)).digest()


BLOCK = Block(
    book="360101",
    height=2,
    first_transfer_id=str(UUID(int=1)),
    last_transfer_id=str(UUID(int=2)),
    transfer_count=2,
    debit_fen=300,
    root="a" * 64,
    previous_digest=rules.GENESIS,
    sealed_at=NOW,
)
HEAD = Head(
    day=date(2026, 8, 3),
    book="360101",
    height=2,
    digest="a" * 64,
    transfers=3,
    debit_fen=300,
    published_at=NOW,
)


@pytest.mark.parametrize(
    "change",
    [
        {"book": "360102"}, {"height": 3}, {"first_transfer_id": str(UUID(int=3))},
        {"last_transfer_id": str(UUID(int=3))}, {"transfer_count": 3}, {"debit_fen": 301},
        {"root": "b" * 64}, {"previous_digest": "b" * 64},
        {"sealed_at": NOW + timedelta(microseconds=1)},
    ],
)  # fmt: skip
def test_nothing_of_a_block_changes_unnoticed(change: dict[str, Any]) -> None:
    assert rules.block_digest(structs.replace(BLOCK, **change)) != rules.block_digest(BLOCK)


@pytest.mark.parametrize(
    "change",
    [
        {"day": date(2026, 8, 4)}, {"book": "360102"}, {"height": 3}, {"digest": "b" * 64},
        {"transfers": 4}, {"debit_fen": 301}, {"published_at": NOW + timedelta(microseconds=1)},
    ],
)  # fmt: skip
def test_nothing_of_a_head_changes_unnoticed(change: dict[str, Any]) -> None:
    assert rules.head_text(structs.replace(HEAD, **change)) != rules.head_text(HEAD)


def test_what_was_sealed_and_signed_stays_readable_for_ever() -> None:
    """The forms are a promise to those who keep copies: another form needs another tag."""
    microseconds = 1785722400000000
    assert rules.GENESIS == "0" * 64
    assert rules.head_text(HEAD) == (
        b'["head/1","2026-08-03","360101",2,"' + b"a" * 64 + b'",3,300,%d]' % microseconds
    )
    assert rules.block_digest(BLOCK) == hashlib.sha256(
        b'["block/1","360101",2,"00000000-0000-0000-0000-000000000001",'
        b'"00000000-0000-0000-0000-000000000002",2,300,"' + b"a" * 64 + b'","' + b"0" * 64
        + b'",%d]' % microseconds
    ).hexdigest()  # fmt: skip


def test_a_moment_has_one_text_in_every_time_zone() -> None:
    beijing = NOW.astimezone(timezone(timedelta(hours=8)))

    assert rules.said_by(structs.replace(TRANSFER, occurred_at=beijing)) == rules.said_by(TRANSFER)


LEAVES = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize(("count", "root"), list(enumerate(ROOTS)))
def test_the_tree_is_that_of_rfc_6962(count: int, root: str) -> None:
    """The published reference inputs and roots of Certificate Transparency."""
    assert rules.merkle_root([bytes.fromhex(leaf) for leaf in LEAVES[:count]]) == root


digests = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20)


@given(digests, digests)
def test_different_lists_of_transfers_have_different_roots(
    one: list[bytes], two: list[bytes]
) -> None:
    assert (rules.merkle_root(one) == rules.merkle_root(two)) == (one == two)


@pytest.mark.parametrize(
    ("oldest_running", "last_taken", "floor"),
    [(50, None, 50), (50, 70, 50), (50, 50, 50), (50, 30, 30)],
)
def test_the_next_sealing_starts_where_nothing_below_can_be_new(
    oldest_running: int, last_taken: int | None, floor: int
) -> None:
    assert rules.sealed_floor(oldest_running=oldest_running, last_taken=last_taken) == floor
