"""A moment on the wire has the form of the specification and no other, whoever writes it."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from msgspec import inspect, structs

from estation.outside.gate import rows
from estation.outside.gate.errors import Reason
from tests.outside import gate_document
from tests.outside.gate_side import Sides, position
from tests.outside.test_gate_bad_files import a_line, packet

EXAMPLES: dict[str, Any] = {
    topic: json.loads(text) for topic, text in gate_document.examples(gate_document.text())
}
FORM = re.compile(
    r"(?P<year>[0-9]{4})-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)
WRONG = [
    "2026-03-02 09:00:00Z",
    "2026-03-02t09:00:00Z",
    "2026-03-02T09:00:00z",
    "2026-03-02 09:00:00+08:00",
    "2026-03-02T09:00:00+0800",
    "2026-03-02T09:00:00.1234567Z",
    "2026-03-02T09:00:00.123456789Z",
    "2026-03-02T09:00:00.999999999Z",
    "2026-03-02T09:00:00.000000000Z",
    "2026-03-02T09:00:00,5Z",
    "2026-03-02T09:00:00.Z",
    "2026-03-02T09:00Z",
    "2026-03-02T09:00:60Z",
    "2026-03-02T24:00:00Z",
    "2026-03-02T09:00:00",
    "2026-03-02T09:00:00Z\n",
    " 2026-03-02T09:00:00Z",
    "20260302T090000Z",
    "1899-12-31T23:59:59Z",
    "2201-01-01T00:00:00Z",
    "",
]
RIGHT = [
    "2026-03-02T09:00:00Z",
    "2026-03-02T09:00:00.1Z",
    "2026-03-02T09:00:00.123456Z",
    "2026-03-02T17:00:00+08:00",
    "1900-01-01T00:00:00-11:30",
    "2200-12-31T23:59:59.999999+14:00",
]


@pytest.fixture
def sides(database: str, tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def places(row_type: type[msgspec.Struct]) -> Iterator[tuple[str, ...]]:
    """Every moment a row may hold: its name, or that of a list and one in each of its rows."""
    moments, nested = rows._moments_of(row_type)
    info: Any = inspect.type_info(row_type)
    yield from ((name,) for name in moments)
    for field in info.fields:
        if field.name in nested:
            yield from ((field.name, *place) for place in places(field.type.item_type.cls))


MOMENTS = [(topic, place) for topic, row_type in rows.TOPICS.items() for place in places(row_type)]


def with_moment(topic: str, place: tuple[str, ...], text: str) -> bytes:
    row = json.loads(json.dumps(EXAMPLES[topic]))
    within = row[place[0]][-1] if len(place) == 2 else row
    within[place[-1]] = text
    return msgspec.json.encode(row)


def test_there_are_moments_in_rows_of_both_directions() -> None:
    """Else the tests below would show nothing."""
    assert {("fee_bill", ("issued_at",)), ("receipt", ("paid_at",))} < set(MOMENTS)
    assert ("case", ("stages", "at")) in MOMENTS


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize(("topic", "place"), MOMENTS)
def test_another_spelling_of_a_moment_is_no_row(
    topic: str, place: tuple[str, ...], text: str
) -> None:
    body = with_moment(topic, place, text)

    for reading in (rows.decode_row, rows.decode_clean, rows.read):
        with pytest.raises(rows.BadRow, match=place[-1]):
            reading(topic, body)


@pytest.mark.parametrize("text", RIGHT)
@pytest.mark.parametrize(("topic", "place"), MOMENTS)
def test_every_spelling_of_the_specification_is_read(
    topic: str, place: tuple[str, ...], text: str
) -> None:
    body = with_moment(topic, place, text)

    row, sent = rows.read(topic, body)

    found: Any = getattr(row, place[0])
    assert rows.decode_row(topic, body) == row
    assert (getattr(found[-1], place[1]) if len(place) == 2 else found) == datetime.fromisoformat(
        text
    )
    assert sent.digest == rows.digest(body)


def test_a_text_that_looks_like_such_a_moment_is_a_text() -> None:
    """Negative control: only moments are looked at, also where they are named alike."""
    bill = {**EXAMPLES["fee_bill"], "title": WRONG[0], "later": {"issued_at": WRONG[0]}}

    row, _ = rows.read("fee_bill", msgspec.json.encode(bill))

    assert getattr(row, "title") == WRONG[0]  # noqa: B009


async def test_a_row_with_such_a_moment_stops_its_stream_until_a_right_one_comes(
    sides: Sides,
) -> None:
    sides.incoming.mkdir(parents=True)
    sides.incoming_file(1).write_bytes(packet([a_line(issued_at="2026-03-02 09:00:00Z")]))

    refused = await sides.receive()
    stopped = await position()
    sides.incoming_file(1).write_bytes(packet([a_line()]))
    right = await sides.receive()

    assert [reason for _, reason in refused.quarantined] == [Reason.bad_row]
    assert stopped == (0, "bad_row")
    assert right.applied == [1]


# What our own side writes

FIRST, LAST = (datetime.fromisoformat(day) for day in ("1901-01-02", "2200-12-30"))
ZONES = st.one_of(
    st.just(UTC),
    st.sampled_from([ZoneInfo("Asia/Shanghai"), ZoneInfo("Asia/Kathmandu"), ZoneInfo("UTC")]),
    st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m))),
)


@given(
    st.datetimes(FIRST, LAST, timezones=ZONES),
    st.sampled_from(MOMENTS),
)
@example(datetime(2026, 3, 2, 9, 0, 0, 0, UTC), ("receipt", ("paid_at",)))
@example(datetime(2026, 3, 2, 9, 0, 0, 1, UTC), ("case", ("stages", "at")))
@example(datetime(2026, 3, 2, 9, 0, 0, 500000, UTC), ("fee_bill", ("issued_at",)))
def test_our_own_side_spells_every_moment_so(
    at: datetime, moment: tuple[str, tuple[str, ...]]
) -> None:
    assume(not (at.utcoffset() or timedelta()) % timedelta(minutes=1))
    topic, place = moment
    row: Any = rows.decode_row(topic, with_moment(topic, place, RIGHT[0]))
    if len(place) == 2:
        item = structs.replace(getattr(row, place[0])[-1], **{place[1]: at})
        row = structs.replace(row, **{place[0]: [*getattr(row, place[0])[:-1], item]})
    else:
        row = structs.replace(row, **{place[0]: at})

    encoded = rows.encode_row(topic, row)

    within = json.loads(encoded)[place[0]]
    text = within[-1][place[1]] if len(place) == 2 else within
    assert FORM.fullmatch(text)
    assert datetime.fromisoformat(text) == at
    assert rows.canonical(encoded) == encoded


@pytest.mark.parametrize(
    "offset", [timedelta(hours=8, minutes=5, seconds=43), timedelta(seconds=1)]
)
def test_an_offset_that_has_no_spelling_is_not_sent_as_another_moment(offset: timedelta) -> None:
    bill: Any = rows.decode_row("fee_bill", msgspec.json.encode(EXAMPLES["fee_bill"]))
    odd = structs.replace(bill, issued_at=datetime(2026, 3, 2, 9, tzinfo=timezone(offset)))

    with pytest.raises(rows.BadRow, match="whole minutes"):
        rows.encode_row("fee_bill", odd)
