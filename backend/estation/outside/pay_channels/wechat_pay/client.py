"""WeChat Pay as a pay channel: Native and JSAPI orders of one merchant.

Source: WeChat Pay APIv3, https://pay.weixin.qq.com/doc/v3/merchant/4012791855 and neighbours.
"""

import hashlib
from datetime import date, datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from estation.outside.pay_channels import (
    BillNotReady,
    Channel,
    ChannelRefused,
    ChannelReport,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    NoBill,
    NoticeAnswer,
    ParsedBill,
    PaymentRequest,
    PayTicket,
    Scene,
    VerifiedNotice,
)
from estation.outside.pay_channels.believing import Disbelief, plain_words, text_of
from estation.outside.pay_channels.calling import FILE, Answer
from estation.outside.pay_channels.wechat_pay import bills, notices
from estation.outside.pay_channels.wechat_pay.signing import jsapi_parameters, nonce
from estation.outside.pay_channels.wechat_pay.transactions import report_of
from estation.outside.pay_channels.wechat_pay.transport import ErrorAnswer, Transport
from estation.shared.clock import BEIJING

_PATHS: Final = {
    Scene.NATIVE: "/v3/pay/transactions/native",
    Scene.JSAPI: "/v3/pay/transactions/jsapi",
}
# Codes are compared without "_": the same one is spelled both ways on different pages.
_CERTAIN_NO: Final = frozenset(
    {
        "PARAMERROR",
        "APPIDMCHIDNOTMATCH",
        "MCHNOTEXISTS",
        "ORDERCLOSED",
        "SIGNERROR",
        "NOAUTH",
        "RULELIMIT",
        "ACCOUNTERROR",
        "NOTENOUGH",
        "OPENIDMISMATCH",
    }
)
"""Opening again under this number cannot bring money. Everything else might have: an order
already paid, a number used before (OUT_TRADE_NO_USED, INVALID_REQUEST 201), too many calls."""

_PAYING: Final = frozenset({"FREQUENCYLIMITED", "USERPAYING", "RATELIMITEXCEEDED"})
_PAID: Final = frozenset({"ORDERPAID", "TRADEERROR"})


class WechatPay:
    """Implements PayChannel for one merchant account."""

    channel: Final = Channel.WECHAT_PAY

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._merchant = transport.merchant

    @property
    def account_id(self) -> str:
        return self._merchant.account_id

    async def open_payment(self, scene: Scene, request: PaymentRequest) -> PayTicket:
        """Idempotent for the same request. Raises ValueError for another channel's scene."""
        if scene not in _PATHS:
            raise ValueError(f"WeChat Pay has no scene {scene}")
        answer = await self._transport.call("POST", _PATHS[scene], self._order(scene, request))
        if answer.status != 200:
            raise _refusal(answer)
        ticket = _object(answer)
        try:
            if scene is Scene.NATIVE:
                return PayTicket(qr_content=text_of(ticket, "code_url", most=512))
            prepay_id = text_of(ticket, "prepay_id")
        except Disbelief as disbelief:
            raise ChannelUnknown("UNREADABLE", str(disbelief)) from disbelief
        return PayTicket(
            jsapi_parameters=jsapi_parameters(
                self._merchant,
                prepay_id,
                timestamp=int(self._transport.now().timestamp()),
                nonce=nonce(),
            )
        )

    async def query(self, out_trade_no: str) -> ChannelReport:
        """NOT_FOUND shortly after a timed-out opening is not final."""
        target = f"{_order_path(out_trade_no)}?mchid={self._merchant.mchid}"
        answer = await self._transport.call("GET", target)
        if answer.status != 200:
            error = ErrorAnswer.of(answer)
            if error.plain_code == "ORDERNOTEXIST":
                return ChannelReport(
                    Channel.WECHAT_PAY, self.account_id, out_trade_no, ChannelState.NOT_FOUND
                )
            raise error.as_unknown()
        return self._believed_report(answer, out_trade_no)

    async def close(self, out_trade_no: str) -> CloseOutcome:
        """Safe to repeat. ALREADY_PAID is the channel's hint: ask `query` for the proof."""
        path = f"{_order_path(out_trade_no)}/close"
        answer = await self._transport.call("POST", path, {"mchid": self._merchant.mchid})
        if answer.status in (200, 204):
            return CloseOutcome.CLOSED
        error = ErrorAnswer.of(answer)
        if error.plain_code in _PAYING:
            return CloseOutcome.TRY_LATER
        if error.plain_code in _PAID:
            return CloseOutcome.ALREADY_PAID
        if error.plain_code == "ORDERNOTEXIST":
            return CloseOutcome.NOT_FOUND
        if error.plain_code == "ORDERCLOSED":
            return await self._confirmed_close(out_trade_no)
        raise error.as_unknown()

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        """See PayChannel. An unknown serial may start one certificate refresh a minute."""
        try:
            return notices.read_notice(self._merchant, self._transport.keys, headers, body, now=now)
        except Disbelief as disbelief:
            if disbelief.reason == "unknown_serial":
                self._transport.wish_certificates(headers["wechatpay-serial"], now=now)
            raise disbelief.as_rejection() from disbelief

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer:
        return notices.answer(accepted=accepted, status=status)

    async def download_bill(self, day: date) -> bytes:
        """The day's bill of all trades, unpacked: the bytes that WeChat Pay's SHA-1 covers."""
        target = f"/v3/bill/tradebill?bill_date={day.isoformat()}&bill_type=ALL&tar_type=GZIP"
        answer = await self._transport.call("GET", target)
        if answer.status != 200:
            raise _bill_refusal(answer)
        ticket = _object(answer)
        try:
            url = text_of(ticket, "download_url", most=2048)
            stated = text_of(ticket, "hash_value")
        except Disbelief as disbelief:
            raise ChannelUnknown("UNREADABLE", str(disbelief)) from disbelief
        if ticket.get("hash_type") != "SHA1":
            raise ChannelUnknown("UNREADABLE", "hash_type")
        return await self._checked_file(url, stated)

    def parse_bill(self, raw: bytes) -> ParsedBill:
        return bills.parse_trade_bill(raw)

    async def _checked_file(self, url: str, stated: str) -> bytes:
        answer = await self._transport.file(url, FILE)
        if answer.status != 200:
            raise ChannelUnknown(f"HTTP_{answer.status}", "bill file")
        try:
            text = bills.unpacked(answer.body)
        except ValueError as failure:
            raise ChannelUnknown("BILL_BROKEN", str(failure)) from failure
        # The file is the one answer without a signature; the signed answer named its hash.
        if hashlib.sha1(text, usedforsecurity=False).hexdigest() != stated.lower():
            raise ChannelUnknown("BILL_HASH", "the file is not the one the signed answer names")
        return text

    async def _confirmed_close(self, out_trade_no: str) -> CloseOutcome:
        """An error answer may be unsigned: that an order is closed must be a signed word."""
        report = await self.query(out_trade_no)
        if report.state is ChannelState.CLOSED:
            return CloseOutcome.CLOSED
        is_paid = report.state is ChannelState.PAID
        return CloseOutcome.ALREADY_PAID if is_paid else CloseOutcome.TRY_LATER

    def _believed_report(self, answer: Answer, out_trade_no: str) -> ChannelReport:
        try:
            report = report_of(self._merchant, _object(answer))
        except Disbelief as disbelief:
            code = disbelief.reason.upper()
            raise ChannelUnknown(code, request_id=answer.request_id) from disbelief
        if report is None or report.out_trade_no != out_trade_no:
            raise ChannelUnknown("UNREADABLE", "state or number", request_id=answer.request_id)
        return report

    def _order(self, scene: Scene, request: PaymentRequest) -> dict[str, Any]:
        expires_at = request.expires_at.astimezone(BEIJING)
        order: dict[str, Any] = {
            "appid": self._merchant.appid,
            "mchid": self._merchant.mchid,
            "description": plain_words(
                request.description, forbidden="`", characters=127, utf8_bytes=127
            ),
            "out_trade_no": request.out_trade_no,
            "time_expire": expires_at.isoformat(timespec="seconds"),
            "notify_url": request.notify_url,
            "amount": {"total": request.amount_fen, "currency": "CNY"},
        }
        if scene is Scene.JSAPI:
            if not request.payer_openid:
                raise ValueError("JSAPI needs the payer's openid")
            order["payer"] = {"openid": request.payer_openid}
        if request.payer_ip:
            order["scene_info"] = {"payer_client_ip": request.payer_ip}
        return order


def _order_path(out_trade_no: str) -> str:
    return f"/v3/pay/transactions/out-trade-no/{quote(out_trade_no, safe='')}"


def _object(answer: Answer) -> dict[str, Any]:
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ChannelUnknown("UNREADABLE", "no JSON object", request_id=answer.request_id)
    return value


def _refusal(answer: Answer) -> ChannelRefused | ChannelUnknown:
    error = ErrorAnswer.of(answer)
    if 400 <= answer.status < 500 and error.plain_code in _CERTAIN_NO:
        return ChannelRefused(error.code, error.message, request_id=answer.request_id)
    return error.as_unknown()


def _bill_refusal(answer: Answer) -> Exception:
    error = ErrorAnswer.of(answer)
    if error.plain_code == "STATEMENTCREATING":
        return BillNotReady(error.code, error.message, request_id=answer.request_id)
    if error.plain_code == "NOSTATEMENTEXIST":
        return NoBill(error.code, error.message, request_id=answer.request_id)
    return error.as_unknown()
