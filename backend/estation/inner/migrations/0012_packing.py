"""A row waits in the spelling in which it crosses, and goes when its packet holds it.

Printing `jsonb`, spelling it anew and writing the whole row once more for the number of its
packet were most of what packing cost.
"""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

# Their packets hold them, and the log all that names a thing. What a snapshot must bring again
# (parts of files, whatever a later topic calls them) stays, and so does all of a stream whose log
# does not know everything of before its time.
_PACKED_GO = """delete from gate_outgoing_row r
    where packed_seq is not null and topic in (
        'unit', 'right', 'restriction', 'certificate', 'case', 'case_event', 'fee_bill', 'receipt',
        'refund_order', 'refund', 'payment_evidence', 'received_up_to', 'snapshot', 'proof',
        'rows_wanted', 'repair') and not exists (
        select from gate_upkeep u where u.stream = r.stream and u.backfill_id is not null)"""


class _KnownFromNowOn(ops.AlterField):
    """Tortoise itself changes no type: the statement before did."""

    async def database_forward(self, *_: object, **__: object) -> None:
        pass

    async def database_backward(self, *_: object, **__: object) -> None:
        pass


class Migration(SwiftMigration):
    dependencies = [("inner", "0011_payment_evidence")]

    operations = [
        ops.RunSQL(_PACKED_GO),
        ops.RunSQL("alter table gate_outgoing_row alter column body type text"),
        _KnownFromNowOn(model_name="OutgoingRow", name="body", field=fields.TextField()),
        ops.AddField(
            model_name="OutgoingRow",
            name="is_canonical",
            field=fields.BooleanField(default=False, db_default=False),
        ),
        ops.AddField(
            model_name="OutgoingPacket", name="waited", field=fields.IntField(null=True)
        ),
    ]
