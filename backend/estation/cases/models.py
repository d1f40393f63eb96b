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
    row_digest: bytes | None = fields.BinaryField(null=True)

    class Meta:
        table = "case_record"
        unique_together = (("source", "source_id"),)


class CaseVersion(Model):
    """One version of a case exactly as it came, sealed: it names its parties."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()
    body_sealed = fields.BinaryField()

    class Meta:
        table = "case_version"
        unique_together = (("source", "source_id", "version"),)


class CaseEvent(Model):
    """What happened in a case, and when. It may have come before its case."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()
    case_source_id = fields.CharField(max_length=64)
    seq = fields.IntField()
    what = fields.CharField(max_length=16)
    stage = fields.CharField(max_length=32)
    state = fields.CharField(max_length=16)
    at: datetime = fields.DatetimeField()
    note = fields.CharField(max_length=512)
    body_sealed = fields.BinaryField()  # the row as it came, fields we do not know included

    class Meta:
        table = "case_event"
        unique_together = (("source", "source_id"),)
        indexes = (("case_source_id", "source"),)


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
