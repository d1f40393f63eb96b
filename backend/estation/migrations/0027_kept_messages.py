"""Channels' messages are kept as they came, and what channels answered about an attempt; the
official account hears each message once.

A message is ciphertext: PostgreSQL tries no compression, and keeps it in its row, since a second
table's index for each would cost more than the row itself.
"""

from orjson import loads
from tortoise import fields
from tortoise.fields.data import JSON_DUMPS
from tortoise.migrations import operations as ops
from uuid import uuid4

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "message_is_only_resealed": (
        "create function message_is_only_resealed() returns trigger language plpgsql as $$"
        " begin"
        # The key's name: two letters and four bytes.
        " if new.id = old.id and substring(new.message_sealed from 1 for 2) = 'k1'::bytea"
        " and substring(new.message_sealed from 1 for 6)"
        " <> substring(old.message_sealed from 1 for 6) then return new; end if;"
        " raise exception 'a message stays as it came'; end $$"
    ),
    "tr_pay_notice_message_kept": (
        "create trigger tr_pay_notice_message_kept before update on pay_notice_message"
        " for each row execute function message_is_only_resealed()"
    ),
}
IN_ITS_ROW = (
    "alter table pay_notice_message alter column message_sealed set storage external",
    "alter table pay_notice_message set (toast_tuple_target = 8160)",
)


class Migration(SwiftMigration):
    dependencies = [("estation", "0026_refused_rows")]

    operations = [
        ops.CreateModel(
            name="NoticeMessage",
            fields=[
                ("id", fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ("message_sealed", fields.BinaryField()),
            ],
            options={"table": "pay_notice_message", "app": "estation", "pk_attr": "id", "table_description": "The message of a notice in the inbox as it came, sealed whole (`pay_channels.messages`)."},
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
