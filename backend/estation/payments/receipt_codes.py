"""The verification code (校验码) of a receipt: whoever holds the paper can have it checked. Pure.

80 bits of HMAC-SHA-256 over what the receipt says, under a key of the online side, in groups of
four letters that nobody confuses when reading them aloud.
"""

import hmac
import json
from datetime import UTC, datetime

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LETTERS = 16  # of 5 bits each
_AS_MEANT = str.maketrans("OIL", "011", " -－—–\t")
"""Crockford's base 32 has no O, I and L: whoever writes them means the digit."""


def receipt_code(
    key: bytes, *, receipt_no: str, payee_code: str, amount_fen: int, paid_at: datetime
) -> str:
    """`7K2M-ZQ0V-9XCB-4T1D`. JSON separates what is said; the first word keeps other uses of a
    key apart."""
    moment = paid_at.astimezone(UTC).isoformat(timespec="microseconds")
    said = ["estation/receipt/1", receipt_no, payee_code, amount_fen, moment]
    mac = hmac.digest(key, json.dumps(said, ensure_ascii=True).encode(), "sha256")
    bits = int.from_bytes(mac[:10], "big")
    letters = "".join(_ALPHABET[bits >> shift & 31] for shift in range(75, -1, -5))
    return "-".join(letters[start : start + 4] for start in range(0, _LETTERS, 4))


def is_same_code(given: str, right: str) -> bool:
    """Whether somebody typed this code, in any case and grouping; compared in constant time."""
    return hmac.compare_digest(_plain(given).encode(errors="replace"), _plain(right).encode())


def _plain(code: str) -> str:
    return code.upper().translate(_AS_MEANT)
