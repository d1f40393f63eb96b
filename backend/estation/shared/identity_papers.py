"""Numbers on the papers that name people and organisations: what both sides of the gate take.

The internal platform issues what it lets in here, and the online side checks the same again: a
number that only one of them accepted would stop the gate. Strictly ASCII, capitals. Pure.
"""

import re
from datetime import date

from stdnum.cn import ric, uscc

RESIDENT_CARD = "1"
CREDIT_CODE = "8"
"""Code table zjzl; 8 (统一社会信用代码) is the deployed extension of it."""

_CARD = re.compile(r"[1-9][0-9]{16}[0-9X]")
_CREDIT_CODE = re.compile(r"[0-9A-HJ-NP-RTUW-Y]{18}")
_OTHER_PAPER = re.compile(r"[0-9A-Z][0-9A-Z()/-]{4,31}")
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)


def valid_paper(id_type: str, id_no: str, *, today: date) -> bool:
    """Resident cards and credit codes by their check digits, other papers by their form."""
    if id_type == RESIDENT_CARD:
        return valid_card(id_no, today=today)
    if id_type == CREDIT_CODE:
        return valid_credit_code(id_no)
    return _OTHER_PAPER.fullmatch(id_no) is not None


def valid_card(id_no: str, *, today: date) -> bool:
    """A resident identity number (GB 11643): form, birth date not in the future, check digit.

    The six-digit place need not be a current GB/T 2260 code: old cards carry old places.
    """
    if not _CARD.fullmatch(id_no) or card_check_digit(id_no[:17]) != id_no[17]:
        return False
    try:
        return date(int(id_no[6:10]), int(id_no[10:12]), int(id_no[12:14])) <= today
    except ValueError:
        return False


def valid_credit_code(code: str) -> bool:
    """A unified social credit code with both of its check digits."""
    return (
        _CREDIT_CODE.fullmatch(code) is not None
        and organisation_check_digit(code[8:16]) == code[16]
        and credit_code_check_digit(code[:17]) == code[17]
    )


def card_check_digit(first_17: str) -> str:
    """GB 11643-1999."""
    return str(ric.calc_check_digit(f"{first_17}0"))


def organisation_check_digit(first_8: str) -> str:
    """GB 11714, the ninth character of an organisation code."""
    values = [int(char, 36) for char in first_8]
    total = sum(v * weight for v, weight in zip(values, _ORGANISATION_WEIGHTS, strict=True))
    check = 11 - total % 11
    return {10: "X", 11: "0"}.get(check, str(check))


def credit_code_check_digit(first_17: str) -> str:
    """GB 32100-2015."""
    return str(uscc.calc_check_digit(first_17))
