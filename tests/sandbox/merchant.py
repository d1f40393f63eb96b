"""A merchant written for these tests from the published protocols, byte by byte."""

import base64
import functools
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509 import load_pem_x509_certificate
from yarl import URL

from estation.shared.clock import BEIJING
from tests.sandbox.running import RunningSandbox


def rsa_sign(pem: str, message: bytes) -> str:
    return base64.b64encode(
        _private(pem).sign(message, padding.PKCS1v15(), hashes.SHA256())
    ).decode()


@functools.cache
def _private(pem: str) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(
        pem.encode(), password=None, unsafe_skip_rsa_key_validation=True
    )
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def is_signed(public_pem: str, message: bytes, signature: str) -> bool:
    if "CERTIFICATE" in public_pem:
        key = load_pem_x509_certificate(public_pem.encode()).public_key()
    else:
        key = serialization.load_pem_public_key(public_pem.encode())
    assert isinstance(key, rsa.RSAPublicKey)
    try:
        raw = base64.b64decode(signature)
        key.verify(raw, message, padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InvalidSignature):
        return False
    return True


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # lower-case names
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


@dataclass
class WechatMerchant:
    """Signs as merchants must; every call may change one part to be refused for it."""

    sandbox: RunningSandbox
    changes: dict[str, str] = field(default_factory=dict)
    """What to put instead: scheme, mchid, serial_no, timestamp, nonce_str, signature, key."""
    headers: dict[str, str] = field(default_factory=dict)
    mchid: str = "1900000109"

    @property
    def account(self) -> dict[str, Any]:
        found: dict[str, Any] = self.sandbox.credentials["wechat_pay_merchants"][self.mchid]
        return found

    def at(self, mchid: str) -> "WechatMerchant":
        """Another merchant of the same program."""
        return WechatMerchant(self.sandbox, mchid=mchid)

    async def call(
        self, method: str, target: str, body: Any = None, *, sent: bytes | None = None
    ) -> Answer:
        """`sent` goes over the wire instead of the body that was signed."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = {
            "Authorization": self.authorization(method, target, content),
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "tests",
            "Wechatpay-Serial": self.account["public_key_id"],
            **self.headers,
        }
        url = URL(f"{self.account['base_url']}{target}", encoded=True)
        async with self.sandbox.http.request(
            method, url, data=content if sent is None else sent, headers=headers
        ) as answer:
            return Answer(
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
                await answer.read(),
            )

    def authorization(self, method: str, target: str, content: bytes) -> str:
        parts = {
            "mchid": self.account["mchid"],
            "nonce_str": secrets.token_hex(16),
            "timestamp": str(int(time.time())),
            "serial_no": self.account["merchant_serial"],
        } | {k: v for k, v in self.changes.items() if k not in {"scheme", "key", "signature"}}
        head = f"{method}\n{target}\n{parts['timestamp']}\n{parts['nonce_str']}\n"
        key = self.changes.get("key", self.account["merchant_private_key"])
        parts["signature"] = self.changes.get(
            "signature", rsa_sign(key, head.encode() + content + b"\n")
        )
        scheme = self.changes.get("scheme", "WECHATPAY2-SHA256-RSA2048")
        return f"{scheme} " + ",".join(f'{name}="{value}"' for name, value in parts.items())

    def order(self, out_trade_no: str, **changes: Any) -> dict[str, Any]:
        return {
            "appid": self.account["appid"],
            "mchid": self.account["mchid"],
            "description": "契税和登记费",
            "out_trade_no": out_trade_no,
            "notify_url": "http://127.0.0.1:9/nobody",
            "amount": {"total": 817524, "currency": "CNY"},
            **changes,
        }

    async def prepay(self, out_trade_no: str, **changes: Any) -> str:
        """The code_url of a native order."""
        answer = await self.call(
            "POST", "/v3/pay/transactions/native", self.order(out_trade_no, **changes)
        )
        assert answer.status == 200, answer.body
        code_url: str = answer.json["code_url"]
        return code_url

    async def query(self, out_trade_no: str) -> Answer:
        number = quote(out_trade_no, safe="")
        return await self.call(
            "GET",
            f"/v3/pay/transactions/out-trade-no/{number}?mchid={self.account['mchid']}",
        )

    async def close(self, out_trade_no: str) -> Answer:
        return await self.call(
            "POST",
            f"/v3/pay/transactions/out-trade-no/{out_trade_no}/close",
            {"mchid": self.account["mchid"]},
        )

    async def refund(self, number: str, out_trade_no: str, fen: int, **changes: Any) -> Answer:
        return await self.call(
            "POST",
            "/v3/refund/domestic/refunds",
            {
                "out_refund_no": number,
                "out_trade_no": out_trade_no,
                "amount": {"refund": fen, "total": 817524, "currency": "CNY"},
                **changes,
            },
        )

    def believes(self, headers: dict[str, str], body: bytes) -> bool:
        """Whether these signature headers (lower-case) are right over these bytes."""
        keys = self.account["public_keys"] | self.account["platform_certificates"]
        serial = headers.get("wechatpay-serial", "")
        head = f"{headers['wechatpay-timestamp']}\n{headers['wechatpay-nonce']}\n".encode()
        fresh = abs(time.time() - int(headers["wechatpay-timestamp"])) < 300
        return (
            fresh
            and serial in keys
            and is_signed(keys[serial], head + body + b"\n", headers.get("wechatpay-signature", ""))
        )

    def opened(self, resource: dict[str, str]) -> Any:
        """The plaintext of a notice or certificate."""
        key = AESGCM(self.account["api_v3_key"].encode())
        plain = key.decrypt(
            resource["nonce"].encode(),
            base64.b64decode(resource["ciphertext"]),
            resource["associated_data"].encode(),
        ).decode()
        return json.loads(plain) if plain.startswith("{") else plain


@dataclass
class AlipayMerchant:
    sandbox: RunningSandbox
    changes: dict[str, str] = field(default_factory=dict)
    """Common parameters changed before signing; key and sign are special."""
    charset_in_url: bool = True
    in_certificate_mode: bool = False
    certificates: dict[str, str] = field(default_factory=dict)
    """Alipay's certificates by their number, as far as this merchant has them."""

    def __post_init__(self) -> None:
        if self.in_certificate_mode:
            self.certificates = {self.account["alipay_cert_sn"]: self.account["alipay_certificate"]}

    @property
    def account(self) -> dict[str, str]:
        name = "alipay_certificate" if self.in_certificate_mode else "alipay"
        found: dict[str, str] = self.sandbox.credentials[name]
        return found

    def _certificate_numbers(self) -> dict[str, str]:
        if not self.in_certificate_mode:
            return {}
        return {name: self.account[name] for name in ("app_cert_sn", "alipay_root_cert_sn")}

    def parameters(self, method: str, biz: dict[str, Any], **more: str) -> dict[str, str]:
        timestamp = datetime.now(BEIJING).strftime("%Y-%m-%d %H:%M:%S")
        changes = dict(self.changes)
        key = changes.pop("key", self.account["app_private_key"])
        forged = changes.pop("sign", None)
        values = {
            "app_id": self.account["app_id"],
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": "RSA2",
            "timestamp": timestamp,
            "version": "1.0",
            "biz_content": json.dumps(biz, ensure_ascii=False),
            **self._certificate_numbers(),
            **more,
            **changes,
        }
        text = "&".join(f"{k}={v}" for k, v in sorted(values.items()) if v)
        return {**values, "sign": forged or rsa_sign(key, text.encode())}

    def address(self, method: str, biz: dict[str, Any], **more: str) -> str:
        """A signed address for a browser."""
        return f"{self.account['gateway_url']}?{urlencode(self.parameters(method, biz, **more))}"

    async def raw(self, method: str, biz: dict[str, Any], **more: str) -> bytes:
        values = self.parameters(method, biz, **more)
        in_body = {"biz_content": values.pop("biz_content")}
        if not self.charset_in_url:
            in_body["charset"] = values.pop("charset")
        async with self.sandbox.http.post(
            URL(f"{self.account['gateway_url']}?{urlencode(values)}", encoded=True),
            data=urlencode(in_body),
            headers={"Content-Type": "application/x-www-form-urlencoded;charset=utf-8"},
        ) as answer:
            assert answer.status == 200
            return await answer.read()

    async def call(self, method: str, biz: dict[str, Any], **more: str) -> dict[str, Any]:
        """The content of a rightly signed answer."""
        body = await self.raw(method, biz, **more)
        key = method.replace(".", "_") + "_response"
        number = b',"alipay_cert_sn":"' if self.in_certificate_mode else b',"sign":"'
        content = body[len(key) + 4 : body.rindex(number)]
        whole = json.loads(body)
        assert is_signed(self.key_named(whole.get("alipay_cert_sn", "")), content, whole["sign"])
        told: dict[str, Any] = json.loads(content)
        return told

    def key_named(self, cert_sn: str) -> str:
        """Alipay's key; in certificate mode the certificate this number names, "" if unknown."""
        if not self.in_certificate_mode:
            return self.account["alipay_public_key"]
        return self.certificates.get(cert_sn, "")

    async def precreate(self, out_trade_no: str, **changes: Any) -> str:
        """The qr_code."""
        notify_url = changes.pop("notify_url", "http://127.0.0.1:9/nobody")
        biz = {
            "out_trade_no": out_trade_no,
            "total_amount": "8175.24",
            "subject": "契税和登记费",
            **changes,
        }
        told = await self.call("alipay.trade.precreate", biz, notify_url=notify_url)
        assert told["code"] == "10000", told
        return str(told["qr_code"])

    def believes(self, form: dict[str, str]) -> bool:
        """Whether a notice or page return is rightly signed."""
        text = "&".join(
            f"{k}={v}"
            for k, v in sorted(form.items())
            if v and k not in {"sign", "sign_type", "alipay_cert_sn"}
        )
        message = text.encode(form.get("charset", "utf-8").lower())
        key = self.key_named(form.get("alipay_cert_sn", ""))
        return bool(key) and is_signed(key, message, form.get("sign", ""))


@dataclass
class NoticeDesk:
    """Where notices arrive; answers with what `answers` holds, the last one for ever."""

    answers: list[tuple[int, bytes]] = field(default_factory=lambda: [(204, b"")])
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    server: TestServer | None = None

    async def __aenter__(self) -> "NoticeDesk":
        app = web.Application()
        app.router.add_post("/notices", self._receive)
        self.server = TestServer(app)
        await self.server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        await self.server.close()

    @property
    def url(self) -> str:
        assert self.server is not None
        return str(self.server.make_url("/notices"))

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, body))
        status, text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, body=text)

    def forms(self) -> list[dict[str, str]]:
        """Bodies read as forms, once decoded, in the charset the form names."""
        forms = []
        for _, body in self.got:
            charset = dict(parse_qsl(body.decode("latin-1"))).get("charset", "utf-8")
            forms.append(dict(parse_qsl(body.decode("latin-1"), encoding=charset.lower())))
        return forms
