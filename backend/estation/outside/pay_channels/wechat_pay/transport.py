"""Signed calls to WeChat Pay and the judgement of what comes back."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
import orjson
import structlog

from estation.outside.pay_channels import ChannelUnknown
from estation.outside.pay_channels.believing import Disbelief
from estation.outside.pay_channels.calling import CALL, Answer, Limits, exchange
from estation.outside.pay_channels.wechat_pay.platform_keys import (
    PlatformKey,
    PlatformKeys,
    certificates_in,
)
from estation.outside.pay_channels.wechat_pay.schemes import AES_GCM
from estation.outside.pay_channels.wechat_pay.signing import (
    Merchant,
    authorization,
    check_signature,
    nonce,
)
from estation.shared.clock import Clock

log = structlog.get_logger()


class Transport:
    """One merchant's signed HTTP on the shared session."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        merchant: Merchant,
        keys: PlatformKeys,
        clock: Clock,
    ) -> None:
        self.merchant = merchant
        self.keys = keys
        self._session = session
        self._clock = clock

    def now(self) -> datetime:
        return self._clock()

    async def call(self, method: str, target: str, body: dict[str, Any] | None = None) -> Answer:
        """A 2xx answer comes back only with a valid signature; error answers come back as is.

        All our calls may be repeated, so an answer we cannot believe (WeChat Pay's SIGNTEST
        probe, or a forgery) is asked for once more. Raises ChannelUnknown.
        """
        content = b"" if body is None else orjson.dumps(body)
        for _ in range(2):
            answer = await self._send(method, target, content)
            if answer.status == 202 or 300 <= answer.status < 400:
                raise ChannelUnknown(f"HTTP_{answer.status}", request_id=answer.request_id)
            if answer.status >= 400:
                return answer
            if await self._is_believed(answer):
                return answer
        raise ChannelUnknown("UNVERIFIED", request_id=answer.request_id)

    async def file(self, url: str, limits: Limits) -> Answer:
        """A signed GET whose answer WeChat Pay never signs. Only on the host we call anyway."""
        root = f"{self.merchant.base_url}/"
        if not url.startswith(root):
            raise ChannelUnknown("FOREIGN_HOST", "bill file")
        return await self._send("GET", "/" + url.removeprefix(root), b"", limits)

    def wish_certificates(self, serial: str, *, now: datetime) -> None:
        self.keys.wish(serial, self._certificates, now=now)

    async def renew_certificates(self) -> bool:
        """Ask for new certificates now; False when WeChat Pay did not answer."""
        return await self.keys.renew(self._certificates, now=self.now())

    async def _is_believed(self, answer: Answer) -> bool:
        try:
            check_signature(self.keys, answer.headers, answer.body, now=self.now())
            return True
        except Disbelief as disbelief:
            log.warning(
                "wechat_pay_answer_not_believed",
                reason=disbelief.reason,
                request_id=answer.request_id,
            )
            if disbelief.reason != "unknown_serial":
                return False
        serial = answer.headers["wechatpay-serial"]
        await self.keys.refresh(serial, self._certificates, now=self.now())
        try:
            check_signature(self.keys, answer.headers, answer.body, now=self.now())
        except Disbelief:
            return False
        return True

    async def _certificates(self) -> dict[str, PlatformKey]:
        """The key that signed this answer may be in it: decrypt first, then check.

        Decryption with our own APIv3 key already proves the sender; the signature must then
        be by a key known before or by one of the new ones. A merchant of the public-key time has
        no certificates: 404, 403 or an empty list, none of which is a failure.
        """
        cipher = self.merchant.cipher
        query = "" if cipher.algorithm == AES_GCM else "?algorithm_type=SM2"
        answer = await self._send("GET", f"/v3/certificates{query}", b"")
        if answer.status in (403, 404):
            return {}
        if answer.status != 200:
            raise ErrorAnswer.of(answer).as_unknown()
        new = certificates_in(answer.body, cipher, cipher.algorithm)
        if not new:
            return {}
        check_signature(self.keys.joined_by(new), answer.headers, answer.body, now=self.now())
        return new

    async def _send(self, method: str, target: str, body: bytes, limits: Limits = CALL) -> Answer:
        now = self.now()
        headers = {
            "Accept": "application/json",
            "Authorization": authorization(
                self.merchant,
                method=method,
                target=target,
                body=body,
                timestamp=int(now.timestamp()),
                nonce=nonce(),
            ),
        }
        # Which of its keys WeChat Pay shall sign the answer with.
        if serial := self.keys.preferred(now):
            headers["Wechatpay-Serial"] = serial
        if body:
            headers["Content-Type"] = "application/json"
        url = f"{self.merchant.base_url}{target}"
        return await exchange(self._session, method, url, headers=headers, body=body, limits=limits)


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error's code and sentence. Often unsigned, so no proof of anything about money."""

    code: str
    message: str
    request_id: str

    @classmethod
    def of(cls, answer: Answer) -> "ErrorAnswer":
        try:
            body = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            body = None
        code = body.get("code") if isinstance(body, dict) else None
        message = body.get("message") if isinstance(body, dict) else None
        return cls(
            code=code[:64] if isinstance(code, str) and code else f"HTTP_{answer.status}",
            message=message[:256] if isinstance(message, str) else "",
            request_id=answer.request_id,
        )

    @property
    def plain_code(self) -> str:
        """Without "_": ORDER_CLOSED and ORDERCLOSED are the same code on different pages."""
        return self.code.replace("_", "").upper()

    def as_unknown(self) -> ChannelUnknown:
        return ChannelUnknown(self.code, self.message, request_id=self.request_id)
