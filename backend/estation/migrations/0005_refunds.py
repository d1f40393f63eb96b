from orjson import loads
from tortoise import fields
from tortoise.fields.data import JSON_DUMPS
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration


class Migration(SwiftMigration):
    """When a refund was first taken to its channel: WeChat Pay wants a minute between two of one
    trade, and a number that was sent once is asked about before it is sent again. And what a
    notice that waits to be settled said about a refund."""

    dependencies = [("estation", "0004_ledger_blocks")]

    initial = False

    operations = [
        ops.AddField(
            model_name="Refund",
            name="sent_at",
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name="Notice",
            name="refund",
            field=fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads),
        ),
    ]
