"""How a claim of ours (多退应收) ended: money that came back, or was given up by two persons."""

from uuid import uuid4

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from estation.payments.rules import ClaimEnd, OutsideState
from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_claim_settlement_two_persons": (
        "alter table claim_settlement add constraint ck_claim_settlement_two_persons"
        " check (decided_by = ''"
        " or case when asked_by_id is null or decided_by_id is null then decided_by <> asked_by"
        " else decided_by_id <> asked_by_id end)"
    ),
    "ck_claim_settlement_amount": (
        "alter table claim_settlement add constraint ck_claim_settlement_amount"
        " check (amount_fen > 0 and document_no <> '')"
    ),
    "ck_claim_settlement_end": (
        "alter table claim_settlement add constraint ck_claim_settlement_end check (case"
        " when kind = 'recovered' then received_on is not null"
        " when kind = 'written_off' then received_on is null and reason <> ''"
        " else false end)"
    ),
    "ck_claim_settlement_state": (
        "alter table claim_settlement add constraint ck_claim_settlement_state check (case"
        " when state = 'asked' then decided_at is null and transfer_id is null"
        " when state = 'rejected' then decided_at is not null and transfer_id is null"
        " when state = 'approved' then decided_at is not null and transfer_id is not null"
        " else false end)"
    ),
    "uq_claim_settlement_asked": (
        "create unique index uq_claim_settlement_asked on claim_settlement (arrival_id)"
        " where state = 'asked'"
    ),
}


class Migration(SwiftMigration):
    dependencies = [('estation', '0015_sent_sources')]

    initial = False

    operations = [
        ops.CreateModel(
            name='ClaimSettlement',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('incident', fields.ForeignKeyField('estation.Incident', source_field='incident_id', db_index=True, db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('arrival_id', fields.UUIDField(db_index=True)),
                ('account_id', fields.CharField(max_length=64)),
                ('kind', fields.CharEnumField(description='RECOVERED: recovered\nWRITTEN_OFF: written_off', enum_type=ClaimEnd, max_length=16)),
                ('amount_fen', FenField()),
                ('state', fields.CharEnumField(description='ASKED: asked\nREJECTED: rejected\nAPPROVED: approved', enum_type=OutsideState, max_length=16)),
                ('reason', fields.CharField(default='', max_length=200)),
                ('document_no', fields.CharField(max_length=64)),
                ('received_on', fields.DateField(null=True)),
                ('asked_by', fields.CharField(max_length=64)),
                ('asked_by_id', fields.UUIDField(null=True)),
                ('asked_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('decided_by', fields.CharField(default='', max_length=64)),
                ('decided_by_id', fields.UUIDField(null=True)),
                ('decided_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('decision_note', fields.CharField(default='', max_length=200)),
                ('transfer_id', fields.UUIDField(null=True)),
            ],
            options={'table': 'claim_settlement', 'app': 'estation', 'pk_attr': 'id', 'table_description': 'How a claim of ours (多退应收), or a part of it, ended: it came back, or was given up.'},
            bases=['Model'],
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
