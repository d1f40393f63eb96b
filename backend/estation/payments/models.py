"""Orders, attempts, the inbox of notices, incidents. Rows are never deleted."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.outside.pay_channels import Channel, Scene
from estation.payments.rules import (
    AttemptState,
    ClaimEnd,
    IncidentState,
    OrderState,
    OutsideState,
    RefundCause,
    RefundSource,
    RefundState,
)
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
    # The sub-orders of a combined payment, as asked for: [{payee_code, account_id, out_trade_no,
    # amount_fen}]; null for a payment to one account. Never changed.
    parts = fields.JSONField[list[dict[str, Any]]](null=True)
    # Digest of the wallet or address the ticket is bound to; null where anybody may pay with it.
    payer_mark = fields.CharField(max_length=64, null=True)
    channel_trade_no = fields.CharField(max_length=64, null=True)
    paid_fen: int | None = fields.BigIntField(null=True)  # what the payer was charged
    created_at: datetime = fields.DatetimeField()
    expires_at: datetime = fields.DatetimeField()
    paid_at: datetime | None = fields.DatetimeField(null=True)
    closed_at: datetime | None = fields.DatetimeField(null=True)
    next_query_at: datetime | None = fields.DatetimeField(null=True)
    last_query_at: datetime | None = fields.DatetimeField(null=True)
    queries = fields.IntField(default=0)
    # What the channel answered, oldest first: [{said, first_at, last_at, times}].
    heard = fields.JSONField[list[dict[str, Any]]](null=True)
    refusal = fields.CharField(max_length=64, default="")
    close_reason = fields.CharField(max_length=32, default="")

    class Meta:
        table = "pay_attempt"


class Notice(Model):
    """The inbox: verified news from channels, stored with what was done about it.

    `handled_at` is set in the transaction of the effect. News that could not be settled waits
    with `report` and `refund` (our reading of it) until `next_try_at`; null there means: given
    up, owned by an incident.
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
    refund = fields.JSONField[dict[str, Any]](null=True)
    tries = fields.IntField(default=0)
    next_try_at: datetime | None = fields.DatetimeField(null=True)
    last_error = fields.CharField(max_length=200, default="")

    class Meta:
        table = "pay_notice"
        unique_together = (("channel", "account_id", "event_key"),)


class NoticeMessage(Model):
    """The message of a notice in the inbox as it came, sealed whole (`pay_channels.messages`).

    Of equal news the first; changed by another key alone, and gone after `rules.MESSAGES_KEPT`.
    A repetition's own message is not kept: it says what the first one said.
    """

    id = fields.UUIDField(primary_key=True)  # the notice's
    message_sealed = fields.BinaryField()

    class Meta:
        table = "pay_notice_message"


class Incident(Model):
    """News about money that fits nothing: kept, owned, closed only by a person or a proof."""

    id = fields.UUIDField(primary_key=True)
    dedupe_key = fields.CharField(max_length=160, unique=True)
    kind = fields.CharField(max_length=80)
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
    assigned_to = fields.CharField(max_length=64, default="")  # the officer who took it on
    assigned_to_id: UUID | None = fields.UUIDField(null=True)  # the account, whatever its name

    class Meta:
        table = "incident"


class IncidentAction(Model):
    """What somebody did about an incident, with the refund or transfer it led to. Append-only.

    `by` is the officer as shown then; `by_id` the staff account, by which persons are compared
    (null: the system, and rows older than the column).
    """

    id = fields.UUIDField(primary_key=True)
    incident: fields.ForeignKeyRelation[Incident] = fields.ForeignKeyField(
        "estation.Incident", related_name=False, on_delete=fields.RESTRICT, db_index=True
    )
    incident_id: UUID
    action = fields.CharField(max_length=32)
    by = fields.CharField(max_length=64)
    by_id: UUID | None = fields.UUIDField(null=True)
    at: datetime = fields.DatetimeField()
    note = fields.TextField(default="")
    refund_id = fields.UUIDField(null=True)
    transfer_id = fields.UUIDField(null=True)

    class Meta:
        table = "incident_action"


class InvariantCheck(Model):
    """How one invariant was last found; the only memory of the five-minute round."""

    name = fields.CharField(max_length=64, primary_key=True)
    checked_at: datetime = fields.DatetimeField()
    whole_at: datetime | None = fields.DatetimeField(null=True)  # the last look at everything
    breaches = fields.IntField()
    took_ms = fields.IntField()

    class Meta:
        table = "invariant_check"


class ChannelSilence(Model):
    """An account whose channel gives no answer, as the worker heard last; for the alarms alone."""

    account_id = fields.CharField(max_length=64, primary_key=True)
    since: datetime = fields.DatetimeField()
    last_at: datetime = fields.DatetimeField()

    class Meta:
        table = "channel_silence"


class CentreRefundOrder(Model):
    """A refund order of the centre's as it came: the copy that is proved equal to theirs.

    What became of it is a `Refund`, or an incident with the answer; a row here starts nothing.
    """

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    bill_source_id = fields.CharField(max_length=64)
    order_no = fields.CharField(max_length=32)
    amount_fen = FenField()
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()

    class Meta:
        table = "centre_refund_order"
        unique_together = (("source", "source_id"),)


class Refund(Model):
    """Money of one arrival at one merchant account on its way back to the payer.

    `refund_no` is what the channel knows it by, the same on every retry. Refunds asked at once
    share `request_id` (a combined payment is given back account by account). Rows change only
    under the row lock of their arrival's transfer.
    """

    id = fields.UUIDField(primary_key=True)
    refund_no = fields.CharField(max_length=32, unique=True)
    request_id = fields.UUIDField(db_index=True)
    cause = fields.CharEnumField(RefundCause, max_length=24)
    state = fields.CharEnumField(RefundState, max_length=16)
    taken_from = fields.CharEnumField(RefundSource, max_length=16)
    channel = fields.CharEnumField(Channel, max_length=16)
    account_id = fields.CharField(max_length=64)
    out_trade_no = fields.CharField(max_length=64, db_index=True)
    channel_trade_no = fields.CharField(max_length=64)
    arrival_id = fields.UUIDField(db_index=True)  # the ledger transfer that recorded the money
    order_id = fields.UUIDField(null=True, db_index=True)
    incident_key = fields.CharField(max_length=160, default="")  # the incident it will settle
    region = fields.CharField(max_length=6)
    amount_fen = FenField()
    total_fen = FenField()  # of the arrival
    reason = fields.CharField(max_length=80)  # the payer reads it
    source = fields.CharField(max_length=32, default="")  # of the centre's refund order
    source_id = fields.CharField(max_length=64, default="")
    asked_by = fields.CharField(max_length=64)
    asked_by_id: UUID | None = fields.UUIDField(null=True)  # the account, as of IncidentAction
    asked_at: datetime = fields.DatetimeField()
    decided_by = fields.CharField(max_length=64, default="")
    decided_by_id: UUID | None = fields.UUIDField(null=True)
    decided_at: datetime | None = fields.DatetimeField(null=True)
    decision_note = fields.CharField(max_length=200, default="")
    channel_refund_no = fields.CharField(max_length=64, null=True)
    received_account = fields.CharField(max_length=128, default="")
    tries = fields.IntField(default=0)
    next_try_at: datetime | None = fields.DatetimeField(null=True)
    last_error = fields.CharField(max_length=200, default="")
    sent_at: datetime | None = fields.DatetimeField(null=True)  # first taken to the channel
    ended_at: datetime | None = fields.DatetimeField(null=True)
    version = fields.IntField(default=1)  # grows with each change told to the centre

    class Meta:
        table = "pay_refund"


class RefundShare(Model):
    """What one payee gives back of one bill; the sum over a refund of a payment is its amount."""

    id = fields.UUIDField(primary_key=True)
    refund: fields.ForeignKeyRelation[Refund] = fields.ForeignKeyField(
        "estation.Refund", related_name=False, on_delete=fields.RESTRICT
    )
    refund_id: UUID
    bill_id = fields.UUIDField()
    payee_code = fields.CharField(max_length=32)
    amount_fen = FenField()

    class Meta:
        table = "pay_refund_share"
        unique_together = (("refund_id", "bill_id", "payee_code"),)


class OutsideSettlement(Model):
    """What is left of an arrival in suspense, settled outside the channels (线下处理).

    Asked by a maker with a document, booked by a checker. Rows change only under the row lock of
    their arrival's transfer.
    """

    id = fields.UUIDField(primary_key=True)
    incident: fields.ForeignKeyRelation[Incident] = fields.ForeignKeyField(
        "estation.Incident", related_name=False, on_delete=fields.RESTRICT, db_index=True
    )
    incident_id: UUID
    arrival_id = fields.UUIDField(db_index=True)  # the ledger transfer that recorded the money
    account_id = fields.CharField(max_length=64)
    amount_fen = FenField()
    state = fields.CharEnumField(OutsideState, max_length=16)
    reason = fields.CharField(max_length=200)
    document_no = fields.CharField(max_length=64)
    asked_by = fields.CharField(max_length=64)
    asked_by_id: UUID | None = fields.UUIDField(null=True)
    asked_at: datetime = fields.DatetimeField()
    decided_by = fields.CharField(max_length=64, default="")
    decided_by_id: UUID | None = fields.UUIDField(null=True)
    decided_at: datetime | None = fields.DatetimeField(null=True)
    decision_note = fields.CharField(max_length=200, default="")
    transfer_id = fields.UUIDField(null=True)  # what moved the money in the books

    class Meta:
        table = "outside_settlement"


class ClaimSettlement(Model):
    """How a claim of ours (多退应收), or a part of it, ended: it came back, or was given up.

    Asked by a maker with a document, booked by a checker. Rows change only under the row lock of
    the transfer of the arrival that was given back beyond its amount.
    """

    id = fields.UUIDField(primary_key=True)
    incident: fields.ForeignKeyRelation[Incident] = fields.ForeignKeyField(
        "estation.Incident", related_name=False, on_delete=fields.RESTRICT, db_index=True
    )
    incident_id: UUID
    arrival_id = fields.UUIDField(db_index=True)
    account_id = fields.CharField(max_length=64)
    kind = fields.CharEnumField(ClaimEnd, max_length=16)
    amount_fen = FenField()
    state = fields.CharEnumField(OutsideState, max_length=16)
    reason = fields.CharField(max_length=200, default="")
    document_no = fields.CharField(max_length=64)
    received_on: date | None = fields.DateField(null=True)  # Beijing day, when it came back
    asked_by = fields.CharField(max_length=64)
    asked_by_id: UUID | None = fields.UUIDField(null=True)
    asked_at: datetime = fields.DatetimeField()
    decided_by = fields.CharField(max_length=64, default="")
    decided_by_id: UUID | None = fields.UUIDField(null=True)
    decided_at: datetime | None = fields.DatetimeField(null=True)
    decision_note = fields.CharField(max_length=200, default="")
    transfer_id = fields.UUIDField(null=True)  # what moved the money in the books

    class Meta:
        table = "claim_settlement"


class PaymentEvidence(Model):
    """What the centre was told that a channel's bill proves of a payment of one of its bills.

    Append-only: another file of the same day that proves it otherwise is the next version.
    """

    id = fields.UUIDField(primary_key=True)
    transfer_id = fields.UUIDField()
    bill_id = fields.UUIDField()
    version = fields.IntField()
    file_digest = fields.CharField(max_length=64)
    file_line = fields.IntField()
    said = fields.JSONField[dict[str, Any]]()  # the row of topic payment_evidence
    at: datetime = fields.DatetimeField()

    class Meta:
        table = "payment_evidence"
        unique_together = (("transfer_id", "bill_id", "version"),)


class SplitExport(Model):
    """One file of split instructions (分账指令) for the city's settlement system."""

    id = fields.UUIDField(primary_key=True)
    export_no = fields.CharField(max_length=32, unique=True)
    day = fields.DateField()  # Beijing day of the channel's clock
    account_id = fields.CharField(max_length=64)  # the collecting account
    lines = fields.IntField()
    total_fen = FenField()
    sha256 = fields.CharField(max_length=64)
    content = fields.BinaryField()
    made_by = fields.CharField(max_length=64)
    made_at: datetime = fields.DatetimeField()
    # Which bills' fees it knew: those read until then. Null in files from before corrections.
    fees_until: datetime | None = fields.DatetimeField(null=True)

    class Meta:
        table = "split_export"


class SplitInstruction(Model):
    """What one payee is to get (or to give back) of one ledger transfer at a collecting account.

    Unique per transfer and payee: no money is instructed twice.
    """

    id = fields.UUIDField(primary_key=True)
    export: fields.ForeignKeyRelation[SplitExport] = fields.ForeignKeyField(
        "estation.SplitExport", related_name=False, on_delete=fields.RESTRICT, db_index=True
    )
    export_id: UUID
    transfer_id = fields.UUIDField()
    payee_code = fields.CharField(max_length=32)
    is_refund = fields.BooleanField()
    amount_fen = FenField()
    fee_fen = FenField()  # this payee's share of the channel's fee, by largest remainder

    class Meta:
        table = "split_instruction"
        unique_together = (("transfer_id", "payee_code"),)


class SplitFeeCorrection(Model):
    """What became known of a payee's share of a channel's fee after it was instructed.

    `fee_fen` is added to the share known so far; below zero it gives some of it back.
    """

    id = fields.UUIDField(primary_key=True)
    export: fields.ForeignKeyRelation[SplitExport] = fields.ForeignKeyField(
        "estation.SplitExport", related_name=False, on_delete=fields.RESTRICT, db_index=True
    )
    export_id: UUID
    transfer_id = fields.UUIDField()
    payee_code = fields.CharField(max_length=32)
    is_refund = fields.BooleanField()
    fee_fen = FenField()

    class Meta:
        table = "split_fee_correction"
        unique_together = (("transfer_id", "payee_code", "export_id"),)
