"""Incidents: the list, one incident on one screen, and what may be done about it."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any, cast
from uuid import UUID

from sanic import HTTPResponse
from sanic.response import ResponseStream, redirect

from estation.identity.api import staff_only
from estation.payments import message_queries, staff_queries, staff_words
from estation.payments.actions import asking, incidents
from estation.payments.api import (
    approve_applying,
    approve_ending_claim,
    approve_paying_by_hand,
    approve_settling_outside,
    ask_paying_by_hand,
    ask_redirect,
    ask_refund,
    ask_to_apply,
    ask_to_end_claim,
    ask_to_settle_outside,
    incident,
    redirect_abnormal,
    reject_applying,
    reject_ending_claim,
    reject_paying_by_hand,
    reject_redirect,
    reject_settling_outside,
    resolve_incident,
)
from estation.payments.errors import ArrivalNotFound, ClaimChanged, NotYourIncident
from estation.payments.incident_deeds import deeds_for
from estation.payments.incident_export import IncidentExport
from estation.payments.queries import IncidentView
from estation.payments.refund_queries import RefundableView, refundable_of
from estation.payments.refund_rules import Deed
from estation.payments.rules import ENDED_BY_TWO, ClaimEnd, IncidentState
from estation.payments.staff_pages.blueprint import (
    CHECKER,
    FINANCE,
    OPERATOR,
    account,
    bp,
    field,
    in_words_of,
    is_me,
    known,
    officer,
    page_number,
)
from estation.payments.staff_queries import IncidentFilter
from estation.services import OnlineRequest
from estation.shared.clock import beijing_day
from estation.shared.errors import InvalidInput, Refused
from estation.shared.money import NotMoney, fen_from_yuan
from estation.shared.pages import render

STATES: Mapping[str, IncidentState | None] = {
    "open": IncidentState.OPEN,
    "resolved": IncidentState.RESOLVED,
    "all": None,
}
OWNERS = {"": "", **staff_words.OWNER_WORDS}
MINE = {"": "全部", "1": "我的"}
OVERDUE = {"": "不限", "1": "已超时限"}
EXPORT_ROWS = 1000
TYPED = ("resolution", "amount", "reason", "outside_reason", "document_no", "claim_amount",
         "claim_reason", "claim_document_no", "received_on", "hand_document_no")  # fmt: skip
"""What comes back into its field after a refusal."""


@bp.get("/staff/incidents")
@staff_only(*FINANCE, OPERATOR)
async def list_of_incidents(request: OnlineRequest) -> HTTPResponse:
    """Filter by state, kind, owner, mine and overdue, sort by a name of the list; else 422."""
    wanted, words = await _wanted(request)
    sort = known(request, "sort", staff_queries.ORDERS, "due")
    found = await staff_queries.incident_page(wanted, sort=sort, page=page_number(request))
    return render(
        request,
        "staff/incidents.html",
        found=found,
        chosen={**words, "sort": sort},
        kinds=await staff_queries.incident_kinds(),
        escalated=await staff_queries.escalated([row.id for row in found.rows]),
        now=request.app.ctx.clock(),
        words=staff_words,
        owners=OWNERS,
        mine=MINE,
        overdue=OVERDUE,
    )


@bp.get("/staff/incidents.csv")
@staff_only(*FINANCE, OPERATOR)
async def export(request: OnlineRequest) -> HTTPResponse:
    """All that match the filter, sent page by page; the last row is their sum."""
    wanted, _ = await _wanted(request)

    async def send(response: Any) -> None:
        made = IncidentExport()
        await response.write(made.header())
        after: UUID | None = None
        while page := await staff_queries.incidents_after(wanted, after=after, limit=EXPORT_ROWS):
            await response.write(made.rows(page))
            after = page[-1].id
        await response.write(made.footer())

    headers = {
        "content-disposition": 'attachment; filename="incidents.csv"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    stream = ResponseStream(send, headers=headers, content_type="text/csv; charset=utf-8")
    return cast(HTTPResponse, stream)  # Sanic sends it like one, without holding the whole file


@bp.get("/staff/incidents/<incident_id:uuid>")
@staff_only(*FINANCE, OPERATOR)
async def one_incident(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    return await _show(request, await incident(incident_id))


@bp.post("/staff/incidents/<incident_id:uuid>")
@staff_only(*FINANCE, OPERATOR)
async def resolve(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """Close the incident with a reason; some kinds need another officer's too. No money moves
    here, and no bill becomes paid."""

    async def work() -> None:
        try:
            await resolve_incident(
                incident_id=incident_id,
                by=officer(request),
                by_id=account(request),
                resolution=field(request, "resolution"),
                now=request.app.ctx.clock(),
            )
        except InvalidInput as wrong:
            raise _wrong(wrong, "请写明处理结果（最多 2000 字）。") from None

    return await _do(request, incident_id, Deed.RESOLVE, work)


@bp.post("/staff/incidents/<incident_id:uuid>/take")
@staff_only(*FINANCE, OPERATOR)
async def take(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The officer looks after it from now on, also instead of a colleague."""

    async def work() -> None:
        await incidents.take_incident(
            incident_id=incident_id,
            by=officer(request),
            by_id=account(request),
            now=request.app.ctx.clock(),
        )

    return await _do(request, incident_id, Deed.TAKE, work)


@bp.post("/staff/incidents/<incident_id:uuid>/ask-channel")
@staff_only(*FINANCE, OPERATOR)
async def ask_channel(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """Ask the channel again about the incident's number; a certain answer passes `settle`."""
    services = request.app.ctx

    async def work() -> None:
        found = await incident(incident_id)
        answer = await asking.ask_again(found.out_trade_no, services, now=services.clock())
        said = f"渠道答复：{answer.answer or '没有答复'}；{answer.before} → {answer.after}"
        await incidents.note_on(
            incident_id,
            Deed.ASK_CHANNEL,
            by=officer(request),
            by_id=account(request),
            note=said,
            now=services.clock(),
        )

    return await _do(request, incident_id, Deed.ASK_CHANNEL, work)


@bp.post("/staff/incidents/<incident_id:uuid>/refund")
@staff_only(*FINANCE)
async def ask_for_refund(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The maker's half: a checker has to approve it on the refund's page."""

    async def work() -> None:
        try:
            await ask_refund(
                incident_id=incident_id,
                amount_fen=fen_from_yuan(field(request, "amount").strip()),
                believed_refundable_fen=_fen(field(request, "believed_fen")),
                reason=field(request, "reason"),
                by=officer(request),
                by_id=account(request),
                now=request.app.ctx.clock(),
            )
        except NotMoney as wrong:
            raise _Said(wrong.message, status=422) from None
        except InvalidInput as wrong:
            raise _wrong(wrong, "请填写退款原因（付款人看得到，最多 80 字）和金额。") from None

    return await _do(request, incident_id, Deed.REFUND, work)


@bp.post("/staff/incidents/<incident_id:uuid>/apply")
@staff_only(*FINANCE)
async def ask_applying(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The maker's wish that late money pays its still payable bill; a checker decides."""

    async def work() -> None:
        await ask_to_apply(
            incident_id=incident_id,
            by=officer(request),
            by_id=account(request),
            note=field(request, "note"),
            now=request.app.ctx.clock(),
        )

    return await _do(request, incident_id, Deed.APPLY, work)


@bp.post("/staff/incidents/<incident_id:uuid>/apply/approve")
@staff_only(CHECKER)
async def approve_apply(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's yes: the money passes `settle` and the incident is resolved."""

    async def work() -> None:
        await approve_applying(
            incident_id=incident_id,
            by=officer(request),
            by_id=account(request),
            now=request.app.ctx.clock(),
        )

    return await _do(request, incident_id, Deed.APPLY, work)


@bp.post("/staff/incidents/<incident_id:uuid>/apply/reject")
@staff_only(CHECKER)
async def reject_apply(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's no, with its reason."""
    return await _say_no(request, incident_id, Deed.APPLY, reject_applying, "不予转入")


@bp.post("/staff/incidents/<incident_id:uuid>/outside")
@staff_only(*FINANCE)
async def ask_outside(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The maker's wish that what is left in suspense counts as settled outside (线下处理)."""

    async def work() -> None:
        try:
            await ask_to_settle_outside(
                incident_id=incident_id,
                believed_fen=_fen(field(request, "believed_fen")),
                reason=field(request, "outside_reason"),
                document_no=field(request, "document_no"),
                by=officer(request),
                by_id=account(request),
                now=request.app.ctx.clock(),
            )
        except InvalidInput as wrong:
            raise _wrong(wrong, "请写明线下处理的经过（最多 200 字）和凭据文号。") from None

    return await _do(request, incident_id, Deed.SETTLE_OUTSIDE, work)


@bp.post("/staff/incidents/<incident_id:uuid>/outside/approve")
@staff_only(CHECKER)
async def approve_outside(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's yes: the money leaves suspense in the books."""

    async def work() -> None:
        await approve_settling_outside(
            incident_id=incident_id,
            believed_fen=_fen(field(request, "believed_fen")),
            by=officer(request),
            by_id=account(request),
            now=request.app.ctx.clock(),
        )

    return await _do(request, incident_id, Deed.SETTLE_OUTSIDE, work)


@bp.post("/staff/incidents/<incident_id:uuid>/outside/reject")
@staff_only(CHECKER)
async def reject_outside(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's no, with its reason."""
    return await _say_no(
        request, incident_id, Deed.SETTLE_OUTSIDE, reject_settling_outside, "不予线下处理"
    )


@bp.post("/staff/incidents/<incident_id:uuid>/claim")
@staff_only(*FINANCE)
async def ask_about_claim(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The maker's wish that a claim of ours, or a part of it, counts as recovered or given up."""

    async def work() -> None:
        try:
            await ask_to_end_claim(
                incident_id=incident_id,
                kind=_claim_end(field(request, "claim_end")),
                amount_fen=fen_from_yuan(field(request, "claim_amount").strip()),
                believed_fen=_fen(field(request, "believed_fen")),
                document_no=field(request, "claim_document_no"),
                reason=field(request, "claim_reason"),
                received_on=_day(field(request, "received_on").strip()),
                by=officer(request),
                by_id=account(request),
                now=request.app.ctx.clock(),
            )
        except NotMoney as wrong:
            raise _Said(wrong.message, status=422) from None
        except InvalidInput as wrong:
            words = "追回须填金额、到账日期和银行回单号；核销须填金额、决定文号和理由。"
            raise _wrong(wrong, f"{words}金额不能超过应收。") from None

    return await _do(request, incident_id, Deed.END_CLAIM, work)


@bp.post("/staff/incidents/<incident_id:uuid>/claim/approve")
@staff_only(CHECKER)
async def approve_claim(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's yes: the sum leaves the claim's account in the books."""

    async def work() -> None:
        await approve_ending_claim(
            incident_id=incident_id,
            believed_fen=_fen(field(request, "believed_fen")),
            by=officer(request),
            by_id=account(request),
            now=request.app.ctx.clock(),
        )

    return await _do(request, incident_id, Deed.END_CLAIM, work)


@bp.post("/staff/incidents/<incident_id:uuid>/claim/reject")
@staff_only(CHECKER)
async def reject_claim(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's no, with its reason."""
    return await _say_no(request, incident_id, Deed.END_CLAIM, reject_ending_claim, "不予批准")


@bp.post("/staff/incidents/<incident_id:uuid>/redirect")
@staff_only(*FINANCE)
async def ask_redirecting(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The maker's wish that an abnormal refund goes to our own card; a checker decides."""

    async def work() -> None:
        await ask_redirect(
            refund_id=await staff_queries.refund_of(await incident(incident_id)),
            by=officer(request),
            by_id=account(request),
            note=field(request, "note"),
            now=request.app.ctx.clock(),
        )

    return await _do(request, incident_id, Deed.REDIRECT_REFUND, work)


@bp.post("/staff/incidents/<incident_id:uuid>/redirect/approve")
@staff_only(CHECKER)
async def approve_redirecting(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's yes: the channel pays our own card, from where finance pays by transfer."""
    services = request.app.ctx

    async def work() -> None:
        await redirect_abnormal(
            refund_id=await staff_queries.refund_of(await incident(incident_id)),
            by=officer(request),
            by_id=account(request),
            services=services,
            now=services.clock(),
        )

    return await _do(request, incident_id, Deed.REDIRECT_REFUND, work)


@bp.post("/staff/incidents/<incident_id:uuid>/redirect/reject")
@staff_only(CHECKER)
async def reject_redirecting(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's no, with its reason."""
    return await _say_no(request, incident_id, Deed.REDIRECT_REFUND, reject_redirect, "不予改退")


@bp.post("/staff/incidents/<incident_id:uuid>/by-hand")
@staff_only(*FINANCE)
async def ask_by_hand(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The maker says that finance has paid a redirected refund out to its payer."""

    async def work() -> None:
        try:
            await ask_paying_by_hand(
                refund_id=await staff_queries.refund_of(await incident(incident_id)),
                document_no=field(request, "hand_document_no"),
                by=officer(request),
                by_id=account(request),
                now=request.app.ctx.clock(),
            )
        except InvalidInput as wrong:
            raise _wrong(wrong, "请填写转账回单号（最多 64 字）。") from None

    return await _do(request, incident_id, Deed.PAY_BY_HAND, work)


@bp.post("/staff/incidents/<incident_id:uuid>/by-hand/approve")
@staff_only(CHECKER)
async def approve_by_hand(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's yes: it is booked, and the refund's incidents are over."""

    async def work() -> None:
        await approve_paying_by_hand(
            refund_id=await staff_queries.refund_of(await incident(incident_id)),
            by=officer(request),
            by_id=account(request),
            now=request.app.ctx.clock(),
        )

    return await _do(request, incident_id, Deed.PAY_BY_HAND, work)


@bp.post("/staff/incidents/<incident_id:uuid>/by-hand/reject")
@staff_only(CHECKER)
async def reject_by_hand(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """The checker's no, with its reason."""
    return await _say_no(request, incident_id, Deed.PAY_BY_HAND, reject_paying_by_hand, "不予登记")


_OF_A_REFUND = frozenset({Deed.REDIRECT_REFUND, Deed.PAY_BY_HAND})
"""Deeds about the refund that an incident speaks of."""


async def _say_no(
    request: OnlineRequest,
    incident_id: UUID,
    deed: Deed,
    reject: Callable[..., Awaitable[None]],
    what: str,
) -> HTTPResponse:
    """The checker's no to a maker's wish, which needs its reason."""

    async def work() -> None:
        about = {"incident_id": incident_id}
        if deed in _OF_A_REFUND:
            about = {"refund_id": await staff_queries.refund_of(await incident(incident_id))}
        try:
            await reject(
                **about,
                by=officer(request),
                by_id=account(request),
                note=field(request, "note"),
                now=request.app.ctx.clock(),
            )
        except InvalidInput as wrong:
            raise _wrong(wrong, f"{what}须写明理由（最多 200 字）。") from None

    return await _do(request, incident_id, deed, work)


class _Said(Exception):
    """A refusal in the words of this page."""

    def __init__(self, words: str, *, status: int) -> None:
        super().__init__(words)
        self.words = words
        self.status = status


def _wrong(wrong: InvalidInput, words: str) -> _Said:
    return _Said(in_words_of(wrong, words), status=wrong.http_status)


async def _do(request: OnlineRequest, incident_id: UUID, deed: Deed, work: Any) -> HTTPResponse:
    """Do it when it is legal for this officer now; every refusal is said on the incident's page
    with its own status, and what was typed is still there."""
    found = await incident(incident_id)
    if deed not in _deeds(request, found):
        return await _show(
            request, found, status=NotYourIncident.http_status, problem=NotYourIncident.message
        )
    try:
        await work()
    except _Said as refusal:
        return await _show(request, found, status=refusal.status, problem=refusal.words)
    except Refused as refusal:
        return await _show(request, found, status=refusal.http_status, problem=_in_words(refusal))
    return redirect(f"/staff/incidents/{incident_id}", status=303)


def _in_words(refusal: Refused) -> str:
    why = staff_words.NOT_APPLIED_WORDS.get(str(refusal.details.get("why", "")))
    if why:
        return f"{refusal.message}{why}"
    claim_fen = refusal.details.get("claim_fen")
    if isinstance(refusal, ClaimChanged) and claim_fen is not None:
        return f"{refusal.message}（现应收 {staff_words.yuan(claim_fen)}）"
    fen = refusal.details.get("refundable_fen")
    return (
        refusal.message if fen is None else f"{refusal.message}（现可退 {staff_words.yuan(fen)}）"
    )


async def _show(
    request: OnlineRequest, found: IncidentView, *, status: int = 200, problem: str = ""
) -> HTTPResponse:
    deeds = _deeds(request, found)
    money = await _money(found)
    wish = await staff_queries.wish_to_apply(found.id) if Deed.APPLY in deeds else None
    outside = None
    if money is not None and Deed.SETTLE_OUTSIDE in deeds:
        outside = await staff_queries.wish_outside(money.arrival_id)
    claim = await staff_queries.claim_of(found) if Deed.END_CLAIM in deeds else None
    claim_wish = claim.wish if claim else None
    ending = await staff_queries.wish_to_end(found) if found.kind in ENDED_BY_TWO else None
    story = await staff_queries.story_of(found)
    vault = request.app.ctx.vault
    redirecting = await staff_queries.redirecting(found) if Deed.REDIRECT_REFUND in deeds else None
    by_hand = redirecting.by_hand if redirecting else None
    return render(
        request,
        "staff/incident.html",
        status=status,
        incident=found,
        story=story,
        evidence=staff_queries.as_pretty(found.evidence, vault),
        messages=await message_queries.messages_about(story.numbers, vault),
        deeds=deeds,
        refundable=money if Deed.REFUND in deeds else None,
        suspense_fen=money.suspense_fen if money else 0,
        refunds=await staff_queries.refunds_about(found),
        wish=wish,
        outside=outside,
        claim=claim,
        ends_by_two=found.kind in ENDED_BY_TWO,
        ending=ending,
        redirecting=redirecting,
        is_mine={
            "incident": is_me(request, found.assigned_to, found.assigned_to_id),
            "ending": ending is not None and is_me(request, ending.by, ending.by_id),
            "wish": wish is not None and is_me(request, wish.by, wish.by_id),
            "outside": outside is not None
            and is_me(request, outside.asked_by, outside.asked_by_id),
            "claim": claim_wish is not None
            and is_me(request, claim_wish.asked_by, claim_wish.asked_by_id),
            "by_hand": by_hand is not None and is_me(request, by_hand.by, by_hand.by_id),
            "redirecting": redirecting is not None
            and is_me(request, redirecting.by, redirecting.by_id),
        },
        may_check=request.ctx.viewer.role == CHECKER,
        problem=problem,
        typed={name: field(request, name)[:2000] for name in TYPED},
        now=request.app.ctx.clock(),
        today=beijing_day(request.app.ctx.clock()),
        words=staff_words,
    )


def _deeds(request: OnlineRequest, found: IncidentView) -> tuple[Deed, ...]:
    deeds = deeds_for(
        kind=found.kind,
        state=found.state,
        owner=found.owner,
        role=request.ctx.viewer.role,
        number=found.out_trade_no,
    )
    without_number = {Deed.ASK_CHANNEL} if not found.out_trade_no else set()
    return tuple(deed for deed in deeds if deed not in without_number)


async def _money(found: IncidentView) -> RefundableView | None:
    """What is left of the incident's money; None when the books have none of it."""
    try:
        (view,) = await refundable_of(arrival_id=await staff_queries.arrival_of(found))
    except ArrivalNotFound:
        return None
    return view


async def _wanted(request: OnlineRequest) -> tuple[IncidentFilter, dict[str, str]]:
    kind = str(request.args.get("kind", ""))
    if kind and kind not in await staff_queries.incident_kinds():
        raise InvalidInput(field="kind")
    words = {
        "state": known(request, "state", STATES, "open"),
        "kind": kind,
        "owner": known(request, "owner", OWNERS, ""),
        "mine": known(request, "mine", MINE, ""),
        "overdue": known(request, "overdue", OVERDUE, ""),
    }
    wanted = IncidentFilter(
        state=STATES[words["state"]],
        kind=kind,
        owner=words["owner"],
        assigned_to=officer(request) if words["mine"] else "",
        assigned_to_id=account(request) if words["mine"] else None,
        overdue_at=request.app.ctx.clock() if words["overdue"] else None,
    )
    return wanted, words


def _claim_end(text: str) -> ClaimEnd:
    try:
        return ClaimEnd(text)
    except ValueError:
        raise InvalidInput(field="claim_end") from None


def _day(text: str) -> date | None:
    """Raises InvalidInput for what is no date."""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InvalidInput(field="received_on") from None


def _fen(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidInput(field="believed_fen")
    return int(text)
