"""What was sent is found bucket by bucket, and what left with a packet by its number.

A proof makes only those buckets anew in which something was sent since; repairs read only the
buckets they were asked for; forgetting confirmed packets looks at their own rows only. A peer says how much room its folder's disk has.
"""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_gate_sent_row_bucket": (
        "alter table gate_sent_row add constraint ck_gate_sent_row_bucket"
        " check (bucket between 0 and 255)"
    ),
    "ix_gate_sent_row_bucket": (
        "create index ix_gate_sent_row_bucket on gate_sent_row (stream, topic, source, bucket)"
    ),
    "ix_gate_row_packed": (
        "create index ix_gate_row_packed on gate_outgoing_row (stream, packed_seq)"
        " where packed_seq is not null"
    ),
}

BEFORE = [
    "update gate_sent_row set bucket = get_byte(sha256(convert_to(key, 'UTF8')), 0)",
]


class Migration(SwiftMigration):
    dependencies = [("estation", "0011_gate")]

    operations = [
        ops.AddField(
            model_name="SentRow", name="bucket", field=fields.SmallIntField(default=0, db_default=0)
        ),
        ops.AddField(
            model_name="GatePeer", name="disk_free", field=fields.BigIntField(null=True)
        ),
        *(ops.RunSQL(sql) for sql in [*BEFORE, *STATEMENTS.values()]),
    ]
