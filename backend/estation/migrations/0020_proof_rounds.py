"""How far a round of proofs has come that takes more packets than one."""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration


class Migration(SwiftMigration):
    dependencies = [("estation", "0019_channel_fees")]

    operations = [
        ops.AddField(
            model_name="Upkeep",
            name="proved_upto",
            field=fields.CharField(default="", db_default="", max_length=128),
        ),
    ]
