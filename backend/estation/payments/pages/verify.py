"""Anybody who is shown a receipt may ask whether it is ours and still holds.

The code is the receipt's proof: it travels in a form's body, and from the printed QR code in the
address's fragment, which no browser sends. Receipts printed before carry it in the query; their
links work, and the page takes it out of the address.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sanic import HTTPResponse

from estation.identity.api import Tier, masked_parties, public
from estation.payments.api import NumberedReceipt, receipt_numbered
from estation.payments.pages.blueprint import bp
from estation.payments.receipt_codes import is_same_code, receipt_code
from estation.services import OnlineRequest
from estation.shared.clock import BEIJING
from estation.shared.pages import render

LONGEST = 64
"""Characters of a number or a code; ours are shorter."""

_NOBODYS = datetime(2000, 1, 1, tzinfo=BEIJING)


@dataclass(frozen=True, slots=True)
class Verified:
    """All that a receipt's holder may learn; the payer is masked for the public."""

    receipt_no: str
    payee_name: str
    payer_name: str
    amount_fen: int
    refunded_fen: int
    paid_at: datetime

    @property
    def state(self) -> str:
        """valid, partly_refunded or refunded."""
        if self.refunded_fen >= self.amount_fen:
            return "refunded"
        return "partly_refunded" if self.refunded_fen else "valid"


@bp.get("/verify", name="verify")
@public
async def verify(request: OnlineRequest) -> HTTPResponse:
    """The form; and the answer for whoever comes by an older receipt's link."""
    return await _page(request, request.args)


@bp.post("/verify", name="verify_form")
@public
async def verify_form(request: OnlineRequest) -> HTTPResponse:
    """The answer, above the form to check another."""
    return await _page(request, request.form or {})


def verify_address(public_url: str, *, receipt_no: str, code: str) -> str:
    """What a receipt's QR code says: the page, and behind `#` what only the browser reads."""
    return f"{public_url}/verify#no={receipt_no}&code={code}"


async def _page(request: OnlineRequest, given: Mapping[str, Any]) -> HTTPResponse:
    """Unknown numbers and wrong codes get the same answer."""
    number = str(given.get("no", "")).strip().upper()
    code = str(given.get("code", "")).strip()
    is_asked = bool(number or code)
    found = await _verified(request, number, code) if number and code else None
    return render(
        request,
        "payments/verify.html",
        number=number[:LONGEST],
        code=code[:LONGEST],
        is_asked=is_asked,
        is_complete=bool(number and code),
        found=found,
        hall=request.app.ctx.settings.hall,
    )


async def _verified(request: OnlineRequest, number: str, code: str) -> Verified | None:
    """A receipt nobody has costs the same work as one with a wrong code."""
    services = request.app.ctx
    is_plausible = max(len(number), len(code)) <= LONGEST and "\x00" not in number
    receipt = await receipt_numbered(number if is_plausible else "")
    right = [code_of(key, receipt, number) for key in services.receipt_keys()]
    is_ours = any(is_same_code(code[:LONGEST], one) for one in right)
    if receipt is None or not is_ours:
        return None
    payers = await masked_parties([receipt.payer_id], tier=Tier.PUBLIC, vault=services.vault)
    return Verified(
        receipt_no=receipt.receipt_no,
        payee_name=receipt.payee_name,
        payer_name=payers[receipt.payer_id].name,
        amount_fen=receipt.amount_fen,
        refunded_fen=receipt.refunded_fen,
        paid_at=receipt.paid_at,
    )


def code_of(key: bytes, receipt: NumberedReceipt | None, number: str) -> str:
    """The right code; of a receipt nobody has one that is never told to anybody."""
    return receipt_code(
        key,
        receipt_no=receipt.receipt_no if receipt else number[:LONGEST],
        payee_code=receipt.payee_code if receipt else "",
        amount_fen=receipt.amount_fen if receipt else 0,
        paid_at=receipt.paid_at if receipt else _NOBODYS,
    )
