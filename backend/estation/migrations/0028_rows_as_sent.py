"""Rows that say more than we know are kept whole, also of topics of which only columns were kept;
what nobody here understands lies sealed.
"""

from uuid import uuid4

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_gate_parked_row_body": (
        "alter table gate_parked_row add constraint ck_gate_parked_row_body"
        " check (num_nonnulls(body, body_sealed) = 1)"
    ),
    "ck_gate_row_as_sent": (
        "alter table gate_row_as_sent add constraint ck_gate_row_as_sent"
        " check (octet_length(digest) = 32 and num_nonnulls(body, body_sealed) = 1)"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("estation", "0027_kept_messages")]

    operations = [
        ops.CreateModel(
            name="RowAsSent",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("topic", fields.CharField(max_length=64)),
                ("source", fields.CharField(max_length=32)),
                ("key", fields.CharField(max_length=160)),
                ("version", fields.BigIntField()),
                ("digest", fields.BinaryField()),
                ("body", fields.TextField(null=True, unique=False)),
                ("body_sealed", fields.BinaryField(null=True)),
                ("at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "gate_row_as_sent",
                "app": "estation",
                "unique_together": (("topic", "source", "key", "version", "digest"),),
                "pk_attr": "id",
                "table_description": (
                    "A row that said more than we know, whole, of a topic whose context keeps only"
                    " that (`more`)."
                ),
            },
            bases=["Model"],
        ),
        ops.AlterField(
            model_name="ParkedRow", name="body", field=fields.TextField(null=True, unique=False)
        ),
        ops.AddField(
            model_name="ParkedRow", name="body_sealed", field=fields.BinaryField(null=True)
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
