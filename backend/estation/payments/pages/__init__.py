"""The citizen's pages about money: home, bills, codes, paying, history, receipts."""

from estation.payments.pages import bills, codes, history, paying, receipts, verify
from estation.payments.pages.blueprint import bp

__all__ = ["bills", "bp", "codes", "history", "paying", "receipts", "verify"]
