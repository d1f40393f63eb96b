"""Random splits: what they promise holds, and one that breaks it is found."""

import pytest

from estation.payments import splitting
from estation.payments.refund_rules import TAKING_ORDER, Share, take_in_order
from estation.simulation import splits


def test_random_splits_are_exact_there_and_back() -> None:
    refunds = splits.run(count=2_000, seed=1)

    assert refunds > 2_000
    assert {*TAKING_ORDER} < {*splits.PAYEES}, "also payees that the order does not name"


def test_the_same_seed_splits_the_same() -> None:
    told: list[int] = []

    assert splits.run(count=1_000, seed=5, told=told.append) == splits.run(count=1_000, seed=5)
    assert sum(told) == 1_000


def splitting_backwards(total: int, weights: list[int]) -> list[int]:
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    places = sorted(range(len(weights)), key=lambda place: total * weights[place] % whole)
    for place in places[: total - sum(shares)]:
        shares[place] += 1
    return shares


@pytest.mark.parametrize(
    "wrong",
    [
        lambda total, weights: [total, *[0] * (len(weights) - 1)],
        lambda total, weights: [total * weight // sum(weights) for weight in weights],
        splitting_backwards,
    ],
    ids=["all to the first", "fen lost", "the smallest remainder"],
)
def test_a_wrong_share_of_the_fee_is_found(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "share_out", wrong)

    with pytest.raises(splits.NotExact):
        splits.run(count=2_000, seed=1)


def test_a_refund_by_the_order_of_rows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_they_come(amount_fen: int, left: list[Share]) -> list[Share]:
        monkeypatch.setattr("estation.payments.refund_rules._place", lambda share: (0.0, "", ""))
        return take_in_order(amount_fen, left)

    monkeypatch.setattr(splits, "take_in_order", as_they_come)

    with pytest.raises(splits.NotExact, match="another order of rows"):
        splits.run(count=500, seed=1)
