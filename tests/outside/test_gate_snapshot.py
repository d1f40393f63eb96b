"""Whatever was lost for good is made good by a snapshot that is whole, and by nothing else."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from estation.outside.gate import format as packets
from estation.outside.gate import (
    jumping,
    keys,
    patience,
    positions,
    receiving,
    rows,
    sending,
    snapshots,
)
from estation.outside.gate.jumping import Jump
from estation.outside.gate.snapshots import Why
from tests.outside.gate_link import Link, events, make_link, proofs
from tests.outside.gate_side import PRIVATE, PUBLIC, STREAM, bill, names, position, query

BACKEND = Path(__file__).resolve().parents[2] / "backend"


class Crash(BaseException):
    """As in test_gate_crash: nothing catches kill -9."""


def crash(*_: object, **__: object) -> None:
    raise Crash


@pytest.fixture
async def link(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    monkeypatch.setattr(snapshots, "PIECE_ROWS", 10)
    return await make_link(tmp_path, monkeypatch)


async def lose(link: Link, *numbers: int) -> None:
    """Rows that leave the sender and never come, nor will their packets ever again."""
    await link.put(*numbers)
    for seq in await link.pack():
        link.outgoing_file(seq).unlink()
        await query("delete from gate_outgoing_packet where seq = $1", seq)


async def snapshot(link: Link) -> None:
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await link.pack()
    link.carry()


async def test_a_snapshot_is_every_row_between_its_begin_and_its_end(link: Link) -> None:
    await link.put(*range(1, 26))
    await link.exchange()

    await snapshot(link)
    await link.arrive()

    sent = await query("select state, rows, first_seq, last_seq, is_exhausted from gate_snapshot")
    assert sent == [
        {"state": "done", "rows": 25, "first_seq": 2, "last_seq": 5, "is_exhausted": True}
    ]
    assert await proofs() == [("fee_bill", True, [])]
    assert link.handed_over == 50
    assert await position() == (5, "")


async def test_a_snapshot_leaves_room_for_what_happens_meanwhile(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_PACKETS_PER_CALL", 1)
    await link.put(*range(1, 41))
    await link.exchange()
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    waited = []
    for number in range(100, 107):
        await sending.put_rows(
            STREAM, "fee_bill", [bill(number), bill(5, version=number)], now=link.now
        )
        await link.pack()
        waited.append(await query("select 1 from gate_outgoing_row where packed_seq is null"))
    link.carry()
    await link.arrive()

    assert waited == [[]] * 7
    assert (await query("select state from gate_snapshot")) == [{"state": "done"}]
    assert await proofs() == [("fee_bill", True, [])]
    assert (await link.copied())["F000005"][0] == 106


async def test_packets_lost_for_good_are_jumped_over_and_the_copy_is_whole(link: Link) -> None:
    await link.put(*range(1, 6))
    await link.exchange()
    await lose(link, *range(6, 21))
    await link.send(21)
    await link.arrive()
    stuck = await position()
    link.later(200)

    await snapshot(link)
    await link.arrive()
    await link.answer()

    jumped = msgspec.json.decode((await events("jumped"))[0]["detail"])
    assert stuck == (1, "gap")
    assert list(await link.copied()) == names(*range(1, 22))
    assert await position() == (7, "")
    assert await proofs() == [("fee_bill", True, [])]
    assert (jumped["skipped"], jumped["why"]) == ({"first": 2, "last": 3}, "gap")
    assert [one.kind for one in link.findings] == ["jumped"]
    await link.exchange(2)
    await link.put(22)
    await link.exchange()
    assert list(await link.copied()) == names(*range(1, 23))
    assert list(link.incoming.iterdir()) == []


async def test_a_jump_may_last_longer_than_an_ordinary_turn(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stuck_before_a_snapshot(link)
    real = Jump.apply

    async def slow(self: Jump, *given: Any) -> None:
        await asyncio.sleep(1.2)
        await real(self, *given)

    monkeypatch.setattr(Jump, "apply", slow)

    monkeypatch.setattr(jumping, "SECONDS_A_PACKET", 0.01)
    with pytest.raises(TimeoutError):
        async with patience.at_most(1):
            await link.arrive()
    broken_off = await position()
    monkeypatch.setattr(jumping, "SECONDS_A_PACKET", 60)
    async with patience.at_most(1):
        await link.arrive()

    assert broken_off == (1, "gap")
    assert (await position())[1] == ""
    assert len(await events("jumped")) == 1


async def test_a_gap_is_first_left_to_the_files_written_again(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    await lose(link, 2)
    await snapshot(link)

    await link.arrive()
    await link.arrive()

    assert (await position())[1] == "gap"
    assert list(await link.copied()) == names(1)


async def test_rows_that_vanished_are_named_and_stay(link: Link) -> None:
    await link.put(1, 2, 3)
    await link.exchange()
    await query("delete from gate_sent_row where key = 'F000002'")
    await lose(link, 4)
    await link.send(5)
    await link.arrive()
    link.later(200)

    await snapshot(link)
    await link.arrive()

    assert [(one.kind, one.keys) for one in link.findings if one.keys] == [("phantom", ["F000002"])]
    kept = await query("select state from copied_bill where source_id = 'F000002'")
    assert kept == [{"state": "withdrawn"}]
    assert await proofs() == [("fee_bill", True, [])]


async def test_a_receiver_that_lost_everything_begins_again_at_a_snapshot(link: Link) -> None:
    await link.put(*range(1, 30))
    await link.exchange()
    await query("delete from gate_outgoing_packet")
    await query("truncate copied_bill, gate_incoming_stream, gate_incoming_file")
    await snapshot(link)
    await link.arrive()
    link.later(200)

    await link.arrive()

    assert list(await link.copied()) == names(*range(1, 30))
    assert (await position())[1] == ""


async def stuck_before_a_snapshot(link: Link) -> None:
    """Rows 6-10 are lost; a whole snapshot lies in `incoming/`, seqs 3-6."""
    await link.put(*range(1, 6))
    await link.exchange()
    await lose(link, *range(6, 11))
    await link.put(*range(11, 31))
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await link.pack(max_rows=20)
    link.carry()
    await link.arrive()
    link.later(200)


@pytest.mark.parametrize("seq", [3, 4, 5, 6, 7])
async def test_a_snapshot_with_a_missing_packet_is_none(link: Link, seq: int) -> None:
    await stuck_before_a_snapshot(link)
    assert link.incoming_file(seq).exists()
    link.incoming_file(seq).unlink()

    await link.arrive()

    began = (await query("select first_seq from gate_snapshot"))[0]["first_seq"]
    jumped = await events("jumped")
    assert bool(jumped) == (seq < began)
    assert list(await link.copied()) == names(*range(1, 31 if jumped else 6))


@pytest.mark.parametrize("seq", [4, 5, 6, 7])
@pytest.mark.parametrize("harm", ["flipped", "foreign seal"])
async def test_a_snapshot_with_a_damaged_or_forged_packet_is_none(
    link: Link, seq: int, harm: str
) -> None:
    await stuck_before_a_snapshot(link)
    path = link.incoming_file(seq)
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[-10] ^= 1
    else:
        head = packets.read_head(bytes(data))
        forged = packets.build(
            stream=STREAM, seq=seq, previous=head.manifest.previous,
            lines=[packets.line("fee_bill", rows.encode_row("fee_bill", bill(666)))],
            watermark=head.manifest.watermark, created_at=head.manifest.created_at,
            key=keys.load_seal_key(keys.make_key()[0]),
        )  # fmt: skip
        data = bytearray(forged.manifest + b"\n" + forged.body)
    path.write_bytes(data)

    await link.arrive()

    assert await events("jumped") == []
    assert list(await link.copied()) == names(*range(1, 6))
    assert await position() == (1, "gap")


async def test_a_good_copy_of_a_damaged_packet_counts_whatever_its_mtime_says(link: Link) -> None:
    await stuck_before_a_snapshot(link)
    path = link.incoming_file(5)
    good = path.read_bytes()
    path.write_bytes(good[:-10] + bytes([good[-10] ^ 1]) + good[-9:])
    os.utime(path, (1e9, 1e9))
    await link.arrive()
    stood = await position()
    again = link.root / "copied"
    again.write_bytes(good)
    os.utime(again, (1e9, 1e9))
    again.replace(path)

    await link.arrive()

    assert stood == (1, "gap")
    assert len(await events("jumped")) == 1
    assert list(await link.copied()) == names(*range(1, 31))


def write(link: Link, seq: int, previous: str, lines: list[bytes]) -> str:
    built = packets.build(
        stream=STREAM, seq=seq, previous=previous, lines=lines, watermark=link.now,
        created_at=link.now, key=keys.load_seal_key(PRIVATE),
    )  # fmt: skip
    link.incoming.mkdir(parents=True, exist_ok=True)
    link.incoming_file(seq).write_bytes(built.manifest + b"\n" + built.body)
    return built.digest


def mark(snapshot_id: str, phase: str, link: Link, topics: Sequence[Any] = ()) -> bytes:
    row = rows.SnapshotRow(
        snapshot_id=snapshot_id, phase=phase, as_of=link.now, topics=list(topics)
    )
    return packets.line("snapshot", rows.encode_row("snapshot", row))


def a_line(number: int) -> bytes:
    return packets.line("fee_bill", rows.encode_row("fee_bill", bill(number)))


async def test_interleaved_or_unfinished_snapshots_are_none(link: Link) -> None:
    digest = write(link, 5, "1" * 64, [mark("a", "begin", link), a_line(1)])
    digest = write(link, 6, digest, [mark("b", "begin", link), a_line(2)])
    digest = write(link, 7, digest, [mark("a", "end", link)])
    digest = write(link, 8, digest, [mark("b", "end", link)])
    write(link, 9, digest, [mark("c", "begin", link)])
    await link.arrive()
    link.later(200)

    await link.arrive()

    assert await events("jumped") == []
    assert await link.copied() == {}
    assert await position() == (0, "gap")


async def test_a_break_in_the_chain_makes_two_halves_of_no_snapshot(link: Link) -> None:
    write(link, 5, "1" * 64, [mark("a", "begin", link), a_line(1)])
    write(link, 6, "2" * 64, [mark("a", "end", link)])
    await link.arrive()
    link.later(200)

    await link.arrive()

    assert await link.copied() == {}
    assert await position() == (0, "gap")


@pytest.mark.parametrize("rows_said", [1, 3])
async def test_a_snapshot_that_is_not_what_its_end_says_is_refused_once(
    link: Link, rows_said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rows.TopicRoot(topic="fee_bill", source="jc-center", rows=rows_said, root="0" * 64)
    digest = write(link, 5, "1" * 64, [mark("a", "begin", link), a_line(1), a_line(2)])
    write(link, 6, digest, [mark("a", "end", link, [root])])
    await link.arrive()
    link.later(200)

    await link.arrive()
    await link.arrive()

    assert [row["distinction"] for row in await events("jump_refused")] == ["a"]
    assert await link.copied() == {}
    assert await position() == (0, "gap")


@pytest.mark.parametrize("point", ["_record", "_seal"])
async def test_a_crash_while_a_snapshot_leaves_goes_on_where_it_was(
    link: Link, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    await link.put(*range(1, 36))
    await link.exchange()
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    original = getattr(sending, point)
    for survives in range(6):
        left = survives

        async def dies_later(*values: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return await original(*values, **named)

        with monkeypatch.context() as patch:
            patch.setattr(sending, point, dies_later)
            with contextlib.suppress(Crash):
                await link.pack()
    await link.pack()
    link.carry()
    await link.arrive()

    assert (await query("select state, rows from gate_snapshot")) == [{"state": "done", "rows": 35}]
    assert await proofs() == [("fee_bill", True, [])]
    assert link.handed_over == 70


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (jumping.Jump, "_stage_packets"),
        (jumping.Jump, "_name_vanished"),
        (positions, "record_applied"),
    ],
)
async def test_a_crash_while_jumping_leaves_everything_as_it_was(
    link: Link, monkeypatch: pytest.MonkeyPatch, where: Any, what: str
) -> None:
    await stuck_before_a_snapshot(link)
    with monkeypatch.context() as patch:
        patch.setattr(where, what, crash)
        with pytest.raises(Crash):
            await link.arrive()
    between = (await position(), list(await link.copied()))

    await link.arrive()

    assert between == ((1, "gap"), names(*range(1, 6)))
    assert list(await link.copied()) == names(*range(1, 31))
    assert (await position())[1] == ""
    assert len(await events("jumped")) == 1


async def test_a_crash_behind_the_commit_of_a_jump_repeats_nothing(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stuck_before_a_snapshot(link)
    with monkeypatch.context() as patch:
        patch.setattr("estation.outside.gate.folders.remove", crash)
        with pytest.raises(Crash):
            await link.arrive()
    handed_over = link.handed_over

    report = await link.arrive()

    assert link.handed_over == handed_over
    assert report.duplicates > 0
    assert list(link.incoming.iterdir()) == []
    assert len(await events("jumped")) == 1


async def test_a_handler_that_fails_at_the_moment_is_asked_again(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stuck_before_a_snapshot(link)
    with monkeypatch.context() as patch:

        async def fails(*_: object) -> None:
            raise RuntimeError("not now")

        patch.setattr(Link, "merge", fails)
        await link.arrive()
    stopped = await position()
    link.later(120)

    await link.arrive()

    assert stopped == (1, "handler_failed")
    assert list(await link.copied()) == names(*range(1, 31))


def fail_at(monkeypatch: pytest.MonkeyPatch, key: str, version: int) -> None:
    """This one version is never stored here, for a reason that is none of its values'."""
    original = Link.merge

    async def fails(self: Link, given: Sequence[Any], arrival: Any) -> None:
        if any((row.source_id, row.version) == (key, version) for row in given):
            raise ConnectionError("not now")
        await original(self, given, arrival)

    monkeypatch.setattr(Link, "merge", fails)


async def before_a_packet_that_cannot_be_stored(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bill 6 cannot be stored in version 1 (seq 2); behind it a snapshot with version 2."""
    await link.put(*range(1, 6))
    await link.exchange()
    fail_at(monkeypatch, "F000006", 1)
    await link.send(6)
    await sending.put_rows(STREAM, "fee_bill", [bill(6, version=2)], now=link.now)
    await link.pack()
    await snapshot(link)


async def test_what_our_own_side_cannot_store_for_minutes_is_jumped_over(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await before_a_packet_that_cannot_be_stored(link, monkeypatch)
    stood = []
    for _ in range(receiving.TRIES_BEFORE_JUMP - 1):
        await link.arrive()
        stood.append(await position())
        link.later(60)

    await link.arrive()
    after = await link.arrive()

    assert stood == [(1, "handler_failed")] * (receiving.TRIES_BEFORE_JUMP - 1)
    assert (await position())[1] == ""
    versions = {key: version for key, (version, _) in (await link.copied()).items()}
    assert versions == {**dict.fromkeys(names(*range(1, 6)), 1), "F000006": 2}
    jumped = msgspec.json.decode((await events("jumped"))[0]["detail"])
    assert (jumped["skipped"], jumped["why"]) == ({"first": 2, "last": 3}, "handler_failed")
    assert after.quarantined == []
    assert list(link.incoming.iterdir()) == []


async def test_what_our_own_side_cannot_store_is_tried_with_growing_pauses(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.put(1)
    await link.exchange()
    tries = 0

    async def fails(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise ConnectionError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(Link, "merge", fails)
        await link.send(2)
        began = link.now
        while (link.now - began).total_seconds() < 600:
            await link.arrive()
            link.later(1)
    link.later(60)
    await link.arrive()

    assert 6 + 600 // 60 - 2 <= tries <= 6 + 600 // 60 + 1  # 1, 2, 4 … 32 s, then each minute
    assert list(await link.copied()) == names(1, 2)
    assert await position() == (2, "")


async def test_a_jump_that_fails_here_too_changes_nothing_and_waits(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await before_a_packet_that_cannot_be_stored(link, monkeypatch)
    with monkeypatch.context() as patch:
        fail_at(patch, "F000006", 2)
        for _ in range(10):
            await link.arrive()
            link.later(60)
        stood = await position(), list(await link.copied()), await events("jump_refused")
    await link.arrive()

    assert stood == ((1, "handler_failed"), names(*range(1, 6)), [])
    assert list(await link.copied()) == names(*range(1, 7))


async def test_a_fork_is_never_jumped_over(link: Link) -> None:
    await stuck_before_a_snapshot(link)
    await query("update gate_incoming_stream set stopped_reason = 'fork'")

    await link.arrive()

    assert await position() == (1, "fork")
    assert list(await link.copied()) == names(*range(1, 6))


async def test_rows_nobody_handles_are_parked_once_however_often_they_come(link: Link) -> None:
    await link.put(1, 2)
    await link.pack()
    link.carry()
    for _ in range(2):
        await link.receive_without_handlers()
        await snapshot(link)
    await link.receive_without_handlers()

    parked = await query("select topic from gate_parked_row")
    assert len(parked) == 2


async def test_a_planned_snapshot_is_planned_once(link: Link) -> None:
    await link.put(1)
    await link.exchange()

    planned = [await snapshots.plan(STREAM, Why.asked, now=link.now) for _ in range(3)]

    assert planned == [True, False, False]


PROGRAM = """
import asyncio, os, pathlib, signal, sys
from tortoise import Tortoise
from estation import settings
from estation.outside.gate import jumping, keys, positions, receiving, sending, snapshots
from estation.shared.clock import system_clock
from datetime import timedelta

url, root, point, private, public = sys.argv[1:]
root = pathlib.Path(root)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

count = 0
def die_at(original, number):
    async def dies(*values, **named):
        global count
        count += 1
        if count == number:
            die()
        return await original(*values, **named)
    return dies

async def handler(rows, arrival):
    from tests.outside.gate_side import query
    from tests.outside.gate_link import MERGE
    for row, sent in zip(rows, arrival.as_sent(rows)):
        await query(MERGE, row.source, row.source_id, row.version, row.region,
                    arrival.watermark, sent.digest, row.total_fen, row.state, arrival.repairs)
    if point == "in the handler":
        die()

async def main():
    await Tortoise.init(config=settings.database(url), _enable_global_fallback=True)
    snapshots.PIECE_ROWS = 10
    if point == "in the second piece":
        sending._record = die_at(sending._record, 2)
    elif point == "before the end":
        snapshots.end = die
    elif point == "at the last position":
        positions.record_applied = die_at(positions.record_applied, 3)
    await sending.pack_waiting(
        "jc-center-online", folder=root / "inner/outgoing",
        key=keys.load_seal_key(private.encode()), now=system_clock())
    from estation.outside.gate import device
    device.move_once(root / "inner/outgoing", root / "online/incoming")
    for late in (0, 300):
        await receiving.apply_incoming(
            "jc-center-online", folder=root / "online/incoming",
            peer_key=keys.load_peer_key(public.encode()), handlers={"fee_bill": handler},
            now=system_clock() + timedelta(seconds=late))
    await Tortoise.close_connections()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "point", ["in the second piece", "before the end", "in the handler", "at the last position"]
)
async def test_kill_9_while_a_snapshot_leaves_or_is_jumped_to_loses_nothing(
    link: Link, database: str, point: str
) -> None:
    await link.put(*range(1, 6))
    await link.exchange()
    await lose(link, *range(6, 31))
    await snapshots.plan(STREAM, Why.asked, now=link.now)

    killed = await _run(database, link, point)
    finished = await _run(database, link, "nowhere")

    assert (killed, finished) == (-9, 0)
    assert list(await link.copied()) == names(*range(1, 31))
    assert (await position())[1] == ""
    assert len(await events("jumped")) == 1


async def _run(database: str, link: Link, point: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        database,
        str(link.root),
        point,
        PRIVATE.decode(),
        PUBLIC.decode(),
        env={"PYTHONPATH": f"{BACKEND}:{BACKEND.parent}"},
    )
    return await asyncio.wait_for(process.wait(), 60)


async def test_a_packet_damaged_now_here_now_there_is_jumped_over_like_a_missing_one(
    link: Link,
) -> None:
    await link.put(*range(1, 6))
    await link.exchange()
    await link.put(6)
    (lost,) = await link.pack()
    link.outgoing_file(lost).unlink()
    await query("delete from gate_outgoing_packet where seq = $1", lost)
    await link.send(7)
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await link.pack()
    link.carry()

    for turn in range(6):  # three minutes: another damage each half a minute
        damaged = [b"no manifest", b'{"format":"estation-gate","version":2}\n'][turn % 2]
        link.incoming_file(lost).write_bytes(damaged + str(turn).encode())
        await link.arrive()
        link.later(30)

    assert (await position())[0] > lost
    assert list(await link.copied()) == names(*range(1, 8))


@pytest.mark.parametrize("keeps", ["its packets", "no packet"])
async def test_a_sender_that_came_back_from_a_backup_begins_again_when_a_person_says_so(
    link: Link, keeps: str
) -> None:
    """What it sent since then is of another history, and going on from there never ends."""
    await link.put(1, 2, 3)
    await link.exchange()
    await _sends_more_and_comes_back_from_a_backup(link)
    await link.put(6)
    await link.exchange()
    forked = await position()
    await receiving.resume(STREAM)
    await link.look_after()
    await link.put(7)
    await link.exchange()
    resumed = await position()

    await receiving.begin_anew(STREAM)
    if keeps == "no packet":
        await query("delete from gate_outgoing_packet where seq < 3")
    for _ in range(8):
        await link.look_after()
        await link.exchange()
        link.later(60)

    assert (forked, resumed) == ((2, "fork"), (2, "fork"))
    assert (await position())[1] == ""
    assert list(await link.copied()) == names(1, 2, 3, 6, 7)
    assert (await link.copied())["F000003"] == (1, 103)
    assert (await proofs())[-1] == ("fee_bill", True, [])
    phantoms = [one.keys for one in link.findings if one.kind == "phantom"]
    assert phantoms == [names(4, 5)]


async def _sends_more_and_comes_back_from_a_backup(link: Link) -> None:
    """Of what it sent last, bills 4 and 5 and the third one's next version, it knows nothing."""
    tables = ("gate_outgoing_stream", "gate_outgoing_packet", "gate_sent_row", "gate_upkeep")
    for table in tables:
        await query(f"create table backup_{table} as table {table}")
    newer = [bill(3, version=2), bill(4), bill(5)]
    await sending.put_rows(STREAM, "fee_bill", newer, now=link.now)
    await link.exchange()
    assert list(await link.copied()) == names(1, 2, 3, 4, 5)
    for table in tables:
        await query(f"delete from {table} where stream = $1", STREAM)
        await query(f"insert into {table} select * from backup_{table} where stream = $1", STREAM)
        await query(f"drop table backup_{table}")
