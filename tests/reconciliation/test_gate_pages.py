"""What staff see of the gate, and what operators may do there: with a reason, and its trace."""

from datetime import UTC, timedelta
from pathlib import Path

import pytest

from estation import measuring
from estation.outside.gate import overview, peers
from estation.outside.gate.errors import Reason
from estation.outside.gate.events import Finding, raise_finding
from tests.outside.gate_peers import COUNTY, Gate, center, county_bill
from tests.outside.gate_side import BACK, STREAM, bill, query
from tests.reconciliation.conftest import Desk
from tests.reconciliation.days import NOW


@pytest.fixture
async def gate(desk: Desk, tmp_path: Path) -> Gate:
    """The centre has sent one bill, the county one sealed by a foreign key."""
    made = Gate(tmp_path, now=NOW)
    made.make_keys()
    await made.keep_first(NOW)
    county = await made.add_county()
    await made.arrive(await center(), "fee_bill", bill(1))
    await made.receive(await center())
    await made.arrive(county, "fee_bill", county_bill(1), private=made.pairs["jc-center"][0])
    await made.receive(county)
    await made.pack(await center())
    return made


@pytest.mark.parametrize("who", ["operator", "clerk", "checker"])
async def test_staff_see_streams_refused_files_and_sources(
    desk: Desk, gate: Gate, who: str
) -> None:
    desk.clock = NOW
    await desk.login(who)

    assert await desk.get("/staff/gate") == 200

    for words in (
        STREAM,
        BACK,
        "lj-county-online",
        "已停",
        "签名不符",
        "临江县",
        "360121",
        "接入来源",
    ):
        assert words in desk.text
    assert ("放回重验" in desk.text) == (who == "operator")
    assert desk.text.count('class="sparkline"') == len(await overview.stream_views(NOW))


async def test_staff_see_what_was_proved_and_healed_and_what_is_not_confirmed(
    desk: Desk, gate: Gate
) -> None:
    await query(
        """insert into gate_proof (id, stream, seq, topic, source, rows, root, our_rows, our_root,
                                   is_equal, buckets, at)
           values (gen_random_uuid(), $1, 1, 'fee_bill', 'jc-center', 812, $2, 811, $3, false,
                   '[3, 200]', $4) returning id""",
        STREAM, "0" * 64, "1" * 64, NOW,
    )  # fmt: skip
    found = Finding("jumped", STREAM, 9, count=7, detail={"skipped": {"first": 2, "last": 8}})
    await raise_finding(found, None, now=NOW)
    await query(
        "update gate_upkeep set paused_reason = 'unconfirmed', paused_at = $1,"
        " snapshot_at = $1 where stream = $2 returning stream", NOW, BACK,
    )  # fmt: skip
    await desk.login("operator")

    assert await desk.get("/staff/gate") == 200

    for words in (
        "证明不一致", "不一致 2 桶", "812", "3、200", "快照补齐缺包", "#2–8", "暂停打包",
        "对方太久没有确认", "下次快照",
    ):  # fmt: skip
        assert words in desk.text
    view = {one["stream"]: one for one in map(overview.as_dict, await overview.stream_views(NOW))}
    assert (view[STREAM]["last_proof_equal"], view[STREAM]["differing_buckets"]) == (False, 2)
    assert view[STREAM]["last_jump_at"] == NOW.astimezone(UTC).isoformat()
    assert (view[BACK]["paused_reason"], view[BACK]["state"]) == ("unconfirmed", "waiting")


async def test_staff_see_the_rows_that_were_set_aside_and_that_a_proof_knows_them(
    desk: Desk, gate: Gate
) -> None:
    await query(
        """insert into gate_refused_row (id, stream, seq, topic, source, key, version, digest,
             reason, times, at, seen_at, healed_at, healed_by)
           select gen_random_uuid(), $1, 5, 'right', 'jc-center', key, 3, $2, 'share', 2, $3, $3,
                  healed_at, case when healed_at is null then '' else 'taken_in' end
           from (values ('R77', null), ('R78', $3::timestamptz)) as t(key, healed_at)
           returning id""",
        STREAM, bytes(32), NOW,
    )  # fmt: skip
    await query(
        """insert into gate_proof (id, stream, seq, topic, source, rows, root, our_rows, our_root,
                                   is_equal, buckets, at, refused_rows, is_known)
           values (gen_random_uuid(), $1, 1, 'right', 'jc-center', 812, $2, 811, $3, false,
                   '[3]', $4, 1, true) returning id""",
        STREAM, "0" * 64, "1" * 64, NOW,
    )  # fmt: skip
    await desk.login("clerk")

    assert await desk.get("/staff/gate") == 200

    for words in ("隔离的行（1）", "R77", "隔离 1 行", "除隔离的行外一致", "已知：隔离的 1 行"):
        assert words in desk.text
    assert "R78" not in desk.text
    told = (await measuring.exposition(now=NOW)).decode()
    assert f'estation_gate_refused_rows{{stream="{STREAM}"}} 1.0' in told
    assert f'estation_gate_proof_equal{{stream="{STREAM}"}} 1.0' in told


async def test_a_stranger_sees_nothing_of_the_gate(desk: Desk) -> None:
    assert await desk.get("/staff/gate") == 303
    assert await desk.post(f"/staff/gate/{COUNTY}/release", seq="1", reason="x") == 303


async def test_an_operator_puts_a_refused_packet_back_and_says_why(desk: Desk, gate: Gate) -> None:
    await desk.login("operator")
    await desk.get("/staff/gate")

    assert await desk.post(f"/staff/gate/{COUNTY}/release", seq="1", reason="对方已补登公钥") == 303

    county = await peers.peer_named(COUNTY)
    assert len(list(county.incoming.iterdir())) == 1
    await desk.get("/staff/gate?done=released")
    assert "对方已补登公钥" in desk.text
    assert "某operator（operator）" in desk.text


async def test_a_refused_file_whose_packet_came_right_later_asks_for_nothing(
    desk: Desk, gate: Gate
) -> None:
    await query("update gate_incoming_stream set last_seq = 1 returning stream")
    await desk.login("operator")

    await desk.get("/staff/gate")

    assert "已补齐" in desk.text
    assert "放回重验" not in desk.text


@pytest.mark.parametrize("who", ["clerk", "checker"])
async def test_finance_may_look_but_not_touch(desk: Desk, gate: Gate, who: str) -> None:
    await desk.login(who)
    await desk.get("/staff/gate")

    for deed in ("release", "resume"):
        assert await desk.post(f"/staff/gate/{COUNTY}/{deed}", seq="1", reason="好的") == 403

    assert list((await peers.peer_named(COUNTY)).incoming.iterdir()) == []
    assert [row["what"] for row in await query("select what from gate_deed")] == ["add_source"]


@pytest.mark.parametrize("reason", ["", "   ", "长" * 501])
async def test_without_a_reason_nothing_is_done(desk: Desk, gate: Gate, reason: str) -> None:
    await desk.login("operator")
    await desk.get("/staff/gate")

    assert await desk.post(f"/staff/gate/{COUNTY}/release", seq="1", reason=reason) == 422

    assert "请写明原因" in desk.text
    assert list((await peers.peer_named(COUNTY)).incoming.iterdir()) == []


@pytest.mark.parametrize("seq", ["", "-1", "１", "99999999999", "1;drop"])
async def test_a_position_that_is_none_is_refused(desk: Desk, gate: Gate, seq: str) -> None:
    await desk.login("operator")
    await desk.get("/staff/gate")

    assert await desk.post(f"/staff/gate/{COUNTY}/release", seq=seq, reason="好的") == 422
    assert await desk.post("/staff/gate/nobody/release", seq="1", reason="好的") == 404


async def test_a_fork_goes_on_only_by_an_operators_word(desk: Desk, gate: Gate) -> None:
    await query(
        "update gate_incoming_stream set stopped_reason = 'fork', stopped_at = $1"
        " where stream = $2 returning stream",
        NOW,
        STREAM,
    )
    await desk.login("operator")
    await desk.get("/staff/gate")
    assert "核对后继续" in desk.text

    assert await desk.post("/staff/gate/jc-center/resume", reason="以现有历史为准") == 303

    rows = await query("select stopped_reason from gate_incoming_stream where stream = $1", STREAM)
    assert rows == [{"stopped_reason": ""}]
    deeds = await query("select what, reason from gate_deed where peer = 'jc-center'")
    assert deeds == [{"what": "resume", "reason": "以现有历史为准"}]


async def test_the_rate_is_counted_from_what_passed(gate: Gate) -> None:
    gate.later(minutes=30)
    await gate.arrive(await center(), "fee_bill", *[bill(number) for number in range(2, 61)])
    await gate.receive(await center())

    view = next(v for v in await overview.stream_views(gate.now) if v.status.stream == STREAM
                and v.status.direction == "in")  # fmt: skip

    assert view.traffic.rows_per_minute == 1.0
    assert (view.traffic.rows[30], view.traffic.rows[59], sum(view.traffic.rows)) == (1, 59, 60)


async def test_metrics_tell_lag_position_and_why_a_stream_stands(gate: Gate) -> None:
    told = (await measuring.exposition(now=NOW + timedelta(seconds=90))).decode()

    for line in (
        f'estation_gate_position{{direction="in",stream="{STREAM}"}} 1.0',
        f'estation_gate_unconfirmed_packets{{stream="{BACK}"}} 1.0',
        'estation_gate_quarantined_files{stream="lj-county-online"} 1.0',
        'estation_gate_peer_trouble{peer="lj-county"} 0.0',
        f'estation_gate_lag_seconds{{stream="{STREAM}"}} 90.0',
        f'estation_gate_stopped{{reason="{Reason.bad_seal}",stream="lj-county-online"}} 1.0',
    ):
        assert line in told
