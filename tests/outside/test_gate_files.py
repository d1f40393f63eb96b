"""A later topic needs nothing but a schema and a handler: large files, part by part."""

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import tracemalloc
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from estation import worker
from estation.outside.gate import files as gate_files
from estation.outside.gate import keys, receiving, rows, sending, snapshots, spool
from estation.outside.gate.arriving import Arrival, Seal
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.rows import Digest, Name, Source
from estation.outside.gate.snapshots import Why
from estation.outside.gate.spool import BadPart, Part, Spool, SpoolFull
from estation.payments import staff_words
from tests.outside.gate_side import PUBLIC, STREAM, T0, Sides, position, query

MIB = 1024 * 1024
SOURCE = "jc-center"


class FileChunkRow(Struct, frozen=True, kw_only=True):
    """Topic `file_chunk`: one part of a material file. `data` is base64."""

    source: Source
    file_id: Name
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    part: Annotated[int, Meta(ge=1, le=spool.MAX_PARTS)]
    parts: Annotated[int, Meta(ge=1, le=spool.MAX_PARTS)]
    size: Annotated[int, Meta(ge=0, le=256 * MIB)]
    digest: Digest
    data: Annotated[str, Meta(max_length=512 * 1024)]


class Crash(BaseException):
    """Nothing catches kill -9."""


@pytest.fixture
def sides(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sides:
    monkeypatch.setitem(rows.TOPICS, "file_chunk", FileChunkRow)
    return Sides(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


def parts_of(data: bytes, file_id: str = "M-1", *, source: str = SOURCE) -> list[Part]:
    digest = hashlib.sha256(data).hexdigest()
    return [
        Part(source, file_id, number, count, len(data), digest, piece)
        for number, count, piece in spool.cut(io.BytesIO(data), len(data))
    ]


def handler_of(files: Spool, done: list[Path], seal: Seal | None = None) -> gate_files.WithFiles:
    """All that the topic needs on this side."""

    async def take(found: Sequence[Struct], arrival: Arrival) -> None:
        for row, sent in zip(found, arrival.as_sent(found), strict=True):
            assert isinstance(row, FileChunkRow)
            data = base64.b64decode(row.data)
            part = Part(row.source, row.file_id, row.part, row.parts, row.size, row.digest, data)
            try:
                whole = await gate_files.take(
                    files, part, topic="file_chunk", body=sent.body, arrival=arrival,
                    alarm=worker.open_gate_incident, seal=seal,
                )  # fmt: skip
            except BadPart as bad:
                raise RowRefused(f"file {row.file_id}: {bad}") from None
            if whole is not None:
                done.append(whole)

    return gate_files.WithFiles(files, take)


async def put_file(data: bytes, file_id: str = "M-1") -> None:
    """Ten parts at a time: nobody holds the whole file in memory."""
    digest = hashlib.sha256(data).hexdigest()
    waiting: list[FileChunkRow] = []
    for number, count, piece in spool.cut(io.BytesIO(data), len(data)):
        waiting.append(
            FileChunkRow(
                source="jc-center",
                file_id=file_id,
                name="../../etc/购房合同.pdf",
                part=number,
                parts=count,
                size=len(data),
                digest=digest,
                data=base64.b64encode(piece).decode(),
            )
        )
        if len(waiting) == 10 or number == count:
            await sending.put_rows(STREAM, "file_chunk", waiting, now=T0)
            waiting = []


async def receive(
    sides: Sides, files: Spool, done: list[Path], handler: receiving.Handler | None = None
) -> list[int]:
    applied: list[int] = []
    while True:
        report = await receiving.apply_incoming(
            STREAM,
            folder=sides.incoming,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers={"file_chunk": handler or handler_of(files, done)},
            now=sides.now,
        )
        applied += report.applied
        if not report.applied:
            return applied


async def test_fifty_megabytes_cross_in_ordinary_packets(sides: Sides, files: Spool) -> None:
    data = content(50 * MIB)
    done: list[Path] = []
    await put_file(data)

    packed = await sides.pack()
    sides.carry()
    applied = await receive(sides, files, done)

    assert len(packed) >= 4
    assert applied == packed
    assert [path.read_bytes() == data for path in done] == [True]
    assert list(sides.incoming.iterdir()) == []
    assert await position() == (packed[-1], "")


async def test_a_packets_rows_are_read_no_further_than_they_fit(sides: Sides) -> None:
    """Long rows: so many of them as a packet may have would be gigabytes."""
    await put_file(content(30 * MIB))
    tracemalloc.start()

    await sides.pack()

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * sending.PACK_BYTES


async def lose_packets(sides: Sides, lost: Sequence[int]) -> None:
    """They never come: not by their files, nor written again."""
    for seq in lost:
        sides.outgoing_file(seq).unlink()
        await query("delete from gate_outgoing_packet where seq = $1", seq)


async def jump(sides: Sides, files: Spool, done: list[Path]) -> None:
    """A snapshot leaves, and the receiver goes on behind it."""
    await snapshots.plan(STREAM, Why.asked, now=sides.now)
    await sides.pack()
    sides.carry()
    await receive(sides, files, done)
    sides.later(200)
    await receive(sides, files, done)


async def test_parts_in_packets_that_were_jumped_over_come_with_the_snapshot(
    sides: Sides, files: Spool
) -> None:
    data = content(50 * MIB)
    done: list[Path] = []
    await sides.put(1)
    await put_file(data)
    packed = await sides.pack()
    await lose_packets(sides, packed[1:3])
    sides.carry()
    await receive(sides, files, done)
    missing = len(files.missing(SOURCE, "M-1"))

    await jump(sides, files, done)

    assert missing > 40
    assert [path.read_bytes() == data for path in done] == [True]
    assert [row["kind"] for row in await query("select kind from gate_event")] == ["jumped"]
    assert list(sides.incoming.iterdir()) == []


async def test_parts_that_were_lost_before_their_file_was_begun_come_too(
    sides: Sides, files: Spool
) -> None:
    done: list[Path] = []
    await put_file(content(MIB))
    await lose_packets(sides, await sides.pack())
    await sides.put(1)
    await sides.pack()
    sides.carry()
    await receive(sides, files, done)

    await jump(sides, files, done)

    assert [path.read_bytes() for path in done] == [content(MIB)]


async def test_a_snapshot_repeats_no_part_that_is_confirmed(sides: Sides, files: Spool) -> None:
    done: list[Path] = []
    await put_file(content(2 * MIB))
    (first,) = await sides.pack()
    await put_file(content(MIB), "M-2")
    (second,) = await sides.pack()
    await query("update gate_outgoing_stream set peer_received_seq = $1", first)
    sides.carry()
    await receive(sides, files, done)
    await snapshots.plan(STREAM, Why.asked, now=sides.now)

    packed = await sides.pack()

    (sent,) = await query("select sum(rows)::int as rows from gate_outgoing_packet where seq > 2")
    assert (first, second) == (1, 2)
    assert sent["rows"] == 2 + 3  # begin, end, and the three parts of M-2
    sides.carry()
    assert await receive(sides, files, done) == packed
    assert len(set(done)) == 2


async def test_parts_leave_with_a_snapshot_piece_by_piece_and_across_a_crash(
    sides: Sides, files: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows to a piece; a part is sent meanwhile, and the sender dies at each packet."""
    monkeypatch.setattr(snapshots, "PIECE_ROWS", 3)
    done: list[Path] = []
    await sides.put(1, 2)
    await put_file(content(3 * MIB))
    await lose_packets(sides, await sides.pack())
    await snapshots.plan(STREAM, Why.asked, now=sides.now)
    original, survives = sending._record, 0

    async def dies(*values: Any, **named: Any) -> None:
        nonlocal survives
        survives += 1
        await original(*values, **named)
        if survives % 2:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(sending, "_record", dies)
        for turn in range(20):
            if turn == 2:
                await put_file(content(MIB, seed=2), "M-2")
            with contextlib.suppress(Crash):
                await sides.pack()
    sides.carry()
    await receive(sides, files, done)
    sides.later(200)
    await receive(sides, files, done)

    assert sorted(path.read_bytes() for path in done) == sorted(
        [content(3 * MIB), content(MIB, seed=2)]
    )
    (ended,) = await query("select state, rows from gate_snapshot")
    assert ended == {"state": "done", "rows": 2}


def test_parts_of_a_fetched_file_that_come_again_are_nothing(files: Spool) -> None:
    parts = parts_of(content(MIB))
    for part in parts:
        files.take(part, now=T0)
    files.forget(SOURCE, "M-1")

    again = [files.take(part, now=T0) for part in parts]

    assert again == [None] * len(parts)
    assert files.missing(SOURCE, "M-1") == []
    assert files.overdue(now=T0 + timedelta(days=2)) == []
    assert files.collect(now=T0 + timedelta(days=7)) == 0
    assert files.take(parts[0], now=T0) is None
    assert files.missing(SOURCE, "M-1") == [2, 3]


async def test_a_file_whose_parts_do_not_come_is_an_incident_with_an_owner_once(
    sides: Sides, files: Spool
) -> None:
    await query(
        """insert into gate_peer (name, title, folder, stream_in, stream_out, regions,
             late_after_seconds, state, trouble, created_at, changed_at)
           values ('jc-center', '市中心', '/nowhere', $1, 'online-jc-center', '[]', 600, 'active',
                   '', now(), now())""",
        STREAM,
    )
    await query("insert into gate_peer_source (source, peer) values ('jc-center', 'jc-center')")
    parts = parts_of(content(2 * MIB))
    files.take(parts[0], now=T0)
    for part in parts_of(content(MIB), "M-2"):
        files.take(part, now=T0)

    told = [
        await gate_files.look_after(
            files, topic="file_chunk", alarm=worker.open_gate_incident, now=T0 + timedelta(hours=h)
        )
        for h in (23, 24, 25)
    ]

    (opened,) = await query("select kind, owner, state, evidence from incident")
    evidence = json.loads(opened["evidence"])
    assert told == [0, 1, 1]
    assert (opened["kind"], opened["owner"], opened["state"]) == (
        "gate_file_incomplete", "operator", "open",
    )  # fmt: skip
    assert (evidence["stream"], evidence["keys"]) == (STREAM, ["M-1"])
    assert (evidence["parts"], evidence["missing"]) == (len(parts), list(range(2, len(parts) + 1)))
    assert "重新发送" in staff_words.INCIDENT_WORDS["gate_file_incomplete"][1]


async def test_parts_wait_unread_where_nobody_handles_the_topic(sides: Sides) -> None:
    await put_file(content(1000))
    await sides.pack()
    sides.carry()

    await sides.receive()

    assert [row["topic"] for row in await query("select topic from gate_parked_row")] == [
        "file_chunk"
    ]


async def test_a_part_that_cannot_be_right_is_a_bad_row(sides: Sides, files: Spool) -> None:
    await put_file(content(1000))
    await put_file(content(1000, seed=2))
    await sides.pack()
    sides.carry()
    done: list[Path] = []

    await receive(sides, files, done)

    assert await position() == (0, "bad_row")


def test_parts_come_in_any_order_twice_and_after_a_crash(tmp_path: Path) -> None:
    data = content(5 * MIB)
    parts = parts_of(data)
    random.Random(1).shuffle(parts)  # noqa: S311

    for part in parts[:-1] + parts[:3]:
        assert Spool(tmp_path).take(part, now=T0) is None
    missing = Spool(tmp_path).missing(SOURCE, "M-1")
    whole = Spool(tmp_path).take(parts[-1], now=T0)
    again = Spool(tmp_path).take(parts[0], now=T0)

    assert missing == [parts[-1].number]
    assert whole is not None
    assert whole.read_bytes() == data
    assert again == whole
    assert sorted(os.listdir(whole.parent)) == ["about.json", "whole"]


@pytest.mark.parametrize("size", [0, 1, spool.PART_BYTES, spool.PART_BYTES + 1])
def test_files_of_every_size(files: Spool, size: int) -> None:
    data = content(size)

    taken = [files.take(part, now=T0) for part in parts_of(data)]

    assert taken[-1] is not None
    assert taken[-1].read_bytes() == data


@pytest.mark.parametrize("file_id", ["", "..", "../x", "/etc", "a/b", "a\x00b", "x" * 65, "号"])
def test_a_file_id_is_never_a_path(files: Spool, tmp_path: Path, file_id: str) -> None:
    with pytest.raises(BadPart):
        files.take(parts_of(b"x", file_id)[0], now=T0)

    files.forget(SOURCE, file_id)
    assert files.missing(SOURCE, file_id) == []
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    "part",
    [
        Part(SOURCE, "M-1", 0, 1, 1, "0" * 64, b"x"),
        Part(SOURCE, "M-1", 2, 1, 1, "0" * 64, b"x"),
        Part(SOURCE, "M-1", 1, 10**9, 1, "0" * 64, b"x"),
        Part(SOURCE, "M-1", 1, 1, -1, "0" * 64, b""),
        Part(SOURCE, "M-1", 1, 1, 10**12, "0" * 64, b"x"),
        Part(SOURCE, "M-1", 1, 1, 2, "0" * 64, b"x"),
        Part(SOURCE, "M-1", 1, 1, 1, "0" * 64, b"xx"),
        Part(SOURCE, "M-1", 1, 1, MIB, "0" * 64, b"x" * MIB),
        Part(SOURCE, "M-1", 1, 1, 1, "z" * 64, b"x"),
        Part(SOURCE, "M-1", 1, 1, 1, "0" * 500_000, b"x"),
        Part(SOURCE, "M-1", 1, 3000, 3000 * 64, "0" * 64, b"x" * 64),
    ],
)
def test_impossible_parts_leave_nothing_behind(files: Spool, tmp_path: Path, part: Part) -> None:
    with pytest.raises(BadPart):
        files.take(part, now=T0)

    assert not (tmp_path / "spool").exists()


def test_a_file_that_is_not_what_was_announced_is_dropped(files: Spool, tmp_path: Path) -> None:
    part = Part(SOURCE, "M-1", 1, 1, 3, "0" * 64, b"abc")

    with pytest.raises(BadPart, match="announced"):
        files.take(part, now=T0)

    assert list((tmp_path / "spool").iterdir()) == []


def test_an_id_names_one_file(files: Spool) -> None:
    first, other = parts_of(content(10)), parts_of(content(10, seed=2))
    whole = files.take(first[0], now=T0)

    with pytest.raises(BadPart, match="id"):
        files.take(other[0], now=T0)

    assert whole is not None
    assert whole.read_bytes() == first[0].data


def test_the_spool_is_bounded_and_gives_up_what_stays_too_long(tmp_path: Path) -> None:
    files = Spool(tmp_path, max_bytes=2 * MIB, max_files=3, keep=timedelta(days=1))
    begun = parts_of(content(MIB), "M-1")[0]
    files.take(begun, now=T0)
    theirs = parts_of(content(MIB + 1), "M-1", source="lj-county")[0]
    files.take(theirs, now=T0)

    for number in (2, 3):
        with pytest.raises(SpoolFull):
            files.take(parts_of(content(MIB + 1), f"M-{number}")[0], now=T0)
    early = files.collect(now=T0 + timedelta(hours=23))
    late = files.collect(now=T0 + timedelta(hours=24))
    files.take(parts_of(content(MIB + 1), "M-2")[0], now=T0)

    assert (early, late) == (0, 2)
    assert len(os.listdir(tmp_path)) == 1
    assert files.missing(SOURCE, "M-2") == [2, 3]


def test_so_many_files_and_no_more(tmp_path: Path) -> None:
    files = Spool(tmp_path, max_files=2)
    for number in (1, 2):
        files.take(parts_of(b"x", f"M-{number}")[0], now=T0)

    with pytest.raises(SpoolFull):
        files.take(parts_of(b"x", "M-3")[0], now=T0)


def test_what_a_crash_left_of_a_beginning_is_collected(tmp_path: Path) -> None:
    (tmp_path / "M-1").mkdir()
    (tmp_path / "M-1" / ".about.json.part").write_bytes(b"{")

    assert Spool(tmp_path).collect(now=T0) == 1
    assert os.listdir(tmp_path) == []


async def test_two_sources_may_give_their_files_the_same_name(files: Spool) -> None:
    mine, theirs = content(3 * spool.PART_BYTES), content(2 * spool.PART_BYTES, seed=2)
    done = [
        files.take(part, now=T0)
        for part in (
            parts_of(theirs, source="lj-county")[0],
            *parts_of(mine),
            parts_of(theirs, source="lj-county")[1],
        )
    ]

    wholes = [path.read_bytes() for path in done if path is not None]
    assert wholes == [mine, theirs]


async def test_a_file_without_room_holds_up_nothing_behind_it(sides: Sides, tmp_path: Path) -> None:
    files = Spool(tmp_path / "spool", max_files=1)
    done: list[Path] = []
    await put_file(content(500_000), "M-1")
    await put_file(content(1000), "M-2")
    await put_file(content(500_000), "M-1")
    await sides.pack()
    sides.carry()

    applied = await receive(sides, files, done)

    assert applied == [1]
    assert await position() == (1, "")
    assert files.missing(SOURCE, "M-1") == []
    assert files.missing(SOURCE, "M-2") == []
    assert [path.read_bytes() == content(500_000) for path in set(done)] == [True]
