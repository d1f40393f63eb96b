"""The desk's pages: every address, its method and its handler."""

from sanic import Blueprint

from estation.inner.guards import Handler
from estation.inner.pages import bills, cases, logins, receipts, refunds

bp = Blueprint("inner_pages")

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", cases.show_start),
    ("GET", "/login", logins.show_login),
    ("POST", "/login", logins.log_in),
    ("POST", "/logout", logins.log_out),
    ("GET", "/cases", cases.show_cases),
    ("POST", "/cases", cases.open_case),
    ("GET", "/cases/new", cases.show_new_case),
    ("GET", "/cases/<case_no:str>", cases.show_case),
    ("POST", "/cases/<case_no:str>/stages", cases.move_stage),
    ("GET", "/cases/<case_no:str>/bills/new", bills.show_new_bill),
    ("POST", "/cases/<case_no:str>/bills/new", bills.issue_bill),
    ("GET", "/bills/<bill_no:str>", bills.show_bill),
    ("GET", "/bills/<bill_no:str>/sheet", bills.show_sheet),
    ("GET", "/bills/<bill_no:str>/revise", bills.show_revision),
    ("POST", "/bills/<bill_no:str>/revise", bills.revise_bill),
    ("POST", "/bills/<bill_no:str>/withdraw", bills.withdraw_bill),
    ("POST", "/bills/<bill_no:str>/refunds", refunds.ask_refund),
    ("GET", "/refunds", refunds.show_refunds),
    ("POST", "/refunds/<refund_no:str>/decision", refunds.decide_refund),
    ("GET", "/receipts", receipts.show_receipts),
    ("GET", "/receipts/evidence", receipts.show_evidence),
    ("POST", "/receipts/<receipt_id:uuid>/handled", receipts.mark_handled),
)

for method, address, handler in ROUTES:
    bp.add_route(handler, address, methods=[method])
