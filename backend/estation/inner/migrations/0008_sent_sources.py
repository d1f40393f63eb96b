"""What was ever sent is proved for ever, also when nothing of it is left in the log."""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration


class Migration(SwiftMigration):
    dependencies = [("inner", "0007_gate_buckets")]

    operations = [
        ops.CreateModel(
            name="SentSource",
            fields=[
                ("id", fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ("stream", fields.CharField(max_length=64)),
                ("topic", fields.CharField(max_length=64)),
                ("source", fields.CharField(max_length=32)),
            ],
            options={"table": "gate_sent_source", "app": "inner", "unique_together": (("stream", "topic", "source"),), "pk_attr": "id", "table_description": "A topic and source that was ever sent: proved also when the log has nothing of it."},
            bases=["Model"],
        ),
        ops.RunSQL(
            "insert into gate_sent_source (stream, topic, source)"
            " select distinct stream, topic, source from gate_sent_row"
        ),
    ]
