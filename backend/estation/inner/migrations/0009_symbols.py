"""Which peers get their packets as symbols."""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration


class Migration(SwiftMigration):
    dependencies = [("inner", "0008_sent_sources")]

    operations = [
        ops.AddField(
            model_name="GatePeer",
            name="symbols_folder",
            field=fields.CharField(default="", db_default="", max_length=512),
        ),
        ops.AddField(
            model_name="GatePeer",
            name="symbols_repair_percent",
            field=fields.IntField(default=50, db_default=50),
        ),
    ]
