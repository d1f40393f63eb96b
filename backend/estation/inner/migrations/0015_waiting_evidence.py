"""Evidence somebody must look at is found and counted without the other, which is nearly all."""

from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ix_fee_payment_evidence_waits": (
        "create index ix_fee_payment_evidence_waits on fee_payment_evidence (received_at, id)"
        " where bill_id is null or attention <> ''"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("inner", "0014_refused_rows")]

    operations = [ops.RunSQL(sql) for sql in STATEMENTS.values()]
