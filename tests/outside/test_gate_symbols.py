"""A device that loses every fifth file loses nothing, when packets travel as symbols."""

import asyncio
import hashlib
import json
import os
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from estation.outside.gate import (
    bounds,
    device,
    folders,
    peering,
    peers,
    room,
    rounds,
    symbols,
)
from estation.outside.gate import format as packets
from estation.outside.gate.errors import PeerTaken, PeerUnknown, Reason, SymbolsNotPossible
from tests.outside.gate_peers import COUNTY, DEED, Gate, center
from tests.outside.gate_side import BACK, STREAM, T0, Sides, names, position, query

pytest.importorskip("raptorq", reason="the extra `raptorq` is not installed")


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def data_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


def put(folder: Path, data: bytes, *, seq: int = 1, percent: int = 50) -> list[str]:
    """All symbols of a packet file in `folder`; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for block in symbols.cut(data, stream=STREAM, seq=seq, repair_percent=percent):
        for file in block:
            header, _ = symbols.read_symbol(file)
            name = packets.symbol_name(
                packets.SymbolName(header.stream, header.seq, header.block, header.esi)
            )
            (folder / name).write_bytes(file)
            written.append(name)
    return written


def assembled(folder: Path, *, applied: int = 0, hours: float = 0) -> symbols.Assembled:
    listing = folders.list_incoming(folder, STREAM)
    return symbols.assemble(
        folder,
        listing.symbols,
        applied=applied,
        whole=listing.packets,
        now=datetime.now(UTC) + timedelta(hours=hours),
    )


def lose(folder: Path, share: float, seed: int) -> int:
    """Remove this share of the symbols; how many."""
    found = sorted(path for path in folder.iterdir() if path.suffix == ".rq")
    lost = random.Random(seed).sample(found, round(len(found) * share))  # noqa: S311
    for path in lost:
        path.unlink()
    return len(lost)


@pytest.mark.parametrize("size", [1, 700, 1024, 5000, 300_000, symbols.BLOCK_BYTES + 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_may_be_lost(tmp_path: Path, size: int, seed: int) -> None:
    data = data_of(size)
    put(tmp_path, data)
    lose(tmp_path, 0.2, seed)

    done = assembled(tmp_path)

    assert done.packets == [1]
    assert [path.name for path in tmp_path.iterdir()] == [packets.file_name(STREAM, 1)]
    assert (tmp_path / packets.file_name(STREAM, 1)).read_bytes() == data


def test_too_few_symbols_wait_and_are_enough_with_the_next(tmp_path: Path) -> None:
    data = data_of(100_000)
    all_of_it = put(tmp_path, data)
    needed = -(-len(data) // symbols.symbol_bytes(len(data)))
    kept = {name: (tmp_path / name).read_bytes() for name in all_of_it[8:]}
    for name in all_of_it[: len(all_of_it) - needed + 1]:
        (tmp_path / name).unlink()

    before = assembled(tmp_path)
    for name in list(kept)[:3]:
        (tmp_path / name).write_bytes(kept[name])
        os.utime(tmp_path / name, (T0.timestamp(), T0.timestamp()))
    after = assembled(tmp_path)

    assert (before.packets, before.dropped) == ([], 0)
    assert after.packets == [1]


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _other_oti(data: bytes) -> bytes:
    return data.replace(b'"oti":"00', b'"oti":"01')


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        _other_oti,
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"x" * 100_000,
        lambda data: b"[" * 500 + b"\n",
        lambda data: data.replace(b'"block":0', b'"block":200'),
        lambda data: data.replace(b'"esi":', b'"esi":1'),
        lambda data: data.replace(b'"size":', b'"size":9'),
    ],
    ids=["bit", "oti", "short", "long", "empty", "giant", "deep", "block", "esi", "size"],
)
def test_garbage_among_the_symbols_harms_nothing(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    data = data_of(20_000)
    for name in put(tmp_path, data)[:6]:
        (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))

    done = assembled(tmp_path)

    assert done.packets == [1]
    assert done.dropped == 6
    assert (tmp_path / packets.file_name(STREAM, 1)).read_bytes() == data


def test_links_and_pipes_under_a_symbols_name_are_strays(tmp_path: Path) -> None:
    name = packets.symbol_name(packets.SymbolName(STREAM, 1, 0, 0))
    other = packets.symbol_name(packets.SymbolName(STREAM, 1, 0, 1))
    (tmp_path / name).symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / other)

    listing = folders.list_incoming(tmp_path, STREAM)

    assert listing.symbols == []
    assert {reason for _, reason in listing.strays} == {Reason.not_a_file}


def test_symbols_that_only_look_right_are_all_dropped_and_sent_again(tmp_path: Path) -> None:
    """Somebody who can write files, but has no key: the packet's digest tells."""
    data, other = data_of(20_000), data_of(20_000, seed=2)
    ours = put(tmp_path / "ours", data)
    put(tmp_path / "theirs", other)
    right = packets.canonical({"digest": hashlib.sha256(data).hexdigest()})[11:-2]
    wrong = packets.canonical({"digest": hashlib.sha256(other).hexdigest()})[11:-2]
    (tmp_path / "in").mkdir()
    for name in ours:
        forged = (tmp_path / "theirs" / name).read_bytes().replace(wrong, right)
        (tmp_path / "in" / name).write_bytes(forged)
        os.utime(tmp_path / "in" / name, (T0.timestamp(), T0.timestamp()))

    forged_done = assembled(tmp_path / "in")
    left = list((tmp_path / "in").iterdir())
    put(tmp_path / "in", data)
    healed = assembled(tmp_path / "in")

    assert (forged_done.packets, left) == ([], [])
    assert healed.packets == [1]


def test_two_packets_under_one_seq_do_not_mix(tmp_path: Path) -> None:
    data = data_of(20_000)
    mine = put(tmp_path, data)
    put(tmp_path / "other", data_of(20_000, seed=2))
    for name in mine[:5]:
        (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())

    done = assembled(tmp_path)

    assert done.packets == [1]
    assert (tmp_path / packets.file_name(STREAM, 1)).read_bytes() == data


def test_late_old_and_needless_symbols_are_dropped(tmp_path: Path) -> None:
    for seq in (1, 2, 3):
        put(tmp_path, data_of(3000), seq=seq)
    lose(tmp_path, 0.9, 1)
    (tmp_path / packets.file_name(STREAM, 2)).write_bytes(b"the whole packet came, too")
    count = len(folders.list_incoming(tmp_path, STREAM).symbols)

    first = assembled(tmp_path, applied=1)
    later = assembled(tmp_path, applied=1, hours=25)

    assert first.dropped + later.dropped == count
    assert [path.name for path in tmp_path.iterdir()] == [packets.file_name(STREAM, 2)]


def test_symbols_of_a_device_whose_clock_is_wrong_are_as_good(tmp_path: Path) -> None:
    data = data_of(3000)
    for name in put(tmp_path, data):
        os.utime(tmp_path / name, (0, 0))

    done = assembled(tmp_path)

    assert (done.packets, done.dropped) == ([1], 0)
    assert (tmp_path / packets.file_name(STREAM, 1)).read_bytes() == data


def test_no_more_symbols_are_kept_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_KEPT", 10)
    for seq in (1, 2, 3):
        for name in put(tmp_path, data_of(8000), seq=seq)[:6]:
            (tmp_path / name).unlink()
        lose_of = sorted(tmp_path.glob(f"*{seq:010d}*"))[6:]
        for path in lose_of:
            path.unlink()

    done = assembled(tmp_path)

    assert done.dropped == 12
    left = folders.list_incoming(tmp_path, STREAM).symbols
    assert {packets.parse_symbol_name(name).seq for name in left} == {1}


async def test_a_stream_crosses_a_device_that_loses_every_fifth_file(
    sides: Sides, tmp_path: Path
) -> None:
    between = tmp_path / "between"
    for number in range(1, 21):
        await sides.put(number)
        await sides.pack()
    while symbols.cut_folder(sides.outgoing, between):
        pass
    lost = lose(between, 0.2, 7)
    whole = list(sides.outgoing.iterdir())
    device.move_once(between, sides.incoming, limit=10_000)

    while (await sides.receive()).applied:
        pass

    assert lost > 20
    assert whole == []
    assert sides.seen == names(*range(1, 21))
    assert await position() == (20, "")


async def test_whole_files_and_symbols_may_come_mixed(sides: Sides, tmp_path: Path) -> None:
    await sides.send(1)
    await sides.put(2)
    await sides.pack()
    symbols.cut_folder(sides.outgoing, sides.incoming)
    await sides.send(3)

    await sides.receive()

    assert sides.seen == names(1, 2, 3)
    assert list(sides.incoming.iterdir()) == []


def test_packets_are_written_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outgoing = tmp_path / "outgoing"
    outgoing.mkdir()
    for seq in (1, 2, 3):
        (outgoing / packets.file_name(STREAM, seq)).write_bytes(data_of(3000, seq))
    order: list[str] = []
    replace = os.replace

    def noting(source: Path, target: Path) -> None:
        order.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noting)
    symbols.cut_folder(outgoing, tmp_path / "device")

    seqs = [packets.parse_symbol_name(name).seq for name in order]
    assert seqs[:9] == [1, 2, 3] * 3


def test_a_device_that_stands_still_gets_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_WAITING", 12)
    outgoing = tmp_path / "outgoing"
    outgoing.mkdir()
    for seq in range(1, 20):
        (outgoing / packets.file_name(STREAM, seq)).write_bytes(data_of(3000))

    first = symbols.cut_folder(outgoing, tmp_path / "device")
    second = symbols.cut_folder(outgoing, tmp_path / "device")

    assert (first, second) == (symbols.MAX_TOGETHER, 0)
    assert len(list(outgoing.iterdir())) == 19 - symbols.MAX_TOGETHER


async def test_without_the_wheel_whole_files_travel_and_symbols_are_set_aside(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(sides.incoming, data_of(500), seq=2, percent=0)
    monkeypatch.setitem(sys.modules, "raptorq", None)
    await sides.put(1)
    await sides.pack()

    symbols.cut_folder(sides.outgoing, sides.incoming)
    report = await sides.receive()

    assert sides.seen == names(1)
    assert {reason for _, reason in report.quarantined} == {Reason.foreign_name}


async def test_on_a_full_disk_symbols_farthest_ahead_give_way(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = room.KEEP_NEXT + 3
    files = {seq: put(sides.incoming, data_of(500), seq=seq) for seq in range(1, last + 1)}
    free = iter([0, 0, 0])  # when looked at first, and before each of two packets' symbols
    monkeypatch.setattr(bounds, "free_bytes", lambda _: next(free, 1))

    await sides.receive(disk_reserve=1)

    left = {path.name for path in sides.incoming.iterdir()}
    (event,) = await query("select detail from gate_event where kind = 'disk_low'")
    assert left.isdisjoint(files[last] + files[last - 1])
    assert left.issuperset(files[last - 2])
    assert json.loads(event["detail"])["symbols"] == len(files[last] + files[last - 1])


async def test_packets_of_the_settings_peer_leave_as_symbols_others_whole(
    database: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    cutting = symbols.from_settings(
        gate.settings.model_copy(update={"symbols_folder": tmp_path / "device"})
    )
    county = await gate.add_county()

    for peer in (await center(), county):
        await rounds.pack_for(peer, secret=gate.secret, max_rows=100, now=gate.now, cutting=cutting)

    cut = {packets.parse_symbol_name(path.name) for path in (tmp_path / "device").iterdir()}
    assert {name.stream for name in cut if name} == {BACK}
    assert list((await center()).outgoing.iterdir()) == []
    assert [path.name for path in county.outgoing.iterdir()] == [
        packets.file_name(county.stream_out, 1)
    ]
    assert symbols.from_settings(gate.settings) is None


def test_the_cost_of_symbols_is_bounded(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """16 MiB, the largest packet we make, cut in about 1 s and assembled in about 0.5 s."""
    data = data_of(16 * 1024 * 1024)
    tracemalloc.start()
    before = time.perf_counter()
    written = put(tmp_path, data)
    cut_seconds = time.perf_counter() - before
    stored = sum((tmp_path / name).stat().st_size for name in written)
    lose(tmp_path, 0.2, 3)
    before = time.perf_counter()
    done = assembled(tmp_path)
    seconds = time.perf_counter() - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    record_property("cut_seconds", cut_seconds)
    record_property("assemble_seconds", seconds)
    assert done.packets == [1]
    assert stored < 1.6 * len(data)
    assert peak < 150 * 1024 * 1024
    assert cut_seconds + seconds < 20


def test_forged_symbols_hold_neither_memory_nor_a_good_packet_up(tmp_path: Path) -> None:
    data = data_of(20_000)
    honest = put(tmp_path, data)
    block = symbols.BLOCK_BYTES
    size = symbols.symbol_bytes(block)
    junk = bytes(size)
    for number in range(600):
        header = symbols.Symbol(
            format=symbols.FORMAT,
            version=1,
            stream=STREAM,
            seq=1,
            size=block,
            digest=hashlib.sha256(bytes([number // 100])).hexdigest(),
            block=0,
            esi=1000 + number,
            oti=symbols.oti_of(block, size),
            symbol_digest=hashlib.sha256(junk).hexdigest(),
        )
        name = packets.symbol_name(packets.SymbolName(STREAM, 1, 0, 1000 + number))
        (tmp_path / name).write_bytes(symbols._file(header, junk))
    kept = {name: (tmp_path / name).read_bytes() for name in honest}
    for name in honest[5:]:
        (tmp_path / name).unlink()
    tracemalloc.start()

    waiting = assembled(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for name, symbol in kept.items():
        (tmp_path / name).write_bytes(symbol)
    done = assembled(tmp_path)

    assert (waiting.packets, waiting.dropped) == ([], 0)
    assert peak < 4 * 1024 * 1024
    assert done.packets == [1]
    assert (tmp_path / packets.file_name(STREAM, 1)).read_bytes() == data


def test_what_was_not_enough_is_not_read_again_until_something_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = put(tmp_path, data_of(20_000))
    last = (tmp_path / names[0]).read_bytes()
    for name in [names[0], *names[20:]]:
        (tmp_path / name).unlink()
    assert assembled(tmp_path).packets == []
    reads: list[Path] = []
    read = folders.read_beginning
    monkeypatch.setattr(folders, "read_beginning", lambda path: reads.append(path) or read(path))

    again = assembled(tmp_path)
    read_again = len(reads)
    (tmp_path / names[0]).write_bytes(last)
    whole = assembled(tmp_path)

    assert (again.packets, read_again) == ([], 0)
    assert whole.packets == [1]


def test_more_symbols_than_any_packet_has_all_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_OF_PACKET", 10)
    names = put(tmp_path, data_of(20_000))
    for name in names[15:]:
        (tmp_path / name).unlink()

    done = assembled(tmp_path)

    assert (done.packets, done.dropped) == ([], 15)
    assert list(tmp_path.iterdir()) == []


async def test_a_peer_added_by_command_gets_symbols_when_told_so(
    database: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    await gate.add_county()

    await peering.set_symbols(COUNTY, (tmp_path / "device", 80), deed=DEED, now=gate.now)
    await gate.keep_first(gate.now)  # as at the next start
    for peer in await peers.peers():
        await gate.pack(peer)
    gate.later(seconds=20)
    await peering.set_symbols(COUNTY, None, deed=DEED, now=gate.now)
    county = await peers.peer_named(COUNTY)
    await gate.pack(county)

    found = [symbols.read_symbol(path.read_bytes()) for path in (tmp_path / "device").iterdir()]
    assert {(head.stream, head.seq) for head, _ in found} == {(county.stream_out, 1)}
    assert [path.name for path in county.outgoing.iterdir()] == [
        packets.file_name(county.stream_out, 2)
    ]
    assert len(list((await center()).outgoing.iterdir())) == 1
    deeds = await query("select about from gate_deed where what = 'set_symbols' order by at, id")
    assert [deed["about"] for deed in deeds] == [str((tmp_path / "device").resolve()), ""]


async def test_of_several_destinations_each_has_its_own_device(
    database: str, tmp_path: Path
) -> None:
    """One device loses files and gets symbols, another is sound and gets whole ones."""
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    lossy, sound = tmp_path / "lossy", tmp_path / "sound"
    for folder in (lossy, sound):
        await peering.add_destination("jc-center", folder, deed=DEED, now=gate.now)

    await peering.set_symbols(
        "jc-center", (tmp_path / "device", 80), destination=lossy, deed=DEED, now=gate.now
    )
    await gate.pack(await center())

    def packets_in(folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir()]

    whole = [packets.file_name(BACK, 1)]
    assert packets_in((await center()).outgoing) == packets_in(sound) == whole
    assert packets_in(lossy) == []
    found = [symbols.read_symbol(path.read_bytes()) for path in (tmp_path / "device").iterdir()]
    assert {(head.stream, head.seq) for head, _ in found} == {(BACK, 1)}
    (shown,) = [one for one in (await center()).destinations if one.folder == lossy]
    assert shown.cutting is not None
    assert (shown.cutting.folder, shown.cutting.repair_percent) == (tmp_path / "device", 80)
    assert (await center()).cutting is None
    await peering.set_symbols("jc-center", None, destination=lossy, deed=DEED, now=gate.now)
    gate.later(seconds=20)
    await gate.pack(await center())
    assert packets_in(lossy) == [packets.file_name(BACK, 2)]


async def test_a_peers_own_device_and_one_of_a_destination_work_side_by_side(
    database: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    further = tmp_path / "further"
    await peering.add_destination("jc-center", further, deed=DEED, now=gate.now)
    await peering.set_symbols(
        "jc-center", (tmp_path / "second", 50), destination=further, deed=DEED, now=gate.now
    )
    cutting = symbols.from_settings(
        gate.settings.model_copy(update={"symbols_folder": tmp_path / "first"})
    )

    await rounds.pack_for(
        await center(), secret=gate.secret, max_rows=100, now=gate.now, cutting=cutting
    )

    for folder in ("first", "second"):
        cut = {packets.parse_symbol_name(one.name) for one in (tmp_path / folder).iterdir()}
        assert {(name.stream, name.seq) for name in cut if name} == {(BACK, 1)}
    assert list(further.iterdir()) == list((await center()).outgoing.iterdir()) == []


async def test_a_device_that_cannot_be_written_is_its_destinations_trouble_only(
    database: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    broken, sound = tmp_path / "broken", tmp_path / "sound"
    for folder in (broken, sound):
        await peering.add_destination("jc-center", folder, deed=DEED, now=gate.now)
    (tmp_path / "device").write_text("no folder")
    await peering.set_symbols(
        "jc-center", (tmp_path / "device", 50), destination=broken, deed=DEED, now=gate.now
    )

    await gate.pack(await center())

    failures = {one.folder: one.failure for one in (await center()).destinations}
    assert failures[sound] == ""
    assert failures[broken] != ""
    assert len(list(sound.iterdir())) == len(list((await center()).outgoing.iterdir())) == 1
    assert len(list(broken.iterdir())) == 1  # it waits
    (tmp_path / "device").unlink()
    gate.later(seconds=20)
    await gate.pack(await center())
    assert {one.failure for one in (await center()).destinations} == {""}
    assert list(broken.iterdir()) == []


async def test_a_device_that_hangs_is_its_destinations_trouble_only(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    hanging, own, mended = tmp_path / "hanging", tmp_path / "own", threading.Event()
    await peering.add_destination("jc-center", tmp_path / "far", deed=DEED, now=gate.now)
    await peering.add_destination("jc-center", tmp_path / "sound", deed=DEED, now=gate.now)
    await peering.set_symbols("jc-center", (own, 50), deed=DEED, now=gate.now)
    await peering.set_symbols(
        "jc-center", (hanging, 50), destination=tmp_path / "far", deed=DEED, now=gate.now
    )

    def hang(folder: Path) -> bool:
        return folder == hanging and mended.wait(20)

    is_full = symbols.device_is_full
    monkeypatch.setattr(rounds, "_touch", hang)
    monkeypatch.setattr(symbols, "device_is_full", lambda one: hang(one) or is_full(one))
    monkeypatch.setattr(rounds, "ANSWER_SECONDS", 0.1)

    try:
        async with asyncio.timeout(5):
            await gate.pack(await center())
    finally:
        mended.set()

    assert list(own.iterdir())
    assert len(list((tmp_path / "sound").iterdir())) == 1
    failures = {one.folder.name: one.failure for one in (await center()).destinations}
    assert failures == {"far": "no answer", "sound": ""}


async def test_a_device_that_stays_broken_is_told_once_with_when_it_began(
    database: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    await peering.add_destination("jc-center", tmp_path / "broken", deed=DEED, now=gate.now)
    (tmp_path / "device").write_text("no folder")
    await peering.set_symbols(
        "jc-center", (tmp_path / "device", 50), destination=tmp_path / "broken", deed=DEED,
        now=gate.now,
    )  # fmt: skip

    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            await gate.pack(await center())
            gate.later(seconds=20)

    (failed,) = await query("select failed_at from gate_destination")
    assert failed["failed_at"] == gate.now - timedelta(seconds=60)
    assert [one["event"] for one in said].count("gate_destination_failed") == 1


async def test_no_destination_and_no_device_is_taken_twice(database: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    await gate.add_county()
    further, symbols_of_it = tmp_path / "further", tmp_path / "device"
    await peering.add_destination(COUNTY, further, deed=DEED, now=gate.now)
    await peering.set_symbols(
        COUNTY, (symbols_of_it, 50), destination=further, deed=DEED, now=gate.now
    )

    for taken in (further, symbols_of_it):
        with pytest.raises(PeerTaken):
            await peering.set_symbols("jc-center", (taken, 50), deed=DEED, now=gate.now)
    with pytest.raises(PeerUnknown):
        await peering.set_symbols(
            COUNTY, (tmp_path / "x", 50), destination=tmp_path / "none", deed=DEED, now=gate.now
        )

    assert (await center()).cutting is None


@pytest.mark.parametrize(
    ("folder", "percent", "refusal"),
    [
        ("device", -1, SymbolsNotPossible),
        ("device", 401, SymbolsNotPossible),
        (".", 50, PeerTaken),
        ("online/outgoing", 50, PeerTaken),
        ("online/peers/lj-county/incoming/x", 50, PeerTaken),
        ("theirs", 50, PeerTaken),
    ],
)
async def test_symbols_go_to_no_folder_that_is_used_already(
    database: str, tmp_path: Path, folder: str, percent: int, refusal: type[Exception]
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    await gate.add_county()
    await peering.set_symbols("jc-center", (tmp_path / "theirs", 50), deed=DEED, now=gate.now)
    before = await query("select * from gate_peer order by name")

    with pytest.raises(refusal):
        await peering.set_symbols(COUNTY, (tmp_path / folder, percent), deed=DEED, now=gate.now)
    with pytest.raises(SymbolsNotPossible):
        await peering.set_symbols(COUNTY, (Path("device"), 50), deed=DEED, now=gate.now)
    with pytest.raises(PeerTaken):
        await peering.add_destination(COUNTY, tmp_path / "theirs", deed=DEED, now=gate.now)

    assert await query("select * from gate_peer order by name") == before
    assert len(await query("select 1 from gate_deed where what = 'set_symbols'")) == 1
