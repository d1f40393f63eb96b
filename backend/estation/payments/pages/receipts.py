"""Proof of payment: one page for the order, one PDF for each payee of each bill."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from sanic import HTTPResponse
from sanic.response import raw

from estation.fees.api import ItemView, items_of, sources_of
from estation.identity.api import citizen, citizen_only
from estation.outside.gate.age import copy_age
from estation.payments.api import OrderBillView, OrderView, SplitView, given_back_of, order_of
from estation.payments.pages.blueprint import bp
from estation.payments.pages.verify import verify_address
from estation.payments.pages.views import WALLETS
from estation.payments.receipt_codes import receipt_code
from estation.payments.receipts import Paper, PaperLine, receipt_pdf
from estation.services import OnlineRequest
from estation.settings import Settings
from estation.shared.errors import NotFound
from estation.shared.pages import page_headers, render
from estation.shared.qr import qr_svg


class ReceiptNotFound(NotFound):
    code = "receipt_not_found"
    message = "没有找到这张凭据。费用缴清之后，凭据才会生成。"


@bp.get("/receipts/<order_id:uuid>", name="receipts")
@citizen_only
async def receipt_page(request: OnlineRequest, order_id: UUID) -> HTTPResponse:
    """Everything paid in one order, by payee."""
    order, papers = await _papers(request, order_id)
    attempt = order.paid_attempt
    refunded = sum(paper.refunded_fen for paper in papers)
    return render(
        request,
        "payments/receipt.html",
        order=order,
        papers=[(paper, qr_svg(paper.verify_address, "核对凭据的二维码")) for paper in papers],
        refunded_fen=refunded,
        verify_address=f"{request.app.ctx.settings.public_url}/verify",
        payer_name=citizen(request).name,
        wallet_name=WALLETS[attempt.channel] if attempt else "",
        **await copy_age(
            await sources_of([one.bill_id for one in order.bills]), now=request.app.ctx.clock()
        ),
    )


@bp.get("/receipts/<order_id:uuid>/<file_name:str>", name="receipt_file")
@citizen_only
async def receipt_file(request: OnlineRequest, order_id: UUID, file_name: str) -> HTTPResponse:
    """`<receipt_no>.pdf`. The receipt number says nothing about the person."""
    _, papers = await _papers(request, order_id)
    for paper in papers:
        if file_name == f"{paper.receipt_no}.pdf":
            body = await asyncio.to_thread(receipt_pdf, paper)
            headers = {
                **page_headers(""),
                "content-disposition": f'inline; filename="{file_name}"',
            }
            return raw(body, content_type="application/pdf", headers=headers)
    raise ReceiptNotFound


async def _papers(request: OnlineRequest, order_id: UUID) -> tuple[OrderView, list[Paper]]:
    """As it was paid, whatever became of the bills since. Raises ReceiptNotFound while the order
    is not paid."""
    viewer = citizen(request)
    order = await order_of(viewer.person_id, order_id)
    if order.state != "paid" or order.paid_at is None:
        raise ReceiptNotFound
    bills = {one.bill_id: one for one in order.bills}
    items = {one.bill_id: await items_of(one.bill_id, one.version) for one in order.bills}
    given_back = await given_back_of(order_id)
    return order, [
        _paper(
            request,
            order,
            split,
            bills[split.bill_id],
            items[split.bill_id],
            refunded_fen=given_back.get((split.bill_id, split.payee_code), 0),
        )
        for split in order.splits
        if split.amount_fen
    ]


def _paper(
    request: OnlineRequest,
    order: OrderView,
    split: SplitView,
    bill: OrderBillView,
    items: Sequence[ItemView],
    *,
    refunded_fen: int,
) -> Paper:
    settings = request.app.ctx.settings
    titles = {payee.code: payee.receipt_title for payee in settings.payees}
    attempt, paid_at = order.paid_attempt, order.paid_at or order.created_at
    code = receipt_code(
        request.app.ctx.receipt_keys()[0],
        receipt_no=split.receipt_no,
        payee_code=split.payee_code,
        amount_fen=split.amount_fen,
        paid_at=paid_at,
    )
    return Paper(
        title=titles.get(split.payee_code, "缴费凭据"),
        receipt_no=split.receipt_no,
        bureau_name=settings.bureau_name,
        payer_name=citizen(request).name,
        payee_name=split.payee_name,
        bill_title=bill.title,
        bill_no=bill.bill_no,
        order_no=order.order_no,
        wallet=WALLETS[attempt.channel] if attempt else "",
        account=account_words(split.account_id, settings),
        out_trade_no=split.out_trade_no,
        channel_trade_no=split.channel_trade_no,
        paid_at=paid_at,
        amount_fen=split.amount_fen,
        lines=_lines(split, bill, items),
        refunded_fen=refunded_fen,
        code=code,
        verify_address=verify_address(settings.public_url, receipt_no=split.receipt_no, code=code),
    )


def account_words(account_id: str, settings: Settings) -> str:
    """江城市国库税款专户（1900000111）: the merchant account the money went to."""
    number = account_id.partition(":")[2]
    names = {one.account_id: one.name for one in (*settings.wechat_pay, *settings.wechat_combine)}
    names |= {one.account_id: one.name for one in settings.alipay}
    return f"{names[account_id]}（{number}）" if account_id in names else number


def _lines(split: SplitView, bill: OrderBillView, items: Sequence[ItemView]) -> list[PaperLine]:
    """The items this payee was paid for; one line for all if they are not what was paid."""
    lines = [
        PaperLine(item.name, item.formula, item.amount_fen)
        for item in items
        if item.payee_code == split.payee_code and item.amount_fen
    ]
    if sum(line.amount_fen for line in lines) != split.amount_fen:
        return [PaperLine(bill.title, "", split.amount_fen)]
    return lines
