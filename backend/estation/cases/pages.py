"""My cases, and one case with its flow chart and what happens next."""

from uuid import UUID

from sanic import Blueprint, HTTPResponse

from estation.cases.api import CaseView, case_of, cases_of
from estation.cases.rules import STAGES
from estation.identity.api import citizen, citizen_only
from estation.outside.gate.age import OF_CASES, copy_age
from estation.services import OnlineRequest
from estation.shared.pages import render

bp = Blueprint("case_pages", url_prefix="/cases")

DOING = {
    "contract": "请买卖双方完成网签，备案后自动进入下一步。",
    "escrow": "请按资金监管协议存入房款，到账后自动进入下一步。",
    "loan": "银行正在办理贷款和抵押，您暂时不用操作。",
    "tax": "请缴清各自的税费，全部缴清后进入登记。",
    "registration": "登记机构正在审核登簿，您不用操作；办结后会通知领证方式。",
}
"""By the stage being done: who has to move."""


@bp.get("/", name="cases")
@citizen_only
async def cases(request: OnlineRequest) -> HTTPResponse:
    """Newest first."""
    found = await cases_of(citizen(request).person_id)
    return render(
        request,
        "cases/list.html",
        cases=found,
        **await copy_age(
            (one.source for one in found),
            now=request.app.ctx.clock(),
            of_all=True,
            topics=OF_CASES,
        ),
    )


@bp.get("/<case_id:uuid>", name="case")
@citizen_only
async def case(request: OnlineRequest, case_id: UUID) -> HTTPResponse:
    """The flow chart, the asker's own role, and the other parties masked."""
    services = request.app.ctx
    shown = await case_of(citizen(request).person_id, case_id, vault=services.vault)
    states = {one.stage: one.state for one in shown.stages}
    return render(
        request,
        "cases/case.html",
        case=shown,
        next_words=next_words(shown),
        needs_payment=shown.state == "open" and states.get("tax") == "doing",
        my_roles="、".join(shown.my_roles),
        parties=[(party.role_word, party.name) for party in shown.parties],
        **await copy_age([shown.source], now=services.clock(), topics=OF_CASES),
    )


def next_words(shown: CaseView) -> str:
    """What happens next, in one sentence. A returned stage comes before one being done."""
    if shown.state == "closed":
        return "业务已经办结，请按办理时选择的方式领取证书。"
    if shown.state == "withdrawn":
        return "这件业务已经撤回，不再办理。需要时可以重新申请。"
    for stage in shown.stages:
        if stage.state == "returned":
            reason = f"：{stage.note}" if stage.note else ""
            return f"{STAGES[stage.stage]}环节已退回{reason}。请按说明补正，或到大厅窗口咨询。"
    for stage in shown.stages:
        if stage.state == "doing":
            return DOING[stage.stage]
    for stage in shown.stages:
        if stage.state == "waiting":
            return f"等待进入{STAGES[stage.stage]}环节，您暂时不用操作。"
    return "各环节已经完成，等待办结，您暂时不用操作。"
