"""Matters replicated from the internal platforms, their parties and flow chart."""

from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.models import Model


class Case(Model):
    """The present state of one matter (办件); `(source, source_id)` names it for ever."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    case_no = fields.CharField(max_length=32, db_index=True)
    matter = fields.CharField(max_length=32)
    hall = fields.CharField(max_length=64)
    unit_code = fields.CharField(max_length=28)
    address = fields.CharField(max_length=256)
    state = fields.CharField(max_length=16)
    stages = fields.JSONField[list[dict[str, Any]]]()
    opened_at: datetime = fields.DatetimeField()
    data_as_of: datetime = fields.DatetimeField()

    class Meta:
        table = "case_record"
        unique_together = (("source", "source_id"),)


class CaseParty(Model):
    """Who takes part in a case, and as what."""

    id = fields.UUIDField(primary_key=True)
    case: fields.ForeignKeyRelation[Case] = fields.ForeignKeyField(
        "estation.Case", related_name=False, on_delete=fields.RESTRICT
    )
    case_id: UUID
    person_id = fields.UUIDField(db_index=True)
    role = fields.CharField(max_length=16)

    class Meta:
        table = "case_party"
        unique_together = (("case_id", "person_id", "role"),)
