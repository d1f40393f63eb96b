"""What came before a program knew its topic is taken in by the one that does."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs
from tortoise import Tortoise

from estation import worker
from estation.fees import packets as fee_packets
from estation.outside.gate import later, receiving, rounds, rows
from estation.outside.gate.arriving import Arrival, Handler
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.peers import Peer, peer_named
from estation.outside.gate.receiving import ReceiveReport
from estation.outside.gate.status import stream_status
from estation.shared.crypto import Vault
from estation.shared.turns import Pauses
from tests.identity.people import VAULT
from tests.outside.gate_peers import Gate
from tests.outside.gate_side import STREAM, T0, bill, names, position, query
from tests.registry import rows as register

SEIZURE = register.restriction(source="jc-center", source_id="X000001")


class Online:
    """The online side, whose program is of one version or another."""

    def __init__(self, gate: Gate, center: Peer) -> None:
        self.gate = gate
        self.center = center
        self.vault: Vault | None = None
        self.seen: list[tuple[int, str]] = []
        self.watermarks: list[Any] = []

    async def arrive(self, *numbers: int) -> None:
        await self.gate.arrive(self.center, "fee_bill", *map(bill, numbers))

    async def receive(self, **handlers: Handler) -> ReceiveReport:
        return await rounds.receive_from(
            self.center, handlers=handlers, now=self.gate.now, alarm=worker.open_gate_incident,
            seal=self.vault and self.vault.seal, unseal=self.vault and self.vault.open,
        )  # fmt: skip

    async def take(self, found: Sequence[Struct], arrival: Arrival) -> None:
        self.seen += [(arrival.seq, row.source_id) for row in found]  # type: ignore[attr-defined]
        self.watermarks.append(arrival.watermark)


@pytest.fixture
async def online(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Online:
    monkeypatch.setattr(later, "_pauses", Pauses())  # a program that has just begun
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(T0)
    return Online(gate, await peer_named("jc-center"))


async def parked() -> list[str]:
    found = await query("select body::jsonb ->> 'source_id' as key from gate_parked_row order by 1")
    return [row["key"] for row in found]


async def incidents() -> list[dict[str, Any]]:
    return await query("select kind, owner from incident order by id")


async def test_a_newer_program_takes_in_what_the_older_one_parked_before_what_comes(
    online: Online,
) -> None:
    await online.arrive(1, 2)
    await online.arrive(3)
    await online.receive()
    waited = await parked()
    online.gate.now += timedelta(days=30)
    await online.arrive(4)

    await online.receive(fee_bill=online.take)

    assert waited == names(1, 2, 3)
    assert online.seen == list(zip((1, 1, 2, 3), names(1, 2, 3, 4), strict=True))
    assert online.watermarks == [T0, T0, online.gate.now]
    assert await parked() == []
    assert [one.parked_rows for one in await stream_status() if one.direction == "in"] == [0]
    await online.receive(fee_bill=online.take)
    assert len(online.seen) == 4


async def test_what_waited_tells_of_the_time_of_its_packet(online: Online) -> None:
    """All at once after a blackout, rows of three o'clock are not newer than those of four."""
    await online.arrive(1)
    online.gate.now += timedelta(hours=1)
    await online.arrive(2)
    online.gate.now += timedelta(hours=2)
    await online.receive()

    await online.receive(fee_bill=online.take)

    assert online.watermarks == [T0, T0 + timedelta(hours=1)]


async def test_a_version_that_waited_undoes_nothing_of_a_newer_one_that_is_here(
    online: Online,
) -> None:
    handler = fee_packets.make_handler(VAULT, payees={"treasury"})
    await online.arrive(1)
    await online.receive()
    party = structs.replace(bill(1).payer, phone="13900000009")
    newer = structs.replace(bill(1), version=2, title="更正", payer=party)
    online.gate.now += timedelta(hours=1)
    await online.gate.arrive(online.center, "fee_bill", newer)
    await receiving.apply_incoming(
        STREAM, folder=online.center.incoming, peer_key=online.center.key_ring(online.gate.now),
        handlers={"fee_bill": handler}, now=online.gate.now,
    )  # fmt: skip
    phone = await query("select phone_index, updated_at from person")

    await online.receive(fee_bill=handler)

    assert await parked() == []
    assert await query("select version, title, total_fen from bill") == [
        {"version": 2, "title": "更正", "total_fen": 101}
    ]
    assert await query("select phone_index, updated_at from person") == phone


async def test_topics_nobody_handles_yet_go_on_waiting(online: Online) -> None:
    await online.arrive(1)
    await online.gate.arrive(online.center, "restriction", SEIZURE)
    await online.receive()

    await online.receive(fee_bill=online.take)

    assert online.seen == [(1, "F000001")]
    assert await parked() == ["X000001"]


async def test_one_that_cannot_be_taken_in_stays_and_is_told_once_and_stops_nothing(
    online: Online,
) -> None:
    async def strict(found: Sequence[Struct], arrival: Arrival) -> None:
        if any(row.source_id == "F000002" for row in found):  # type: ignore[attr-defined]
            raise RowRefused("fee_bill F000002 v1: payee")
        await online.take(found, arrival)

    await online.arrive(1, 2, 3)
    await online.receive()
    await online.arrive(4)

    for _ in range(2):
        await online.receive(fee_bill=strict)

    assert [key for _, key in online.seen] == names(1, 3, 4)
    assert await parked() == ["F000002"]
    assert await incidents() == [{"kind": "gate_unhealed", "owner": "operator"}]
    assert await position() == (2, "")


async def test_of_a_packet_that_cannot_be_taken_in_somebody_hears_once(online: Online) -> None:
    """What a program refuses of one row it may refuse of thousands."""

    async def strict(found: Sequence[Struct], arrival: Arrival) -> None:
        raise RowRefused("fee_bill: payee")

    await online.arrive(1, 2, 3)
    await online.arrive(4)
    await online.receive()

    for _ in range(2):
        await online.receive(fee_bill=strict)

    assert await parked() == names(1, 2, 3, 4)
    assert await query(
        """select kind, (evidence ->> 'seq')::int as seq, (evidence ->> 'rows')::int as rows,
                  (evidence ->> 'line')::int as line from incident order by seq"""
    ) == [
        {"kind": "gate_unhealed", "seq": 1, "rows": 3, "line": 1},
        {"kind": "gate_unhealed", "seq": 2, "rows": 1, "line": 1},
    ]


async def test_one_of_a_topic_that_skips_is_set_aside(online: Online) -> None:
    unit = register.unit(source="jc-center")
    await online.gate.arrive(online.center, "unit", unit)
    await online.receive()
    await query("update gate_parked_row set body = replace(body, 'current', 'nowhere')")

    await online.receive(unit=online.take)

    assert (online.seen, await parked()) == ([], [])
    assert await query("select key, healed_at from gate_refused_row") == [
        {"key": unit.source_id, "healed_at": None}
    ]
    assert await incidents() == [{"kind": "gate_row_refused", "owner": "operator"}]


async def test_nobody_gets_in_later_what_is_not_theirs_to_write(online: Online) -> None:
    await online.arrive(1)
    await online.receive()
    await query("update gate_parked_row set body = replace(body, '360101', '360201')")

    await online.receive(fee_bill=online.take)

    assert (online.seen, await parked()) == ([], ["F000001"])
    assert await incidents() == [{"kind": "gate_unhealed", "owner": "operator"}]


async def test_a_handler_that_fails_now_is_asked_again_later_and_holds_up_no_stream(
    online: Online,
) -> None:
    async def failing(found: Sequence[Struct], arrival: Arrival) -> None:
        raise ConnectionError

    await online.gate.arrive(online.center, "restriction", SEIZURE)
    await online.receive()
    await online.arrive(1)

    await online.receive(restriction=failing, fee_bill=online.take)
    failed = await parked()
    online.gate.now += timedelta(seconds=2)
    await online.receive(restriction=online.take, fee_bill=online.take)

    assert failed == ["X000001"]
    assert [key for _, key in online.seen] == ["F000001", "X000001"]
    assert (await parked(), await incidents()) == ([], [])


async def test_a_handler_that_goes_on_failing_is_asked_more_and_more_seldom(
    online: Online,
) -> None:
    """Each time it wrote what is undone again; a worker looks three times a second."""
    due = [0, 2, 6, 14, 30, 60, 90, 120, 150]
    asked: list[float] = []

    async def failing(found: Sequence[Struct], arrival: Arrival) -> None:
        asked.append((online.gate.now - T0).total_seconds())
        raise ConnectionError

    await online.arrive(1)
    await online.receive()
    for second in due:
        for moment in (second - 0.5, second):
            online.gate.now = max(T0, T0 + timedelta(seconds=moment))
            await online.receive(fee_bill=failing)
    await online.receive(fee_bill=online.take)
    rests = await parked()
    online.gate.now += timedelta(hours=-1)  # the clock was wrong
    await online.receive(fee_bill=online.take)

    assert asked == due
    assert rests == names(1)
    assert (online.seen, await parked()) == ([(1, "F000001")], [])


async def test_a_crash_on_the_way_leaves_each_row_parked_or_taken_in(
    online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken in and parked no more is one transaction."""

    class Crash(BaseException):
        pass

    async def half(found: Sequence[Struct], arrival: Arrival) -> None:
        await Tortoise.get_connection("default").execute_query(
            "update gate_peer set title = 'half done'"
        )
        raise Crash

    await online.arrive(1)
    await online.receive()

    with pytest.raises(Crash):
        await online.receive(fee_bill=half)

    assert await parked() == ["F000001"]
    assert await query("select title from gate_peer") == [{"title": "市中心"}]
    await online.receive(fee_bill=online.take)
    assert online.seen == [(1, "F000001")]


async def test_a_version_that_waited_takes_nothing_back(online: Online) -> None:
    """What was parked is handed over as what came then, also when its thing is here by now."""
    newest = structs.replace(bill(1), version=3)
    online.gate.now = T0
    await online.arrive(1)
    await online.receive()
    await online.gate.arrive(online.center, "fee_bill", newest)

    seen: list[int] = []

    async def versions(found: Sequence[Struct], arrival: Arrival) -> None:
        seen.extend(row.version for row in found)  # type: ignore[attr-defined]

    await online.receive(fee_bill=versions)

    assert seen == [1, 3]
    assert rows.identity("fee_bill", newest) == (STREAM.rpartition("-")[0], "F000001", 3)


async def test_what_nobody_understands_yet_lies_sealed(online: Online) -> None:
    """It may name anybody: as this bill does."""
    online.vault = VAULT
    await online.arrive(1, 2)
    await online.receive()
    (one, two) = await query("select body, body_sealed from gate_parked_row order by line")

    online.vault = None
    await online.receive(fee_bill=online.take)
    unopened = len(await query("select 1 from gate_parked_row"))
    online.vault = VAULT
    online.gate.now += timedelta(seconds=2)
    await online.receive(fee_bill=online.take)

    assert (one["body"], two["body"]) == (None, None)
    assert "林晓舟" in VAULT.open(one["body_sealed"])
    assert "林晓舟".encode() not in bytes(one["body_sealed"])
    assert unopened == 2
    assert [key for _, key in online.seen] == names(1, 2)
    assert await query("select 1 from gate_parked_row") == []


async def test_rows_of_a_history_that_was_given_up_wait_before_those_of_the_next(
    online: Online,
) -> None:
    """Their packets have the same numbers."""
    for number in (1, 2, 3):
        await online.arrive(number, 10 + number)
        await online.receive()
        await receiving.begin_anew(STREAM)
        for table in ("gate_outgoing_stream", "gate_outgoing_packet", "gate_sent_row"):
            await query(f"delete from {table} where stream = $1", STREAM)
    await online.arrive(4)
    await online.receive()
    waited = await parked()

    await online.receive(fee_bill=online.take)

    assert waited == names(1, 2, 3, 4, 11, 12, 13)
    assert [key for _, key in online.seen] == names(1, 11, 2, 12, 3, 13, 4)
    assert (await parked(), await incidents()) == ([], [])
