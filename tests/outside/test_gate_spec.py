"""The specification says what the code does: tables, limits, error cases, examples, vectors."""

import base64
import hashlib
import json
import re
import stat
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from estation.outside.gate import (
    bounds,
    conformance,
    folders,
    judging,
    jumping,
    keys,
    merkle,
    proving,
    receiving,
    refused,
    reporting,
    resending,
    rows,
    symbols,
    upkeep,
)
from estation.outside.gate import format as packets
from estation.outside.gate.errors import NEEDS_A_PERSON, Reason
from tests.outside import gate_document, gate_vectors, tiny_writer
from tests.outside.gate_document import VECTORS

DOCUMENT = gate_document.text()
VECTOR: dict[str, Any] = json.loads((VECTORS / "vectors.json").read_text(encoding="utf-8"))
STREAM_FILES = sorted((VECTORS / "stream").iterdir())


def vector_keys() -> Sequence[keys.PeerKey]:
    pytest.importorskip("gmssl_pyx", reason="the extra `sm` is not installed")
    return [
        keys.load_peer_key((VECTORS / "keys" / f"{name}.public.pem").read_bytes())
        for name in ("ed25519", "sm2")
    ]


# The document against the code


@pytest.mark.parametrize("name", gate_document.STRUCTS)
def test_every_field_on_the_wire_is_in_the_document_as_it_is(name: str) -> None:
    written = gate_document.tables(DOCUMENT)[name]

    actual = gate_document.fields_of(gate_document.STRUCTS[name])

    assert [(f.name, f.type, f.absent) for f in written] == [
        (f.name, f.type, f.absent) for f in actual
    ]
    assert [f.name for f in written if f.meaning == gate_document.NO_MEANING] == []


def test_the_document_speaks_of_nothing_that_is_not_there() -> None:
    assert set(gate_document.tables(DOCUMENT)) == set(gate_document.STRUCTS)


def test_every_topic_is_listed_with_its_row_and_key() -> None:
    listed = {
        topic.strip("`"): (row, key)
        for topic, _, row, key, _ in gate_document.cells(DOCUMENT, "### 5.1 Topics")
    }

    assert {topic: row for topic, (row, _) in listed.items()} == {
        topic: struct.__name__ for topic, struct in rows.TOPICS.items()
    }
    for topic, text in gate_document.examples(DOCUMENT):
        key = listed[topic][1]
        row = rows.decode_row(topic, text)
        named = rows.identity(topic, row)
        if key == "none":
            assert named is None
        else:
            names = key.split("`")[1].split(":")
            assert named is not None
            assert named.key == ":".join(getattr(row, name) for name in names)
            assert key.endswith("version 1") == ("version" not in type(row).__struct_fields__)


def test_every_example_is_a_row_of_its_topic_without_unknown_fields() -> None:
    given = gate_document.examples(DOCUMENT)

    assert {topic for topic, _ in given} == set(rows.TOPICS) - {"proof"}
    for topic, text in given:
        row = rows.decode_row(topic, text)
        assert json.loads(text).keys() <= set(type(row).__struct_fields__)


def test_the_limits_are_those_of_the_code() -> None:
    listed = {
        name.strip("`"): int(value)
        for name, value, _ in gate_document.cells(DOCUMENT, "### 2.6 Limits")
    }

    assert listed == {name: getattr(packets, name) for name in listed}
    assert set(listed) == {name for name in vars(packets) if name.startswith(("MAX_", "FREE_"))}


def test_every_reason_is_an_error_case_and_says_what_follows() -> None:
    listed = {
        reason.strip("`"): effect
        for reason, _, effect in gate_document.cells(DOCUMENT, "### 4.1 Error cases")
    }

    assert set(listed) == {reason.value for reason in Reason}
    assert {r for r, effect in listed.items() if effect == "person"} == {
        reason.value for reason in NEEDS_A_PERSON
    }


def test_the_conformance_rules_are_those_of_the_kit() -> None:
    listed = {
        rule.strip("`"): says for rule, says in gate_document.cells(DOCUMENT, "## 9. Conformance")
    }

    assert listed == conformance.RULES
    judged = set(judging.RULES)
    assert judged | {Reason.fork, Reason.gap, Reason.flood, Reason.handler_failed} == set(Reason)


def test_seals_are_listed_as_they_are() -> None:
    listed = [cells[0].strip("`") for cells in gate_document.cells(DOCUMENT, "### 2.4 Seals")]

    assert listed == [key["algorithm"] for key in VECTOR["keys"]]


def test_block_coding_is_as_written() -> None:
    text = DOCUMENT.split("## 8. Block coding", 1)[1].split("\n## ", 1)[0]

    assert f"blocks of {symbols.BLOCK_BYTES} bytes" in text
    assert f"at least {symbols.MIN_SYMBOL_BYTES} and at most {symbols.MAX_SYMBOL_BYTES}" in text
    assert f"alignment {symbols.ALIGNMENT}" in text
    assert f"but at least {symbols.MIN_REPAIR}" in text
    assert f"{symbols.MAX_KEPT} symbol files, 24 hours" in text
    for block in (1, 1024, 200_000, symbols.BLOCK_BYTES):
        by_document = min(max(-(-block // 1024) * 8, 1024), 32768)
        assert symbols.symbol_bytes(block) == by_document


def test_writing_again_is_as_written() -> None:
    text = section("### 3.1 Writing again")

    assert f"sealed {seconds(resending.BEHIND_AFTER)} s ago" in text
    assert f"`behind` for {seconds(resending.BEHIND_AFTER)} s" in text
    window = resending.WINDOW_BYTES // bounds.MIB
    assert f"the {resending.WINDOW_PACKETS} packets after its seq (at most {window} MiB" in text
    first = resending.FIRST_PAUSE_SECONDS
    assert f"once more after {first} s, {2 * first} s, {4 * first} s" in text
    assert f"at most {resending.MAX_PAUSE_SECONDS} s" in text
    assert f"at most {resending.ALIVE_PAUSE_SECONDS} s while files of its stream" in text
    assert f"every {minutes(resending.BLIND_EVERY)} minutes" in text
    assert f"the newest {resending.BLIND_PACKETS} packets" in text
    assert upkeep.DEFAULT.stuck_after == timedelta(hours=1)
    assert "for an hour" in text


def test_what_becomes_of_a_bad_row_is_written_of_every_topic() -> None:
    written = {
        topic.strip("`"): rule.removesuffix("s")
        for topic, _, _, _, rule in gate_document.cells(DOCUMENT, "### 5.1 Topics")
    }

    assert set(rows.ON_BAD_ROW) == set(rows.TOPICS)
    assert written == {topic: rule.value for topic, rule in rows.ON_BAD_ROW.items()}
    text = section("### 5.1 Topics")
    assert f"At most {refused.MAX_OF_PACKET} rows of a packet" in text
    assert f"at most {refused.MAX_OPEN} of a stream" in text


def test_the_control_rows_come_when_it_is_written() -> None:
    text = section("## 6. Control rows")
    listed = [cells[0].strip("`") for cells in gate_document.cells(DOCUMENT, "## 6. Control rows")]

    keys_of_topics = gate_document.cells(DOCUMENT, "### 5.1 Topics")
    assert set(listed) == {
        topic.strip("`") for topic, _, _, key, _ in keys_of_topics if key == "none"
    }
    assert upkeep.DEFAULT.snapshot_every == timedelta(days=1)
    assert upkeep.DEFAULT.prove_every == timedelta(hours=1)
    assert upkeep.DEFAULT.first_proof == timedelta(minutes=1)
    assert f"at most every {seconds(reporting.REPORT_EVERY)} s" in text
    assert f"after {reporting.REPORT_IDLE_PACKETS} packets without content" in text
    assert f"every {seconds(reporting.REPORT_BEHIND_EVERY)} s, with `behind`" in text
    assert f"missing (or refused) for {minutes(jumping.JUMP_AFTER)} minutes" in text
    assert f"in at least {receiving.TRIES_BEFORE_JUMP} tries" in text
    assert f"asked for again for {minutes(proving.ASK_AGAIN)} minutes" in text


def section(heading: str) -> str:
    """Up to the next heading of the same depth."""
    depth = heading.split(" ", 1)[0]
    return DOCUMENT.split(f"{heading}\n", 1)[1].split(f"\n{depth} ", 1)[0]


def seconds(span: timedelta) -> int:
    return int(span.total_seconds())


def minutes(span: timedelta) -> int:
    return seconds(span) // 60


def test_the_document_has_a_chinese_summary_on_top() -> None:
    top = DOCUMENT.split("\n---\n", 1)[0]

    assert len(re.findall(r"[\u4e00-\u9fff]", top)) > 300


# The vectors against the code, and the document against the vectors


def test_the_worked_example_quotes_the_vectors() -> None:
    assert gate_vectors.fill_in(DOCUMENT, VECTOR) == DOCUMENT
    assert DOCUMENT.count("```text vector=") == 6


def test_the_vectors_are_those_of_the_documents_examples(tmp_path: Path) -> None:
    """Made again by the independent writer; zstd alone may pack otherwise in another version."""
    writer = gate_vectors.write_stream(tmp_path, DOCUMENT)
    again = gate_vectors.describe(tmp_path, DOCUMENT, writer)

    for part in ("canonical", "keys", "rows", "merkle"):
        assert json.loads(json.dumps(again[part])) == VECTOR[part]
    for path in STREAM_FILES:
        key = vector_keys()
        mine, theirs = (
            judging.judge(folder / path.name, key) for folder in (tmp_path, path.parent)
        )
        assert mine.passed
        assert [bytes(line.row) for line in mine.lines] == [
            bytes(line.row) for line in theirs.lines
        ]


@pytest.mark.parametrize("number", range(len(gate_vectors.CANONICAL)))
def test_canonical_json_is_the_same_everywhere(number: int) -> None:
    vector = VECTOR["canonical"][number]

    assert packets.canonical(vector["value"]).hex() == vector["hex"]
    assert tiny_writer.canonical(vector["value"]).hex() == vector["hex"]


def test_keys_and_their_names() -> None:
    for vector, peer, name in zip(VECTOR["keys"], vector_keys(), ("ed25519", "sm2"), strict=True):
        private = keys.load_seal_key((VECTORS / "keys" / f"{name}.private.pem").read_bytes())
        assert (vector["algorithm"], vector["key_id"]) == (peer.algorithm, peer.key_id)
        assert (vector["algorithm"], vector["key_id"]) == (private.algorithm, private.key_id)
        assert peer.verify(b"x", private.sign(b"x"))


def test_every_packet_of_the_vectors_is_read_as_described() -> None:
    by_id = {key.key_id: key for key in vector_keys()}
    for path, vector in zip(STREAM_FILES, VECTOR["packets"], strict=True):
        data = path.read_bytes()
        head = packets.read_head(data)
        packets.check_seal(head, by_id[head.seal.key])

        assert path.name == vector["file"]
        assert head.signed.decode() == vector["signed"]
        assert head.digest == vector["digest"] == hashlib.sha256(head.signed).hexdigest()
        assert base64.b64decode(head.seal.signature).hex() == vector["signature_hex"]
        assert data == vector["manifest"].encode() + b"\n" + bytes.fromhex(vector["body_hex"])
        assert len(list(packets.read_lines(data, head))) == head.manifest.count


def test_rows_have_the_described_identity_and_digest() -> None:
    for topic, text in gate_document.examples(DOCUMENT):
        vector = VECTOR["rows"].get(topic)
        named = rows.identity(topic, rows.decode_row(topic, text))
        if vector is None:
            assert named is None
            continue
        assert named is not None
        assert named == (vector["source"], vector["key"], vector["version"])
        assert rows.digest(text).hex() == vector["row_digest"]
        assert rows.digest(tiny_writer.canonical(json.loads(text))).hex() == vector["row_digest"]
        leaf = merkle.leaf_of(topic, named, rows.digest(text))
        assert leaf.hex() == vector["leaf"]
        assert merkle.bucket_of(named.key) == vector["bucket"]


def test_a_refused_refund_is_named_after_its_order() -> None:
    examples = dict(gate_document.examples(DOCUMENT))
    row = {**json.loads(examples["refund"]), "refund_no": "", "state": "refused"}

    named = rows.identity("refund", rows.decode_row("refund", row))

    assert named == tiny_writer.identity("refund", row) == ("jc-center", "F000001::TK000001", 2)


def test_the_merkle_root_is_as_described() -> None:
    vector = VECTOR["merkle"]
    buckets = [vector["buckets"].get(str(n), merkle.EMPTY) for n in range(merkle.BUCKETS)]
    example = vector["example"]
    leaf = bytes.fromhex(example["leaf"])

    assert merkle.root_of(buckets) == vector["root"] == example["root"]
    assert merkle.Tree().root == vector["root_of_nothing"]
    assert hashlib.sha256(leaf).hexdigest() == example["bucket_digest"] == buckets[60]


def test_the_vectors_conform() -> None:
    report = conformance.conform(VECTORS / "stream", vector_keys())

    (stream,) = report.streams
    assert report.passed
    assert (stream.packets, stream.snapshots, stream.proofs) == (6, 1, 8)


def test_a_packet_file_is_written_as_the_document_says(tmp_path: Path) -> None:
    name = packets.file_name("a-b", 1)

    folders.write_atomically(tmp_path, name, [b"x"])

    assert (tmp_path / name).read_bytes() == b"x"
    assert stat.S_ISREG((tmp_path / name).stat().st_mode)
    assert packets.is_being_written(f".{name}.part")
    assert not packets.is_being_written(f".{name}.")


def test_numbers_with_fractions_have_no_digest_to_agree_on() -> None:
    """Why the document forbids them: languages write them differently."""
    value = 1e16

    assert msgspec.json.encode(value) != json.dumps(value).encode()
