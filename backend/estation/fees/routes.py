"""The JSON interface to one's own bills, for the mini-program and for programs."""

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from sanic import Blueprint, HTTPResponse

from estation.fees import queries
from estation.fees.errors import BillNotFound
from estation.fees.queries import BillView, ItemView
from estation.identity.api import citizen, citizen_only
from estation.outside.gate.age import CopyAge, copy_age
from estation.services import OnlineRequest
from estation.shared.openapi import described, shape
from estation.shared.replies import json_reply

bp = Blueprint("fees_api", url_prefix="/api/bills")

BILL = shape("Bill", BillView, without=("items",))
BILLS = shape("Bills", None, bills=list[BILL], copy=CopyAge)  # type: ignore[valid-type]
WHOLE_BILL = shape(
    "BillWithItems", BillView, without=("items",), items=list[ItemView], payees=dict[str, str],
    copy=CopyAge,
)  # fmt: skip


@bp.get("/")
@citizen_only
@described(answers={200: BILLS})
async def my_bills(request: OnlineRequest) -> HTTPResponse:
    """{"bills": [...], "copy": ...}: newest first, without items. `copy` says up to when all there
    is of the centres is known, and which of them are late: whoever shows bills shows that."""
    bills = await queries.bills_of(citizen(request).person_id)
    age = await copy_age((one.source for one in bills), now=_now(request), of_all=True)
    return json_reply({"bills": [_shown(bill) for bill in bills], **_plain(age["copy"])})


@bp.get("/<bill_id:uuid>")
@citizen_only
@described(answers={200: WHOLE_BILL}, refuses=(BillNotFound,))
async def one_bill(request: OnlineRequest, bill_id: UUID) -> HTTPResponse:
    """One bill with every item; `payees` names the payee codes, `copy` says how old it may be."""
    bill = await queries.bill_of(citizen(request).person_id, bill_id)
    payees = {payee.code: payee.name for payee in request.app.ctx.settings.payees}
    age = await copy_age([bill.source], now=_now(request))
    items = [asdict(item) for item in bill.items]
    return json_reply({**_shown(bill), "items": items, "payees": payees, **_plain(age["copy"])})


def _shown(bill: BillView) -> dict[str, Any]:
    shown = asdict(bill)
    del shown["items"]
    return shown


def _plain(copy: CopyAge) -> dict[str, Any]:
    return {"copy": asdict(copy)}


def _now(request: OnlineRequest) -> datetime:
    return request.app.ctx.clock()
