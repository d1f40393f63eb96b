"""Bills as the internal platform issued them; every version's items are kept."""

from datetime import date, datetime
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.fees.rules import BillState
from estation.shared.fields import FenField


class Bill(Model):
    """What one payer owes for one case. `version` is the newest received."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    bill_no = fields.CharField(max_length=32, db_index=True)
    case_source_id = fields.CharField(max_length=64)
    payer_id = fields.UUIDField(db_index=True)
    title = fields.CharField(max_length=128)
    state = fields.CharEnumField(BillState, max_length=16)
    total_fen = FenField()
    issued_at: datetime = fields.DatetimeField()
    due_on: date | None = fields.DateField(null=True)
    paid_at: datetime | None = fields.DatetimeField(null=True)
    paid_version = fields.IntField(null=True)
    data_as_of: datetime = fields.DatetimeField()
    row_digest: bytes | None = fields.BinaryField(null=True)  # of the newest version received

    class Meta:
        table = "bill"
        unique_together = (("source", "source_id"),)


class BillAsSent(Model):
    """One version of a bill that said more than we know: the whole row as it came, sealed."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    body_sealed = fields.BinaryField()
    data_as_of: datetime = fields.DatetimeField()

    class Meta:
        table = "bill_as_sent"
        unique_together = (("source", "source_id", "version"),)


class BillNoted(Model):
    """The head of a version that came after the bill was paid.

    The newest one is brought back once all that was paid has been given back.
    """

    id = fields.UUIDField(primary_key=True)
    bill: fields.ForeignKeyRelation[Bill] = fields.ForeignKeyField(
        "estation.Bill", related_name=False, on_delete=fields.RESTRICT
    )
    bill_id: UUID
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    bill_no = fields.CharField(max_length=32)
    case_source_id = fields.CharField(max_length=64)
    payer_id = fields.UUIDField()
    title = fields.CharField(max_length=128)
    state = fields.CharEnumField(BillState, max_length=16)
    total_fen = FenField()
    issued_at: datetime = fields.DatetimeField()
    due_on: date | None = fields.DateField(null=True)
    data_as_of: datetime = fields.DatetimeField()
    row_digest: bytes | None = fields.BinaryField(null=True)

    class Meta:
        table = "bill_noted"
        unique_together = (("bill_id", "version"),)


class BillItem(Model):
    """One tax or fee of one version of a bill."""

    id = fields.UUIDField(primary_key=True)
    bill: fields.ForeignKeyRelation[Bill] = fields.ForeignKeyField(
        "estation.Bill", related_name=False, on_delete=fields.RESTRICT
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
        table = "bill_item"
        unique_together = (("bill_id", "version", "seq"),)
