"""What a newer online side says beyond what the internal platform knows is kept."""

from typing import Any

import msgspec
import pytest
from msgspec import Struct

from estation.inner import packets
from estation.outside.gate import rows
from estation.outside.gate.receiving import Arrival
from estation.shared.transactions import in_transaction
from tests.inner.desk import Desk, query
from tests.inner.test_evidence import proof
from tests.inner.test_refunds import news


async def hear(desk: Desk, topic: str, row: Struct, *, seq: int = 1, **more: Any) -> bytes:
    """As it comes through the gate; the row as it came."""
    body = msgspec.json.encode({**msgspec.to_builtins(row), **more})
    handler = packets.make_handlers(source=desk.settings.source, now=desk.now)[topic]
    async with in_transaction():
        sent = [rows.as_sent(body, row)]
        await handler([row], Arrival("online-jc-center", seq, desk.now, sent))
    return body


def test_there_is_an_example_of_every_topic(desk: Desk) -> None:
    assert set(EXAMPLES) == set(packets.make_handlers(source="jc-center", now=desk.now))


@pytest.mark.parametrize("topic", ["receipt", "refund", "payment_evidence"])
async def test_a_row_that_says_more_is_kept_whole_once(desk: Desk, topic: str) -> None:
    row = EXAMPLES[topic](desk, await desk.issue())
    await hear(desk, topic, row)
    plain = await query("select 1 from gate_row_as_sent")

    said = [await hear(desk, topic, row, seq=seq, later={"n": 15}) for seq in (2, 3)]

    name = rows.identity(topic, row)
    assert name is not None
    kept = await query("select topic, key, version, body, body_sealed from gate_row_as_sent")
    assert plain == []
    assert kept == [
        {"topic": topic, "key": name.key, "version": name.version, "body": said[0].decode(),
         "body_sealed": None}
    ]  # fmt: skip


EXAMPLES: dict[str, Any] = {
    "receipt": lambda desk, bill_no: desk.receipt(bill_no),
    "refund": news,
    "payment_evidence": lambda desk, bill_no: proof(desk, desk.receipt(bill_no)),
}
