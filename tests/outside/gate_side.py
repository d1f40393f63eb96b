"""The two ends of one stream in one database, and rows to send."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec import Struct, structs
from tortoise import Tortoise

from estation.outside.gate import device, keys, receiving, sending
from estation.outside.gate.format import file_name
from estation.outside.gate.receiving import Arrival, Handler, ReceiveReport
from estation.outside.gate.rows import FeeBillRow, FeeItemRow, PartyRow

STREAM = "jc-center-online"
BACK = "online-jc-center"
T0 = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PRIVATE, PUBLIC = keys.make_key()


def bill(number: int, **changes: Any) -> FeeBillRow:
    """A bill named by its number: 契税 of number + 100 fen."""
    amount = number + 100
    row = FeeBillRow(
        source="jc-center",
        source_id=f"F{number:06d}",
        version=1,
        region="360101",
        bill_no=f"JF{number:08d}",
        case_source_id=f"C{number:06d}",
        title="存量房买卖税费",
        payer=PartyRow(
            role="buyer",
            name="林晓舟",
            id_type="1",
            id_no="11010519491231002X",
            phone="13800000001",
        ),
        state="issued",
        issued_at=T0,
        due_on=None,
        total_fen=amount,
        items=[
            FeeItemRow(
                seq=1,
                code="deed_tax",
                name="契税",
                payee_code="treasury",
                base_fen=amount * 100,
                rate="1%",
                relief_fen=0,
                amount_fen=amount,
                formula="计税价格 × 1%",
                legal_basis="契税法第三条",
            )
        ],
    )
    return structs.replace(row, **changes)


@dataclass
class Sides:
    """Sender folder, receiver folder, and a handler that remembers what it was given."""

    root: Path
    now: datetime = T0
    seen: list[str] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def outgoing(self) -> Path:
        return self.root / "inner" / "outgoing"

    @property
    def incoming(self) -> Path:
        return self.root / "online" / "incoming"

    @property
    def quarantine(self) -> Path:
        return self.root / "online" / "quarantine"

    def outgoing_file(self, seq: int) -> Path:
        return self.outgoing / file_name(STREAM, seq)

    def incoming_file(self, seq: int) -> Path:
        return self.incoming / file_name(STREAM, seq)

    async def put(self, *numbers: int) -> None:
        await sending.put_rows(STREAM, "fee_bill", [bill(n) for n in numbers], now=self.now)

    async def pack(self, **options: Any) -> list[int]:
        return await sending.pack_waiting(
            STREAM,
            folder=self.outgoing,
            key=keys.load_seal_key(PRIVATE),
            now=self.now,
            **options,
        )

    async def send(self, *numbers: int) -> list[int]:
        """Put, pack and carry over; the packets' seqs."""
        await self.put(*numbers)
        packed = await self.pack()
        self.carry()
        return packed

    def carry(self) -> int:
        return device.move_once(self.outgoing, self.incoming)

    async def receive(self, handler: Handler | None = None, **options: Any) -> ReceiveReport:
        return await receiving.apply_incoming(
            STREAM,
            folder=self.incoming,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers={"fee_bill": handler or self.remember},
            now=self.now,
            **options,
        )

    async def remember(self, rows: Sequence[Struct], arrival: Arrival) -> None:
        for row in rows:
            assert isinstance(row, FeeBillRow)
            self.seen.append(row.source_id)
        self.arrivals.append(arrival)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def names(*numbers: int) -> list[str]:
    return [f"F{number:06d}" for number in numbers]


async def query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows


async def position() -> tuple[int, str]:
    """(last_seq, stopped_reason) of the incoming stream."""
    rows = await query(
        "select last_seq, stopped_reason from gate_incoming_stream where stream = $1", STREAM
    )
    return rows[0]["last_seq"], rows[0]["stopped_reason"]
