"""The real copies behind the gate: what their proofs see, and what repairs make of them."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Struct, structs

from estation.cases import packets as case_packets
from estation.cases.queries import cases_of
from estation.fees import packets as fee_packets
from estation.outside.gate import jumping, keys, receiving, rows, sending, snapshots, upkeep
from estation.outside.gate.arriving import Arrival, Handler
from estation.outside.gate.snapshots import Why
from estation.registry import packets as registry_packets
from estation.registry.api import (
    CertificateNotFound,
    UnitNotFound,
    certificate_by_number,
    restrictions_of_unit,
    rights_of_unit,
    unit_by_code,
    versions_of,
)
from estation.shared.migrating import asyncpg_dsn
from tests.identity.people import ANNA, VAULT
from tests.outside.gate_link import Link, proofs
from tests.outside.gate_side import BACK, PUBLIC, STREAM, T0, bill, position, query
from tests.registry import rows as register


@dataclass
class Copies(Link):
    """A link whose online side keeps what came where it belongs."""

    async def arrive(self, **differently: Any) -> receiving.ReceiveReport:
        given = {"alarm": self.alarm, **differently}
        return await receiving.apply_incoming(
            STREAM,
            folder=self.incoming,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers=self.handlers(),
            now=self.now,
            reply_stream=BACK,
            **given,
        )

    def handlers(self) -> dict[str, Handler]:
        return {
            "fee_bill": fee_packets.make_handler(VAULT, payees={"treasury"}),
            "case": case_packets.make_handler(VAULT),
            "case_event": case_packets.make_event_handler(VAULT),
            **registry_packets.make_handlers(VAULT),
        }

    async def send_rows(self, topic: str, *rows: Any) -> None:
        await sending.put_rows(STREAM, topic, list(rows), now=self.now)
        await self.exchange()

    async def prove(self) -> bool:
        """Everything once, with all its repairs; whether both sides were the same at once."""
        before = len(await proofs())
        await upkeep.prove(STREAM)
        await self.exchange()
        found = [is_equal for _, is_equal, _ in (await proofs())[before:]]
        assert found
        await self.exchange(2)
        return all(found)

    async def forget(self, key: str) -> None:
        """The sender does not know that it sent this."""
        await query("delete from gate_sent_row where key = $1", key)


@pytest.fixture
async def copies(database: str, tmp_path: Path) -> Copies:
    return Copies(tmp_path)


async def states() -> dict[str, str]:
    rows = await query("select source_id, state from bill order by source_id")
    return {row["source_id"]: row["state"] for row in rows}


async def test_a_phantom_bill_that_its_source_has_after_all_is_due_again(copies: Copies) -> None:
    await copies.put(1, 2)
    await copies.exchange()
    await copies.forget("F000002")
    await copies.prove()
    named = await states()

    await copies.put(2)
    await copies.exchange()
    await copies.prove()

    assert named == {"F000001": "payable", "F000002": "withdrawn"}
    assert await states() == {"F000001": "payable", "F000002": "payable"}
    assert await query("select key from gate_phantom") == []
    assert await copies.prove()


CASE = rows.CaseRow(
    source="jc-center", source_id="C1", version=1, region="360101", case_no="C1",
    matter="RESALE_TRANSFER", hall="h", unit_code="", address="a", opened_at=T0, state="open",
    parties=[ANNA], stages=[],
)  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "tampering"),
    [
        ("case", "delete from case_party"),
        ("case", "update case_party set role = 'seller'"),
        ("case", "insert into case_party (id, case_id, person_id, role)"
                 " select gen_random_uuid(), case_id, person_id, 'x' from case_party"),
        ("right", "update registry_holder set name_sealed = 'x'"),
        ("right", "delete from registry_holder"),
        ("certificate", "delete from registry_holder"),
        ("fee_bill", "update bill set state = 'withdrawn'"),
        ("fee_bill", "insert into bill_item (id, bill_id, version, seq, code, name, payee_code,"
                     " rate, relief_fen, amount_fen, formula, legal_basis, note)"
                     " select gen_random_uuid(), bill_id, version, 99, code, name, 'non_tax',"
                     " rate, relief_fen, 1, formula, legal_basis, note from bill_item"),
    ],
)  # fmt: skip
async def test_parts_changed_past_the_gate_are_found_and_mended(
    copies: Copies, topic: str, tampering: str
) -> None:
    row = {
        "case": CASE,
        "right": register.right(source="jc-center"),
        "certificate": register.certificate(source="jc-center"),
        "fee_bill": bill(1),
    }[topic]
    await copies.send_rows(topic, row)
    was_equal = await copies.prove()
    before = await contents()

    await query(tampering)
    touched = await contents()
    still_equal = await copies.prove()

    assert was_equal
    assert touched != before
    assert not still_equal
    assert await contents() == before
    assert await copies.prove()


async def contents() -> list[Any]:
    """The parts of copied things, but for their ids and seals, and the bills' states."""
    return [
        await query("select role from case_party order by role"),
        await query("select seq, id_type, name_sealed = 'x' as x from registry_holder order by 1"),
        await query("select seq, amount_fen, payee_code from bill_item order by seq"),
        await query("select state from bill order by source_id"),
    ]


async def test_a_phantom_restriction_is_in_nobodys_way_and_back_when_it_comes_again(
    copies: Copies,
) -> None:
    first, second = (
        register.restriction(source="jc-center", source_id=f"X{number}") for number in (1, 2)
    )
    await copies.send_rows("restriction", first, second)
    await copies.forget("X2")
    await copies.prove()
    without = await restrictions_of_unit(register.UNIT)
    named = copies.findings[-1]

    await copies.send_rows("restriction", second)

    assert [one.source_id for one in without] == ["X1"]
    assert (named.kind, named.keys, named.detail) == ("phantom", ["X2"], {"withdrawn": True})
    assert len(await restrictions_of_unit(register.UNIT)) == 2
    assert await copies.prove()


async def test_phantoms_of_every_topic_are_shown_to_nobody(copies: Copies) -> None:
    event = rows.CaseEventRow(
        source="jc-center", source_id="E1", region="360101", case_source_id="C1", seq=1,
        what="stage_moved", stage="tax", state="doing", at=T0, note="",
    )  # fmt: skip
    await copies.send_rows("case", CASE)
    await copies.send_rows("case_event", event)
    await copies.send_rows("unit", register.unit(source="jc-center"))
    await copies.send_rows("right", register.right(source="jc-center"))
    await copies.send_rows("certificate", register.certificate(source="jc-center"))
    (person,) = await query("select id from person where id_type = $1 limit 1", ANNA.id_type)
    shown = await cases_of(person["id"])
    topics = ("case", "case_event", "unit", "right", "certificate")
    for topic in topics:
        await query("delete from gate_sent_row where topic = $1", topic)

    await copies.prove()

    assert len(shown) == 1
    named = await query("select topic from gate_phantom order by topic")
    assert [row["topic"] for row in named] == sorted(topics)
    assert await cases_of(person["id"]) == []
    assert await rights_of_unit(register.UNIT, vault=VAULT) == []
    with pytest.raises(UnitNotFound):
        await unit_by_code(register.UNIT)
    with pytest.raises(CertificateNotFound):
        await certificate_by_number(register.NUMBER, vault=VAULT)


async def test_a_repair_mends_the_history_too(copies: Copies) -> None:
    flat = register.unit(source="jc-center", source_id="U1")
    await copies.send_rows("case", CASE)
    await copies.send_rows("unit", flat)
    await copies.send_rows("case", structs.replace(CASE, address="b"))
    await copies.send_rows("unit", structs.replace(flat, address="b"))

    await copies.prove()

    (kept,) = await query("select body_sealed from case_version")
    (version,) = await versions_of("unit", "jc-center", "U1", vault=VAULT)
    assert json.loads(VAULT.open(kept["body_sealed"]))["address"] == "b"
    assert json.loads(version.body)["address"] == "b"
    assert await copies.prove()


@pytest.mark.parametrize("by", ["proof", "snapshot"])
async def test_what_the_sender_has_nothing_left_of_is_found(copies: Copies, by: str) -> None:
    await copies.put(1, 2)
    await copies.exchange()
    await query("delete from gate_sent_row")

    if by == "proof":
        await upkeep.prove(STREAM)
    else:
        await snapshots.plan(STREAM, snapshots.Why.asked, now=copies.now)
    await copies.exchange(3)

    assert [finding.kind for finding in copies.findings] == ["phantom"]
    assert await states() == {"F000001": "withdrawn", "F000002": "withdrawn"}
    assert await copies.prove()


async def test_readers_and_payers_see_the_copy_before_a_jump_or_after_it_and_never_wait(
    copies: Copies, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is applied beside what people look at: all of it is there at once."""
    await copies.put(1, 2, 3)
    await copies.send_rows("right", register.right(source="jc-center"))
    revised = [bill(2, version=2, title="更正"), *map(bill, (4, 5))]
    await sending.put_rows(STREAM, "fee_bill", revised, now=copies.now)
    (lost,) = await copies.pack()
    copies.outgoing_file(lost).unlink()
    mortgage = register.mortgage(source="jc-center")
    await sending.put_rows(STREAM, "right", [mortgage], now=copies.now)
    await snapshots.plan(STREAM, Why.asked, now=copies.now)
    await copies.pack()
    copies.carry()
    await query("delete from gate_outgoing_packet where seq = $1", lost)
    await copies.arrive()
    copies.later(200)
    looks: list[dict[str, tuple[Any, ...]]] = []

    async with _another_program(database) as look:
        before = await look()
        real = jumping.Jump.apply

        async def apply(self: Any, *given: Any) -> Any:
            head = await real(self, *given)
            looks.append(await look())
            return head

        def watched(handler: Handler) -> Handler:
            async def handle(rows: Sequence[Struct], arrival: Arrival) -> None:
                await handler(rows, arrival)
                looks.append(await look())

            return handle

        monkeypatch.setattr(jumping.Jump, "apply", apply)
        given = {topic: watched(handler) for topic, handler in copies.handlers().items()}
        monkeypatch.setattr(copies, "handlers", lambda: given)
        await copies.arrive()
        after = await look()

    assert len(looks) == 3
    assert all(one == before for one in looks)
    assert [key for key in before if before[key] != after[key]] == ["F000002"]
    assert set(after) - set(before) == {"F000004", "F000005", "r2"}
    assert after["F000002"] == (2, 102, 102)
    assert await position() == (4, "")


@asynccontextmanager
async def _another_program(database: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """What a citizen's program sees, which waits for nobody: bills with the sum of their items,
    and rights. It also begins to pay bills that the snapshot does not change, and to log their
    payer in."""
    connection = await asyncpg.connect(asyncpg_dsn(database))

    async def look() -> dict[str, tuple[Any, ...]]:
        found = await connection.fetch(
            """select b.source_id, b.version, b.total_fen, sum(i.amount_fen)::bigint
               from bill b join bill_item i on i.bill_id = b.id and i.version = b.version
               group by b.id union all
               select source_id, version, 0, 0 from registry_right"""
        )
        async with connection.transaction():
            await connection.fetch(
                """select b.id from bill b join person p on p.id = b.payer_id
                   where b.source_id in ('F000001', 'F000003')
                   for update of b for key share of p"""
            )
        return {row["source_id"]: tuple(row)[1:] for row in found}

    try:
        await connection.execute("set statement_timeout = '2s'")
        yield look
    finally:
        await connection.close()
