"""Incidents for staff: who owns money that fits nothing, and how it was decided."""

from typing import Any
from uuid import UUID

from sanic import Blueprint, HTTPResponse
from sanic.response import redirect

from estation.identity.api import staff_only
from estation.payments import staff_queries, staff_words
from estation.payments.api import incident, resolve_incident
from estation.payments.queries import IncidentView
from estation.payments.rules import IncidentState
from estation.services import OnlineRequest
from estation.shared.errors import InvalidInput
from estation.shared.pages import render

bp = Blueprint("payment_staff_pages")

FINANCE = ("finance_clerk", "finance_checker")
OPERATOR = "operator"
STATES: dict[str, IncidentState | None] = {
    "open": IncidentState.OPEN,
    "resolved": IncidentState.RESOLVED,
    "all": None,
}


@bp.get("/staff/incidents")
@staff_only(*FINANCE, OPERATOR)
async def list_of_incidents(request: OnlineRequest) -> HTTPResponse:
    """Filter by state and kind, sort by a name of the list, 50 a page; else 422."""
    state, kind = _known(request, "state", STATES, "open"), str(request.args.get("kind", ""))
    sort = _known(request, "sort", staff_queries.ORDERS, "due")
    page = _page_number(str(request.args.get("page", "1")))
    kinds = await staff_queries.incident_kinds()
    if kind and kind not in kinds:
        raise InvalidInput(field="kind")
    found = await staff_queries.incident_page(state=STATES[state], kind=kind, sort=sort, page=page)
    return render(
        request,
        "staff/incidents.html",
        found=found,
        state=state,
        kind=kind,
        sort=sort,
        kinds=kinds,
        now=request.app.ctx.clock(),
        words=staff_words,
    )


@bp.get("/staff/incidents/<incident_id:uuid>")
@staff_only(*FINANCE, OPERATOR)
async def one_incident(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    return await _show(request, await incident(incident_id))


@bp.post("/staff/incidents/<incident_id:uuid>")
@staff_only(*FINANCE, OPERATOR)
async def resolve(request: OnlineRequest, incident_id: UUID) -> HTTPResponse:
    """Close the incident with a reason. No money moves here, and no bill becomes paid."""
    viewer = request.ctx.viewer
    found = await incident(incident_id)
    reason = str(request.form.get("resolution", "")) if request.form else ""
    if not _may_resolve(viewer.role, found):
        return await _show(request, found, status=403, problem="这条异常不由您的岗位处理。")
    try:
        await resolve_incident(
            incident_id=incident_id,
            by=f"{viewer.name}（{viewer.role}）",
            resolution=reason,
            now=request.app.ctx.clock(),
        )
    except InvalidInput:
        return await _show(
            request, found, status=422, problem="请写明处理结果（最多 2000 字）。", reason=reason
        )
    return redirect(f"/staff/incidents/{incident_id}", status=303)


async def _show(
    request: OnlineRequest,
    found: IncidentView,
    *,
    status: int = 200,
    problem: str = "",
    reason: str = "",
) -> HTTPResponse:
    return render(
        request,
        "staff/incident.html",
        status=status,
        incident=found,
        story=await staff_queries.story_of(found),
        evidence=staff_queries.as_pretty(found.evidence),
        may_resolve=_may_resolve(request.ctx.viewer.role, found),
        problem=problem,
        reason=reason[:2000],
        now=request.app.ctx.clock(),
        words=staff_words,
    )


def _may_resolve(role: str | None, found: IncidentView) -> bool:
    """Finance decides about money; operators about news that our own programs failed on."""
    if found.state != IncidentState.OPEN:
        return False
    return role == OPERATOR if found.owner == OPERATOR else role in FINANCE


def _known(request: OnlineRequest, name: str, allowed: dict[str, Any], default: str) -> str:
    value = str(request.args.get(name, default))
    if value not in allowed:
        raise InvalidInput(field=name)
    return value


def _page_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise InvalidInput(field="page")
    return int(text)
