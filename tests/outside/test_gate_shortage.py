"""What is refused for want of room is told, owned and shown until there is room, and then comes."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tortoise import Tortoise

from estation import worker
from estation.outside.gate import (
    attention,
    bounds,
    positions,
    rounds,
    rows,
    sending,
    symbols,
    upkeep,
)
from estation.outside.gate import files as gate_files
from estation.outside.gate import format as packets
from estation.outside.gate.bounds import Bounds
from estation.outside.gate.peers import Peer, peer_named
from estation.outside.gate.signals import NO_ROOM
from estation.outside.gate.spool import Spool
from estation.outside.gate.status import stream_status
from estation.outside.gate.symbols import Cutting
from estation.payments import api, jobs, staff_words
from estation.payments.errors import StreamStillStopped
from estation.services import Services
from estation.settings import Settings
from estation.shared.crypto import Vault
from estation.shared.signals import read
from tests.outside.gate_peers import Gate
from tests.outside.gate_side import BACK, STREAM, T0, Sides, bill, names, position, query
from tests.outside.test_gate_files import (
    MIB,
    SOURCE,
    FileChunkRow,
    content,
    handler_of,
    parts_of,
    put_file,
    receive,
)

RESERVE = Bounds(disk_reserve=1000)
VAULT = Vault(bytes(range(32)))


class Disk:
    """So many bytes are free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free = free
        monkeypatch.setattr(bounds, "free_bytes", lambda _: self.free)


@pytest.fixture
def sides(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sides:
    monkeypatch.setitem(rows.TOPICS, "file_chunk", FileChunkRow)
    return Sides(tmp_path)


@pytest.fixture
async def center(sides: Sides, tmp_path: Path) -> Peer:
    """The online side's peer, whose folder is that of `sides`."""
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(T0)
    return await peer_named("jc-center")


async def look_after(peer: Peer, cutting: Cutting | None = None) -> None:
    await rounds.look_after(peer, schedule=upkeep.DEFAULT, bounds=RESERVE, now=T0, cutting=cutting)


async def incidents() -> list[dict[str, Any]]:
    found = await query(
        "select id, kind, owner, state, evidence, resolved_by, resolution from incident order by id"
    )
    return [{**row, "evidence": json.loads(row["evidence"])} for row in found]


async def seen_as_short(stream: str, where: str) -> None:
    """By everybody who may look: incident, status, words, gauge."""
    (opened,) = [one for one in await incidents() if one["state"] == "open"]
    assert (opened["kind"], opened["owner"]) == ("gate_no_room", "operator")
    assert (opened["evidence"]["stream"], opened["evidence"]["where"]) == (stream, where)
    # Here both ends of a stream are in one database.
    seen = {(s.no_room, s.healthy) for s in await stream_status() if s.stream == stream}
    assert seen == {(where, False)}
    words = await attention.attention(T0 + timedelta(seconds=1))
    assert [one for one in words if "no_room" in one and one.startswith(stream)]
    assert (await read(NO_ROOM, now=T0)).values == [((stream, where), 1.0)]
    assert "gate_no_room" in staff_words.INCIDENT_WORDS
    with pytest.raises(StreamStillStopped):
        await api.resolve_incident(incident_id=opened["id"], by="丁一", resolution="看过了", now=T0)


async def seen_as_over(stream: str) -> None:
    await jobs.end_gate_stops(now=T0)
    (over,) = await incidents()
    assert (over["state"], over["resolved_by"], over["resolution"]) == (
        "resolved", "system", "又有了空间",
    )  # fmt: skip
    assert {one.no_room for one in await stream_status()} <= {""}
    assert (await read(NO_ROOM, now=T0)).values == []
    assert not [one for one in await attention.attention(T0) if "no_room" in one]


async def test_packets_that_gave_way_on_a_full_disk_come_again_when_there_is_room(
    sides: Sides, center: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 20):
        await sides.send(number)
    sides.incoming_file(1).rename(sides.root / "late")
    disk = Disk(monkeypatch, free=0)
    for _ in range(3):
        await sides.receive(alarm=worker.open_gate_incident, disk_reserve=1000)
    kept = len(list(sides.incoming.iterdir()))
    await look_after(center)
    await seen_as_short(STREAM, "disk")

    disk.free = 10**9
    await look_after(center)
    await seen_as_over(STREAM)
    for number in range(1, 20):
        data = await sealed(number)
        sides.incoming_file(number).write_bytes(data)
    await sides.receive(alarm=worker.open_gate_incident, disk_reserve=1000)

    assert kept == 10
    assert sides.seen == names(*range(1, 20))
    assert len(await incidents()) == 1


async def sealed(seq: int) -> bytes:
    """As its sender writes it again."""
    (row,) = await query(
        "select manifest, body from gate_outgoing_packet where stream = $1 and seq = $2",
        STREAM,
        seq,
    )
    return bytes(row["manifest"]) + b"\n" + bytes(row["body"])


async def test_symbols_beyond_what_is_kept_are_told_until_fewer_lie_there(
    sides: Sides, center: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_KEPT", 20)
    await sides.send(1)
    for seq in (2, 3, 4):
        put_symbols(sides.incoming, content(100_000), seq)
    few = sorted(sides.incoming.glob("*-0000000004.*.rq"))
    await sides.receive(alarm=worker.open_gate_incident)
    gone = [path for path in few if not path.exists()]
    await seen_as_short(STREAM, "symbols")

    await look_after(center)
    await seen_as_short(STREAM, "symbols")
    for path in sides.incoming.glob("*-0000000003.*.rq"):
        path.unlink()
    await look_after(center)
    await seen_as_over(STREAM)

    assert gone == few
    assert sides.seen == names(1)


async def test_symbols_of_packets_that_came_already_take_no_room_from_others(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_KEPT", 10)
    await sides.send(1)
    for seq in (1, 2):
        put_symbols(sides.incoming, content(100_000), seq)

    await sides.receive(alarm=worker.open_gate_incident)

    assert {packets.parse_symbol_name(path.name).seq for path in sides.incoming.iterdir()} == {2}
    assert await incidents() == []


def put_symbols(folder: Path, data: bytes, seq: int) -> None:
    """Too few to be a packet."""
    (block,) = symbols.cut(data, stream=STREAM, seq=seq, repair_percent=0)
    for one in block[:8]:
        header, _ = symbols.read_symbol(one)
        name = packets.SymbolName(STREAM, seq, header.block, header.esi)
        (folder / packets.symbol_name(name)).write_bytes(one)


async def test_a_device_that_takes_no_symbols_is_told_and_packets_stay(
    sides: Sides, center: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_WAITING", 3)
    device = tmp_path / "device"
    device.mkdir()
    cutting = Cutting(center.folder, device)
    for number in range(3):
        (device / f"{BACK}-0000000009.000.{number:08d}.rq").write_bytes(b"x")
    gate = Gate(tmp_path)

    for _ in range(2):
        await rounds.pack_for(
            center, secret=gate.secret, max_rows=100, now=T0, cutting=cutting,
            alarm=worker.open_gate_incident,
        )  # fmt: skip
    waiting = [path.name for path in center.outgoing.iterdir()]
    await look_after(center, cutting)
    await seen_as_short(BACK, "device")
    for path in list(device.iterdir()):
        path.unlink()
    await look_after(center, cutting)
    await rounds.pack_for(
        center, secret=gate.secret, max_rows=100, now=T0, cutting=cutting,
        alarm=worker.open_gate_incident,
    )  # fmt: skip

    await seen_as_over(BACK)
    assert waiting == [packets.file_name(BACK, 1)]
    assert list(center.outgoing.iterdir()) == []
    assert list(device.iterdir()) != []


async def test_a_device_that_takes_a_file_for_each_we_write_is_one_shortage(
    sides: Sides, center: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbols, "MAX_WAITING", 10)
    cutting = Cutting(center.folder, tmp_path / "device")
    gate = Gate(tmp_path)

    for _ in range(3):
        for _ in range(2):
            await sending.put_rows(BACK, "fee_bill", [bill(1)], now=T0)
            await rounds.pack_for(
                center, secret=gate.secret, max_rows=100, now=T0, cutting=cutting,
                alarm=worker.open_gate_incident,
            )  # fmt: skip
        for path in list(cutting.folder.iterdir())[9:]:
            path.unlink()
        await look_after(center, cutting)

    await seen_as_short(BACK, "device")
    assert len(await incidents()) == 1


async def test_a_disk_that_is_just_not_full_any_more_is_one_shortage(
    sides: Sides, center: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, free=0)
    for free in (999, 1000, 999, 1100, 999):
        disk.free = free
        await sides.receive(alarm=worker.open_gate_incident, disk_reserve=1000)
        await look_after(center)
    await seen_as_short(STREAM, "disk")

    disk.free = 1250
    await look_after(center)

    await seen_as_over(STREAM)


async def test_a_file_without_room_waits_in_the_database_and_comes_when_there_is_some(
    sides: Sides, tmp_path: Path
) -> None:
    files = Spool(tmp_path / "spool", max_bytes=2 * MIB)
    done: list[Path] = []
    await put_file(content(2 * MIB, seed=1), "M-1")
    await put_file(content(MIB, seed=2), "M-2")
    await put_file(content(10, seed=3), "M-3")
    await sides.pack()
    sides.carry()
    await receive(sides, files, done)
    still = await _bring_in(files, done)
    await seen_as_short(STREAM, "files")
    first = [path.read_bytes() for path in done]

    files.forget("jc-center", "M-1")
    left = await _bring_in(files, done)

    await seen_as_over(STREAM)
    assert await position() == (1, "")
    assert first == [content(2 * MIB, seed=1)]
    assert (still, left) == (4, 0)
    assert sorted(path.read_bytes() for path in done[1:]) == sorted(
        [content(MIB, seed=2), content(10, seed=3)]
    )


async def _bring_in(files: Spool, done: list[Path], now: datetime = T0) -> int:
    """What the worker does for the handlers it has; how many parts wait afterwards."""
    await gate_files.look_after_all(
        {"file_chunk": handler_of(files, done)}, alarm=worker.open_gate_incident, now=now
    )
    (left,) = await query("select count(*)::int as n from gate_parked_row")
    return int(left["n"])


async def test_parts_that_wait_for_room_lie_sealed_on_a_side_that_seals(
    sides: Sides, tmp_path: Path
) -> None:
    files = Spool(tmp_path / "spool", max_bytes=2 * MIB)
    done: list[Path] = []
    sealing = handler_of(files, done, VAULT.seal)
    await put_file(content(2 * MIB, seed=1), "M-1")
    await put_file(content(10, seed=2), "M-2")
    await sides.pack()
    sides.carry()
    await receive(sides, files, done, sealing)
    (kept,) = await query("select body, body_sealed from gate_parked_row")

    files.forget(SOURCE, "M-1")
    await gate_files.look_after_all(
        {"file_chunk": sealing}, alarm=worker.open_gate_incident, now=T0, unseal=VAULT.open
    )

    assert kept["body"] is None
    assert "M-2" in VAULT.open(kept["body_sealed"])
    assert [path.read_bytes() for path in done[1:]] == [content(10, seed=2)]


async def test_the_worker_looks_after_the_files_of_each_topic_that_has_a_handler(
    sides: Sides, tmp_path: Path
) -> None:
    """A later topic is a schema and a handler; nothing else of the program knows it."""
    files = Spool(tmp_path / "spool", max_bytes=2 * MIB)
    done: list[Path] = []
    services = SimpleNamespace(settings=Settings.read(), vault=VAULT, clock=lambda: T0)
    side = worker.GateSide(cast(Services, services))
    side._handlers["file_chunk"] = handler_of(files, done, VAULT.seal)
    await put_file(content(2 * MIB, seed=1), "M-1")
    await put_file(content(10, seed=2), "M-2")
    await sides.pack()
    sides.carry()
    await receive(sides, files, done, side._handlers["file_chunk"])
    files.forget(SOURCE, "M-1")

    timetable = {job.name: job for job in worker.jobs_of_the_gate(side)}
    await timetable["gate_files"].run(T0)

    assert [path.read_bytes() for path in done[1:]] == [content(10, seed=2)]


async def test_a_stream_waits_with_its_packets_when_nothing_more_can_be_kept_back(
    sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_files, "MAX_KEPT_BACK_BYTES", MIB)
    files = Spool(tmp_path / "spool", max_bytes=2 * MIB)
    done: list[Path] = []
    await put_file(content(2 * MIB, seed=1), "M-1")
    await put_file(content(MIB, seed=2), "M-2")
    await sides.pack()
    sides.carry()
    await receive(sides, files, done)
    stands = await position()
    kept: Sequence[object] = await query("select 1 from gate_parked_row")

    files.forget("jc-center", "M-1")
    sides.later(60)
    await receive(sides, files, done)

    assert (stands, list(kept)) == ((0, "handler_failed"), [])
    assert await position() == (1, "")
    assert content(MIB, seed=2) in [path.read_bytes() for path in done if path.exists()]


async def test_a_file_that_has_no_room_for_long_holds_up_no_other_ones_parts(
    sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_files, "_PER_CALL", 2)
    files = Spool(tmp_path / "spool", max_bytes=2 * MIB)
    done: list[Path] = []
    await put_file(content(2 * MIB, seed=1), "M-1")
    await put_file(content(2 * MIB - 10, seed=2), "M-2")
    await sides.pack()
    await put_file(content(10, seed=3), "M-3")
    await sides.pack()
    sides.carry()
    await receive(sides, files, done)
    files.forget(SOURCE, "M-1")
    files.take(parts_of(content(MIB, seed=4), "M-4")[0], now=T0)

    for minute in range(1, 8):
        await _bring_in(files, done, now=T0 + timedelta(minutes=minute))

    assert [path.read_bytes() for path in done[1:]] == [content(10, seed=3)]
    await seen_as_short(STREAM, "files")


async def test_parts_that_came_before_anybody_handled_their_topic_are_taken_later(
    sides: Sides, tmp_path: Path
) -> None:
    files = Spool(tmp_path / "spool")
    done: list[Path] = []
    await put_file(content(MIB))
    await sides.pack()
    sides.carry()
    await sides.receive()

    left = await _bring_in(files, done)

    assert [path.read_bytes() for path in done] == [content(MIB)]
    assert left == 0


async def test_rows_parked_by_a_jump_are_no_parts_that_wait_for_room(
    sides: Sides, tmp_path: Path
) -> None:
    """In a run of many packets they are counted further than a packet has lines."""
    files = Spool(tmp_path / "spool", max_bytes=2 * MIB)
    done: list[Path] = []
    await put_file(content(2 * MIB, seed=1), "M-1")
    await put_file(content(10, seed=2), "M-2")
    await sides.pack()
    sides.carry()
    await receive(sides, files, done)
    parked = [(1, packets.MAX_ROWS + line, "later", f'{{"n":{line}}}') for line in (1, 2)]
    await positions.park_bodies(Tortoise.get_connection("default"), STREAM, parked, now=T0)

    files.forget(SOURCE, "M-1")
    left = await _bring_in(files, done)

    assert left == len(parked)
    await seen_as_over(STREAM)


async def test_a_part_that_waited_and_is_refused_is_told_once_and_waits_no_more(
    sides: Sides, tmp_path: Path
) -> None:
    """Two files of one name: the second one's part fits the first no more when it is taken."""
    files = Spool(tmp_path / "spool", max_bytes=2 * MIB)
    done: list[Path] = []
    await put_file(content(2 * MIB, seed=1), "M-1")
    await put_file(content(10, seed=2), "M-2")
    await put_file(content(10, seed=3), "M-2")
    await sides.pack()
    sides.carry()
    await receive(sides, files, done)
    files.forget(SOURCE, "M-1")

    left = [await _bring_in(files, done) for _ in range(2)]

    await jobs.end_gate_stops(now=T0)
    told = {one["kind"]: one["state"] for one in await incidents()}
    assert len(done) == 2
    assert left == [1, 1]
    assert told == {"gate_no_room": "resolved", "gate_file_incomplete": "open"}
    assert len(await incidents()) == 2
