"""The real copies behind the gate: what their proofs see, and what repairs make of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from estation.cases import packets as case_packets
from estation.fees import packets as fee_packets
from estation.outside.gate import keys, receiving, sending, upkeep
from estation.outside.gate.arriving import Handler
from estation.registry import packets as registry_packets
from tests.identity.people import VAULT
from tests.outside.gate_link import Link, proofs
from tests.outside.gate_side import BACK, PUBLIC, STREAM, query


@dataclass
class Copies(Link):
    """A link whose online side keeps what came where it belongs."""

    async def arrive(self, **_: Any) -> receiving.ReceiveReport:
        return await receiving.apply_incoming(
            STREAM,
            folder=self.incoming,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers=self.handlers(),
            now=self.now,
            reply_stream=BACK,
            alarm=self.alarm,
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
