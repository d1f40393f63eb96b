"""The staff's board and the reconciliation workbench. Nothing here moves anybody's money."""

from calendar import monthrange
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, cast
from uuid import UUID

from sanic import Blueprint, HTTPResponse
from sanic.response import ResponseStream, raw, redirect

from estation.identity.api import staff_only
from estation.outside.gate.status import stream_status
from estation.payments.api import (
    incident_name,
    incidents_about,
    list_incidents,
    open_incident_count,
)
from estation.reconciliation import queries
from estation.reconciliation.api import reconcile_day
from estation.reconciliation.errors import RunNotFound
from estation.reconciliation.exports import Export
from estation.reconciliation.queries import DifferenceView, RunView
from estation.reconciliation.rules import BLOCKED, KINDS, MATCHED, REFUND_FATES, Kind
from estation.services import OnlineRequest
from estation.shared.clock import beijing_day
from estation.shared.errors import InvalidInput
from estation.shared.outbox import dead_messages
from estation.shared.pages import render

bp = Blueprint("reconciliation_pages")

FINANCE = ("finance_clerk", "finance_checker")
ALL_STAFF = (*FINANCE, "operator")
FIRST_DAY = date(2020, 1, 1)
BOARD_ROWS = 10
EXPORT_ROWS = 2000
SHOWN = sorted(KINDS, key=lambda kind: not KINDS[kind].blocks)
"""What blocks the day stands first."""
FATES = (MATCHED, *(kind for kind in KINDS if kind not in REFUND_FATES), BLOCKED)


@bp.get("/staff")
@staff_only(*ALL_STAFF)
async def board(request: OnlineRequest) -> HTTPResponse:
    """What needs somebody today: oldest incidents, last days, gate streams, dead messages."""
    now = request.app.ctx.clock()
    today = beijing_day(now)
    return render(
        request,
        "staff/board.html",
        incidents=await list_incidents(limit=BOARD_ROWS),
        incident_count=await open_incident_count(),
        days=await queries.days(today - timedelta(days=7), today - timedelta(days=1)),
        streams=await stream_status(),
        dead=await dead_messages(limit=BOARD_ROWS),
        kinds=KINDS,
        incident_name=incident_name,
        now=now,
    )


@bp.get("/staff/reconciliation")
@staff_only(*ALL_STAFF)
async def list_of_days(request: OnlineRequest) -> HTTPResponse:
    """One month of days with their newest result; `?month=YYYY-MM`."""
    today = beijing_day(request.app.ctx.clock())
    first = _month(str(request.args.get("month", today.strftime("%Y-%m"))), today)
    last = first.replace(day=monthrange(first.year, first.month)[1])
    following = last + timedelta(days=1)
    return render(
        request,
        "staff/days.html",
        days=await queries.days(first, min(last, today)),
        month=first,
        earlier=first - timedelta(days=1) if first > FIRST_DAY else None,
        later=following if following <= today else None,
        yesterday=today - timedelta(days=1),
        today=today,
        kinds=KINDS,
        may_run=request.ctx.viewer.role in FINANCE,
    )


@bp.post("/staff/reconciliation")
@staff_only(*FINANCE)
async def run(request: OnlineRequest) -> HTTPResponse:
    """Reconcile the day of the form and show it. A new run beside the earlier ones."""
    day = _day(str(request.form.get("day", "")) if request.form else "")
    await reconcile_day(
        day,
        services=request.app.ctx,
        now=request.app.ctx.clock(),
        started_by=str(request.ctx.viewer.name)[:64],
    )
    return redirect(f"/staff/reconciliation/{day}", status=303)


@bp.get("/staff/reconciliation/<day:ymd>")
@staff_only(*ALL_STAFF)
async def one_day(request: OnlineRequest, day: date) -> HTTPResponse:
    """The newest run of a day, or `?run=<id>` for an earlier one."""
    try:
        view = await _run_of(request, day)
    except RunNotFound:
        if "run" in request.args:
            raise
        view = None
    found = view.differences if view else []
    return render(
        request,
        "staff/day.html",
        day=day,
        run=view,
        fates=FATES,
        groups=[(kind, group) for kind in SHOWN if (group := _of_kind(found, kind))],
        incidents=await incidents_about([one.out_trade_no for one in found]),
        shown=len(found),
        total=sum(view.counts.values()) if view else 0,
        runs=await queries.earlier_runs(day),
        files=await queries.bill_files(day),
        kinds=KINDS,
        may_run=request.ctx.viewer.role in FINANCE,
        is_over=day < beijing_day(request.app.ctx.clock()),
    )


@bp.get("/staff/reconciliation/<day:ymd>/differences.csv")
@staff_only(*FINANCE)
async def export(request: OnlineRequest, day: date) -> HTTPResponse:
    """All differences of a run, sent page by page; the same run gives the same bytes."""
    view = await _run_of(request, day)

    async def send(response: Any) -> None:
        made = Export(view)
        await response.write(made.header())
        after: UUID | None = None
        while page := await queries.differences(view.id, limit=EXPORT_ROWS, after=after):
            await response.write(made.rows(page))
            after = page[-1].id
        await response.write(made.footer())

    name = f"reconciliation_{day}_{view.result_digest[:12]}.csv"
    stream = ResponseStream(send, headers=_download(name), content_type="text/csv; charset=utf-8")
    return cast(HTTPResponse, stream)  # Sanic sends it like one, without holding the whole file


@bp.get("/staff/reconciliation/<day:ymd>/bills/<file_id:uuid>")
@staff_only(*FINANCE)
async def raw_bill(request: OnlineRequest, day: date, file_id: UUID) -> HTTPResponse:
    """The channel's file byte for byte; its hash is in the header and in its name."""
    file, content = await queries.bill_file(day, file_id, vault=request.app.ctx.vault)
    ending = {b"PK": "zip", b"\x1f\x8b": "gz"}.get(content[:2], "csv")
    name = f"{file.account_id.replace(':', '_')}_{day}_{file.sha256[:12]}.{ending}"
    return raw(
        content,
        content_type="application/octet-stream",
        headers={**_download(name), "x-content-sha256": file.sha256},
    )


def _of_kind(found: Sequence[DifferenceView], kind: Kind) -> list[DifferenceView]:
    return [one for one in found if one.kind is kind]


async def _run_of(request: OnlineRequest, day: date) -> RunView:
    wanted = str(request.args.get("run", ""))
    if not wanted:
        return await queries.latest_run(day)
    try:
        run_id = UUID(wanted)
    except ValueError:
        raise InvalidInput(field="run") from None
    view = await queries.run(run_id)
    if view.day != day:
        raise RunNotFound(day=str(day))
    return view


def _download(name: str) -> dict[str, str]:
    """A stranger's bytes are saved, never shown."""
    return {
        "content-disposition": f'attachment; filename="{name}"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        day = None
    if day is None or day < FIRST_DAY:
        raise InvalidInput(field="day")
    return day


def _month(text: str, today: date) -> date:
    if len(text) != 7:
        raise InvalidInput(field="month")
    first = _day(f"{text}-01")
    if first > today:
        raise InvalidInput(field="month")
    return first
