"""Amounts in capitals as receipts write them."""

import pytest

from estation.shared.money import capital_yuan


@pytest.mark.parametrize(
    ("fen", "text"),
    [
        (0, "零元整"),
        (1, "壹分"),
        (50, "伍角整"),
        (100, "壹元整"),
        (105, "壹元零伍分"),
        (817524, "捌仟壹佰柒拾伍元贰角肆分"),
        (1_200_000, "壹万贰仟元整"),
        (1_000_500, "壹万零伍元整"),
        (10_000_000, "壹拾万元整"),
        (10_050_000, "壹拾万零伍佰元整"),
        (10_0000_0000_00, "壹拾亿元整"),
        (1_0000_0001_00, "壹亿零壹元整"),
        (123_456_789_012, "壹拾贰亿叁仟肆佰伍拾陆万柒仟捌佰玖拾元壹角贰分"),
        (100_700_000_00, "壹亿零柒拾万元整"),
    ],
)
def test_an_amount_is_written_in_capitals_exactly(fen: int, text: str) -> None:
    assert capital_yuan(fen) == text


def test_a_negative_amount_has_no_capitals() -> None:
    with pytest.raises(ValueError, match="capitals"):
        capital_yuan(-1)
