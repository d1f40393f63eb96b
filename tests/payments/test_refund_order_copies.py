"""Refund orders of the centre are proved to have come, and none is ever followed twice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from estation.outside.gate import keys, receiving, sending, snapshots, upkeep
from estation.outside.gate.snapshots import Why
from estation.payments import packets
from estation.payments.invariants import broken_invariants
from tests.identity.people import VAULT
from tests.outside.gate_link import Link, events, proofs
from tests.outside.gate_side import BACK, PUBLIC, STREAM
from tests.payments.city import City, count, later, rows
from tests.payments.test_asked_refunds import order_row, paid, told


@dataclass
class Orders(Link):
    """The centre's stream of refund orders to the online side, and back."""

    async def arrive(self, **_: Any) -> receiving.ReceiveReport:
        return await receiving.apply_incoming(
            STREAM,
            folder=self.incoming,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers={"refund_order": packets.make_handler(lambda: later(hours=1), VAULT.seal)},
            now=self.now,
            reply_stream=BACK,
            alarm=self.alarm,
        )

    async def order(self, *given: Any) -> None:
        await sending.put_rows(STREAM, "refund_order", list(given), now=self.now)

    async def prove(self) -> list[tuple[str, bool]]:
        """A proof with its repairs, and the proof behind them."""
        await rows("delete from gate_proof returning id")
        await upkeep.prove(STREAM)
        await self.exchange(3)
        return [(topic, is_equal) for topic, is_equal, _ in await proofs()]


@pytest.fixture
def link(database: str, tmp_path: Path) -> Orders:
    return Orders(tmp_path, now=later(hours=1))


@pytest.fixture
def city() -> City:
    return City()


EQUAL = [("refund_order", True)]
HEALED = [("refund_order", False), ("refund_order", True)]


async def test_an_order_that_came_is_proved(link: Orders, city: City) -> None:
    bill, order, _ = await paid(city)
    await link.order(order_row(bill, order))
    await link.exchange()

    assert await link.prove() == EQUAL
    assert await count("pay_refund") == 1
    assert [one.kind for one in link.findings] == []


async def test_what_an_order_says_beyond_what_we_know_is_kept_sealed(
    link: Orders, city: City
) -> None:
    """A field nobody here knows may name anybody."""
    bill, order, _ = await paid(city)
    await link.order(order_row(bill, order))
    (sent,) = await rows(
        """update gate_outgoing_row set body = jsonb_set(body::jsonb, '{payee_name}', '"林晓舟"')
           returning body::text as body"""
    )

    await link.exchange()
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await link.exchange()

    (kept,) = await rows("select key, version, body, body_sealed from gate_row_as_sent")
    whole = msgspec.json.decode(VAULT.open(kept["body_sealed"]))
    assert (kept["key"], kept["version"], kept["body"]) == ("TK20260803000001", 1, None)
    assert whole == msgspec.json.decode(sent["body"])
    assert whole["payee_name"] == "林晓舟"
    assert await count("pay_refund") == 1


async def test_a_lost_order_is_found_and_followed_once(link: Orders, city: City) -> None:
    """As when the online side came back from a backup that was a minute old."""
    bill, order, _ = await paid(city)
    await link.order(order_row(bill, order))
    (seq,) = await link.pack()
    link.outgoing_file(seq).unlink()
    (sent,) = await rows("select digest from gate_outgoing_packet where seq = 1")
    await rows(
        """insert into gate_incoming_stream
             (stream, last_seq, last_digest, stopped_reason, stopped_detail, failures,
              parked_files, duplicates, content_seq, reported_seq)
           values ($1, 1, $2, '', '', 0, 0, 0, 0, 0) returning stream""",
        STREAM,
        sent["digest"],
    )

    proved = await link.prove()
    again = await link.prove()

    assert (proved, again) == (HEALED, EQUAL)
    (refund,) = await rows("select state, amount_fen, source_id from pay_refund")
    assert (refund["amount_fen"], refund["source_id"]) == (8_000, "TK20260803000001")
    assert [one["state"] for one in await told()] == ["refunding"]
    assert [one.kind for one in link.findings] == ["repaired"]
    assert await broken_invariants() == {}


@pytest.mark.parametrize(
    "harm",
    [
        "delete from centre_refund_order returning id",
        "update centre_refund_order set amount_fen = 7 returning id",
        "update centre_refund_order set order_no = 'P0' returning id",
        "update centre_refund_order set version = 9 returning id",
    ],
)
@pytest.mark.parametrize("fate", ["followed", "refused"])
async def test_a_repair_starts_no_refund_and_gives_no_answer_a_second_time(
    link: Orders, city: City, harm: str, fate: str
) -> None:
    bill, order, _ = await paid(city)
    sum_fen = 8_000 if fate == "followed" else 10**9
    await link.order(order_row(bill, order, amount_fen=sum_fen))
    await link.exchange()
    before = await _effects()
    await rows(harm)

    proved = await link.prove()

    assert proved == HEALED
    assert await _effects() == before
    assert len(before["pay_refund"]) == (fate == "followed")
    assert await rows("select version, amount_fen from centre_refund_order") == [
        {"version": 1, "amount_fen": sum_fen}
    ]


async def test_an_order_the_centre_does_not_know_is_named_and_changes_nothing(
    link: Orders, city: City
) -> None:
    bill, order, _ = await paid(city)
    await link.order(order_row(bill, order))
    await link.exchange()
    before = await _effects()
    await rows(
        """insert into centre_refund_order (id, source, source_id, version, region,
             bill_source_id, order_no, amount_fen, data_as_of, row_digest)
           select gen_random_uuid(), source, 'TK-FALSE', version, region, bill_source_id,
                  order_no, amount_fen, data_as_of, row_digest
           from centre_refund_order returning id"""
    )

    assert await link.prove() == HEALED
    assert [(one.kind, one.keys) for one in link.findings] == [("phantom", ["TK-FALSE"])]
    assert await _effects() == before


async def test_an_order_in_a_snapshot_that_is_jumped_to_is_followed_once(
    link: Orders, city: City
) -> None:
    bill, order, _ = await paid(city)
    other, other_order, _ = await paid(city)
    await link.order(order_row(bill, order))
    await link.exchange()
    await link.order(order_row(other, other_order, source_id="TK2"))
    (lost,) = await link.pack()
    link.outgoing_file(lost).unlink()
    await rows("delete from gate_outgoing_packet where seq = $1 returning seq", lost)
    await snapshots.plan(STREAM, Why.asked, now=link.now)
    await link.pack()
    link.carry()
    await link.arrive()
    link.later(200)

    await link.arrive()

    assert len(await events("jumped")) == 1
    assert [row["source_id"] for row in await _refunds()] == ["TK2", "TK20260803000001"]
    assert await link.prove() == EQUAL


async def _refunds() -> list[dict[str, Any]]:
    return await rows("select source_id from pay_refund order by source_id")


async def _effects() -> dict[str, list[dict[str, Any]]]:
    """All that an order may bring about."""
    return {
        table: await rows(f"select * from {table} order by id")
        for table in ("pay_refund", "ledger_transfer", "outbox_message", "incident")
    }
