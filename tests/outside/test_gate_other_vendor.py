"""Another vendor at the other end of the gate, who has read SPEC.md and nothing else: whatever
gets lost or is tampered with, both sides become equal, and prove it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from estation.cases import packets as case_packets
from estation.fees import packets as fee_packets
from estation.outside.gate import conformance, keys, receiving, sending, snapshots, upkeep
from estation.outside.gate.events import Finding
from estation.outside.gate.receiving import ReceiveReport
from estation.outside.gate.snapshots import Why
from tests.identity.people import VAULT
from tests.outside import gate_document, tiny_writer
from tests.outside.gate_link import events, proofs
from tests.outside.gate_side import BACK, PRIVATE, PUBLIC, STREAM, Sides, position, query
from tests.outside.tiny_writer import Row, Writer

AT = "2026-03-02T09:00:30Z"
CENTRE = "jc-center"
KEY = tiny_writer.Ed25519Key(bytes(range(32)))
PEER = keys.load_peer_key((gate_document.VECTORS / "keys" / "ed25519.public.pem").read_bytes())
EXAMPLE: dict[str, Row] = {
    topic: json.loads(text) for topic, text in gate_document.examples(gate_document.text())
}


def bill(number: int, **changes: Any) -> tuple[str, Row]:
    named = {"source_id": f"F{number:06d}", "bill_no": f"JF{number:08d}"}
    return "fee_bill", {**EXAMPLE["fee_bill"], **named, **changes}


@dataclass
class Vendor(Writer):
    """Writes by the document; `city` applies it into the real tables and answers."""

    root: Path
    now: datetime = datetime(2026, 3, 2, 9, 1, tzinfo=UTC)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        Writer.__init__(self, self.root / "incoming", STREAM, KEY, at=AT)

    async def city(self, **options: Any) -> ReceiveReport:
        return await receiving.apply_incoming(
            STREAM,
            folder=self.folder,
            peer_key=PEER,
            handlers={
                "case": case_packets.make_handler(VAULT),
                "fee_bill": fee_packets.make_handler(VAULT, payees={"treasury"}),
            },
            now=self.now,
            reply_stream=BACK,
            alarm=self._hear_alarm,
            **options,
        )

    async def hear(self) -> list[tuple[str, Row]]:
        """What the city's new packets say, as the vendor reads them."""
        outgoing = self.root / "outgoing"
        await sending.pack_waiting(
            BACK,
            folder=outgoing,
            key=keys.load_seal_key(PRIVATE),
            now=self.now,
            heartbeat_after=timedelta(days=1),
        )
        heard = []
        for path in sorted(outgoing.iterdir()) if outgoing.is_dir() else []:
            heard += tiny_writer.rows_in(path.read_bytes())
            path.unlink()
        return heard

    def lose(self, *seqs: int) -> None:
        for seq in seqs:
            (self.folder / tiny_writer.file_name(STREAM, seq)).unlink()

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    async def _hear_alarm(self, finding: Finding, now: datetime) -> None:
        self.findings.append(finding)


@pytest.fixture
def vendor(database: str, tmp_path: Path) -> Vendor:
    return Vendor(tmp_path)


async def bills() -> dict[str, tuple[int, str, str]]:
    """source_id -> version, title, state."""
    found = await query("select source_id, version, title, state from bill order by source_id")
    return {row["source_id"]: (row["version"], row["title"], row["state"]) for row in found}


def titles(found: dict[str, tuple[int, str, str]]) -> dict[str, str]:
    return {key: title for key, (_, title, _) in found.items()}


async def test_its_proofs_hold_over_our_tables_behind_all_rows_of_their_packet(
    vendor: Vendor,
) -> None:
    vendor.write(("case", EXAMPLE["case"]), bill(1), bill(2, unheard_of={"x": [1]}))
    revised = bill(1, version=2, title="更正")
    vendor.keep(*revised)
    vendor.write(*vendor.proofs(), revised)

    report = await vendor.city()

    assert report.applied == [1, 2]
    assert sorted(await proofs()) == [("case", True, []), ("fee_bill", True, [])]
    assert vendor.findings == []


async def test_what_we_miss_it_hears_of_and_writes_again(vendor: Vendor) -> None:
    for number in (1, 2, 3):
        vendor.write(bill(number))
    vendor.lose(2)
    await vendor.city()
    vendor.later(seconds=30)
    await vendor.city()

    heard = [row for topic, row in await vendor.hear() if topic == "received_up_to"]
    vendor.again(heard[-1]["seq"] + 1)
    vendor.later(seconds=10)
    report = await vendor.city()

    (now_received,) = [row for topic, row in await vendor.hear() if topic == "received_up_to"]
    assert (heard[-1]["stream"], heard[-1]["seq"], heard[-1]["behind"]) == (STREAM, 1, True)
    assert report.applied == [2, 3]
    assert (now_received["seq"], now_received["digest"]) == (3, vendor.previous)
    assert not now_received["behind"]


async def test_what_is_lost_for_good_we_jump_over_behind_its_snapshot(vendor: Vendor) -> None:
    vendor.write(("case", EXAMPLE["case"]), bill(1))
    vendor.write(bill(2))
    vendor.write(bill(3), bill(1, version=2, title="更正"))
    vendor.lose(2, 3)
    vendor.write(vendor.begin("S-1"), *vendor.everything()[:2])
    vendor.write(*vendor.everything()[2:], bill(4))
    vendor.write(*vendor.end("S-1"))
    too_early = await vendor.city()
    before = await bills()
    vendor.later(minutes=3)

    report = await vendor.city()

    (jump,) = await events("jumped")
    assert (too_early.applied, too_early.stopped_reason) == ([1], "gap")
    assert titles(before) == {"F000001": "存量房买卖税费"}
    assert report.applied == [4, 5, 6]
    assert await position() == (6, "")
    assert {key: version for key, (version, _, _) in (await bills()).items()} == {
        "F000001": 2, "F000002": 1, "F000003": 1, "F000004": 1,
    }  # fmt: skip
    assert sorted(await proofs()) == [("case", True, []), ("fee_bill", True, [])]
    assert json.loads(jump["detail"])["skipped"] == {"first": 2, "last": 3}


async def test_behind_a_jump_the_stream_goes_on_and_late_packets_are_dropped(
    vendor: Vendor,
) -> None:
    vendor.write(bill(1))
    vendor.write(bill(2))
    vendor.lose(2)
    vendor.write(*vendor.snapshot("S-1"))
    await vendor.city()
    vendor.later(minutes=3)
    await vendor.city()
    vendor.again(2)
    vendor.write(bill(2, version=2, title="更正"))

    report = await vendor.city()

    assert (report.duplicates, report.applied, report.quarantined) == (1, [4], [])
    assert titles(await bills()) == {"F000001": "存量房买卖税费", "F000002": "更正"}


async def test_a_snapshot_that_is_not_what_its_end_says_moves_nothing(vendor: Vendor) -> None:
    vendor.write(bill(1))
    vendor.write(bill(2))
    vendor.lose(2)
    vendor.write(*vendor.snapshot("S-1")[:-2], *vendor.end("S-1"), bill(3))
    lying = conformance.conform(vendor.folder, [PEER]).streams[0]
    await vendor.city()
    vendor.later(minutes=3)
    refused = await vendor.city()
    in_between = await bills()
    vendor.write(*vendor.snapshot("S-2"))

    report = await vendor.city()

    assert "bad_snapshot" in {one.rule for one in lying.findings}
    assert (refused.applied, list(in_between)) == ([], ["F000001"])
    assert [one["distinction"] for one in await events("jump_refused")] == ["S-1"]
    assert report.applied == [4]
    assert list(await bills()) == ["F000001", "F000002", "F000003"]


async def test_what_differs_is_asked_for_and_repaired(vendor: Vendor) -> None:
    vendor.write(*(bill(number) for number in range(1, 8)))
    await vendor.city()
    await query("update bill set title = '改过的' where source_id = 'F000003'")
    vendor.write(("proof", vendor.proof("fee_bill", CENTRE)))
    await vendor.city()

    (wanted,) = [row for topic, row in await vendor.hear() if topic == "rows_wanted"]
    vendor.write(*answer(vendor, wanted))
    vendor.later(minutes=1)
    await vendor.city()

    assert wanted["stream"] == STREAM
    assert wanted["buckets"] == [tiny_writer.bucket_of("F000003")]
    assert set(titles(await bills()).values()) == {"存量房买卖税费"}
    assert [equal for _, equal, _ in await proofs()] == [False, True]
    assert ("repaired", ["F000003"]) in [(one.kind, list(one.named)) for one in vendor.findings]
    assert conformance.conform(vendor.folder, [PEER]).passed


async def test_a_bill_it_never_wrote_is_withdrawn_and_told(vendor: Vendor) -> None:
    vendor.write(bill(1), bill(2))
    await vendor.city()
    del vendor.log["fee_bill", CENTRE]["F000002"]
    vendor.write(("proof", vendor.proof("fee_bill", CENTRE)))
    await vendor.city()

    (wanted,) = [row for topic, row in await vendor.hear() if topic == "rows_wanted"]
    vendor.write(*answer(vendor, wanted))
    await vendor.city()

    found = await bills()
    assert (found["F000001"][2], found["F000002"][2]) == ("payable", "withdrawn")
    assert [(one.kind, list(one.named)) for one in vendor.findings] == [("phantom", ["F000002"])]
    assert [equal for _, equal, _ in await proofs()] == [False, True]


SPOILT = {
    "another bucket": {"bucket": 7},
    "behind its end": {"upto": "F000000"},
    "before its beginning": {"after": "F999999"},
    "another's key": {"keys": ["F000009"]},
    "another source": {"source": "county"},
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_part_that_is_not_what_it_says_repairs_nothing(vendor: Vendor, how: str) -> None:
    vendor.write(bill(1))
    await vendor.city()
    await query("update bill set title = '改过的'")
    part = vendor.repair("fee_bill", CENTRE, tiny_writer.bucket_of("F000001"))
    path = vendor.write(("repair", {**part, **SPOILT[how]}))
    (judged,) = conformance.conform(path.parent, [PEER]).streams

    report = await vendor.city()

    assert [reason for _, reason in report.quarantined] == ["bad_row"]
    assert titles(await bills()) == {"F000001": "改过的"}
    assert [one.rule for one in judged.findings] == ["bad_repair"]


def answer(vendor: Vendor, wanted: Row) -> Sequence[tuple[str, Row]]:
    """6.4: all parts, and behind them the proof."""
    topic, source = wanted["topic"], wanted["source"]
    parts = [("repair", vendor.repair(topic, source, bucket)) for bucket in wanted["buckets"]]
    return [*parts, ("proof", vendor.proof(topic, source))]


# The vendor as the receiver of what our sender writes


@dataclass
class Reader:
    """Keeps the newest version of each thing, as the document says."""

    things: dict[tuple[str, str], dict[str, tuple[int, Row]]] = field(default_factory=dict)
    controls: list[tuple[str, Row]] = field(default_factory=list)

    def read(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            for topic, row in tiny_writer.rows_in(path.read_bytes()):
                named = tiny_writer.identity(topic, row)
                if named is None:
                    self.controls.append((topic, row))
                    continue
                held = self.things.setdefault((topic, named[0]), {})
                if held.get(named[1], (0,))[0] <= named[2]:
                    held[named[1]] = (named[2], row)

    def buckets(self, topic: str, source: str) -> list[str]:
        return tiny_writer.buckets_of(topic, source, self.things[topic, source])

    def rows(self, topic: str) -> list[Row]:
        return [row for kind, row in self.controls if kind == topic]


async def test_it_checks_our_snapshot_and_proof_and_gets_what_it_asks_for(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PIECE_ROWS", 10)
    sides, reader = Sides(tmp_path), Reader()
    writer = Writer(tmp_path / "back", BACK, KEY, at=AT)
    await sides.put(*range(1, 26))
    await sides.pack()
    await snapshots.plan(STREAM, Why.asked, now=sides.now)
    await upkeep.prove(STREAM)
    await sides.pack()
    reader.read(sides.outgoing)
    ours = reader.buckets("fee_bill", CENTRE)
    key = "F000013"
    wanted = {"stream": STREAM, "topic": "fee_bill", "source": CENTRE}
    writer.write(("rows_wanted", {**wanted, "buckets": [tiny_writer.bucket_of(key)]}))
    await receiving.apply_incoming(
        BACK, folder=writer.folder, peer_key=PEER, handlers={}, now=sides.now, reply_stream=STREAM
    )

    await sides.pack()

    reader.read(sides.outgoing)
    end = next(row for row in reader.rows("snapshot") if row["phase"] == "end")
    proof, part = reader.rows("proof")[-1], reader.rows("repair")[-1]
    assert [(one["topic"], one["rows"], one["root"]) for one in end["topics"]] == [
        ("fee_bill", 25, tiny_writer.root_of(ours))
    ]
    assert (proof["buckets"], proof["root"]) == (ours, tiny_writer.root_of(ours))
    assert key in part["keys"]
    assert part["rows"][part["keys"].index(key)] == reader.things["fee_bill", CENTRE][key][1]
    report = conformance.conform(sides.outgoing, [keys.load_peer_key(PUBLIC)])
    assert report.passed
    assert (report.streams[0].snapshots, report.streams[0].proofs) == (1, 3)
