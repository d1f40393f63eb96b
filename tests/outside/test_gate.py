"""Rows put on one side arrive on the other: all, once, in order; and both sides know it."""

import asyncio
import errno
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from estation.outside.gate import device, keys, receiving, reporting, rows, sending, status
from estation.outside.gate.errors import Reason
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import BadRow, ReceivedUpToRow
from estation.shared.transactions import in_transaction
from tests.outside.gate_side import (
    BACK,
    PRIVATE,
    PUBLIC,
    STREAM,
    T0,
    Sides,
    bill,
    names,
    position,
    query,
)


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


async def test_rows_put_on_one_side_arrive_on_the_other_in_order(sides: Sides) -> None:
    await sides.send(3, 1, 2)

    report = await sides.receive()

    assert sides.seen == names(3, 1, 2)
    assert (report.applied, report.rows) == ([1], 3)
    assert await position() == (1, "")
    assert list(sides.incoming.iterdir()) == []


async def test_what_the_handler_gets_equals_what_was_put(sides: Sides) -> None:
    sent = bill(7, title="新建商品房转移登记税费（含“维修资金”）", due_on=T0.date())
    await sending.put_rows(STREAM, "fee_bill", [sent], now=T0)
    got: list[Struct] = []

    async def keep(found: Sequence[Struct], arrival: Arrival) -> None:
        got.extend(found)

    await sides.pack()
    sides.carry()
    await sides.receive(keep)

    assert got == [sent]


async def test_rows_of_a_rolled_back_transaction_never_leave(sides: Sides) -> None:
    async def change_of_mind() -> None:
        async with in_transaction():
            await sides.put(1)
            raise RuntimeError("the bill was not issued after all")

    with pytest.raises(RuntimeError):
        await change_of_mind()
    await sides.send(2)

    await sides.receive()

    assert sides.seen == names(2)


async def test_many_rows_make_several_packets_and_keep_their_order(sides: Sides) -> None:
    await sides.put(*range(1, 26))

    packed = await sides.pack(max_rows=10)
    sides.carry()
    await sides.receive()

    assert packed == [1, 2, 3]
    assert sides.seen == names(*range(1, 26))
    assert [arrival.seq for arrival in sides.arrivals] == [1, 2, 3]


async def test_a_packet_is_closed_before_it_grows_too_large(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PACK_BYTES", 2400)
    await sides.put(*range(1, 11))

    packed = await sides.pack()
    sides.carry()
    await sides.receive()

    assert len(packed) > 2
    assert sides.seen == names(*range(1, 11))


async def test_one_call_packs_and_applies_a_bounded_number_and_the_next_goes_on(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MAX_PACKETS_PER_CALL", 3)
    await sides.put(*range(1, 6))

    first = await sides.pack(max_rows=1)
    second = await sides.pack(max_rows=1)
    sides.carry()
    reports = [await sides.receive(max_files=2) for _ in range(3)]

    assert (first, second) == ([1, 2, 3], [4, 5])
    assert [report.applied for report in reports] == [[1, 2], [3, 4], [5]]
    assert [report.stopped_reason for report in reports] == ["", "", ""]


async def test_rows_the_peer_would_refuse_fail_the_senders_transaction(sides: Sides) -> None:
    good = bill(1)
    wrong: list[Struct] = [
        bill(2, total_fen=-1),
        bill(2, total_fen=12.5),
        bill(2, total_fen=10**18),
        bill(2, issued_at=T0.replace(tzinfo=None)),
        bill(2, bill_no="9" * 40),
        bill(2, title="nul\x00"),
        bill(2, state="paid"),
        ReceivedUpToRow(stream=STREAM, seq=1, digest="0" * 64, at=T0),
    ]

    for row in wrong:
        with pytest.raises(BadRow):
            await sending.put_rows(STREAM, "fee_bill", [good, row], now=T0)
    with pytest.raises(BadRow):
        await sending.put_rows(STREAM, "no_such_topic", [good], now=T0)
    with pytest.raises(ValueError, match="not a stream name"):
        await sending.put_rows("../../etc/cron.d/x", "fee_bill", [good], now=T0)

    assert await query("select * from gate_outgoing_row") == []


async def test_a_refused_row_is_described_without_its_values() -> None:
    with pytest.raises(BadRow) as refusal:
        rows.encode_row("fee_bill", bill(1, state="张三 11010519491231002X"))

    assert "张三" not in str(refusal.value)
    assert "$.state" in str(refusal.value)


async def test_a_heartbeat_carries_the_watermark_when_nothing_happens(sides: Sides) -> None:
    await sides.send(1)
    await sides.receive()
    sides.later(9)
    quiet = await sides.pack()
    sides.later(1)
    beat = await sides.pack()
    sides.carry()

    report = await sides.receive()

    assert (quiet, beat) == ([], [2])
    assert (report.applied, report.rows) == ([2], 0)
    assert await receiving.watermark_of(STREAM) == T0 + timedelta(seconds=10)


async def test_a_heartbeat_leaves_at_once_when_asked(sides: Sides) -> None:
    await sides.send(1)

    assert await sides.pack(heartbeat=True) == [2]


async def test_the_watermark_waits_for_a_transaction_that_has_not_ended(sides: Sides) -> None:
    """A slow writer's rows are older than `now`; data_as_of must not claim them early."""
    entered, finish = asyncio.Event(), asyncio.Event()

    async def slow_writer() -> None:
        async with in_transaction():
            await sides.put(1)
            entered.set()
            await finish.wait()

    writer = asyncio.create_task(slow_writer())
    await entered.wait()
    await asyncio.sleep(0.2)
    await sides.send(2)
    await sides.receive()
    held_back = await receiving.watermark_of(STREAM)
    finish.set()
    await writer
    sides.later(1)
    await sides.send(3)
    await sides.receive()

    assert held_back is not None
    assert held_back <= T0 - timedelta(seconds=0.2)
    assert await receiving.watermark_of(STREAM) == T0 + timedelta(seconds=1)
    assert sorted(sides.seen) == names(1, 2, 3)


async def test_the_watermark_waits_for_rows_that_did_not_fit(sides: Sides) -> None:
    await sides.put(1, 2)
    sides.later(5)
    await sides.put(3)
    sides.later(5)

    await sides.pack(max_rows=2)
    sides.carry()
    await sides.receive(max_files=1)

    assert await receiving.watermark_of(STREAM) == T0 + timedelta(seconds=5)


async def test_the_same_file_again_changes_nothing(sides: Sides) -> None:
    await sides.send(1)
    copy = sides.incoming_file(1).read_bytes()
    await sides.receive()
    sides.incoming_file(1).write_bytes(copy)

    report = await sides.receive()

    assert (report.duplicates, report.applied, report.quarantined) == (1, [], [])
    assert sides.seen == names(1)
    assert not sides.incoming_file(1).exists()
    assert await position() == (1, "")


async def test_files_behind_a_gap_wait_and_are_applied_when_it_closes(sides: Sides) -> None:
    for number in range(1, 6):
        await sides.send(number)
    missing = sides.incoming_file(2).read_bytes()
    sides.incoming_file(2).unlink()

    before = await sides.receive()
    waiting = [await position(), sides.seen.copy(), before.parked_files]
    held = (await status.stream_status())[1]
    sides.incoming_file(2).write_bytes(missing)
    after = await sides.receive()

    assert waiting == [(1, "gap"), names(1), 3]
    assert after.applied == [2, 3, 4, 5]
    assert sides.seen == names(1, 2, 3, 4, 5)
    assert await position() == (5, "")
    healed = (await status.stream_status())[1]
    assert (held.state, held.reason, held.parked_files) == ("waiting", "gap: waiting for seq 2", 3)
    assert (healed.state, healed.reason, healed.parked_files) == ("running", "", 0)


async def test_files_that_come_in_any_order_are_applied_in_theirs(sides: Sides) -> None:
    for number in range(1, 5):
        await sides.put(number)
        await sides.pack()

    for seq in (4, 2, 1, 3):
        sides.incoming.mkdir(parents=True, exist_ok=True)
        sides.outgoing_file(seq).rename(sides.incoming_file(seq))
        await sides.receive()

    assert sides.seen == names(1, 2, 3, 4)
    assert await position() == (4, "")


async def test_a_lost_file_is_written_again_bit_for_bit(sides: Sides) -> None:
    await sides.put(1)
    await sides.pack()
    original = sides.outgoing_file(1).read_bytes()
    sides.outgoing_file(1).unlink()

    written = await sending.write_again(STREAM, folder=sides.outgoing, first=1, last=99)

    assert written == [1]
    assert sides.outgoing_file(1).read_bytes() == original


async def test_two_receivers_at_once_apply_each_row_once(sides: Sides) -> None:
    for number in range(1, 9):
        await sides.send(number)

    async def slowly(found: Sequence[Struct], arrival: Arrival) -> None:
        await sides.remember(found, arrival)
        await asyncio.sleep(0.02)

    for _ in range(8):
        await asyncio.gather(*(sides.receive(slowly) for _ in range(3)))

    assert sides.seen == names(*range(1, 9))
    assert await position() == (8, "")


async def test_two_packers_at_once_pack_each_row_once(sides: Sides) -> None:
    await sides.put(*range(1, 41))

    await asyncio.gather(*(sides.pack(max_rows=5) for _ in range(4)))
    sides.carry()
    await sides.receive()

    assert sides.seen == names(*range(1, 41))


async def test_a_failing_handler_rolls_the_file_back_and_heals_on_retry(sides: Sides) -> None:
    await sides.send(1, 2)
    await sides.send(3)

    async def fails(found: Sequence[Struct], arrival: Arrival) -> None:
        await sending.put_rows(BACK, "fee_bill", found, now=sides.now)  # something to undo
        raise OSError("林晓舟 的磁盘满了")

    failed = await sides.receive(fails)
    stood = await query("select stopped_reason, stopped_detail from gate_incoming_stream")
    left_behind = await query("select * from gate_outgoing_row where stream = $1", BACK)
    too_early = await sides.receive()
    sides.later(2)
    healed = await sides.receive()

    assert (failed.applied, failed.stopped_reason) == ([], "handler_failed")
    assert stood == [
        {"stopped_reason": "handler_failed", "stopped_detail": "topic fee_bill: OSError"}
    ]
    assert left_behind == []
    assert too_early.applied == []
    assert healed.applied == [1, 2]
    assert sides.seen == names(1, 2, 3)
    assert await position() == (2, "")


async def test_rows_of_an_unknown_topic_are_parked_and_the_stream_goes_on(sides: Sides) -> None:
    await sides.put(1)
    await sending.put_rows(STREAM, "case", [], now=T0)
    await query(
        """insert into gate_outgoing_row (stream, topic, body, created_at)
           values ($1, 'hall_calendar', '{"days": [1, 2]}', $2)""",
        STREAM,
        T0,
    )
    await sides.put(2)
    await sides.pack()
    sides.carry()

    report = await sides.receive()

    parked = await query("select topic, line, body from gate_parked_row")
    assert parked == [{"topic": "hall_calendar", "line": 2, "body": '{"days": [1, 2]}'}]
    assert report.parked_rows == 1
    assert sides.seen == names(1, 2)
    assert await position() == (1, "")


async def test_unknown_fields_of_newer_senders_are_accepted(sides: Sides) -> None:
    await sides.put(1)
    await query("""update gate_outgoing_row set body = body::jsonb || '{"later": {"field": 15}}'""")
    await sides.pack()
    sides.carry()

    await sides.receive()

    assert sides.seen == names(1)


async def test_rows_cross_in_the_spelling_that_is_digested(sides: Sides) -> None:
    await sides.send(1)

    await sides.receive()

    ((sent,),) = [arrival.sent for arrival in sides.arrivals]
    assert sent.body == rows.canonical(sent.body)
    assert sent.digest == rows.digest(rows.encode_row("fee_bill", bill(1)))
    assert not sent.says_more


async def test_a_file_read_ahead_is_applied_only_at_its_turn(sides: Sides) -> None:
    """The second file is being read while the first one fails: nothing of it may happen."""
    await sides.send(1)
    await sides.send(2)

    async def fail(given: Sequence[Struct], arrival: Arrival) -> None:
        raise RuntimeError("not today")

    await sides.receive(fail)
    assert await position() == (0, "handler_failed")
    assert sides.incoming_file(2).exists()

    sides.later(5)
    report = await sides.receive()
    assert report.applied == [1, 2]
    assert sides.seen == names(1, 2)


async def test_a_bad_file_read_ahead_is_refused_at_its_turn_and_not_before(sides: Sides) -> None:
    await sides.send(1)
    await sides.send(2)
    whole = sides.incoming_file(2).read_bytes()
    sides.incoming_file(2).write_bytes(whole[:-1])

    report = await sides.receive()

    assert report.applied == [1]
    assert [reason for _, reason in report.quarantined] == [Reason.truncated]
    sides.incoming_file(2).write_bytes(whole)
    assert (await sides.receive()).applied == [2]
    assert sides.seen == names(1, 2)


async def test_a_large_file_is_not_read_ahead(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them in memory at once would be too much."""
    read_at: list[tuple[int, int]] = []
    read = receiving._Importer._read

    def watched(self: Any, path: Path, seq: int) -> Any:
        read_at.append((seq, len(sides.seen)))
        return read(self, path, seq)

    monkeypatch.setattr(receiving._Importer, "_read", watched)
    monkeypatch.setattr(receiving, "READ_AHEAD_BYTES", 10)
    await sides.send(1)
    await sides.send(2)

    await sides.receive()

    assert read_at == [(1, 0), (2, 1)]


async def test_each_side_learns_what_the_other_received_and_then_falls_silent(
    sides: Sides,
) -> None:
    await sides.send(1, 2)
    back = sides.root / "back"

    for _ in range(5):  # both directions live in one database here
        await sides.receive(reply_stream=BACK)
        await sending.pack_waiting(
            BACK,
            folder=back / "outgoing",
            key=keys.load_seal_key(PRIVATE),
            now=sides.now,
            heartbeat_after=timedelta(days=1),
        )
        device.move_once(back / "outgoing", back / "incoming")
        await receiving.apply_incoming(
            BACK,
            folder=back / "incoming",
            peer_key=keys.load_peer_key(PUBLIC),
            handlers={},
            now=sides.now,
            reply_stream=STREAM,
        )
        await sides.pack(heartbeat_after=timedelta(days=1))
        sides.carry()
        sides.later(10)

    out = {
        found.stream: found for found in await status.stream_status() if found.direction == "out"
    }
    assert (out[STREAM].peer_received_seq, out[STREAM].peer_trouble) == (1, "")
    assert (out[STREAM].seq, out[BACK].seq) == (1, 1)


async def test_a_peer_that_applied_another_history_is_noticed(sides: Sides) -> None:
    await sides.send(1)
    reports = [
        ReceivedUpToRow(stream=STREAM, seq=1, digest="f" * 64, at=T0),
        ReceivedUpToRow(stream=STREAM, seq=9, digest="f" * 64, at=T0),
    ]
    handle = reporting.PeersWord(STREAM, now=T0).keep
    troubles = []

    for report in reports:
        await handle([report], Arrival(BACK, 1, T0))
        troubles.append((await status.stream_status())[0].peer_trouble)

    assert troubles == ["other_digest", "ahead_of_us"]
    (stream,) = await query("select peer_received_seq from gate_outgoing_stream")
    assert stream == {"peer_received_seq": 0}
    assert await sending.trim_sent(STREAM, keep=0) == 0


async def test_only_confirmed_packets_are_forgotten(sides: Sides) -> None:
    await sides.put(*range(1, 11))
    await sides.pack(max_rows=1)
    unconfirmed = await sending.trim_sent(STREAM, keep=2)
    await query("update gate_outgoing_stream set peer_received_seq = 6")

    forgotten = await sending.trim_sent(STREAM, keep=2)

    kept = await query("select seq from gate_outgoing_packet order by seq")
    assert (unconfirmed, forgotten) == (0, 6)
    assert [row["seq"] for row in kept] == [7, 8, 9, 10]
    assert await query("select 1 from gate_outgoing_row") == []


async def test_status_tells_where_each_stream_stands(sides: Sides) -> None:
    await sides.send(1)
    await sides.receive()
    await sides.put(2)
    sides.later(60)

    out, into = await status.stream_status()

    assert (out.direction, out.seq, out.waiting_rows, out.waiting_since) == ("out", 1, 1, T0)
    assert (into.direction, into.seq, into.digest) == ("in", 1, out.digest)
    assert into.lag(sides.now) == timedelta(seconds=60)
    assert out.healthy
    assert into.healthy
    assert set(status.COLUMNS) <= set(status.as_dict(out))
    assert status.as_dict(out)["waiting_since"] == "2026-03-02T09:00:00+00:00"


async def test_the_device_carries_only_finished_packets(sides: Sides) -> None:
    await sides.put(1)
    await sides.pack()
    for name in (".jc-center-online-0000000002.gate.part", "notes.txt", "x-1.gate"):
        (sides.outgoing / name).write_bytes(b"unfinished")

    moved = sides.carry()

    assert moved == 1
    assert [path.name for path in sides.incoming.iterdir()] == [sides.incoming_file(1).name]


async def test_the_device_crosses_file_systems_without_showing_half_a_file(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sides.put(1)
    await sides.pack()
    real, seen = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        seen.append(source.name)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)

    sides.carry()
    await sides.receive()

    assert seen == [f".{sides.incoming_file(1).name}.part"]
    assert sides.seen == names(1)
    assert list(sides.outgoing.iterdir()) == []


def test_keys_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    private, public = tmp_path / "gate" / "a.pem", tmp_path / "gate" / "a_public.pem"
    keys.make_pair(private=private, public=public)
    first = private.read_bytes()
    public.unlink()

    keys.make_pair(private=private, public=public)

    seal, peer = keys.load_seal_key(first), keys.load_peer_key(public.read_bytes())
    assert private.read_bytes() == first
    assert private.stat().st_mode & 0o777 == 0o600
    assert seal.key_id == peer.key_id
    assert peer.verify(b"news", seal.sign(b"news"))
    assert not peer.verify(b"other news", seal.sign(b"news"))
