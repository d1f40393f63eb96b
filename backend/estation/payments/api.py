"""What other contexts and the pages may use of payments."""

from estation.payments.actions.attempts import open_attempt
from estation.payments.actions.incidents import open_incident, resolve_incident
from estation.payments.actions.orders import (
    BillChoice,
    cancel_order,
    refresh_order,
    start_order,
)
from estation.payments.actions.settle import (
    Outcome,
    SettleItem,
    from_notice,
    from_refund,
    from_report,
    settle_batch,
    settle_reports,
)
from estation.payments.actions.storing import IncidentNote, put_incidents
from estation.payments.queries import (
    AttemptView,
    IncidentView,
    NoticeView,
    OrderBillView,
    OrderView,
    SplitView,
    attempts_of_order,
    ended_unpaid,
    incident,
    list_incidents,
    notices_about,
    open_incident_count,
    open_order_for_bill,
    order_of,
    orders_of,
    paid_order_for_bill,
)
from estation.payments.rules import (
    AttemptState,
    CloseReason,
    IncidentKind,
    IncidentState,
    OrderState,
    OutcomeKind,
)
from estation.payments.staff_queries import incidents_about
from estation.payments.staff_words import incident_name

__all__ = [
    "AttemptState",
    "AttemptView",
    "BillChoice",
    "CloseReason",
    "IncidentKind",
    "IncidentNote",
    "IncidentState",
    "IncidentView",
    "NoticeView",
    "OrderBillView",
    "OrderState",
    "OrderView",
    "Outcome",
    "OutcomeKind",
    "SettleItem",
    "SplitView",
    "attempts_of_order",
    "cancel_order",
    "ended_unpaid",
    "from_notice",
    "from_refund",
    "from_report",
    "incident",
    "incident_name",
    "incidents_about",
    "list_incidents",
    "notices_about",
    "open_attempt",
    "open_incident",
    "open_incident_count",
    "open_order_for_bill",
    "order_of",
    "orders_of",
    "paid_order_for_bill",
    "put_incidents",
    "refresh_order",
    "resolve_incident",
    "settle_batch",
    "settle_reports",
    "start_order",
]
