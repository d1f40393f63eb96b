"""Numbers that name people, organisations and units: their form and check digits."""

import re
from datetime import date

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_USCC_DIGITS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_WEIGHTS = (1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28)
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)
_UNIT_CODE = re.compile(r"\d{12}[GJZ][ABCDEFGHLNSWXY]\d{5}(?:[FLQ]\d{8}|W0{8})")

RESIDENT_CARD = "1"
CREDIT_CODE = "8"
"""Code table zjzl; 8 (统一社会信用代码) is the deployed extension of it."""


def id_check_digit(first_17: str) -> str:
    """GB 11643-1999."""
    total = sum(int(d) * weight for d, weight in zip(first_17, _ID_WEIGHTS, strict=True))
    return _ID_CHECKS[total % 11]


def valid_id_no(text: str, *, today: date) -> bool:
    """A resident identity number: form, birth date not in the future, check digit."""
    if not re.fullmatch(r"[1-9]\d{16}[\dX]", text):
        return False
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    return born <= today and id_check_digit(text[:17]) == text[17]


def organisation_check_digit(first_8: str) -> str:
    """GB 11714, the ninth character of an organisation code."""
    values = [_value36(char) for char in first_8]
    total = sum(v * weight for v, weight in zip(values, _ORGANISATION_WEIGHTS, strict=True))
    check = 11 - total % 11
    return {10: "X", 11: "0"}.get(check, str(check))


def credit_code_check_digit(first_17: str) -> str:
    """GB 32100-2015."""
    values = [_USCC_DIGITS.index(char) for char in first_17]
    total = sum(v * weight for v, weight in zip(values, _USCC_WEIGHTS, strict=True))
    return _USCC_DIGITS[(31 - total % 31) % 31]


def valid_credit_code(text: str) -> bool:
    """A unified social credit code with both of its check digits."""
    return (
        len(text) == 18
        and all(char in _USCC_DIGITS for char in text)
        and organisation_check_digit(text[8:16]) == text[16]
        and credit_code_check_digit(text[:17]) == text[17]
    )


def valid_unit_code(text: str) -> bool:
    """GB/T 37346-2019; the code has no check digit."""
    return _UNIT_CODE.fullmatch(text) is not None


def valid_document(id_type: str, id_no: str, *, today: date) -> bool:
    """Resident cards and credit codes by their check digits, others only by their length."""
    if id_type == RESIDENT_CARD:
        return valid_id_no(id_no, today=today)
    if id_type == CREDIT_CODE:
        return valid_credit_code(id_no)
    return 5 <= len(id_no) <= 32


def _value36(char: str) -> int:
    return int(char) if char.isdigit() else ord(char) - ord("A") + 10
