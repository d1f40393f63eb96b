"""Which accounts' channels give no answer, for the alarms."""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_channel_silence": (
        "alter table channel_silence add constraint ck_channel_silence check (since <= last_at)"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("estation", "0016_claim_settlements")]

    initial = False

    operations = [
        ops.CreateModel(
            name="ChannelSilence",
            fields=[
                ("account_id", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ("since", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("last_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "channel_silence", "app": "estation", "pk_attr": "account_id", "table_description": "An account whose channel gives no answer, as the worker heard last; for the alarms alone."},
            bases=["Model"],
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
