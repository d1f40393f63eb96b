"""Both sides are proved equal; what is not the same is found, healed or named."""

import asyncio
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from estation.outside.gate import (
    exact,
    keys,
    logtrees,
    merkle,
    proving,
    receiving,
    replicas,
    rows,
    sending,
    snapshots,
    upkeep,
)
from estation.outside.gate import format as packets
from estation.outside.gate.merkle import Tree
from estation.outside.gate.replicas import Replica
from estation.outside.gate.snapshots import Why
from tests.outside.gate_link import Link, events, make_link, proofs
from tests.outside.gate_side import BACK, PRIVATE, PUBLIC, STREAM, bill, names, position, query

BACKEND = Path(__file__).resolve().parents[2] / "backend"


@pytest.fixture
async def link(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    return await make_link(tmp_path, monkeypatch)


def bucket_of(key: str) -> int:
    return hashlib.sha256(key.encode()).digest()[0]


def tree_by_hand(given: list[rows.FeeBillRow]) -> Tree:
    """The definition, written down a second time."""
    tree = Tree(len(given))
    for number in range(256):
        leaves = b""
        for row in sorted(given, key=lambda row: row.source_id.encode()):
            if bucket_of(row.source_id) == number:
                body = rows.encode_row("fee_bill", row)
                leaves += hashlib.sha256(
                    b"fee_bill\0jc-center\0" + row.source_id.encode() + b"\0"
                    + row.version.to_bytes(8, "big") + rows.digest(body)
                ).digest()  # fmt: skip
        if leaves:
            tree.buckets[number] = hashlib.sha256(leaves).hexdigest()
    return tree


async def prove(link: Link) -> None:
    await upkeep.prove(STREAM)
    await link.exchange()


async def test_the_tree_of_the_log_is_the_one_defined(link: Link) -> None:
    given = [bill(number) for number in range(1, 40)]
    odd = bill(40, source_id="契\\税 'F'", version=3)
    await sending.put_rows(STREAM, "fee_bill", [*given, odd], now=link.now)

    trees = await merkle.trees_of_log(await _db(), STREAM)

    wanted = tree_by_hand([*given, odd])
    assert trees["fee_bill", "jc-center"].rows == 40
    assert trees["fee_bill", "jc-center"].buckets == wanted.buckets
    assert trees["fee_bill", "jc-center"].root == wanted.root


async def proofs_by_packet() -> dict[int, list[str]]:
    """The sources proved in each packet that has a proof, as they were sent."""
    told: dict[int, list[str]] = {}
    for row in await query("select seq, manifest, body from gate_outgoing_packet order by seq"):
        data = bytes(row["manifest"]) + b"\n" + bytes(row["body"])
        for line in packets.read_lines(data, packets.read_head(data)):
            if line.topic == "proof":
                proof = rows.decode_row("proof", bytes(line.row))
                assert isinstance(proof, rows.ProofRow)
                told.setdefault(row["seq"], []).append(proof.source)
    return told


@pytest.mark.parametrize("by", ["prove", "snapshot"])
async def test_a_round_of_many_proofs_takes_several_packets_of_bounded_size(
    link: Link, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(exact, "MAX_PROOFS_BYTES", 60_000)
    sources = [f"county-{number:02d}" for number in range(8)]
    for number, source in enumerate(sources):
        await sending.put_rows(STREAM, "fee_bill", [bill(number, source=source)], now=link.now)
    await link.exchange()

    if by == "prove":
        await upkeep.prove(STREAM)
    else:
        await snapshots.plan(STREAM, Why.asked, now=link.now)
    for round_of in range(4):
        await sending.put_rows(
            STREAM, "fee_bill", [bill(100 + round_of, source=sources[0])], now=link.now
        )
        await link.exchange()

    told = await proofs_by_packet()
    assert [one for part in told.values() for one in part] == sources
    assert [len(part) for part in told.values()] == [3, 3, 2]
    assert await query(
        "select proof_is_due, proved_upto from gate_upkeep where stream = $1", STREAM
    ) == [{"proof_is_due": False, "proved_upto": ""}]


async def test_a_round_goes_on_behind_the_last_one_proved_after_a_crash(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "MAX_PROOFS_BYTES", 40_000)
    monkeypatch.setattr(sending, "MAX_PACKETS_PER_CALL", 1)
    sources = [f"county-{number:02d}" for number in range(4)]
    for number, source in enumerate(sources):
        await sending.put_rows(STREAM, "fee_bill", [bill(number, source=source)], now=link.now)
    await link.exchange()
    await upkeep.prove(STREAM)
    await link.exchange()
    first = await proofs_by_packet()
    half = await query(
        "select proof_is_due, proved_upto from gate_upkeep where stream = $1", STREAM
    )

    await link.exchange()

    assert list(first.values()) == [sources[:2]]
    assert half == [{"proof_is_due": True, "proved_upto": "fee_bill county-01"}]
    assert list((await proofs_by_packet()).values()) == [sources[:2], sources[2:]]


def test_the_root_is_a_binary_tree_over_the_buckets() -> None:
    leaves = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]
    pair = [
        hashlib.sha256(bytes.fromhex(leaves[n]) + bytes.fromhex(leaves[n + 1])).digest()
        for n in (0, 2)
    ]

    root = merkle.root_of(leaves)

    assert root == hashlib.sha256(pair[0] + pair[1]).hexdigest()


async def test_the_log_keeps_the_newest_version_of_each_thing(link: Link) -> None:
    await sending.put_rows(STREAM, "fee_bill", [bill(1), bill(2, version=3)], now=link.now)
    await sending.put_rows(
        STREAM, "fee_bill", [bill(2, version=2), bill(1, version=2), bill(1)], now=link.now
    )
    again = bill(2, version=3, title="更正")
    await sending.put_rows(STREAM, "fee_bill", [again], now=link.now)

    log = await query(
        "select key, version, body ->> 'title' as title from gate_sent_row order by 1"
    )

    assert log == [
        {"key": "F000001", "version": 2, "title": "存量房买卖税费"},
        {"key": "F000002", "version": 3, "title": "更正"},
    ]


async def test_equal_sides_are_proved_equal_and_nothing_follows(link: Link) -> None:
    await link.put(*range(1, 30))
    await link.exchange()
    await prove(link)
    await link.exchange(3)

    assert await proofs() == [("fee_bill", True, [])]
    assert link.findings == []
    assert await query("select id from gate_repair") == []


async def test_rows_that_wait_behind_the_proof_do_not_disturb_it(link: Link) -> None:
    await link.put(*range(1, 20))
    await upkeep.prove(STREAM)
    # More waits than fits into one packet: the proof has to stand behind all of it.
    await link.pack(max_rows=8)
    await link.put(*range(20, 25))
    await link.exchange(3, max_rows=8)

    assert await proofs() == [("fee_bill", True, [])]
    assert len(await link.copied()) == 24


def slowly(
    monkeypatch: pytest.MonkeyPatch, name: str, *, begun: asyncio.Event, go_on: asyncio.Event
) -> None:
    """This way of making trees takes as long as the test wants."""
    original: Callable[..., Any] = getattr(merkle, name)

    async def slow(*values: Any, **named: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await original(*values, **named)

    monkeypatch.setattr(merkle, name, slow)


async def soon(sql: str) -> None:
    """Until the query finds something."""
    async with asyncio.timeout(20):
        while not await query(sql):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_what_comes_while_a_large_proof_is_compared_is_applied_and_does_not_disturb_it(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    slowly(monkeypatch, "tree_of_replica", begun=begun, go_on=go_on)
    await link.put(*range(1, 20))
    await upkeep.prove(STREAM)
    await link.pack()
    link.carry()
    comparing = asyncio.create_task(link.arrive())
    await begun.wait()
    proved_at = (await position())[0]
    again = bill(3, version=2, title="更正")
    await sending.put_rows(STREAM, "fee_bill", [again, bill(20)], now=link.now)
    await link.pack()
    link.carry()

    await soon("select 1 from copied_bill where source_id = 'F000020'")
    before = await proofs()
    go_on.set()
    await comparing

    assert before == []
    assert await proofs() == [("fee_bill", True, [])]
    assert (await query("select seq, our_rows from gate_proof")) == [
        {"seq": proved_at, "our_rows": 19}
    ]
    assert (await position())[0] == proved_at + 1


async def test_what_is_sent_while_a_large_tree_is_made_leaves_and_is_proved_with_the_rest(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    await link.put(*range(1, 20))
    await link.exchange()
    slowly(monkeypatch, "buckets_of_log", begun=begun, go_on=go_on)
    await link.put(20)
    await upkeep.prove(STREAM)
    packing = asyncio.create_task(link.pack())
    await begun.wait()
    await soon("select 1 from gate_outgoing_packet where seq = 2")
    again = bill(3, version=2, title="更正")
    await sending.put_rows(STREAM, "fee_bill", [again, bill(21)], now=link.now)
    await soon("select 1 from gate_outgoing_packet where seq = 3")

    go_on.set()
    packed = await packing
    link.carry()
    await link.arrive()

    assert packed == [2, 3, 4]
    assert await proofs() == [("fee_bill", True, [])]
    assert (await query("select seq, our_rows from gate_proof")) == [{"seq": 4, "our_rows": 21}]


async def test_trees_of_a_log_that_changed_too_much_are_made_anew(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.put(*range(1, 20))
    await link.exchange()
    made = await logtrees.make(STREAM)
    changed = bill(3, version=2, title="更正")
    await sending.put_rows(STREAM, "fee_bill", [changed, *map(bill, range(30, 40))], now=link.now)
    wanted = await merkle.trees_of_log(await _db(), STREAM)

    few = await made.refresh(await _db(), STREAM)
    by_bucket = made.trees
    made.trees = {}
    monkeypatch.setattr(logtrees, "MAX_CHANGED", 5)
    many = await made.refresh(await _db(), STREAM)

    assert by_bucket == made.trees == wanted
    assert few < merkle.BUCKETS
    assert many == merkle.BUCKETS


async def test_trees_learn_from_packets_what_left_meanwhile_but_not_what_a_snapshot_repeats(
    link: Link,
) -> None:
    await link.put(*range(1, 300))
    await link.exchange()
    made = await logtrees.make(STREAM)
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await sending.put_rows(STREAM, "fee_bill", [bill(3, version=2), bill(300)], now=link.now)
    await link.pack()

    waiting = await query("select 1 from gate_outgoing_row")
    sent = await query("select rows from gate_outgoing_packet order by seq desc limit 2")
    few = await made.refresh(await _db(), STREAM)

    assert waiting == []
    assert sum(packet["rows"] for packet in sent) > 300
    assert few == 2
    assert made.trees == await merkle.trees_of_log(await _db(), STREAM)


@pytest.mark.parametrize("seq", [2, 3, 4])
async def test_trees_are_made_anew_when_a_packet_since_is_forgotten(link: Link, seq: int) -> None:
    await link.put(1)
    await link.exchange()
    made = await logtrees.make(STREAM)
    await link.put(2, 3, 4)
    await link.pack(max_rows=1)
    await query("delete from gate_outgoing_packet where seq = $1", seq)

    anew = await made.refresh(await _db(), STREAM)

    assert anew == merkle.BUCKETS
    assert made.trees == await merkle.trees_of_log(await _db(), STREAM)


async def test_a_proof_that_another_importer_overtook_is_left_to_the_next(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.put(1)
    await upkeep.prove(STREAM)
    await link.pack()
    await link.put(2)
    await link.pack()
    link.carry()
    original = proving.Prover.compare

    async def overtaken(prover: proving.Prover, seq: int) -> None:
        if seq == 1:
            await link.arrive()
        await original(prover, seq)

    with monkeypatch.context() as patch:
        patch.setattr(proving.Prover, "compare", overtaken)
        await link.arrive()
    missed = await proofs()
    await prove(link)

    assert missed == []
    assert await proofs() == [("fee_bill", True, [])]


@pytest.mark.parametrize(
    "tampering",
    [
        "update copied_bill set total_fen = 1, row_digest = null where source_id = 'F000007'",
        "update copied_bill set version = 9, row_digest = sha256('x') where source_id = 'F000007'",
        "delete from copied_bill where source_id = 'F000007'",
    ],
)
async def test_a_row_changed_past_the_gate_is_found_and_healed_in_one_round_trip(
    link: Link, tampering: str
) -> None:
    await link.put(*range(1, 30))
    await link.exchange()
    before = await link.copied()
    await query(tampering)
    link.handed_over = 0

    await prove(link)
    await link.exchange()

    assert await proofs() == [
        ("fee_bill", False, [bucket_of("F000007")]),
        ("fee_bill", True, []),
    ]
    assert await link.copied() == before
    assert link.handed_over == 1
    assert [(one.kind, one.keys) for one in link.findings] == [("repaired", ["F000007"])]
    assert (await events("repaired"))[0]["stream"] == STREAM


async def test_a_row_the_sender_never_sent_is_named_withdrawn_and_kept(link: Link) -> None:
    await link.put(*range(1, 10))
    await link.exchange()
    await query(
        "insert into copied_bill select source, 'F999999', version, region, data_as_of,"
        " row_digest, total_fen, state from copied_bill where source_id = 'F000001'"
    )

    await prove(link)
    await link.exchange(3)

    kept = await query("select state from copied_bill where source_id = 'F999999'")
    assert kept == [{"state": "withdrawn"}]
    assert [(one.kind, one.keys) for one in link.findings] == [("phantom", ["F999999"])]
    assert [equal for _, equal, _ in await proofs()] == [False, True]


async def test_a_phantom_that_its_source_issues_later_is_a_row_like_any_other(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    await query(
        "insert into copied_bill select source, 'F000002', version, region, data_as_of,"
        " row_digest, total_fen, state from copied_bill"
    )
    await prove(link)
    await link.exchange(2)

    await link.put(2)
    await link.exchange()
    await prove(link)
    await link.exchange(2)

    assert (await proofs())[-1] == ("fee_bill", True, [])
    assert await link.copied() == {"F000001": (1, 101), "F000002": (1, 102)}
    assert await query("select key from gate_phantom") == []


async def test_without_a_complete_log_nothing_is_taken_out_of_use(link: Link) -> None:
    await link.put(1, 2)
    await link.exchange()
    await query("delete from gate_sent_row where key = 'F000002'")
    await query("update gate_upkeep set log_is_complete = false where stream = $1", STREAM)

    await prove(link)
    await link.exchange(2)

    assert list(await link.copied()) == names(1, 2)
    assert [(one.kind, one.detail) for one in link.findings] == [("phantom", {"withdrawn": False})]


async def test_everything_gone_is_healed_part_by_part(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estation.outside.gate.exact._MAX_REPAIR_BYTES", 2000)
    monkeypatch.setattr("estation.outside.gate.exact._MAX_REPAIR_ROWS", 50)
    await link.put(*range(1, 300))
    await link.exchange()
    await query("truncate copied_bill")

    await prove(link)
    await link.exchange(2)

    assert list(await link.copied()) == names(*range(1, 300))
    assert [equal for _, equal, _ in await proofs()] == [False, True]
    assert next(one.kind for one in link.findings) == "repaired"
    assert sum(one.count for one in link.findings) == 299


async def test_what_a_repair_cannot_change_is_said_and_not_asked_for_all_day(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    await link.put(1, 2)
    await link.exchange()
    await query("update copied_bill set row_digest = null where source_id = 'F000001'")

    async def refuses(*_: object) -> None:
        """As fees do with a paid bill."""

    monkeypatch.setattr(Link, "merge", refuses)
    await prove(link)
    await link.exchange(6)

    asked = await query("select id from gate_repair")
    assert len(asked) <= 2
    assert "unhealed" in {one.kind for one in link.findings}
    assert not (await proofs())[-1][1]


async def test_a_full_packet_has_no_room_for_a_proof_and_repairs_come_in_several(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packets, "MAX_ROWS", 10)
    monkeypatch.setattr(exact, "MAX_LINES", 5)
    monkeypatch.setattr(exact, "_MAX_PARTS", 3)
    await link.put(*range(1, 11))
    await upkeep.prove(STREAM)
    await link.pack(max_rows=10)
    link.carry()
    await link.arrive()
    await query("delete from copied_bill")
    await prove(link)
    await link.exchange(8)

    rows_of = [
        row["rows"]
        for row in await query("select rows from gate_outgoing_packet order by stream, seq")
    ]
    assert rows_of[:2] == [10, 1]
    assert max(rows_of) == 10
    assert list(await link.copied()) == names(*range(1, 11))
    assert (await proofs())[-1] == ("fee_bill", True, [])


@pytest.mark.parametrize("way", ["in order", "by a jump"])
async def test_rows_of_a_topic_that_was_never_sent_are_found(
    link: Link, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """No proof speaks of them: their source never sent any such thing."""
    await query("create table if not exists copied_unit (like copied_bill)")
    await query("delete from copied_unit")
    monkeypatch.setitem(replicas.REPLICAS, "unit", Replica("unit", "copied_unit"))
    await link.put(1)
    await _snapshot(link)
    before = await proofs()
    await query(
        "insert into copied_unit (source, source_id, version) values ('jc-center', 'U1', 1)"
    )
    if way == "by a jump":
        await link.put(2)
        (lost,) = await link.pack()
        link.outgoing_file(lost).unlink()
        await link.pack(heartbeat=True)
        link.carry()
        await _arrive_with_units(link)
        link.later(200)

    await _snapshot(link)

    # Both proofs of a packet are kept at the same moment, in either order.
    assert sorted(before) == [("fee_bill", True, []), ("unit", True, [])]
    assert sorted((await proofs())[2:]) == [
        ("fee_bill", True, []),
        ("unit", False, [bucket_of("U1")]),
    ]
    assert len(await events("jumped")) == (way == "by a jump")


async def _snapshot(link: Link) -> None:
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await link.pack()
    link.carry()
    await _arrive_with_units(link)
    link.later(60)


async def _arrive_with_units(link: Link) -> None:
    await receiving.apply_incoming(
        STREAM,
        folder=link.incoming,
        peer_key=keys.load_peer_key(PUBLIC),
        handlers={"fee_bill": link.merge, "unit": link.merge},
        now=link.now,
        reply_stream=BACK,
    )


async def test_a_copy_is_compared_once_however_often_a_packet_proves_it(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = exact.lines

    async def many(*given: Any, **options: Any) -> list[bytes]:
        return 100 * await lines(*given, **options)

    monkeypatch.setattr(exact, "lines", many)
    await link.put(1)
    await link.exchange()
    await prove(link)

    assert await proofs() == [("fee_bill", True, [])]


async def test_nobody_proves_or_repairs_rows_of_another_centre(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    foreign = structs.replace(bill(7), source="other-county")
    body = rows.encode_row("fee_bill", foreign)
    part = rows.RepairRow(
        topic="fee_bill", source="other-county", bucket=0, after="", upto=None,
        keys=["F000007"], rows=[rows.msgspec.Raw(body)],
    )  # fmt: skip
    await sending.put_rows(STREAM, "repair", [part], now=link.now)

    await link.exchange()

    assert (await position())[1] == "bad_row"
    assert list(await link.copied()) == names(1)


async def test_rows_sent_before_there_was_a_log_are_filled_in(link: Link) -> None:
    await link.put(*range(1, 6))
    await upkeep.prove(STREAM)
    await query("truncate gate_sent_row")
    await query("update gate_upkeep set backfill_id = 0 where stream = $1", STREAM)
    await link.exchange()
    too_early = await proofs()

    for _ in range(2):
        await link.look_after()
    await link.exchange()

    assert too_early == []
    assert await link.sent_keys() == names(*range(1, 6))
    assert await proofs() == [("fee_bill", True, [])]


async def test_proofs_and_snapshots_leave_by_the_clock(link: Link) -> None:
    await link.put(1)
    await link.exchange()
    counts = []
    for _ in range(26):
        await link.look_after()
        await link.exchange()
        link.later(3600)
        counts.append(len(await proofs()))

    snapshots = await query("select why, state from gate_snapshot")
    assert counts[:3] == [0, 1, 2]
    assert snapshots == [{"why": "schedule", "state": "done"}]
    assert all(equal for _, equal, _ in await proofs())


async def _db() -> object:
    from tortoise import Tortoise

    return Tortoise.get_connection("default")


PROGRAM = """
import asyncio, os, pathlib, signal, sys
from tortoise import Tortoise
from estation import settings
from estation.outside.gate import copies, exact, proving, sending
from estation.shared.clock import system_clock
from tests.outside import gate_side

url, root, point = sys.argv[1:4]
gate_side.PRIVATE, gate_side.PUBLIC = (pem.encode() for pem in sys.argv[4:])
from tests.outside import gate_link

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    await Tortoise.init(config=settings.database(url), _enable_global_fallback=True)
    link = gate_link.Link(pathlib.Path(root), now=system_clock())
    gate_link.replicas.register(
        gate_link.Replica("fee_bill", "copied_bill", withdraw=link.withdraw))
    if point == "while the proof's packet is sealed":
        sending._seal = die
    elif point == "while both are compared":
        proving.merkle.tree_of_replica = die
    elif point == "when the difference is known":
        proving.Prover._compare = die
    elif point == "while the answer is written":
        exact._parts = die
    elif point == "before rows are repaired":
        proving.Prover._repair = die
    elif point == "amid the repaired rows":
        proving.Prover._tell = die
    elif point == "while strangers are named":
        copies.name_phantoms = die
    await sending.upkeep.prove(gate_link.STREAM)
    await link.exchange(3)
    await Tortoise.close_connections()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "point",
    [
        "while the proof's packet is sealed",
        "while both are compared",
        "when the difference is known",
        "while the answer is written",
        "before rows are repaired",
        "amid the repaired rows",
        "while strangers are named",
    ],
)
async def test_kill_9_while_proving_or_repairing_leaves_it_to_the_next_proof(
    link: Link, database: str, point: str
) -> None:
    await link.put(*range(1, 10))
    await link.exchange()
    before = await link.copied()
    await query("update copied_bill set total_fen = 1, row_digest = null"
                " where source_id = 'F000007' returning source_id")  # fmt: skip
    await query("insert into copied_bill select source, 'F999999', version, region, data_as_of,"
                " row_digest, total_fen, state from copied_bill where source_id = 'F000001'"
                " returning source_id")  # fmt: skip

    killed = await _run(database, link, point)
    await query("update gate_proof set at = at - interval '1 hour' returning id")
    finished = await _run(database, link, "nowhere")

    assert (killed, finished) == (-9, 0)
    assert await link.copied() == before
    assert (await proofs())[-1] == ("fee_bill", True, [])
    assert (await position())[1] == ""
    for kind in ("repaired", "phantom"):
        assert len(await events(kind)) == 1


async def _run(database: str, link: Link, point: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, database, str(link.root), point,
        PRIVATE.decode(), PUBLIC.decode(),
        env={"PYTHONPATH": f"{BACKEND}:{BACKEND.parent}"},
    )  # fmt: skip
    return await asyncio.wait_for(process.wait(), 60)
