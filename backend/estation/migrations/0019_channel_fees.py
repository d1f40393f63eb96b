"""The channels' fees stand in the books, and those that came late are instructed as corrections.

Files that were proven before this keep null: their fees are booked when their day is reconciled
again. A bill's own total is read with its lines, so older files have none.
"""

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops
from uuid import uuid4

from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    # One bill of an account's day has its fees in the books, whichever was corrected by which.
    "uq_channel_bill_file_booked": (
        "create unique index uq_channel_bill_file_booked on channel_bill_file (account_id, day)"
        " where booked_fee_fen is not null"
    ),
    "ck_split_fee_correction_changes": (
        "alter table split_fee_correction add constraint ck_split_fee_correction_changes"
        " check (fee_fen <> 0)"
    ),
    "tr_split_fee_correction_kept": (
        "create trigger tr_split_fee_correction_kept before update or delete"
        " on split_fee_correction for each row execute function payment_record_is_kept()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("estation", "0018_gate_words")]

    operations = [
        ops.AddField(
            model_name="BillFile",
            name="settlement_fen",
            field=fields.BigIntField(null=True),
        ),
        ops.AddField(
            model_name="BillFile",
            name="booked_fee_fen",
            field=fields.BigIntField(null=True),
        ),
        ops.AddField(
            model_name="SplitExport",
            name="fees_until",
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.CreateModel(
            name="SplitFeeCorrection",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("export", fields.ForeignKeyField("estation.SplitExport", source_field="export_id", db_index=True, db_constraint=True, to_field="id", related_name=False, on_delete=OnDelete.RESTRICT)),
                ("transfer_id", fields.UUIDField()),
                ("payee_code", fields.CharField(max_length=32)),
                ("is_refund", fields.BooleanField()),
                ("fee_fen", FenField()),
            ],
            options={"table": "split_fee_correction", "app": "estation", "unique_together": (("transfer_id", "payee_code", "export_id"),), "pk_attr": "id", "table_description": "What became known of a payee's share of a channel's fee after it was instructed."},
            bases=["Model"],
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
