"""Channels' messages are kept as they came, and what channels answered about an attempt; the
official account hears each message once.

A message is ciphertext: PostgreSQL tries no compression, and keeps it in its row, since a second
table's index for each would cost more than the row itself.
"""

from orjson import loads
from tortoise import fields, migrations
from tortoise.fields.data import JSON_DUMPS
from tortoise.migrations import operations as ops
from uuid import uuid4

STATEMENTS = {
    "tr_pay_notice_message_kept": (
        "create trigger tr_pay_notice_message_kept before update on pay_notice_message"
        " for each row execute function payment_record_is_kept()"
    ),
}
IN_ITS_ROW = (
    "alter table pay_notice_message alter column sealed set storage external",
    "alter table pay_notice_message set (toast_tuple_target = 8160)",
)


class Migration(migrations.Migration):
    dependencies = [("estation", "0023_packing")]

    operations = [
        ops.CreateModel(
            name="NoticeMessage",
            fields=[
                ("notice_id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("sealed", fields.BinaryField()),
            ],
            options={"table": "pay_notice_message", "app": "estation", "pk_attr": "notice_id", "table_description": "The message of a notice in the inbox as it came, sealed whole (`pay_channels.messages`)."},
            bases=["Model"],
        ),
        ops.AddField(
            model_name="PayAttempt",
            name="heard",
            field=fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads),
        ),
        ops.CreateModel(
            name="HeardMessage",
            fields=[
                ("key", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ("kind", fields.CharField(max_length=100)),
                ("reply", fields.TextField(unique=False)),
                ("deliveries", fields.IntField(default=1)),
                ("heard_at", fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False)),
            ],
            options={"table": "official_account_message", "app": "estation", "pk_attr": "key", "table_description": "One message, however often WeChat delivered it; nothing of who sent it or what it said."},
            bases=["Model"],
        ),
        *(ops.RunSQL(sql) for sql in (*IN_ITS_ROW, *STATEMENTS.values())),
    ]
