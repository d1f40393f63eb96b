"""No two things have one key: ids hold no colon, by which keys join them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from estation.outside.gate import rows
from tests.outside import gate_document, tiny_writer

EXAMPLES: dict[str, Any] = {
    topic: json.loads(text) for topic, text in gate_document.examples(gate_document.text())
}
IDS = [(topic, name) for topic, row_type in rows.TOPICS.items() for name in rows._ids_of(row_type)]
FREE_IDS = st.text(
    st.characters(exclude_characters=":\0", exclude_categories=["Cs"]), max_size=8
) | st.text("a-.", max_size=3)


def test_everything_a_key_is_made_of_is_an_id() -> None:
    named = {
        (topic, name)
        for topic, row_type in rows.TOPICS.items()
        for name in row_type.__struct_fields__
        if name.endswith("source_id")
        or name in ("order_no", "refund_no")
        or (topic, name) == ("payment_evidence", "out_trade_no")
    }

    assert named == set(IDS)


@pytest.mark.parametrize("text", [":", "a:b", ":a", "a:"])
@pytest.mark.parametrize(("topic", "name"), IDS)
def test_an_id_with_a_colon_is_no_row_on_either_side(topic: str, name: str, text: str) -> None:
    body = msgspec.json.encode({**EXAMPLES[topic], name: text})
    good: Any = rows.decode_row(topic, msgspec.json.encode(EXAMPLES[topic]))

    for reading in (rows.decode_row, rows.decode_clean, rows.read):
        with pytest.raises(rows.BadRow, match=name):
            reading(topic, body)
    with pytest.raises(rows.BadRow, match=name):
        rows.encode_row(topic, structs.replace(good, **{name: text}))


@given(st.lists(st.tuples(FREE_IDS, FREE_IDS, FREE_IDS), min_size=2, max_size=2, unique=True))
def test_two_things_have_two_keys(given_ids: list[tuple[str, str, str]]) -> None:
    refunds, receipts = set(), set()
    for one, two, three in given_ids:
        names = {"source_id": f"F{one}", "refund_no": two, "order_source_id": three}
        refund = {**EXAMPLES["refund"], **names}
        receipt = {**EXAMPLES["receipt"], "source_id": f"F{one}", "order_no": two}
        refunds.add(_key_of("refund", refund))
        receipts.add(_key_of("receipt", receipt))

    # A refund with a number is named by it alone, whatever order it follows.
    assert len(refunds) == len({(one, two, "" if two else three) for one, two, three in given_ids})
    assert len(receipts) == len({(one, two) for one, two, _ in given_ids})


def _key_of(topic: str, row: dict[str, Any]) -> str:
    """As we read it; the independent writer names it so, too."""
    named = rows.identity(topic, rows.decode_row(topic, msgspec.json.encode(row)))
    assert named == tiny_writer.identity(topic, row)
    assert named is not None
    return named.key
