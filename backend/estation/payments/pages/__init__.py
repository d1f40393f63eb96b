"""The citizen's pages about money: home, bills, paying, receipts."""

from estation.payments.pages import bills, paying, receipts
from estation.payments.pages.blueprint import bp

__all__ = ["bills", "bp", "paying", "receipts"]
