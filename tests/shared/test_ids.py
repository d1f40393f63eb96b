"""Identifiers fit their channels and sort by time."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from estation.shared import ids

NOW = datetime(2026, 3, 1, 16, 30, tzinfo=UTC)  # 2 March in Beijing


def test_trade_numbers_fit_both_channels_and_carry_beijings_date() -> None:
    numbers = {ids.trade_number(NOW) for _ in range(1000)}

    assert len(numbers) == 1000
    assert all(re.fullmatch(r"20260302[0-9A-HJKMNP-TV-Z]{16}", number) for number in numbers)


def test_row_ids_sort_by_time_and_say_their_version() -> None:
    earlier, later = ids.row_id(NOW), ids.row_id(NOW + timedelta(milliseconds=1))

    assert earlier < later
    assert earlier.version == 7
    assert earlier.variant == "specified in RFC 4122"


def test_no_id_of_a_moment_is_smaller_than_its_bound() -> None:
    moment = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

    assert ids.earliest_id(moment) < ids.row_id(moment)
    assert ids.row_id(moment - timedelta(milliseconds=1)) < ids.earliest_id(moment)


def test_many_row_ids_at_once_are_like_single_ones_and_all_different() -> None:
    texts = ids.row_id_texts(NOW, 5000)
    many = [UUID(text) for text in texts]

    assert [str(one) for one in many] == texts
    assert len(set(many)) == 5000
    assert {one.version for one in many} == {7}
    assert {one.variant for one in many} == {"specified in RFC 4122"}
    assert {one.int >> 80 for one in many} == {ids.row_id(NOW).int >> 80}
    for place in range(80):
        if place not in (62, 63, *range(76, 80)):
            ones = sum(one.int >> place & 1 for one in many)
            assert 2000 < ones < 3000, place


def test_no_row_ids_are_an_empty_list() -> None:
    assert ids.row_id_texts(NOW, 0) == []
