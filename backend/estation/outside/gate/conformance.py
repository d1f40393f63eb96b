"""A folder of packets judged as a whole: chains, versions, snapshots, proofs, repairs.

Every packet is read once, in order; what the streams say of each thing is kept in a temporary
SQLite file, so that memory stays bounded however many rows there are. Needs no database.
"""

import hashlib
import itertools
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from estation.outside.gate import folders, merkle, refused, repairs, rows
from estation.outside.gate import format as packets
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.judging import Judgement, RowFaults, judge
from estation.outside.gate.keys import PeerKey
from estation.outside.gate.refused import RefusedRow
from estation.outside.gate.rows import ProofRow, RepairRow, SnapshotRow

MAX_FINDINGS = 1000
MAX_NOTES = 200
"""Of one stream; what goes beyond them is left out."""

RULES: dict[str, str] = {
    "gap": "the packets' seqs follow each other without a gap",
    "fork": "each packet names the one before it; the first of a stream 64 zeros",
    "version_reused": "one version of one thing has one content",
    "bad_snapshot": "a snapshot repeats every row, and its end says how many and their roots",
    "bad_proof": "a proof says what the stream said up to its packet",
    "bad_repair": "a repair says all rows of its part, each under its key, in order",
}
"""Beside the rules of a single packet (`judging.RULES`)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is broken, and where."""

    rule: str
    seq: int | None
    file: str
    detail: str


@dataclass(slots=True)
class StreamReport:
    """What one stream's packets are like. `snapshots` and `proofs`: so many held."""

    stream: str
    packets: int = 0
    rows: int = 0
    first_seq: int = 0
    last_seq: int = 0
    snapshots: int = 0
    proofs: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def found(self, rule: str, detail: str, *, seq: int | None = None, file: str = "") -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(rule, seq, file, detail))

    def noted(self, note: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(note)


@dataclass(slots=True)
class Report:
    """`strays`: entries of the folder that are no packets, with the rule they break."""

    streams: list[StreamReport] = field(default_factory=list)
    strays: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.strays and not any(stream.findings for stream in self.streams)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {"passed": self.passed, **plain}


def conform(
    folder: Path, peer_keys: Sequence[PeerKey] = (), row_faults: RowFaults | None = None
) -> Report:
    """Judge every packet in `folder`, its rows as `judge` does. Raises NotADirectoryError, and
    ValueError for more entries than are judged at once. Blocking."""
    if not folder.is_dir():
        raise NotADirectoryError(folder)
    report = Report()
    names: dict[str, dict[int, str]] = {}
    found_paths = sorted(itertools.islice(folder.iterdir(), folders.MAX_LISTED + 1))
    if len(found_paths) > folders.MAX_LISTED:
        raise ValueError(f"{folder} holds more than {folders.MAX_LISTED} entries")
    for path in found_paths:
        parsed = packets.parse_name(path.name)
        if parsed is not None:
            names.setdefault(parsed[0], {})[parsed[1]] = path.name
        elif not packets.is_being_written(path.name):
            rule = judge(path).broken
            if rule is not None and len(report.strays) < MAX_FINDINGS:
                report.strays.append(Finding(rule.value, None, ascii(path.name), "no packet"))
    for stream, found in sorted(names.items()):
        with _Known.opened() as known:
            judged = _Stream(folder, stream, list(peer_keys), row_faults, known)
            for seq in sorted(found):
                judged.take(seq, found[seq])
            report.streams.append(judged.finish())
    return report


@dataclass(frozen=True, slots=True)
class _Control:
    """A row about the stream; the snapshot and run that were under way where it stands."""

    row: Struct
    snapshot: str | None
    run: int


class _Stream:
    """One stream, packet after packet."""

    def __init__(
        self,
        folder: Path,
        stream: str,
        peer_keys: list[PeerKey],
        row_faults: RowFaults | None,
        known: "_Known",
    ) -> None:
        self._folder = folder
        self._peer_keys = peer_keys
        self._row_faults = row_faults
        self._known = known
        self._before: tuple[int, str, datetime] | None = None
        self._snapshot: str | None = None
        self._runs = 0
        self._is_whole = False  # whether `known` holds all that the stream ever said
        self._aside: set[tuple[str, bytes]] = set()  # which rows were set aside so far
        self.report = StreamReport(stream)

    def take(self, seq: int, name: str) -> None:
        judged = judge(self._folder / name, self._peer_keys, self._row_faults, self._aside)
        report = self.report
        report.packets += 1
        report.first_seq = report.first_seq or seq
        report.last_seq = seq
        for detail in judged.faults:
            report.found((judged.broken or "bad_row"), detail, seq=seq, file=name)
        for note in judged.notes:
            report.noted(f"seq {seq}: {note}")
        if judged.head is None or judged.stops:
            self._lose_track()
            return
        self._aside.update((one.topic, one.digest) for one in judged.aside)
        self._check_place(seq, name, judged.head)
        report.rows += len(judged.lines)
        self._take_rows(seq, name, judged)
        manifest = judged.head.manifest
        self._before = (seq, judged.head.digest, manifest.watermark)

    def finish(self) -> StreamReport:
        if self._snapshot is not None:
            self.report.noted(f"snapshot {self._snapshot} has not ended yet")
        return self.report

    def _lose_track(self) -> None:
        self._before = None
        self._snapshot = None
        self._is_whole = False

    def _check_place(self, seq: int, name: str, head: packets.Head) -> None:
        report, previous = self.report, head.manifest.previous
        is_first = report.packets == 1
        if is_first:
            self._is_whole = seq == 1
        if seq == 1 and previous != packets.NO_PREVIOUS:
            report.found("fork", "seq 1 names a packet before it", seq=seq, file=name)
        if self._before is None:
            if not is_first:
                self._is_whole = False
            return
        before, digest, watermark = self._before
        if before != seq - 1:
            missing = f"{before + 1}" if before == seq - 2 else f"{before + 1}…{seq - 1}"
            report.found("gap", f"seq {missing} missing", seq=seq, file=name)
            self._lose_track()
        elif previous != digest:
            report.found("fork", "names another packet before it", seq=seq, file=name)
            self._lose_track()
        if head.manifest.watermark < watermark:
            report.noted(f"seq {seq}: the watermark goes back")

    def _take_rows(self, seq: int, name: str, judged: Judgement) -> None:
        controls: list[_Control] = []
        for number, line in enumerate(judged.lines, 1):
            if line.topic not in rows.TOPICS:
                continue
            body = bytes(line.row)
            try:
                row: Struct | None = rows.decode_clean(line.topic, line.row)
                identity = rows.identity(line.topic, row) if row is not None else None
            except rows.BadRow:  # what is set aside still counts as what it says it is
                aside = refused.set_aside(line.topic, body, "")
                row, identity = None, aside.name if aside is not None else None
            if row is not None and identity is None:
                if isinstance(row, SnapshotRow) and row.phase == "begin":
                    self._begin(row)
                controls.append(_Control(row, self._snapshot, self._runs))
                if isinstance(row, SnapshotRow) and row.phase == "end":
                    self._snapshot = None
            elif identity is not None and self._known.put(
                line.topic, identity, rows.digest(body), self._runs
            ):
                detail = f"line {number}, topic {line.topic}: version {identity.version}"
                self.report.found("version_reused", detail, seq=seq, file=name)
        for control in controls:
            rule, fault = self._fault_of(control)
            if fault:
                self.report.found(rule, fault, seq=seq, file=name)

    def _fault_of(self, control: "_Control") -> tuple[str, str]:
        """Of a row that speaks of what holds behind its packet: the rule, and "" for kept."""
        row = control.row
        if isinstance(row, SnapshotRow) and row.phase == "end":
            return "bad_snapshot", self._fault_of_end(row, control.snapshot, control.run)
        if isinstance(row, ProofRow):
            return "bad_proof", self._fault_of_proof(row)
        if isinstance(row, RepairRow):
            return "bad_repair", self._fault_of_repair(row)
        return "", ""

    def _begin(self, row: SnapshotRow) -> None:
        if self._snapshot is not None:
            self.report.noted(f"snapshot {self._snapshot} never ended")
        self._snapshot = row.snapshot_id
        self._runs += 1

    def _fault_of_end(self, row: SnapshotRow, begun: str | None, run: int) -> str:
        if begun != row.snapshot_id:
            if self._is_whole:
                return f"snapshot {row.snapshot_id} ends without its begin"
            return ""
        if self._is_whole and row.complete:
            forgotten = self._known.outside_of(run)
            if forgotten:
                return f"snapshot {row.snapshot_id} leaves out {forgotten} rows"
        said = {(one.topic, one.source): one for one in row.topics}
        for topic, source in self._known.copies(run) - said.keys():
            return f"the end leaves out topic {topic} of {source}"
        for one in row.topics:
            if one.topic not in rows.TOPICS:
                self.report.noted(f"snapshot: topic {one.topic} is not known here")
                continue
            tree = self._known.tree(one.topic, one.source, run)
            if (tree.rows, tree.root) != (one.rows, one.root):
                return f"topic {one.topic} of {one.source}: {tree.rows} rows, root {tree.root}"
        if not self._is_whole and row.complete:
            self._known.forget_outside_of(run)
            self._is_whole = True
        self.report.snapshots += 1
        return ""

    def _fault_of_proof(self, row: ProofRow) -> str:
        about = f"topic {row.topic} of {row.source}"
        if merkle.root_of(row.buckets) != row.root:
            return f"{about}: the root is not that of the buckets"
        is_known = row.topic in rows.TOPICS
        if not is_known or not self._is_whole or not row.complete:
            self.report.noted(f"{about}: a proof cannot be judged from these packets")
            return ""
        tree = self._known.tree(row.topic, row.source)
        differing = tree.differing(row.buckets)
        if differing or tree.rows != row.rows:
            return (
                f"{about}: {tree.rows} rows, {len(differing)} buckets differ, first {differing[:1]}"
            )
        self.report.proofs += 1
        return ""

    def _fault_of_repair(self, row: RepairRow) -> str:
        about = f"topic {row.topic} of {row.source}, bucket {row.bucket}"
        if row.topic not in rows.TOPICS:
            self.report.noted(f"{about}: a repair of a topic not known here")
            return ""
        try:
            found = repairs.read(row)
        except RowRefused as refusal:
            return f"{about}: {refusal}"
        for one in found.values():
            if isinstance(one, RefusedRow):
                self.report.noted(f"{about}: {one.why} (only this row is set aside)")
        if self._is_whole and row.complete:
            held = self._known.keys(row.topic, row.source, row.bucket)
            if [key for key in held if repairs.covers(row, key)] != row.keys:
                return f"{about}: not all rows of the part"
        return ""


_SCHEMA = """
create table thing (topic, source, key, version, digest, bucket, run,
                    primary key (topic, source, bucket, key)) without rowid
"""


class _Known:
    """The newest version of each thing that was said."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator["_Known"]:
        """On a file that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="gate-conform-") as folder:
            db = sqlite3.connect(Path(folder) / "known", isolation_level=None)
            try:
                for statement in ("pragma journal_mode = off", "pragma synchronous = off", _SCHEMA):
                    db.execute(statement)
                yield cls(db)
            finally:
                db.close()

    def put(self, topic: str, identity: rows.Identity, digest: bytes, run: int) -> bool:
        """True when this version was said before with another content."""
        bucket = merkle.bucket_of(identity.key)
        name = (topic, identity.source, bucket, identity.key)
        held = self._db.execute(
            "select version, digest from thing"
            " where topic = ? and source = ? and bucket = ? and key = ?",
            name,
        ).fetchone()
        version, kept = identity.version, digest
        if held is not None and held[0] > version:
            version, kept = held
        self._db.execute(
            "insert or replace into thing (topic, source, bucket, key, version, digest, run)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (*name, version, kept, run),
        )
        return held is not None and held[0] == identity.version and held[1] != digest

    def outside_of(self, run: int) -> int:
        """How many things the run did not repeat."""
        found = self._db.execute("select count(*) from thing where run < ?", (run,)).fetchone()
        return int(found[0])

    def forget_outside_of(self, run: int) -> None:
        self._db.execute("delete from thing where run < ?", (run,))

    def copies(self, run: int) -> set[tuple[str, str]]:
        return set(
            self._db.execute("select distinct topic, source from thing where run >= ?", (run,))
        )

    def keys(self, topic: str, source: str, bucket: int) -> Iterator[str]:
        found = self._db.execute(
            "select key from thing where topic = ? and source = ? and bucket = ? order by key",
            (topic, source, bucket),
        )
        return (row[0] for row in found)

    def tree(self, topic: str, source: str, run: int = 0) -> merkle.Tree:
        tree = merkle.Tree()
        digests: dict[int, Any] = {}
        counts: Counter[int] = Counter()
        found = self._db.execute(
            "select bucket, key, version, digest from thing"
            " where topic = ? and source = ? and run >= ? order by bucket, key",
            (topic, source, run),
        )
        for bucket, key, version, digest in found:
            leaf = merkle.leaf_of(topic, rows.Identity(source, key, version), digest)
            digests.setdefault(bucket, hashlib.sha256()).update(leaf)
            counts[bucket] += 1
        for bucket, digest in digests.items():
            tree.put(bucket, digest.hexdigest(), counts[bucket])
        return tree
