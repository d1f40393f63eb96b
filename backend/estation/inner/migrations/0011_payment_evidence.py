"""What channels' bills prove of payments of our bills, and its history."""

from orjson import loads
from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.fields.data import JSON_DUMPS
from tortoise.migrations import operations as ops
from uuid import uuid4

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "payment_evidence_is_kept": (
        "create function payment_evidence_is_kept() returns trigger language plpgsql as $$"
        " begin raise exception 'evidence of payments is never changed';"
        " end $$"
    ),
    "tr_fee_payment_evidence_version_kept": (
        "create trigger tr_fee_payment_evidence_version_kept before update or delete"
        " on fee_payment_evidence_version"
        " for each row execute function payment_evidence_is_kept()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("inner", "0010_proof_rounds")]

    operations = [
        ops.CreateModel(
            name="PaymentEvidence",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("source", fields.CharField(max_length=32)),
                ("source_id", fields.CharField(max_length=64)),
                ("order_no", fields.CharField(max_length=32)),
                ("out_trade_no", fields.CharField(max_length=32)),
                ("bill", fields.ForeignKeyField("inner.FeeBill", source_field="bill_id", null=True, db_index=True, db_constraint=True, to_field="id", related_name=False, on_delete=OnDelete.RESTRICT)),
                ("version", fields.IntField()),
                ("said", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("row_digest", fields.BinaryField(null=True)),
                ("packet_seq", fields.BigIntField()),
                ("received_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("attention", fields.CharField(max_length=32)),
            ],
            options={"table": "fee_payment_evidence", "app": "inner", "unique_together": (("source", "source_id", "order_no", "out_trade_no"),), "pk_attr": "id", "table_description": "What the channel's own words prove of a payment, in the newest version that came."},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="PaymentEvidenceVersion",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("source", fields.CharField(max_length=32)),
                ("source_id", fields.CharField(max_length=64)),
                ("order_no", fields.CharField(max_length=32)),
                ("out_trade_no", fields.CharField(max_length=32)),
                ("version", fields.IntField()),
                ("said", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("row_digest", fields.BinaryField(null=True)),
                ("packet_seq", fields.BigIntField()),
                ("received_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "fee_payment_evidence_version", "app": "inner", "unique_together": (("source", "source_id", "order_no", "out_trade_no", "version", "row_digest"),), "pk_attr": "id", "table_description": "Every version of a piece of evidence that ever came, as it came first. Append-only."},
            bases=["Model"],
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
