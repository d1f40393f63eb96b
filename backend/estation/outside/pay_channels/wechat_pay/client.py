"""WeChat Pay as a pay channel: the orders and refunds of one merchant.

Source: WeChat Pay APIv3, https://pay.weixin.qq.com/doc/v3/merchant/4012791855 and neighbours.
"""

import hashlib
from datetime import date, datetime
from typing import Any, Final
from urllib.parse import quote

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
    RefundReport,
    RefundRequest,
    RefundStatus,
    Scene,
    VerifiedNotice,
)
from estation.outside.pay_channels.believing import Disbelief, text_of
from estation.outside.pay_channels.calling import FILE, Answer
from estation.outside.pay_channels.payers import seal_payers
from estation.outside.pay_channels.wechat_pay import bills, notices
from estation.outside.pay_channels.wechat_pay.answers import (
    close_outcome,
    object_in,
    opening_refusal,
    refund_refusal,
)
from estation.outside.pay_channels.wechat_pay.refunds import (
    REFUNDS_PATH,
    refund_body,
    refund_report_of,
)
from estation.outside.pay_channels.wechat_pay.signing import jsapi_parameters, nonce
from estation.outside.pay_channels.wechat_pay.transactions import order_description, report_of
from estation.outside.pay_channels.wechat_pay.transport import ErrorAnswer, Transport
from estation.shared.clock import BEIJING

_PATHS: Final = {
    Scene.NATIVE: "/v3/pay/transactions/native",
    Scene.JSAPI: "/v3/pay/transactions/jsapi",
    Scene.MINI_PROGRAM: "/v3/pay/transactions/jsapi",
    Scene.H5: "/v3/pay/transactions/h5",
}
_WITH_OPENID: Final = frozenset({Scene.JSAPI, Scene.MINI_PROGRAM})


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
        """Idempotent for the same request. Raises ValueError for another channel's scene, for
        what the scene needs and the request lacks, and for a mini-program we have not."""
        if scene not in _PATHS:
            raise ValueError(f"WeChat Pay has no scene {scene}")
        if request.parts:
            raise ValueError("only a combining account opens a payment in parts")
        order = self._order(scene, request)
        answer = await self._transport.call("POST", _PATHS[scene], order)
        if answer.status != 200:
            raise opening_refusal(answer)
        ticket = object_in(answer)
        try:
            if scene is Scene.NATIVE:
                return PayTicket(qr_content=text_of(ticket, "code_url", most=512))
            if scene is Scene.H5:
                return PayTicket(redirect_url=_h5_address(ticket, request.return_url))
            prepay_id = text_of(ticket, "prepay_id")
        except Disbelief as disbelief:
            raise ChannelUnknown("UNREADABLE", str(disbelief)) from disbelief
        return PayTicket(
            jsapi_parameters=jsapi_parameters(
                self._merchant,
                prepay_id,
                appid=order["appid"],
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
        return close_outcome(answer) or await self._confirmed_close(out_trade_no)

    async def refund(self, request: RefundRequest) -> RefundReport:
        """See PayChannel. NOT_ENOUGH (ChannelUnknown) means: not now, later with this number."""
        answer = await self._transport.call("POST", REFUNDS_PATH, refund_body(request))
        if answer.status == 200:
            report = self._believed_refund(answer, request.refund_no, request.out_trade_no)
        elif ErrorAnswer.of(answer).plain_code == "INVALIDREQUEST":
            report = await self._refund_before(request, answer)
        else:
            raise refund_refusal(answer)
        if report.amount_fen != request.amount_fen:
            raise ChannelUnknown("REFUND_NO_USED", "another amount", request_id=answer.request_id)
        return report

    async def query_refund(self, refund_no: str, *, out_trade_no: str) -> RefundReport:
        """NOT_FOUND shortly after a timed-out request is not final."""
        return await self._refund_state(refund_no, out_trade_no)

    async def redirect_refund(self, refund_no: str, *, channel_refund_no: str) -> RefundReport:
        """See PayChannel. Of a refund that was redirected before, its state now."""
        path = f"{REFUNDS_PATH}/{quote(channel_refund_no, safe='')}/apply-abnormal-refund"
        body = {"out_refund_no": refund_no, "type": "MERCHANT_BANK_CARD"}
        answer = await self._transport.call("POST", path, body)
        if answer.status == 200:
            return self._believed_refund(answer, refund_no, None)
        error = ErrorAnswer.of(answer)
        if error.plain_code != "INVALIDREQUEST":
            raise refund_refusal(answer)
        report = await self._refund_state(refund_no, None)
        if report.status in (RefundStatus.ABNORMAL, RefundStatus.NOT_FOUND):
            raise ChannelRefused(error.code, error.message, request_id=answer.request_id)
        return report

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        """See PayChannel. An unknown serial may start one certificate refresh a minute."""
        try:
            kind, plaintext = notices.open_envelope(self._transport, headers, body, now=now)
            news = notices.news_of(self._merchant, kind, plaintext, now=now)
        except Disbelief as disbelief:
            raise disbelief.as_rejection() from disbelief
        seal_payers(self._merchant.vault, news.plaintext)
        return news

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer:
        return notices.answer(accepted=accepted, status=status)

    async def download_bill(self, day: date) -> bytes:
        """The day's bill of all trades, unpacked: the bytes that WeChat Pay's SHA-1 covers."""
        target = f"/v3/bill/tradebill?bill_date={day.isoformat()}&bill_type=ALL&tar_type=GZIP"
        answer = await self._transport.call("GET", target)
        if answer.status != 200:
            raise _bill_refusal(answer)
        ticket = object_in(answer)
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

    async def renew_certificates(self) -> bool:
        """Ask for WeChat Pay's new certificates now; False when it did not answer."""
        return await self._transport.renew_certificates()

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
            report = report_of(self._merchant, object_in(answer))
        except Disbelief as disbelief:
            code = disbelief.reason.upper()
            raise ChannelUnknown(code, request_id=answer.request_id) from disbelief
        if report is None or report.out_trade_no != out_trade_no:
            raise ChannelUnknown("UNREADABLE", "state or number", request_id=answer.request_id)
        seal_payers(self._merchant.vault, report.raw)
        return report

    async def _refund_before(self, request: RefundRequest, refused: Answer) -> RefundReport:
        """INVALID_REQUEST, unsigned, says "too little left" and "this number was used" alike:
        only a refund that does not exist was certainly refused."""
        report = await self._refund_state(request.refund_no, request.out_trade_no)
        if report.status is RefundStatus.NOT_FOUND:
            error = ErrorAnswer.of(refused)
            raise ChannelRefused(error.code, error.message, request_id=refused.request_id)
        return report

    async def _refund_state(self, refund_no: str, out_trade_no: str | None) -> RefundReport:
        answer = await self._transport.call("GET", f"{REFUNDS_PATH}/{quote(refund_no, safe='')}")
        if answer.status == 200:
            return self._believed_refund(answer, refund_no, out_trade_no)
        error = ErrorAnswer.of(answer)
        if error.plain_code != "RESOURCENOTEXISTS":
            raise error.as_unknown()
        return RefundReport(
            channel=Channel.WECHAT_PAY,
            account_id=self.account_id,
            out_trade_no=out_trade_no or "",
            refund_no=refund_no,
            status=RefundStatus.NOT_FOUND,
        )

    def _believed_refund(
        self, answer: Answer, refund_no: str, out_trade_no: str | None
    ) -> RefundReport:
        try:
            report = refund_report_of(
                self._merchant,
                object_in(answer),
                status_field="status",
                told_at=self._transport.now(),
            )
        except Disbelief as disbelief:
            code = disbelief.reason.upper()
            raise ChannelUnknown(code, request_id=answer.request_id) from disbelief
        if report is None or report.refund_no != refund_no:
            raise ChannelUnknown("UNREADABLE", "state or number", request_id=answer.request_id)
        if out_trade_no is not None and report.out_trade_no != out_trade_no:
            raise ChannelUnknown("REFUND_NO_USED", "another order", request_id=answer.request_id)
        seal_payers(self._merchant.vault, report.raw)
        return report

    def _order(self, scene: Scene, request: PaymentRequest) -> dict[str, Any]:
        expires_at = request.expires_at.astimezone(BEIJING)
        order: dict[str, Any] = {
            "appid": self._appid(scene),
            "mchid": self._merchant.mchid,
            "description": order_description(request.description),
            "out_trade_no": request.out_trade_no,
            "time_expire": expires_at.isoformat(timespec="seconds"),
            "notify_url": request.notify_url,
            "amount": {"total": request.amount_fen, "currency": "CNY"},
        }
        if scene in _WITH_OPENID:
            if not request.payer_openid:
                raise ValueError(f"{scene} needs the payer's openid")
            order["payer"] = {"openid": request.payer_openid}
        if request.payer_ip:
            order["scene_info"] = {"payer_client_ip": request.payer_ip}
        if scene is Scene.H5:
            if not request.payer_ip:
                raise ValueError("H5 needs the payer's address")
            order["scene_info"]["h5_info"] = {"type": "Wap"}
        return order

    def _appid(self, scene: Scene) -> str:
        if scene is not Scene.MINI_PROGRAM:
            return self._merchant.appid
        if self._merchant.mini_appid is None:
            raise ValueError(f"{self.account_id} has no mini-program")
        return self._merchant.mini_appid


def _order_path(out_trade_no: str) -> str:
    return f"/v3/pay/transactions/out-trade-no/{quote(out_trade_no, safe='')}"


def _h5_address(ticket: dict[str, Any], return_url: str | None) -> str:
    """Where to send the mobile browser, and from there back to us: which proves nothing."""
    address = text_of(ticket, "h5_url", most=1024)
    if not address.startswith(("https://", "http://")):
        raise Disbelief("malformed", "h5_url")
    if return_url is None:
        return address
    mark = "&" if "?" in address else "?"
    return f"{address}{mark}redirect_url={quote(return_url, safe='')}"


def _bill_refusal(answer: Answer) -> Exception:
    error = ErrorAnswer.of(answer)
    if error.plain_code == "STATEMENTCREATING":
        return BillNotReady(error.code, error.message, request_id=answer.request_id)
    if error.plain_code == "NOSTATEMENTEXIST":
        return NoBill(error.code, error.message, request_id=answer.request_id)
    return error.as_unknown()
