"""WeChat Pay and Alipay in memory, with the real ones' rules and a weather of their own.

WeChat makes the trade when it is opened, Alipay when the payer scans it; a closed trade is never
paid, a refund number is never given back twice; of a combined order all parts are paid or none,
each at its own merchant, and given back there. What happened at a channel is kept here as the
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
LANDS_AFTER = timedelta(minutes=3)
"""A request whose answer never came takes effect so much later."""

APART = timedelta(minutes=1)
"""WeChat takes refunds of one trade no closer together."""

STILL_PAYABLE = timedelta(minutes=5)
"""A payer who opened the code before its end may finish so much later."""


class Owner(Protocol):
    """The world a trade belongs to: its weather, and its ear for news."""

    weather: Weather

    def hear(
        self, channel: Channel, account_id: str, notice: VerifiedNotice, *, surely: bool = False
    ) -> None: ...


class Bills(Protocol):
    """Where the bills of merchant accounts are to be had."""

    def download(self, account_id: str, day: date) -> bytes: ...

    def parse(self, raw: bytes) -> ParsedBill: ...


@dataclass(slots=True)
class SimRefund:
    request: RefundRequest
    channel_refund_no: str
    status: RefundStatus
    ends_as: RefundStatus
    ends_at: datetime
    lands_at: datetime
    asked_at: datetime
    at: datetime | None = None
    after_all_at: datetime | None = None  # closed, and then it turned out to have succeeded


@dataclass(slots=True)
class Paid:
    """Money that reached one merchant account: an own trade of the channel, also in a 合单."""

    owner: Owner
    account_id: str
    whole_no: str  # the combining number, where it is a part; else its own
    out_trade_no: str
    trade_no: str
    amount_fen: int
    at: datetime
    refunds: dict[str, SimRefund] = field(default_factory=dict)

    @property
    def is_part(self) -> bool:
        return self.whole_no != self.out_trade_no

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
    lands_at: datetime
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
        bills: Bills | None = None,
    ) -> None:
        self._channel = channel
        self._account_id = account_id
        self._clock = clock
        self._owner = owner
        self._bills = bills  # None: a combining account has none of its own
        self.trades: dict[str, SimTrade] = {}
        self.paid = ledger  # by out_trade_no of the (sub-)order, over all accounts
        self.noes: set[str] = set()  # refund numbers that certainly will not be given back

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
        trade = self.trades.get(request.out_trade_no)
        if trade is None:
            if owner.weather.strikes("open_refused"):
                raise ChannelRefused("NO_AUTH")
            trade = self._open(owner, scene, request)
            if owner.weather.strikes("open_lands_late"):
                trade.lands_at += LANDS_AFTER
                raise ChannelUnknown("timeout")
        elif trade.state is ChannelState.PAID:
            raise ChannelRefused("ORDERPAID")
        elif trade.state is ChannelState.CLOSED:
            raise ChannelRefused("ORDER_CLOSED")
        elif trade.request.parts != request.parts:
            raise ChannelRefused("OUT_TRADE_NO_USED")
        trade.lands_at = min(trade.lands_at, self._clock())
        if owner.weather.strikes("open_unknown_after"):
            raise ChannelUnknown("timeout")
        if request.parts:
            owner.weather.note(f"combined_{scene}_code")
        return _ticket(scene, request.out_trade_no)

    async def query(self, out_trade_no: str) -> ChannelReport:
        trade = self.trades.get(out_trade_no)
        if trade is not None and trade.owner.weather.strikes("query_unknown"):
            raise ChannelUnknown("HTTP_500")
        return self.report(out_trade_no)

    async def close(self, out_trade_no: str) -> CloseOutcome:
        trade = self._landed(out_trade_no)
        if trade is None or trade.state is ChannelState.NOT_FOUND:
            return CloseOutcome.NOT_FOUND
        weather = trade.owner.weather
        if weather.strikes("close_unknown_before"):
            raise ChannelUnknown("timeout")
        if trade.state is ChannelState.PAID:
            return CloseOutcome.ALREADY_PAID
        if trade.is_busy:
            trade.is_busy = False  # the payer leaves the password box in the end
            return CloseOutcome.TRY_LATER
        if trade.request.parts and trade.state is not ChannelState.CLOSED:
            weather.note("combined_order_closed_at_the_channel")
        trade.state = ChannelState.CLOSED
        if weather.strikes("close_unknown_after"):
            raise ChannelUnknown("timeout")
        return CloseOutcome.CLOSED

    async def refund(self, request: RefundRequest) -> RefundReport:
        paid = self.paid.get(request.out_trade_no)
        if paid is None or paid.account_id != self._account_id:
            raise ChannelRefused("RESOURCE_NOT_EXISTS")
        if request.total_fen != paid.amount_fen:
            raise ChannelRefused("INVALID_REQUEST", "another total than was paid")
        weather = paid.owner.weather
        if weather.strikes("refund_unknown_before"):
            raise ChannelUnknown("timeout")
        known = paid.refunds.get(request.refund_no)
        if known is None:
            if self._is_too_soon(paid):
                raise ChannelUnknown("FREQUENCY_LIMITED")
            if weather.strikes("refund_not_enough"):
                raise ChannelUnknown("NOT_ENOUGH")
            known = self._accept(paid, request, weather)
            if weather.strikes("refund_lands_late"):
                known.lands_at += LANDS_AFTER
                known.ends_at += LANDS_AFTER
                raise ChannelUnknown("timeout")
        elif known.request.amount_fen != request.amount_fen:
            raise ChannelRefused("INVALID_REQUEST", "another amount under the same number")
        known.lands_at = min(known.lands_at, self._clock())
        if weather.strikes("refund_unknown_after"):
            raise ChannelUnknown("SYSTEM_ERROR")
        return self.refund_report(request.refund_no, paid)

    async def query_refund(self, refund_no: str, *, out_trade_no: str) -> RefundReport:
        paid = self.paid.get(out_trade_no)
        refund = paid.refunds.get(refund_no) if paid else None
        is_here = paid is not None and paid.account_id == self._account_id
        if paid is None or refund is None or not is_here or refund.lands_at > self._clock():
            return RefundReport(
                self._channel, self._account_id, out_trade_no, refund_no, RefundStatus.NOT_FOUND
            )
        if paid.owner.weather.strikes("query_unknown"):
            raise ChannelUnknown("HTTP_500")
        return self.refund_report(refund_no, paid)

    async def redirect_refund(self, refund_no: str, *, channel_refund_no: str) -> RefundReport:
        if self._channel is Channel.ALIPAY:
            raise ChannelRefused("NOT_OFFERED")
        for paid in self.paid.values():
            refund = paid.refunds.get(refund_no)
            is_here = paid.account_id == self._account_id
            if is_here and refund is not None and refund.status is RefundStatus.ABNORMAL:
                refund.status, refund.ends_as = RefundStatus.PROCESSING, RefundStatus.SUCCESS
                refund.ends_at = self._clock() + QUICK_REFUND
                return self.refund_report(refund_no, paid)
        raise ChannelRefused("RESOURCE_NOT_EXISTS")

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        raise NoticeRejected("malformed")  # news comes to the doorbell as verified notices here

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer:
        return NoticeAnswer(200 if accepted else status, "application/json", b"{}")

    async def download_bill(self, day: date) -> bytes:
        if self._bills is None:
            raise ChannelUnknown("NOT_OFFERED")
        return self._bills.download(self._account_id, day)

    def parse_bill(self, raw: bytes) -> ParsedBill:
        if self._bills is None:
            raise ValueError("no bills here")
        return self._bills.parse(raw)

    # What payers and time do.

    def may_be_paid(self, out_trade_no: str) -> bool:
        trade = self._landed(out_trade_no)
        if trade is None or trade.state in (ChannelState.CLOSED, ChannelState.PAID):
            return False
        return self._clock() <= trade.request.expires_at + STILL_PAYABLE

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
                out_trade_no,
                part.out_trade_no,
                f"T{part.out_trade_no}",
                part.amount_fen + (error if part is parts[-1] else 0),
                at,
            )
            trade.paid.append(paid)
            self.paid[part.out_trade_no] = paid
        if trade.request.parts:
            trade.owner.weather.note("combined_payment")
        trade.owner.hear(self._channel, self._account_id, self.payment_notice(out_trade_no))

    def let_refunds_end(self) -> None:
        """Refunds whose time has come end as it was drawn, and news of it goes out. A closed one
        may turn out to have succeeded, whatever was decided about its money since."""
        now = self._clock()
        for trade in self.trades.values():
            for paid in trade.paid:
                for refund in paid.refunds.values():
                    if refund.status is RefundStatus.CLOSED:
                        self._perhaps_after_all(trade, paid, refund)
                    elif refund.status is RefundStatus.PROCESSING and refund.ends_at <= now:
                        refund.status = refund.ends_as
                        refund.at = now
                        if refund.status is RefundStatus.CLOSED:
                            self.noes.add(refund.request.refund_no)
                        _note_end(paid, refund)
                        notice = self.refund_notice(trade, paid, refund)
                        trade.owner.hear(self._channel, paid.account_id, notice)

    def closed_refund(self, refund_no: str, *, out_trade_no: str) -> SimRefund | None:
        """The refund, if the channel took it and then said that it was closed."""
        paid = self.paid.get(out_trade_no)
        refund = paid.refunds.get(refund_no) if paid else None
        return refund if refund is not None and refund.status is RefundStatus.CLOSED else None

    def _perhaps_after_all(self, trade: SimTrade, paid: Paid, refund: SimRefund) -> None:
        """The news of it is not lost for good: where no notice comes the day's bill names the
        refund, for a person."""
        now = self._clock()
        if refund.after_all_at is None:
            if not paid.owner.weather.strikes("closed_refund_given_back_after_all"):
                return
            refund.after_all_at = now
        if now < refund.after_all_at:
            return
        refund.status, refund.at = RefundStatus.SUCCESS, now
        self.noes.discard(refund.request.refund_no)
        notice = self.refund_notice(trade, paid, refund)
        trade.owner.hear(self._channel, paid.account_id, notice, surely=True)

    # What the channel says.

    def report(self, out_trade_no: str) -> ChannelReport:
        trade = self._landed(out_trade_no)
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
            # WeChat tells as soon as a refund was accepted, and not how much.
            was_refunded=self._channel is Channel.WECHAT_PAY
            and any(paid.held_back_fen() for paid in trade.paid),
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

    def _landed(self, out_trade_no: str) -> SimTrade | None:
        """The trade, once what was asked has taken effect."""
        trade = self.trades.get(out_trade_no)
        return trade if trade is not None and trade.lands_at <= self._clock() else None

    def _open(self, owner: Owner, scene: Scene, request: PaymentRequest) -> SimTrade:
        if sum(part.amount_fen for part in request.parts) not in (0, request.amount_fen):
            raise ChannelRefused("PARAM_ERROR", "the parts are not the whole")
        unseen = self._channel is Channel.ALIPAY and scene is not Scene.TRADE_CREATE
        state = ChannelState.NOT_FOUND if unseen else ChannelState.NOT_PAID
        trade = SimTrade(owner, request, state, self._clock())
        self.trades[request.out_trade_no] = trade
        return trade

    def _is_too_soon(self, paid: Paid) -> bool:
        since = self._clock() - APART
        is_wechat = self._channel is Channel.WECHAT_PAY
        return is_wechat and any(one.asked_at > since for one in paid.refunds.values())

    def _accept(self, paid: Paid, request: RefundRequest, weather: Weather) -> SimRefund:
        if request.amount_fen > paid.amount_fen - paid.held_back_fen():
            if any(one.after_all_at for one in paid.refunds.values()):
                self.noes.add(request.refund_no)  # asked before we heard that it was given back
            raise ChannelRefused("INVALID_REQUEST", "more than is left")
        if weather.strikes("refund_refused"):
            self.noes.add(request.refund_no)
            raise ChannelRefused("NO_AUTH")
        ends_as = RefundStatus.SUCCESS
        # Alipay knows no abnormal refund: it succeeds, or it does not happen.
        if self._channel is Channel.WECHAT_PAY and weather.strikes("refund_abnormal"):
            ends_as = RefundStatus.ABNORMAL
        elif weather.strikes("refund_closed"):
            ends_as = RefundStatus.CLOSED
        now = self._clock()
        accepted = SimRefund(
            request,
            f"R{request.refund_no}",
            RefundStatus.PROCESSING,
            ends_as,
            ends_at=now + QUICK_REFUND,
            lands_at=now,
            asked_at=now,
        )
        paid.refunds[request.refund_no] = accepted
        return accepted


def _note_end(paid: Paid, refund: SimRefund) -> None:
    weather = paid.owner.weather
    if not paid.is_part:
        return
    if refund.status in (RefundStatus.ABNORMAL, RefundStatus.CLOSED):
        weather.note(f"combined_part_refund_{refund.status}")
    elif refund.request.amount_fen < paid.amount_fen:
        weather.note("combined_part_given_back_in_part")


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
