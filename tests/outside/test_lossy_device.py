"""A device that fails by dice: the same seed does the same harm, and nothing is made up."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from estation.outside.gate.device import MAX_HELD, Faults, LossyDevice
from estation.outside.gate.format import file_name

T0 = datetime(2026, 3, 2, 9, tzinfo=UTC)
STREAM = "jc-center-online"


def put(folder: Path, count: int, *, first: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seq in range(first, first + count):
        (folder / file_name(STREAM, seq)).write_bytes(f"packet {seq}".encode() * 20)


def carried(
    root: Path, seed: int, faults: Faults, files: int = 200
) -> tuple[dict[str, bytes], LossyDevice]:
    device = LossyDevice(seed=seed, faults=faults)
    put(root / "out", files)
    for turn in range(10):
        device.carry(root / "out", root / "in", now=T0 + timedelta(seconds=10 * turn))
    return {path.name: path.read_bytes() for path in (root / "in").iterdir()}, device


def test_the_same_seed_does_the_same_harm(tmp_path: Path) -> None:
    one, first = carried(tmp_path / "a", 7, Faults.all_kinds(0.1))
    two, second = carried(tmp_path / "b", 7, Faults.all_kinds(0.1))
    other, _ = carried(tmp_path / "c", 8, Faults.all_kinds(0.1))

    assert (one, first.met) == (two, second.met)
    assert one != other


def test_every_fate_is_met_and_what_is_only_late_comes(tmp_path: Path) -> None:
    arrived, device = carried(tmp_path, 3, Faults.all_kinds(0.15), files=400)

    assert set(device.met) == {
        "loss", "duplicate", "delay", "reorder", "truncate", "bitflip", "unharmed",
    }  # fmt: skip
    assert device.held == 0
    assert len(arrived) == 400 - device.met["loss"]
    whole = {file_name(STREAM, seq): f"packet {seq}".encode() * 20 for seq in range(1, 401)}
    damaged = sum(content != whole[name] for name, content in arrived.items())
    assert 0 < damaged <= device.met["truncate"] + device.met["bitflip"]


@pytest.mark.parametrize("fault", ["delay", "reorder"])
def test_what_is_held_comes_with_a_later_turn(tmp_path: Path, fault: str) -> None:
    device = LossyDevice(seed=1, faults=Faults(**{fault: 1.0}))
    put(tmp_path / "out", 3)

    at_once = device.carry(tmp_path / "out", tmp_path / "in", now=T0)
    held = device.held
    later = device.carry(tmp_path / "out", tmp_path / "in", now=T0 + timedelta(seconds=31))

    assert (at_once, held, later, device.held) == (0, 3, 3, 0)


def test_it_holds_only_so_many(tmp_path: Path) -> None:
    device = LossyDevice(seed=1, faults=Faults(delay=1.0))
    for turn in range(3):
        put(tmp_path / "out", 500, first=1 + 500 * turn)
        device.carry(tmp_path / "out", tmp_path / "in", now=T0)

    assert device.held == MAX_HELD
    assert len(list((tmp_path / "in").iterdir())) == 500


def test_without_faults_it_carries_like_any_other(tmp_path: Path) -> None:
    put(tmp_path / "out", 5)
    (tmp_path / "out" / ".jc-center-online-0000000009.gate.part").write_bytes(b"unfinished")

    moved = LossyDevice(seed=0, faults=Faults()).carry(tmp_path / "out", tmp_path / "in", now=T0)

    assert moved == 5
    assert [path.name for path in (tmp_path / "out").iterdir()] == [
        ".jc-center-online-0000000009.gate.part"
    ]


def test_a_folder_that_is_not_there_yet_is_no_trouble(tmp_path: Path) -> None:
    assert LossyDevice(seed=0, faults=Faults()).carry(tmp_path / "x", tmp_path / "y", now=T0) == 0
