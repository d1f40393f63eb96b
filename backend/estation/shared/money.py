"""Money is integer fen inside; this file is the only place that reads and writes yuan text."""

import re
from decimal import Decimal

from estation.shared.errors import InvalidInput

_YUAN = re.compile(r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?")


class NotMoney(InvalidInput):
    code = "not_money"
    message = "金额格式不正确：请填写元，最多两位小数，例如 8175.24。"


def fen_from_yuan(text: str) -> int:
    """Read yuan text such as "8175.24" or "-35.50" as fen, exactly.

    Raises NotMoney for anything else: more than two decimals, exponents, signs other than a
    leading minus, thousands separators, more than 12 integer digits.
    """
    if not _YUAN.fullmatch(text):
        raise NotMoney(text=text[:32])
    return int(Decimal(text) * 100)


def yuan_from_fen(fen: int) -> str:
    """Plain yuan text with two decimals as channels want it: 817524 -> "8175.24"."""
    sign, fen = ("-", -fen) if fen < 0 else ("", fen)
    return f"{sign}{fen // 100}.{fen % 100:02d}"


def display_yuan(fen: int) -> str:
    """For people: 817524 -> "8,175.24"; the sign of the currency is the template's."""
    sign, fen = ("-", -fen) if fen < 0 else ("", fen)
    return f"{sign}{fen // 100:,}.{fen % 100:02d}"
