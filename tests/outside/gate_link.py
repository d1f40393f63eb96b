"""Both directions of one link in one database, and a copied table that can be tampered with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from estation.outside.gate import device, keys, receiving, replicas, sending, upkeep
from estation.outside.gate.events import Finding
from estation.outside.gate.receiving import Arrival, ReceiveReport
from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import FeeBillRow
from tests.outside.gate_side import BACK, PRIVATE, PUBLIC, STREAM, Sides, query

TABLE = """
create table if not exists copied_bill (
    source text, source_id text, version int, region text, data_as_of timestamptz,
    row_digest bytea, total_fen bigint, state text, primary key (source, source_id))
"""

MERGE = """
insert into copied_bill as c values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (source, source_id) do update set
    version = excluded.version, row_digest = excluded.row_digest,
    total_fen = excluded.total_fen, state = excluded.state
where c.version < excluded.version or $9
"""


@dataclass
class Link(Sides):
    """`exchange` lets both sides do everything once; findings are what the alarm heard."""

    findings: list[Finding] = field(default_factory=list)
    handed_over: int = 0

    @property
    def back_outgoing(self) -> Path:
        return self.root / "online" / "outgoing"

    @property
    def back_incoming(self) -> Path:
        return self.root / "inner" / "incoming"

    async def merge(self, rows: Sequence[Struct], arrival: Arrival) -> None:
        """Newer versions win; what repairs wins always."""
        self.handed_over += len(rows)
        for row, sent in zip(rows, arrival.as_sent(rows), strict=True):
            assert isinstance(row, FeeBillRow)
            await query(
                MERGE, row.source, row.source_id, row.version, row.region, arrival.watermark,
                sent.digest, row.total_fen, row.state, arrival.repairs,
            )  # fmt: skip

    async def withdraw(self, source: str, gone: Sequence[str], now: datetime) -> None:
        await query(
            "update copied_bill set state = 'withdrawn' where source = $1"
            " and source_id = any($2::text[])",
            source,
            list(gone),
        )

    async def alarm(self, finding: Finding, now: datetime) -> None:
        self.findings.append(finding)

    async def arrive(self, **options: Any) -> ReceiveReport:
        """The online side applies what came."""
        return await self.receive(self.merge, reply_stream=BACK, alarm=self.alarm, **options)

    async def receive_without_handlers(self) -> ReceiveReport:
        return await receiving.apply_incoming(
            STREAM,
            folder=self.incoming,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers={},
            now=self.now,
        )

    async def answer(self) -> None:
        """What the online side has to say crosses, and the inner side applies it."""
        await sending.pack_waiting(
            BACK,
            folder=self.back_outgoing,
            key=keys.load_seal_key(PRIVATE),
            now=self.now,
            heartbeat_after=timedelta(days=1),
        )
        device.move_once(self.back_outgoing, self.back_incoming)
        await receiving.apply_incoming(
            BACK,
            folder=self.back_incoming,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers={},
            now=self.now,
            reply_stream=STREAM,
        )

    async def look_after(self, **options: Any) -> list[int]:
        return await upkeep.look_after(STREAM, folder=self.outgoing, now=self.now, **options)

    async def exchange(self, rounds: int = 1, **options: Any) -> None:
        for _ in range(rounds):
            await self.pack(heartbeat_after=timedelta(days=1), **options)
            self.carry()
            await self.arrive()
            await self.answer()
            self.later(10)

    async def sent_keys(self) -> list[str]:
        rows = await query("select key from gate_sent_row where stream = $1 order by key", STREAM)
        return [row["key"] for row in rows]

    async def copied(self) -> dict[str, tuple[int, int]]:
        """key -> (version, total_fen), withdrawn ones left out."""
        rows = await query(
            "select * from copied_bill where state <> 'withdrawn' order by source_id"
        )
        return {row["source_id"]: (row["version"], row["total_fen"]) for row in rows}


async def make_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    """Needs the fixture `database`."""
    link = Link(root)
    await query(TABLE)
    monkeypatch.setitem(
        replicas.REPLICAS, "fee_bill", Replica("fee_bill", "copied_bill", withdraw=link.withdraw)
    )
    return link


async def proofs() -> list[tuple[str, bool, list[int]]]:
    """(topic, equal, differing buckets) of all proofs, in order."""
    rows = await query(
        """select topic, is_equal, array(select jsonb_array_elements_text(buckets)::int) as buckets
           from gate_proof order by seq, id"""
    )
    return [(row["topic"], row["is_equal"], row["buckets"]) for row in rows]


async def events(kind: str) -> list[dict[str, Any]]:
    return await query("select * from gate_event where kind = $1 order by at, id", kind)
