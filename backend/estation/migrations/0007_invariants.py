from tortoise.migrations import operations as ops
from tortoise import fields

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ix_outbox_dead": (
        "create index ix_outbox_dead on outbox_message (dead_at)"
        " where dead_at is not null and sent_at is null"
    ),
    "ix_incident_kind": "create index ix_incident_kind on incident (kind, opened_at)",
    "ix_incident_trade_no": (
        "create index ix_incident_trade_no on incident (channel_trade_no)"
        " where channel_trade_no is not null"
    ),
    # BRIN: an update of a column only a summarizing index has is still a HOT update, so that the
    # payment that marks a bill paid pays nothing for this.
    "ix_bill_paid_at": (
        "create index ix_bill_paid_at on bill using brin (paid_at)"
        " with (pages_per_range = 16, autosummarize = on)"
    ),
}


class Migration(SwiftMigration):
    dependencies = [('estation', '0006_pay_codes')]

    initial = False

    operations = [
        ops.CreateModel(
            name='InvariantCheck',
            fields=[
                ('name', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ('checked_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('whole_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('breaches', fields.IntField()),
                ('took_ms', fields.IntField()),
            ],
            options={'table': 'invariant_check', 'app': 'estation', 'pk_attr': 'name', 'table_description': 'How one invariant was last found; the only memory of the five-minute round.'},
            bases=['Model'],
        ),
        ops.AlterField(
            model_name='Incident',
            name='kind',
            field=fields.CharField(max_length=80),
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
