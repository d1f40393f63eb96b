from tortoise.migrations import operations as ops
from tortoise.fields.base import OnDelete
from uuid import uuid4
from tortoise import fields

from estation.shared.migrating import SwiftMigration
STATEMENTS = {
    "ck_right_entry_mortgage": (
        "alter table right_entry add constraint ck_right_entry_mortgage check (version >= 1 and"
        " (kind in ('mortgage', 'mortgage_prenotice')) = (secured_fen is not null)"
        " and secured_fen > 0)"
    ),
    "uq_certificate_right": "create unique index uq_certificate_right on certificate (right_id)",
    "ix_right_entry_unit": "create index ix_right_entry_unit on right_entry (unit_id)",
    "ck_restriction_entry_lifted": (
        "alter table restriction_entry add constraint ck_restriction_entry_lifted"
        " check (version >= 1 and queue_position >= 0 and (case state"
        " when 'in_force' then queue_position = 0 and lifted_at is null"
        " when 'queued' then queue_position > 0 and lifted_at is null"
        " when 'lifted' then lifted_at is not null else false end))"
    ),
    "ix_restriction_entry_unit": (
        "create index ix_restriction_entry_unit on restriction_entry (unit_id)"
    ),
    "case_event_is_kept": (
        "create function case_event_is_kept() returns trigger language plpgsql as $$"
        " begin raise exception 'what happened in a case stays as it was'; end $$"
    ),
    "tr_case_event_kept": (
        "create trigger tr_case_event_kept before update or delete on case_event"
        " for each row execute function case_event_is_kept()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [('inner', '0003_refunds')]

    initial = False

    operations = [
        ops.CreateModel(
            name='CaseEvent',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('case', fields.ForeignKeyField('inner.Case', source_field='case_id', db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('seq', fields.IntField()),
                ('what', fields.CharField(max_length=16)),
                ('stage', fields.CharField(max_length=32)),
                ('state', fields.CharField(max_length=16)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('note', fields.CharField(max_length=512)),
            ],
            options={'table': 'case_event', 'app': 'inner', 'unique_together': (('case_id', 'seq'),), 'pk_attr': 'id', 'table_description': 'What happened in a case and when; `seq` numbers the events. Never changed.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Restriction',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('restriction_no', fields.CharField(unique=True, max_length=32)),
                ('version', fields.IntField()),
                ('unit', fields.ForeignKeyField('inner.Unit', source_field='unit_id', db_constraint=True, to_field='unit_code', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('kind', fields.CharField(max_length=16)),
                ('organ', fields.CharField(max_length=128)),
                ('document_no', fields.CharField(max_length=128)),
                ('since', fields.DateField()),
                ('until', fields.DateField(null=True)),
                ('scope', fields.CharField(max_length=512)),
                ('queue_position', fields.IntField()),
                ('state', fields.CharField(max_length=16)),
                ('registered_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('lifted_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('lifted_by', fields.CharField(max_length=128)),
                ('lifted_document_no', fields.CharField(max_length=128)),
            ],
            options={'table': 'restriction_entry', 'app': 'inner', 'pk_attr': 'id', 'table_description': 'A seizure or lock on a unit; the fields as `rows.RestrictionRow` explains them.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Right',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('right_no', fields.CharField(unique=True, max_length=32)),
                ('version', fields.IntField()),
                ('kind', fields.CharField(max_length=24)),
                ('national_code', fields.CharField(max_length=8)),
                ('unit', fields.ForeignKeyField('inner.Unit', source_field='unit_id', db_constraint=True, to_field='unit_code', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('holding', fields.CharField(max_length=16)),
                ('registered_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('until', fields.DateField(null=True)),
                ('state', fields.CharField(max_length=16)),
                ('case_no', fields.CharField(max_length=32)),
                ('secured_fen', fields.BigIntField(null=True)),
                ('debt_from', fields.DateField(null=True)),
                ('debt_until', fields.DateField(null=True)),
                ('rank', fields.IntField(null=True)),
                ('transfer_limited', fields.BooleanField(null=True)),
            ],
            options={'table': 'right_entry', 'app': 'inner', 'pk_attr': 'id', 'table_description': 'One right in the register (登记簿); the fields as `rows.RightRow` explains them.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Certificate',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('number', fields.CharField(unique=True, max_length=64)),
                ('version', fields.IntField()),
                ('kind', fields.CharField(max_length=16)),
                ('print_no', fields.CharField(max_length=32)),
                ('right', fields.ForeignKeyField('inner.Right', source_field='right_id', db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('issued_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('state', fields.CharField(max_length=16)),
            ],
            options={'table': 'certificate', 'app': 'inner', 'pk_attr': 'id', 'table_description': 'The certificate (证书) or proof (证明) of one right.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RightHolder',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('right', fields.ForeignKeyField('inner.Right', source_field='right_id', db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('seq', fields.IntField()),
                ('name', fields.CharField(max_length=128)),
                ('id_type', fields.CharField(max_length=8)),
                ('id_no', fields.CharField(max_length=64)),
                ('kind', fields.CharField(max_length=8)),
                ('share_numerator', fields.IntField()),
                ('share_denominator', fields.IntField()),
            ],
            options={'table': 'right_holder', 'app': 'inner', 'unique_together': (('right_id', 'seq'),), 'pk_attr': 'id', 'table_description': 'Who holds a right; `seq` is the order in the register.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Unit',
            name='floor',
            field=fields.CharField(default='', db_default='', max_length=16),
        ),
        ops.AddField(
            model_name='Unit',
            name='project',
            field=fields.CharField(default='', db_default='', max_length=128),
        ),
        ops.AddField(
            model_name='Unit',
            name='room',
            field=fields.CharField(default='', db_default='', max_length=32),
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
