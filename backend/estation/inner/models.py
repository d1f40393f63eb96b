"""Tables of the internal platform: units, cases, bills with every version, what came back."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.inner.rules import BillState, CaseState, RefundState, Role, StageState
from estation.shared.fields import FenField


class District(Model):
    """A county-level region (GB/T 2260) of the city."""

    code = fields.CharField(max_length=6, primary_key=True)
    name = fields.CharField(max_length=32)

    class Meta:
        table = "district"


class Hall(Model):
    """A registration hall (登记大厅)."""

    code = fields.CharField(max_length=16, primary_key=True)
    name = fields.CharField(max_length=64)
    district: fields.ForeignKeyRelation[District] = fields.ForeignKeyField(
        "inner.District", related_name=False, on_delete=fields.RESTRICT
    )
    district_id: str

    class Meta:
        table = "hall"


class Unit(Model):
    """A real-estate unit (不动产单元) by its 28-character code, GB/T 37346-2019."""

    unit_code = fields.CharField(max_length=28, primary_key=True)
    district: fields.ForeignKeyRelation[District] = fields.ForeignKeyField(
        "inner.District", related_name=False, on_delete=fields.RESTRICT
    )
    district_id: str
    address = fields.CharField(max_length=256)
    usage = fields.CharField(max_length=16)
    area_m2 = fields.DecimalField(max_digits=10, decimal_places=2)
    project = fields.CharField(max_length=128, default="", db_default="")
    floor = fields.CharField(max_length=16, default="", db_default="")
    room = fields.CharField(max_length=32, default="", db_default="")

    class Meta:
        table = "unit"


class Case(Model):
    """One matter (办件). `version` grows with each change that crosses the gate."""

    id = fields.UUIDField(primary_key=True)
    case_no = fields.CharField(max_length=32, unique=True)
    version = fields.IntField()
    matter = fields.CharField(max_length=32)
    hall: fields.ForeignKeyRelation[Hall] = fields.ForeignKeyField(
        "inner.Hall", related_name=False, on_delete=fields.RESTRICT
    )
    hall_id: str
    unit: fields.ForeignKeyRelation[Unit] = fields.ForeignKeyField(
        "inner.Unit", related_name=False, on_delete=fields.RESTRICT
    )
    unit_id: str
    state = fields.CharEnumField(CaseState, max_length=16)
    opened_at: datetime = fields.DatetimeField()
    changed_at: datetime = fields.DatetimeField()

    class Meta:
        table = "case_file"
        indexes = (("opened_at", "id"),)


class CaseParty(Model):
    """Who takes part, as identified at the counter; `seq` numbers them within the case."""

    id = fields.UUIDField(primary_key=True)
    case: fields.ForeignKeyRelation[Case] = fields.ForeignKeyField(
        "inner.Case", related_name=False, on_delete=fields.RESTRICT
    )
    case_id: UUID
    seq = fields.IntField()
    role = fields.CharField(max_length=16)
    name = fields.CharField(max_length=64, db_index=True)
    id_type = fields.CharField(max_length=8)
    id_no = fields.CharField(max_length=64)
    phone = fields.CharField(max_length=32)

    class Meta:
        table = "case_party"
        unique_together = (("case_id", "seq"),)


class CaseStage(Model):
    """One box of the case's flow chart; `seq` is its place."""

    id = fields.UUIDField(primary_key=True)
    case: fields.ForeignKeyRelation[Case] = fields.ForeignKeyField(
        "inner.Case", related_name=False, on_delete=fields.RESTRICT
    )
    case_id: UUID
    seq = fields.IntField()
    stage = fields.CharField(max_length=32)
    state = fields.CharEnumField(StageState, max_length=16)
    at: datetime | None = fields.DatetimeField(null=True)
    note = fields.CharField(max_length=512)

    class Meta:
        table = "case_stage"
        unique_together = (("case_id", "stage"),)


class CaseEvent(Model):
    """What happened in a case and when; `seq` numbers the events. Never changed."""

    id = fields.UUIDField(primary_key=True)
    case: fields.ForeignKeyRelation[Case] = fields.ForeignKeyField(
        "inner.Case", related_name=False, on_delete=fields.RESTRICT
    )
    case_id: UUID
    seq = fields.IntField()
    what = fields.CharField(max_length=16)
    stage = fields.CharField(max_length=32)
    state = fields.CharField(max_length=16)
    at: datetime = fields.DatetimeField()
    note = fields.CharField(max_length=512)

    class Meta:
        table = "case_event"
        unique_together = (("case_id", "seq"),)


class Right(Model):
    """One right in the register (登记簿); the fields as `rows.RightRow` explains them."""

    id = fields.UUIDField(primary_key=True)
    right_no = fields.CharField(max_length=32, unique=True)
    version = fields.IntField()
    kind = fields.CharField(max_length=24)
    national_code = fields.CharField(max_length=8)
    unit: fields.ForeignKeyRelation[Unit] = fields.ForeignKeyField(
        "inner.Unit", related_name=False, on_delete=fields.RESTRICT
    )
    unit_id: str
    holding = fields.CharField(max_length=16)
    registered_at: datetime = fields.DatetimeField()
    until: date | None = fields.DateField(null=True)
    state = fields.CharField(max_length=16)
    case_no = fields.CharField(max_length=32)
    secured_fen: int | None = fields.BigIntField(null=True)
    debt_from: date | None = fields.DateField(null=True)
    debt_until: date | None = fields.DateField(null=True)
    rank: int | None = fields.IntField(null=True)
    transfer_limited = fields.BooleanField(null=True)

    class Meta:
        table = "right_entry"


class RightHolder(Model):
    """Who holds a right; `seq` is the order in the register."""

    id = fields.UUIDField(primary_key=True)
    right: fields.ForeignKeyRelation[Right] = fields.ForeignKeyField(
        "inner.Right", related_name=False, on_delete=fields.RESTRICT
    )
    right_id: UUID
    seq = fields.IntField()
    name = fields.CharField(max_length=128)
    id_type = fields.CharField(max_length=8)
    id_no = fields.CharField(max_length=64)
    kind = fields.CharField(max_length=8)
    share_numerator = fields.IntField()
    share_denominator = fields.IntField()

    class Meta:
        table = "right_holder"
        unique_together = (("right_id", "seq"),)


class Certificate(Model):
    """The certificate (证书) or proof (证明) of one right."""

    id = fields.UUIDField(primary_key=True)
    number = fields.CharField(max_length=64, unique=True)
    version = fields.IntField()
    kind = fields.CharField(max_length=16)
    print_no = fields.CharField(max_length=32)
    right: fields.ForeignKeyRelation[Right] = fields.ForeignKeyField(
        "inner.Right", related_name=False, on_delete=fields.RESTRICT
    )
    right_id: UUID
    issued_at: datetime = fields.DatetimeField()
    state = fields.CharField(max_length=16)

    class Meta:
        table = "certificate"


class Restriction(Model):
    """A seizure or lock on a unit; the fields as `rows.RestrictionRow` explains them."""

    id = fields.UUIDField(primary_key=True)
    restriction_no = fields.CharField(max_length=32, unique=True)
    version = fields.IntField()
    unit: fields.ForeignKeyRelation[Unit] = fields.ForeignKeyField(
        "inner.Unit", related_name=False, on_delete=fields.RESTRICT
    )
    unit_id: str
    kind = fields.CharField(max_length=16)
    organ = fields.CharField(max_length=128)
    document_no = fields.CharField(max_length=128)
    since: date = fields.DateField()
    until: date | None = fields.DateField(null=True)
    scope = fields.CharField(max_length=512)
    queue_position = fields.IntField()
    state = fields.CharField(max_length=16)
    registered_at: datetime = fields.DatetimeField()
    lifted_at: datetime | None = fields.DatetimeField(null=True)
    lifted_by = fields.CharField(max_length=128)
    lifted_document_no = fields.CharField(max_length=128)

    class Meta:
        table = "restriction_entry"


class FeeBill(Model):
    """What one party of a case owes. `version` is the newest of its versions."""

    id = fields.UUIDField(primary_key=True)
    bill_no = fields.CharField(max_length=32, unique=True)
    case: fields.ForeignKeyRelation[Case] = fields.ForeignKeyField(
        "inner.Case", related_name=False, on_delete=fields.RESTRICT
    )
    case_id: UUID
    payer: fields.ForeignKeyRelation[CaseParty] = fields.ForeignKeyField(
        "inner.CaseParty", related_name=False, on_delete=fields.RESTRICT
    )
    payer_id: UUID
    title = fields.CharField(max_length=128)
    state = fields.CharEnumField(BillState, max_length=16)
    version = fields.IntField()
    total_fen = FenField()
    issued_at: datetime = fields.DatetimeField()
    due_on: date | None = fields.DateField(null=True)
    paid_at: datetime | None = fields.DatetimeField(null=True)
    paid_version: int | None = fields.IntField(null=True)
    changed_at: datetime = fields.DatetimeField()

    class Meta:
        table = "fee_bill"
        indexes = (("case_id",), ("issued_at", "id"))


class FeeBillVersion(Model):
    """One version of a bill, never changed: what it said, who made it and why."""

    id = fields.UUIDField(primary_key=True)
    bill: fields.ForeignKeyRelation[FeeBill] = fields.ForeignKeyField(
        "inner.FeeBill", related_name=False, on_delete=fields.RESTRICT
    )
    bill_id: UUID
    version = fields.IntField()
    state = fields.CharEnumField(BillState, max_length=16)
    total_fen = FenField()
    due_on: date | None = fields.DateField(null=True)
    reason = fields.CharField(max_length=256)
    made_by = fields.CharField(max_length=32)
    made_at: datetime = fields.DatetimeField()

    class Meta:
        table = "fee_bill_version"
        unique_together = (("bill_id", "version"),)


class FeeBillItem(Model):
    """One tax or fee of one version of a bill."""

    id = fields.UUIDField(primary_key=True)
    bill: fields.ForeignKeyRelation[FeeBill] = fields.ForeignKeyField(
        "inner.FeeBill", related_name=False, on_delete=fields.RESTRICT
    )
    bill_id: UUID
    version = fields.IntField()
    seq = fields.IntField()
    code = fields.CharField(max_length=32)
    name = fields.CharField(max_length=64)
    payee_code = fields.CharField(max_length=32)
    base_fen: int | None = fields.BigIntField(null=True)
    rate = fields.CharField(max_length=32)
    relief_fen = FenField()
    amount_fen = FenField()
    formula = fields.CharField(max_length=512)
    legal_basis = fields.CharField(max_length=512)
    note = fields.CharField(max_length=512)

    class Meta:
        table = "fee_bill_item"
        unique_together = (("bill_id", "version", "seq"),)


class FeeReceipt(Model):
    """A payment that came back through the gate, as it came.

    `attention` says why a person must look at it (empty: it paid its bill); `bill` is null when
    no bill of ours is meant. Handled ones keep who looked and what was found.
    """

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    order_no = fields.CharField(max_length=32)
    bill: fields.ForeignKeyNullableRelation[FeeBill] = fields.ForeignKeyField(
        "inner.FeeBill", related_name=False, on_delete=fields.RESTRICT, null=True
    )
    bill_id: UUID | None
    bill_no = fields.CharField(max_length=32)
    bill_version = fields.IntField()
    channel = fields.CharField(max_length=32)
    out_trade_no = fields.CharField(max_length=64)
    channel_trade_no = fields.CharField(max_length=64)
    transfer_id = fields.CharField(max_length=64)
    amount_fen = FenField()
    splits = fields.JSONField[list[dict[str, Any]]]()
    paid_at: datetime = fields.DatetimeField()
    packet_seq = fields.BigIntField()
    row_digest: bytes | None = fields.BinaryField(null=True)  # of the row as it came
    received_at: datetime = fields.DatetimeField()
    attention = fields.CharField(max_length=32)
    handled_at: datetime | None = fields.DatetimeField(null=True)
    handled_by = fields.CharField(max_length=32, default="")
    handled_note = fields.CharField(max_length=256, default="")

    class Meta:
        table = "fee_receipt"
        unique_together = (("source", "source_id", "order_no"),)
        indexes = (("bill_id",), ("received_at", "id"))


class RefundOrder(Model):
    """What the centre wants given back of one payment of a bill (退款指令).

    Asked by one person, decided by another, then followed by the online side; `state` after that
    is what it told.
    """

    id = fields.UUIDField(primary_key=True)
    refund_no = fields.CharField(max_length=32, unique=True)
    bill: fields.ForeignKeyRelation[FeeBill] = fields.ForeignKeyField(
        "inner.FeeBill", related_name=False, on_delete=fields.RESTRICT, db_index=True
    )
    bill_id: UUID
    order_no = fields.CharField(max_length=32)  # the payment's, from its receipt
    amount_fen = FenField()
    believed_refundable_fen = FenField()
    shares = fields.JSONField[list[dict[str, Any]]]()  # empty: in the platform's order
    reason = fields.CharField(max_length=80)
    state = fields.CharEnumField(RefundState, max_length=16)
    asked_by = fields.CharField(max_length=32)
    asked_at: datetime = fields.DatetimeField()
    decided_by = fields.CharField(max_length=32, default="")
    decided_at: datetime | None = fields.DatetimeField(null=True)
    decision_note = fields.CharField(max_length=256, default="")
    why_not = fields.CharField(max_length=64, default="")
    changed_at: datetime = fields.DatetimeField()

    class Meta:
        table = "fee_refund_order"


class RefundNews(Model):
    """How a refund stands on the online side, in the newest version that came.

    `bill` is null when no payment of ours is meant; `attention` says why a person must look.
    """

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    refund_no = fields.CharField(max_length=32)
    order_source_id = fields.CharField(max_length=64)
    bill: fields.ForeignKeyNullableRelation[FeeBill] = fields.ForeignKeyField(
        "inner.FeeBill", related_name=False, on_delete=fields.RESTRICT, null=True, db_index=True
    )
    bill_id: UUID | None
    order_no = fields.CharField(max_length=32)
    version = fields.IntField()
    state = fields.CharField(max_length=16)
    amount_fen = FenField()
    shares = fields.JSONField[list[dict[str, Any]]]()
    channel = fields.CharField(max_length=32)
    channel_refund_no = fields.CharField(max_length=64)
    transfer_id = fields.CharField(max_length=64)
    reason = fields.CharField(max_length=80)
    why_not = fields.CharField(max_length=64)
    at: datetime = fields.DatetimeField()
    packet_seq = fields.BigIntField()
    row_digest: bytes | None = fields.BinaryField(null=True)  # of the row as it came
    received_at: datetime = fields.DatetimeField()
    attention = fields.CharField(max_length=32)

    class Meta:
        table = "fee_refund_news"
        unique_together = (("source", "source_id", "refund_no", "order_source_id"),)


class PaymentEvidence(Model):
    """What the channel's own words prove of a payment, in the newest version that came.

    `bill` is null when no bill of ours is meant; `attention` says why a person must look.
    """

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    order_no = fields.CharField(max_length=32)
    out_trade_no = fields.CharField(max_length=32)
    bill: fields.ForeignKeyNullableRelation[FeeBill] = fields.ForeignKeyField(
        "inner.FeeBill", related_name=False, on_delete=fields.RESTRICT, null=True, db_index=True
    )
    bill_id: UUID | None
    version = fields.IntField()
    said = fields.JSONField[dict[str, Any]]()  # the row as it was understood
    row_digest: bytes | None = fields.BinaryField(null=True)  # of the row as it came
    packet_seq = fields.BigIntField()
    received_at: datetime = fields.DatetimeField()
    attention = fields.CharField(max_length=32)

    class Meta:
        table = "fee_payment_evidence"
        unique_together = (("source", "source_id", "order_no", "out_trade_no"),)


class PaymentEvidenceVersion(Model):
    """Every version of a piece of evidence that ever came, as it came first. Append-only."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    order_no = fields.CharField(max_length=32)
    out_trade_no = fields.CharField(max_length=32)
    version = fields.IntField()
    said = fields.JSONField[dict[str, Any]]()
    row_digest: bytes | None = fields.BinaryField(null=True)
    packet_seq = fields.BigIntField()
    received_at: datetime = fields.DatetimeField()

    class Meta:
        table = "fee_payment_evidence_version"
        unique_together = (
            ("source", "source_id", "order_no", "out_trade_no", "version", "row_digest"),
        )


class NumberSeries(Model):
    """The last serial given out per kind and Beijing day; its row lock orders the desks."""

    series = fields.CharField(max_length=32, primary_key=True)
    last_number = fields.IntField()

    class Meta:
        table = "number_series"


class StaffUser(Model):
    """An officer of the internal platform."""

    id = fields.UUIDField(primary_key=True)
    login = fields.CharField(max_length=32, unique=True)
    name = fields.CharField(max_length=64)
    role = fields.CharEnumField(Role, max_length=16)
    password_hash = fields.CharField(max_length=256)
    failed_logins = fields.IntField(default=0)
    locked_until: datetime | None = fields.DatetimeField(null=True)
    disabled_at: datetime | None = fields.DatetimeField(null=True)

    class Meta:
        table = "desk_user"


class Session(Model):
    """One logged-in browser. Only the token's digest is stored."""

    id = fields.UUIDField(primary_key=True)
    token_digest = fields.CharField(max_length=64, unique=True)
    csrf_token = fields.CharField(max_length=64)
    staff: fields.ForeignKeyRelation[StaffUser] = fields.ForeignKeyField(
        "inner.StaffUser", related_name=False, on_delete=fields.RESTRICT
    )
    staff_id: UUID
    created_at: datetime = fields.DatetimeField()
    seen_at: datetime = fields.DatetimeField()

    class Meta:
        table = "desk_session"
