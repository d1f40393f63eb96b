"""Sharing whole fen: exact to the last one, fair within one, the same every time."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estation.shared.fields import MAX_FEN
from estation.shared.money import share_out


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (100, [1, 1, 1], [34, 33, 33]),
        (2, [1, 1, 1], [1, 1, 0]),
        (10, [817_524, 8_000], [10, 0]),
        (4953, [817_524, 8_000], [4905, 48]),
        (0, [5, 7], [0, 0]),
        (7, [0, 3, 0], [0, 7, 0]),
        (1, [2, 3, 3], [0, 1, 0]),
        (5, [1], [5]),
        (0, [], []),
        (0, [0, 0], [0, 0]),
    ],
)
def test_the_largest_fractions_get_the_fen_that_are_left(
    total: int, weights: list[int], shares: list[int]
) -> None:
    assert share_out(total, weights) == shares


@pytest.mark.parametrize(
    ("total", "weights", "why"),
    [
        (-1, [1], "neither amount nor weights may be below zero"),
        (1, [-1, 2], "neither amount nor weights may be below zero"),
        (1, [], "nobody to share with"),
        (1, [0, 0], "nobody to share with"),
    ],
)
def test_what_cannot_be_shared_is_refused(total: int, weights: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=f"^{why}$"):
        share_out(total, weights)


WEIGHTS = st.lists(st.integers(0, MAX_FEN), min_size=1, max_size=50).filter(any)


@settings(max_examples=2000, deadline=None)
@given(total=st.integers(0, MAX_FEN), weights=WEIGHTS)
def test_the_shares_add_up_and_each_is_the_exact_share_rounded_up_or_down(
    total: int, weights: list[int]
) -> None:
    shares = share_out(total, weights)

    whole = sum(weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(total * weight, whole)) < 1
        assert share == 0 or weight > 0
    for one, his in zip(weights, shares, strict=True):
        for other, hers in zip(weights, shares, strict=True):
            # Nobody with less weight gets more; nobody gets a fen that a larger fraction missed.
            assert not (one < other and his > hers)
            fraction, larger = Fraction(total * one, whole) % 1, Fraction(total * other, whole) % 1
            got, missed = his > total * one // whole, hers == total * other // whole
            assert not (got and missed and fraction < larger)


@settings(max_examples=300, deadline=None)
@given(total=st.integers(0, MAX_FEN), weights=WEIGHTS, factor=st.integers(1, 1000))
def test_only_the_ratio_of_the_weights_counts(total: int, weights: list[int], factor: int) -> None:
    assert share_out(total, [weight * factor for weight in weights]) == share_out(total, weights)
