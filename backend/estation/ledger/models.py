"""Transfers and their entries: inserted, never changed (a trigger refuses it)."""

from datetime import datetime
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.shared.fields import FenField


class Transfer(Model):
    """One balanced movement of money. The same key with another input is refused."""

    id = fields.UUIDField(primary_key=True)
    idempotency_key = fields.CharField(max_length=160, unique=True)
    input_hash = fields.CharField(max_length=64)
    kind = fields.CharField(max_length=32)
    region = fields.CharField(max_length=6)
    order_id = fields.UUIDField(null=True, db_index=True)
    our_no = fields.CharField(max_length=64)  # our out_trade_no
    channel_no = fields.CharField(max_length=64)  # the channel's trade number
    occurred_at: datetime = fields.DatetimeField(db_index=True)  # the channel's clock
    posted_at: datetime = fields.DatetimeField()

    class Meta:
        table = "ledger_transfer"


class Entry(Model):
    """One leg of a transfer: exactly one of debit and credit is above zero."""

    id = fields.UUIDField(primary_key=True)
    transfer: fields.ForeignKeyRelation[Transfer] = fields.ForeignKeyField(
        "estation.Transfer", related_name=False, on_delete=fields.RESTRICT
    )
    transfer_id: UUID
    account = fields.CharField(max_length=96)  # grammar in ledger.rules
    debit_fen = FenField()
    credit_fen = FenField()

    class Meta:
        table = "ledger_entry"
        unique_together = (("transfer_id", "account"),)
