"""The citizen's pages about money: home, bills, paying, receipts."""

from sanic import Blueprint

from estation.payments.pages import bills, paying, receipts

bp = Blueprint("payment_pages")
bills.add_routes(bp)
paying.add_routes(bp)
receipts.add_routes(bp)
