"""The citizen's pages about money: home, bills, codes, paying, receipts."""

from estation.payments.pages import bills, codes, paying, receipts, verify
from estation.payments.pages.blueprint import bp

__all__ = ["bills", "bp", "codes", "paying", "receipts", "verify"]
