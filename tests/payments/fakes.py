"""A channel in memory that remembers what it was asked, and behaves like the real two."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import orjson

from estation.outside.pay_channels import (
    Channel,
    ChannelRefused,
    ChannelReport,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    NoticeAnswer,
    NoticeRejected,
    ParsedBill,
    PaymentRequest,
    PayTicket,
    RefundReport,
    RefundRequest,
    RefundStatus,
    ReportPart,
    Scene,
    VerifiedNotice,
)

NOW = datetime(2026, 8, 3, 2, 0, 0, tzinfo=UTC)  # 10:00 in Beijing


@dataclass
class Trade:
    request: PaymentRequest
    state: ChannelState
    trade_no: str
    paid_fen: int | None = None
    paid_at: datetime | None = None


@dataclass
class FakeRefund:
    request: RefundRequest
    status: RefundStatus
    channel_refund_no: str | None
    asked_at: datetime
    at: datetime | None = None


@dataclass
class FakeChannel:
    """WeChat Pay makes the trade at once, Alipay when it is scanned (`knows_unscanned`).

    WeChat Pay's refunds are processed until `finish`; Alipay's are done at once.
    """

    channel: Channel = Channel.WECHAT_PAY
    account_id: str = "wechat_pay:1900000109"
    knows_unscanned: bool = True
    trades: dict[str, Trade] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    trouble: dict[str, BaseException] = field(default_factory=dict)  # by verb, raised every time
    during: dict[str, Callable[[str], Awaitable[None]]] = field(default_factory=dict)
    busy: bool = False
    refunds: dict[str, FakeRefund] = field(default_factory=dict)  # by our refund number
    lost: dict[str, BaseException] = field(default_factory=dict)  # by verb, after it took effect
    balance_fen: int | None = None  # of the merchant; None: never short
    now: datetime = NOW

    async def open_payment(self, scene: Scene, request: PaymentRequest) -> PayTicket:
        await self._called("open", request.out_trade_no)
        state = ChannelState.NOT_PAID if self.knows_unscanned else ChannelState.NOT_FOUND
        number = f"4200{len(self.trades):024d}"
        self.trades.setdefault(request.out_trade_no, Trade(request, state, number))
        if scene in (Scene.JSAPI, Scene.MINI_PROGRAM):
            return PayTicket(jsapi_parameters={"package": f"prepay_id={request.out_trade_no}"})
        if scene is Scene.TRADE_CREATE:
            return PayTicket(trade_no=number)
        if scene in (Scene.WAP, Scene.PAGE, Scene.H5):
            return PayTicket(redirect_url=f"https://cashier/{request.out_trade_no}")
        return PayTicket(qr_content=f"code://{request.out_trade_no}")

    async def query(self, out_trade_no: str) -> ChannelReport:
        await self._called("query", out_trade_no)
        return self.report(out_trade_no)

    async def close(self, out_trade_no: str) -> CloseOutcome:
        await self._called("close", out_trade_no)
        trade = self.trades.get(out_trade_no)
        if trade is None or trade.state is ChannelState.NOT_FOUND:
            return CloseOutcome.NOT_FOUND
        if trade.state is ChannelState.PAID:
            return CloseOutcome.ALREADY_PAID
        if self.busy:
            return CloseOutcome.TRY_LATER
        trade.state = ChannelState.CLOSED
        return CloseOutcome.CLOSED

    async def refund(self, request: RefundRequest) -> RefundReport:
        await self._called("refund", request.refund_no)
        known = self.refunds.get(request.refund_no)
        if known is None:
            known = self.refunds[request.refund_no] = self._new_refund(request)
        elif known.request != request:
            raise ChannelRefused("INVALID_REQUEST", "other content under the same number")
        if "refund" in self.lost:
            raise self.lost["refund"]
        return self.refund_report(request.refund_no)

    async def query_refund(self, refund_no: str, *, out_trade_no: str) -> RefundReport:
        await self._called("query_refund", refund_no)
        if refund_no not in self.refunds:
            return RefundReport(
                self.channel, self.account_id, out_trade_no, refund_no, RefundStatus.NOT_FOUND
            )
        return self.refund_report(refund_no)

    async def redirect_refund(self, refund_no: str, *, channel_refund_no: str) -> RefundReport:
        await self._called("redirect_refund", refund_no)
        refund = self.refunds[refund_no]
        if self.channel is Channel.ALIPAY or refund.status is not RefundStatus.ABNORMAL:
            raise ChannelRefused("INVALID_REQUEST", "not abnormal")
        refund.status = RefundStatus.PROCESSING
        return self.refund_report(refund_no)

    def finish(
        self, refund_no: str, status: RefundStatus = RefundStatus.SUCCESS, *, at: datetime = NOW
    ) -> RefundReport:
        """The channel is done with a refund: from now on it says so."""
        refund = self.refunds[refund_no]
        refund.status = status
        refund.at = at if status is RefundStatus.SUCCESS else None
        return self.refund_report(refund_no)

    def refund_report(self, refund_no: str) -> RefundReport:
        """What the channel says of it now."""
        refund = self.refunds[refund_no]
        done = refund.status is RefundStatus.SUCCESS
        return RefundReport(
            channel=self.channel,
            account_id=self.account_id,
            out_trade_no=refund.request.out_trade_no,
            refund_no=refund_no,
            status=refund.status,
            channel_refund_no=refund.channel_refund_no,
            amount_fen=refund.request.amount_fen,
            at=refund.at,
            received_account="招商银行信用卡0403" if done else "",
        )

    def refund_notice(self, report: RefundReport) -> VerifiedNotice:
        """The news of a refund as a verified notice."""
        return VerifiedNotice(
            event_key=f"{report.refund_no}:{report.status}:{report.amount_fen}",
            kind=f"REFUND.{report.status.upper()}",
            out_trade_no=report.out_trade_no,
            report=None,
            plaintext={"out_refund_no": report.refund_no, "refund": report.amount_fen},
            refund=report,
        )

    def _new_refund(self, request: RefundRequest) -> FakeRefund:
        trade = self.trades.get(request.out_trade_no)
        if trade is None or trade.state is not ChannelState.PAID or trade.paid_fen is None:
            raise ChannelRefused("RESOURCE_NOT_EXISTS", "no such payment")
        of_trade = [
            one
            for one in self.refunds.values()
            if one.request.out_trade_no == request.out_trade_no
            and one.status is not RefundStatus.CLOSED
        ]
        given = sum(one.request.amount_fen for one in of_trade)
        if request.total_fen != trade.paid_fen or given + request.amount_fen > trade.paid_fen:
            raise ChannelRefused("INVALID_REQUEST", "over what was paid")
        if self.channel is Channel.WECHAT_PAY:
            if len(of_trade) >= 50:
                raise ChannelRefused("INVALID_REQUEST", "fifty refunds")
            if any(self.now - one.asked_at < timedelta(minutes=1) for one in of_trade):
                raise ChannelRefused("INVALID_REQUEST", "within a minute")
        if self.balance_fen is not None and self.balance_fen < request.amount_fen:
            is_alipay = self.channel is Channel.ALIPAY
            raise ChannelRefused("ACQ.SELLER_BALANCE_NOT_ENOUGH" if is_alipay else "NOT_ENOUGH")
        if self.channel is Channel.ALIPAY:
            return FakeRefund(request, RefundStatus.SUCCESS, None, self.now, self.now)
        number = f"5030{len(self.refunds):024d}"
        return FakeRefund(request, RefundStatus.PROCESSING, number, self.now)

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        if headers.get("wechatpay-signature") != "good":
            raise NoticeRejected("bad_signature")
        report = self.report(orjson.loads(body)["out_trade_no"])
        return self.notice(report)

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer:
        word = b"SUCCESS" if accepted else b"FAIL"
        return NoticeAnswer(status, "application/json", b'{"code":"%s"}' % word)

    async def download_bill(self, day: date) -> bytes:
        raise NotImplementedError

    def parse_bill(self, raw: bytes) -> ParsedBill:
        raise NotImplementedError

    def pay(self, out_trade_no: str, *, amount_fen: int | None = None, at: datetime = NOW) -> None:
        """The payer pays: from now on the channel says so."""
        trade = self.trades[out_trade_no]
        trade.state = ChannelState.PAID
        trade.paid_fen = amount_fen or trade.request.amount_fen
        trade.paid_at = at

    def report(self, out_trade_no: str) -> ChannelReport:
        """What the channel says of it now."""
        trade = self.trades.get(out_trade_no)
        if trade is None or trade.state is ChannelState.NOT_FOUND:
            return self._says(out_trade_no, ChannelState.NOT_FOUND)
        if trade.state is not ChannelState.PAID:
            return self._says(out_trade_no, trade.state)
        return ChannelReport(
            channel=self.channel,
            account_id=self.account_id,
            out_trade_no=out_trade_no,
            state=ChannelState.PAID,
            channel_trade_no=trade.trade_no,
            paid_fen=trade.paid_fen,
            paid_at=trade.paid_at,
            refunded_fen=self._refunded_fen(out_trade_no),
        )

    def _refunded_fen(self, out_trade_no: str) -> int | None:
        """Alipay tells how much it gave back so far; WeChat Pay does not."""
        if self.channel is Channel.WECHAT_PAY:
            return None
        return sum(
            one.request.amount_fen
            for one in self.refunds.values()
            if one.request.out_trade_no == out_trade_no and one.status is RefundStatus.SUCCESS
        )

    def notice(self, report: ChannelReport) -> VerifiedNotice:
        """The news of a report as a verified notice."""
        return VerifiedNotice(
            event_key=f"{report.out_trade_no}:{report.channel_trade_no}:{report.paid_fen}",
            kind="payment",
            out_trade_no=report.out_trade_no,
            report=report,
            plaintext={"out_trade_no": report.out_trade_no, "total": report.paid_fen},
        )

    def verbs(self, out_trade_no: str) -> list[str]:
        """What we were asked about one number, in order."""
        return [verb for verb, number in self.asked if number == out_trade_no]

    def _says(self, out_trade_no: str, state: ChannelState) -> ChannelReport:
        return ChannelReport(self.channel, self.account_id, out_trade_no, state)

    async def _called(self, verb: str, out_trade_no: str) -> None:
        self.asked.append((verb, out_trade_no))
        await asyncio.sleep(0)
        if verb in self.during:
            await self.during[verb](out_trade_no)
        if verb in self.trouble:
            raise self.trouble[verb]


@dataclass
class CombiningChannel(FakeChannel):
    """WeChat Pay's combined orders: one number for the payer, a trade for each part."""

    account_id: str = "wechat_combine:1900000100"

    def report(self, out_trade_no: str) -> ChannelReport:
        """The channel has no trade number of the whole: the combining number stands for it."""
        trade = self.trades.get(out_trade_no)
        if trade is None or trade.state is not ChannelState.PAID:
            return super().report(out_trade_no)
        parts = tuple(
            ReportPart(
                part.account_id,
                part.out_trade_no,
                ChannelState.PAID,
                channel_trade_no=f"{trade.trade_no}{turn:02d}",
                paid_fen=part.amount_fen,
                paid_at=trade.paid_at,
            )
            for turn, part in enumerate(trade.request.parts, start=1)
        )
        return ChannelReport(
            self.channel,
            self.account_id,
            out_trade_no,
            ChannelState.PAID,
            channel_trade_no=out_trade_no,
            paid_fen=sum(part.paid_fen or 0 for part in parts),
            paid_at=trade.paid_at,
            parts=parts,
        )


def wechat() -> FakeChannel:
    return FakeChannel()


def alipay() -> FakeChannel:
    return FakeChannel(Channel.ALIPAY, "alipay:2021000000000109", knows_unscanned=False)


UNKNOWN = ChannelUnknown("timeout")
