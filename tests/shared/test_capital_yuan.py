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
        (1_001_00, "壹仟零壹元整"),
        (1_010_00, "壹仟零壹拾元整"),
        (1_100_00, "壹仟壹佰元整"),
        (6_007_14, "陆仟零柒元壹角肆分"),
        (10_101_00, "壹万零壹佰零壹元整"),
        (11_000_00, "壹万壹仟元整"),
        (1_0000_1000_00, "壹亿零壹仟元整"),
        (1_0001_0000_00, "壹亿零壹万元整"),
        (1_0000_0000_0000_00, "壹万亿元整"),
        (10**18 - 1, "玖仟玖佰玖拾玖万亿玖仟玖佰玖拾玖亿玖仟玖佰玖拾玖万玖仟玖佰玖拾玖元玖角玖分"),
    ],
)
def test_an_amount_is_written_in_capitals_exactly(fen: int, text: str) -> None:
    assert capital_yuan(fen) == text


@pytest.mark.parametrize("fen", [-1, 10**18])
def test_an_amount_below_zero_or_beyond_all_names_has_no_capitals(fen: int) -> None:
    with pytest.raises(ValueError, match=f"^no amount in capitals for {fen} fen$"):
        capital_yuan(fen)
