"""Bill files and openids are kept sealed, and how far the older rows have been sealed.

A file may change once, from clear to sealed; its digest, account and day never, so that what was
sealed is proved to be what came.
"""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "bill_is_only_sealed": (
        "create function bill_is_only_sealed() returns trigger language plpgsql as $$ begin"
        " if not old.is_sealed and new.is_sealed then return new; end if;"
        " raise exception 'a raw bill is evidence and stays as it came'; end $$"
    ),
    "tr_channel_bill_file_sealed": (
        "create trigger tr_channel_bill_file_sealed"
        " before update of content, is_sealed on channel_bill_file"
        " for each row execute function bill_is_only_sealed()"
    ),
    "uq_wechat_binding_openid_index": (
        "create unique index uq_wechat_binding_openid_index"
        " on wechat_binding (appid, openid_index)"
    ),
    "ck_wechat_binding_openid": (
        "alter table wechat_binding add constraint ck_wechat_binding_openid"
        " check ((openid is null) <> (openid_index is null))"
    ),
    "ck_session_openid": (
        "alter table session add constraint ck_session_openid"
        " check (openid is null or openid_sealed is null)"
    ),
    "ck_sealing_walk": (
        "alter table sealing_walk add constraint ck_sealing_walk"
        " check (sealed >= 0 and looked >= sealed)"
    ),
}
TRIGGER = (
    "create trigger tr_channel_bill_file_kept"
    " before delete or update of sha256, account_id, day on channel_bill_file"
    " for each row execute function raw_bill_is_kept()"
)


class Migration(SwiftMigration):
    dependencies = [("estation", "0020_proof_rounds")]

    initial = False

    operations = [
        ops.AddField(
            model_name="BillFile",
            name="is_sealed",
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.AddField(
            model_name="Session",
            name="openid_sealed",
            field=fields.BinaryField(null=True),
        ),
        ops.AlterField(
            model_name="WechatBinding",
            name="openid",
            field=fields.CharField(null=True, max_length=128),
        ),
        ops.AddField(
            model_name="WechatBinding",
            name="openid_index",
            field=fields.CharField(null=True, max_length=64),
        ),
        ops.AlterModelOptions(
            name="WechatBinding",
            options={"table": "wechat_binding", "app": "estation", "unique_together": (("appid", "openid"), ("appid", "openid_index")), "pk_attr": "id", "table_description": "An openid of one appid belongs to one person."},
        ),
        ops.CreateModel(
            name="SealingWalk",
            fields=[
                ("walk", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ("upto", fields.UUIDField(null=True)),
                ("looked", fields.BigIntField(default=0)),
                ("sealed", fields.BigIntField(default=0)),
                ("ended_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={"table": "sealing_walk", "app": "estation", "pk_attr": "walk", "table_description": "How far the rows of one table that were written before they were sealed are done."},
            bases=["Model"],
        ),
        ops.RunSQL("drop trigger tr_channel_bill_file_kept on channel_bill_file"),
        ops.RunSQL(TRIGGER),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
