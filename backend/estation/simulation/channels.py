"""WeChat Pay and Alipay in memory, with the real ones' rules and a weather of their own.

WeChat makes the trade when it is opened, Alipay when the payer scans it; a closed trade is never
paid, a refund number is never given back twice; what happened at a channel is kept here as the
truth that our books are measured against.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Protocol

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
    PaymentPart,
    PaymentRequest,
    PayTicket,
    RefundReport,
    RefundRequest,
    RefundStatus,
    ReportPart,
    Scene,
    VerifiedNotice,
)
from estation.simulation.hazards import Weather

QUICK_REFUND = timedelta(seconds=40)
FINAL_REFUNDS = frozenset({RefundStatus.SUCCESS, RefundStatus.CLOSED, RefundStatus.ABNORMAL})
STILL_PAYABLE = timedelta(minutes=5)
"""A payer who opened the code before its end may finish so much later."""


class Owner(Protocol):
    """The world a trade belongs to: its weather, and its ear for news."""

    weather: Weather

    def hear(self, channel: Channel, account_id: str, notice: VerifiedNotice) -> None: ...


@dataclass(slots=True)
class SimRefund:
    request: RefundRequest
    channel_refund_no: str
    status: RefundStatus
    ends_as: RefundStatus
    ends_at: datetime
    at: datetime | None = None


@dataclass(slots=True)
class Paid:
    """Money that reached one merchant account: an own trade of the channel, also in a 合单."""

    owner: Owner
    account_id: str
    out_trade_no: str
    trade_no: str
    amount_fen: int
    at: datetime
    refunds: dict[str, SimRefund] = field(default_factory=dict)

    def given_back_fen(self) -> int:
        done = (r for r in self.refunds.values() if r.status is RefundStatus.SUCCESS)
        return sum(refund.request.amount_fen for refund in done)

    def held_back_fen(self) -> int:
        """Given back, or on its way: no other refund may use it."""
        alive = (r for r in self.refunds.values() if r.status is not RefundStatus.CLOSED)
        return sum(refund.request.amount_fen for refund in alive)


@dataclass(slots=True)
class SimTrade:
    owner: Owner
    request: PaymentRequest
    state: ChannelState
    paid: list[Paid] = field(default_factory=list)
    is_busy: bool = False


class SimChannel:
    """Implements PayChannel for one merchant account, or for a combining one (with parts)."""

    def __init__(
        self,
        channel: Channel,
        account_id: str,
        clock: Callable[[], datetime],
        owner: Callable[[], Owner],
        ledger: dict[str, Paid],
    ) -> None:
        self._channel = channel
        self._account_id = account_id
        self._clock = clock
        self._owner = owner
        self.trades: dict[str, SimTrade] = {}
        self.paid = ledger  # by out_trade_no of the (sub-)order, over all accounts

    @property
    def channel(self) -> Channel:
        return self._channel

    @property
    def account_id(self) -> str:
        return self._account_id

    async def open_payment(self, scene: Scene, request: PaymentRequest) -> PayTicket:
        owner = self._owner()
        if owner.weather.strikes("open_unknown_before"):
            raise ChannelUnknown("timeout")
        if request.out_trade_no not in self.trades:
            if owner.weather.strikes("open_refused"):
                raise ChannelRefused("NO_AUTH")
            unseen = self._channel is Channel.ALIPAY and scene is not Scene.TRADE_CREATE
            state = ChannelState.NOT_FOUND if unseen else ChannelState.NOT_PAID
            self.trades[request.out_trade_no] = SimTrade(owner, request, state)
        if owner.weather.strikes("open_unknown_after"):
            raise ChannelUnknown("timeout")
        return _ticket(scene, request.out_trade_no)

    async def query(self, out_trade_no: str) -> ChannelReport:
        trade = self.trades.get(out_trade_no)
        if trade is not None and trade.owner.weather.strikes("query_unknown"):
            raise ChannelUnknown("HTTP_500")
        return self.report(out_trade_no)

    async def close(self, out_trade_no: str) -> CloseOutcome:
        trade = self.trades.get(out_trade_no)
        if trade is None or trade.state is ChannelState.NOT_FOUND:
            return CloseOutcome.NOT_FOUND
        if trade.owner.weather.strikes("close_unknown_before"):
            raise ChannelUnknown("timeout")
        if trade.state is ChannelState.PAID:
            return CloseOutcome.ALREADY_PAID
        if trade.is_busy:
            trade.is_busy = False  # the payer leaves the password box in the end
            return CloseOutcome.TRY_LATER
        trade.state = ChannelState.CLOSED
        if trade.owner.weather.strikes("close_unknown_after"):
            raise ChannelUnknown("timeout")
        return CloseOutcome.CLOSED

    async def refund(self, request: RefundRequest) -> RefundReport:
        paid = self.paid.get(request.out_trade_no)
        if paid is None or paid.account_id != self._account_id:
            raise ChannelRefused("RESOURCE_NOT_EXISTS")
        weather = paid.owner.weather
        if weather.strikes("refund_unknown_before"):
            raise ChannelUnknown("timeout")
        known = paid.refunds.get(request.refund_no)
        if known is None:
            if weather.strikes("refund_not_enough"):
                raise ChannelUnknown("NOT_ENOUGH")
            self._accept(paid, request, weather)
        elif known.request.amount_fen != request.amount_fen:
            raise ChannelRefused("INVALID_REQUEST", "another amount under the same number")
        if weather.strikes("refund_unknown_after"):
            raise ChannelUnknown("SYSTEM_ERROR")
        return self.refund_report(request.refund_no, paid)

    async def query_refund(self, refund_no: str, *, out_trade_no: str) -> RefundReport:
        paid = self.paid.get(out_trade_no)
        if paid is None or refund_no not in paid.refunds:
            return RefundReport(
                self._channel, self._account_id, out_trade_no, refund_no, RefundStatus.NOT_FOUND
            )
        if paid.owner.weather.strikes("query_unknown"):
            raise ChannelUnknown("HTTP_500")
        return self.refund_report(refund_no, paid)

    async def redirect_refund(self, refund_no: str, *, channel_refund_no: str) -> RefundReport:
        for paid in self.paid.values():
            refund = paid.refunds.get(refund_no)
            if refund is not None and refund.status is RefundStatus.ABNORMAL:
                refund.status, refund.ends_as = RefundStatus.PROCESSING, RefundStatus.SUCCESS
                refund.ends_at = self._clock() + QUICK_REFUND
                return self.refund_report(refund_no, paid)
        raise ChannelRefused("RESOURCE_NOT_EXISTS")

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        raise NoticeRejected("malformed")  # news comes to the doorbell as verified notices here

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer:
        return NoticeAnswer(200 if accepted else status, "application/json", b"{}")

    async def download_bill(self, day: date) -> bytes:
        raise ChannelUnknown("NOT_OFFERED", "bills are not part of these worlds")

    def parse_bill(self, raw: bytes) -> ParsedBill:
        raise ValueError("bills are not part of these worlds")

    # What payers and time do.

    def may_be_paid(self, out_trade_no: str) -> bool:
        trade = self.trades[out_trade_no]
        ended = trade.state in (ChannelState.CLOSED, ChannelState.PAID)
        return not ended and self._clock() <= trade.request.expires_at + STILL_PAYABLE

    def pay(self, out_trade_no: str, *, amount_fen: int, at: datetime) -> None:
        """The payer pays; one notice for the whole is on its way."""
        trade = self.trades[out_trade_no]
        trade.state = ChannelState.PAID
        parts = trade.request.parts or (
            PaymentPart(self._account_id, out_trade_no, trade.request.amount_fen, ""),
        )
        error = amount_fen - trade.request.amount_fen
        for part in parts:
            paid = Paid(
                trade.owner,
                part.account_id,
                part.out_trade_no,
                f"T{part.out_trade_no}",
                part.amount_fen + (error if part is parts[-1] else 0),
                at,
            )
            trade.paid.append(paid)
            self.paid[part.out_trade_no] = paid
        trade.owner.hear(self._channel, self._account_id, self.payment_notice(out_trade_no))

    def let_refunds_end(self) -> None:
        """Refunds whose time has come end as it was drawn, and news of it goes out."""
        now = self._clock()
        for trade in self.trades.values():
            for paid in trade.paid:
                for refund in paid.refunds.values():
                    if refund.status is RefundStatus.PROCESSING and refund.ends_at <= now:
                        refund.status = refund.ends_as
                        refund.at = now
                        notice = self.refund_notice(trade, paid, refund)
                        trade.owner.hear(self._channel, paid.account_id, notice)

    # What the channel says.

    def report(self, out_trade_no: str) -> ChannelReport:
        trade = self.trades.get(out_trade_no)
        state = trade.state if trade else ChannelState.NOT_FOUND
        if trade is None or not trade.paid:
            return ChannelReport(self._channel, self._account_id, out_trade_no, state)
        is_combined = bool(trade.request.parts)
        back = sum(paid.given_back_fen() for paid in trade.paid)
        return ChannelReport(
            channel=self._channel,
            account_id=self._account_id,
            out_trade_no=out_trade_no,
            state=ChannelState.PAID,
            channel_trade_no=out_trade_no if is_combined else trade.paid[0].trade_no,
            paid_fen=sum(paid.amount_fen for paid in trade.paid),
            paid_at=max(paid.at for paid in trade.paid),
            refunded_fen=back if back and self._channel is Channel.ALIPAY else None,
            parts=tuple(_part(paid) for paid in trade.paid) if is_combined else (),
        )

    def refund_report(self, refund_no: str, paid: Paid) -> RefundReport:
        refund = paid.refunds[refund_no]
        is_done = refund.status is RefundStatus.SUCCESS
        return RefundReport(
            channel=self._channel,
            account_id=paid.account_id,
            out_trade_no=paid.out_trade_no,
            refund_no=refund_no,
            status=refund.status,
            channel_refund_no=refund.channel_refund_no,
            amount_fen=refund.request.amount_fen if is_done else None,
            at=refund.at if is_done else None,
        )

    def payment_notice(self, out_trade_no: str) -> VerifiedNotice:
        report = self.report(out_trade_no)
        return VerifiedNotice(
            event_key=f"{out_trade_no}:{report.channel_trade_no}:{report.paid_fen}",
            kind="TRANSACTION.SUCCESS",
            out_trade_no=out_trade_no,
            report=report,
            plaintext={"out_trade_no": out_trade_no, "total": report.paid_fen},
        )

    def refund_notice(self, trade: SimTrade, paid: Paid, refund: SimRefund) -> VerifiedNotice:
        """WeChat tells of the refund alone; Alipay repeats the payment with its refund fee."""
        number = refund.request.refund_no
        is_alipay = self._channel is Channel.ALIPAY
        return VerifiedNotice(
            event_key=f"REFUND:{number}:{refund.status}",
            kind="trade_status_sync" if is_alipay else f"REFUND.{refund.status.upper()}",
            out_trade_no=paid.out_trade_no,
            report=self.report(trade.request.out_trade_no) if is_alipay else None,
            plaintext={"out_refund_no": number, "status": refund.status},
            refund=self.refund_report(number, paid),
        )

    def _accept(self, paid: Paid, request: RefundRequest, weather: Weather) -> None:
        if request.amount_fen > paid.amount_fen - paid.held_back_fen():
            raise ChannelRefused("INVALID_REQUEST", "more than is left")
        if weather.strikes("refund_refused"):
            raise ChannelRefused("NO_AUTH")
        ends_as = RefundStatus.SUCCESS
        if weather.strikes("refund_abnormal"):
            ends_as = RefundStatus.ABNORMAL
        elif weather.strikes("refund_closed"):
            ends_as = RefundStatus.CLOSED
        paid.refunds[request.refund_no] = SimRefund(
            request,
            f"R{request.refund_no}",
            RefundStatus.PROCESSING,
            ends_as,
            self._clock() + QUICK_REFUND,
        )


def _part(paid: Paid) -> ReportPart:
    return ReportPart(
        paid.account_id,
        paid.out_trade_no,
        ChannelState.PAID,
        paid.trade_no,
        paid.amount_fen,
        paid.at,
    )


def _ticket(scene: Scene, out_trade_no: str) -> PayTicket:
    if scene in (Scene.JSAPI, Scene.MINI_PROGRAM):
        return PayTicket(jsapi_parameters={"package": f"prepay_id={out_trade_no}"})
    if scene in (Scene.WAP, Scene.PAGE, Scene.H5):
        return PayTicket(redirect_url=f"https://cashier/{out_trade_no}")
    if scene is Scene.TRADE_CREATE:
        return PayTicket(trade_no=f"T{out_trade_no}")
    return PayTicket(qr_content=f"code://{out_trade_no}")
