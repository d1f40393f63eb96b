"""Opening an attempt: intent committed first, then the channel asked, then its ticket stored.

A crash in between leaves an attempt "opening": asking again uses the same number, which both
channels answer with the same trade; if nobody asks again the janitor closes it.
"""

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import structlog
from msgspec import to_builtins
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import BillChanged, BillNotPayable, LockedBill, lock_bills
from estation.outside.pay_channels import (
    SCENES,
    Channel,
    ChannelRefused,
    ChannelUnknown,
    PaymentPart,
    PaymentRequest,
    PayTicket,
    Scene,
)
from estation.payments import combining, rules
from estation.payments.actions.asking import channel_of
from estation.payments.actions.locking import lock_order
from estation.payments.actions.orders import end_order, free_the_way
from estation.payments.errors import (
    AnotherAttemptLive,
    ChannelTrouble,
    OrderNotFound,
    OrderNotOpen,
    SceneNotOffered,
    TooManyCodes,
)
from estation.payments.models import PayAttempt, PayOrderBill
from estation.payments.queries import (
    MADE_AT,
    AttemptView,
    attempt_view,
    payee_sums,
    payer_mark,
    ticket_made_at,
)
from estation.payments.rules import LIVE, AttemptState, BillNow, OrderState
from estation.services import Services
from estation.settings import Settings
from estation.shared import ids
from estation.shared.jsonb import jsonb_text
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

ROUNDS = 3
IN_FLIGHT = timedelta(seconds=15)
"""Longer than a channel call may take: an older "opening" has nobody waiting for its answer."""

WAIT_STEP_SECONDS = 0.1
WAIT_STEPS = 50

NOTICE_PATHS = {
    "wechat_pay": "wechat-pay",
    "wechat_combine": "wechat-combine",
    "alipay": "alipay",
}
"""By the kind of account that is asked."""

RETURN_SCENES = frozenset({Scene.H5, Scene.WAP, Scene.PAGE})
"""The payer leaves our page for the channel's and is sent back."""


RETURN_PATH = "/pay/return/alipay"


@dataclass(frozen=True, slots=True)
class _Asked:
    """How the payer wants to pay; `payer` is the wallet the ticket is bound to, if any."""

    channel: Channel
    scene: Scene
    payer: str | None
    payer_ip: str | None
    return_path: str

    @property
    def mark(self) -> str | None:
        """A digest, to know again whom the ticket is bound to; the id itself is not kept."""
        return payer_mark(self.scene, self.payer_ip if self.scene is Scene.H5 else self.payer)


class _Step(StrEnum):
    """What the order's state asks of us next."""

    ASK = "ask"  # A fresh attempt was committed.
    ASK_AGAIN = "ask_again"  # A forgotten "opening" of the same kind.
    WAIT = "wait"  # Another request of the same kind is asking right now.
    READY = "ready"  # The ticket is there.
    FREE = "free"  # Another attempt is live and must be closed first.
    BILLS = "bills"  # A bill is no longer as the citizen saw it.


async def open_attempt(
    *,
    person_id: UUID,
    order_id: UUID,
    channel: Channel,
    scene: Scene,
    services: Services,
    payer_ip: str | None,
    openid: str | None,
    now: datetime,
    appid: str | None = None,
    buyer_id: str | None = None,
    return_path: str = RETURN_PATH,
) -> AttemptView:
    """A ticket to pay this order at this channel and scene; the same one when asked again.

    A live attempt of another kind, or bound to another payer's wallet, is closed at its channel
    first. `openid` is the payer's at `appid` (None: the official account's), `buyer_id` Alipay's
    buyer open id, `return_path` the page of ours the channel sends the payer back to. Refuses
    OrderNotFound, OrderNotOpen, SceneNotOffered (also without the openid, buyer or address the
    scene needs), BillChanged and BillNotPayable (the order is ended then), AnotherAttemptLive,
    TooManyCodes (a live attempt stays live), ChannelTrouble (the attempt is kept and watched).
    """
    payer = _payer(scene, services.settings, openid=openid, appid=appid, buyer_id=buyer_id)
    if scene not in SCENES[channel] or _lacks(scene, payer, payer_ip):
        raise SceneNotOffered(channel=channel, scene=scene)
    asked = _Asked(channel, scene, payer, payer_ip, return_path)
    for _ in range(ROUNDS):
        step, attempt = await _next_step(person_id, order_id, asked, services, now)
        if step is _Step.READY and attempt is not None:
            return attempt_view(attempt)
        if step in (_Step.ASK, _Step.ASK_AGAIN) and attempt is not None:
            return await _ask(attempt, asked, services, is_first=step is _Step.ASK, now=now)
        if step is _Step.WAIT and attempt is not None:
            await _wait_for_ticket(attempt.id)
        elif step is _Step.BILLS:
            await _end_stale_order(order_id, services, now)
        else:
            await free_the_way(order_id, services, now=now)
    raise AnotherAttemptLive


def _payer(
    scene: Scene,
    settings: Settings,
    *,
    openid: str | None,
    appid: str | None,
    buyer_id: str | None,
) -> str | None:
    """Whose wallet the ticket will be bound to: an openid counts only at the appid that pays."""
    if scene is Scene.JSAPI:
        return openid if appid is None or appid == settings.wechat.appid else None
    if scene is Scene.MINI_PROGRAM:
        ours = settings.mini_program
        return openid if ours is not None and appid == ours.appid else None
    return buyer_id if scene is Scene.TRADE_CREATE else None


def _lacks(scene: Scene, payer: str | None, payer_ip: str | None) -> bool:
    if scene is Scene.H5:
        return not payer_ip
    return scene in rules.BOUND_TO_A_PAYER and not payer


async def _next_step(
    person_id: UUID, order_id: UUID, asked: _Asked, services: Services, now: datetime
) -> tuple[_Step, PayAttempt | None]:
    async with in_transaction() as db:
        order = await lock_order(db, order_id)
        if order is None or order["payer_id"] != person_id:
            raise OrderNotFound(order_id=str(order_id))
        if order["state"] != OrderState.OPEN:
            raise OrderNotOpen(state=order["state"])
        if order["expires_at"] <= now:
            raise OrderNotOpen(state="expired")
        if _first_change(await _bills(order_id)) is not None:
            return _Step.BILLS, None
        live = await PayAttempt.filter(order_id=order_id, state__in=list(LIVE)).first()
        # Refused before a live attempt of another kind would be closed for nothing.
        number = ids.trade_number(now)
        route = await _route(order["id"], number, asked, services.settings)
        step = _step_beside(live, asked, now) if live else _Step.ASK
        if step in (_Step.ASK, _Step.FREE) and asked.scene in rules.UNSEEN_UNTIL_SCANNED:
            await _bound_unseen(db, order_id, more=int(step is _Step.FREE))
        if live is None:
            return _Step.ASK, await _commit_intent(order, asked, number, route, now)
    return step, live


_UNSEEN = """
select count(distinct a.id) as n from pay_order_bill mine
join pay_order_bill ob on ob.bill_id = mine.bill_id
join pay_attempt a on a.order_id = ob.order_id and a.state = 'abandoned'
where mine.order_id = $1
"""


async def _bound_unseen(db: BaseDBAsyncClient, order_id: UUID, *, more: int) -> None:
    """Whoever changes codes without end fills the queue of questions, from which others' lost
    payments are found too. Counted over all orders of the bills; `more` will be left behind by
    this change, so that a live code is not given up for nothing. Raises TooManyCodes."""
    (row,) = await db.execute_query_dict(_UNSEEN, [order_id])
    if row["n"] + more > rules.MOST_UNSEEN_CODES:
        raise TooManyCodes


def _step_beside(live: PayAttempt, asked: _Asked, now: datetime) -> _Step:
    if (live.channel, live.scene, live.payer_mark) != (asked.channel, asked.scene, asked.mark):
        return _Step.FREE
    if live.state is AttemptState.OPEN:
        is_fresh = rules.ticket_serves(live.scene, ticket_made_at(live), now=now)
        return _Step.READY if is_fresh else _Step.ASK_AGAIN
    return _Step.WAIT if now - live.created_at < IN_FLIGHT else _Step.ASK_AGAIN


async def _route(order_id: UUID, number: str, asked: _Asked, settings: Settings) -> combining.Route:
    """The account to pay to. Raises SceneNotOffered when it cannot serve the scene."""
    collecting = settings.collecting_accounts.get(asked.channel)
    if collecting is None:
        raise SceneNotOffered(channel=asked.channel, scene=asked.scene)
    route = combining.route_of(
        await payee_sums(order_id),
        scene=asked.scene,
        out_trade_no=number,
        merchants={
            payee.code: payee.merchants[asked.channel]
            for payee in settings.payees
            if asked.channel in payee.merchants
        },
        collecting=collecting,
        combining=settings.combining_accounts.get(asked.channel),
    )
    if asked.scene is Scene.MINI_PROGRAM and not _knows_mini_program(route.account_id, settings):
        raise SceneNotOffered(channel=asked.channel, scene=asked.scene)
    return route


async def _commit_intent(
    order: dict[str, Any], asked: _Asked, number: str, route: combining.Route, now: datetime
) -> PayAttempt:
    attempt = PayAttempt(
        id=ids.row_id(now),
        order_id=order["id"],
        channel=asked.channel,
        account_id=route.account_id,
        scene=asked.scene,
        out_trade_no=number,
        amount_fen=order["amount_fen"],
        parts=to_builtins(route.parts) if route.parts else None,
        payer_mark=asked.mark,
        state=AttemptState.OPENING,
        created_at=now,
        expires_at=order["expires_at"],
        next_query_at=rules.next_query_at(0, now=now, expires_at=order["expires_at"]),
    )
    await attempt.save(force_create=True)
    return attempt


def _knows_mini_program(account_id: str, settings: Settings) -> bool:
    """Whether the city's mini-program is bound to this merchant account at WeChat."""
    ours = settings.mini_program
    return ours is not None and any(
        one.account_id == account_id and one.mini_appid == ours.appid for one in settings.wechat_pay
    )


async def _ask(
    attempt: PayAttempt, asked: _Asked, services: Services, *, is_first: bool, now: datetime
) -> AttemptView:
    """Ask the channel with no transaction open: it may take seconds."""
    request = _request(attempt, asked, services.settings)
    try:
        channel = channel_of(attempt.account_id, services)
        ticket = await channel.open_payment(attempt.scene, request)
    except ChannelRefused as refusal:
        log.warning("open_refused", out_trade_no=attempt.out_trade_no, code=refusal.code)
        if is_first:
            await _refuse(attempt, refusal.code)
        # Asked before, a refusal may mean "is there already": the janitor finds out.
        raise ChannelTrouble(reason="refused") from None
    except ChannelUnknown as trouble:
        log.warning("open_unknown", out_trade_no=attempt.out_trade_no, code=trouble.code)
        raise ChannelTrouble(reason="unknown") from None
    return await _store_ticket(attempt, ticket, now)


def _request(attempt: PayAttempt, asked: _Asked, settings: Settings) -> PaymentRequest:
    """Made from stored values and what the ticket is bound to, so that asking again says exactly
    the same; where the payer comes back to is no part of the trade."""
    kind, account = attempt.account_id.split(":", 1)
    goes_away = attempt.scene in RETURN_SCENES
    description = f"{settings.city_name}不动产税费"
    return PaymentRequest(
        out_trade_no=attempt.out_trade_no,
        amount_fen=attempt.amount_fen,
        description=description,
        expires_at=attempt.expires_at,
        notify_url=f"{settings.public_url}/notices/{NOTICE_PATHS[kind]}/{account}",
        return_url=f"{settings.public_url}{asked.return_path}" if goes_away else None,
        payer_openid=asked.payer,
        payer_ip=asked.payer_ip if attempt.scene is Scene.H5 else None,
        parts=tuple(
            PaymentPart(part.account_id, part.out_trade_no, part.amount_fen, description)
            for part in combining.parts_of(attempt.parts)
        ),
    )


async def _store_ticket(attempt: PayAttempt, ticket: PayTicket, now: datetime) -> AttemptView:
    """Only a stored ticket is ever shown. Meanwhile the attempt may have been paid (the callback
    was faster than the answer) or closed: then it is not opened, and not shown as payable."""
    kept = {**asdict(ticket), MADE_AT: now.isoformat()}
    async with in_transaction() as db:
        await lock_order(db, attempt.order_id)
        await db.execute_query_dict(
            """update pay_attempt set ticket = $1::jsonb,
               state = case when state = 'opening' then 'open' else state end
               where id = $2 and state in ('opening', 'open', 'paid')""",
            [jsonb_text(kept), attempt.id],
        )
        stored = await PayAttempt.get(id=attempt.id)
    if stored.state not in (AttemptState.OPEN, AttemptState.PAID):
        raise AnotherAttemptLive
    return attempt_view(stored)


async def _refuse(attempt: PayAttempt, code: str) -> None:
    async with in_transaction() as db:
        await lock_order(db, attempt.order_id)
        await db.execute_query_dict(
            """update pay_attempt set state = 'refused', refusal = $1, next_query_at = null
               where id = $2 and state = 'opening'""",
            [code[:64], attempt.id],
        )


async def _wait_for_ticket(attempt_id: UUID) -> None:
    """A second tab waits for the first one's answer, five seconds at most."""
    for _ in range(WAIT_STEPS):
        attempt = await PayAttempt.get(id=attempt_id)
        if attempt.state is not AttemptState.OPENING:
            return
        await asyncio.sleep(WAIT_STEP_SECONDS)
    raise ChannelTrouble(reason="unknown")


async def _bills(order_id: UUID) -> list[tuple[LockedBill, BillNow]]:
    seen = {row.bill_id: row for row in await PayOrderBill.filter(order_id=order_id)}
    return [
        (
            bill,
            rules.bill_now(
                seen_version=seen[bill.id].bill_version,
                version=bill.version,
                seen_fen=seen[bill.id].amount_fen,
                total_fen=bill.total_fen,
                state=str(bill.state),
            ),
        )
        for bill in await lock_bills(sorted(seen))
    ]


def _first_change(
    bills: list[tuple[LockedBill, BillNow]],
) -> tuple[LockedBill, BillNow] | None:
    return next(((bill, now) for bill, now in bills if now is not BillNow.AS_SEEN), None)


async def _end_stale_order(order_id: UUID, services: Services, now: datetime) -> None:
    """End an order whose bill changed under it, and say how; the citizen starts a new one."""
    await free_the_way(order_id, services, now=now)
    async with in_transaction():
        change = _first_change(await _bills(order_id))
    if change is None:
        return
    bill, state = change
    await end_order(order_id, reason=rules.CloseReason.BILL_CHANGED, now=now)
    if state is BillNow.REVISED:
        raise BillChanged(bill_id=str(bill.id), version=bill.version, amount_fen=bill.total_fen)
    raise BillNotPayable(bill_id=str(bill.id), state=str(bill.state))
