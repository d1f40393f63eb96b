"""Where each stream stands, what waits to leave, and every file that came. On both sides."""

from datetime import datetime
from typing import Any

from tortoise import fields
from tortoise.models import Model


class OutgoingStream(Model):
    """The head of a stream we write."""

    stream = fields.CharField(max_length=64, primary_key=True)
    last_seq = fields.BigIntField()
    last_digest = fields.CharField(max_length=64)

    class Meta:
        table = "gate_outgoing_stream"


class OutgoingRow(Model):
    """A row that must cross, written in the transaction of what it reports."""

    id = fields.BigIntField(primary_key=True, generated=True)
    stream = fields.CharField(max_length=64)
    topic = fields.CharField(max_length=64)
    body = fields.JSONField[dict[str, Any]]()
    created_at: datetime = fields.DatetimeField()
    packed_seq: int | None = fields.BigIntField(null=True)

    class Meta:
        table = "gate_outgoing_row"


class IncomingStream(Model):
    """The position of a stream we read; `stopped_reason` is empty while it runs."""

    stream = fields.CharField(max_length=64, primary_key=True)
    last_seq = fields.BigIntField()
    last_digest = fields.CharField(max_length=64)
    watermark: datetime | None = fields.DatetimeField(null=True)
    applied_at: datetime | None = fields.DatetimeField(null=True)
    stopped_reason = fields.CharField(max_length=64, default="")
    stopped_detail = fields.TextField(default="")

    class Meta:
        table = "gate_incoming_stream"


class IncomingFile(Model):
    """What became of one file: applied, duplicate, parked or quarantined with a reason."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq: int | None = fields.BigIntField(null=True)
    file_name = fields.CharField(max_length=128)
    digest = fields.CharField(max_length=64)
    state = fields.CharField(max_length=16)
    reason = fields.CharField(max_length=64, default="")
    rows = fields.IntField(default=0)
    received_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_incoming_file"
