"""The JSON interface to one's own bills, for the mini-program and for programs."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from sanic import Blueprint, HTTPResponse

from estation.fees import queries
from estation.fees.errors import BillNotFound
from estation.fees.queries import BillView, ItemView
from estation.identity.api import citizen, citizen_only
from estation.services import OnlineRequest
from estation.shared.openapi import described, shape
from estation.shared.replies import json_reply

bp = Blueprint("fees_api", url_prefix="/api/bills")

BILL = shape("Bill", BillView, without=("items",))
BILLS = shape("Bills", None, bills=list[BILL])  # type: ignore[valid-type]
WHOLE_BILL = shape(
    "BillWithItems", BillView, without=("items",), items=list[ItemView], payees=dict[str, str]
)


@bp.get("/")
@citizen_only
@described(answers={200: BILLS})
async def my_bills(request: OnlineRequest) -> HTTPResponse:
    """{"bills": [...]}: newest first, without items."""
    bills = await queries.bills_of(citizen(request).person_id)
    return json_reply({"bills": [_shown(bill) for bill in bills]})


@bp.get("/<bill_id:uuid>")
@citizen_only
@described(answers={200: WHOLE_BILL}, refuses=(BillNotFound,))
async def one_bill(request: OnlineRequest, bill_id: UUID) -> HTTPResponse:
    """One bill with every item; `payees` names the payee codes."""
    bill = await queries.bill_of(citizen(request).person_id, bill_id)
    payees = {payee.code: payee.name for payee in request.app.ctx.settings.payees}
    return json_reply({**_shown(bill), "items": [asdict(i) for i in bill.items], "payees": payees})


def _shown(bill: BillView) -> dict[str, Any]:
    shown = asdict(bill)
    del shown["items"]
    return shown
