"""Who is asking the gateway, and how its answers are signed (RSA2, key and certificate mode)."""

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from estation.sandbox import certifying, world
from estation.sandbox.faults import Fault
from estation.sandbox.keys import KeyRing, generation_name
from estation.shared.clock import BEIJING

TOLERANCE = timedelta(minutes=15)
"""Alipay refuses a timestamp far off without publishing how far; this is our figure."""
CHARSETS = {"utf-8": "utf-8", "gbk": "gb18030", "gb2312": "gb18030"}
MAX_PARAMETERS = 64


_MSG = {
    "40001": "Missing Required Arguments",
    "40004": "Business Failed",
    "20000": "Service Currently Unavailable",
}


class GatewayError(Exception):
    """The gateway could not even hand the call on: `error_response`, unsigned."""

    def __init__(self, code: str, sub_code: str, sub_msg: str) -> None:
        super().__init__(sub_code)
        self.content = {
            "code": code,
            "msg": _MSG.get(code, "Invalid Arguments"),
            "sub_code": sub_code,
            "sub_msg": sub_msg,
        }


class TradeError(Exception):
    """A business refusal: signed, code 40004."""

    def __init__(self, sub_code: str, sub_msg: str, *, code: str = "40004") -> None:
        super().__init__(sub_code)
        self.code = code
        self.sub_code = sub_code
        self.sub_msg = sub_msg

    def content(self) -> dict[str, str]:
        return {
            "code": self.code,
            "msg": _MSG.get(self.code, "Invalid Arguments"),
            "sub_code": self.sub_code,
            "sub_msg": self.sub_msg,
        }


@dataclass(frozen=True, slots=True)
class Call:
    """One verified call."""

    app: world.AlipayApp
    method: str
    charset: str
    parameters: dict[str, str]
    biz: dict[str, Any]


def read_call(target: str, body: bytes, keys: KeyRing, *, real_now: datetime) -> Call:
    """Decode and verify what came over the wire. Raises GatewayError.

    The body is read in the charset named in the URL query and in GBK when it names none there,
    as the real gateway does.
    """
    query = urlsplit(target).query
    charset = dict(_pairs(query, "latin-1")).get("charset", "gbk").lower()
    if charset not in CHARSETS:
        raise GatewayError("40002", "isv.invalid-charset", "字符集错误")
    coding = CHARSETS[charset]
    parameters = dict(_pairs(query, coding))
    for name, value in _pairs(body.decode("latin-1"), coding):
        if parameters.setdefault(name, value) != value:
            raise GatewayError("40002", "isv.invalid-arguments", f"参数重复：{name}")
    app = _check_common(parameters, real_now)
    if app.with_certificate:
        _check_certificates(parameters, app, keys)
    _check_signature(parameters, coding, app, keys)
    return Call(app, parameters["method"], charset, parameters, _biz(parameters))


def _pairs(text: str, coding: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            text,
            keep_blank_values=True,
            encoding=coding,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except (UnicodeDecodeError, ValueError):
        raise GatewayError("40002", "isv.invalid-arguments", "参数编码与字符集不符") from None


def _check_common(parameters: Mapping[str, str], real_now: datetime) -> world.AlipayApp:
    for name in ("app_id", "method", "sign", "sign_type", "timestamp", "version"):
        if not parameters.get(name):
            word = "signature" if name == "sign" else name.replace("_", "-")
            word = "signature-type" if name == "sign_type" else word
            raise GatewayError("40001", f"isv.missing-{word}", f"缺少{name}参数")
    app = world.alipay_app(parameters["app_id"])
    if app is None:
        raise GatewayError("40002", "isv.invalid-app-id", "无效的AppID参数")
    if parameters["sign_type"] != "RSA2":
        raise GatewayError("40002", "isv.invalid-signature-type", "无效的签名类型")
    if parameters["version"] != "1.0":
        raise GatewayError("40002", "isv.invalid-version", "无效的版本参数")
    if parameters.get("format", "JSON").upper() != "JSON":
        raise GatewayError("40002", "isv.invalid-format", "无效的数据格式")
    try:
        asked = datetime.strptime(f"{parameters['timestamp']}+0800", "%Y-%m-%d %H:%M:%S%z")
        if abs(real_now - asked) > TOLERANCE:
            raise ValueError
    except ValueError:
        raise GatewayError(
            "40002", "isv.invalid-timestamp", "非法的时间戳参数（应为北京时间）"
        ) from None
    return app


def _check_certificates(parameters: Mapping[str, str], app: world.AlipayApp, keys: KeyRing) -> None:
    """Certificate mode: the call names the merchant's certificate and the root it trusts."""
    rightful = {
        "app_cert_sn": certifying.cert_sn(keys.certificate(app.key_name)),
        "alipay_root_cert_sn": certifying.root_cert_sn(keys.certificate_pem("alipay_root")),
    }
    for name, number in rightful.items():
        word = name.replace("_", "-")
        if not parameters.get(name):
            raise GatewayError("40001", f"isv.missing-{word}", f"缺少{name}参数")
        if parameters[name] != number:
            raise GatewayError("40002", f"isv.invalid-{word}", f"{name}与证书不匹配")


def sign_text(parameters: Mapping[str, str], *, without: frozenset[str]) -> str:
    """Non-empty parameters, keys in byte order, k=v joined by &, values as they are."""
    return "&".join(
        f"{name}={value}"
        for name, value in sorted(parameters.items())
        if value and name not in without
    )


def _check_signature(
    parameters: Mapping[str, str], coding: str, app: world.AlipayApp, keys: KeyRing
) -> None:
    message = sign_text(parameters, without=frozenset({"sign"})).encode(coding)
    try:
        raw = base64.b64decode(parameters["sign"], validate=True)
        public = keys.private(app.key_name).public_key()
        public.verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
    except (binascii.Error, ValueError, InvalidSignature):
        raise GatewayError(
            "40002",
            "isv.invalid-signature",
            "验签出错，建议检查签名字符串或签名私钥与应用公钥是否匹配；"
            "请确认charset参数放在了URL查询字符串中且各参数值使用charset参数指示的字符集编码",
        ) from None


def _biz(parameters: Mapping[str, str]) -> dict[str, Any]:
    try:
        biz = json.loads(parameters.get("biz_content", "{}"))
        json.dumps(biz, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        biz = None
    if not isinstance(biz, dict):
        raise GatewayError("40002", "isv.invalid-arguments", "biz_content 应为 JSON 对象")
    return biz


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature, and in certificate mode the number of the certificate it is made with."""

    signature: str
    cert_sn: str


def sign(keys: KeyRing, message: bytes, app: world.AlipayApp, *, purpose: str, kind: str) -> Signed:
    """As `app` is answered or told, spoilt as a fault of this `kind` orders."""
    what = "alipay_certificate" if app.with_certificate else "alipay_key"
    name = generation_name(what, keys.signer(what, purpose))
    cert_sn = certifying.cert_sn(keys.certificate(name)) if app.with_certificate else ""
    if kind == "unknown_serial" and cert_sn:
        cert_sn = secrets.token_hex(16)
    by = "stranger" if kind in {"other_key", "unknown_serial"} else name
    raw = keys.private(by).sign(message, padding.PKCS1v15(), hashes.SHA256())
    return Signed(base64.b64encode(raw).decode(), cert_sn)


def answer(call: Call, content: Mapping[str, Any], keys: KeyRing, fault: Fault | None) -> bytes:
    """`{"<method>_response":…,"sign":…}`; signed over the exact bytes between them. In
    certificate mode the certificate's number stands before the signature."""
    # The real gateway escapes slashes: whoever re-dumps the JSON gets other bytes.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("/", "\\/")
    inner = text.encode(CHARSETS[call.charset])
    key = call.method.replace(".", "_") + "_response"
    kind = fault.kind if fault else ""
    if kind == "missing_signature":
        return b'{"%s":%s}' % (key.encode(), inner)
    made = sign(keys, inner, call.app, purpose="answers", kind=kind)
    number = f',"alipay_cert_sn":"{made.cert_sn}"' if made.cert_sn else ""
    return b'{"%s":%s%s,"sign":"%s"}' % (
        key.encode(),
        inner,
        number.encode(),
        made.signature.encode(),
    )


def error_answer(error: GatewayError, coding: str = "utf-8") -> bytes:
    return json.dumps({"error_response": error.content}, ensure_ascii=False).encode(coding)


def altered(values: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
    """A lie as ordered: `fields` laid over the truth; with `known_only` nothing new is added."""
    fields = fault.options.get("fields", {})
    known_only = bool(fault.options.get("known_only"))
    changes = {k: v for k, v in fields.items() if k in values or not known_only}
    return {**values, **changes}


def new_number(now: datetime, prefix: str = "22001400") -> str:
    """A trade number as Alipay's: 28 digits beginning with the Beijing date."""
    day = now.astimezone(BEIJING).strftime("%Y%m%d")
    return f"{day}{prefix}{secrets.randbelow(10**12):012d}"
