"""What channels' bills prove of payments is told to the centres, and kept as it was told."""

from orjson import loads
from tortoise import fields
from tortoise.fields.data import JSON_DUMPS
from tortoise.migrations import operations as ops
from uuid import uuid4

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_payment_evidence_version": (
        "alter table payment_evidence add constraint ck_payment_evidence_version"
        " check (version > 0 and file_line > 0)"
    ),
    "tr_payment_evidence_kept": (
        "create trigger tr_payment_evidence_kept before update or delete"
        " on payment_evidence for each row execute function payment_record_is_kept()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("estation", "0021_sealed_payers")]

    operations = [
        ops.CreateModel(
            name="PaymentEvidence",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("transfer_id", fields.UUIDField()),
                ("bill_id", fields.UUIDField()),
                ("version", fields.IntField()),
                ("file_digest", fields.CharField(max_length=64)),
                ("file_line", fields.IntField()),
                ("said", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "payment_evidence", "app": "estation", "unique_together": (("transfer_id", "bill_id", "version"),), "pk_attr": "id", "table_description": "What the centre was told that a channel's bill proves of a payment of one of its bills."},
            bases=["Model"],
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
