"""What waits behind a gap is read once, however much it is."""

from pathlib import Path
from typing import Any

import pytest

from estation.outside.gate import folders, jumping, keys, parked
from estation.outside.gate.format import file_name
from tests.outside.gate_side import PUBLIC, STREAM
from tests.outside.test_gate_bad_files import packet

KEY = keys.load_peer_key(PUBLIC)


class Backlog:
    """Heartbeats that wait, and how often one of them was read."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.reads: list[str] = []
        monkeypatch.setattr(parked, "_looks", parked._Looks())
        monkeypatch.setattr(folders, "read_bounded", self._read(folders.read_bounded))

    def _read(self, real: Any) -> Any:
        def read(path: Path, *more: Any) -> bytes:
            self.reads.append(path.name)
            return bytes(real(path, *more))

        return read

    def put(self, first: int, count: int) -> dict[int, str]:
        found = {}
        for seq in range(first, first + count):
            name = file_name(STREAM, seq)
            (self.folder / name).write_bytes(packet([], seq=seq))
            found[seq] = name
        return found

    def look(self, found: dict[int, str]) -> None:
        jumping.find_run(self.folder, STREAM, found, after=1, peer_key=KEY)


@pytest.fixture
def backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backlog:
    return Backlog(tmp_path, monkeypatch)


def test_each_packet_is_read_once_however_often_we_look(backlog: Backlog) -> None:
    found = backlog.put(3, 40)

    for _ in range(3):
        backlog.look(found)

    assert sorted(backlog.reads) == sorted(found.values())


def test_what_is_remembered_is_as_much_as_a_folder_may_list() -> None:
    assert parked.MAX_LOOKED_AT >= folders.MAX_LISTED


def test_when_there_is_more_than_is_remembered_the_oldest_gives_way_and_not_all(
    backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "MAX_LOOKED_AT", 10)
    old, new = backlog.put(3, 10), backlog.put(13, 4)
    backlog.look(old)
    backlog.look(new)
    backlog.reads.clear()

    backlog.look({seq: name for seq, name in {**old, **new}.items() if seq >= 7})
    kept = list(backlog.reads)
    backlog.look(old)

    assert kept == []
    assert len(parked._looks) == 10
    assert set(backlog.reads) >= {old[seq] for seq in (3, 4, 5, 6)}


def test_another_file_under_the_same_name_is_read_again(backlog: Backlog) -> None:
    found = backlog.put(3, 2)
    backlog.look(found)
    backlog.put(3, 1)

    backlog.look(found)

    assert sorted(backlog.reads) == sorted([found[3], found[3], found[4]])
