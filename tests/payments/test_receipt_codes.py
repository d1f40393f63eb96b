"""A receipt's verification code: made of what the paper says, and of nothing anybody can guess."""

import base64
import hmac
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from estation.payments.receipt_codes import is_same_code, receipt_code

KEY = bytes(range(32))
PAID_AT = datetime(2026, 5, 6, 6, 17, 20, 123456, tzinfo=UTC)
SAID: dict[str, Any] = {
    "receipt_no": "20260506QWB7D3FTH9K2MZX4-01",
    "payee_code": "treasury",
    "amount_fen": 809_524,
    "paid_at": PAID_AT,
}


def test_the_code_is_eighty_bits_of_the_published_mac() -> None:
    """By another way: Python's own base 32 of the first ten bytes, its letters exchanged."""
    said = (
        b'["estation/receipt/1", "20260506QWB7D3FTH9K2MZX4-01", "treasury", 809524,'
        b' "2026-05-06T06:17:20.123456+00:00"]'
    )
    mac = hmac.digest(KEY, said, "sha256")
    rfc, crockford = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    expected = base64.b32encode(mac[:10]).decode().translate(str.maketrans(rfc, crockford))

    code = receipt_code(KEY, **SAID)

    assert code.replace("-", "") == expected
    assert re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", code)


@pytest.mark.parametrize(
    "change",
    [
        {"receipt_no": "20260506QWB7D3FTH9K2MZX4-02"},
        {"payee_code": "non_tax"},
        {"amount_fen": 809_525},
        {"paid_at": PAID_AT + timedelta(microseconds=1)},
    ],
)
def test_a_paper_that_says_something_else_has_another_code(change: dict[str, Any]) -> None:
    assert receipt_code(KEY, **{**SAID, **change}) != receipt_code(KEY, **SAID)


def test_another_key_makes_another_code_and_another_time_zone_the_same() -> None:
    in_beijing = PAID_AT.astimezone(timezone(timedelta(hours=8)))

    assert receipt_code(bytes(32), **SAID) != receipt_code(KEY, **SAID)
    assert receipt_code(KEY, **{**SAID, "paid_at": in_beijing}) == receipt_code(KEY, **SAID)


@pytest.mark.parametrize(
    ("given", "is_right"),
    [
        ("7K2M-ZQ01-9XCB-4T1D", True),
        ("7k2mzq019xcb4t1d", True),
        ("7K2M ZQOI 9XCB 4TLD", True),
        ("7K2M-ZQ01-9XCB-4T1", False),
        ("7K2M-ZQ01-9XCB-4T1D0", False),
        ("", False),
        ("七K2M-ZQ01-9XCB-4T1D", False),
        ("\ud800", False),
    ],
)
def test_a_code_is_read_as_people_type_it(given: str, is_right: bool) -> None:
    assert is_same_code(given, "7K2M-ZQ01-9XCB-4T1D") is is_right
