"""The life of an order and its attempts, as data. Pure."""

from enum import StrEnum


class OrderState(StrEnum):
    """A pay order (缴费订单): what the citizen wants to pay, once."""

    OPEN = "open"
    PAID = "paid"
    CLOSED = "closed"


class AttemptState(StrEnum):
    """One try at one channel under its own out_trade_no."""

    OPENING = "opening"  # Committed here; the channel has not answered (or answered "unknown").
    OPEN = "open"  # The channel gave a ticket.
    PAID = "paid"
    CLOSED = "closed"  # The channel confirmed that it can never be paid.
    REFUSED = "refused"  # The channel refused to open it: no money can arrive.


class IncidentState(StrEnum):
    OPEN = "open"
    RESOLVED = "resolved"
