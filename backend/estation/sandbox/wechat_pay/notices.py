"""Notices as WeChat Pay sends them: AES-256-GCM inside, a fresh signature on every delivery."""

import base64
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.sandbox import shangmi, world
from estation.sandbox.clocks import TwoClocks, rfc3339
from estation.sandbox.faults import Fault
from estation.sandbox.keys import KeyRing
from estation.sandbox.notifier import Outgoing
from estation.sandbox.store import Row, Store
from estation.sandbox.wechat_pay.modes import algorithm, notice_signer
from estation.sandbox.wechat_pay.protocol import signature_headers

_MINUTE, _HOUR = 60, 3600
_SUMMARIES = {
    "TRANSACTION.SUCCESS": "支付成功",
    "REFUND.SUCCESS": "退款成功",
    "REFUND.ABNORMAL": "退款异常",
    "REFUND.CLOSED": "退款关闭",
}


class WechatNotices:
    gaps = (
        *(15, 15, 30, 3 * _MINUTE, 10 * _MINUTE, 20 * _MINUTE),
        *(30 * _MINUTE, 30 * _MINUTE, 30 * _MINUTE, 60 * _MINUTE),
        *(3 * _HOUR, 3 * _HOUR, 3 * _HOUR, 6 * _HOUR, 6 * _HOUR),
    )

    def __init__(self, store: Store, keys: KeyRing, clocks: TwoClocks) -> None:
        self._store = store
        self._keys = keys
        self._clocks = clocks

    def is_accepted(self, status: int, reply: bytes) -> bool:
        """Only the status counts: a 200 whose body says FAIL is a success."""
        return status in {200, 204}

    def compose(self, notice: Row, fault: Fault | None) -> Outgoing:
        plaintext = json.loads(notice["plaintext"])
        if fault is not None and fault.kind == "alter":
            plaintext = altered(plaintext, fault)
        body = self._body(notice, plaintext)
        headers = signature_headers(
            body,
            notice_signer(self._store, self._keys, notice["id"]),
            real_seconds=int(self._clocks.real().timestamp()),
            fault=fault,
        )
        if fault is not None and fault.kind == "tampered":
            body = body.replace(b'"summary": "', b'"summary": "!', 1)
        return Outgoing(
            {
                **headers,
                "Content-Type": "application/json",
                "Accept": "*/*",
                "User-Agent": "Mozilla/4.0",
            },
            body,
        )

    def _body(self, notice: Row, plaintext: dict[str, Any]) -> bytes:
        # What is told of a combined order is sealed for the combining merchant.
        receiver = world.merchant(notice["account"]) or world.COLLECTING
        kind = "refund" if notice["event"].startswith("REFUND") else "transaction"
        return json.dumps(
            {
                "id": notice["id"],
                "create_time": rfc3339(notice["created_at"]),
                "resource_type": "encrypt-resource",
                "event_type": notice["event"],
                "summary": _SUMMARIES.get(notice["event"], "通知"),
                "resource": {
                    "original_type": kind,
                    **seal(
                        self._keys.api_v3_key(receiver),
                        plaintext,
                        associated_data=kind,
                        in_sm=algorithm(self._store) == "sm2",
                    ),
                },
            },
            ensure_ascii=False,
        ).encode()


def seal(
    key: bytes, content: dict[str, Any] | str, *, associated_data: str, in_sm: bool = False
) -> dict[str, str]:
    """AEAD_AES_256_GCM (or SM4) as in notices and certificates: nonce of 12 characters, tag at
    the end."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    nonce = secrets.token_hex(6)
    parts = nonce.encode(), text.encode(), associated_data.encode()
    sealed = shangmi.sm4_seal(key, *parts) if in_sm else AESGCM(key).encrypt(*parts)
    return {
        "algorithm": shangmi.SEALING if in_sm else "AEAD_AES_256_GCM",
        "ciphertext": base64.b64encode(sealed).decode(),
        "associated_data": associated_data,
        "nonce": nonce,
    }


def altered(values: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """A lie as ordered: `fields` laid over the truth; with `known_only` nothing new is added."""
    return merged(
        values,
        fault.options.get("fields", {}),
        known_only=bool(fault.options.get("known_only")),
    )


def merged(
    values: dict[str, Any], changes: dict[str, Any], *, known_only: bool = False
) -> dict[str, Any]:
    """`changes` laid over `values`, objects inside objects too, and over each object of a list
    of objects (the sub-orders of a combined order)."""
    result = dict(values)
    for name, change in changes.items():
        old = result.get(name)
        if known_only and name not in result:
            continue
        if isinstance(change, dict) and isinstance(old, dict):
            result[name] = merged(old, change, known_only=known_only)
        elif isinstance(change, dict) and isinstance(old, list):
            result[name] = [
                merged(one, change, known_only=known_only) for one in old if isinstance(one, dict)
            ]
        else:
            result[name] = change
    return result
