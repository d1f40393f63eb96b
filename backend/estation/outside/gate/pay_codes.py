"""The code on a bill that anybody may pay with: agreed between both sides, like the rows.

`<bill_no>-<check>`: readable, without state, and not to be guessed. The check is 80 bits of
HMAC-SHA-256 over the bill's source and source id, under a key that only the two sides have; it
stays the same for all versions of the bill, so that a printed sheet keeps its worth.
"""

import hmac
import json
import re
from collections.abc import Sequence

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHECK_LETTERS = 16  # of 5 bits each
_CODE = re.compile(rf"([A-Za-z0-9_-]{{1,32}})-([{_ALPHABET}]{{{_CHECK_LETTERS}}})")
_BILL_NO = re.compile(r"[A-Za-z0-9_-]{1,32}")


def pay_code(key: bytes, *, bill_no: str, source: str, source_id: str) -> str | None:
    """The code of a bill; None when its number has characters that no address should carry."""
    if _BILL_NO.fullmatch(bill_no) is None:
        return None
    return f"{bill_no}-{_check(key, source, source_id)}"


def bill_no_of(code: str) -> str | None:
    """The bill number a code names, not yet believed; None when it is no code at all."""
    found = _CODE.fullmatch(code)
    return found[1] if found else None


def is_code_of(keys: Sequence[bytes], code: str, *, source: str, source_id: str) -> bool:
    """Whether this code was made for this bill under one of the keys; compared in constant time.

    Several while the key is being changed: what is printed keeps its worth.
    """
    found = _CODE.fullmatch(code)
    check = found[2] if found else ""
    right = [_check(key, source, source_id) for key in keys]
    return any(hmac.compare_digest(check.encode(), one.encode()) for one in right)


def _check(key: bytes, source: str, source_id: str) -> str:
    """JSON separates the two injectively; the first word keeps other uses of the key apart."""
    said = json.dumps(["estation/pay-code/1", source, source_id], ensure_ascii=True).encode()
    bits = int.from_bytes(hmac.digest(key, said, "sha256")[:10], "big")
    return "".join(_ALPHABET[bits >> shift & 31] for shift in range(75, -1, -5))
