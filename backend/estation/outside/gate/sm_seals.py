"""Seals by SM2 with SM3 (GB/T 32918.2), for sides that must use commercial cryptography."""

import hashlib

from estation.shared import sm2
from estation.shared.sm2 import Sm2Pair

_ENCODING_BYTES = 72


class Sm2Seal:
    """The signature is the DER of (r, s) (GM/T 0009), the signer's id the standard's default;
    `key_id` is the first 16 hex digits of SHA-256 over 0x04 and the public point."""

    algorithm = "sm2-sm3"

    def __init__(self, pair: Sm2Pair) -> None:
        self._pair = pair
        self.key_id = _key_id(pair.point)

    def sign(self, data: bytes) -> bytes:
        return sm2.sign(self._pair, data)


class Sm2Peer:
    """The public half. Raises SmMissing when made where SM2 is not installed: a packet must not
    be called badly sealed only because we cannot tell."""

    algorithm = "sm2-sm3"

    def __init__(self, point: bytes) -> None:
        sm2.require()
        self._point = point
        self.key_id = _key_id(point)

    def verify(self, data: bytes, signature: bytes) -> bool:
        return is_shortest_der(signature) and sm2.verify(self._point, data, signature)


def is_shortest_der(signature: bytes) -> bool:
    """Whether it is SEQUENCE {INTEGER, INTEGER} in the one form that DER allows: a packet may
    have one spelling only."""
    if not 8 <= len(signature) <= _ENCODING_BYTES:
        return False
    if signature[0] != 0x30 or signature[1] != len(signature) - 2:
        return False
    end_of_r = 4 + signature[3]
    return _is_shortest_integer(signature[2:end_of_r]) and _is_shortest_integer(
        signature[end_of_r:]
    )


def _is_shortest_integer(der: bytes) -> bool:
    if len(der) < 3 or der[0] != 0x02 or der[1] != len(der) - 2 or der[2] >= 0x80:
        return False
    return der[2] != 0 or (len(der) > 3 and der[3] >= 0x80)


def _key_id(point: bytes) -> str:
    return hashlib.sha256(b"\x04" + point).hexdigest()[:16]
