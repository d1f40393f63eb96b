"""Split instructions for finance: how each day stands, making a file, downloading it.

Here and not in payments, because the channel's fees are read from reconciled bills.
"""

from datetime import date, timedelta
from typing import Any

from sanic import Blueprint, HTTPResponse
from sanic.response import raw, redirect

from estation.identity.api import staff_only
from estation.payments.api import (
    late_splits,
    make_split_export,
    split_exports,
    split_file,
    split_standing,
)
from estation.payments.errors import SplitDayNotOver, SplitExportNotFound
from estation.reconciliation.queries import fee_days, split_fees, waiting_fees
from estation.services import OnlineRequest
from estation.shared.clock import beijing_day
from estation.shared.errors import InvalidInput, NotFound, Refused
from estation.shared.pages import page_headers, render

FIRST_DAY = date(2020, 1, 1)
"""No channel keeps a bill of an earlier day."""

bp = Blueprint("split_pages")

FINANCE = ("finance_clerk", "finance_checker")
DAYS_SHOWN = 7


@bp.get("/staff/splits")
@staff_only(*FINANCE)
async def list_of_splits(request: OnlineRequest) -> HTTPResponse:
    """The last days of each collecting account against the ledger, and the files made."""
    return await _page(request)


@bp.post("/staff/splits")
@staff_only(*FINANCE)
async def make(request: OnlineRequest) -> HTTPResponse:
    """Instruct what of a day was not instructed yet. Refusals are said on the page."""
    services, form = request.app.ctx, request.form
    account_id = _account(services.settings, str(form.get("account_id", "")) if form else "")
    day = _day(str(form.get("day", "")) if form else "")
    now = services.clock()
    try:
        if day >= beijing_day(now):
            raise SplitDayNotOver(day=str(day))
        late = await fee_days(account_id, now=now)
        await make_split_export(
            day=day,
            account_id=account_id,
            by=str(request.ctx.viewer.name),
            fees=await split_fees(day, account_id, now=now, late=late),
            fee_days=late,
            settings=services.settings,
            now=now,
        )
    except NotFound:
        raise
    except Refused as refusal:
        return await _page(request, problem=refusal.message, status=refusal.http_status)
    return redirect("/staff/splits", status=303)


@bp.get("/staff/splits/<file_name:str>")
@staff_only(*FINANCE)
async def download(request: OnlineRequest, file_name: str) -> HTTPResponse:
    """`<export_no>.csv`, byte for byte as it was made."""
    body = await split_file(file_name.removesuffix(".csv"))
    headers = {
        **page_headers(""),
        "content-disposition": f'attachment; filename="{file_name.removesuffix(".csv")}.csv"',
    }
    return raw(body, content_type="text/csv; charset=utf-8", headers=headers)


async def _page(request: OnlineRequest, *, problem: str = "", status: int = 200) -> HTTPResponse:
    settings = request.app.ctx.settings
    now = request.app.ctx.clock()
    today = beijing_day(now)
    accounts = sorted(set(settings.collecting_accounts.values()))
    standings = [
        await split_standing(today - timedelta(days=back), account_id)
        for back in range(1, DAYS_SHOWN + 1)
        for account_id in accounts
    ]
    return render(
        request,
        "staff/splits.html",
        status=status,
        standings=standings,
        exports=await split_exports(),
        late=[one for account_id in accounts for one in await late_splits(account_id, now=now)],
        late_fees=[
            one for account_id in accounts for one in await waiting_fees(account_id, now=now)
        ],
        accounts=_names(settings, accounts),
        yesterday=today - timedelta(days=1),
        problem=problem,
    )


def _names(settings: Any, accounts: list[str]) -> dict[str, str]:
    names = {one.account_id: one.name for one in (*settings.wechat_pay, *settings.alipay)}
    return {account_id: names.get(account_id, account_id) for account_id in accounts}


def _account(settings: Any, account_id: str) -> str:
    """Before anything is looked up with it. Raises SplitExportNotFound."""
    if account_id not in settings.collecting_accounts.values():
        raise SplitExportNotFound(account_id=account_id)
    return account_id


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(field="day") from None
    if day < FIRST_DAY:
        raise InvalidInput(field="day")
    return day
