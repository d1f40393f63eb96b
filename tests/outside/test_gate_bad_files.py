"""Whatever else lies in the folder is refused with its reason, and nothing behind it is lost."""

import base64
import errno
import hashlib
import os
import socket
import stat
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from msgspec import Struct, structs

from estation.outside.gate import (
    folders,
    judging,
    keys,
    positions,
    proving,
    receiving,
    reporting,
    rows,
    sending,
    status,
)
from estation.outside.gate import format as packets
from estation.outside.gate.errors import Reason, RowRefused
from estation.outside.gate.receiving import Arrival
from tests.outside.gate_side import PRIVATE, PUBLIC, STREAM, T0, Sides, bill, names, position, query

OTHER_PRIVATE, _ = keys.make_key()


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def packet(
    lines: Sequence[bytes],
    *,
    seq: int = 1,
    previous: str = packets.NO_PREVIOUS,
    stream: str = STREAM,
    private: bytes = PRIVATE,
) -> bytes:
    """A rightly sealed file with any lines."""
    built = packets.build(
        stream=stream,
        seq=seq,
        previous=previous,
        lines=lines,
        watermark=T0,
        created_at=T0,
        key=keys.load_seal_key(private),
    )
    return built.manifest + b"\n" + built.body


def sealed(body: bytes, **fields: object) -> bytes:
    """A rightly sealed file with any body and any manifest fields: a malicious peer."""
    manifest: dict[str, object] = {
        "format": "estation-gate",
        "version": 1,
        "stream": STREAM,
        "seq": 1,
        "previous": packets.NO_PREVIOUS,
        "count": 1,
        "lines_length": 100,
        "body_length": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
        "watermark": "2026-03-02T09:00:00Z",
        "created_at": "2026-03-02T09:00:00Z",
        **fields,
    }
    key = keys.load_seal_key(PRIVATE)
    signature = base64.b64encode(key.sign(packets.canonical(manifest))).decode()
    seal = {"algorithm": key.algorithm, "key": key.key_id, "signature": signature}
    return packets.canonical({**manifest, "seal": seal}) + b"\n" + body


def a_line(**changes: object) -> bytes:
    """A fee_bill line whose row was changed after it was checked."""
    row = {**msgspec.to_builtins(bill(1)), **changes}
    return packets.line("fee_bill", msgspec.json.encode(row))


def item_line(**changes: object) -> bytes:
    row = msgspec.to_builtins(bill(1))
    row["items"][0].update(changes)
    return packets.line("fee_bill", msgspec.json.encode(row))


def zstd(text: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(text)


def wide_window(text: bytes) -> bytes:
    """A frame that asks its reader for 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packing = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packing.compress(text) + packing.flush()


GOOD = packet([a_line()])
HEAD, _, BODY = GOOD.partition(b"\n")
GIANT = packets.line("fee_bill", b'{"x":"' + b"x" * packets.MAX_LINE_BYTES + b'"}')
BOMB = zstd(b"\0" * 64_000_000)
NOT_UTF8 = b'{"row":"\xff","topic":"fee_bill"}\n'
DEEP = b'{"row":' + b"[" * 200_000 + b"]" * 200_000 + b',"topic":"fee_bill"}'


@dataclass(frozen=True)
class Bad:
    data: bytes
    reason: Reason


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


BAD = {
    "empty file": Bad(b"", Reason.bad_manifest),
    "no line feed": Bad(b"x" * 100_000, Reason.bad_manifest),
    "not JSON": Bad(b"hello\n" + BODY, Reason.bad_manifest),
    "JSON, but a list": Bad(b"[]\n" + BODY, Reason.bad_manifest),
    "deep manifest": Bad(b"[" * 8000 + b"\n", Reason.bad_manifest),
    "manifest not UTF-8": Bad(b'{"format":"\xff"}\n', Reason.bad_manifest),
    "manifest with white space": Bad(b" " + GOOD, Reason.bad_manifest),
    "manifest with a doubled key": Bad(b'{"body_length":1,' + GOOD[1:], Reason.bad_manifest),
    "manifest without seal": Bad(
        packets.canonical({k: v for k, v in msgspec.json.decode(HEAD).items() if k != "seal"})
        + b"\n"
        + BODY,
        Reason.bad_manifest,
    ),
    "version of the future": Bad(sealed(BODY, version=2), Reason.unsupported_version),
    "negative count": Bad(sealed(BODY, count=-1), Reason.bad_manifest),
    "count as float": Bad(sealed(BODY, count=1.0), Reason.bad_manifest),
    "watermark without zone": Bad(
        sealed(BODY, watermark="2026-03-02T09:00:00"), Reason.bad_manifest
    ),
    "digest with a line feed": Bad(sealed(BODY, digest="0" * 64 + "\n"), Reason.bad_manifest),
    "path as stream": Bad(sealed(BODY, stream="../../etc"), Reason.bad_manifest),
    "seq of another file": Bad(packet([], seq=2), Reason.name_mismatch),
    "other stream inside": Bad(packet([], stream="county-online"), Reason.foreign_stream),
    "sealed by a stranger": Bad(packet([a_line()], private=OTHER_PRIVATE), Reason.bad_seal),
    "signature not base64": Bad(GOOD.replace(b'"signature":"', b'"signature":"!'), Reason.bad_seal),
    "flipped bit in the manifest": Bad(
        flipped(GOOD, GOOD.index(b'"count":1') + 8), Reason.bad_seal
    ),
    "flipped bit in the body": Bad(flipped(GOOD, len(GOOD) - 5), Reason.bad_digest),
    "truncated": Bad(GOOD[:-1], Reason.truncated),
    "cut inside the manifest": Bad(GOOD[:100], Reason.bad_manifest),
    "something appended": Bad(GOOD + b"x", Reason.truncated),
    "body is not zstd": Bad(sealed(b"plain text"), Reason.bad_body),
    "two zstd frames": Bad(
        sealed(zstd(b"{}\n") + zstd(b"{}\n"), count=2, lines_length=6), Reason.bad_body
    ),
    "bomb that says its size": Bad(
        sealed(BOMB, lines_length=packets.MAX_LINES_BYTES), Reason.zip_bomb
    ),
    "bomb that lies": Bad(sealed(BOMB, lines_length=1000), Reason.zip_bomb),
    "bomb beyond every limit": Bad(sealed(BOMB, lines_length=10**12), Reason.bad_manifest),
    "more rows than said": Bad(
        sealed(zstd(b"{}\n{}\n"), count=1, lines_length=6), Reason.bad_count
    ),
    "fewer rows than said": Bad(sealed(zstd(b"{}\n"), count=2, lines_length=3), Reason.bad_count),
    "more rows than allowed": Bad(
        sealed(zstd(b"\n" * 20_001), count=20_001, lines_length=20_001), Reason.bad_manifest
    ),
    "last line without end": Bad(sealed(zstd(b"{}"), lines_length=2), Reason.bad_body),
    "body not UTF-8": Bad(sealed(zstd(NOT_UTF8), lines_length=len(NOT_UTF8)), Reason.bad_encoding),
    "body in UTF-16": Bad(
        sealed(zstd(a_line().decode().encode("utf-16") + b"\n"), lines_length=10**6),
        Reason.bad_body,
    ),
    "byte order mark": Bad(packet([b"\xef\xbb\xbf" + a_line()]), Reason.bad_row),
    "half a surrogate pair": Bad(
        packet([a_line(title="@").replace(b'"@"', b'"\\ud800"')]), Reason.bad_row
    ),
    "window beyond what we allow": Bad(
        sealed(wide_window(a_line() + b"\n"), lines_length=len(a_line()) + 1), Reason.bad_body
    ),
    "deep JSON in an unknown field": Bad(
        packet([a_line(x="@").replace(b'"@"', b"[" * 200_000 + b"]" * 200_000)]), Reason.bad_row
    ),
    "giant row": Bad(packet([GIANT]), Reason.row_too_long),
    "line is no JSON": Bad(packet([b"{row}"]), Reason.bad_row),
    "line is a list": Bad(packet([b"[1,2]"]), Reason.bad_row),
    "line without topic": Bad(packet([b'{"row":{}}']), Reason.bad_row),
    "deep JSON": Bad(packet([DEEP]), Reason.bad_row),
    "row of wrong type": Bad(packet([a_line(total_fen="12")]), Reason.bad_row),
    "float money": Bad(packet([a_line(total_fen=100.0)]), Reason.bad_row),
    "float money inside": Bad(packet([item_line(amount_fen=8175.24)]), Reason.bad_row),
    "negative money": Bad(packet([item_line(amount_fen=-1)]), Reason.bad_row),
    "money beyond belief": Bad(packet([a_line(total_fen=2**63)]), Reason.bad_row),
    "time without zone": Bad(packet([a_line(issued_at="2026-03-02T09:00:00")]), Reason.bad_row),
    "missing field": Bad(packet([packets.line("fee_bill", b'{"source":"x"}')]), Reason.bad_row),
    "NUL character": Bad(packet([a_line(title="a\x00b")]), Reason.bad_encoding),
    "one bad row among good ones": Bad(
        packet([a_line(), a_line(version=0), a_line()]), Reason.bad_row
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_file_is_set_aside_and_a_good_copy_heals(sides: Sides, name: str) -> None:
    bad = BAD[name]
    await sides.send(1)
    await sides.send(2)
    good = sides.incoming_file(1).read_bytes()
    sides.incoming_file(1).write_bytes(bad.data)

    report = await sides.receive()
    stood = await position()
    kept = await query("select * from gate_incoming_file where state = 'quarantined'")
    sides.incoming_file(1).write_bytes(good)
    await sides.receive()

    assert report.quarantined == [(sides.incoming_file(1).name, bad.reason)]
    assert stood == (0, bad.reason.value)
    assert [(row["reason"], row["seq"]) for row in kept] == [(bad.reason.value, 1)]
    assert (sides.quarantine / kept[0]["kept_as"]).read_bytes() == bad.data
    assert "林晓舟" not in kept[0]["detail"]
    assert sides.seen == names(1, 2)
    assert await position() == (2, "")


async def test_every_single_flipped_bit_is_refused(sides: Sides) -> None:
    """Not one of the file's bits can change without somebody noticing."""
    peer = keys.load_peer_key(PUBLIC)
    accepted = []
    for place in range(len(GOOD)):
        for bit in range(8):
            data = bytearray(GOOD)
            data[place] ^= 1 << bit
            try:
                head = packets.read_head(bytes(data))
                packets.check_name(head, stream=STREAM, seq=1)
                packets.check_seal(head, peer)
                list(packets.read_lines(bytes(data), head))
            except packets.BadPacket:
                continue
            accepted.append((place, bit))

    assert accepted == []


async def test_a_large_file_is_refused_unread(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides.incoming.mkdir(parents=True)
    with sides.incoming_file(1).open("wb") as file:
        file.truncate(packets.MAX_FILE_BYTES + 1)

    report = await sides.receive()

    assert report.quarantined == [(sides.incoming_file(1).name, Reason.too_large)]


NAMES = {
    "notes.txt": Reason.foreign_name,
    "jc-center-online-1.gate": Reason.foreign_name,
    "jc-center-online-0000000001.gate.exe": Reason.foreign_name,
    "jc-center-online-０００００００００１.gate": Reason.foreign_name,
    "..\\..\\jc-center-online-0000000001.gate": Reason.foreign_name,
    "%2e%2e%2fjc-center-online-0000000001.gate": Reason.foreign_name,
    "jc-center-online-0000000001.gate\n": Reason.foreign_name,
    ".hidden": Reason.foreign_name,
    "-rf": Reason.foreign_name,
    "x" * 255: Reason.foreign_name,
    "county-online-0000000001.gate": Reason.foreign_stream,
}


@pytest.mark.parametrize("name", NAMES)
async def test_foreign_names_are_set_aside_and_stop_nothing(sides: Sides, name: str) -> None:
    await sides.send(1)
    (sides.incoming / name).write_bytes(b"x")

    report = await sides.receive()

    kept = await query("select file_name, kept_as from gate_incoming_file where state <> 'applied'")
    assert report.quarantined == [(name, NAMES[name])]
    assert sides.seen == names(1)
    assert await position() == (1, "")
    assert list(sides.incoming.iterdir()) == []
    assert (sides.quarantine / kept[0]["kept_as"]).read_bytes() == b"x"
    assert kept[0]["file_name"].isascii()


async def test_a_packet_the_device_is_still_writing_is_left_alone(sides: Sides) -> None:
    sides.incoming.mkdir(parents=True)
    unfinished = [".jc-center-online-0000000001.gate.part", ".jc-center-online-0000000002.gate.Xa9"]
    for name in unfinished:
        (sides.incoming / name).write_bytes(b"x")

    report = await sides.receive()

    assert report.quarantined == []
    assert sorted(path.name for path in sides.incoming.iterdir()) == unfinished


async def test_a_name_that_is_not_even_text_is_set_aside(sides: Sides) -> None:
    await sides.send(1)
    (sides.incoming / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")

    report = await sides.receive()

    assert [reason for _, reason in report.quarantined] == [Reason.foreign_name]
    assert sides.seen == names(1)


async def test_links_and_folders_are_never_followed(sides: Sides, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    sides.incoming.mkdir(parents=True)
    sides.incoming_file(1).symlink_to(secret)
    sides.incoming_file(2).mkdir()
    os.mkfifo(sides.incoming_file(3))

    report = await sides.receive()

    assert [reason for _, reason in report.quarantined] == [Reason.not_a_file] * 3
    assert secret.read_bytes() == b"secret"
    assert list(sides.incoming.iterdir()) == []
    assert await position() == (0, "")


async def test_sockets_devices_and_full_folders_are_set_aside(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "QUARANTINE_MAX_FILES", 1)
    sides.incoming.mkdir(parents=True)
    sides.incoming_file(1).mkdir()
    (sides.incoming_file(1) / "inside").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(sides.incoming)  # the address of a socket is short
        server.bind(sides.incoming_file(2).name)
    expected = 2
    if os.geteuid() == 0:
        os.mknod(sides.incoming_file(3), 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
        expected = 3

    report = await sides.receive()

    assert [reason for _, reason in report.quarantined] == [Reason.not_a_file] * expected
    assert list(sides.incoming.iterdir()) == []
    assert len(list(sides.quarantine.iterdir())) == 1


async def test_a_flood_of_junk_hides_no_packet_and_is_gone_soon(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_LISTED", 1500)
    monkeypatch.setattr(receiving, "FLOOD", 300)
    sides.incoming.mkdir(parents=True)
    for number in range(2000):
        (sides.incoming / f"{number:08x}").touch()
    for number in range(200):
        (sides.incoming / f"dir-{number}").mkdir()
        (sides.incoming / f"county-online-{number:010d}.gate").touch()
    await sides.send(1, 2)
    await sides.send(3)

    reports = [await sides.receive()]
    hidden_none = list(sides.seen)
    for _ in range(12):
        reports.append(await sides.receive())

    floods = await query("select detail from gate_incoming_file where reason = 'flood'")
    assert reports[0].applied == [1, 2]
    assert hidden_none == names(1, 2, 3)
    assert list(sides.incoming.iterdir()) == []
    assert 1 <= len(floods) <= 3
    assert len(list(sides.quarantine.iterdir())) <= folders.QUARANTINE_MAX_FILES
    assert await position() == (2, "")


class Refusing:
    """`os.rename` and `os.unlink` as they are for who may not touch these entries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.names = set(names)
        for call in ("rename", "unlink"):
            monkeypatch.setattr(folders.os, call, self._instead_of(getattr(os, call)))

    def _instead_of(self, real: Any) -> Any:
        def call(path: Any, *more: Any, **options: Any) -> None:
            if Path(os.fsdecode(path)).name in self.names:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            real(path, *more, **options)

        return call


async def test_what_we_may_not_move_stays_is_told_once_and_stops_nothing(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing(monkeypatch, "their-folder", "their-file")
    sides.incoming.mkdir(parents=True)
    (sides.incoming / "their-folder").mkdir()
    (sides.incoming / "their-file").write_bytes(b"x")

    for number in (1, 2, 3):
        await sides.send(number)
        await sides.receive()
    monkeypatch.setattr(receiving, "_left", {})  # as after a restart
    await sides.receive()

    told = await query("select kind, distinction, reason from gate_event order by distinction")
    assert sides.seen == names(1, 2, 3)
    assert told == [
        {"kind": "left", "distinction": "their-file", "reason": "foreign_name"},
        {"kind": "left", "distinction": "their-folder", "reason": "not_a_file"},
    ]
    assert await query("select id from gate_incoming_file where state = 'quarantined'") == []
    assert sorted(path.name for path in sides.incoming.iterdir()) == ["their-file", "their-folder"]

    refusing.names.clear()
    (sides.incoming / "their-folder").chmod(0o777)  # somebody let us
    await sides.receive()
    assert [path.name for path in sides.incoming.iterdir()] == ["their-file"]


async def test_however_much_we_may_not_move_hides_no_other_stray(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = [f"theirs-{number}" for number in range(120)]
    Refusing(monkeypatch, *theirs)
    monkeypatch.setattr(receiving, "FLOOD", 100)
    sides.incoming.mkdir(parents=True)
    for name in [*theirs, "ours"]:
        (sides.incoming / name).write_bytes(b"x")
    await sides.send(1)

    for _ in range(4):
        await sides.receive()

    assert sides.seen == names(1)
    assert sorted(path.name for path in sides.incoming.iterdir()) == sorted(theirs)
    assert len(await query("select id from gate_incoming_file where reason = 'flood'")) <= 1


@pytest.mark.parametrize("row", [b"1", b'"text"', b"null", b"[]", b"[{}]", b"  true"])
async def test_a_row_of_an_unknown_topic_is_an_object_too(sides: Sides, row: bytes) -> None:
    line = b'{"topic":"hall_calendar","row":' + row + b"}"
    sides.incoming.mkdir(parents=True)
    sides.incoming_file(1).write_bytes(packet([line]))

    report = await sides.receive()

    assert report.quarantined == [(sides.incoming_file(1).name, Reason.bad_row)]
    assert await query("select id from gate_parked_row") == []
    assert await position() == (0, "bad_row")


async def test_an_object_of_an_unknown_topic_is_parked_whatever_white_space_is_before_it(
    sides: Sides,
) -> None:
    sides.incoming.mkdir(parents=True)
    sides.incoming_file(1).write_bytes(packet([b'{"topic":"hall_calendar","row":  \t{"a":1}}']))

    report = await sides.receive()

    assert (report.applied, report.parked_rows) == ([1], 1)


async def test_a_bad_packet_that_we_may_not_move_waits_for_the_good_one_in_its_place(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sides.send(1)
    file = sides.incoming_file(1)
    good = file.read_bytes()
    refusing = Refusing(monkeypatch, file.name)
    file.write_bytes(good[:-1])

    for _ in range(3):
        await sides.receive()
    stopped = await position()
    refusing.names.clear()
    file.write_bytes(good)
    await sides.receive()

    assert stopped == (0, "truncated")
    assert len(await query("select id from gate_event where kind = 'left'")) == 1
    assert await query("select id from gate_incoming_file where state = 'quarantined'") == []
    assert (sides.seen, await position()) == (names(1), (1, ""))


async def test_a_handful_of_junk_is_kept_as_evidence(sides: Sides) -> None:
    sides.incoming.mkdir(parents=True)
    for number in range(120):
        (sides.incoming / f"{number}").write_bytes(b"%d" % number)

    for _ in range(3):
        await sides.receive()

    kept = await query("select count(*) as n from gate_incoming_file where reason = 'foreign_name'")
    assert kept[0]["n"] == len(list(sides.quarantine.iterdir())) == 120


async def test_another_packet_for_an_applied_position_is_a_fork(sides: Sides) -> None:
    """Two senders with one key, or a sender restored from an old backup."""
    await sides.send(1)
    await sides.receive()
    sides.incoming_file(1).write_bytes(packet([a_line(source_id="forged")]))

    report = await sides.receive()
    await sides.send(2)
    standing = await sides.receive()
    await receiving.resume(STREAM)
    resumed = await sides.receive()

    assert report.quarantined == [(sides.incoming_file(1).name, Reason.fork)]
    assert (standing.applied, standing.stopped_reason) == ([], "fork")
    assert resumed.applied == [2]
    assert sides.seen == names(1, 2)


async def test_a_packet_that_continues_another_history_is_a_fork(sides: Sides) -> None:
    await sides.send(1)
    await sides.receive()
    sides.incoming_file(2).write_bytes(packet([a_line()], seq=2, previous="1" * 64))

    report = await sides.receive()

    assert report.quarantined == [(sides.incoming_file(2).name, Reason.fork)]
    assert sides.seen == names(1)
    assert await position() == (1, "fork")


async def test_a_stopped_stream_says_exactly_why_and_nothing_behind_the_fork_is_lost(
    sides: Sides,
) -> None:
    await sides.send(1)
    await sides.receive()
    sides.incoming_file(1).write_bytes(packet([a_line(source_id="forged")]))
    await sides.receive()
    for number in (2, 3):
        await sides.send(number)
        await sides.receive()

    (shown,) = [one for one in await status.stream_status() if one.direction == "in"]

    assert (shown.state, shown.reason) == (
        "stopped",
        "fork: seq 1 was applied with another content",
    )
    assert (shown.stopped_at, shown.parked_files, shown.quarantined_files) == (sides.now, 1, 1)
    assert sides.incoming_file(2).exists()
    assert sides.incoming_file(3).exists()
    assert sides.seen == names(1)


async def test_a_replayed_old_stream_changes_nothing_and_stops_nothing(sides: Sides) -> None:
    for number in range(1, 6):
        await sides.send(number)
    kept = {path.name: path.read_bytes() for path in sides.incoming.iterdir()}
    await sides.receive()
    for _ in range(2):
        for name, content in kept.items():
            (sides.incoming / name).write_bytes(content)
        replayed = await sides.receive()
    await sides.send(6)
    await sides.receive()

    assert (replayed.applied, replayed.duplicates, replayed.quarantined) == ([], 5, [])
    assert sides.seen == names(*range(1, 7))
    assert await position() == (6, "")
    assert list(sides.incoming.iterdir()) == []


async def test_a_sender_that_begins_anew_at_one_is_a_fork(sides: Sides) -> None:
    """Restored from nothing, under the same key: what it sends is not what was applied as 1."""
    for number in (1, 2):
        await sides.send(number)
    await sides.receive()
    old = packet([a_line(source_id="F000099")], seq=1)
    sides.incoming_file(1).write_bytes(old)
    sides.incoming_file(2).write_bytes(packet([a_line()], seq=2, previous="1" * 64))

    await sides.receive()

    assert sides.seen == names(1, 2)
    assert await position() == (2, "fork")


async def test_a_fork_stays_said_whatever_comes_after_it(sides: Sides) -> None:
    await sides.send(1)
    await sides.receive()
    sides.incoming_file(2).write_bytes(packet([a_line()], seq=2, previous="1" * 64))
    await sides.receive()
    await sides.put(2)
    sides.incoming_file(3).write_bytes(b"junk")

    await sides.receive()

    assert await position() == (1, "fork")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: flipped(data, data.index(b'"count":1') + 8),
        lambda data: b"junk",
        lambda data: packet([], private=OTHER_PRIVATE),
    ],
    ids=["flipped bit", "junk", "stranger's seal"],
)
async def test_a_damaged_repeat_stops_nothing(
    sides: Sides, damage: Callable[[bytes], bytes]
) -> None:
    await sides.send(1)
    copy = sides.incoming_file(1).read_bytes()
    await sides.receive()
    sides.incoming_file(1).write_bytes(damage(copy))
    await sides.send(2)

    report = await sides.receive()

    assert len(report.quarantined) == 1
    assert sides.seen == names(1, 2)
    assert await position() == (2, "")


async def test_a_row_the_handler_can_never_accept_is_a_bad_row(sides: Sides) -> None:
    await sides.send(1)

    async def refuses(found: Sequence[Struct], arrival: Arrival) -> None:
        raise RowRefused("region 999999 is not this source's")

    report = await sides.receive(refuses)

    assert report.quarantined == [(sides.incoming_file(1).name, Reason.bad_row)]
    assert await position() == (0, "bad_row")


async def test_a_quarantined_file_is_released_when_the_cause_is_gone(sides: Sides) -> None:
    await sides.send(1)

    async def refuses(found: Sequence[Struct], arrival: Arrival) -> None:
        raise RowRefused("payee 'maintenance_fund' is not known here")

    await sides.receive(refuses)

    released = await receiving.release(STREAM, 1, folder=sides.incoming)
    again = await receiving.release(STREAM, 1, folder=sides.incoming)
    await sides.receive()

    assert (released, again) == (True, False)
    assert sides.seen == names(1)
    assert await position() == (1, "")


async def test_the_same_bad_bytes_again_and_again_fill_nothing(sides: Sides) -> None:
    sides.incoming.mkdir(parents=True)
    for _ in range(5):
        sides.incoming_file(1).write_bytes(b"junk")
        await sides.receive()

    rows = await query("select times from gate_incoming_file")
    assert [row["times"] for row in rows] == [5]
    assert len(list(sides.quarantine.iterdir())) == 1


async def test_the_quarantine_is_bounded_and_keeps_the_newest(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "QUARANTINE_MAX_FILES", 3)
    sides.incoming.mkdir(parents=True)
    for number in range(8):
        (sides.incoming / f"stray-{number}").write_bytes(b"%d" % number)
        await sides.receive()

    kept = sorted(path.read_bytes() for path in sides.quarantine.iterdir())
    assert kept == [b"5", b"6", b"7"]
    assert (await status.stream_status())[0].quarantined_files == 8


async def test_without_the_position_check_a_repeat_would_be_applied_twice(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the row lock and position are what keeps two importers apart."""

    async def always(*_: object) -> bool:
        return True

    await sides.send(1)
    copy = sides.incoming_file(1).read_bytes()
    await sides.receive()
    monkeypatch.setattr(receiving._Importer, "_still_next", always)
    stale = positions.Position(0, packets.NO_PREVIOUS, "", 0, None, 0)
    sides.incoming_file(1).write_bytes(copy)
    importer = receiving._Importer(
        STREAM,
        sides.incoming,
        keys.load_peer_key(PUBLIC),
        {"fee_bill": sides.remember},
        proving.Prover({}, None, None, T0),
        reporting.PeersWord(None, now=T0),
        T0,
    )

    await importer._apply_next(stale, sides.incoming_file(1).name)

    assert sides.seen == names(1, 1)


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "1899-12-31T23:59:59Z"],
)
async def test_a_moment_no_table_holds_is_refused_with_its_packet(
    sides: Sides, moment: str
) -> None:
    sides.incoming.mkdir(parents=True)
    sides.incoming_file(1).write_bytes(packet([a_line(issued_at=moment)]))
    of_a_row = await sides.receive()
    stopped = await position()
    for field in ("watermark", "created_at"):
        sides.incoming_file(1).write_bytes(sealed(b"", **{field: moment}))
        of_a_manifest = await sides.receive()
        assert [reason for _, reason in of_a_manifest.quarantined] == [Reason.bad_manifest]

    sides.incoming_file(1).write_bytes(packet([a_line()]))
    right = await sides.receive()

    assert [reason for _, reason in of_a_row.quarantined] == [Reason.bad_row]
    assert stopped == (0, "bad_row")
    assert right.applied == [1]


async def test_our_own_side_never_sends_such_a_moment(sides: Sides) -> None:
    stage = rows.StageRow(stage="tax", state="done", at=T0.replace(year=2201))
    case = rows.CaseRow(
        source="jc-center", source_id="C1", version=1, region="360102", case_no="C1",
        matter="RESALE_TRANSFER", hall="", unit_code="", address="", opened_at=T0, state="open",
        parties=[], stages=[structs.replace(stage, at=None), stage],
    )  # fmt: skip

    with pytest.raises(rows.BadRow, match=r"year - at `\$.stages\[1\].at`"):
        await sending.put_rows(STREAM, "case", [case], now=T0)

    assert await query("select 1 from gate_outgoing_row") == []


@pytest.mark.parametrize("value", ["'x'::int", "99999999999::int", "'0001-01-01'::date - 9999999"])
async def test_a_row_whose_value_the_database_refuses_is_a_bad_row(
    sides: Sides, value: str
) -> None:
    async def stores(found: Sequence[Struct], arrival: Arrival) -> None:
        await query(f"select {value}")

    await sides.send(1)

    refused = await sides.receive(stores)

    assert [reason for _, reason in refused.quarantined] == [Reason.bad_row]
    assert await position() == (0, "bad_row")


async def test_a_row_whose_value_no_calendar_holds_is_a_bad_row(sides: Sides) -> None:
    async def reckons(found: Sequence[Struct], arrival: Arrival) -> None:
        timedelta(days=10**10)

    await sides.send(1)

    refused = await sides.receive(reckons)

    assert [reason for _, reason in refused.quarantined] == [Reason.bad_row]


async def test_repeats_however_many_do_not_hold_up_what_is_next(
    sides: Sides,
) -> None:
    for number in (1, 2, 3):
        await sides.send(number)
    await sides.receive()
    await sides.send(4)
    for seq in (1, 2, 3):
        sides.incoming_file(seq).write_bytes(b"junk %d" % seq)

    first = await sides.receive(max_files=2)
    second = await sides.receive(max_files=2)

    assert first.applied == [4]
    assert len(first.quarantined) == 2
    assert len(second.quarantined) == 1
    assert list(sides.incoming.iterdir()) == []


async def test_records_of_refused_files_are_bounded_the_newest_are_kept(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "KEEP_QUARANTINED", 3)
    await sides.send(1)
    for number in range(5):
        sides.incoming_file(1).write_bytes(b"junk %d" % number)
        await sides.receive()
        sides.later(1)

    kept = await query("select received_at from gate_incoming_file order by received_at")
    assert [row["received_at"] for row in kept] == [T0 + timedelta(seconds=n) for n in (2, 3, 4)]


def test_the_largest_packet_is_not_held_line_by_line_beside_its_text() -> None:
    row = (
        b'{"source":"jc-center","text":"'
        + os.urandom(500_000).hex().encode()
        + "😀".encode()
        + b'"}'
    )
    lines = [packets.line("hall_calendar", row)] * 33
    data = packet(lines)
    head = packets.read_head(data)
    assert head.manifest.lines_length > 0.98 * packets.MAX_LINES_BYTES
    tracemalloc.start()

    read = sum(len(bytes(line.row)) for line in packets.read_lines(data, head))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == 33 * len(row)
    assert peak < 1.5 * packets.MAX_LINES_BYTES


async def test_what_a_copying_tool_never_ended_goes_after_an_hour(sides: Sides) -> None:
    sides.incoming.mkdir(parents=True)
    for number in range(3):
        (sides.incoming / f".{packets.file_name(STREAM, 1)}.Ab{number:04d}").write_bytes(b"x")
    (sides.incoming / f".{packets.file_name(STREAM, 2)}.dir").mkdir()
    begun = datetime.now(UTC)

    sides.now = begun + timedelta(minutes=59)
    await sides.receive()
    early = len(os.listdir(sides.incoming))
    sides.now = begun + timedelta(minutes=61)
    await sides.receive()

    assert early == 4
    assert os.listdir(sides.incoming) == []


@pytest.mark.parametrize(
    "number", [b"1.5", b"1e2", b"1.0", b"18446744073709551616", b"-%d" % 2**64]
)
async def test_an_unknown_fields_number_is_an_integer_of_64_bits(
    sides: Sides, number: bytes
) -> None:
    row = msgspec.json.encode(bill(1))[:-1] + b',"later":[{"x":' + number + b"}]}"
    path = sides.incoming_file(1)
    path.parent.mkdir(parents=True)
    path.write_bytes(packet([packets.line("fee_bill", row)]))
    judged = judging.judge(path, [keys.load_peer_key(PUBLIC)])

    report = await sides.receive()

    assert [reason for _, reason in report.quarantined] == [Reason.bad_row]
    assert not judged.passed
    assert sides.seen == []
