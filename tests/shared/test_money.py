"""Yuan text and fen: exact both ways, everything else refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estation.shared.money import NotMoney, display_yuan, fen_from_yuan, yuan_from_fen


@pytest.mark.parametrize(
    ("text", "fen"),
    [("0", 0), ("0.01", 1), ("19.9", 1990), ("8175.24", 817524), ("-35.50", -3550), ("1.00", 100)],
)
def test_yuan_text_is_read_exactly(text: str, fen: int) -> None:
    assert fen_from_yuan(text) == fen


@pytest.mark.parametrize(
    "text",
    [
        "", " 1", "1 ", "1.", ".5", "1.234", "1e3", "NaN", "Infinity", "1,000.00", "+1", "--1",
        "01.00", "¥1", "１.00", "1.0０", "9999999999999", "1\n", "0x10", "1_000",
    ],
)  # fmt: skip
def test_what_is_not_plain_yuan_is_refused(text: str) -> None:
    with pytest.raises(NotMoney):
        fen_from_yuan(text)


def test_a_refusal_repeats_no_more_than_the_beginning_of_what_was_typed() -> None:
    with pytest.raises(NotMoney) as refused:
        fen_from_yuan("8" * 40)

    assert refused.value.details == {"text": "8" * 32}
    assert refused.value.code == "not_money"


@given(st.integers(-(10**13), 10**13))
def test_fen_survive_the_round_trip(fen: int) -> None:
    assert fen_from_yuan(yuan_from_fen(fen)) == fen


def test_people_see_groups_and_two_decimals() -> None:
    assert display_yuan(817524) == "8,175.24"
    assert display_yuan(-123456789) == "-1,234,567.89"
    assert display_yuan(5) == "0.05"


def test_nothing_has_no_sign() -> None:
    assert (yuan_from_fen(0), display_yuan(0)) == ("0.00", "0.00")
