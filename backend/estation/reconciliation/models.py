"""Raw bills with their hash, the day's runs and its differences."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.shared.fields import FenField


class BillFile(Model):
    """A channel bill exactly as received. A later, different file of a day is a new row."""

    id = fields.UUIDField(primary_key=True)
    channel = fields.CharField(max_length=16)
    account_id = fields.CharField(max_length=64)
    day: date = fields.DateField()
    sha256 = fields.CharField(max_length=64)
    content = fields.BinaryField()
    fetched_at: datetime = fields.DatetimeField()

    class Meta:
        table = "channel_bill_file"
        unique_together = (("account_id", "day", "sha256"),)


class Run(Model):
    """One reconciliation of one Beijing day; re-running makes a new row."""

    id = fields.UUIDField(primary_key=True)
    day: date = fields.DateField(db_index=True)
    state = fields.CharField(max_length=16)  # balanced, differences, blocked
    started_at: datetime = fields.DatetimeField()
    finished_at: datetime = fields.DatetimeField()
    rules_version = fields.CharField(max_length=16)
    legs = fields.JSONField[list[dict[str, Any]]]()
    matched = fields.IntField()
    matched_fen = FenField()
    result_digest = fields.CharField(max_length=64)

    class Meta:
        table = "reconciliation_run"


class Difference(Model):
    """One finding of a run, typed."""

    id = fields.UUIDField(primary_key=True)
    run: fields.ForeignKeyRelation[Run] = fields.ForeignKeyField(
        "estation.Run", related_name=False, on_delete=fields.RESTRICT
    )
    run_id: UUID
    kind = fields.CharField(max_length=48)
    channel = fields.CharField(max_length=16)
    account_id = fields.CharField(max_length=64)
    out_trade_no = fields.CharField(max_length=64)
    our_fen: int | None = fields.BigIntField(null=True)
    their_fen: int | None = fields.BigIntField(null=True)
    evidence = fields.JSONField[dict[str, Any]]()

    class Meta:
        table = "reconciliation_difference"
