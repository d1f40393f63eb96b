"""Who is asking, and how answers are signed (APIv3 signature rules)."""

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from estation.sandbox import shangmi, world
from estation.sandbox.faults import Fault
from estation.sandbox.keys import KeyRing
from estation.sandbox.wechat_pay.modes import SCHEME, Signer

TOLERANCE_SECONDS = 300
PREFIX = "/wechat-pay"
"""Stands for the host: a merchant's base address ends here, the signed path begins after it."""


class PayError(Exception):
    """A refusal as APIv3 prints it."""

    def __init__(
        self, status: int, code: str, message: str, detail: dict[str, Any] | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail

    def body(self) -> bytes:
        answer: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            answer["detail"] = self.detail
        return json.dumps(answer, ensure_ascii=False).encode()


def bad_field(pointer: str, value: Any, issue: str, location: str = "body") -> PayError:
    """400 PARAM_ERROR naming the field by JSON pointer."""
    return PayError(
        400,
        "PARAM_ERROR",
        f"输入源“{pointer}”{issue}",
        {"field": pointer, "value": value, "issue": issue, "location": location},
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came over the wire."""

    method: str
    target: str
    body: bytes
    authorization: str


_PART = re.compile(r'(\w+)="([^"]*)"')
_PARTS = {"mchid", "nonce_str", "signature", "timestamp", "serial_no"}


def is_in_sm(authorization: str) -> bool:
    """Whether the commercial cryptography is asked for, and there is any."""
    return authorization.startswith(f"{shangmi.SCHEME} ") and shangmi.is_available()


def check_authorization(asked: Asked, keys: KeyRing, *, real_seconds: float) -> world.Merchant:
    """The merchant who signed exactly these bytes. Raises PayError 401 SIGN_ERROR."""
    parts = _parse(asked.authorization)
    merchant = world.merchant(parts["mchid"])
    if merchant is None:
        raise PayError(401, "SIGN_ERROR", "商户号与签名不匹配，请检查 mchid 与证书")
    in_sm = is_in_sm(asked.authorization)
    if parts["serial_no"] != (merchant.sm_serial if in_sm else merchant.serial):
        raise PayError(401, "SIGN_ERROR", "商户证书序列号有误。请使用商户 API 证书的序列号")
    if not re.fullmatch(r"[1-9][0-9]{9}", parts["timestamp"]) or (
        abs(real_seconds - int(parts["timestamp"])) > TOLERANCE_SECONDS
    ):
        raise PayError(
            401, "SIGN_ERROR", "Http头Authorization中的timestamp与发起请求的时间不得超过5分钟"
        )
    if in_sm:
        verified = shangmi.merchant_key(keys.folder, merchant).verified
    else:
        verified = partial(_verified, keys.private(merchant.key_name).public_key())
    messages = [
        _message(asked.method, target, parts, asked.body) for target in _targets(asked.target)
    ]
    if not any(verified(message, parts["signature"]) for message in messages):
        raise _not_matching(asked, messages[-1])
    return merchant


def _parse(authorization: str) -> dict[str, str]:
    scheme, _, rest = authorization.partition(" ")
    found = _PART.findall(rest)
    parts = dict(found)
    if (
        not (scheme == SCHEME or is_in_sm(authorization))
        or len(found) != len(parts)
        or set(parts) != _PARTS
    ):
        raise PayError(
            401,
            "SIGN_ERROR",
            "Http头缺少Authorization，或格式不是“认证类型 签名信息”",
        )
    if _PART.sub("", rest).replace(",", "").strip() or not 1 <= len(parts["nonce_str"]) <= 32:
        raise PayError(401, "SIGN_ERROR", "Http头Authorization格式有误")
    return parts


def _targets(target: str) -> list[str]:
    """What may be signed: the whole target, or what follows the mount that stands for the host."""
    return [target, target.removeprefix(PREFIX)] if target.startswith(PREFIX) else [target]


def _message(method: str, target: str, parts: dict[str, str], body: bytes) -> bytes:
    head = f"{method}\n{target}\n{parts['timestamp']}\n{parts['nonce_str']}\n"
    return head.encode("latin-1") + body + b"\n"


def _verified(public: rsa.RSAPublicKey, message: bytes, signature: str) -> bool:
    try:
        raw = base64.b64decode(signature, validate=True)
        public.verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def _not_matching(asked: Asked, message: bytes) -> PayError:
    return PayError(
        401,
        "SIGN_ERROR",
        "错误的签名，验签失败",
        {
            "field": "signature",
            "location": "authorization",
            "detail": {"issue": "sign not match"},
            "sign_information": {
                "method": asked.method,
                "url": _targets(asked.target)[-1],
                "truncated_sign_message": message[:200].decode(errors="replace"),
                "sign_message_length": len(message),
            },
        },
    )


def signature_headers(
    body: bytes, signer: Signer, *, real_seconds: int, fault: Fault | None
) -> dict[str, str]:
    """The four headers (five with the type) over `body`, true or spoilt as `fault` orders."""
    kind = fault.kind if fault else ""
    serial, sign = signer.serial, signer.sign
    if kind in {"stale", "future"} and fault is not None:
        real_seconds += int(fault.seconds(400)) * (-1 if kind == "stale" else 1)
    if kind == "unknown_serial":
        serial = secrets.token_hex(20).upper() if signer.is_certificate else "PUB_KEY_ID_0199999999"
    if kind in {"unknown_serial", "other_key"}:
        sign = signer.strange
    nonce = secrets.token_hex(16)
    signature = sign(f"{real_seconds}\n{nonce}\n".encode() + body + b"\n")
    if kind == "signtest":
        signature = _signtest()
    headers = {
        "Wechatpay-Timestamp": str(real_seconds),
        "Wechatpay-Nonce": nonce,
        "Wechatpay-Signature": signature,
        "Wechatpay-Serial": serial,
        "Wechatpay-Signature-Type": signer.scheme,
    }
    if kind == "missing_signature":
        del headers["Wechatpay-Signature"]
    return headers


def _signtest() -> str:
    """353 characters as in a real probe, so that strict base64 decoders raise."""
    return "WECHATPAY/SIGNTEST/" + base64.b64encode(secrets.token_bytes(252)).decode()[:334]
