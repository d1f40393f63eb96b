from tortoise.migrations import operations as ops
from tortoise import fields

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_split_instruction_amount": (
        "alter table split_instruction add constraint ck_split_instruction_amount"
        " check (amount_fen > 0 and fee_fen >= 0)"
    ),
    "ix_split_export_day": (
        "create index ix_split_export_day on split_export (day, account_id)"
    ),
}


class Migration(SwiftMigration):
    dependencies = [('estation', '0005_refunds')]

    initial = False

    operations = [
        ops.AddField(
            model_name='PayAttempt',
            name='payer_mark',
            field=fields.CharField(null=True, max_length=64),
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
