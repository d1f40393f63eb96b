from uuid import uuid4

from orjson import loads
from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.fields.data import JSON_DUMPS
from tortoise.migrations import operations as ops

from estation.inner.rules import BillState, RefundState
from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_fee_bill_state": (
        "alter table fee_bill add constraint ck_fee_bill_state check (case"
        " when state in ('issued', 'withdrawn') then paid_at is null and paid_version is null"
        " when state in ('paid', 'refunded')"
        " then paid_at is not null and paid_version = version"
        " else false end)"
    ),
    # a bill that was given back and issued anew is paid once more, in another version
    "uq_fee_receipt_paid": (
        "create unique index uq_fee_receipt_paid on fee_receipt (bill_id, bill_version)"
        " where attention = '' and bill_id is not null"
    ),
    "ck_fee_refund_order_amount": (
        "alter table fee_refund_order add constraint ck_fee_refund_order_amount"
        " check (amount_fen > 0 and amount_fen <= believed_refundable_fen)"
    ),
    "ck_fee_refund_order_state": (
        "alter table fee_refund_order add constraint ck_fee_refund_order_state check (case"
        " when state = 'asked' then decided_at is null"
        " when state in ('rejected', 'ordered', 'refunding', 'refunded', 'not_refunded',"
        " 'refused') then decided_at is not null else false end)"
    ),
    "ck_fee_refund_order_two_persons": (
        "alter table fee_refund_order add constraint ck_fee_refund_order_two_persons"
        " check (decided_by = '' or decided_by <> asked_by)"
    ),
    "ix_fee_refund_order_asked": (
        "create index ix_fee_refund_order_asked on fee_refund_order (asked_at)"
        " where state = 'asked'"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("inner", "0002_constraints")]

    initial = False

    operations = [
        ops.CreateModel(
            name="RefundOrder",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("refund_no", fields.CharField(unique=True, max_length=32)),
                ("bill", fields.ForeignKeyField("inner.FeeBill", source_field="bill_id", db_index=True, db_constraint=True, to_field="id", related_name=False, on_delete=OnDelete.RESTRICT)),
                ("order_no", fields.CharField(max_length=32)),
                ("amount_fen", FenField()),
                ("believed_refundable_fen", FenField()),
                ("shares", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("reason", fields.CharField(max_length=80)),
                ("state", fields.CharEnumField(description="ASKED: asked\nREJECTED: rejected\nORDERED: ordered\nREFUNDING: refunding\nREFUNDED: refunded\nNOT_REFUNDED: not_refunded\nREFUSED: refused", enum_type=RefundState, max_length=16)),
                ("asked_by", fields.CharField(max_length=32)),
                ("asked_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("decided_by", fields.CharField(default="", max_length=32)),
                ("decided_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("decision_note", fields.CharField(default="", max_length=256)),
                ("why_not", fields.CharField(default="", max_length=64)),
                ("changed_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "fee_refund_order", "app": "inner", "pk_attr": "id", "table_description": "What the centre wants given back of one payment of a bill (退款指令)."},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="RefundNews",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("source", fields.CharField(max_length=32)),
                ("source_id", fields.CharField(max_length=64)),
                ("refund_no", fields.CharField(max_length=32)),
                ("order_source_id", fields.CharField(max_length=64)),
                ("bill", fields.ForeignKeyField("inner.FeeBill", source_field="bill_id", null=True, db_index=True, db_constraint=True, to_field="id", related_name=False, on_delete=OnDelete.RESTRICT)),
                ("order_no", fields.CharField(max_length=32)),
                ("version", fields.IntField()),
                ("state", fields.CharField(max_length=16)),
                ("amount_fen", FenField()),
                ("shares", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("channel", fields.CharField(max_length=32)),
                ("channel_refund_no", fields.CharField(max_length=64)),
                ("transfer_id", fields.CharField(max_length=64)),
                ("reason", fields.CharField(max_length=80)),
                ("why_not", fields.CharField(max_length=64)),
                ("at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("packet_seq", fields.BigIntField()),
                ("received_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("attention", fields.CharField(max_length=32)),
            ],
            options={"table": "fee_refund_news", "app": "inner", "unique_together": (("source", "source_id", "refund_no", "order_source_id"),), "pk_attr": "id", "table_description": "How a refund stands on the online side, in the newest version that came."},
            bases=["Model"],
        ),
        *(
            ops.AlterField(
                model_name=model,
                name="state",
                field=fields.CharEnumField(description="ISSUED: issued\nPAID: paid\nWITHDRAWN: withdrawn\nREFUNDED: refunded", enum_type=BillState, max_length=16),
            )
            for model in ("FeeBill", "FeeBillVersion")
        ),
        ops.RunSQL("alter table fee_bill drop constraint ck_fee_bill_state"),
        ops.RunSQL("drop index uq_fee_receipt_paid"),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
