"""What staff see of incidents: the list, and everything known about one number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise
from tortoise.expressions import Q
from tortoise.functions import Sum
from tortoise.queryset import QuerySet

from estation.ledger.api import (
    TransferView,
    arrival_by_key,
    open_claim_fen,
    overpaid_back,
    transfers_about,
)
from estation.outside.pay_channels.payers import NAMING, is_sealed, open_payers
from estation.payments.combining import parts_of, whole_number
from estation.payments.errors import ArrivalNotFound, OrderNotFound, RefundNotFound
from estation.payments.models import (
    ClaimSettlement,
    Incident,
    IncidentAction,
    Notice,
    OutsideSettlement,
    PayAttempt,
    PayOrder,
    Refund,
)
from estation.payments.queries import IncidentView, incident_view
from estation.payments.refund_queries import redirected_of
from estation.payments.refund_rules import IN_FLIGHT, PAID_BY_HAND, Deed
from estation.payments.rules import (
    IncidentKind,
    IncidentState,
    OutsideState,
    RefundState,
    arrival_key,
)
from estation.payments.staff_words import (
    ATTEMPT_WORDS,
    DEED_WORDS,
    REFUND_STATE_WORDS,
    claim_words,
    closing_words,
    heard_words,
    incident_name,
    who,
    yuan,
)
from estation.shared.crypto import Vault
from estation.shared.money import yuan_from_fen

OUR_NUMBERS = 32
"""Characters an order or trade number of ours has at most."""
PAGE_SIZE = 50
MAX_PAGE = 200

ORDERS: dict[str, tuple[str, ...]] = {
    "due": ("due_at", "id"),
    "oldest": ("opened_at", "id"),
    "newest": ("-opened_at", "-id"),
    "amount": ("-amount_fen", "id"),
}
"""The only ways to sort; the name comes from outside, the columns never do (D17)."""


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """One page of at most PAGE_SIZE incidents; `total_fen` is of all that match."""

    rows: list[IncidentView]
    total: int
    total_fen: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened to a number, for the timeline."""

    at: datetime
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Story:
    """All we know about the number of an incident, and the `numbers` it and its order go by."""

    order_id: UUID | None
    order_no: str
    order_state: str
    order_fen: int | None
    transfers: list[TransferView]
    timeline: list[Moment]
    numbers: list[str]


@dataclass(frozen=True, slots=True)
class IncidentFilter:
    """Which incidents are meant; empty: any. `assigned_to` is an officer as `Incident` names one
    (with `assigned_to_id`: whatever he was called then), `overdue_at` leaves the open ones past
    their time at that moment."""

    state: IncidentState | None = None
    kind: str = ""
    owner: str = ""
    assigned_to: str = ""
    assigned_to_id: UUID | None = None
    overdue_at: datetime | None = None


async def incident_page(wanted: IncidentFilter, *, sort: str, page: int) -> IncidentPage:
    """`sort` is a key of ORDERS (KeyError otherwise); `page` counts from 1 and is bounded."""
    query = _matching(wanted)
    total = await query.count()
    pages = max(1, min(MAX_PAGE, -(-total // PAGE_SIZE)))
    page = min(max(1, page), pages)
    rows = await query.order_by(*ORDERS[sort]).offset((page - 1) * PAGE_SIZE).limit(PAGE_SIZE)
    return IncidentPage(
        rows=[incident_view(row) for row in rows],
        total=total,
        total_fen=await _total_fen(wanted),
        page=page,
        pages=pages,
    )


async def incidents_after(
    wanted: IncidentFilter, *, after: UUID | None, limit: int
) -> list[IncidentView]:
    """In the order of their ids, page by page: an export neither skips nor repeats one."""
    query = _matching(wanted)
    if after is not None:
        query = query.filter(id__gt=after)
    return [incident_view(row) for row in await query.order_by("id").limit(limit)]


def _matching(wanted: IncidentFilter) -> QuerySet[Incident]:
    query = Incident.all()
    if wanted.state is not None:
        query = query.filter(state=wanted.state)
    if wanted.kind:
        query = query.filter(kind=wanted.kind)
    if wanted.owner:
        query = query.filter(owner=wanted.owner)
    if wanted.assigned_to:
        mine = Q(assigned_to=wanted.assigned_to, assigned_to_id__isnull=True)
        if wanted.assigned_to_id is not None:
            mine |= Q(assigned_to_id=wanted.assigned_to_id)
        query = query.filter(mine)
    if wanted.overdue_at is not None:
        query = query.filter(state=IncidentState.OPEN, due_at__lt=wanted.overdue_at)
    return query


async def _total_fen(wanted: IncidentFilter) -> int:
    rows = await _matching(wanted).annotate(fen=Sum("amount_fen")).values("fen")
    return int(rows[0]["fen"] or 0) if rows else 0


async def incidents_about(out_trade_nos: Sequence[str]) -> dict[str, UUID]:
    """For each of these numbers its newest incident, open ones first."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select distinct on (out_trade_no) out_trade_no, id from incident
           where out_trade_no = any($1::text[]) and out_trade_no <> ''
           order by out_trade_no, state = 'open' desc, opened_at desc, id""",
        [list(out_trade_nos)],
    )
    return {row["out_trade_no"]: row["id"] for row in rows}


async def arrival_of(incident: IncidentView) -> UUID:
    """The ledger transfer that recorded the money an incident is about. Raises ArrivalNotFound."""
    key = arrival_key(incident.account_id, incident.channel_trade_no or "")
    found = await arrival_by_key(key)
    if found is None:
        raise ArrivalNotFound
    return found.id


async def refund_of(incident: IncidentView) -> UUID:
    """The refund an incident about a refund names. Raises RefundNotFound."""
    number = await _refund_no(incident)
    found = await Refund.get_or_none(refund_no=number) if number else None
    if found is None:
        raise RefundNotFound
    return found.id


async def _refund_no(incident: IncidentView) -> str:
    """The incidents of a refund are kept apart by its number: the end of their key."""
    row = await Incident.get(id=incident.id)
    return row.dedupe_key.rpartition(":")[2]


async def refunds_about(incident: IncidentView) -> list[Refund]:
    """Refunds of the incident's number, newest first."""
    if not incident.out_trade_no:
        return []
    return await Refund.filter(out_trade_no=incident.out_trade_no).order_by("-asked_at").limit(50)


async def wish_to_apply(incident_id: UUID) -> IncidentAction | None:
    """The maker's wish that this late money pays its bill, while no checker has answered it."""
    last = (
        await IncidentAction.filter(
            incident_id=incident_id, action__in=["apply_asked", "apply_rejected", "applied"]
        )
        .order_by("-at", "-id")
        .first()
    )
    return last if last and last.action == "apply_asked" else None


async def wish_to_end(found: IncidentView) -> IncidentAction | None:
    """The first of two persons' words on an incident that two must end."""
    last = (
        await IncidentAction.filter(incident_id=found.id, action__in=["resolve_asked", "resolve"])
        .order_by("-at", "-id")
        .first()
    )
    return last if last and last.action == "resolve_asked" else None


async def wish_outside(arrival_id: UUID) -> OutsideSettlement | None:
    """The maker's wish to settle this money outside, not answered yet; whichever of the money's
    incidents it was asked under."""
    return await OutsideSettlement.get_or_none(arrival_id=arrival_id, state=OutsideState.ASKED)


@dataclass(frozen=True, slots=True)
class Claim:
    """What of an incident's money was given back beyond its amount and has not ended (多退应收),
    and the maker's wish to end some of it; `refund_no`: of a refund still under way that would
    end it by closing."""

    claim_fen: int
    wish: ClaimSettlement | None
    words: str
    refund_no: str


async def claim_of(incident: IncidentView) -> Claim | None:
    """None when nothing is claimed."""
    money = await arrival_by_key(arrival_key(incident.account_id, incident.channel_trade_no or ""))
    if money is None:
        return None
    claim_fen = await open_claim_fen(money.account_id, money.our_no, money.channel_no)
    if claim_fen <= 0:
        return None
    wish = await ClaimSettlement.get_or_none(arrival_id=money.id, state=OutsideState.ASKED)
    moving = await Refund.filter(
        arrival_id=money.id, state__in=[str(state) for state in IN_FLIGHT]
    ).first()
    words = claim_words(wish) if wish else ""
    return Claim(claim_fen, wish, words, moving.refund_no if moving else "")


@dataclass(frozen=True, slots=True)
class OpenClaim:
    """A claim that has not ended, under the most urgent of its open incidents."""

    incident: IncidentView
    claim: Claim


async def open_claims(*, limit: int) -> tuple[list[OpenClaim], int]:
    """Those of the most urgent incidents first, each claim once; how many there are in all."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select id, count(*) over () as total from (
               select distinct on (i.account_id, i.channel_trade_no) i.id, i.due_at
               from incident i where i.kind = $1 and i.state = 'open'
                 and 0 < (select sum(e.debit_fen - e.credit_fen)
                          from ledger_entry e join ledger_transfer t on t.id = e.transfer_id
                          where e.account = $3 || i.account_id
                            and t.our_no = i.out_trade_no and t.channel_no = i.channel_trade_no)
               order by i.account_id, i.channel_trade_no, i.due_at, i.id) claims
           order by due_at, id limit $2""",
        [str(IncidentKind.REFUND_OVERPAID), limit, overpaid_back("")],
    )
    incidents = [incident_view(await Incident.get(id=row["id"])) for row in rows]
    claims = [(one, await claim_of(one)) for one in incidents]
    listed = [OpenClaim(one, claim) for one, claim in claims if claim is not None]
    return listed, int(rows[0]["total"]) if rows else 0


@dataclass(frozen=True, slots=True)
class ByHand:
    """How paying a redirected refund out stands, once it is at our own card. `word`: "" (nobody
    said that it was), "asked" or "paid"; `by`: who asked, with the bank's receipt."""

    word: str
    by: str = ""
    by_id: UUID | None = None
    at: datetime | None = None
    document_no: str = ""


@dataclass(frozen=True, slots=True)
class Redirecting:
    """How redirecting an incident's refund stands. `word`: "" (nobody asked), "asked", or
    "ordered" by two persons without effect yet; `by`: who asked. `by_hand`: None before the money
    is at our own card."""

    is_abnormal: bool
    word: str
    by: str = ""
    by_id: UUID | None = None
    at: datetime | None = None
    by_hand: ByHand | None = None


async def redirecting(incident: IncidentView) -> Redirecting | None:
    """None when the incident is of no refund."""
    number = await _refund_no(incident)
    refund = await Refund.get_or_none(refund_no=number) if number else None
    if refund is None:
        return None
    is_abnormal = refund.state is RefundState.ABNORMAL
    last = (
        await IncidentAction.filter(refund_id=refund.id, action__in=list(_REDIRECT_WORDS))
        .order_by("-at", "-id")
        .first()
    )
    by_hand = None
    if refund.state is RefundState.SUCCEEDED and await redirected_of([refund.id]):
        by_hand = await _by_hand(refund.id)
    if last is None or not (word := _REDIRECT_WORDS[last.action]):
        return Redirecting(is_abnormal, "", by_hand=by_hand)
    return Redirecting(is_abnormal, word, last.by, last.by_id, last.at, by_hand)


async def _by_hand(refund_id: UUID) -> ByHand:
    last = (
        await IncidentAction.filter(refund_id=refund_id, action__in=list(_HAND_WORDS))
        .order_by("-at", "-id")
        .first()
    )
    if last is None or not (word := _HAND_WORDS[last.action]):
        return ByHand("")
    return ByHand(word, last.by, last.by_id, last.at, last.note)


_HAND_WORDS = {"hand_asked": "asked", "hand_rejected": "", PAID_BY_HAND: "paid"}


_REDIRECT_WORDS = {
    "redirect_asked": "asked",
    "redirect_rejected": "",
    Deed.REDIRECT_REFUND.value: "ordered",
}


async def incidents_of_refunds(refund_ids: Sequence[UUID]) -> list[IncidentView]:
    """The incidents these refunds are to settle."""
    refunds = await Refund.filter(id__in=list(refund_ids))
    keys = {refund.incident_key for refund in refunds if refund.incident_key}
    rows = await Incident.filter(dedupe_key__in=sorted(keys)).order_by("opened_at")
    return [incident_view(row) for row in rows]


async def escalated(incident_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these the system told of because their time was over."""
    rows = await IncidentAction.filter(
        incident_id__in=list(incident_ids), action=Deed.ESCALATE
    ).values_list("incident_id", flat=True)
    return {UUID(str(row)) for row in rows}


async def order_by_number(number: str, *, accounts: Iterable[str]) -> PayOrder:
    """By the order's number, our trade number, or the channel's at one of these merchant
    accounts. Raises OrderNotFound."""
    if not number or len(number) > 64 or not (number.isascii() and number.isprintable()):
        raise OrderNotFound
    ours = len(number) <= OUR_NUMBERS
    order = await PayOrder.get_or_none(order_no=number) if ours else None
    if order is None:
        order_id = await _order_of_trade(number, accounts)
        order = await PayOrder.get_or_none(id=order_id) if order_id else None
    if order is None:
        raise OrderNotFound
    return order


async def _attempt(number: str) -> PayAttempt | None:
    """A stranger's number may be longer than any of ours."""
    if len(number) > OUR_NUMBERS:
        return None
    return await PayAttempt.get_or_none(out_trade_no=number)


async def _order_of_trade(number: str, accounts: Iterable[str]) -> UUID | None:
    attempt = await _attempt(number)
    if attempt is not None:
        return attempt.order_id
    for account_id in accounts:
        money = await arrival_by_key(arrival_key(account_id, number))
        if money is not None:
            return money.order_id
    return None


async def order_view(order_id: UUID | None) -> PayOrder | None:
    return await PayOrder.get_or_none(id=order_id) if order_id else None


async def incident_kinds() -> list[str]:
    """The kinds that occur, for the filter."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select distinct kind from incident order by kind limit 100"
    )
    return [row["kind"] for row in rows]


async def story_of(incident: IncidentView) -> Story:
    """The order, its tries, the inbox and the ledger about this incident's number."""
    order = await _order(incident)
    attempts = (
        await PayAttempt.filter(order_id=order.id).order_by("created_at", "id").limit(50)
        if order
        else []
    )
    numbers = _numbers(incident.out_trade_no, attempts)
    notices = (
        await Notice.filter(out_trade_no__in=numbers).order_by("received_at", "id").limit(100)
        if numbers
        else []
    )
    transfers = [one for number in numbers for one in await transfers_about(number)]
    refunds = await Refund.filter(out_trade_no__in=numbers).order_by("asked_at", "id").limit(50)
    deeds = await IncidentAction.filter(incident_id=incident.id).order_by("at", "id").limit(200)
    moments = [
        *_of_incident(incident),
        *(_of_order(order) if order else ()),
        *(_of_deed(deed) for deed in deeds if deed.action != Deed.RESOLVE),
        *(moment for refund in refunds for moment in _of_refund(refund)),
        *(moment for attempt in attempts for moment in _of_attempt(attempt)),
        *(moment for notice in notices for moment in _of_notice(notice)),
        *(_of_transfer(transfer) for transfer in transfers),
    ]
    return Story(
        numbers=numbers,
        order_id=order.id if order else None,
        order_no=order.order_no if order else "",
        order_state=order.state.value if order else "",
        order_fen=order.amount_fen if order else None,
        transfers=transfers,
        timeline=sorted(moments, key=lambda moment: (moment.at, moment.what)),
    )


def _numbers(number: str, attempts: Sequence[PayAttempt]) -> list[str]:
    """The incident's number, and with a combined payment's the whole and all its parts: the
    notice names the whole, the books and the channel's bill the parts."""
    if not number:
        return []
    whole = whole_number(number)
    parts = [
        part.out_trade_no
        for attempt in attempts
        if attempt.out_trade_no == whole
        for part in parts_of(attempt.parts)
    ]
    return list(dict.fromkeys([number, whole, *parts]))


async def _order(incident: IncidentView) -> PayOrder | None:
    if incident.order_id:
        return await PayOrder.get_or_none(id=incident.order_id)
    attempt = await _attempt(whole_number(incident.out_trade_no))
    return await PayOrder.get_or_none(id=attempt.order_id) if attempt else None


def _of_incident(incident: IncidentView) -> list[Moment]:
    moments = [Moment(incident.opened_at, "事件登记", incident_name(incident.kind))]
    if incident.resolved_at:
        detail = f"{incident.resolved_by}：{incident.resolution}"
        moments.append(Moment(incident.resolved_at, "事件办结", detail))
    return moments


def _of_order(order: PayOrder) -> list[Moment]:
    moments = [Moment(order.created_at, "下单", f"{order.order_no} {yuan(order.amount_fen)}")]
    if order.paid_at:
        moments.append(Moment(order.paid_at, "订单已支付", order.order_no))
    if order.closed_at:
        reason = closing_words(order.close_reason)
        moments.append(Moment(order.closed_at, "订单关闭", f"{order.order_no}（{reason}）"))
    return moments


def _of_attempt(attempt: PayAttempt) -> list[Moment]:
    name = f"{attempt.channel} {attempt.scene} {attempt.out_trade_no}"
    moments = [Moment(attempt.created_at, "发起支付", name)]
    moments += [moment for heard in attempt.heard or () for moment in _of_answer(name, heard)]
    if attempt.last_query_at:
        said = f"{name}，共 {attempt.queries} 次，现为{ATTEMPT_WORDS[attempt.state]}"
        moments.append(Moment(attempt.last_query_at, "最近一次向渠道查询", said))
    if attempt.paid_at:
        moments.append(Moment(attempt.paid_at, "渠道收款", f"{name} → {attempt.channel_trade_no}"))
    if attempt.closed_at:
        reason = closing_words(attempt.close_reason)
        moments.append(Moment(attempt.closed_at, "支付关闭", f"{name}（{reason}）"))
    return moments


def _of_answer(name: str, heard: dict[str, Any]) -> list[Moment]:
    """An answer when it was first heard, and when it was last before another one."""
    first, last = (datetime.fromisoformat(heard[of]) for of in ("first_at", "last_at"))
    said = f"{name} → {heard_words(heard['said'])}"
    moments = [Moment(first, "渠道答复", said)]
    if last > first:
        moments.append(Moment(last, "渠道答复（同上）", f"{said}，连续 {heard['times']} 次"))
    return moments


def _of_deed(deed: IncidentAction) -> Moment:
    what = DEED_WORDS.get(deed.action, deed.action)
    led_to = f"（退款 {deed.refund_id}）" if deed.refund_id else ""
    led_to += f"（凭证 {deed.transfer_id}）" if deed.transfer_id else ""
    return Moment(deed.at, what, f"{who(deed.by)} {deed.note}{led_to}".strip())


def _of_refund(refund: Refund) -> list[Moment]:
    name = f"{refund.refund_no} {yuan_from_fen(refund.amount_fen)} 元"
    moments = [Moment(refund.asked_at, "退款申请", f"{name}：{who(refund.asked_by)}")]
    if refund.decided_at:
        rejected = refund.state is RefundState.REJECTED
        what = "退款未批准" if rejected else "退款批准"
        moments.append(Moment(refund.decided_at, what, f"{name}：{who(refund.decided_by)}"))
    if refund.sent_at:
        moments.append(Moment(refund.sent_at, "退款送交渠道", name))
    if refund.ended_at and refund.state in (RefundState.SUCCEEDED, RefundState.CLOSED):
        said = f"{name}：{REFUND_STATE_WORDS[refund.state]} {refund.received_account}"
        moments.append(Moment(refund.ended_at, "退款结束", said.strip()))
    return moments


def _of_notice(notice: Notice) -> list[Moment]:
    name = f"{notice.channel} {notice.kind}"
    moments = [Moment(notice.received_at, "收到通知", name)]
    if notice.handled_at:
        moments.append(Moment(notice.handled_at, "通知已处理", f"{name} → {notice.outcome}"))
    return moments


def _of_transfer(transfer: TransferView) -> Moment:
    return Moment(transfer.posted_at, "总账入账", f"{transfer.kind} {transfer.id}")


def as_pretty(value: Any, vault: Vault, *, limit: int = 20_000) -> str:
    """Evidence as readable text, cut at `limit` characters. What names the payer at a channel is
    opened only to be masked: it helps to compare two messages, no more."""
    text = orjson.dumps(_masked(value, vault), option=orjson.OPT_INDENT_2, default=str).decode()
    return text if len(text) <= limit else f"{text[:limit]}\n…（过长，已截断）"


def _masked(value: Any, vault: Vault, *, names_payer: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            key: _masked(inner, vault, names_payer=names_payer or key in NAMING)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(inner, vault, names_payer=names_payer) for inner in value]
    if not names_payer or not isinstance(value, str):
        return value
    clear = open_payers(vault, value)
    # What this key does not open has no ends to show: the token's would say something else.
    return f"{clear[:3]}…{clear[-3:]}" if len(clear) > 6 and not is_sealed(clear) else "…"
