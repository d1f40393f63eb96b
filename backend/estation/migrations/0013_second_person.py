"""Two persons are told apart by their accounts; money settled outside; bills noted when paid."""

from tortoise.migrations import operations as ops
from estation.fees.rules import BillState
from estation.payments.rules import OutsideState
from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration
from tortoise.fields.base import OnDelete
from uuid import uuid4
from tortoise import fields

STATEMENTS = {
    # Names are shown, accounts are compared. Rows from before, and what comes without an account
    # (the command line, the centre), are compared by what is written.
    "ck_pay_refund_two_persons": (
        "alter table pay_refund add constraint ck_pay_refund_two_persons"
        " check (cause <> 'staff' or decided_by = ''"
        " or case when asked_by_id is null or decided_by_id is null then decided_by <> asked_by"
        " else decided_by_id <> asked_by_id end)"
    ),
    "ck_outside_settlement_two_persons": (
        "alter table outside_settlement add constraint ck_outside_settlement_two_persons"
        " check (decided_by = ''"
        " or case when asked_by_id is null or decided_by_id is null then decided_by <> asked_by"
        " else decided_by_id <> asked_by_id end)"
    ),
    "ck_outside_settlement_amount": (
        "alter table outside_settlement add constraint ck_outside_settlement_amount"
        " check (amount_fen > 0 and reason <> '' and document_no <> '')"
    ),
    "ck_outside_settlement_state": (
        "alter table outside_settlement add constraint ck_outside_settlement_state check (case"
        " when state = 'asked' then decided_at is null and transfer_id is null"
        " when state = 'rejected' then decided_at is not null and transfer_id is null"
        " when state = 'approved' then decided_at is not null and transfer_id is not null"
        " else false end)"
    ),
    "uq_outside_settlement_asked": (
        "create unique index uq_outside_settlement_asked on outside_settlement (arrival_id)"
        " where state = 'asked'"
    ),
    "ck_bill_noted": (
        "alter table bill_noted add constraint ck_bill_noted"
        " check (total_fen >= 0 and state in ('payable', 'withdrawn'))"
    ),
}

_NOTE_EARLIER_NEWS = """
insert into bill_noted (id, bill_id, version, region, bill_no, case_source_id, payer_id, title,
                        state, total_fen, issued_at, due_on, data_as_of, row_digest)
select m.id, b.id, b.version, b.region, b.bill_no, b.case_source_id, b.payer_id, b.title,
       m.body->>'state', (m.body->>'new_total_fen')::bigint, m.created_at, b.due_on, m.created_at,
       b.row_digest
from bill b join lateral (
    select * from outbox_message m where m.topic = 'bill_changed_after_payment'
    and m.body->>'bill_id' = b.id::text and (m.body->>'version')::int = b.version
    order by m.id limit 1) m on true
where b.state in ('paid', 'refunded') and b.version > b.paid_version
  and m.body->>'state' in ('payable', 'withdrawn')
"""
# What was told of bills that are paid, or were given back and have been waiting for a third
# version: state and amount, with the words the bill has now.

_DUE_AGAIN = "b.state = 'refunded' and n.bill_id = b.id and n.version = b.version"
_BRING_BACK = [
    f"update bill b set row_digest = null from bill_noted n where {_DUE_AGAIN}",
    f"""update bill b set state = n.state, total_fen = n.total_fen, issued_at = n.issued_at,
            data_as_of = n.data_as_of, row_digest = n.row_digest, paid_at = null,
            paid_version = null
        from bill_noted n where {_DUE_AGAIN}""",
]


class Migration(SwiftMigration):
    dependencies = [('estation', '0012_gate_buckets')]

    initial = False

    operations = [
        ops.CreateModel(
            name='BillNoted',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('bill', fields.ForeignKeyField('estation.Bill', source_field='bill_id', db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('bill_no', fields.CharField(max_length=32)),
                ('case_source_id', fields.CharField(max_length=64)),
                ('payer_id', fields.UUIDField()),
                ('title', fields.CharField(max_length=128)),
                ('state', fields.CharEnumField(description='PAYABLE: payable\nPAID: paid\nWITHDRAWN: withdrawn\nREFUNDED: refunded', enum_type=BillState, max_length=16)),
                ('total_fen', FenField()),
                ('issued_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('due_on', fields.DateField(null=True)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField(null=True)),
            ],
            options={'table': 'bill_noted', 'app': 'estation', 'unique_together': (('bill_id', 'version'),), 'pk_attr': 'id', 'table_description': 'The head of a version that came after the bill was paid.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='OutsideSettlement',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('incident', fields.ForeignKeyField('estation.Incident', source_field='incident_id', db_index=True, db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('arrival_id', fields.UUIDField(db_index=True)),
                ('account_id', fields.CharField(max_length=64)),
                ('amount_fen', FenField()),
                ('state', fields.CharEnumField(description='ASKED: asked\nREJECTED: rejected\nAPPROVED: approved', enum_type=OutsideState, max_length=16)),
                ('reason', fields.CharField(max_length=200)),
                ('document_no', fields.CharField(max_length=64)),
                ('asked_by', fields.CharField(max_length=64)),
                ('asked_by_id', fields.UUIDField(null=True)),
                ('asked_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('decided_by', fields.CharField(default='', max_length=64)),
                ('decided_by_id', fields.UUIDField(null=True)),
                ('decided_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('decision_note', fields.CharField(default='', max_length=200)),
                ('transfer_id', fields.UUIDField(null=True)),
            ],
            options={'table': 'outside_settlement', 'app': 'estation', 'pk_attr': 'id', 'table_description': 'What is left of an arrival in suspense, settled outside the channels (线下处理).'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Incident',
            name='assigned_to_id',
            field=fields.UUIDField(null=True),
        ),
        ops.AddField(
            model_name='IncidentAction',
            name='by_id',
            field=fields.UUIDField(null=True),
        ),
        ops.AddField(
            model_name='Refund',
            name='asked_by_id',
            field=fields.UUIDField(null=True),
        ),
        ops.AddField(
            model_name='Refund',
            name='decided_by_id',
            field=fields.UUIDField(null=True),
        ),
        ops.RunSQL("alter table pay_refund drop constraint ck_pay_refund_two_persons"),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
        *(ops.RunSQL(sql) for sql in (_NOTE_EARLIER_NEWS, *_BRING_BACK)),
    ]
