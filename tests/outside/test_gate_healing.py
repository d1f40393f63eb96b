"""Lost files come again unasked, and neither side's disk or memory of packets fills up."""

import asyncio
import errno
import itertools
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Struct

from estation.outside.gate import (
    bounds,
    folders,
    keys,
    patience,
    resending,
    rounds,
    rows,
    sending,
    snapshots,
    status,
)
from estation.outside.gate import format as packets
from estation.outside.gate.bounds import Bounds
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.peers import Peer
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.snapshots import Why
from estation.shared.turns import TurnsFailed
from tests.outside.gate_link import Link, events, make_link, proofs
from tests.outside.gate_peers import Gate
from tests.outside.gate_side import BACK, PRIVATE, STREAM, Sides, bill, names, position, query


@pytest.fixture
async def link(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    return await make_link(tmp_path, monkeypatch)


@pytest.fixture
async def gate(database: str, tmp_path: Path) -> Gate:
    made = Gate(tmp_path)
    made.make_keys()
    await made.keep_first(made.now)
    return made


async def out() -> status.StreamStatus:
    return next(one for one in await status.stream_status() if one.stream == STREAM)


async def test_a_lost_file_is_written_again_without_anybody_asking(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    await link.put(2)
    await link.pack()
    link.outgoing_file(2).unlink()
    await link.send(3)
    await link.arrive()
    link.later(15)
    too_early = await link.look_after()
    link.later(10)

    written = await link.look_after()
    link.carry()
    await link.arrive()

    assert too_early == []
    assert written == [2, 3]
    assert list(await link.copied()) == names(1, 2, 3)
    assert await position() == (3, "")
    assert await events("jumped") == []


async def test_the_pauses_grow_while_the_peer_does_not_move_and_end_when_it_does(
    link: Link,
) -> None:
    await link.put(1)
    await link.pack()
    link.outgoing_file(1).unlink()
    moments = []
    for second in range(0, 1500, 10):
        if await link.look_after():
            moments.append(second)
            link.outgoing_file(1).unlink()
        link.later(10)
    pauses = [after - before for before, after in itertools.pairwise(moments)]

    await sending.write_again(STREAM, folder=link.outgoing, first=1, last=1)
    link.carry()
    await link.arrive()
    await link.answer()
    moved = (await query("select peer_seq from gate_upkeep where stream = $1", STREAM))[0]
    link.later(60)
    after = await link.look_after()

    assert pauses[:5] == [20, 40, 80, 160, 320]
    assert max(pauses) <= 600
    assert moved == {"peer_seq": 1}
    assert after == []


async def test_a_lost_heartbeat_comes_again_because_the_peer_says_it_waits(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    await link.pack(heartbeat=True)
    link.outgoing_file(2).unlink()
    await link.pack(heartbeat=True)
    link.carry()
    await link.arrive()
    for _ in range(3):
        link.later(25)
        await link.arrive()
        await link.answer()

    written = await link.look_after()
    link.carry()
    await link.arrive()

    assert written == [2, 3]
    assert await position() == (3, "")


async def test_heartbeats_alone_are_not_written_again_and_do_not_pile_up(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    for _ in range(100):
        await link.pack(heartbeat=True)
        link.carry()
        await link.arrive()
        await link.answer()
        link.later(10)
        written = await link.look_after()
        assert written == []

    assert (await out()).peer_received_seq >= 61


async def test_the_newest_packets_are_written_again_blindly_now_and_then(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resending, "BLIND_PACKETS", 3)
    for number in range(1, 6):
        await link.put(number)
        await link.exchange()
    first = await link.look_after()
    link.later(29 * 60)
    early = await link.look_after()
    link.later(60)

    written = await link.look_after()

    assert (first, early, written) == ([], [], [3, 4, 5])


async def test_files_the_device_has_not_taken_are_not_written_twice(link: Link) -> None:
    await link.put(1)
    await link.pack()
    link.later(60)
    before = link.outgoing_file(1).stat().st_mtime_ns

    written = await link.look_after()

    assert written == []
    assert link.outgoing_file(1).stat().st_mtime_ns == before


async def test_one_window_is_bounded_in_packets_and_bytes(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.put(*range(1, 13))
    await link.pack(max_rows=1)
    for path in link.outgoing.iterdir():
        path.unlink()
    link.later(60)
    monkeypatch.setattr(resending, "WINDOW_PACKETS", 4)
    few = await link.look_after()
    link.later(60)
    monkeypatch.setattr(resending, "WINDOW_BYTES", 1)
    for path in link.outgoing.iterdir():
        path.unlink()
    one = await link.look_after()

    assert (few, one) == ([1, 2, 3, 4], [1])


async def test_a_peer_that_lost_its_memory_gets_a_snapshot(link: Link) -> None:
    """It stands at 1 again; of what follows the sender keeps nothing any more."""
    for number in range(1, 8):
        await link.put(number)
        await link.exchange()
    digest = (await query("select digest from gate_incoming_file where seq = 1"))[0]["digest"]
    await query("update gate_incoming_stream set last_seq = 1, last_digest = $1,"
                " content_seq = 1, reported_seq = 1 where stream = $2", digest, STREAM)  # fmt: skip
    await query("delete from gate_incoming_file where stream = $1 and seq > 1", STREAM)
    await query("delete from copied_bill where source_id > 'F000001'")
    await sending.trim_sent(STREAM, keep=1)
    await query("delete from gate_outgoing_packet where stream = $1 and seq < 7", STREAM)

    for _ in range(20):
        link.later(30)
        await link.look_after()
        await link.exchange()

    planned = await query("select why, state from gate_snapshot")
    assert planned == [{"why": "beyond_kept", "state": "done"}]
    assert list(await link.copied()) == names(*range(1, 8))
    assert (await proofs())[-1] == ("fee_bill", True, [])
    assert len(await events("jumped")) == 1


async def test_a_file_that_never_passes_is_jumped_over_after_an_hour(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    await link.put(2)
    await link.pack()
    bad = link.outgoing_file(2).name
    for _ in range(60):
        (link.outgoing / bad).unlink(missing_ok=True)
        await link.look_after()
        (link.outgoing / bad).unlink(missing_ok=True)
        await link.pack()
        link.carry()
        await link.arrive()
        await link.answer()
        link.later(120)

    assert [row["why"] for row in await query("select why from gate_snapshot")] == ["stuck"]
    assert list(await link.copied()) == names(1, 2)


async def test_a_packet_lost_of_the_snapshot_a_peer_waits_for_comes_again(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then it lies far beyond the window, and many heartbeats behind the newest packets."""
    monkeypatch.setattr(resending, "WINDOW_PACKETS", 20)
    monkeypatch.setattr(resending, "BLIND_PACKETS", 5)
    await link.put(1)
    await link.exchange()
    await link.put(2)
    await link.pack()
    bad = link.outgoing_file(2).name
    lost: list[Path] = []
    for _ in range(90):
        await link.look_after()
        await link.pack()
        (link.outgoing / bad).unlink(missing_ok=True)
        run = await query("select first_seq from gate_snapshot where state = 'done'")
        if run and not lost:
            lost.append(link.outgoing_file(run[0]["first_seq"]))
            lost[0].unlink()
        link.carry()
        await link.arrive()
        await link.answer()
        link.later(60)

    assert lost
    assert list(await link.copied()) == names(1, 2)
    assert len(await events("jumped")) == 1
    assert len(await query("select 1 from gate_snapshot")) == 1


async def test_of_a_long_snapshot_another_part_comes_again_each_time(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resending, "WINDOW_PACKETS", 2)
    monkeypatch.setattr(snapshots, "PIECE_ROWS", 1)
    await link.put(*range(1, 7))
    await link.pack()
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await link.pack()
    run = (await query("select first_seq, last_seq from gate_snapshot"))[0]
    await query("update gate_upkeep set peer_is_behind = true, peer_since = $1", link.now)
    parts = []
    for _ in range(40):
        for path in link.outgoing.iterdir():
            path.unlink()
        link.later(660)
        parts.append(await link.look_after())

    assert {seq for part in parts for seq in part} >= set(
        range(run["first_seq"], run["last_seq"] + 1)
    )
    assert run["last_seq"] - run["first_seq"] > 5
    assert max(map(len, parts)) <= 4 + resending.BLIND_PACKETS


async def test_a_sender_without_confirmation_stops_at_its_bound_and_says_why(link: Link) -> None:
    few = Bounds(packets=3, disk_reserve=0)
    await link.put(*range(1, 9))
    packed = await link.pack(max_rows=1, bounds=few)
    again = await link.pack(max_rows=1, bounds=few, heartbeat=True)
    stopped = await out()

    for seq in packed:
        assert link.outgoing_file(seq).exists()
    link.carry()
    for _ in range(6):
        await link.arrive()
        await link.answer()
        await link.pack(max_rows=1, bounds=few)
        link.carry()
        link.later(10)

    assert packed == [1, 2, 3]
    assert again == [4]
    assert (stopped.paused_reason, stopped.waiting_rows) == ("unconfirmed", 5)
    assert not stopped.healthy
    assert stopped.watermark is not None
    assert stopped.watermark <= (stopped.waiting_since or stopped.watermark)
    assert list(await link.copied()) == names(*range(1, 9))
    assert (await out()).paused_reason == ""


async def test_bytes_are_bounded_like_packets(link: Link) -> None:
    await link.put(*range(1, 5))

    packed = await link.pack(max_rows=1, bounds=Bounds(size=1, disk_reserve=0))

    assert packed == [1]


async def test_two_sides_at_their_bounds_still_tell_each_other_what_came(link: Link) -> None:
    none = Bounds(packets=1, disk_reserve=0)
    await link.put(1, 2)
    await sending.put_rows(BACK, "fee_bill", [], now=link.now)
    await link.pack(max_rows=1, bounds=none)
    await query("update gate_outgoing_row set created_at = created_at")
    await sending.put_rows(
        STREAM, "received_up_to",
        [sending.rows.ReceivedUpToRow(stream=BACK, seq=1, digest="0" * 64, at=link.now)],
        now=link.now,
    )  # fmt: skip

    packed = await link.pack(bounds=none)

    left = await query("select topic from gate_outgoing_row where packed_seq is null")
    assert packed == [2]
    assert left == [{"topic": "fee_bill"}]


class Picky:
    """The receiver refuses the first version of bill 2."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def merge(self, rows: Sequence[Struct], arrival: Arrival) -> None:
        if any((row.source_id, row.version) == ("F000002", 1) for row in rows):  # type: ignore[attr-defined]
            raise RowRefused("no")
        await self.link.merge(rows, arrival)

    async def turn(self, bounds: Bounds, *, seconds: float) -> None:
        link = self.link
        await link.pack(heartbeat_after=timedelta(days=1), bounds=bounds)
        link.carry()
        await link.receive(self.merge, reply_stream=BACK, alarm=link.alarm)
        await link.answer()
        await link.look_after(bounds=bounds)
        link.carry()
        link.later(seconds)


async def test_a_correction_reaches_a_receiver_that_waits_for_it_beyond_the_bound(
    link: Link,
) -> None:
    tight, picky = Bounds(packets=2, disk_reserve=0), Picky(link)
    for number in (1, 2, 3):
        await link.put(number)
        await picky.turn(tight, seconds=30)
    for _ in range(3):  # a snapshot with the wrong row in it goes by in vain
        await link.put(4)
        await picky.turn(tight, seconds=600)
    stopped = await position()
    await sending.put_rows(STREAM, "fee_bill", [bill(2, version=2)], now=link.now)
    link.later(24 * 3600)

    for _ in range(10):
        await picky.turn(tight, seconds=60)

    assert stopped == (1, "bad_row")
    assert (await link.copied())["F000002"][0] == 2
    assert (await position())[1] == ""


async def test_a_silent_peer_gets_a_few_snapshots_beyond_the_bound_and_no_more(link: Link) -> None:
    tight = Bounds(packets=2, disk_reserve=0)
    for number in range(1, 30):
        await link.put(number)
        await link.pack(bounds=tight)
        await link.look_after(bounds=tight)
        link.later(24 * 3600)

    beyond = await query("select why from gate_snapshot where state = 'done' and first_seq > 2")
    waiting = await query("select 1 from gate_outgoing_row where packed_seq is null")
    assert len(beyond) == bounds.SNAPSHOTS_BEYOND
    assert len(waiting) > 20


async def test_clocks_that_were_a_year_ahead_hold_nothing_up_once_they_are_right(
    link: Link,
) -> None:
    year = 365 * 24 * 3600
    await link.put(1)
    await link.exchange()
    await link.look_after()
    link.later(year)
    await link.put(2)
    for _ in range(3):
        await link.look_after()
        await link.exchange()
        link.later(3 * 3600)
    await link.look_after()
    await link.put(3)
    await link.pack()
    link.outgoing_file((await out()).seq).unlink()
    await link.pack(heartbeat=True)
    link.carry()
    await link.arrive()
    wrong = (await out()).next_snapshot_at
    link.later(-year)

    for _ in range(12):
        await link.look_after()
        await link.pack()
        link.carry()
        await link.arrive()
        await link.answer()
        link.later(15)
    standing = await out()
    link.later(3600)
    await link.look_after()
    await link.exchange()

    assert wrong is not None
    assert wrong > link.now
    assert list(await link.copied()) == names(1, 2, 3)
    assert await events("jumped") == []
    assert standing.last_at is not None
    assert standing.last_at <= link.now
    assert standing.watermark is not None
    assert standing.watermark <= link.now
    assert standing.next_snapshot_at is not None
    assert standing.next_snapshot_at <= link.now + timedelta(days=1)
    newest = (await query("select at, is_equal from gate_proof order by seq desc limit 1"))[0]
    assert newest["is_equal"]
    assert newest["at"] <= link.now


class Disk:
    """Free bytes as the test says, and no writing when there are none."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.free = 10**9
        self.folder = folder
        original = bounds.free_bytes
        patch.setattr(
            bounds, "free_bytes",
            lambda asked: self.free if str(asked).startswith(str(folder)) else original(asked),
        )  # fmt: skip


async def test_a_nearly_full_disk_pauses_packing_before_it_is_full(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, link.outgoing.parent)
    await link.put(1)
    disk.free = 1000
    packed = await link.pack()
    resent = await link.look_after()
    paused = await out_or_upkeep()

    disk.free = 10**9
    await link.pack()
    link.carry()
    await link.arrive()

    assert (packed, resent) == ([], [])
    assert paused == "disk_low"
    assert await out_or_upkeep() == ""
    assert list(await link.copied()) == names(1)


async def test_no_space_while_writing_is_said_and_over_when_there_is_some(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await link.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            await link.pack()
    paused = await out_or_upkeep()

    await link.put(2)
    await link.pack()
    link.carry()
    await link.arrive()

    assert paused == "disk_low"
    assert await out_or_upkeep() == ""
    assert list(await link.copied()) == names(1, 2)


async def out_or_upkeep() -> str:
    rows = await query("select paused_reason from gate_upkeep where stream = $1", STREAM)
    return str(rows[0]["paused_reason"])


async def test_a_receiver_short_of_space_gives_up_what_can_be_had_again_and_applies_on(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.put(*range(1, 41))
    await link.pack(max_rows=1)
    link.carry()
    await link.pack(max_rows=1)
    link.carry()
    link.incoming_file(3).unlink()
    (link.incoming / "junk").write_bytes(b"x")
    await link.arrive()
    assert len(list(link.quarantine.iterdir())) == 1

    monkeypatch.setattr(bounds, "free_bytes", lambda _: 0)
    await link.arrive(disk_reserve=1)
    monkeypatch.undo()

    kept = sorted(path.name for path in link.incoming.iterdir())
    assert list(link.quarantine.iterdir()) == []
    assert len(kept) == 10
    assert kept[0] == link.incoming_file(4).name
    assert (await events("disk_low"))[0]["first_seq"] == 14


@pytest.mark.parametrize("call", ["rename", "unlink"])
async def test_a_full_disk_at_the_receiver_is_raised_and_over_by_itself(
    link: Link, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await link.put(1)
    await link.pack()
    good = link.outgoing_file(1).read_bytes()
    link.carry()
    link.incoming_file(1).write_bytes(good[:-1] if call == "rename" else good)
    target = folders.os if call == "rename" else Path
    with monkeypatch.context() as patch:
        patch.setattr(target, call, full)
        with pytest.raises(OSError, match="No space"):
            await link.arrive()
    between = await position()

    if call == "rename":
        await link.arrive()
        link.incoming_file(1).write_bytes(good)
    await link.put(2)
    await link.pack()
    link.carry()
    await link.arrive()

    assert between == ((0, "truncated") if call == "rename" else (1, ""))
    assert list(await link.copied()) == names(1, 2)
    assert link.handed_over == 2
    assert await position() == (2, "")
    kept = list(link.quarantine.iterdir()) if link.quarantine.exists() else []
    assert [path.read_bytes() for path in kept] == ([good[:-1]] if call == "rename" else [])


async def test_a_database_without_space_is_tried_again_and_loses_nothing(link: Link) -> None:
    async def full(rows: Any, arrival: Any) -> None:
        raise asyncpg.DiskFullError("could not extend file")

    await link.send(1)
    await link.receive(full)
    stopped = await position()
    link.later(3)

    await link.arrive()

    assert stopped == (0, "handler_failed")
    assert list(await link.copied()) == names(1)
    assert await position() == (1, "")


async def test_what_was_given_up_for_space_comes_again(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.put(*range(1, 31))
    await link.pack(max_rows=1)
    await link.pack(max_rows=1)
    link.carry()
    link.incoming_file(1).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(bounds, "free_bytes", lambda _: 0)
        await link.arrive(disk_reserve=1)

    for _ in range(8):
        link.later(61)
        await link.look_after()
        link.carry()
        await link.arrive()
        await link.answer()

    assert list(await link.copied()) == names(*range(1, 31))
    assert await events("jumped") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
async def test_a_disk_that_is_really_full_loses_nothing(database: str, tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "inner"
    small.mkdir()
    made = subprocess.run(  # noqa: ASYNC221
        ["/bin/mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        sides = Sides(tmp_path)
        sides.outgoing.mkdir()
        (sides.outgoing.parent / "ballast").write_bytes(os.urandom(255 * 1024))
        await sides.put(*range(1, 400))
        few = Bounds(disk_reserve=0)
        with pytest.raises(OSError, match="No space"):
            await sides.pack(bounds=few)
        paused = await out_or_upkeep()
        (sides.outgoing.parent / "ballast").unlink()

        await sides.pack(bounds=few)
        sides.carry()
        await sides.receive()
    finally:
        subprocess.run(["/bin/umount", str(small)], check=False)  # noqa: ASYNC221

    assert paused == "disk_low"
    assert sides.seen == names(*range(1, 400))


async def test_a_pause_set_by_a_clock_that_was_ahead_holds_no_peer_up(gate: Gate) -> None:
    calls: list[datetime] = []

    async def work(peer: Peer, now: datetime) -> None:
        calls.append(now)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space")

    turns = rounds.Rounds(prepare=gate.keep_first, pack=work, receive=work)
    await turns.receive(gate.now + timedelta(days=365))

    await turns.receive(gate.now)

    assert calls == [gate.now + timedelta(days=365), gate.now]


async def test_a_turn_that_hangs_is_broken_off_unless_its_work_is_known_to_be_large(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def hang(peer: Peer, now: datetime) -> None:
        await asyncio.sleep(0.3)
        done.append("hung")

    async def work(peer: Peer, now: datetime) -> None:
        patience.allow(60)
        await asyncio.sleep(0.3)
        done.append("large")

    monkeypatch.setattr(rounds, "TURN_SECONDS", 0.1)
    turns = rounds.Rounds(prepare=gate.keep_first, pack=hang, receive=work)
    await turns.pack(gate.now)
    await turns.receive(gate.now)
    with pytest.raises(TurnsFailed):
        await turns.finish()

    assert done == ["large"]
    patience.allow(60)  # outside of a turn it says nothing


async def test_the_pause_after_a_failure_is_kept(gate: Gate) -> None:
    calls: list[datetime] = []

    async def work(peer: Peer, now: datetime) -> None:
        calls.append(now)
        raise OSError(errno.ENOSPC, "No space")

    turns = rounds.Rounds(prepare=gate.keep_first, pack=work, receive=work)
    for seconds in (0, 1, 2):
        await turns.receive(gate.now + timedelta(seconds=seconds))

    assert len(calls) == 2


@pytest.mark.parametrize("ahead", ["planned_at", "peer_since"])
async def test_moments_of_a_wrong_clock_do_not_put_off_the_snapshot_a_peer_needs(
    link: Link, ahead: str
) -> None:
    year = link.now + timedelta(days=365)
    await link.put(1)
    await link.exchange()
    await link.look_after()
    if ahead == "planned_at":
        await snapshots.plan(STREAM, Why.asked, now=year)
        await link.pack()
    await query(
        "update gate_upkeep set peer_seq = 1, peer_is_behind = true, peer_since = $1",
        year if ahead == "peer_since" else link.now,
    )
    link.later(3 * 3600)

    await link.look_after()
    await link.look_after()

    planned = await query("select why from gate_snapshot where planned_at <= $1", link.now)
    assert planned == [{"why": "stuck"}]


async def test_what_a_peer_says_is_dated_by_our_own_clock(link: Link) -> None:
    await link.put(1)
    await link.pack()
    link.carry()
    link.later(365 * 24 * 3600)
    await link.arrive()
    link.now -= timedelta(days=365)

    await link.answer()

    (kept,) = await query("select peer_seq, peer_since from gate_upkeep where stream = $1", STREAM)
    assert kept == {"peer_seq": 1, "peer_since": link.now}


async def back() -> tuple[int, int, str]:
    """(peer_received_seq, peer_seq, trouble) of our own stream to the peer."""
    (found,) = await query(
        """select s.peer_received_seq, coalesce(u.peer_seq, 0) as peer_seq, s.peer_trouble
           from gate_outgoing_stream s left join gate_upkeep u using (stream) where stream = $1""",
        BACK,
    )
    return found["peer_received_seq"], found["peer_seq"], found["peer_trouble"]


async def say_behind_a_gap(link: Link, *numbers: int) -> None:
    """Packet 2 of the peer is lost; behind it lies what the peer received of ours meanwhile."""
    for number in numbers:
        await sending.put_rows(BACK, "fee_bill", [bill(number)], now=link.now)
        await link.answer()
        link.later(10)
        await link.pack(heartbeat_after=timedelta(days=1))
        link.carry()


async def with_a_gap(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    await link.put(2)
    await link.pack()
    link.outgoing_file(2).unlink()


async def test_what_the_peer_received_is_heard_behind_our_own_gap(link: Link) -> None:
    await with_a_gap(link)
    before = await back()
    await say_behind_a_gap(link, 50, 51)

    for _ in range(2):
        await link.arrive()
    heard = await back()
    await link.arrive()
    link.later(30)
    written = await resending.resend_due(
        BACK, folder=link.back_outgoing, bounds=Bounds(), now=link.now
    )

    assert before[0] == 0
    assert await position() == (1, "gap")
    assert heard[0] == heard[1] >= 2
    assert heard[2] == ""
    assert written == []


async def test_older_words_that_come_after_do_not_take_it_back(link: Link) -> None:
    await with_a_gap(link)
    await say_behind_a_gap(link, 50, 51, 52)
    for _ in range(2):
        await link.arrive()
    heard = await back()
    since = await query("select peer_since from gate_upkeep where stream = $1", BACK)
    link.later(5)
    await sending.write_again(STREAM, folder=link.outgoing, first=2, last=2)
    link.carry()

    await link.arrive()

    assert await position() == (5, "")
    assert await back() == heard
    assert since == await query("select peer_since from gate_upkeep where stream = $1", BACK)


@pytest.mark.parametrize("lie", ["foreign seal", "other digest", "ahead of us", "other stream"])
async def test_no_lie_is_heard_behind_a_gap(link: Link, lie: str) -> None:
    await with_a_gap(link)
    await sending.put_rows(BACK, "fee_bill", [bill(50)], now=link.now)
    await link.answer()
    (ours,) = await query(
        "select digest from gate_outgoing_packet where stream = $1 and seq = 1", BACK
    )
    row = rows.ReceivedUpToRow(
        stream=STREAM if lie == "other stream" else BACK,
        seq=9 if lie == "ahead of us" else 1,
        digest="f" * 64 if lie == "other digest" else ours["digest"],
        at=link.now,
    )
    built = packets.build(
        stream=STREAM, seq=9, previous="1" * 64, watermark=link.now, created_at=link.now,
        lines=[packets.line("received_up_to", rows.encode_row("received_up_to", row))],
        key=keys.load_seal_key(keys.make_key()[0] if lie == "foreign seal" else PRIVATE),
    )  # fmt: skip
    link.incoming_file(9).write_bytes(built.manifest + b"\n" + built.body)
    before = await back()

    for _ in range(2):
        await link.arrive()

    assert await position() == (1, "gap")
    assert before == await back() == (0, 0, "")
