"""Signatures of Alipay's gateway: what we sign, and which bytes of an answer theirs covers.

Source: Alipay open platform, 自行实现签名 / 自行实现验签.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from estation.outside.pay_channels.alipay.keys import AlipayKeys, Own
from estation.outside.pay_channels.believing import Disbelief, verify
from estation.shared.crypto import Vault
from estation.shared.key_files import WatchedKey

SIGN_TYPE = "RSA2"
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\],"]', re.DOTALL)
_KEY = re.compile(rb'\s*("(?:[^"\\]|\\.)*+")\s*:\s*', re.DOTALL)
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Application:
    """Who we are at Alipay."""

    account_id: str
    app_id: str
    seller_id: str
    gateway_url: str
    bill_hosts: frozenset[str]
    own: WatchedKey[Own] = field(repr=False)
    alipay: AlipayKeys = field(repr=False)
    vault: Vault = field(repr=False)  # seals what names payers in what Alipay says


def sign_text(parameters: Mapping[str, str]) -> bytes:
    """What a request's signature covers: sorted, non-empty, not url-encoded, with sign_type."""
    kept = sorted((k, v) for k, v in parameters.items() if k != "sign" and v)
    return "&".join(f"{k}={v}" for k, v in kept).encode()


def verify_by_one(keys: tuple[RSAPublicKey, ...], message: bytes, signature: str | bytes) -> None:
    """Raises Disbelief: unknown_serial when there is no key, bad_signature when none fits."""
    if not keys:
        raise Disbelief("unknown_serial")
    for key in keys[:-1]:
        try:
            return verify(key, message, signature)
        except Disbelief:
            continue
    return verify(keys[-1], message, signature)


def serial_beside(spans: Mapping[str, bytes]) -> str:
    """The number of Alipay's certificate beside an answer; "" in key mode."""
    return _text(spans.get("alipay_cert_sn"))


def believed_node(
    keys: tuple[RSAPublicKey, ...], node_name: str, spans: Mapping[str, bytes]
) -> dict[str, Any]:
    """The answer under `node_name` among an answer's `top_level` spans, its signature verified
    over exactly the received bytes.

    Raises Disbelief: malformed, unsigned (no such node, or no sign beside it), unknown_serial
    (no key), bad_signature.
    """
    node, signature = spans.get(node_name), _text(spans.get("sign"))
    if node is None or not signature:
        raise Disbelief("unsigned")
    return node_of(_verified(keys, node, signature))


def node_of(raw: bytes) -> dict[str, Any]:
    """Raises Disbelief("malformed")."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Disbelief("malformed", "JSON") from None
    if not isinstance(value, dict):
        raise Disbelief("malformed", "no object")
    return value


def _verified(keys: tuple[RSAPublicKey, ...], node: bytes, signature: str) -> bytes:
    """Alipay signs some answers before it escapes their slashes; what verified is what we read."""
    try:
        verify_by_one(keys, node, signature)
        return node
    except Disbelief:
        if rb"\/" not in node:
            raise
    unescaped = node.replace(rb"\/", b"/")
    verify_by_one(keys, unescaped, signature)
    return unescaped


def top_level(body: bytes) -> dict[str, bytes]:
    """The values of a JSON object as the raw bytes they came in.

    Braces inside strings do not count. Raises Disbelief("malformed"), also for a name that
    stands twice: two readers could see two different answers.
    """
    start = body.find(b"{")
    if start < 0 or body[:start].strip():
        raise Disbelief("malformed", "no object")
    spans: dict[str, bytes] = {}
    position = start + 1
    while True:
        key = _KEY.match(body, position)
        if key is None:
            raise Disbelief("malformed", "name")
        end, last = _value_end(body, key.end())
        name = _text(key[1])
        if name in spans:
            raise Disbelief("malformed", "name twice")
        spans[name] = body[key.end() : end].rstrip()
        if last:
            break
        position = end + 1
    if body[end + 1 :].strip():
        raise Disbelief("malformed", "text after the object")
    return spans


def _value_end(body: bytes, position: int) -> tuple[int, bool]:
    """Where the value ends (the place of its comma or closing brace), and whether it is last."""
    depth = 0
    for token in _TOKEN.finditer(body, position):
        match token[0]:
            case b"{" | b"[":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise Disbelief("malformed", "too deep")
            case b"}" if depth == 0:
                return token.start(), True
            case b"," if depth == 0:
                return token.start(), False
            case b"}" | b"]":
                depth -= 1
                if depth < 0:
                    break
            case b'"':
                break  # A string that never ends.
    raise Disbelief("malformed", "no end")


def _text(raw: bytes | None) -> str:
    if raw is None:
        return ""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Disbelief("malformed", "text") from None
    return value if isinstance(value, str) else ""
