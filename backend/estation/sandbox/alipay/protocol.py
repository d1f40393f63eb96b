"""Who is asking the gateway, and how its answers are signed (RSA2, public-key mode)."""

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

from estation.sandbox import world
from estation.sandbox.credentials import KeyRing
from estation.sandbox.faults import Fault
from estation.shared.clock import BEIJING

TOLERANCE = timedelta(minutes=15)
"""Alipay refuses a timestamp far off without publishing how far; this is our figure."""
CHARSETS = {"utf-8": "utf-8", "gbk": "gb18030", "gb2312": "gb18030"}
MAX_PARAMETERS = 64


class GatewayError(Exception):
    """The gateway could not even hand the call on: `error_response`, unsigned."""

    def __init__(self, code: str, sub_code: str, sub_msg: str) -> None:
        super().__init__(sub_code)
        self.content = {
            "code": code,
            "msg": "Missing Required Arguments" if code == "40001" else "Invalid Arguments",
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
        msg = {"40004": "Business Failed", "20000": "Service Currently Unavailable"}
        return {
            "code": self.code,
            "msg": msg.get(self.code, "Invalid Arguments"),
            "sub_code": self.sub_code,
            "sub_msg": self.sub_msg,
        }


@dataclass(frozen=True, slots=True)
class Call:
    """One verified call."""

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
    _check_common(parameters, real_now)
    _check_signature(parameters, coding, keys)
    return Call(parameters["method"], charset, parameters, _biz(parameters))


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


def _check_common(parameters: Mapping[str, str], real_now: datetime) -> None:
    for name in ("app_id", "method", "sign", "sign_type", "timestamp", "version"):
        if not parameters.get(name):
            word = "signature" if name == "sign" else name.replace("_", "-")
            word = "signature-type" if name == "sign_type" else word
            raise GatewayError("40001", f"isv.missing-{word}", f"缺少{name}参数")
    if parameters["app_id"] != world.ALIPAY_APP_ID:
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


def sign_text(parameters: Mapping[str, str], *, without: frozenset[str]) -> str:
    """Non-empty parameters, keys in byte order, k=v joined by &, values as they are."""
    return "&".join(
        f"{name}={value}"
        for name, value in sorted(parameters.items())
        if value and name not in without
    )


def _check_signature(parameters: Mapping[str, str], coding: str, keys: KeyRing) -> None:
    message = sign_text(parameters, without=frozenset({"sign"})).encode(coding)
    try:
        raw = base64.b64decode(parameters["sign"], validate=True)
        public = keys.private("alipay_merchant").public_key()
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


def sign(keys: KeyRing, message: bytes, *, by: str = "alipay_platform") -> str:
    raw = keys.private(by).sign(message, padding.PKCS1v15(), hashes.SHA256())
    return base64.b64encode(raw).decode()


def answer(
    method: str, content: Mapping[str, Any], charset: str, keys: KeyRing, fault: Fault | None
) -> bytes:
    """`{"<method>_response":…,"sign":…}`; signed over the exact bytes between them."""
    coding = CHARSETS[charset]
    # The real gateway escapes slashes: whoever re-dumps the JSON gets other bytes.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("/", "\\/")
    inner = text.encode(coding)
    key = method.replace(".", "_") + "_response"
    kind = fault.kind if fault else ""
    if kind == "missing_signature":
        return b'{"%s":%s}' % (key.encode(), inner)
    by = "stranger" if kind == "other_key" else "alipay_platform"
    return b'{"%s":%s,"sign":"%s"}' % (key.encode(), inner, sign(keys, inner, by=by).encode())


def error_answer(error: GatewayError) -> bytes:
    return json.dumps({"error_response": error.content}, ensure_ascii=False).encode()


def new_number(now: datetime, prefix: str = "22001400") -> str:
    """A trade number as Alipay's: 28 digits beginning with the Beijing date."""
    day = now.astimezone(BEIJING).strftime("%Y%m%d")
    return f"{day}{prefix}{secrets.randbelow(10**12):012d}"
