"""Packets of somebody else: an independent writer's are accepted everywhere, and every way of
writing them wrongly is named rightly."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard
from typer.testing import CliRunner

from estation import cli, gate_kit_commands
from estation.cases import packets as case_packets
from estation.fees import packets as fee_packets
from estation.outside.gate import conformance, folders, judging, keys, receiving
from tests.identity.people import VAULT
from tests.outside import gate_document, tiny_writer
from tests.outside.gate_side import PUBLIC as OWN_PUBLIC
from tests.outside.gate_side import Sides, position, query
from tests.outside.tiny_writer import Row, Writer

STREAM = "jc-center-online"
AT = "2026-03-02T09:00:30Z"
NOW = datetime(2026, 3, 2, 9, 1, tzinfo=UTC)
KEY = tiny_writer.Ed25519Key(bytes(range(32)))
STRANGER = tiny_writer.Ed25519Key(bytes(range(1, 33)))
PUBLIC = gate_document.VECTORS / "keys" / "ed25519.public.pem"
PEER = keys.load_peer_key(PUBLIC.read_bytes())
EXAMPLE: dict[str, Row] = {
    topic: json.loads(text) for topic, text in gate_document.examples(gate_document.text())
}
BILL = EXAMPLE["fee_bill"]
OF_THINGS = ("unit", "right", "restriction", "certificate", "case", "case_event", "fee_bill")


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "incoming", STREAM, KEY, at=AT)


def bill(number: int, **changes: Any) -> Row:
    row = {**BILL, "source_id": f"F{number:06d}", "bill_no": f"JF{number:08d}"}
    return {**row, **changes}


# What is right


async def test_an_independent_writers_packets_fill_real_tables(
    database: str, writer: Writer, tmp_path: Path
) -> None:
    writer.write(("case", EXAMPLE["case"]))
    writer.write(("fee_bill", bill(1)), ("fee_bill", bill(2, unheard_of={"x": [1]})))
    writer.write()
    writer.write(("fee_bill", bill(1, version=2, title="更正")), ("weather", {"sky": "晴"}))
    writer.write(*writer.snapshot("S-1"))
    judged = conformance.conform(writer.folder, [PEER])

    report = await receiving.apply_incoming(
        STREAM,
        folder=writer.folder,
        peer_key=PEER,
        handlers={
            "case": case_packets.make_handler(VAULT),
            "fee_bill": fee_packets.make_handler(VAULT, payees={"treasury"}),
        },
        now=NOW,
    )

    bills = await query("select source_id, version, title from bill order by source_id")
    cases = await query("select source_id, case_no from case_record")
    assert judged.passed
    assert report.applied == [1, 2, 3, 4, 5]
    assert [tuple(row.values()) for row in bills] == [
        ("F000001", 2, "更正"),
        ("F000002", 1, "存量房买卖税费"),
    ]
    assert [row["case_no"] for row in cases] == [EXAMPLE["case"]["case_no"]]
    assert await position() == (5, "")


def test_its_sm2_packets_are_accepted_too(tmp_path: Path) -> None:
    pytest.importorskip("gmssl_pyx", reason="the extra `sm` is not installed")
    key = tiny_writer.Sm2Key(bytes(range(32)))
    writer = Writer(tmp_path / "in", STREAM, KEY, at=AT)
    writer.write(("fee_bill", bill(1)))
    writer.key = key
    writer.write(("fee_bill", bill(2)))
    peers = [PEER, keys.Sm2Peer(key.public)]

    assert conformance.conform(writer.folder, peers).passed
    assert [one.rule for one in conformance.conform(writer.folder, [PEER]).streams[0].findings] == [
        "bad_seal"
    ]


def test_without_a_key_everything_but_the_seal_is_judged(writer: Writer) -> None:
    found = judging.judge(writer.write(("fee_bill", bill(1))))

    assert found.passed
    assert {rule for rule, v in found.verdicts.items() if v is not judging.Verdict.passed} == {
        judging.Reason.bad_seal
    }


def test_a_folder_may_begin_anywhere_and_is_whole_behind_a_snapshot(writer: Writer) -> None:
    for number in (1, 2, 3):
        writer.write(("fee_bill", bill(number)))
    writer.write(("proof", writer.proof("fee_bill", "jc-center")))
    writer.write(*writer.snapshot("S-1"))
    writer.write(("proof", writer.proof("fee_bill", "jc-center")))
    for seq in (1, 2):
        (writer.folder / tiny_writer.file_name(STREAM, seq)).unlink()

    report = conformance.conform(writer.folder, [PEER])

    (stream,) = report.streams
    assert report.passed
    assert (stream.first_seq, stream.snapshots, stream.proofs) == (3, 1, 2)
    assert any("cannot be judged" in note for note in stream.notes)


async def test_our_own_senders_packets_conform(database: str, tmp_path: Path) -> None:
    sides = Sides(tmp_path)
    for number in (1, 2, 3):
        await sides.put(number)
        await sides.pack()
    await sides.pack(heartbeat=True)

    report = conformance.conform(sides.outgoing, [keys.load_peer_key(OWN_PUBLIC)])

    assert report.passed
    assert report.streams[0].packets == 4


# What is wrong in one packet


@dataclass(frozen=True)
class Wrong:
    """`make` gives a whole file; `rule` is what it breaks."""

    rule: str
    make: Callable[[], bytes]
    name: str = tiny_writer.file_name(STREAM, 1)


def file(
    lines: bytes = tiny_writer.line("fee_bill", BILL),
    *,
    body: bytes | None = None,
    key: tiny_writer.Key = KEY,
    spell: Callable[[bytes], bytes] = bytes,
    without: str = "",
    **fields: Any,
) -> bytes:
    """A packet with one thing done otherwise, rightly sealed all the same."""
    packed = tiny_writer.pack(lines) if body is None else body
    place = {"stream": STREAM, "seq": 1, "previous": "0" * 64, "watermark": AT, "created_at": AT}
    manifest = tiny_writer.manifest_of(packed, lines, **{**place, **fields})
    manifest.pop(without, None)
    return spell(tiny_writer.seal(manifest, key)) + b"\n" + packed


def row_line(**changes: Any) -> bytes:
    return tiny_writer.line("fee_bill", {**BILL, **changes})


def example_line(topic: str, **changes: Any) -> bytes:
    return tiny_writer.line(topic, {**EXAMPLE[topic], **changes})


def item_line(**changes: Any) -> bytes:
    return row_line(items=[{**BILL["items"][0], **changes}])


def reseal(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Changes what stands in the seal."""

    def spell(manifest: bytes) -> bytes:
        fields = json.loads(manifest)
        change(fields["seal"])
        return tiny_writer.canonical(fields)

    return spell


def with_spare_bits(seal: dict[str, Any]) -> None:
    signature = seal["signature"]
    seal["signature"] = signature[:-3] + chr(ord(signature[-3]) + 1) + "=="


def wide_window(text: bytes) -> bytes:
    """A frame that asks its reader for 128 MiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packing = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packing.compress(text) + packing.flush()


def unended(text: bytes) -> bytes:
    """All that is in the frame, but not its last block."""
    packing = zstandard.ZstdCompressor().compressobj()
    return packing.compress(text) + packing.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


BOMB = zstandard.ZstdCompressor().compress(b"\0" * 64_000_000)
LINE = tiny_writer.line("fee_bill", BILL)
FRAME = tiny_writer.pack(LINE)
CHECKED = zstandard.ZstdCompressor(write_checksum=True).compress(LINE)
GOOD = file()

WRONG = {
    "another suffix": Wrong("foreign_name", file, "jc-center-online-0000000001.zip"),
    "seq of nine digits": Wrong("foreign_name", file, "jc-center-online-000000001.gate"),
    "capital stream": Wrong("foreign_name", file, "JC-center-online-0000000001.gate"),
    "manifest in indented JSON": Wrong(
        "bad_manifest", lambda: file(spell=lambda m: json.dumps(json.loads(m)).encode())
    ),
    "keys not sorted": Wrong(
        "bad_manifest",
        lambda: file(
            spell=lambda m: json.dumps(
                dict(reversed(json.loads(m).items())), separators=(",", ":")
            ).encode()
        ),
    ),
    "needless escapes": Wrong(
        "bad_manifest", lambda: file(spell=lambda m: m.replace(b"gate", b"g\\u0061te"))
    ),
    "byte order mark": Wrong("bad_manifest", lambda: b"\xef\xbb\xbf" + GOOD),
    "carriage return": Wrong("bad_manifest", lambda: GOOD.replace(b"\n", b"\r\n", 1)),
    "no digest": Wrong("bad_manifest", lambda: file(without="digest")),
    "no watermark": Wrong("bad_manifest", lambda: file(without="watermark")),
    "seq as text": Wrong("bad_manifest", lambda: file(seq="1")),
    "seq 0": Wrong("bad_manifest", lambda: file(seq=0)),
    "time without zone": Wrong("bad_manifest", lambda: file(watermark="2026-03-02T09:00:00")),
    "a blank for the T": Wrong("bad_manifest", lambda: file(watermark="2026-03-02 09:00:30Z")),
    "small letters in a time": Wrong(
        "bad_manifest", lambda: file(created_at="2026-03-02t09:00:30z")
    ),
    "nine digits of a second": Wrong(
        "bad_manifest", lambda: file(watermark="2026-03-02T09:00:30.123456789Z")
    ),
    "digest in capitals": Wrong("bad_manifest", lambda: file(previous="A" * 64)),
    "a fraction in a field of later versions": Wrong("bad_manifest", lambda: file(later=1.5)),
    "a number beyond 64 bits": Wrong("bad_manifest", lambda: file(later=10**30)),
    "version 2": Wrong("unsupported_version", lambda: file(version=2)),
    "another stream": Wrong("foreign_stream", lambda: file(stream="county-online")),
    "another seq": Wrong("name_mismatch", lambda: file(seq=2)),
    "a stranger's key": Wrong("bad_seal", lambda: file(key=STRANGER)),
    "a stranger under our key's name": Wrong(
        "bad_seal",
        lambda: file(key=STRANGER, spell=reseal(lambda seal: seal.update(key=KEY.key_id))),
    ),
    "another algorithm": Wrong(
        "bad_seal", lambda: file(spell=reseal(lambda seal: seal.update(algorithm="rsa")))
    ),
    "signature in hex": Wrong(
        "bad_seal",
        lambda: file(
            spell=reseal(
                lambda seal: seal.update(signature=base64.b64decode(seal["signature"]).hex())
            )
        ),
    ),
    "signature without padding": Wrong(
        "bad_seal",
        lambda: file(
            spell=reseal(lambda seal: seal.update(signature=seal["signature"].rstrip("=")))
        ),
    ),
    "signature with spare bits": Wrong("bad_seal", lambda: file(spell=reseal(with_spare_bits))),
    "changed after sealing": Wrong("bad_seal", lambda: GOOD.replace(b'"count":1', b'"count":2')),
    "cut short": Wrong("truncated", lambda: GOOD[:-1]),
    "something behind it": Wrong("truncated", lambda: GOOD + b"\n"),
    "digest of the lines": Wrong(
        "bad_digest", lambda: file(digest=hashlib.sha256(LINE).hexdigest())
    ),
    "a bomb": Wrong("zip_bomb", lambda: file(body=BOMB, lines_length=32_000_000)),
    "a bomb that lies": Wrong("zip_bomb", lambda: file(body=BOMB, lines_length=100)),
    "not compressed": Wrong("bad_body", lambda: file(body=LINE)),
    "gzip": Wrong("bad_body", lambda: file(body=b"\x1f\x8b\x08\0\0\0\0\0\0\x03")),
    "length in characters": Wrong("zip_bomb", lambda: file(lines_length=len(LINE.decode()))),
    "length too great": Wrong("bad_body", lambda: file(lines_length=len(LINE) + 1)),
    "window of 128 MiB": Wrong("bad_body", lambda: file(body=wide_window(LINE))),
    "something behind the frame": Wrong("bad_body", lambda: file(body=FRAME + b"more")),
    "two frames": Wrong("bad_body", lambda: file(body=FRAME + FRAME)),
    "a frame behind one to skip": Wrong(
        "bad_body", lambda: file(body=b"\x50\x2a\x4d\x18\x04\0\0\0more" + FRAME)
    ),
    "a frame without its end": Wrong("bad_body", lambda: file(body=unended(LINE))),
    "a frame without its checksum": Wrong("bad_body", lambda: file(body=CHECKED[:-4])),
    "no frame at all": Wrong("bad_body", lambda: file(b"", body=b"")),
    "last line without end": Wrong("bad_body", lambda: file(LINE[:-1], count=1)),
    "Latin-1": Wrong("bad_encoding", lambda: file(b'{"row":{},"topic":"caf\xe9"}\n')),
    "GB 18030": Wrong("bad_encoding", lambda: file(LINE.decode().encode("gb18030"))),
    "UTF-16": Wrong("bad_encoding", lambda: file(LINE.decode().encode("utf-16"), count=1)),
    "NUL": Wrong("bad_encoding", lambda: file(row_line(title="a\0b"))),
    "NUL, the byte": Wrong(
        "bad_encoding", lambda: file(row_line(title="@").replace(b'"@"', b'"\0"'))
    ),
    "NUL, escaped": Wrong(
        "bad_encoding", lambda: file(row_line(title="@").replace(b'"@"', b'"\\u0000"'))
    ),
    "count too small": Wrong("bad_count", lambda: file(LINE * 2, count=1)),
    "an empty line": Wrong("bad_row", lambda: file(LINE + b"\n")),
    "a giant row": Wrong("row_too_long", lambda: file(row_line(note="x" * 1_100_000))),
    "a list for a line": Wrong("bad_row", lambda: file(b"[]\n")),
    "a line without topic": Wrong("bad_row", lambda: file(b'{"row":{}}\n')),
    "float money": Wrong("bad_row", lambda: file(row_line(total_fen=8175.24))),
    "money as text": Wrong("bad_row", lambda: file(row_line(total_fen="817524"))),
    "negative money": Wrong("bad_row", lambda: file(item_line(amount_fen=-1))),
    "a missing field": Wrong(
        "bad_row",
        lambda: file(tiny_writer.line("fee_bill", {k: v for k, v in BILL.items() if k != "payer"})),
    ),
    "version 0": Wrong("bad_row", lambda: file(row_line(version=0))),
    "a name too long": Wrong("bad_row", lambda: file(row_line(source_id="x" * 65))),
    "a date in another form": Wrong("bad_row", lambda: file(row_line(due_on="31.03.2026"))),
    "a row's time with a blank": Wrong(
        "bad_row", lambda: file(row_line(issued_at="2026-03-02 09:00:00Z"))
    ),
    "a row's time in small letters": Wrong(
        "bad_row", lambda: file(row_line(issued_at="2026-03-02t09:00:00z"))
    ),
    "a row's time with nine digits": Wrong(
        "bad_row", lambda: file(row_line(issued_at="2026-03-02T09:00:00.123456789Z"))
    ),
    "a row's offset without its colon": Wrong(
        "bad_row", lambda: file(row_line(issued_at="2026-03-02T17:00:00+0800"))
    ),
    "a colon in an id": Wrong("bad_row", lambda: file(row_line(source_id="F:1"))),
    "a colon in an id that names another thing": Wrong(
        "bad_row", lambda: file(row_line(case_source_id="C:1"))
    ),
    "a receipt whose key is that of another": Wrong(
        "bad_row", lambda: file(example_line("receipt", order_no="O:1"))
    ),
    "a refund whose key is that of another": Wrong(
        "bad_row", lambda: file(example_line("refund", refund_no=":TK1"))
    ),
    "an unknown state": Wrong("bad_row", lambda: file(row_line(state="maybe"))),
    "half a surrogate pair": Wrong(
        "bad_row", lambda: file(row_line(later="@").replace(b'"@"', b'"\\ud800"'))
    ),
    "deep JSON in an unknown field": Wrong(
        "bad_row",
        lambda: file(row_line(later="@").replace(b'"@"', b"[" * 100_000 + b"]" * 100_000)),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_mistake_in_a_packet_is_named(tmp_path: Path, case: str) -> None:
    wrong = WRONG[case]
    path = tmp_path / wrong.name
    path.write_bytes(wrong.make())

    found = judging.judge(path, [PEER])

    assert (found.broken, found.passed) == (wrong.rule, False)
    assert found.faults[0]
    assert "林晓舟" not in json.dumps(found.as_dict(), ensure_ascii=False)
    order = list(found.verdicts)
    before = order[: order.index(judging.Reason(wrong.rule))]
    behind = order[len(before) + 1 :]
    if wrong.rule != "bad_body":
        assert {found.verdicts[rule] for rule in before} <= {judging.Verdict.passed}
    assert {found.verdicts[rule] for rule in behind} <= {judging.Verdict.not_judged}


@pytest.mark.parametrize(
    "packet", [GOOD, file(body=CHECKED), file(later=2**64 - 1)], ids=["plain", "checked", "later"]
)
def test_the_good_packet_of_these_mistakes_is_good(tmp_path: Path, packet: bytes) -> None:
    """Negative control."""
    path = tmp_path / tiny_writer.file_name(STREAM, 1)
    path.write_bytes(packet)

    assert judging.judge(path, [PEER]).passed


async def test_a_receiver_refuses_by_the_same_reason(database: str, tmp_path: Path) -> None:
    """The kit and the receiver never disagree."""
    for number, (case, wrong) in enumerate(WRONG.items()):
        folder = tmp_path / str(number) / "incoming"
        folder.mkdir(parents=True)
        (folder / wrong.name).write_bytes(wrong.make())

        report = await receiving.apply_incoming(
            STREAM,
            folder=folder,
            peer_key=PEER,
            handlers=dict.fromkeys(("fee_bill", "receipt", "refund"), _nothing),
            now=NOW,
        )

        assert [reason for _, reason in report.quarantined] == [wrong.rule], case


async def _nothing(*_: object) -> None:
    """A handler that accepts everything."""


# What is wrong in a folder


def rules(writer: Writer) -> list[str]:
    report = conformance.conform(writer.folder, [PEER])
    assert report.passed == (not report.streams[0].findings and not report.strays)
    return [one.rule for one in (*report.strays, *report.streams[0].findings)]


def test_a_missing_packet(writer: Writer) -> None:
    for number in (1, 2, 3):
        writer.write(("fee_bill", bill(number)))
    (writer.folder / tiny_writer.file_name(STREAM, 2)).unlink()

    assert rules(writer) == ["gap"]


def test_a_packet_of_another_history(writer: Writer) -> None:
    writer.write()
    writer.previous = "1" * 64
    writer.write()
    writer.write()

    assert rules(writer) == ["fork"]


def test_a_first_packet_that_names_one_before_it(writer: Writer) -> None:
    writer.previous = "1" * 64
    writer.write()

    assert rules(writer) == ["fork"]


def test_one_version_with_two_contents(writer: Writer) -> None:
    writer.write(("fee_bill", bill(1)))
    writer.write(("fee_bill", bill(1, title="另一个")))

    assert rules(writer) == ["version_reused"]


def test_a_snapshot_may_tell_of_topics_nobody_here_knows(writer: Writer) -> None:
    thing = {"source": "jc-center", "source_id": "H1", "version": 1, "region": "360102"}
    writer.write(("fee_bill", bill(1)), ("hall_calendar", thing))
    writer.write(*writer.snapshot("S-1"))
    repair = writer.repair("hall_calendar", "jc-center", tiny_writer.bucket_of("H1"))
    writer.write(("repair", repair))

    (stream,) = conformance.conform(writer.folder, [PEER]).streams

    assert (stream.findings, stream.snapshots, stream.proofs) == ([], 1, 1)
    assert {"snapshot: topic hall_calendar is not known here"} < set(stream.notes)


def test_one_snapshot_may_end_where_the_next_begins(writer: Writer) -> None:
    writer.write(("fee_bill", bill(1)), ("fee_bill", bill(2)))
    writer.write(*writer.snapshot("S-1"), writer.begin("S-2"))
    writer.write(*writer.everything(), *writer.end("S-2"))

    (stream,) = conformance.conform(writer.folder, [PEER]).streams

    assert (stream.findings, stream.snapshots, stream.proofs) == ([], 2, 2)


def test_a_snapshot_that_another_began_is_none(writer: Writer) -> None:
    writer.write(("fee_bill", bill(1)))
    writer.write(writer.begin("S-1"), writer.begin("S-2"), *writer.everything())
    writer.write(*writer.end("S-1"))

    assert rules(writer) == ["bad_snapshot"]


def test_repeats_and_late_versions_are_no_mistake(writer: Writer) -> None:
    writer.write(("fee_bill", bill(1, version=2)))
    writer.write(("fee_bill", bill(1, version=2)), ("fee_bill", bill(1)))
    writer.write(("proof", writer.proof("fee_bill", "jc-center")))

    assert rules(writer) == []


def _leave_out(found: list[tuple[str, Row]]) -> None:
    del found[1]


def _other_root(found: list[tuple[str, Row]]) -> None:
    next(row for topic, row in found if row.get("phase") == "end")["topics"][0]["root"] = "1" * 64


def _other_count(found: list[tuple[str, Row]]) -> None:
    next(row for topic, row in found if row.get("phase") == "end")["topics"][0]["rows"] = 3


def _no_topics(found: list[tuple[str, Row]]) -> None:
    next(row for topic, row in found if row.get("phase") == "end")["topics"] = []


def _no_begin(found: list[tuple[str, Row]]) -> None:
    del found[0]


@pytest.mark.parametrize("mistake", [_leave_out, _other_root, _other_count, _no_topics, _no_begin])
def test_a_snapshot_that_is_not_what_it_says(
    writer: Writer, mistake: Callable[[list[tuple[str, Row]]], None]
) -> None:
    writer.write(("fee_bill", bill(1)), ("fee_bill", bill(2)))
    found = writer.snapshot("S-1")
    mistake(found)

    writer.write(*found)

    assert rules(writer) == ["bad_snapshot"]


@pytest.mark.parametrize("spoil", ["root", "rows", "bucket"])
def test_a_proof_that_is_not_true(writer: Writer, spoil: str) -> None:
    writer.write(("fee_bill", bill(1)), ("fee_bill", bill(2)))
    proof = writer.proof("fee_bill", "jc-center")
    if spoil == "bucket":
        proof["buckets"][0] = "1" * 64
        proof["root"] = tiny_writer.root_of(proof["buckets"])
    else:
        proof[spoil] = {"root": "1" * 64, "rows": 3}[spoil]

    writer.write(("proof", proof))

    assert rules(writer) == ["bad_proof"]


@pytest.mark.parametrize("spoil", ["key", "row", "bucket", "part", "order"])
def test_a_repair_that_is_not_all_of_its_part(writer: Writer, spoil: str) -> None:
    numbers = [n for n in range(1, 600) if tiny_writer.bucket_of(f"F{n:06d}") == 60]
    writer.write(*(("fee_bill", bill(n)) for n in numbers))
    repair = writer.repair("fee_bill", "jc-center", 60)
    if spoil == "key":
        repair["keys"][0] = "F999999"
    elif spoil == "row":
        repair["rows"][0] = repair["rows"][1]
    elif spoil == "bucket":
        repair["bucket"] = 61
    elif spoil == "part":
        del repair["keys"][0], repair["rows"][0]
    else:
        repair["keys"].reverse()
        repair["rows"].reverse()

    writer.write(("repair", repair))

    assert len(numbers) >= 2
    assert rules(writer) == ["bad_repair"]


def test_a_folder_with_more_than_can_be_judged_is_no_verdict(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write()
    writer.write()
    monkeypatch.setattr(folders, "MAX_LISTED", 1)

    assert run("conform", writer.folder)[0] == 2


def test_junk_in_the_folder_is_named_and_judged_beside_the_packets(writer: Writer) -> None:
    writer.write()
    (writer.folder / "notes.txt").write_text("x")
    (writer.folder / ".jc-center-online-0000000002.gate.part").write_text("x")

    assert rules(writer) == ["foreign_name"]


def test_a_bad_packet_does_not_hide_the_next_mistake(writer: Writer) -> None:
    writer.write(("fee_bill", bill(1)))
    broken = writer.write(("fee_bill", bill(2)))
    broken.write_bytes(broken.read_bytes()[:-1])
    writer.write(("fee_bill", bill(3, version=0)))

    assert rules(writer) == ["truncated", "bad_row"]


def test_a_link_is_not_followed(writer: Writer, tmp_path: Path) -> None:
    path = writer.write()
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert rules(writer) == ["not_a_file"]


# The commands


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli.main, ["gate", *map(str, arguments)])
    return done.exit_code, done.output


def test_check_prints_every_rule_and_its_exit_code_says_the_verdict(writer: Writer) -> None:
    good = writer.write(("fee_bill", bill(1)))
    right = run("check", good, "--key", PUBLIC, "--json")
    good.write_bytes(good.read_bytes()[:-1])

    wrong = run("check", good, "--key", PUBLIC, "--json")

    assert right[0] == 0
    assert [rule["verdict"] for rule in json.loads(right[1])["rules"]] == ["pass"] * 16
    assert wrong[0] == 1
    assert {r["rule"]: r["verdict"] for r in json.loads(wrong[1])["rules"]}["truncated"] == "fail"
    assert run("check", good)[0] == 1


UNFIT = {
    "total": ("fee_bill", {"total_fen": 1}),
    "items": ("fee_bill", {"items": [], "total_fen": 0}),
    "id_no": ("fee_bill", {"payer": {**BILL["payer"], "id_no": "110105194912310021"}}),
    "name": ("case", {"parties": [{**BILL["payer"], "name": " "}]}),
    "state": ("case", {"state": "suspended"}),
    "stage": ("case", {"stages": [{"stage": "survey", "state": "doing"}]}),
    "state of an event": ("case_event", {"state": "done"}),
    "parcel_code": ("unit", {"parcel_code": "360102003001GB00013"}),
    "secured_fen": ("right", {"rank": 1}),
    "share": ("right", {"holding": "shares"}),
    "queue_position": ("restriction", {"state": "queued"}),
    "number": ("certificate", {"kind": "proof"}),
}
"""What the receivers' own tests show to be refused."""


@pytest.mark.parametrize("word", UNFIT)
def test_a_row_its_receiver_would_refuse_does_not_pass(writer: Writer, word: str) -> None:
    topic, changes = UNFIT[word]
    path = writer.write((topic, {**EXAMPLE[topic], **changes}))

    code, text = run("check", path, "--key", PUBLIC, "--json")
    conforms = run("conform", writer.folder, "--key", PUBLIC)[0]

    assert (code, conforms) == (1, 1)
    assert f"topic {topic}: {word.split(maxsplit=1)[0]}" in text


def test_every_rule_of_the_receivers_is_written_down() -> None:
    words = {
        word.strip("`")
        for _, listed, _ in gate_document.cells(
            gate_document.text(), "### 5.3 Rules beyond the schema"
        )
        for word in listed.split(", ")
    }

    assert words >= {word.split(maxsplit=1)[0] for word in UNFIT}
    assert set(gate_kit_commands.ROW_FAULTS) == {topic for topic, _ in UNFIT.values()}


def test_every_example_of_the_document_passes(writer: Writer) -> None:
    """Negative control."""
    path = writer.write(*((topic, row) for topic, row in EXAMPLE.items() if topic in OF_THINGS))

    assert run("check", path, "--key", PUBLIC)[0] == 0


def test_conform_prints_a_report_and_its_exit_code_says_the_verdict(writer: Writer) -> None:
    writer.write(("fee_bill", bill(1)))
    right = run("conform", writer.folder, "--key", PUBLIC, "--json")
    writer.previous = "1" * 64
    writer.write()

    wrong = run("conform", writer.folder, "--key", PUBLIC, "--json")

    assert (right[0], json.loads(right[1])["passed"]) == (0, True)
    assert (wrong[0], json.loads(wrong[1])["streams"][0]["findings"][0]["rule"]) == (1, "fork")
    assert "fork" in run("conform", writer.folder)[1]


def test_what_cannot_be_read_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    nowhere = tmp_path / tiny_writer.file_name(STREAM, 1)

    codes = [
        run("check", nowhere)[0],
        run("check", tmp_path / "nofile.gate")[0],
        run("conform", tmp_path / "nowhere")[0],
        run("conform", tmp_path, "--key", tmp_path / "key.pem")[0],
        run("check", nowhere, "--key", tmp_path / "missing.pem")[0],
    ]

    assert codes == [2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    "command", [["status"], ["sources"], ["snapshot"], ["prove", "--peer", "x"]]
)
def test_a_side_that_does_not_exist_is_refused(command: list[str]) -> None:
    code, said = run(*command, "--side", "nowhere")

    assert (code, said.strip()) == (2, "--side 只能是 online 或 inner。")


def test_the_kit_needs_no_settings_and_no_database(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = writer.write()
    for name in list(os.environ):
        if name.startswith("ESTATION_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir("/")

    assert run("check", path, "--key", PUBLIC)[0] == 0


def test_the_writer_knows_nothing_of_estation() -> None:
    text = Path(tiny_writer.__file__).read_text(encoding="utf-8")

    assert "import estation" not in text
    assert "from estation" not in text
