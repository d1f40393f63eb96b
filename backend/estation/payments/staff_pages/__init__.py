"""Incidents and refunds for staff: who owns money that fits nothing, and how it goes back."""

from estation.payments.staff_pages import incidents, refunds
from estation.payments.staff_pages.blueprint import bp

__all__ = ["bp", "incidents", "refunds"]
