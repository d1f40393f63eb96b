"""One packet judged rule by rule, by the code a receiver judges it with. Needs no database."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from estation.outside.gate import folders, refused, rows
from estation.outside.gate import format as packets
from estation.outside.gate.errors import BadPacket, Reason
from estation.outside.gate.keys import PeerKey
from estation.outside.gate.refused import RefusedRow
from estation.shared.clock import beijing_day

RowFaults: TypeAlias = Mapping[str, Callable[[Any, date], str]]
"""Topic -> what a receiver refuses in a row that fits its schema, on the packet's day; "" for
nothing. The contexts know these rules, the gate does not."""

MAX_FAULTS = 20
"""So many faulty rows of one packet are named; the others are counted."""

RULES: dict[Reason, str] = {
    Reason.foreign_name: "the file is named <stream>-<seq, ten digits>.gate",
    Reason.not_a_file: "it is a regular file",
    Reason.too_large: f"it has at most {packets.MAX_FILE_BYTES} bytes",
    Reason.bad_manifest: "the manifest is canonical JSON with all fields, each as it must be",
    Reason.unsupported_version: f"the format's version is {packets.VERSION}",
    Reason.foreign_stream: "manifest and file name say the same stream",
    Reason.name_mismatch: "manifest and file name say the same seq",
    Reason.bad_seal: "the manifest is sealed by a key of the peer",
    Reason.truncated: "the body has as many bytes as the manifest says",
    Reason.bad_digest: "the body's SHA-256 is the manifest's digest",
    Reason.zip_bomb: f"it grows by no more than {packets.MAX_RATIO} times and as the manifest says",
    Reason.bad_body: "it is one zstd frame of lines, each with its end",
    Reason.bad_encoding: "the lines are UTF-8 without NUL",
    Reason.bad_count: "there are as many lines as the manifest says",
    Reason.row_too_long: f"no line has more than {packets.MAX_LINE_BYTES} bytes",
    Reason.bad_row: "every line is topic and row, and every row of a known topic fits its schema",
}
"""In the order in which they are judged: nothing is read further behind the first one broken."""

_NAME = (Reason.foreign_name,)
_FILE = (Reason.not_a_file, Reason.too_large)
_HEAD = (Reason.bad_manifest, Reason.unsupported_version)
_AGREES = (Reason.foreign_stream, Reason.name_mismatch)
_SEAL = (Reason.bad_seal,)
_BODY = (
    Reason.truncated, Reason.bad_digest, Reason.zip_bomb, Reason.bad_body, Reason.bad_encoding,
    Reason.bad_count, Reason.row_too_long,
)  # fmt: skip

_ROWS = (Reason.bad_row,)


class Verdict(StrEnum):
    passed = "pass"
    failed = "fail"
    not_judged = "not_judged"  # something before it failed, or no key was given


@dataclass(slots=True)
class Judgement:
    """What became of each rule. `notes`: nothing wrong, but worth knowing."""

    file: str
    verdicts: dict[Reason, Verdict] = field(
        default_factory=lambda: dict.fromkeys(RULES, Verdict.not_judged)
    )
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    head: packets.Head | None = None
    lines: list[packets.Line] = field(default_factory=list)
    aside: list[RefusedRow] = field(default_factory=list)
    only_sets_aside: bool = False
    """All that is wrong are rows that a receiver sets aside (`refused`)."""

    @property
    def passed(self) -> bool:
        return self.broken is None

    @property
    def broken(self) -> Reason | None:
        """The rule the packet breaks, by which a receiver refuses it."""
        return next((rule for rule, v in self.verdicts.items() if v is Verdict.failed), None)

    @property
    def stops(self) -> bool:
        """Whether a receiver stands still for it."""
        return not self.passed and not self.only_sets_aside

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "file": self.file,
            "passed": self.passed,
            "stops": self.stops,
            "rules": [
                {"rule": rule.value, "says": RULES[rule], "verdict": verdict.value}
                for rule, verdict in self.verdicts.items()
            ],
            "faults": self.faults,
            "notes": self.notes,
            "stream": self.head.manifest.stream if self.head else None,
            "seq": self.head.manifest.seq if self.head else None,
            "digest": self.head.digest if self.head else None,
        }


def judge(
    path: Path,
    peer_keys: Sequence[PeerKey] = (),
    row_faults: RowFaults | None = None,
    known: Collection[tuple[str, bytes]] = (),
) -> Judgement:
    """Bounded in time and memory as receiving is. Without keys the seal is not judged, without
    `row_faults` of each row only its schema. `known`: topic and row digest of rows that were set
    aside before, which count no more.

    Raises FileNotFoundError, and OSError when the file cannot be read.
    """
    found = Judgement(path.name)
    path.lstat()  # what is not there is no packet with a wrong name
    try:
        _judge(path, {key.key_id: key for key in peer_keys}, row_faults or {}, known, found)
    except BadPacket as bad:
        found.verdicts[bad.reason] = Verdict.failed
        found.faults.insert(0, bad.detail or RULES.get(bad.reason, ""))
    return found


def _judge(
    path: Path,
    peer_keys: dict[str, PeerKey],
    row_faults: RowFaults,
    known: Collection[tuple[str, bytes]],
    found: Judgement,
) -> None:
    name = packets.parse_name(path.name)
    if name is None:
        raise BadPacket(Reason.foreign_name, "not a packet's file name")
    _pass(found, _NAME)
    with _step(found, _FILE):
        data = folders.read_bounded(path)
    with _step(found, _HEAD):
        found.head = head = packets.read_head(data)
    with _step(found, _AGREES):
        packets.check_name(head, stream=name[0], seq=name[1])
    if peer_keys:
        with _step(found, _SEAL):
            _check_seal(head, peer_keys)
    else:
        found.notes.append(f"seal by {head.seal.algorithm} key {head.seal.key!a} not judged")
    with _step(found, _BODY):
        found.lines = list(packets.read_lines(data, head))
    with _step(found, _ROWS):
        _judge_rows(found, row_faults, known, beijing_day(head.manifest.watermark))
    _note_manifest(data, found)


@contextlib.contextmanager
def _step(found: Judgement, rules: Sequence[Reason]) -> Iterator[None]:
    """These rules are judged together, in their order; one that is broken ends it."""
    try:
        yield
    except BadPacket as bad:
        _pass(found, rules[: rules.index(bad.reason)] if bad.reason in rules else rules)
        raise
    _pass(found, rules)


def _pass(found: Judgement, rules: Sequence[Reason]) -> None:
    for rule in rules:
        found.verdicts[rule] = Verdict.passed


def _check_seal(head: packets.Head, peer_keys: dict[str, PeerKey]) -> None:
    key = peer_keys.get(head.seal.key)
    if key is None:
        raise BadPacket(Reason.bad_seal, f"sealed by unknown key {head.seal.key!a}")
    packets.check_seal(head, key)


def _judge_rows(
    found: Judgement, row_faults: RowFaults, known: Collection[tuple[str, bytes]], day: date
) -> None:
    """All of them, so that a sender's author sees more than the first mistake."""
    faults: list[str] = []
    unknown: Counter[str] = Counter()
    unknown_fields: Counter[tuple[str, str]] = Counter()
    for number, line in enumerate(found.lines, 1):
        fault = _fault_of(line, row_faults, day)
        if fault:
            aside = refused.set_aside(line.topic, bytes(line.row), fault)
            found.aside += [aside] if aside is not None else []
            effect = "the stream stops" if aside is None else "only this row is set aside"
            faults.append(f"line {number}, topic {line.topic}: {fault} ({effect})")
        elif line.topic not in rows.TOPICS:
            unknown[line.topic] += 1
        else:
            unknown_fields.update((line.topic, name) for name in _unknown_fields(line))
    if faults:
        news = sum((one.topic, one.digest) not in known for one in found.aside)
        found.only_sets_aside = len(found.aside) == len(faults) and news <= refused.MAX_OF_PACKET
        more = len(faults) - MAX_FAULTS
        found.faults += faults[1:MAX_FAULTS] + ([f"and {more} more"] if more > 0 else [])
        raise BadPacket(Reason.bad_row, faults[0])
    found.notes += [f"topic {topic} is unknown: {n} rows kept" for topic, n in unknown.items()]
    found.notes += [
        f"field {name!a} of topic {topic} is unknown: kept in {n} rows"
        for (topic, name), n in unknown_fields.most_common(MAX_FAULTS)
    ]


def _fault_of(line: packets.Line, row_faults: RowFaults, day: date) -> str:
    if line.topic not in rows.TOPICS:
        return ""
    try:
        row = rows.decode_clean(line.topic, line.row)
        rows.digest(bytes(line.row))
    except rows.BadRow as bad:
        return str(bad)
    return row_faults[line.topic](row, day) if line.topic in row_faults else ""


def _unknown_fields(line: packets.Line) -> list[str]:
    given = msgspec.json.decode(line.row, type=dict[str, msgspec.Raw])
    return [name for name in given if name not in rows.TOPICS[line.topic].__struct_encode_fields__]


def _note_manifest(data: bytes, found: Judgement) -> None:
    known = {*packets.Manifest.__struct_encode_fields__, "seal"}
    given = msgspec.json.decode(data[: data.index(b"\n")], type=dict[str, msgspec.Raw])
    found.notes += [f"manifest field {name!a} is unknown" for name in given if name not in known]
