"""What staff see of incidents: the list, and everything known about one number."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise import Tortoise

from estation.ledger.api import TransferView, arrival_by_key, transfers_about
from estation.payments.combining import parts_of, whole_number
from estation.payments.errors import ArrivalNotFound
from estation.payments.models import Incident, Notice, PayAttempt, PayOrder
from estation.payments.queries import IncidentView, incident_view
from estation.payments.rules import IncidentState, arrival_key
from estation.payments.staff_words import incident_name

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
    """All we know about the number of an incident."""

    order_id: UUID | None
    order_no: str
    order_state: str
    order_fen: int | None
    transfers: list[TransferView]
    timeline: list[Moment]


async def incident_page(
    *, state: IncidentState | None, kind: str, sort: str, page: int
) -> IncidentPage:
    """`sort` is a key of ORDERS (KeyError otherwise); `page` counts from 1 and is bounded."""
    query = Incident.all()
    if state is not None:
        query = query.filter(state=state)
    if kind:
        query = query.filter(kind=kind)
    total = await query.count()
    pages = max(1, min(MAX_PAGE, -(-total // PAGE_SIZE)))
    page = min(max(1, page), pages)
    rows = await query.order_by(*ORDERS[sort]).offset((page - 1) * PAGE_SIZE).limit(PAGE_SIZE)
    return IncidentPage(
        rows=[incident_view(row) for row in rows],
        total=total,
        total_fen=await _total_fen(state, kind),
        page=page,
        pages=pages,
    )


async def _total_fen(state: IncidentState | None, kind: str) -> int:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select coalesce(sum(amount_fen), 0)::bigint as fen from incident
           where ($1::text is null or state = $1) and ($2::text = '' or kind = $2)""",
        [state, kind],
    )
    return int(rows[0]["fen"])


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
    moments = [
        *_of_incident(incident),
        *(moment for attempt in attempts for moment in _of_attempt(attempt)),
        *(moment for notice in notices for moment in _of_notice(notice)),
        *(_of_transfer(transfer) for transfer in transfers),
    ]
    return Story(
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
    attempt = await PayAttempt.get_or_none(out_trade_no=whole_number(incident.out_trade_no))
    return await PayOrder.get_or_none(id=attempt.order_id) if attempt else None


def _of_incident(incident: IncidentView) -> list[Moment]:
    moments = [Moment(incident.opened_at, "事件登记", incident_name(incident.kind))]
    if incident.resolved_at:
        detail = f"{incident.resolved_by}：{incident.resolution}"
        moments.append(Moment(incident.resolved_at, "事件办结", detail))
    return moments


def _of_attempt(attempt: PayAttempt) -> list[Moment]:
    name = f"{attempt.channel} {attempt.scene} {attempt.out_trade_no}"
    moments = [Moment(attempt.created_at, "发起支付", name)]
    if attempt.paid_at:
        moments.append(Moment(attempt.paid_at, "渠道收款", f"{name} → {attempt.channel_trade_no}"))
    if attempt.closed_at:
        moments.append(Moment(attempt.closed_at, "支付关闭", f"{name}（{attempt.close_reason}）"))
    return moments


def _of_notice(notice: Notice) -> list[Moment]:
    name = f"{notice.channel} {notice.kind}"
    moments = [Moment(notice.received_at, "收到通知", name)]
    if notice.handled_at:
        moments.append(Moment(notice.handled_at, "通知已处理", f"{name} → {notice.outcome}"))
    return moments


def _of_transfer(transfer: TransferView) -> Moment:
    return Moment(transfer.posted_at, "总账入账", f"{transfer.kind} {transfer.id}")


def as_pretty(value: Any, *, limit: int = 20_000) -> str:
    """Evidence as readable text, cut at `limit` characters."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
    return text if len(text) <= limit else f"{text[:limit]}\n…（过长，已截断）"
