"""Killed at any point of packing, writing and applying: nothing lost, nothing twice."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import Struct

from estation.outside.gate import folders, sending
from estation.outside.gate.receiving import Arrival
from tests.outside.gate_side import PRIVATE, PUBLIC, Sides, names, position, query

BACKEND = Path(__file__).resolve().parents[2] / "backend"


class Crash(BaseException):
    """Not an Exception: nothing in the code may catch it, as nothing catches kill -9."""


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def crash(*_: object, **__: object) -> None:
    raise Crash


async def test_a_crash_before_the_commit_leaves_no_file_and_no_position(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sides.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(sending, "_record", crash)
        with pytest.raises(Crash):
            await sides.pack()
    remains = list(sides.outgoing.glob("*")) if sides.outgoing.exists() else []

    packed = await sides.pack()

    assert remains == []
    assert packed == [1]
    assert sides.outgoing_file(1).exists()


@pytest.mark.parametrize("point", ["write_atomically", "sync_folder"])
async def test_a_crash_around_the_writing_is_made_good_by_the_next_call(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    await sides.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(folders, point, crash)
        with pytest.raises(Crash):
            await sides.pack()
    await sides.put(2)

    packed = await sides.pack()
    sides.carry()
    await sides.receive()

    assert packed == [2]
    assert sides.seen == names(1, 2)


async def test_a_full_disk_loses_nothing_and_packs_no_further(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    await sides.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_atomically", full)
        for number in (2, 3):
            with pytest.raises(OSError, match="No space"):
                await sides.pack()
            await sides.put(number)
        packets_kept = await query("select seq from gate_outgoing_packet")

    await sides.pack()
    sides.carry()
    await sides.receive()

    assert [row["seq"] for row in packets_kept] == [1]
    assert sides.seen == names(1, 2, 3)


async def test_a_crash_while_applying_rolls_back_and_the_file_is_applied_later(
    sides: Sides,
) -> None:
    await sides.send(1)

    async def dies(found: Sequence[Struct], arrival: Arrival) -> None:
        await sending.put_rows("back", "fee_bill", found, now=sides.now)
        raise Crash

    with pytest.raises(Crash):
        await sides.receive(dies)
    undone = await query("select * from gate_outgoing_row where stream = 'back'")
    await sides.receive()

    assert undone == []
    assert sides.seen == names(1)
    assert await position() == (1, "")


async def test_a_crash_between_commit_and_removal_does_not_apply_twice(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sides.send(1)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "remove", crash)
        with pytest.raises(Crash):
            await sides.receive()
    still_there = sides.incoming_file(1).exists()

    report = await sides.receive()

    assert still_there
    assert report.duplicates == 1
    assert sides.seen == names(1)
    assert not sides.incoming_file(1).exists()


async def test_a_crash_between_record_and_quarantine_keeps_the_evidence(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides.incoming.mkdir(parents=True)
    sides.incoming_file(1).write_bytes(b"junk")
    with monkeypatch.context() as patch:
        patch.setattr(folders, "quarantine", crash)
        with pytest.raises(Crash):
            await sides.receive()

    await sides.receive()

    assert [path.read_bytes() for path in sides.quarantine.iterdir()] == [b"junk"]
    assert await position() == (0, "bad_manifest")


PROGRAM = """
import asyncio, os, pathlib, signal, sys
from tortoise import Tortoise
from estation import settings
from estation.outside.gate import folders, keys, receiving, sending
from estation.shared.clock import system_clock

url, root, point, private, public = sys.argv[1:]
root = pathlib.Path(root)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

original = os.replace
def replaced_then_dead(source, target):
    original(source, target)
    die()

def half_written(folder, name, parts):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f".{name}.part").write_bytes(b"".join(parts)[:40])
    die()

async def handler(rows, arrival):
    await sending.put_rows("applied", "fee_bill", rows, now=system_clock())
    if point == "in the handler":
        die()

async def main():
    await Tortoise.init(config=settings.database(url), _enable_global_fallback=True)
    if point == "before the commit":
        sending._record = die
    elif point == "after the commit":
        folders.write_atomically = die
    elif point == "in the middle of the file":
        folders.write_atomically = half_written
    elif point == "after the rename, before the folder is synced":
        folders.sync_folder = die
    elif point == "after reading":
        receiving._Importer._still_next = die
    elif point == "after the rows, before the position":
        receiving.positions.record_applied = die
    elif point == "before the rename":
        os.replace = die
    elif point == "after the rename":
        os.replace = replaced_then_dead
    elif point == "after applying":
        folders.remove = die
    await sending.pack_waiting(
        "jc-center-online", folder=root / "inner/outgoing",
        key=keys.load_seal_key(private.encode()), now=system_clock())
    from estation.outside.gate import device
    device.move_once(root / "inner/outgoing", root / "online/incoming")
    await receiving.apply_incoming(
        "jc-center-online", folder=root / "online/incoming",
        peer_key=keys.load_peer_key(public.encode()), handlers={"fee_bill": handler},
        now=system_clock())
    await Tortoise.close_connections()

asyncio.run(main())
"""

POINTS = [
    "before the commit",
    "after the commit",
    "in the middle of the file",
    "after the rename, before the folder is synced",
    "after reading",
    "after the rows, before the position",
    "before the rename",
    "after the rename",
    "in the handler",
    "after applying",
]


@pytest.mark.parametrize("point", POINTS)
async def test_kill_9_loses_nothing_and_repeats_nothing(
    sides: Sides, database: str, point: str
) -> None:
    await sides.put(1, 2, 3)

    killed = await _run(database, sides, point)
    finished = await _run(database, sides, "nowhere")

    applied = await query(
        "select body::jsonb ->> 'source_id' as source_id from gate_outgoing_row"
        " where stream = 'applied' order by id"
    )
    assert (killed, finished) == (-9, 0)
    assert [row["source_id"] for row in applied] == names(1, 2, 3)
    assert (await position())[1] == ""
    assert list(sides.outgoing.glob("[!.]*")) == []
    assert list(sides.incoming.iterdir()) == []


async def _run(database: str, sides: Sides, point: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        database,
        str(sides.root),
        point,
        PRIVATE.decode(),
        PUBLIC.decode(),
        env={"PYTHONPATH": str(BACKEND)},
    )
    return await asyncio.wait_for(process.wait(), 60)
