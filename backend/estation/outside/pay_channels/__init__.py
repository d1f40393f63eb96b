"""What a payment channel can do for us. One module here per real channel.

Each channel translates its own words into these in tables; nothing above this package knows a
vendor's status name. Money is integer fen; moments carry a time zone.
"""

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Protocol


class Channel(StrEnum):
    WECHAT_PAY = "wechat_pay"
    ALIPAY = "alipay"


class Scene(StrEnum):
    """Where the payer stands when paying."""

    NATIVE = "native"  # WeChat Pay: QR on another screen
    JSAPI = "jsapi"  # WeChat Pay: inside WeChat, official account
    MINI_PROGRAM = "mini_program"  # WeChat Pay: inside WeChat, mini-program
    H5 = "h5"  # WeChat Pay: mobile browser
    PRECREATE = "precreate"  # Alipay: QR on another screen
    WAP = "wap"  # Alipay: mobile browser
    PAGE = "page"  # Alipay: desktop browser
    TRADE_CREATE = "trade_create"  # Alipay: inside Alipay, JSAPI or mini-program


SCENES: dict[Channel, frozenset[Scene]] = {
    Channel.WECHAT_PAY: frozenset({Scene.NATIVE, Scene.JSAPI, Scene.MINI_PROGRAM, Scene.H5}),
    Channel.ALIPAY: frozenset({Scene.PRECREATE, Scene.WAP, Scene.PAGE, Scene.TRADE_CREATE}),
}

COMBINED_SCENES = frozenset({Scene.NATIVE, Scene.JSAPI})
"""Where one payment may pay several merchants at once (合单)."""


class ChannelState(StrEnum):
    """What the channel says of one out_trade_no."""

    NOT_PAID = "not_paid"
    PAYING = "paying"  # The payer is at the password box.
    PAID = "paid"  # Also when refunded wholly or partly later: the payment did happen.
    CLOSED = "closed"  # Certain: never paid and never payable again.
    NOT_FOUND = "not_found"  # Not the same as closed: a timed-out opening may still land.


class CloseOutcome(StrEnum):
    CLOSED = "closed"
    ALREADY_PAID = "already_paid"
    TRY_LATER = "try_later"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class PaymentPart:
    """A sub-order of a combined payment (合单): what one payee's own merchant account gets."""

    account_id: str
    out_trade_no: str
    amount_fen: int
    description: str


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """What we ask a channel to collect. `parts` only for a combining account; their sum is
    `amount_fen`. `payer_openid` is WeChat's openid of the paying appid, or Alipay's buyer
    open id."""

    out_trade_no: str
    amount_fen: int
    description: str
    expires_at: datetime
    notify_url: str
    return_url: str | None = None
    payer_openid: str | None = None
    payer_ip: str | None = None
    parts: tuple[PaymentPart, ...] = ()


@dataclass(frozen=True, slots=True)
class PayTicket:
    """What the payer's device needs; exactly one of the four is set."""

    qr_content: str | None = None
    jsapi_parameters: dict[str, str] | None = None
    redirect_url: str | None = None
    trade_no: str | None = None  # Alipay's trade for `my.tradePay`


@dataclass(frozen=True, slots=True)
class ReportPart:
    """The channel's word on one sub-order; each is a trade of its own at its merchant account."""

    account_id: str
    out_trade_no: str
    state: ChannelState
    channel_trade_no: str | None = None
    paid_fen: int | None = None
    paid_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """The channel's word on one out_trade_no, its signature and our identity in it verified.

    `account_id` is OUR merchant account that received it (identity checks are the channel
    module's duty: mchid/appid/currency or app_id/seller_id). `paid_fen` is the order total the
    payer was charged for (WeChat amount.total, Alipay total_amount), set when state is PAID.
    `refunded_fen` is cumulative where the channel tells it, else None; `was_refunded` where it
    tells only that some of it was given back (WeChat's trade state REFUND).

    A combined payment has `parts`: it is PAID as soon as any part is, `out_trade_no` and
    `channel_trade_no` are the combining number (the channel has no trade number of the whole),
    `paid_fen` is the sum of the paid parts and `paid_at` the latest of their moments.
    """

    channel: Channel
    account_id: str
    out_trade_no: str
    state: ChannelState
    channel_trade_no: str | None = None
    paid_fen: int | None = None
    paid_at: datetime | None = None
    refunded_fen: int | None = None
    was_refunded: bool = False
    raw: dict[str, Any] = field(default_factory=dict)
    parts: tuple[ReportPart, ...] = ()


class RefundStatus(StrEnum):
    """What the channel says of one refund number."""

    PROCESSING = "processing"  # Accepted; the money may still not move.
    SUCCESS = "success"  # The money is back with the payer.
    CLOSED = "closed"  # Certain: it did not and will not happen; the money is still ours.
    ABNORMAL = "abnormal"  # The payer's account cannot take it; a person must say where to.
    NOT_FOUND = "not_found"  # Not the same as closed: a timed-out request may still land.


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """What we ask a channel to give back. A retry repeats every field, above all the number."""

    refund_no: str
    out_trade_no: str
    channel_trade_no: str
    amount_fen: int
    total_fen: int  # of the payment, or of the sub-order
    reason: str
    notify_url: str


@dataclass(frozen=True, slots=True)
class RefundReport:
    """The channel's word on one refund number, verified like a ChannelReport.

    `amount_fen` is this refund's own amount (never a cumulative one), `at` the moment the money
    arrived; both set when status is SUCCESS. `received_account` is the channel's words for where
    it went, safe to show to the payer.
    """

    channel: Channel
    account_id: str
    out_trade_no: str
    refund_no: str
    status: RefundStatus
    channel_refund_no: str | None = None
    amount_fen: int | None = None
    at: datetime | None = None
    received_account: str = ""
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VerifiedNotice:
    """A notice whose signature, age, encryption and addressee were all right.

    `event_key` is equal for re-deliveries of the same news and different for other news
    (not the vendor's notify id alone: WeChat may repeat news under another id).
    `report` is None for news that is not about a payment's state (refund news, echo): kept too.
    `refund` is set for news about one refund number. `out_trade_no` is "" when the news names
    none.
    """

    event_key: str
    kind: str
    out_trade_no: str
    report: ChannelReport | None
    plaintext: dict[str, Any]
    refund: RefundReport | None = None


@dataclass(frozen=True, slots=True)
class NoticeAnswer:
    """What to say to the channel, byte for byte."""

    status: int
    content_type: str
    body: bytes


class ChannelError(Exception):
    """Base of what can go wrong when asking a channel."""

    def __init__(self, code: str, message: str = "", *, request_id: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.request_id = request_id


class ChannelRefused(ChannelError):
    """A final, certain no: the channel did nothing and will do nothing with this request."""


class ChannelUnknown(ChannelError):
    """Time-out, 5xx, 202, unsigned or unverifiable answer: it may or may not have happened."""


class BillNotReady(ChannelError):
    """The day's bill is not made yet; ask again later."""


class NoBill(ChannelError):
    """The channel says there was no trade that day. Cross-check with the ledger."""


class NoticeRejected(Exception):
    """A notice we do not believe; nothing of it may have an effect.

    `reason` is one of: malformed, unsigned, bad_signature, stale, future, unknown_serial,
    undecryptable, wrong_addressee, not_money. `status` is the HTTP status for the channel.
    """

    def __init__(self, reason: str, *, status: int = 401) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass(frozen=True, slots=True)
class BillRow:
    """One line of a channel's trade bill in our words. Refund rows carry a refund number."""

    kind: str  # "payment" | "refund"
    out_trade_no: str
    channel_trade_no: str
    refund_no: str | None
    amount_fen: int  # always positive; `kind` gives the direction
    fee_fen_e3: int  # the channel's fee in thousandths of a fen (WeChat prints 5 decimals), signed
    at: datetime
    state: str  # the channel's own word
    line_no: int


@dataclass(frozen=True, slots=True)
class ParsedBill:
    """A bill that was read whole; `proof` lists each check against its own summary.

    `settlement_fen` is what the bill's own totals say the channel will pay out: receipts less
    refunds less fees; None where it does not state them.
    """

    rows: list[BillRow]
    proof: dict[str, tuple[str, str]]  # check name -> (computed, stated); all equal = proven
    settlement_fen: int | None = None

    @property
    def is_proven(self) -> bool:
        return bool(self.proof) and all(ours == theirs for ours, theirs in self.proof.values())


class PayChannel(Protocol):
    """One merchant account at one channel. Every call has a time limit.

    All async methods raise ChannelUnknown when the truth cannot be known, ChannelRefused for a
    certain business refusal.
    """

    @property
    def channel(self) -> Channel: ...

    @property
    def account_id(self) -> str: ...

    async def open_payment(self, scene: Scene, request: PaymentRequest) -> PayTicket: ...

    async def query(self, out_trade_no: str) -> ChannelReport: ...

    async def close(self, out_trade_no: str) -> CloseOutcome: ...

    async def refund(self, request: RefundRequest) -> RefundReport:
        """Ask for a refund; repeating the same request never gives back twice.

        PROCESSING is the usual answer; only SUCCESS and CLOSED are ends. Raises ChannelRefused
        for a certain no (nothing was given back under this number), ChannelUnknown otherwise.
        """
        ...

    async def query_refund(self, refund_no: str, *, out_trade_no: str) -> RefundReport: ...

    async def redirect_refund(self, refund_no: str, *, channel_refund_no: str) -> RefundReport:
        """Have an ABNORMAL refund paid to the merchant's own bank card instead, from where
        finance pays the citizen by transfer. Raises ChannelRefused where the channel has no
        such way."""
        ...

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        """Verify over the raw bytes and translate. CPU only. Raises NoticeRejected.

        `headers` has lower-case names.
        """
        ...

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer: ...

    async def download_bill(self, day: date) -> bytes:
        """The day's trade bill as the channel sent it (after its transport hash was checked).

        Raises BillNotReady, NoBill.
        """
        ...

    def parse_bill(self, raw: bytes) -> ParsedBill:
        """Raises ValueError naming the line when the file is not a bill of this channel."""
        ...
