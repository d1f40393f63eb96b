"""Rows that were set aside, what proofs know of them, and events that can be forgotten by age.

Beside them: each further destination may have its packets cut into symbols for its own device.
"""

from uuid import uuid4

from tortoise import fields
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "uq_gate_refused_row_open": (
        "create unique index uq_gate_refused_row_open on gate_refused_row (topic, source, key)"
        " where healed_at is null"
    ),
    "ix_gate_refused_row_open": (
        "create index ix_gate_refused_row_open on gate_refused_row (stream)"
        " where healed_at is null"
    ),
    "ck_gate_refused_row": (
        "alter table gate_refused_row add constraint ck_gate_refused_row"
        " check (octet_length(digest) = 32 and version >= 1"
        " and (healed_at is null) = (healed_by = ''))"
    ),
    "ck_gate_proof_known": (
        "alter table gate_proof add constraint ck_gate_proof_known"
        " check (not is_known or refused_rows > 0 and not is_equal)"
    ),
    "ix_gate_event_at": "create index ix_gate_event_at on gate_event (at)",
}


class Migration(SwiftMigration):
    dependencies = [("inner", "0013_evidence_touched")]

    operations = [
        ops.CreateModel(
            name="RefusedRow",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("stream", fields.CharField(max_length=64)),
                ("seq", fields.BigIntField()),
                ("topic", fields.CharField(max_length=64)),
                ("source", fields.CharField(max_length=32)),
                ("key", fields.CharField(max_length=160)),
                ("version", fields.BigIntField()),
                ("digest", fields.BinaryField()),
                ("body_sealed", fields.BinaryField(null=True)),
                ("reason", fields.CharField(max_length=512)),
                ("times", fields.IntField(default=1)),
                ("at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("seen_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("healed_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("healed_by", fields.CharField(default="", max_length=32)),
            ],
            options={
                "table": "gate_refused_row",
                "app": "inner",
                "indexes": [Index(fields=["healed_at"])],
                "pk_attr": "id",
                "table_description": (
                    "A row this side could not take in, set aside until one of its thing is"
                    " (`refused`)."
                ),
            },
            bases=["Model"],
        ),
        ops.AddField(
            model_name="Proof",
            name="refused_rows",
            field=fields.IntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name="Proof",
            name="is_known",
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.AddField(
            model_name="GateDestination",
            name="symbols_folder",
            field=fields.CharField(default="", db_default="", max_length=512),
        ),
        ops.AddField(
            model_name="GateDestination",
            name="symbols_repair_percent",
            field=fields.IntField(default=50, db_default=50),
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
