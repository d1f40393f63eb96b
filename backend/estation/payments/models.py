"""Orders, attempts, the inbox of notices, incidents. Rows are never deleted."""

from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.outside.pay_channels import Channel, Scene
from estation.payments.rules import AttemptState, IncidentState, OrderState
from estation.shared.fields import FenField


class PayOrder(Model):
    """What one citizen pays at once: one or more bills, for several payees."""

    id = fields.UUIDField(primary_key=True)
    order_no = fields.CharField(max_length=32, unique=True)
    region = fields.CharField(max_length=6)
    payer_id = fields.UUIDField(db_index=True)
    amount_fen = FenField()
    state = fields.CharEnumField(OrderState, max_length=16)
    created_at: datetime = fields.DatetimeField()
    expires_at: datetime = fields.DatetimeField()
    paid_at: datetime | None = fields.DatetimeField(null=True)
    closed_at: datetime | None = fields.DatetimeField(null=True)
    close_reason = fields.CharField(max_length=32, default="")

    class Meta:
        table = "pay_order"


class PayOrderBill(Model):
    """A bill in an order, as the citizen saw it. One open order per bill (partial index)."""

    id = fields.UUIDField(primary_key=True)
    order: fields.ForeignKeyRelation[PayOrder] = fields.ForeignKeyField(
        "estation.PayOrder", related_name=False, on_delete=fields.RESTRICT
    )
    order_id: UUID
    bill: fields.ForeignKeyRelation[Model] = fields.ForeignKeyField(
        "estation.Bill", related_name=False, on_delete=fields.RESTRICT
    )
    bill_id: UUID
    bill_no = fields.CharField(max_length=32)
    title = fields.CharField(max_length=128)
    bill_version = fields.IntField()
    amount_fen = FenField()
    is_open = fields.BooleanField()

    class Meta:
        table = "pay_order_bill"
        unique_together = (("order_id", "bill_id"),)


class PayOrderSplit(Model):
    """What one payee gets of one bill of an order; the sum over an order is its amount."""

    id = fields.UUIDField(primary_key=True)
    order: fields.ForeignKeyRelation[PayOrder] = fields.ForeignKeyField(
        "estation.PayOrder", related_name=False, on_delete=fields.RESTRICT
    )
    order_id: UUID
    bill_id = fields.UUIDField()
    payee_code = fields.CharField(max_length=32)
    payee_name = fields.CharField(max_length=128)
    amount_fen = FenField()
    receipt_no = fields.CharField(max_length=40, unique=True)

    class Meta:
        table = "pay_order_split"
        unique_together = (("order_id", "bill_id", "payee_code"),)


class PayAttempt(Model):
    """One try at one channel. At most one live (opening/open) per order (partial index).

    Rows change only under the row lock of their order.
    """

    id = fields.UUIDField(primary_key=True)
    order: fields.ForeignKeyRelation[PayOrder] = fields.ForeignKeyField(
        "estation.PayOrder", related_name=False, on_delete=fields.RESTRICT
    )
    order_id: UUID
    channel = fields.CharEnumField(Channel, max_length=16)
    account_id = fields.CharField(max_length=64)
    scene = fields.CharEnumField(Scene, max_length=16)
    out_trade_no = fields.CharField(max_length=32, unique=True)
    amount_fen = FenField()
    state = fields.CharEnumField(AttemptState, max_length=16)
    ticket = fields.JSONField[dict[str, Any]](null=True)
    channel_trade_no = fields.CharField(max_length=64, null=True)
    paid_fen: int | None = fields.BigIntField(null=True)  # what the payer was charged
    created_at: datetime = fields.DatetimeField()
    expires_at: datetime = fields.DatetimeField()
    paid_at: datetime | None = fields.DatetimeField(null=True)
    closed_at: datetime | None = fields.DatetimeField(null=True)
    next_query_at: datetime | None = fields.DatetimeField(null=True)
    last_query_at: datetime | None = fields.DatetimeField(null=True)
    queries = fields.IntField(default=0)
    refusal = fields.CharField(max_length=64, default="")
    close_reason = fields.CharField(max_length=32, default="")

    class Meta:
        table = "pay_attempt"


class Notice(Model):
    """The inbox: verified news from channels, stored with what was done about it.

    `handled_at` is set in the transaction of the effect. News that could not be settled waits
    with its `report` (our reading of it) until `next_try_at`; null there means: given up, owned
    by an incident.
    """

    id = fields.UUIDField(primary_key=True)
    channel = fields.CharEnumField(Channel, max_length=16)
    account_id = fields.CharField(max_length=64)
    event_key = fields.CharField(max_length=160)
    kind = fields.CharField(max_length=32)
    out_trade_no = fields.CharField(max_length=64, db_index=True)
    plaintext = fields.JSONField[dict[str, Any]]()
    received_at: datetime = fields.DatetimeField()
    handled_at: datetime | None = fields.DatetimeField(null=True)
    outcome = fields.CharField(max_length=48, default="")
    report = fields.JSONField[dict[str, Any]](null=True)
    tries = fields.IntField(default=0)
    next_try_at: datetime | None = fields.DatetimeField(null=True)
    last_error = fields.CharField(max_length=200, default="")

    class Meta:
        table = "pay_notice"
        unique_together = (("channel", "account_id", "event_key"),)


class Incident(Model):
    """News about money that fits nothing: kept, owned, closed only by a person or a proof."""

    id = fields.UUIDField(primary_key=True)
    dedupe_key = fields.CharField(max_length=160, unique=True)
    kind = fields.CharField(max_length=48)
    state = fields.CharEnumField(IncidentState, max_length=16)
    owner = fields.CharField(max_length=64)
    channel = fields.CharField(max_length=16)
    account_id = fields.CharField(max_length=64)
    out_trade_no = fields.CharField(max_length=64, db_index=True)
    channel_trade_no = fields.CharField(max_length=64, null=True)
    amount_fen = FenField()
    order_id = fields.UUIDField(null=True)
    evidence = fields.JSONField[dict[str, Any]]()
    opened_at: datetime = fields.DatetimeField()
    due_at: datetime = fields.DatetimeField()
    resolved_at: datetime | None = fields.DatetimeField(null=True)
    resolved_by = fields.CharField(max_length=64, default="")
    resolution = fields.TextField(default="")

    class Meta:
        table = "incident"
