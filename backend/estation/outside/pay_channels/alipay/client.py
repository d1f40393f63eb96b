"""Alipay as a pay channel: the trades of one application, and their refunds.

Source: Alipay open platform, https://opendocs.alipay.com/open/02ekfg and neighbours.
"""

from datetime import date, datetime, time, timedelta
from typing import Any, Final

from yarl import URL

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
    Scene,
    VerifiedNotice,
)
from estation.outside.pay_channels.alipay import bills, notices, refunds
from estation.outside.pay_channels.alipay.gateway import Gateway, Reply
from estation.outside.pay_channels.alipay.trades import report_of
from estation.outside.pay_channels.believing import Disbelief, plain_words, text_of
from estation.outside.pay_channels.calling import BILL_BYTES, Limits
from estation.outside.pay_channels.payers import seal_payers
from estation.shared.clock import BEIJING
from estation.shared.money import yuan_from_fen

_NOT_IN_SUBJECT: Final = "/=&,\"'<>\\"
_BILL_FILE: Final = Limits(seconds=30, answer_bytes=BILL_BYTES)
_BILL_READY_AT: Final = time(10)
_MAYBE: Final = frozenset({"ACQ.SYSTEM_ERROR", "ACQ.TRADE_HAS_SUCCESS", "ACQ.CONTEXT_INCONSISTENT"})
"""Signed refusals to open that do not exclude money: paid before, or known with other data."""

_CERTAIN_CODES: Final = frozenset({"40001", "40002", "40003", "40004", "40006"})
_NOT_CLOSABLE: Final = frozenset(
    {
        "ACQ.TRADE_STATUS_ERROR",
        "ACQ.REASON_TRADE_STATUS_INVALID",
        "ACQ.TRADE_HAS_SUCCESS",
        "ACQ.TRADE_HAS_FINISHED",
        "ACQ.TRADE_HAS_CLOSE",
    }
)


class Alipay:
    """Implements PayChannel for one application."""

    channel: Final = Channel.ALIPAY

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._application = gateway.application

    @property
    def account_id(self) -> str:
        return self._application.account_id

    async def open_payment(self, scene: Scene, request: PaymentRequest) -> PayTicket:
        """WAP and PAGE ask nobody: the ticket is a signed address for the payer's browser.

        A precreated code makes no trade at Alipay before it is scanned. Raises ValueError for
        another channel's scene, and for TRADE_CREATE without a payer.
        """
        match scene:
            case Scene.WAP:
                return PayTicket(redirect_url=self._wap_address(request))
            case Scene.PAGE:
                return PayTicket(redirect_url=self._page_address(request))
            case Scene.PRECREATE:
                return await self._precreate(request)
            case Scene.TRADE_CREATE:
                return await self._create(request)
        raise ValueError(f"Alipay has no scene {scene}")

    async def query(self, out_trade_no: str) -> ChannelReport:
        """NOT_FOUND also means: a code was given out and nobody has scanned it yet."""
        reply = await self._gateway.call("alipay.trade.query", {"out_trade_no": out_trade_no})
        if reply.sub_code == "ACQ.TRADE_NOT_EXIST":
            return ChannelReport(
                Channel.ALIPAY, self.account_id, out_trade_no, ChannelState.NOT_FOUND
            )
        if not reply.is_ok:
            raise reply.as_unknown()
        try:
            report = report_of(self._application, reply.node, paid_at_field="send_pay_date")
        except Disbelief as disbelief:
            raise _unreadable(disbelief) from disbelief
        if report is None or report.out_trade_no != out_trade_no:
            raise ChannelUnknown("UNREADABLE", "state or number")
        seal_payers(self._application.vault, report.raw)
        return report

    async def close(self, out_trade_no: str) -> CloseOutcome:
        """Only an unpaid trade can be closed; safe to repeat.

        `alipay.trade.cancel` is never used: on a paid trade it would refund in full.
        """
        reply = await self._gateway.call("alipay.trade.close", {"out_trade_no": out_trade_no})
        if reply.is_ok:
            return CloseOutcome.CLOSED
        if reply.sub_code == "ACQ.TRADE_NOT_EXIST":
            return CloseOutcome.NOT_FOUND
        if reply.sub_code in _NOT_CLOSABLE:
            return await self._why_not_closable(out_trade_no)
        raise reply.as_unknown()

    async def refund(self, request: RefundRequest) -> RefundReport:
        """Asked again with the same number, Alipay gives nothing back a second time.

        It tells refunds to the payment's own notify_url, so the request's is not sent. Raises
        ChannelUnknown("NOT_ENOUGH") while the account is too low: ask again later.
        """
        reply = await self._gateway.call("alipay.trade.refund", refunds.asked(request))
        if not reply.is_ok:
            raise refunds.refusal(reply)
        try:
            report = refunds.accepted(self._application, request, reply.node)
        except Disbelief as disbelief:
            raise _unreadable(disbelief) from disbelief
        seal_payers(self._application.vault, report.raw)
        return report

    async def query_refund(self, refund_no: str, *, out_trade_no: str) -> RefundReport:
        """Ask ten seconds after the refund at the earliest: before, NOT_FOUND says little."""
        reply = await self._gateway.call(
            "alipay.trade.fastpay.refund.query",
            {
                "out_trade_no": out_trade_no,
                "out_request_no": refund_no,
                # Told only when asked for.
                "query_options": ["gmt_refund_pay"],
            },
        )
        if not reply.is_ok and reply.sub_code != "ACQ.TRADE_NOT_EXIST":
            raise reply.as_unknown()
        now = self._gateway.clock()
        try:
            report = refunds.found(self._application, refund_no, out_trade_no, reply.node, now=now)
        except Disbelief as disbelief:
            raise _unreadable(disbelief) from disbelief
        seal_payers(self._application.vault, report.raw)
        return report

    async def redirect_refund(self, refund_no: str, *, channel_refund_no: str) -> RefundReport:
        """Alipay has no ABNORMAL refunds: what cannot go back to the card goes to the wallet."""
        raise ChannelRefused("NOT_OFFERED", "Alipay redirects no refunds")

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        """See PayChannel. Alipay's notices have no age limit. An unknown certificate may start
        one download a minute."""
        try:
            news = notices.read_notice(self._application, headers, body, now=now)
        except notices.UnknownCertificate as unknown:
            self._gateway.wish_certificate(unknown.serial, now=now)
            raise unknown.as_rejection() from unknown
        except Disbelief as disbelief:
            raise disbelief.as_rejection() from disbelief
        seal_payers(self._application.vault, news.plaintext)
        return news

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer:
        return notices.answer(accepted=accepted, status=status)

    async def download_bill(self, day: date) -> bytes:
        """The ZIP as sent. Nothing signs it: only its own totals prove it (`parse_bill`)."""
        reply = await self._gateway.call(
            "alipay.data.dataservice.bill.downloadurl.query",
            {"bill_type": "trade", "bill_date": day.isoformat()},
        )
        if not reply.is_ok:
            raise self._bill_refusal(reply, day)
        # The address lives for 30 seconds: fetched at once, never stored.
        url = _field(reply, "bill_download_url", most=4096)
        self._check_host(url)
        answer = await self._gateway.file(url, _BILL_FILE)
        if answer.status != 200:
            raise ChannelUnknown(f"HTTP_{answer.status}", "bill file")
        return answer.body

    def parse_bill(self, raw: bytes) -> ParsedBill:
        return bills.parse_trade_bill(raw)

    async def _why_not_closable(self, out_trade_no: str) -> CloseOutcome:
        report = await self.query(out_trade_no)
        if report.state is ChannelState.PAID:
            return CloseOutcome.ALREADY_PAID
        is_closed = report.state is ChannelState.CLOSED
        return CloseOutcome.CLOSED if is_closed else CloseOutcome.TRY_LATER

    async def _precreate(self, request: PaymentRequest) -> PayTicket:
        business = self._trade(request, product_code="FACE_TO_FACE_PAYMENT")
        reply = await self._opened("alipay.trade.precreate", business, request)
        return PayTicket(qr_content=_field(reply, "qr_code", most=512))

    async def _create(self, request: PaymentRequest) -> PayTicket:
        """A trade at once, for `my.tradePay` of the payer it was made for."""
        if not request.payer_openid:
            raise ValueError("a trade inside Alipay needs its payer's open id")
        business = {
            **self._trade(request, product_code="JSAPI_PAY"),
            "op_app_id": self._application.app_id,
            "buyer_open_id": request.payer_openid,
        }
        reply = await self._opened("alipay.trade.create", business, request)
        return PayTicket(trade_no=_field(reply, "trade_no", most=64))

    async def _opened(
        self, method: str, business: dict[str, Any], request: PaymentRequest
    ) -> Reply:
        reply = await self._gateway.call(method, business, notify_url=request.notify_url)
        if not reply.is_ok:
            raise _refusal(reply)
        if reply.node.get("out_trade_no") != request.out_trade_no:
            raise ChannelUnknown("UNREADABLE", "out_trade_no")
        return reply

    def _wap_address(self, request: PaymentRequest) -> str:
        business = self._trade(request, product_code="QUICK_WAP_WAY")
        if request.return_url:
            business["quit_url"] = request.return_url
        return self._address("alipay.trade.wap.pay", business, request)

    def _page_address(self, request: PaymentRequest) -> str:
        business = self._trade(request, product_code="FAST_INSTANT_TRADE_PAY")
        return self._address("alipay.trade.page.pay", business, request)

    def _address(self, method: str, business: dict[str, Any], request: PaymentRequest) -> str:
        return self._gateway.address(
            method, business, notify_url=request.notify_url, return_url=request.return_url or ""
        )

    def _trade(self, request: PaymentRequest, *, product_code: str) -> dict[str, Any]:
        expires_at = request.expires_at.astimezone(BEIJING)
        return {
            "out_trade_no": request.out_trade_no,
            "total_amount": yuan_from_fen(request.amount_fen),
            "subject": plain_words(
                request.description, forbidden=_NOT_IN_SUBJECT, characters=256, utf8_bytes=768
            ),
            "product_code": product_code,
            "seller_id": self._application.seller_id,
            "time_expire": expires_at.strftime("%Y-%m-%d %H:%M:%S"),
        }

    def _check_host(self, url: str) -> None:
        """A forged address must not make us fetch from our own network."""
        try:
            parsed = URL(url, encoded=True)
        except ValueError:
            raise ChannelUnknown("UNREADABLE", "bill address") from None
        is_web = parsed.scheme in ("http", "https") and parsed.user is None
        if not is_web or parsed.host not in self._application.bill_hosts:
            raise ChannelUnknown("FOREIGN_HOST", "bill file")

    def _bill_refusal(self, reply: Reply, day: date) -> Exception:
        """Before ten o'clock of the next day "no such bill" only says: not made yet."""
        spelled = reply.sub_code.lower().replace("-", "_")
        if "bill_not_exist" not in spelled:
            return reply.as_unknown()
        ready_at = datetime.combine(day + timedelta(days=1), _BILL_READY_AT, tzinfo=BEIJING)
        is_early = self._gateway.clock() < ready_at
        return (BillNotReady if is_early else NoBill)(reply.sub_code)


def _refusal(reply: Reply) -> ChannelRefused | ChannelUnknown:
    """The refusal is signed, so a business no is certain."""
    is_system_trouble = reply.sub_code.lower().endswith("unknow-error")
    if reply.code in _CERTAIN_CODES and reply.sub_code not in _MAYBE and not is_system_trouble:
        return ChannelRefused(
            reply.sub_code or reply.code, str(reply.node.get("sub_msg", ""))[:256]
        )
    return reply.as_unknown()


def _unreadable(disbelief: Disbelief) -> ChannelUnknown:
    return ChannelUnknown(disbelief.reason.upper(), str(disbelief))


def _field(reply: Reply, name: str, *, most: int) -> str:
    try:
        return text_of(reply.node, name, most=most)
    except Disbelief as disbelief:
        raise ChannelUnknown("UNREADABLE", name) from disbelief
