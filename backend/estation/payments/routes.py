"""The channels' doorbell and the JSON interface to pay orders.

A channel's notice is verified over its raw bytes, settled together with those that arrive at
the same time, and answered only after the commit.
"""

import functools
import time
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter, Histogram
from sanic import Blueprint, HTTPResponse
from sanic.response import empty, raw

from estation.fees.api import BillChanged, BillNotPayable
from estation.fees.errors import BillNotFound
from estation.identity.api import address_key, address_of, citizen, citizen_only, public
from estation.outside.pay_channels import Channel, NoticeRejected, PayChannel, Scene, VerifiedNotice
from estation.outside.pay_channels.messages import sealed_message
from estation.payments.actions.inbox import keep_unhandled
from estation.payments.api import (
    AttemptView,
    BillChoice,
    CitizenRefund,
    OrderView,
    Outcome,
    SettleItem,
    cancel_order,
    from_notice,
    open_attempt,
    order_of,
    refresh_order,
    refunds_of_order,
    settle_batch,
    start_order,
)
from estation.payments.errors import (
    AmountChanged,
    AnotherAttemptLive,
    ChannelTrouble,
    OrderAlreadyOpen,
    OrderNotFound,
    OrderNotOpen,
    SceneNotOffered,
)
from estation.services import OnlineApp, OnlineRequest, Services
from estation.shared.bodies import json_body
from estation.shared.collecting import calm_the_collector
from estation.shared.errors import NotFound
from estation.shared.fields import MAX_FEN
from estation.shared.gather import Gatherer, Overloaded
from estation.shared.limiting import FloodBound
from estation.shared.openapi import described
from estation.shared.replies import json_reply
from estation.shared.turnstile import Turnstile

log = structlog.get_logger()

bp = Blueprint("payments_api")

MAX_NOTICE_BYTES = 64 * 1024
SIGNED_BY = ("wechatpay-", "content-type")

REFUSED_NOTICES = Counter(
    "estation_notices_refused", "Notices we did not believe", ["channel", "reason"]
)
FAILED_NOTICES = Counter(
    "estation_notices_failed", "Believed notices not settled at once", ["channel"]
)


ACK_SECONDS = Histogram(
    "estation_notice_ack_seconds",
    "From a believed notice's arrival to its answer",
    ["channel"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4),
)


class BillBody(msgspec.Struct, forbid_unknown_fields=True):
    bill_id: UUID
    version: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """`expected_fen`: the sum the asker believes, so that nobody pays a surprise."""

    bills: list[BillBody]
    expected_fen: Annotated[int, msgspec.Meta(ge=1, le=MAX_FEN)]


class AttemptBody(msgspec.Struct, forbid_unknown_fields=True):
    """`buyer_open_id`: Alipay's, for the scene trade_create; it says whose wallet is asked, and
    nothing about whose bill it is."""

    channel: Channel
    scene: Scene
    buyer_open_id: str = ""

    def __post_init__(self) -> None:
        if len(self.buyer_open_id) > 128:
            raise ValueError("buyer_open_id")


@bp.post("/notices/wechat-pay/<account>")
@public
async def wechat_pay_notice(request: OnlineRequest, account: str) -> HTTPResponse:
    """WeChat Pay's callback for one mchid."""
    return await _receive(request, f"{Channel.WECHAT_PAY}:{account}", "application/json")


@bp.post("/notices/wechat-combine/<account>")
@public
async def wechat_combine_notice(request: OnlineRequest, account: str) -> HTTPResponse:
    """WeChat Pay's callback about a combined payment, for the combining mchid."""
    return await _receive(request, f"wechat_combine:{account}", "application/json")


@bp.post("/notices/alipay/<account>")
@public
async def alipay_notice(request: OnlineRequest, account: str) -> HTTPResponse:
    """Alipay's callback for one app_id."""
    return await _receive(
        request, f"{Channel.ALIPAY}:{account}", "application/x-www-form-urlencoded"
    )


@bp.post("/api/orders")
@citizen_only
@described(
    body=OrderBody,
    answers={201: OrderView},
    refuses=(BillNotFound, BillNotPayable, BillChanged, AmountChanged, OrderAlreadyOpen),
)
async def post_order(request: OnlineRequest) -> HTTPResponse:
    """Start an order: 201 with it. The answer shows who gets what before anything is paid."""
    body = json_body(request, OrderBody)
    services = request.app.ctx
    order = await start_order(
        person_id=citizen(request).person_id,
        bills=[BillChoice(bill.bill_id, bill.version) for bill in body.bills],
        expected_fen=body.expected_fen,
        settings=services.settings,
        now=services.clock(),
    )
    return json_reply(order, status=201)


@bp.get("/api/orders/<order_id:uuid>")
@citizen_only
@described(answers={200: OrderView}, refuses=(OrderNotFound, ChannelTrouble))
async def get_order(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """The order as it stands; the channel is asked when nobody did for some seconds."""
    services = request.app.ctx
    order = await refresh_order(
        person_id=citizen(request).person_id,
        order_id=order_id,
        services=services,
        now=services.clock(),
    )
    return json_reply(order)


@bp.get("/api/orders/<order_id:uuid>/refunds")
@citizen_only
@described(answers={200: list[CitizenRefund]}, refuses=(OrderNotFound,))
async def get_refunds(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """What of the order's money goes or went back to its payer, oldest first."""
    payer_id = citizen(request).person_id
    await order_of(payer_id, order_id)
    return json_reply(await refunds_of_order(payer_id, order_id))


@bp.post("/api/orders/<order_id:uuid>/attempts")
@citizen_only
@described(
    body=AttemptBody,
    answers={200: AttemptView},
    refuses=(
        OrderNotFound,
        OrderNotOpen,
        BillChanged,
        BillNotPayable,
        AnotherAttemptLive,
        SceneNotOffered,
        ChannelTrouble,
    ),
)
async def post_attempt(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """A ticket to pay with: {"channel": "wechat_pay", "scene": "native"} and the like."""
    body = json_body(request, AttemptBody)
    services, viewer = request.app.ctx, citizen(request)
    attempt = await open_attempt(
        person_id=viewer.person_id,
        order_id=order_id,
        channel=body.channel,
        scene=body.scene,
        services=services,
        payer_ip=address_of(request),
        openid=viewer.openid,
        appid=viewer.appid,
        buyer_id=body.buyer_open_id or None,
        now=services.clock(),
    )
    return json_reply(attempt)


@bp.post("/api/orders/<order_id:uuid>/cancel")
@citizen_only
@described(
    answers={200: OrderView},
    refuses=(OrderNotFound, OrderNotOpen, AnotherAttemptLive, ChannelTrouble),
)
async def post_cancel(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """Cancel: the answer is the order, cancelled, or paid when money had arrived."""
    services = request.app.ctx
    order = await cancel_order(
        person_id=citizen(request).person_id,
        order_id=order_id,
        services=services,
        now=services.clock(),
    )
    return json_reply(order)


def start_notice_desk(app: OnlineApp) -> None:
    """Begin to gather notices into batches (listener: before_server_start, after the services)."""
    services = app.ctx

    async def flush(items: Any) -> list[Outcome]:
        return await settle_batch(items, now=services.clock())

    desk: Gatherer[SettleItem, Outcome] = Gatherer(flush)
    desk.start()
    services.notice_desk = desk
    services.notice_door = Turnstile()
    services.unbelieved = FloodBound()
    calm_the_collector()


async def stop_notice_desk(app: OnlineApp) -> None:
    """Stop gathering; whoever still waits is cancelled and the channel will come again."""
    desk = app.ctx.notice_desk
    app.ctx.notice_desk = None
    if isinstance(desk, Gatherer):
        await desk.stop()


async def _receive(request: OnlineRequest, account_id: str, content_type: str) -> HTTPResponse:
    services = request.app.ctx
    channel = services.channels.get(account_id)
    if channel is None:
        raise NotFound
    sender, now = address_key(address_of(request)), services.clock()
    if services.unbelieved.is_flooding(sender, now=now):
        return _turned_away(channel)
    began = time.perf_counter()
    try:
        await services.notice_door.enter()
    except Overloaded:
        return _answer(channel, 503)
    # Asked again: those that came before it in the same burst have been read meanwhile.
    if services.unbelieved.is_flooding(sender, now=now):
        return _turned_away(channel)
    try:
        notice, message = _opened(request, channel, content_type, now)
    except NoticeRejected as rejected:
        services.unbelieved.note_refused(sender, now=now)
        REFUSED_NOTICES.labels(channel.channel, rejected.reason).inc()
        log.warning("notice_refused", account_id=account_id, reason=rejected.reason)
        return _answer(channel, rejected.status)
    services.unbelieved.note_believed(sender, now=now)
    item = from_notice(notice, channel=channel.channel, account_id=account_id, message=message)
    try:
        return await _settle(item, channel, services, now)
    finally:
        _ack_seconds(channel.channel).observe(time.perf_counter() - began)


def _turned_away(channel: PayChannel) -> HTTPResponse:
    REFUSED_NOTICES.labels(channel.channel, "flood").inc()
    return _answer(channel, 429)


@functools.cache
def _ack_seconds(channel: Channel) -> Histogram:
    """Found once: looking a label up is a lock and a search at each notice."""
    return ACK_SECONDS.labels(channel)


def _opened(
    request: OnlineRequest, channel: PayChannel, content_type: str, now: datetime
) -> tuple[VerifiedNotice, bytes]:
    """The notice, and its message to be kept. Raises NoticeRejected for whatever is no notice of
    this channel to us."""
    if len(request.body) > MAX_NOTICE_BYTES:
        raise NoticeRejected("malformed", status=413)
    if request.content_type.partition(";")[0].strip().lower() != content_type:
        raise NoticeRejected("malformed", status=415)
    headers = dict(request.headers.items())
    if len(headers) != len(request.headers) and _is_ambiguous(request):
        raise NoticeRejected("malformed", status=400)
    notice = channel.open_notice(headers, request.body, now=now)
    vault = request.app.ctx.vault
    return notice, sealed_message(vault, headers, request.body, believed_at=now)


def _is_ambiguous(request: OnlineRequest) -> bool:
    """A header that speaks of the signature stands twice: two readers could believe two things."""
    names = [name for name, _ in request.headers.items() if name.startswith(SIGNED_BY)]
    return len(names) != len(set(names))


async def _settle(
    item: SettleItem, channel: PayChannel, services: Services, now: datetime
) -> HTTPResponse:
    """Wait for the commit. What fails is kept for the janitor, and the channel comes again."""
    if services.notice_desk is None:
        return _answer(channel, 503)
    try:
        await services.notice_desk.submit(item)
    except Overloaded:
        return _answer(channel, 503)
    except Exception as failure:
        FAILED_NOTICES.labels(channel.channel).inc()
        log.error("notice_not_settled", account_id=item.account_id, exc_info=failure)
        await keep_unhandled(item, error=failure, now=now)
        return _answer(channel, 500)
    return _answer(channel, 200)


def _answer(channel: PayChannel, status: int) -> HTTPResponse:
    """Byte for byte what the channel wants to hear."""
    answer = channel.notice_answer(accepted=status == 200, status=status)
    if not answer.body:
        return empty(status=answer.status)
    return raw(answer.body, status=answer.status, content_type=answer.content_type)
