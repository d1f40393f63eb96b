"""Calls to Alipay's gateway: one POST each, common parameters in the query."""

import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from estation.outside.pay_channels import ChannelUnknown
from estation.outside.pay_channels.alipay.signing import (
    SIGN_TYPE,
    Application,
    believed_node,
    node_of,
    serial_beside,
    sign_text,
    top_level,
)
from estation.outside.pay_channels.believing import Disbelief, sign, text_of
from estation.outside.pay_channels.calling import CALL, Answer, Limits, exchange
from estation.shared.clock import BEIJING, Clock

OK = "10000"
_CERTIFICATE = "alipay.open.app.alipaycert.download"
_CERTIFICATE_CHARACTERS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """A signed answer. `code` is the gateway's, `sub_code` the business's."""

    node: dict[str, Any]

    @property
    def is_ok(self) -> bool:
        return self.node.get("code") == OK

    @property
    def code(self) -> str:
        return str(self.node.get("code") or "")[:16]

    @property
    def sub_code(self) -> str:
        """Alipay's own pages spell the prefix of some codes AQC; one spelling here."""
        return str(self.node.get("sub_code") or "")[:64].replace("AQC.", "ACQ.", 1)

    def as_unknown(self) -> ChannelUnknown:
        return ChannelUnknown(self.sub_code or self.code, str(self.node.get("sub_msg", ""))[:256])


class Gateway:
    """One application's signed calls on the shared session."""

    def __init__(
        self, session: aiohttp.ClientSession, application: Application, clock: Clock
    ) -> None:
        self.application = application
        self.clock = clock
        self._session = session

    async def call(self, method: str, business: dict[str, Any], **common: str) -> Reply:
        """Raises ChannelUnknown for anything that is not a signed answer to this method."""
        answer = await self._posted(method, business, common)
        return await self._believed(method, answer)

    async def certificate(self, serial: str) -> bytes:
        """The PEM that Alipay gives for a certificate's number. Whoever uses it must prove it:
        the answer may be unsigned, or signed by the very certificate it carries.

        Raises ChannelUnknown, and Disbelief or ValueError for an answer without a certificate.
        """
        answer = await self._posted(_CERTIFICATE, {"alipay_cert_sn": serial}, {})
        node = node_of(top_level(answer.body).get(_node_name(_CERTIFICATE), b""))
        content = text_of(node, "alipay_cert_content", most=_CERTIFICATE_CHARACTERS)
        return binascii.a2b_base64(content)

    def wish_certificate(self, serial: str, *, now: datetime) -> None:
        """A notice named a certificate we do not know: look for it in the background."""
        self.application.alipay.wish(serial, self.certificate, now=now)

    def address(self, method: str, business: dict[str, Any], **common: str) -> str:
        """A signed address for the payer's own browser; nothing is sent."""
        parameters = self._signed(method, business, common)
        return f"{self.application.gateway_url}?{_encoded(parameters)}"

    async def file(self, url: str, limits: Limits = CALL) -> Answer:
        """Unsigned both ways; the caller has checked the host."""
        return await exchange(self._session, "GET", url, headers={}, limits=limits)

    async def _posted(
        self, method: str, business: dict[str, Any], common: dict[str, str]
    ) -> Answer:
        parameters = self._signed(method, business, common)
        # biz_content alone goes into the body: with charset only there the gateway may read
        # GBK, and its notices would come in GBK too.
        body = _encoded({"biz_content": parameters.pop("biz_content")}).encode()
        answer = await exchange(
            self._session,
            "POST",
            f"{self.application.gateway_url}?{_encoded(parameters)}",
            headers={"Content-Type": "application/x-www-form-urlencoded;charset=utf-8"},
            body=body,
        )
        if answer.status != 200:
            raise ChannelUnknown(f"HTTP_{answer.status}")
        return answer

    def _signed(
        self, method: str, business: dict[str, Any], common: dict[str, str]
    ) -> dict[str, str]:
        own = self.application.own.current()
        parameters = {
            "app_id": self.application.app_id,
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": SIGN_TYPE,
            # Beijing time, whatever the machine's zone is.
            "timestamp": self.clock().astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S"),
            "version": "1.0",
            **own.parameters,
            **{name: value for name, value in common.items() if value},
            "biz_content": orjson.dumps(business).decode(),
        }
        parameters["sign"] = sign(own.private_key, sign_text(parameters))
        return parameters

    async def _believed(self, method: str, answer: Answer) -> Reply:
        node_name = _node_name(method)
        try:
            spans = top_level(answer.body)
            keys = await self._keys_for(serial_beside(spans))
            return Reply(believed_node(keys, node_name, spans))
        except Disbelief as disbelief:
            if disbelief.reason == "unsigned":
                raise _unsigned(answer.body, node_name) from disbelief
            code = "UNREADABLE" if disbelief.reason == "malformed" else "UNVERIFIED"
            raise ChannelUnknown(code, str(disbelief)) from disbelief

    async def _keys_for(self, serial: str) -> tuple[RSAPublicKey, ...]:
        alipay = self.application.alipay
        known = alipay.candidates(serial, now=self.clock())
        if not known:
            await alipay.learn(serial, self.certificate, now=self.clock())
            known = alipay.candidates(serial, now=self.clock())
        return known


def _node_name(method: str) -> str:
    return method.replace(".", "_") + "_response"


def _unsigned(body: bytes, node_name: str) -> ChannelUnknown:
    """Gateway failures carry no signature: told for the log, believed for nothing."""
    try:
        spans = top_level(body)
        raw = spans.get("error_response") or spans.get(node_name) or b"{}"
        node = orjson.loads(_as_utf8(raw))
    except (Disbelief, ValueError):
        return ChannelUnknown("UNREADABLE")
    if not isinstance(node, dict):
        return ChannelUnknown("UNREADABLE")
    code = str(node.get("sub_code") or node.get("code") or "UNSIGNED")
    message = str(node.get("sub_msg") or node.get("msg") or "")
    return ChannelUnknown(code[:64], message[:256])


def _as_utf8(raw: bytes) -> bytes:
    """The text of failures may be GBK although UTF-8 was asked for."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("gb18030").encode()
    return raw


def _encoded(parameters: dict[str, str]) -> str:
    return urlencode(parameters, quote_via=quote, safe="")
