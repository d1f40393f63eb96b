"""Keys that are replaced while the program runs."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from estation.settings import InnerSettings, Settings
from estation.shared.key_files import OVERLAP_SECONDS, KeyFiles, WatchedKey


def number(*parts: bytes) -> list[int]:
    return [int(part) for part in parts]


@dataclass
class Machine:
    """A folder of secrets and both clocks."""

    folder: Path
    seconds: float = 1_000.0
    reads: int = 0

    def files(self) -> KeyFiles:
        return KeyFiles(
            self.read,
            lambda name: self.folder / name,
            monotonic=lambda: self.seconds,
            wall_seconds=lambda: self.seconds,
        )

    def read(self, name: str) -> bytes:
        self.reads += 1
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes, *, at: float) -> None:
        """Replaced as tools do: a new file, renamed over the old one."""
        fresh = self.folder / f"{name}.new"
        fresh.write_bytes(data)
        os.utime(fresh, (at, at))
        fresh.replace(self.folder / name)

    def later(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.write("one", b"1", at=0)
    machine.write("two", b"2", at=0)
    return machine


def turn(machine: Machine, key: WatchedKey[list[int]], looks: int = 2) -> list[int]:
    """The file's own change time is the real clock's, so quiet is two looks alike."""
    for _ in range(looks):
        machine.later(1)
        value = key.current()
    return value


def test_a_replaced_file_is_the_new_key(machine: Machine) -> None:
    key = machine.files().watch("one", parse=number)
    machine.write("one", b"10", at=5)

    assert key.current() == [1]
    assert turn(machine, key) == [10]


def test_a_file_that_has_long_held_still_is_taken_by_its_first_use(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("one", b"1", at=0)
    files = KeyFiles(
        machine.read,
        lambda name: tmp_path / name,
        monotonic=lambda: machine.seconds,
        wall_seconds=lambda: 10**11,
    )
    key = files.watch("one", parse=number)
    machine.write("one", b"10", at=5)

    machine.later(300)

    assert key.current() == [10]


def test_a_rewrite_of_equal_length_in_the_very_moment_of_reading_is_seen(
    machine: Machine,
) -> None:
    key = machine.files().watch("one", parse=number)
    stamp = (machine.folder / "one").stat()
    (machine.folder / "one").write_bytes(b"7")
    os.utime(machine.folder / "one", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert turn(machine, key) == [7]


def test_files_are_looked_at_no_more_than_once_a_second(machine: Machine) -> None:
    key = machine.files().watch("one", parse=number)
    turn(machine, key, looks=3)
    machine.write("one", b"10", at=5)
    machine.reads = 0

    for _ in range(1000):
        machine.later(0.0005)
        assert key.current() == [1]

    assert machine.reads == 0


@pytest.mark.parametrize("broken", [b"", b"-----BEGIN", b"\xff"])
def test_a_broken_file_keeps_the_key_and_says_so_once(machine: Machine, broken: bytes) -> None:
    key = machine.files().watch("one", parse=number)
    machine.write("one", broken, at=5)

    with capture_logs() as logs:
        assert turn(machine, key, looks=5) == [1]

    assert [line["event"] for line in logs] == ["secret_not_reloaded"]
    assert "BEGIN" not in repr(logs)
    machine.write("one", b"10", at=6)
    assert turn(machine, key) == [10]


def test_a_file_that_is_gone_for_a_while_keeps_the_key(machine: Machine) -> None:
    key = machine.files().watch("one", parse=number)
    (machine.folder / "one").unlink()

    with capture_logs() as logs:
        assert turn(machine, key, looks=4) == [1]

    assert [line["event"] for line in logs] == ["secret_not_reloaded"]
    machine.write("one", b"10", at=6)
    assert turn(machine, key) == [10]


def test_a_pair_changes_together(machine: Machine) -> None:
    key = machine.files().watch("one", "two", parse=number)
    machine.write("one", b"10", at=5)
    machine.later(1)
    assert key.current() == [1, 2]
    machine.write("two", b"20", at=6)
    machine.later(1)
    assert key.current() == [1, 2]  # Not [10, 2], and [10, 20] only when nobody writes any more.

    machine.later(1)

    assert key.current() == [10, 20]


def test_the_replaced_key_reads_for_a_day(machine: Machine) -> None:
    key = machine.files().watch("one", parse=number)
    assert key.with_previous() == ([1],)
    machine.write("one", b"10", at=5)
    turn(machine, key)

    assert key.with_previous() == ([10], [1])
    machine.later(OVERLAP_SECONDS)
    assert key.with_previous() == ([10],)


def test_a_first_key_that_cannot_be_read_stops_the_start(machine: Machine) -> None:
    machine.write("one", b"x", at=0)

    with pytest.raises(ValueError, match="invalid literal"):
        machine.files().watch("one", parse=number)
    with pytest.raises(OSError, match="three"):
        machine.files().watch("three", parse=number)


@pytest.mark.parametrize("side", [Settings, InnerSettings])
def test_a_secret_from_the_environment_is_used_and_never_looked_at_again(
    side: type[Settings | InnerSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = side(secrets_dir=tmp_path)
    monkeypatch.setenv("ESTATION_SECRET_WECHAT_PAY_API_V3_KEY", "0123")

    assert settings.secret("wechat_pay/api_v3.key") == b"0123"
    assert settings.secret_path("wechat_pay/api_v3.key") is None
    assert settings.secret_path("other.pem") == tmp_path / "other.pem"
    key = KeyFiles.of(settings).watch("wechat_pay/api_v3.key", parse=number)
    monkeypatch.delenv("ESTATION_SECRET_WECHAT_PAY_API_V3_KEY")
    assert key.current() == [123]
