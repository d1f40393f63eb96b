"""WeChat Pay's combined orders (合单): one payment that pays several of our merchants at once.

Each sub-order is a trade of its own at its merchant: refunds and bills go through that
merchant's account.
Source: APIv3, 合单支付.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final, NoReturn
from urllib.parse import quote

from estation.outside.pay_channels import (
    COMBINED_SCENES,
    Channel,
    ChannelRefused,
    ChannelReport,
    ChannelState,
    ChannelUnknown,
    CloseOutcome,
    NoticeAnswer,
    ParsedBill,
    PaymentPart,
    PaymentRequest,
    PayTicket,
    RefundReport,
    RefundRequest,
    Scene,
    VerifiedNotice,
)
from estation.outside.pay_channels.believing import Disbelief, text_of
from estation.outside.pay_channels.calling import Answer
from estation.outside.pay_channels.payers import seal_payers
from estation.outside.pay_channels.wechat_pay import notices
from estation.outside.pay_channels.wechat_pay.answers import (
    close_outcome,
    object_in,
    opening_refusal,
)
from estation.outside.pay_channels.wechat_pay.combined_orders import (
    MOST_PARTS,
    combined_report_of,
    sub_orders_of,
)
from estation.outside.pay_channels.wechat_pay.signing import jsapi_parameters, nonce
from estation.outside.pay_channels.wechat_pay.transactions import order_description
from estation.outside.pay_channels.wechat_pay.transport import ErrorAnswer, Transport
from estation.shared.clock import BEIJING

_PATH: Final = "/v3/combine-transactions"
_CLOSE_OUTCOMES: Final = {
    ChannelState.PAID: CloseOutcome.ALREADY_PAID,
    ChannelState.CLOSED: CloseOutcome.CLOSED,
    ChannelState.PAYING: CloseOutcome.TRY_LATER,
    ChannelState.NOT_FOUND: CloseOutcome.NOT_FOUND,
}


class CombinedWechatPay:
    """Implements PayChannel for the combining merchant. `payees`: mchid -> account_id of every
    merchant of ours that a sub-order may pay."""

    channel: Final = Channel.WECHAT_PAY

    def __init__(self, transport: Transport, payees: Mapping[str, str]) -> None:
        self._transport = transport
        self._merchant = transport.merchant
        self._payees = dict(payees)
        self._mchids = {account_id: mchid for mchid, account_id in payees.items()}

    @property
    def account_id(self) -> str:
        return self._merchant.account_id

    async def open_payment(self, scene: Scene, request: PaymentRequest) -> PayTicket:
        """Idempotent for the same request. Raises ValueError for a scene without combined
        orders and for parts that are fewer than two, not ours, or not the whole sum."""
        if scene not in COMBINED_SCENES:
            raise ValueError(f"a combined order has no scene {scene}")
        order = self._order(scene, request)
        answer = await self._transport.call("POST", f"{_PATH}/{scene.value}", order)
        if answer.status != 200:
            raise opening_refusal(answer)
        ticket = object_in(answer)
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
                appid=self._merchant.appid,
                timestamp=int(self._transport.now().timestamp()),
                nonce=nonce(),
            )
        )

    async def query(self, out_trade_no: str) -> ChannelReport:
        """NOT_FOUND shortly after a timed-out opening is not final."""
        answer = await self._transport.call("GET", _order_path(out_trade_no))
        if answer.status == 200:
            return self._believed_report(answer, out_trade_no)
        error = ErrorAnswer.of(answer)
        if error.plain_code != "ORDERNOTEXIST":
            raise error.as_unknown()
        return ChannelReport(
            Channel.WECHAT_PAY, self.account_id, out_trade_no, ChannelState.NOT_FOUND
        )

    async def close(self, out_trade_no: str) -> CloseOutcome:
        """Safe to repeat. Asks first: closing takes exactly the original set of sub-orders."""
        report = await self.query(out_trade_no)
        if report.state is not ChannelState.NOT_PAID:
            return _CLOSE_OUTCOMES[report.state]
        body = {
            "combine_appid": self._merchant.appid,
            "sub_orders": [
                {"mchid": sub_order["mchid"], "out_trade_no": sub_order["out_trade_no"]}
                for sub_order in sub_orders_of(report.raw)
            ],
        }
        path = f"{_order_path(out_trade_no)}/close"
        try:
            answer = await self._transport.call("POST", path, body)
        except ChannelUnknown as unknown:
            # 202 here says that the payer is at the password box (USER_PAYING).
            if unknown.code == "HTTP_202":
                return CloseOutcome.TRY_LATER
            raise
        return close_outcome(answer) or await self._confirmed_close(out_trade_no)

    async def refund(self, request: RefundRequest) -> RefundReport:
        """Always refused: a sub-order is refunded at its own merchant account."""
        _not_offered()

    async def query_refund(self, refund_no: str, *, out_trade_no: str) -> RefundReport:
        _not_offered()

    async def redirect_refund(self, refund_no: str, *, channel_refund_no: str) -> RefundReport:
        _not_offered()

    def open_notice(self, headers: dict[str, str], body: bytes, *, now: datetime) -> VerifiedNotice:
        """See PayChannel: one notice for the whole order."""
        try:
            kind, plaintext = notices.open_envelope(self._transport, headers, body, now=now)
            news = notices.combined_news_of(self._merchant, self._payees, kind, plaintext)
        except Disbelief as disbelief:
            raise disbelief.as_rejection() from disbelief
        seal_payers(self._merchant.vault, news.plaintext)
        return news

    def notice_answer(self, *, accepted: bool, status: int = 200) -> NoticeAnswer:
        return notices.answer(accepted=accepted, status=status)

    async def download_bill(self, day: date) -> bytes:
        """Always refused: each sub-order is a row in its own merchant's bill."""
        _not_offered()

    def parse_bill(self, raw: bytes) -> ParsedBill:
        _not_offered()

    async def renew_certificates(self) -> bool:
        return await self._transport.renew_certificates()

    async def _confirmed_close(self, out_trade_no: str) -> CloseOutcome:
        """An error answer may be unsigned: that an order is closed must be a signed word."""
        report = await self.query(out_trade_no)
        return _CLOSE_OUTCOMES.get(report.state, CloseOutcome.TRY_LATER)

    def _believed_report(self, answer: Answer, out_trade_no: str) -> ChannelReport:
        try:
            report = combined_report_of(self._merchant, self._payees, object_in(answer))
        except Disbelief as disbelief:
            code = disbelief.reason.upper()
            raise ChannelUnknown(code, request_id=answer.request_id) from disbelief
        if report is None or report.out_trade_no != out_trade_no:
            raise ChannelUnknown("UNREADABLE", "state or number", request_id=answer.request_id)
        seal_payers(self._merchant.vault, report.raw)
        return report

    def _order(self, scene: Scene, request: PaymentRequest) -> dict[str, Any]:
        if not 2 <= len(request.parts) <= MOST_PARTS:
            raise ValueError(f"a combined order has 2 to {MOST_PARTS} parts")
        if sum(part.amount_fen for part in request.parts) != request.amount_fen:
            raise ValueError("the parts are not the whole sum")
        order: dict[str, Any] = {
            "combine_appid": self._merchant.appid,
            "combine_mchid": self._merchant.mchid,
            "combine_out_trade_no": request.out_trade_no,
            "sub_orders": [self._sub_order(request.out_trade_no, part) for part in request.parts],
            "time_expire": request.expires_at.astimezone(BEIJING).isoformat(timespec="seconds"),
            "notify_url": request.notify_url,
        }
        if scene is Scene.JSAPI:
            if not request.payer_openid:
                raise ValueError("JSAPI needs the payer's openid")
            order["combine_payer_info"] = {"openid": request.payer_openid}
        if request.payer_ip:
            order["scene_info"] = {"payer_client_ip": request.payer_ip}
        return order

    def _sub_order(self, number: str, part: PaymentPart) -> dict[str, Any]:
        mchid = self._mchids.get(part.account_id)
        if mchid is None or part.amount_fen <= 0:
            raise ValueError(f"no part of a combined order: {part.account_id} {part.amount_fen}")
        return {
            "mchid": mchid,
            # Required. It comes back in the merchant's own bill: there it names the whole.
            "attach": number,
            "amount": {"total_amount": part.amount_fen, "currency": "CNY"},
            "out_trade_no": part.out_trade_no,
            "description": order_description(part.description),
        }


def _order_path(out_trade_no: str) -> str:
    return f"{_PATH}/out-trade-no/{quote(out_trade_no, safe='')}"


def _not_offered() -> NoReturn:
    raise ChannelRefused("NOT_OFFERED", "the sub-order's own merchant account does this")
