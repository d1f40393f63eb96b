"""Several sources at one gate: each with its own keys, stream and region, none in another's way."""

import asyncio
import errno
import json
import os
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec
import pytest
from msgspec import Struct, structs

from estation import worker
from estation.cases import packets as case_packets
from estation.fees import packets as fee_packets
from estation.outside.gate import (
    bounds,
    keys,
    merkle,
    peering,
    peers,
    rounds,
    rows,
    sending,
    upkeep,
)
from estation.outside.gate import format as packets
from estation.outside.gate.age import CopyAge, LateSource, copy_age
from estation.outside.gate.bounds import Bounds
from estation.outside.gate.errors import (
    KeyNotAcceptable,
    LastKey,
    PeerNotAcceptable,
    PeerTaken,
    PeerUnknown,
    Reason,
    ReasonMissing,
)
from estation.outside.gate.peering import Deed
from estation.outside.gate.peers import Peer
from estation.outside.gate.scope import Scope
from estation.shared import places
from estation.shared.crypto import Vault
from estation.shared.turns import TurnsFailed
from tests.cases.test_packets import case
from tests.outside.gate_peers import COUNTY, COUNTY_STREAM, DEED, Gate, center, county_bill
from tests.outside.gate_side import BACK, PRIVATE, STREAM, T0, Sides, bill, query
from tests.registry import rows as register


@pytest.fixture
async def gate(database: str, tmp_path: Path) -> Gate:
    made = Gate(tmp_path)
    made.make_keys()
    await made.keep_first(made.now)
    return made


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


# Adding one


async def test_the_settings_peer_is_the_first_one_with_its_keys(gate: Gate) -> None:
    (first,) = await peers.peers()

    assert (first.name, first.sources, first.regions) == ("jc-center", ("jc-center",), ("3601",))
    assert (first.stream_in, first.stream_out) == (STREAM, BACK)
    assert {(key.owner, key.state(T0)) for key in first.keys} == {
        ("ours", "valid"),
        ("theirs", "valid"),
    }


async def test_starting_again_changes_nothing_and_brings_no_retired_key_back(gate: Gate) -> None:
    _, public = keys.make_key()
    old = next(key.key_id for key in (await center()).keys if key.owner == "theirs")
    await peering.add_key("jc-center", public, valid_from=gate.now, deed=DEED, now=gate.now)
    await peering.retire_key("jc-center", old, valid_until=gate.now, deed=DEED, now=gate.now)
    before = await _tables()

    gate.later(hours=1)
    await gate.keep_first(gate.now)

    assert await _tables() == before


async def test_a_source_added_while_the_program_runs_is_served_without_a_restart(
    gate: Gate,
) -> None:
    running = gate.rounds()
    await running.receive(gate.now)
    county = await gate.add_county()
    await gate.arrive(county, "fee_bill", county_bill(1))

    gate.later(seconds=3)
    await running.receive(gate.now)
    await running.finish()

    assert gate.seen == [(COUNTY_STREAM, "F000001")]
    assert [path.name for path in county.folder.iterdir()] != []


BAD_PEERS = {
    "without a region it could write everywhere": {"regions": []},
    "a region is digits": {"regions": ["36-01"]},
    "a name becomes a file name": {"name": "../county"},
    "capital letters are no stream name": {"name": "County"},
    "nobody to speak for": {"sources": []},
    "a folder must not depend on where we stand": {"folder": Path("county")},
}


@pytest.mark.parametrize("changes", BAD_PEERS.values(), ids=BAD_PEERS)
async def test_a_peer_that_could_do_harm_is_refused(gate: Gate, changes: dict[str, Any]) -> None:
    with pytest.raises(PeerNotAcceptable):
        await gate.add_county(**changes)

    assert [peer.name for peer in await peers.peers()] == ["jc-center"]
    assert await query("select * from gate_deed") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "jc-center"},
        {"sources": ["jc-center"]},
        {"public_pem": "theirs"},
        {"folder": "the first's"},
    ],
    ids=["name", "source", "key", "folder"],
)
async def test_what_belongs_to_another_peer_is_not_given_away(
    gate: Gate, changes: dict[str, Any]
) -> None:
    if "public_pem" in changes:
        changes = {"public_pem": gate.pairs["jc-center"][1]}
    if "folder" in changes:
        changes = {"folder": gate.settings.folder}

    with pytest.raises(PeerTaken):
        await gate.add_county(**changes)

    assert [peer.name for peer in await peers.peers()] == ["jc-center"]


@pytest.mark.parametrize(
    "spelt",
    ["x/../online", "linked", "online/incoming", "online/outgoing/deep/er", "online/quarantine"],
)
async def test_a_folder_that_is_anothers_under_any_name_is_refused(gate: Gate, spelt: str) -> None:
    (gate.root / "x").mkdir()
    (gate.root / "linked").symlink_to(gate.root / "online", target_is_directory=True)

    with pytest.raises(PeerTaken):
        await gate.add_county(folder=gate.root / spelt)

    assert [peer.name for peer in await peers.peers()] == ["jc-center"]
    assert not (gate.root / spelt / "incoming").exists()


async def test_no_folder_holds_anothers_packets_in_its_own_incoming(gate: Gate) -> None:
    await gate.add_county(folder=gate.root / "a" / "incoming" / "b")

    with pytest.raises(PeerTaken):
        await gate.add_county(
            name="yz-county", sources=["yz-county"], folder=gate.root / "a",
            public_pem=keys.make_key()[1],
        )  # fmt: skip

    assert len(await peers.peers()) == 2


async def test_a_file_that_is_no_key_adds_nobody(gate: Gate) -> None:
    with pytest.raises(KeyNotAcceptable):
        await gate.add_county(public_pem=b"-----BEGIN PUBLIC KEY-----\nAAAA\n")

    assert [peer.name for peer in await peers.peers()] == ["jc-center"]


# What a source may write

REFUND_ORDER = rows.RefundOrderRow(
    source=COUNTY, source_id="R1", version=1, region="360121", bill_source_id="F1",
    order_no="P1", amount_fen=100, believed_refundable_fen=100, shares=[], reason="多缴",
    asked_by="秦岚", approved_by="沈文清", approved_at=T0,
)  # fmt: skip
CASE = rows.CaseRow(
    source=COUNTY, source_id="C1", version=1, region="360121", case_no="C1",
    matter="RESALE_TRANSFER", hall="临江大厅", unit_code="", address="临江县", opened_at=T0,
    state="open", parties=[], stages=[],
)  # fmt: skip
RECEIPT = rows.ReceiptRow(
    source=COUNTY, source_id="F1", bill_version=1, bill_no="JF1", order_no="P1",
    channel="alipay", out_trade_no="P1-1", channel_trade_no="42", paid_at=T0, amount_fen=100,
    transfer_id="t", splits=[],
)  # fmt: skip
REFUND = rows.RefundRow(
    source=COUNTY, source_id="F1", version=1, refund_no="T1", order_source_id="", order_no="P1",
    bill_no="JF1", state="refunding", amount_fen=100, shares=[], channel="alipay",
    channel_refund_no="", at=T0, transfer_id="", reason="多缴",
)  # fmt: skip
EXAMPLES: dict[str, Struct] = {
    "case": CASE,
    "fee_bill": county_bill(1),
    "receipt": RECEIPT,
    "refund_order": REFUND_ORDER,
    "refund": REFUND,
    "payment_evidence": rows.PaymentEvidenceRow(
        source=COUNTY, source_id="F1", version=1, bill_no="JF1", order_no="P1",
        out_trade_no="P1-1", channel="alipay", merchant_id="2021", channel_trade_no="42",
        paid_at=T0, amount_fen=100, bill_fen=100, channel_day=T0.date(), file_digest="0" * 64,
        file_line=1, proved_at=T0, transfer_id="t",
    ),
    "case_event": rows.CaseEventRow(
        source=COUNTY, source_id="E1", region="360121", case_source_id="C1", seq=1,
        what="opened", stage="", state="open", at=T0,
    ),
    **{
        topic: make(source=COUNTY, region="360121")
        for topic, make in {
            "unit": register.unit,
            "right": register.right,
            "restriction": register.restriction,
            "certificate": register.certificate,
        }.items()
    },
}  # fmt: skip


OWN_ROWS: dict[str, Struct] = {
    "proof": rows.ProofRow(
        topic="unit", source=COUNTY, rows=0, root=merkle.root_of([merkle.EMPTY] * 256),
        buckets=[merkle.EMPTY] * 256,
    ),
    "rows_wanted": rows.RowsWantedRow(
        stream="online-x", topic="receipt", source=COUNTY, buckets=[1]
    ),
    "repair": rows.RepairRow(
        topic="unit", source=COUNTY, bucket=1, after="", upto=None, keys=[], rows=[]
    ),
}  # fmt: skip
"""The protocol's own."""


def test_every_topic_that_names_a_source_has_an_example_here() -> None:
    owned = {topic for topic, row in rows.TOPICS.items() if "source" in row.__struct_fields__}

    assert owned == {*EXAMPLES, *OWN_ROWS}


@pytest.mark.parametrize("topic", OWN_ROWS)
async def test_a_county_never_proves_or_repairs_rows_of_another_source(
    gate: Gate, topic: str
) -> None:
    county = await gate.add_county()
    await gate.arrive(county, topic, OWN_ROWS[topic])
    own = await gate.receive(county)
    await gate.arrive(county, topic, structs.replace(OWN_ROWS[topic], source="jc-center"))

    report = await gate.receive(county)

    assert own.applied == [1]
    assert [reason for _, reason in report.quarantined] == [Reason.bad_row]
    assert report.applied == []


@pytest.mark.parametrize("topic", EXAMPLES)
async def test_a_county_writes_its_own_rows_of_every_topic(gate: Gate, topic: str) -> None:
    county = await gate.add_county()
    await gate.arrive(county, topic, EXAMPLES[topic])

    report = await gate.receive(county)

    assert (report.applied, report.quarantined) == ([1], [])
    assert len(gate.seen) == 1


@pytest.mark.parametrize("topic", EXAMPLES)
async def test_a_county_never_writes_a_row_of_another_source(gate: Gate, topic: str) -> None:
    county = await gate.add_county()
    foreign = structs.replace(EXAMPLES[topic], source="jc-center")
    await gate.arrive(county, topic, EXAMPLES[topic], foreign)

    report = await gate.receive(county)

    assert [reason for _, reason in report.quarantined] == [Reason.bad_row]
    assert (report.applied, gate.seen) == ([], [])
    kept = await query("select detail from gate_incoming_file where state = 'quarantined'")
    assert kept[0]["detail"] == f"line 2, topic {topic}: another source's row"


@pytest.mark.parametrize(
    "topic", [topic for topic, row in EXAMPLES.items() if hasattr(row, "region")]
)
async def test_a_county_never_writes_a_row_of_another_region(gate: Gate, topic: str) -> None:
    county = await gate.add_county()
    await gate.arrive(county, topic, structs.replace(EXAMPLES[topic], region="360102"))

    report = await gate.receive(county)

    assert [reason for _, reason in report.quarantined] == [Reason.bad_row]
    assert (report.applied, gate.seen) == ([], [])


@pytest.mark.parametrize("owner", [{"source": "jc-center"}, {"region": "360102"}])
async def test_nor_a_row_of_a_topic_nobody_here_knows_yet(
    gate: Gate, owner: dict[str, str]
) -> None:
    county = await gate.add_county()
    row = {"source": COUNTY, "region": "360121", **owner}
    lines = [packets.line("hall_calendar", json.dumps(row).encode())]
    _put_packet(county, lines, gate)

    report = await gate.receive(county)

    assert [reason for _, reason in report.quarantined] == [Reason.bad_row]
    assert await query("select * from gate_parked_row") == []


async def test_an_unknown_topic_of_the_county_itself_is_parked(gate: Gate) -> None:
    county = await gate.add_county()
    for_all = [b'{"source":"lj-county","region":"360121"}', b'{"source":7,"region":[]}']
    _put_packet(county, [packets.line("hall_calendar", body) for body in for_all], gate)

    report = await gate.receive(county)

    assert (report.parked_rows, report.quarantined) == (2, [])


@pytest.mark.parametrize(
    ("regions", "region", "fault"),
    [
        (["3601"], "360121", ""),
        (["360121"], "360121", ""),
        (["360121"], "360102", "region"),
        (["360102", "360103"], "360103", ""),
        ([], "999999", ""),
    ],
)
def test_a_region_is_covered_by_its_beginning(regions: list[str], region: str, fault: str) -> None:
    assert Scope([COUNTY], regions).fault_of(county_bill(1, region=region)) == fault


async def test_one_business_key_of_two_sources_names_two_bills(gate: Gate) -> None:
    county = await gate.add_county()
    handlers = {"fee_bill": fee_packets.make_handler(Vault(bytes(32)), payees={"treasury"})}
    await gate.arrive(await center(), "fee_bill", bill(1))
    await gate.arrive(county, "fee_bill", county_bill(1, version=9, title="临江县税费"))

    for peer in await peers.peers():
        await rounds.receive_from(peer, handlers=handlers, now=gate.now)

    bills = await query("select source, version, title from bill order by source")
    assert [tuple(row.values()) for row in bills] == [
        ("jc-center", 1, "存量房买卖税费"),
        (COUNTY, 9, "临江县税费"),
    ]


async def _tables() -> list[list[dict[str, Any]]]:
    return [
        await query("select * from gate_peer"),
        await query("select * from gate_peer_source"),
        await query("select * from gate_key order by id"),
    ]


def _put_packet(peer: Peer, lines: list[bytes], gate: Gate) -> None:
    built = packets.build(
        stream=peer.stream_in, seq=1, previous=packets.NO_PREVIOUS, lines=lines,
        watermark=gate.now, created_at=gate.now,
        key=keys.load_seal_key(gate.pairs[peer.name][0]),
    )  # fmt: skip
    file = peer.incoming / packets.file_name(peer.stream_in, 1)
    file.write_bytes(built.manifest + b"\n" + built.body)


# Keys


async def test_a_new_key_counts_beside_the_old_one_until_that_is_retired(gate: Gate) -> None:
    county = await gate.add_county()
    private, public = keys.make_key()
    old = next(key.key_id for key in county.keys if key.owner == "theirs")
    await peering.add_key(COUNTY, public, valid_from=gate.now, deed=DEED, now=gate.now)
    await gate.arrive(county, "fee_bill", county_bill(1))
    await gate.receive(await peers.peer_named(COUNTY))
    await gate.arrive(county, "fee_bill", county_bill(2), private=private)
    await gate.receive(await peers.peer_named(COUNTY))

    await peering.retire_key(COUNTY, old, valid_until=gate.now, deed=DEED, now=gate.now)
    await gate.arrive(county, "fee_bill", county_bill(3))  # sealed by the old one
    report = await gate.receive(await peers.peer_named(COUNTY))

    assert [number for _, number in gate.seen] == ["F000001", "F000002"]
    assert [reason for _, reason in report.quarantined] == [Reason.bad_seal]
    kept = await query("select detail from gate_incoming_file where state = 'quarantined'")
    assert kept[0]["detail"] == f"sealed by retired key {old!a}"


async def test_a_key_does_not_count_before_its_time(gate: Gate) -> None:
    county = await gate.add_county()
    private, public = keys.make_key()
    begins = gate.now + timedelta(hours=1)
    await peering.add_key(COUNTY, public, valid_from=begins, deed=DEED, now=gate.now)
    await gate.arrive(county, "fee_bill", county_bill(1), private=private)

    early = await gate.receive(await peers.peer_named(COUNTY))
    gate.later(hours=1)
    await sending.write_again(COUNTY_STREAM, folder=county.incoming, first=1, last=1)
    in_time = await gate.receive(await peers.peer_named(COUNTY))

    assert [reason for _, reason in early.quarantined] == [Reason.bad_seal]
    assert in_time.applied == [1]


async def test_our_new_key_is_known_before_it_seals_and_the_old_one_counts_after(
    gate: Gate,
) -> None:
    county = await gate.add_county()
    begins = gate.now + timedelta(hours=24)
    made = await peering.rotate_key(
        COUNTY, secrets_dir=gate.secrets, valid_from=begins, deed=DEED, now=gate.now
    )
    old = next(key.key_id for key in county.keys if key.owner == "ours")

    await gate.pack(await peers.peer_named(COUNTY))
    gate.later(hours=24)
    await gate.pack(await peers.peer_named(COUNTY))

    sealed_by = [
        packets.read_head(path.read_bytes()).seal.key for path in sorted(county.outgoing.iterdir())
    ]
    assert sealed_by == [old, made.key_id]
    assert keys.load_peer_key(made.public_file.read_bytes()).key_id == made.key_id
    (file,) = gate.secrets.glob(f"gate/{COUNTY}_*_key.pem")
    assert file.stat().st_mode & 0o077 == 0
    ours = {key.key_id: key for key in (await peers.peer_named(COUNTY)).keys if key.file}
    assert ours[old].valid_until == begins + peering.OVERLAP


async def test_our_new_key_may_be_of_another_algorithm(gate: Gate) -> None:
    pytest.importorskip("gmssl_pyx", reason="the extra `sm` is not installed")
    county = await gate.add_county()
    await gate.pack(county)
    gate.later(hours=1)
    made = await peering.rotate_key(
        COUNTY, secrets_dir=gate.secrets, valid_from=gate.now, deed=DEED, now=gate.now,
        algorithm="sm2-sm3",
    )  # fmt: skip

    await gate.pack(await peers.peer_named(COUNTY))

    heads = [packets.read_head(path.read_bytes()) for path in sorted(county.outgoing.iterdir())]
    assert [head.seal.algorithm for head in heads] == ["ed25519", "sm2-sm3"]
    assert heads[1].manifest.previous == heads[0].digest
    packets.check_seal(heads[1], keys.load_peer_key(made.public_file.read_bytes()))


async def test_a_county_may_seal_by_sm2(gate: Gate) -> None:
    pytest.importorskip("gmssl_pyx", reason="the extra `sm` is not installed")
    private, public = keys.make_key("sm2-sm3")
    county = await gate.add_county()
    await peering.add_key(COUNTY, public, valid_from=gate.now, deed=DEED, now=gate.now)
    county = await peers.peer_named(COUNTY)
    await gate.arrive(county, "fee_bill", county_bill(1), private=private)

    report = await gate.receive(county)

    assert (report.applied, report.quarantined) == ([1], [])


async def test_a_key_this_installation_cannot_make_is_refused(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    county = await gate.add_county()
    monkeypatch.setitem(sys.modules, "gmssl_pyx", None)

    with pytest.raises(KeyNotAcceptable):
        await peering.rotate_key(
            COUNTY, secrets_dir=gate.secrets, valid_from=gate.now, deed=DEED, now=gate.now,
            algorithm="sm2-sm3",
        )  # fmt: skip

    assert (await peers.peer_named(COUNTY)).keys == county.keys


async def test_the_last_key_of_a_peer_is_not_retired(gate: Gate) -> None:
    county = await gate.add_county()

    for key in county.keys:
        with pytest.raises(LastKey):
            await peering.retire_key(
                COUNTY, key.key_id, valid_until=gate.now, deed=DEED, now=gate.now
            )

    assert (await peers.peer_named(COUNTY)).keys == county.keys


async def test_a_packet_under_another_peers_key_is_a_bad_seal(gate: Gate) -> None:
    county = await gate.add_county()
    await gate.arrive(county, "fee_bill", county_bill(1), private=gate.pairs["jc-center"][0])

    report = await gate.receive(county)

    assert [reason for _, reason in report.quarantined] == [Reason.bad_seal]
    assert gate.seen == []


async def test_two_senders_with_one_key_are_a_fork_that_stops_only_their_stream(
    gate: Gate,
) -> None:
    county = await gate.add_county()
    await gate.arrive(county, "fee_bill", county_bill(1))
    await gate.receive(county)
    twin = county_bill(2)
    _put_packet(county, [packets.line("fee_bill", msgspec.json.encode(twin))], gate)
    await gate.arrive(await center(), "fee_bill", bill(5))

    report = await gate.receive(county)
    other = await gate.receive(await center())

    assert [reason for _, reason in report.quarantined] == [Reason.fork]
    assert report.stopped_reason == Reason.fork
    assert other.applied == [1]
    assert gate.seen == [(COUNTY_STREAM, "F000001"), (STREAM, "F000005")]


# Side by side


async def test_a_peer_at_work_for_long_delays_no_other(gate: Gate) -> None:
    await gate.add_county()
    let_go = asyncio.Event()
    turns: list[str] = []

    async def receive(peer: Peer, now: datetime) -> None:
        if peer.name == COUNTY:
            await let_go.wait()
        turns.append(peer.name)

    running = rounds.Rounds(prepare=gate.keep_first, pack=receive, receive=receive)
    for _ in range(3):
        async with asyncio.timeout(2):
            await running.receive(gate.now)
    before = list(turns)
    let_go.set()
    await running.finish()

    assert before == ["jc-center"] * 3
    assert turns == [*before, COUNTY]


async def test_folders_that_hang_hold_up_only_their_own_peers(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there are places at work."""
    mended = threading.Event()
    touch = rounds._touch

    def hang(folder: Path) -> None:
        if "county" in folder.name:
            mended.wait(20)
        touch(folder)

    monkeypatch.setattr(rounds, "_touch", hang)
    monkeypatch.setattr(rounds, "ANSWER_SECONDS", 0.2)
    for number in range(rounds.AT_WORK + 2):
        name = f"county{number}"
        await gate.add_county(
            name=name, sources=[name], public_pem=keys.make_key()[1],
            folder=gate.root / "peers" / name,
        )  # fmt: skip
    await gate.arrive(await center(), "fee_bill", bill(1))
    rounds.use_enough_threads()
    running = gate.rounds()

    await running.receive(gate.now)
    await asyncio.sleep(0.5)
    gate.later(seconds=3)
    await gate.arrive(await center(), "fee_bill", bill(2))
    await running.receive(gate.now)

    seen, troubles = list(gate.seen), await query("select name from gate_peer where trouble <> ''")
    mended.set()
    await running.finish()
    gate.later(seconds=3)
    await running.receive(gate.now)
    await running.finish()
    assert seen == [(STREAM, "F000001"), (STREAM, "F000002")]
    assert len(troubles) == rounds.AT_WORK + 2
    assert await query("select name from gate_peer where trouble <> ''") == []


async def test_a_failing_peer_is_asked_more_seldom_and_says_why(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each round waits for the turn it began: the machine may have other work.
    monkeypatch.setattr(rounds, "PATIENCE_SECONDS", 60)
    turns: list[datetime] = []

    async def fail(peer: Peer, now: datetime) -> None:
        turns.append(now)
        raise OSError(28, "No space left on device")

    running = rounds.Rounds(prepare=gate.keep_first, pack=fail, receive=fail)
    for _ in range(20):
        await running.pack(gate.now)
        gate.later(seconds=1)

    with pytest.raises(TurnsFailed, match="jc-center"):
        await running.finish()
    assert [(turn - T0).total_seconds() for turn in turns] == [0, 2, 6, 14]
    assert (await center()).trouble == "No space left on device"


async def test_a_suspended_peer_waits_and_loses_nothing(gate: Gate) -> None:
    county = await gate.add_county()
    running = gate.rounds()
    gate.later(seconds=1)
    await peering.set_state(COUNTY, "suspended", deed=DEED, now=gate.now)
    await gate.arrive(county, "fee_bill", county_bill(1))
    await running.receive(gate.now)
    before = list(gate.seen)

    gate.later(seconds=3)
    await peering.set_state(COUNTY, "active", deed=DEED, now=gate.now)
    await running.receive(gate.now)
    await running.finish()

    assert before == []
    assert gate.seen == [(COUNTY_STREAM, "F000001")]
    deeds = await query("select what, by, reason from gate_deed order by id")
    assert [row["what"] for row in deeds] == ["add_source", "set_suspended", "set_active"]
    assert {(row["by"], row["reason"]) for row in deeds} == {("丁一", "临江县接入")}


def test_nothing_is_done_without_a_reason() -> None:
    for by, reason in (("丁一", " "), ("", "接入"), ("丁一", "长" * 501)):
        with pytest.raises(ReasonMissing):
            Deed(by=by, reason=reason)


async def test_what_was_done_stays_written(gate: Gate) -> None:
    await gate.add_county()

    for statement in ("delete from gate_deed", "update gate_deed set reason = ''"):
        with pytest.raises(asyncpg.RaiseError):
            await query(statement)

    assert len(await query("select 1 from gate_deed")) == 1


# The way out


async def test_a_receipt_goes_to_the_centre_that_issued_the_bill(gate: Gate) -> None:
    await gate.add_county()
    services: Any = SimpleNamespace(
        settings=SimpleNamespace(gate=gate.settings, bureau_name="市中心", secret=gate.secret)
    )
    send = worker.handlers(services)["receipt"]

    await send(msgspec.to_builtins(RECEIPT), gate.now)
    await send(msgspec.to_builtins(structs.replace(RECEIPT, source="jc-center")), gate.now)
    with pytest.raises(PeerUnknown):
        await send(msgspec.to_builtins(structs.replace(RECEIPT, source="nobody")), gate.now)

    sent = await query(
        "select stream, body::jsonb->>'source' as source from gate_outgoing_row order by id"
    )
    assert [tuple(row.values()) for row in sent] == [
        ("online-lj-county", COUNTY),
        (BACK, "jc-center"),
    ]


async def test_each_destination_gets_every_file_and_a_failing_one_stops_none(gate: Gate) -> None:
    spare, broken = gate.root / "spare", gate.root / "broken"
    broken.write_text("a file where a folder should be")
    for folder in (broken, spare):
        await peering.add_destination("jc-center", folder, deed=DEED, now=gate.now)
    for _ in range(2):
        await gate.pack(await center())
        gate.later(seconds=11)
    failing = {one.folder: one.failure for one in (await center()).destinations}

    broken.unlink()
    await gate.pack(await center())

    assert failing == {broken: "File exists", spare: ""}
    files = _contents((await center()).outgoing)
    assert len(files) == 3
    assert _contents(spare) == files == _contents(broken)
    assert {one.failure for one in (await center()).destinations} == {""}


async def test_a_destinations_disk_is_not_filled_up_and_is_told_before_it_is_full(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = gate.root / "spare"
    await peering.add_destination("jc-center", spare, deed=DEED, now=gate.now)
    free = {spare: 1000}
    monkeypatch.setattr(bounds, "free_bytes", lambda folder: free.get(folder, 10**12))
    await gate.pack(await center())
    await look_after(gate)
    (full,) = (await center()).destinations
    seen = (await center()).disk_free

    free[spare] = 10**12
    gate.later(seconds=11)
    await gate.pack(await center())
    await look_after(gate)

    assert (full.failure, seen) == ("disk_low", 1000)
    assert len(_contents((await center()).outgoing)) == 2
    assert _contents(spare) == _contents((await center()).outgoing)
    (well,) = (await center()).destinations
    assert (well.failure, (await center()).disk_free) == ("", 10**12)


@pytest.mark.parametrize(
    "place",
    [
        "online/outgoing",
        "online/incoming",
        "online/quarantine/inside",
        "online/peers/lj-county/outgoing",
        "online/peers/lj-county/../lj-county/incoming",
        "online",  # holds the others
        "linked/outgoing",
        "spare",
        "spare/deeper",
        "linked-spare/deeper",
        "spare/../spare",
        "spare-of-the-county",
    ],
)
async def test_no_destination_is_a_folder_that_is_used_already(gate: Gate, place: str) -> None:
    await gate.keep_first(gate.now)
    await gate.add_county()
    for name, folder in (("jc-center", "spare"), (COUNTY, "spare-of-the-county")):
        await peering.add_destination(name, gate.root / folder, deed=DEED, now=gate.now)
    (gate.root / "spare").mkdir()
    (gate.root / "linked").symlink_to(gate.root / "online")
    (gate.root / "linked-spare").symlink_to(gate.root / "spare")
    before = await query("select * from gate_destination order by folder")
    deeds = await query("select * from gate_deed")

    with pytest.raises(PeerTaken):
        await peering.add_destination("jc-center", gate.root / place, deed=DEED, now=gate.now)

    assert before == await query("select * from gate_destination order by folder")
    assert deeds == await query("select * from gate_deed")


async def test_a_destination_is_an_absolute_folder(gate: Gate) -> None:
    await gate.keep_first(gate.now)

    with pytest.raises(PeerNotAcceptable):
        await peering.add_destination("jc-center", Path("spare"), deed=DEED, now=gate.now)

    assert (await center()).destinations == ()


async def test_a_destination_is_kept_where_it_is_and_removed_by_any_of_its_names(
    gate: Gate,
) -> None:
    await gate.keep_first(gate.now)
    (gate.root / "disk").mkdir()
    (gate.root / "linked").symlink_to(gate.root / "disk")
    await peering.add_destination(
        "jc-center", gate.root / "linked" / "spare", deed=DEED, now=gate.now
    )
    kept = [one.folder for one in (await center()).destinations]

    await peering.remove_destination(
        "jc-center", gate.root / "disk/../linked/spare", deed=DEED, now=gate.now
    )

    assert kept == [(gate.root / "disk" / "spare").resolve()]
    assert (await center()).destinations == ()


def test_a_folder_mounted_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "spare").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    original = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        """As where `there` is `here` once more, by a bind mount."""
        seen = str(path).replace(str(tmp_path / "there"), str(tmp_path / "here"))
        return original(Path(seen), **options)

    monkeypatch.setattr(Path, "stat", stat)

    assert places._is_within(tmp_path / "there" / "spare", tmp_path / "here")
    assert places._is_within(tmp_path / "there" / "not yet", tmp_path / "here")
    assert not places._is_within(tmp_path / "here", tmp_path / "there" / "spare")
    assert not places._is_within(tmp_path, tmp_path / "here")


async def test_further_destinations_are_served_while_the_first_folder_fails(gate: Gate) -> None:
    spare = gate.root / "spare"
    await peering.add_destination("jc-center", spare, deed=DEED, now=gate.now)
    peer = await center()
    peer.outgoing.parent.mkdir(parents=True)
    peer.outgoing.write_text("a file where a folder should be")

    with pytest.raises(FileExistsError):
        await gate.pack(peer)

    peer.outgoing.unlink()
    await gate.pack(await center())
    assert sorted(_contents(spare)) == [packets.file_name(BACK, 1)]
    assert _contents(peer.outgoing) == _contents(spare)


async def test_the_first_folder_goes_on_behind_packets_forgotten_while_it_failed(
    sides: Sides,
) -> None:
    await sides.send(1)
    for number in range(2, 7):  # as while it fails and further destinations serve the peer
        await sides.put(number)
        await sending.pack_waiting(
            STREAM, folder=None, key=keys.load_seal_key(PRIVATE), now=sides.now
        )
    await query("update gate_outgoing_stream set peer_received_seq = 6")
    forgotten = await sending.trim_sent(STREAM, keep=2)

    await sides.send(7)

    assert forgotten == 4
    assert sorted(file.name for file in sides.incoming.iterdir()) == [
        packets.file_name(STREAM, seq) for seq in (1, 5, 6, 7)
    ]
    (stream,) = await query("select last_seq, written_seq from gate_outgoing_stream")
    assert stream == {"last_seq": 7, "written_seq": 7}


async def test_a_destination_that_was_away_too_long_says_what_it_missed(gate: Gate) -> None:
    spare = gate.root / "spare"
    await peering.add_destination("jc-center", spare, deed=DEED, now=gate.now, from_now_on=False)
    for _ in range(3):
        await sending.pack_waiting(
            BACK, folder=None, key=keys.load_seal_key(gate.secret("gate/online_key.pem")),
            now=gate.now,
        )  # fmt: skip
        gate.later(seconds=11)
    await query("delete from gate_outgoing_packet where seq <= 2 returning seq")

    await gate.pack(await center())

    (destination,) = (await center()).destinations
    assert (destination.written_seq, destination.passed_over) == (4, 2)


async def look_after(gate: Gate) -> list[int]:
    return await rounds.look_after(
        await center(),
        schedule=upkeep.DEFAULT,
        bounds=Bounds(disk_reserve=0),
        now=gate.now,
    )


async def a_bill_is_lost_everywhere(gate: Gate, *folders: Path) -> None:
    """Its file left every folder of the centre's stream, and nobody confirms it."""
    await sending.put_rows(BACK, "fee_bill", [bill(1)], now=gate.now)
    await gate.pack(await center())
    for folder in (*folders, (await center()).outgoing):
        for file in folder.iterdir():
            file.unlink()
    gate.later(seconds=30)


async def test_lost_packets_are_written_again_to_every_destination(gate: Gate) -> None:
    spare, broken = gate.root / "spare", gate.root / "broken"
    for folder in (broken, spare):
        await peering.add_destination("jc-center", folder, deed=DEED, now=gate.now)
    await a_bill_is_lost_everywhere(gate, spare, broken)
    broken.rmdir()
    broken.write_text("a file where a folder should be")

    written = await look_after(gate)

    assert written == [1]
    assert list(_contents(spare)) == [packets.file_name(BACK, 1)]
    assert _contents(spare) == _contents((await center()).outgoing)
    failing = {one.folder: one.failure for one in (await center()).destinations}
    assert failing == {broken: "File exists", spare: ""}


async def test_a_destination_that_cannot_say_how_much_room_it_has_holds_up_no_other(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = gate.root / "spare"
    await peering.add_destination("jc-center", spare, deed=DEED, now=gate.now)
    await a_bill_is_lost_everywhere(gate, spare)

    def free_bytes(folder: Path) -> int:
        if folder == spare:
            raise OSError(errno.ESTALE, "Stale file handle")
        return 10**12

    monkeypatch.setattr(bounds, "free_bytes", free_bytes)
    written = await look_after(gate)
    await gate.pack(await center())

    assert written == [1]
    assert packets.file_name(BACK, 1) in _contents((await center()).outgoing)
    (failing,) = (await center()).destinations
    assert (failing.failure, (await center()).disk_free) == ("Stale file handle", 10**12)


async def test_destinations_get_lost_packets_also_while_the_first_folder_fails(
    gate: Gate,
) -> None:
    spare = gate.root / "spare"
    await peering.add_destination("jc-center", spare, deed=DEED, now=gate.now)
    await a_bill_is_lost_everywhere(gate, spare)
    outgoing = (await center()).outgoing
    outgoing.rmdir()
    outgoing.write_text("a file where a folder should be")

    with pytest.raises(FileExistsError):
        await look_after(gate)

    assert list(_contents(spare)) == [packets.file_name(BACK, 1)]


async def test_destinations_get_the_newest_packets_blindly_too_up_to_where_they_stand(
    gate: Gate,
) -> None:
    spare = gate.root / "spare"
    await look_after(gate)
    await a_bill_is_lost_everywhere(gate)
    await peering.add_destination("jc-center", spare, deed=DEED, now=gate.now)
    await sending.put_rows(BACK, "fee_bill", [bill(2)], now=gate.now)
    await gate.pack(await center())
    await query("update gate_upkeep set peer_seq = 2, blind_at = $1 returning stream", gate.now)
    (spare / packets.file_name(BACK, 2)).unlink()
    await query("update gate_destination set written_seq = 1 returning id")
    gate.later(minutes=30)
    await look_after(gate)
    standing_at_one = list(_contents(spare))
    await query("update gate_destination set written_seq = 2 returning id")
    gate.later(minutes=30)
    await look_after(gate)

    assert standing_at_one == [packets.file_name(BACK, 1)]
    assert sorted(_contents(spare)) == [packets.file_name(BACK, seq) for seq in (1, 2)]


@pytest.mark.parametrize(("parked", "longest"), [(1, 60), (0, 600)])
async def test_pauses_stay_short_while_files_of_the_peer_do_come(
    gate: Gate, parked: int, longest: int
) -> None:
    """On a bad line its word is held up behind a gap as our packets are."""
    await a_bill_is_lost_everywhere(gate)
    await query(
        """insert into gate_incoming_stream (stream, last_seq, last_digest, stopped_reason,
             stopped_detail, failures, parked_files, duplicates, content_seq, reported_seq)
           values ($1, 0, '', 'gap', '', 0, $2, 0, 0, 0) returning stream""",
        STREAM,
        parked,
    )
    pauses = []
    for _ in range(8):
        await look_after(gate)
        for file in (await center()).outgoing.iterdir():
            file.unlink()
        (row,) = await query("select resend_pause_seconds from gate_upkeep where stream = $1", BACK)
        pauses.append(row["resend_pause_seconds"])
        gate.later(seconds=pauses[-1])

    assert pauses[:2] == [20, 40]
    assert max(pauses) == longest


# How old the copy is


async def test_a_page_is_as_old_as_the_sources_it_shows_and_late_by_their_own_measure(
    gate: Gate,
) -> None:
    county = await gate.add_county(late_after_seconds=60)
    await gate.arrive(county, "fee_bill", county_bill(1))
    await gate.receive(county)
    gate.later(minutes=5)
    await gate.arrive(await center(), "fee_bill", bill(1))
    await gate.receive(await center())

    now, then = gate.now, gate.now - timedelta(minutes=5)
    late = (LateSource("临江县", then),)
    assert await copy_age([COUNTY], now=now) == {"copy": CopyAge(then, late)}
    assert await copy_age(["jc-center"], now=now) == {"copy": CopyAge(now)}
    assert await copy_age(["jc-center", COUNTY], now=now) == {"copy": CopyAge(then, late)}
    # Nothing to show, or nothing more: that is known of all of them.
    assert await copy_age([], now=now) == {"copy": CopyAge(then, late)}
    assert await copy_age(["jc-center"], now=now, of_all=True) == {"copy": CopyAge(then, late)}


async def test_a_source_that_never_sent_anything_makes_no_page_late(gate: Gate) -> None:
    await gate.add_county()
    await gate.arrive(await center(), "fee_bill", bill(1))
    await gate.receive(await center())

    assert await copy_age([], now=gate.now) == {"copy": CopyAge(gate.now)}
    assert await copy_age([COUNTY], now=gate.now) == {"copy": CopyAge(None)}


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What a peer says of streams


@pytest.mark.parametrize("report", [{"seq": 2}, {"seq": 9_999_999_999}, {"seq": 0, "behind": True}])
async def test_nobody_confirms_or_asks_for_packets_of_anothers_stream(
    gate: Gate, report: dict[str, Any]
) -> None:
    county = await gate.add_county()
    for day in (1, 2):
        await sending.put_rows(BACK, "fee_bill", [bill(day)], now=gate.now)
        await gate.pack(await center())
    digests = await query("select digest from gate_outgoing_packet where stream = $1", BACK)
    word = rows.ReceivedUpToRow(
        **{"stream": BACK, "digest": digests[-1]["digest"], "at": T0, **report}
    )

    await gate.arrive(county, "received_up_to", word)
    received = await gate.receive(county)

    assert (received.applied, received.quarantined) == ([1], [])
    (stream,) = await query(
        """select peer_received_seq, peer_received_at, peer_trouble, u.peer_since
           from gate_outgoing_stream join gate_upkeep u using (stream) where stream = $1""",
        BACK,
    )
    assert stream == {
        "peer_received_seq": 0,
        "peer_received_at": None,
        "peer_trouble": "",
        "peer_since": None,
    }
    assert await sending.trim_sent(BACK, keep=0) == 0


# What several say of one person, and what is said of the future


async def test_a_watermark_of_the_future_makes_no_phone_the_newest_for_ever(gate: Gate) -> None:
    peer = await center()
    vault = Vault(bytes(32))
    handlers = {"fee_bill": fee_packets.make_handler(vault, payees={"treasury"})}
    await gate.arrive(peer, "fee_bill", bill(1))
    await rounds.receive_from(peer, handlers=handlers, now=gate.now)
    right = await _phone()
    other = structs.replace(bill(1).payer, phone="13999999999")
    ahead = gate.now
    gate.later(days=20_000)
    await gate.arrive(peer, "fee_bill", bill(2, payer=other))
    gate.now = ahead + timedelta(minutes=1)
    await rounds.receive_from(peer, handlers=handlers, now=gate.now)
    wrong = await _phone()

    gate.later(minutes=1)
    await gate.arrive(peer, "fee_bill", bill(1, version=2))
    await rounds.receive_from(peer, handlers=handlers, now=gate.now)

    assert wrong == vault.index("phone:13999999999") != right
    assert await _phone() == right
    newest = await query("select max(data_as_of) as at from bill")
    assert newest[0]["at"] <= gate.now


@pytest.mark.parametrize("topic", ["fee_bill", "case"])
@pytest.mark.parametrize("first", ["jc-center", "qs-county"])
async def test_a_countys_packet_changes_nothing_outside_its_own_rows(
    gate: Gate, topic: str, first: str
) -> None:
    """A person whom the city or another county registered, with another name and phone."""
    county = await gate.add_county()
    gate.pairs["qs-county"] = keys.make_key()
    await gate.add_county(
        name="qs-county", title="青山县", sources=["qs-county"], regions=["360122"],
        public_pem=gate.pairs["qs-county"][1], folder=gate.root / "qs",
    )  # fmt: skip
    owner = await peers.peer_named(first)
    region = {"jc-center": "360102", "qs-county": "360122"}[first]
    vault = Vault(bytes(32))
    handlers = {
        "fee_bill": fee_packets.make_handler(vault, payees={"treasury"}),
        "case": case_packets.make_handler(vault),
    }
    payer = bill(1).payer
    await gate.arrive(owner, "fee_bill", bill(1, source=first, region=region, payer=payer))
    await rounds.receive_from(owner, handlers=handlers, now=gate.now)
    before = await _everything_but(COUNTY)
    gate.later(days=1)
    false = structs.replace(payer, name="别人", phone="13999999999")
    theirs = {
        "fee_bill": county_bill(1, payer=false),
        "case": case(source=COUNTY, region="360121", unit_code="", parties=[false]),
    }[topic]

    await gate.arrive(county, topic, theirs)
    await rounds.receive_from(county, handlers=handlers, now=gate.now)

    assert before["person"]
    assert await _everything_but(COUNTY) == before
    assert await query("select said_by, phone_index from person_word") == [
        {"said_by": COUNTY, "phone_index": vault.index("phone:13999999999")}
    ]
    table = {"fee_bill": "bill", "case": "case_record"}[topic]
    assert await query(f"select source from {table} where source = $1", COUNTY)


async def _everything_but(source: str) -> dict[str, list[dict[str, Any]]]:
    """Persons, and every row with a source, of other sources than this one."""
    tables = await query(
        """select table_name as name from information_schema.columns
           where table_schema = 'public' and column_name = 'source'
             and table_name !~ '^gate_' order by 1"""
    )
    found = {
        row["name"]: await query(
            f"select * from {row['name']} where source <> $1 order by 1",
            source,
        )
        for row in tables
    }
    return {**found, "person": await query("select * from person order by id")}


async def test_a_source_whose_clock_was_ahead_is_late_like_any_other(gate: Gate) -> None:
    peer = await center()
    gate.later(days=400)
    await gate.arrive(peer, "fee_bill", bill(1))
    gate.later(days=-400)
    await gate.receive(peer)

    gate.later(hours=1)
    shown = await copy_age(["jc-center"], now=gate.now)

    assert shown["copy"].as_of == gate.now - timedelta(hours=1)
    assert [late.title for late in shown["copy"].late] == ["市中心"]


async def _phone() -> str:
    (person,) = await query("select phone_index from person")
    return str(person["phone_index"])


async def test_a_case_of_another_regions_unit_is_a_bad_row(gate: Gate) -> None:
    county = await gate.add_county()
    handlers = {"case": case_packets.make_handler(Vault(bytes(32)))}
    foreign = case(source=COUNTY, region="360121", unit_code="360102001001GB00001F00010001")
    await gate.arrive(county, "case", foreign)

    report = await rounds.receive_from(county, handlers=handlers, now=gate.now)

    assert [reason for _, reason in report.quarantined] == [Reason.bad_row]
    assert await query("select 1 from case_record") == []


# The settings' own folder for symbols


async def test_the_settings_symbols_and_a_peers_folders_keep_out_of_each_others_way(
    gate: Gate,
) -> None:
    county = await gate.add_county()
    wish = gate.settings.model_copy(update={"symbols_folder": county.outgoing})
    before = await query("select * from gate_peer order by name")

    with pytest.raises(PeerTaken):
        await peering.keep_first_peer(
            wish, title="市中心", sources=["jc-center"], secret=gate.secret, now=gate.now
        )
    with pytest.raises(PeerTaken):
        await peering.add_destination(
            COUNTY, gate.root / "symbols" / "in", deed=DEED, now=gate.now,
            settings_symbols=gate.root / "symbols",
        )  # fmt: skip

    assert await query("select * from gate_peer order by name") == before
    assert await query("select 1 from gate_destination") == []


async def test_a_settings_folder_for_symbols_of_its_own_is_right(gate: Gate) -> None:
    await gate.add_county()
    wish = gate.settings.model_copy(update={"symbols_folder": gate.root / "symbols"})

    await peering.keep_first_peer(
        wish, title="市中心（新）", sources=["jc-center"], secret=gate.secret, now=gate.now
    )

    titles = await query("select title from gate_peer where name = 'jc-center'")
    assert titles == [{"title": "市中心（新）"}]
