"""The case list, one case, taking in a case and moving it along the flow chart."""

from sanic import HTTPResponse
from sanic.response import redirect

from estation.inner import catalogue, queries, rules
from estation.inner.actions import cases
from estation.inner.actions.cases import NewCase, NewParty, NewStage
from estation.inner.errors import StageNotAllowed
from estation.inner.guards import DeskRequest, form_of, now_of, settings_of, staff_only
from estation.inner.pages.common import number_of, show
from estation.inner.rules import CaseState, Role, Stage, StageState
from estation.shared.errors import Refused

PARTY_FIELDS = ("role", "name", "id_type", "id_no", "phone")
PARTY_LINES = 3


@staff_only()
async def show_start(request: DeskRequest) -> HTTPResponse:
    return redirect("/cases", status=303)


@staff_only()
async def show_cases(request: DeskRequest) -> HTTPResponse:
    search = (request.args.get("q") or "").strip()[:32].replace("\x00", "")
    state = request.args.get("state") or ""
    page = await queries.case_list(
        search=search,
        state=CaseState(state) if state in catalogue.CASE_STATES else None,
        page=number_of(request.args.get("page")),
    )
    return await show(request, "inner/cases.html", page=page, search=search, state=state)


@staff_only()
async def show_case(request: DeskRequest, case_no: str) -> HTTPResponse:
    return await _case_page(request, case_no)


@staff_only(Role.REGISTRAR)
async def move_stage(request: DeskRequest, case_no: str) -> HTTPResponse:
    form = form_of(request)
    stage, to = form.get("stage", ""), form.get("to", "")
    try:
        if stage not in catalogue.STAGES or to not in catalogue.STAGE_STATES:
            raise StageNotAllowed(stage=stage[:32], to=to[:32])
        await cases.advance_stage(
            case_no,
            stage=Stage(stage),
            to=StageState(to),
            note=form.get("note", "").strip(),
            expected_version=number_of(form.get("version")),
            settings=settings_of(request),
            now=now_of(request),
        )
    except Refused as refusal:
        return await _case_page(
            request, case_no, status=refusal.http_status, stage_error=(stage, refusal.message)
        )
    return redirect(f"/cases/{case_no}", status=303)


@staff_only(Role.REGISTRAR)
async def show_new_case(request: DeskRequest) -> HTTPResponse:
    return await _new_case_page(request, form={}, error="")


@staff_only(Role.REGISTRAR)
async def open_case(request: DeskRequest) -> HTTPResponse:
    form = {name: value.strip() for name, value in form_of(request).items()}
    try:
        case_no = await cases.open_case(
            _new_case(request, form), settings=settings_of(request), now=now_of(request)
        )
    except Refused as refusal:
        seq = refusal.details.get("seq")
        where = f"第 {seq} 位当事人：" if seq else ""
        return await _new_case_page(
            request, form=form, error=where + refusal.message, status=refusal.http_status
        )
    return redirect(f"/cases/{case_no}", status=303)


def _new_case(request: DeskRequest, form: dict[str, str]) -> NewCase:
    """The first box starts at once; an unknown matter is kept from the table by the select."""
    now = now_of(request)
    parties = [
        NewParty(
            **{name: form.get(f"{n}-{name}", "") for name in PARTY_FIELDS}
            | {"id_no": form.get(f"{n}-id_no", "").upper()}
        )
        for n in range(1, PARTY_LINES + 1)
        if form.get(f"{n}-name") or form.get(f"{n}-id_no")
    ]
    matter = form.get("matter", "")
    rules.require_text(catalogue.MATTERS.get(matter, ""), "matter", 32, may_be_empty=False)
    return NewCase(
        matter=matter,
        hall_code=form.get("hall", ""),
        unit_code=form.get("unit_code", "").replace(" ", "").upper(),
        opened_at=now,
        parties=parties,
        stages={Stage.CONTRACT: NewStage(StageState.DOING, now)},
    )


async def _case_page(
    request: DeskRequest,
    case_no: str,
    *,
    status: int = 200,
    stage_error: tuple[str, str] = ("", ""),
) -> HTTPResponse:
    case = await queries.case_view(case_no)
    moves = {view.stage: rules.stage_moves(view.stage, view.state) for view in case.stages}
    return await show(
        request,
        "inner/case.html",
        status=status,
        case=case,
        moves=moves,
        stage_error=stage_error,
    )


async def _new_case_page(
    request: DeskRequest, *, form: dict[str, str], error: str, status: int = 200
) -> HTTPResponse:
    return await show(
        request,
        "inner/new_case.html",
        status=status,
        form=form,
        error=error,
        halls=await queries.halls(),
        lines=range(1, PARTY_LINES + 1),
    )
