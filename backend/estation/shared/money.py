"""Money is integer fen inside; this file is the only place that reads and writes yuan text."""

import re
from collections.abc import Sequence
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


def share_out(total_fen: int, weights: Sequence[int]) -> list[int]:
    """Split an amount in the ratio of the weights into whole fen that add up exactly.

    Largest remainder (最大余数法): everybody gets the whole fen of their share, and the fen left
    go one each to the largest fractions; of equal fractions the earlier comes first. Raises
    ValueError below zero, or when there is something to share and nobody to get it.
    """
    if total_fen < 0 or any(weight < 0 for weight in weights):
        raise ValueError("neither amount nor weights may be below zero")
    whole = sum(weights)
    if whole == 0:
        if total_fen:
            raise ValueError("nobody to share with")
        return [0] * len(weights)
    shares = [total_fen * weight // whole for weight in weights]
    remainders = [total_fen * weight % whole for weight in weights]
    by_fraction = sorted(range(len(weights)), key=lambda place: -remainders[place])
    for place in by_fraction[: total_fen - sum(shares)]:
        shares[place] += 1
    return shares


_DIGITS = "零壹贰叁肆伍陆柒捌玖"
_PLACES = ("", "拾", "佰", "仟")
_GROUPS = ("", "万", "亿", "万亿")


def capital_yuan(fen: int) -> str:
    """The amount in capitals as receipts write it: 817524 -> "捌仟壹佰柒拾伍元贰角肆分".

    Zero fen end in 整 (1200000 -> "壹万贰仟元整"). Raises ValueError below zero or from
    10^18 fen. Source: 支付结算办法 annex 1, rules 1-4.
    """
    if not 0 <= fen < 10**18:
        raise ValueError(f"no amount in capitals for {fen} fen")
    yuan, jiao, cents = fen // 100, fen // 10 % 10, fen % 10
    text = f"{_capital_integer(yuan)}元" if yuan else ""
    if not jiao and not cents:
        return f"{text or '零元'}整"
    if jiao:
        text += f"{_DIGITS[jiao]}角"
    elif text:
        text += "零"
    return text + (f"{_DIGITS[cents]}分" if cents else "整")


def _capital_integer(number: int) -> str:
    """A positive integer; runs of zeros are read as one 零, trailing zeros not at all."""
    groups = []
    while number:
        number, group = divmod(number, 10_000)
        groups.append(group)
    text = ""
    for index in reversed(range(len(groups))):
        group = groups[index]
        if not group:
            continue
        skipped = index + 1 < len(groups) and (group < 1000 or not groups[index + 1])
        text += ("零" if skipped else "") + _capital_group(group) + _GROUPS[index]
    return text


def _capital_group(group: int) -> str:
    """One to four digits, 1..9999, without leading 零."""
    text, gap = "", False
    for place in (3, 2, 1, 0):
        digit = group // 10**place % 10
        if digit:
            text += ("零" if gap and text else "") + _DIGITS[digit] + _PLACES[place]
            gap = False
        else:
            gap = True
    return text
