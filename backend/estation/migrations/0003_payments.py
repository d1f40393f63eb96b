from tortoise.migrations import operations as ops
from estation.fees.rules import BillState
from estation.outside.pay_channels import Channel, Scene
from estation.payments.rules import RefundCause, RefundSource, RefundState
from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration
from orjson import loads
from tortoise.fields.base import OnDelete
from tortoise.fields.data import JSON_DUMPS
from uuid import uuid4
from tortoise import fields

STATEMENTS = {
    # refunds
    "ck_pay_refund_amount": (
        "alter table pay_refund add constraint ck_pay_refund_amount"
        " check (amount_fen > 0 and amount_fen <= total_fen)"
    ),
    "ck_pay_refund_state": (
        "alter table pay_refund add constraint ck_pay_refund_state check (case"
        " when state = 'asked' then decided_at is null and next_try_at is null"
        " and ended_at is null"
        " when state in ('approved', 'processing', 'abnormal')"
        " then decided_at is not null and ended_at is null"
        " when state in ('rejected', 'succeeded', 'closed')"
        " then decided_at is not null and ended_at is not null and next_try_at is null"
        " else false end)"
    ),
    "ck_pay_refund_two_persons": (
        "alter table pay_refund add constraint ck_pay_refund_two_persons"
        " check (cause <> 'staff' or decided_by = '' or decided_by <> asked_by)"
    ),
    "uq_pay_refund_automatic": (
        "create unique index uq_pay_refund_automatic on pay_refund (arrival_id)"
        " where cause in ('double_payment', 'paid_late', 'bill_changed')"
    ),
    "uq_pay_refund_centre": (
        "create unique index uq_pay_refund_centre on pay_refund (source, source_id, arrival_id)"
        " where source_id <> ''"
    ),
    "ix_pay_refund_due": (
        "create index ix_pay_refund_due on pay_refund (next_try_at) where next_try_at is not null"
    ),
    "ix_pay_refund_asked": (
        "create index ix_pay_refund_asked on pay_refund (asked_at) where state = 'asked'"
    ),
    "ck_pay_refund_share_amount": (
        "alter table pay_refund_share add constraint ck_pay_refund_share_amount"
        " check (amount_fen > 0)"
    ),
    # fees: a bill that was given back in full keeps when and as what it was paid
    "ck_bill_paid": (
        "alter table bill add constraint ck_bill_paid check (case"
        " when state = 'paid' then paid_at is not null"
        " when state = 'refunded' then paid_at is not null and paid_version is not null"
        " else paid_at is null and paid_version is null end)"
    ),
    # what was done and instructed stays
    "payment_record_is_kept": (
        "create function payment_record_is_kept() returns trigger language plpgsql as $$"
        " begin raise exception 'a record of what was done stays as it is'; end $$"
    ),
    **{
        f"tr_{table}_kept": (
            f"create trigger tr_{table}_kept before update or delete on {table}"
            " for each row execute function payment_record_is_kept()"
        )
        for table in ("incident_action", "pay_refund_share", "split_export", "split_instruction")
    },
}


class Migration(SwiftMigration):
    dependencies = [('estation', '0002_constraints')]

    initial = False

    operations = [
        ops.CreateModel(
            name='IncidentAction',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('incident', fields.ForeignKeyField('estation.Incident', source_field='incident_id', db_index=True, db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('action', fields.CharField(max_length=32)),
                ('by', fields.CharField(max_length=64)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('note', fields.TextField(default='', unique=False)),
                ('refund_id', fields.UUIDField(null=True)),
                ('transfer_id', fields.UUIDField(null=True)),
            ],
            options={'table': 'incident_action', 'app': 'estation', 'pk_attr': 'id', 'table_description': 'What somebody did about an incident, with the refund or transfer it led to. Append-only.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Refund',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('refund_no', fields.CharField(unique=True, max_length=32)),
                ('request_id', fields.UUIDField(db_index=True)),
                ('cause', fields.CharEnumField(description='DOUBLE_PAYMENT: double_payment\nPAID_LATE: paid_late\nBILL_CHANGED: bill_changed\nSTAFF: staff\nCENTRE: centre', enum_type=RefundCause, max_length=24)),
                ('state', fields.CharEnumField(description='ASKED: asked\nREJECTED: rejected\nAPPROVED: approved\nPROCESSING: processing\nABNORMAL: abnormal\nSUCCEEDED: succeeded\nCLOSED: closed', enum_type=RefundState, max_length=16)),
                ('taken_from', fields.CharEnumField(description='SUSPENSE: suspense\nPAYMENT: payment', enum_type=RefundSource, max_length=16)),
                ('channel', fields.CharEnumField(description='WECHAT_PAY: wechat_pay\nALIPAY: alipay', enum_type=Channel, max_length=16)),
                ('account_id', fields.CharField(max_length=64)),
                ('out_trade_no', fields.CharField(db_index=True, max_length=64)),
                ('channel_trade_no', fields.CharField(max_length=64)),
                ('arrival_id', fields.UUIDField(db_index=True)),
                ('order_id', fields.UUIDField(null=True, db_index=True)),
                ('incident_key', fields.CharField(default='', max_length=160)),
                ('region', fields.CharField(max_length=6)),
                ('amount_fen', FenField()),
                ('total_fen', FenField()),
                ('reason', fields.CharField(max_length=80)),
                ('source', fields.CharField(default='', max_length=32)),
                ('source_id', fields.CharField(default='', max_length=64)),
                ('asked_by', fields.CharField(max_length=64)),
                ('asked_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('decided_by', fields.CharField(default='', max_length=64)),
                ('decided_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('decision_note', fields.CharField(default='', max_length=200)),
                ('channel_refund_no', fields.CharField(null=True, max_length=64)),
                ('received_account', fields.CharField(default='', max_length=128)),
                ('tries', fields.IntField(default=0)),
                ('next_try_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('last_error', fields.CharField(default='', max_length=200)),
                ('ended_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('version', fields.IntField(default=1)),
            ],
            options={'table': 'pay_refund', 'app': 'estation', 'pk_attr': 'id', 'table_description': 'Money of one arrival at one merchant account on its way back to the payer.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RefundShare',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('refund', fields.ForeignKeyField('estation.Refund', source_field='refund_id', db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('bill_id', fields.UUIDField()),
                ('payee_code', fields.CharField(max_length=32)),
                ('amount_fen', FenField()),
            ],
            options={'table': 'pay_refund_share', 'app': 'estation', 'unique_together': (('refund_id', 'bill_id', 'payee_code'),), 'pk_attr': 'id', 'table_description': 'What one payee gives back of one bill; the sum over a refund of a payment is its amount.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='SplitExport',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('export_no', fields.CharField(unique=True, max_length=32)),
                ('day', fields.DateField()),
                ('account_id', fields.CharField(max_length=64)),
                ('lines', fields.IntField()),
                ('total_fen', FenField()),
                ('sha256', fields.CharField(max_length=64)),
                ('content', fields.BinaryField()),
                ('made_by', fields.CharField(max_length=64)),
                ('made_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'split_export', 'app': 'estation', 'pk_attr': 'id', 'table_description': "One file of split instructions (分账指令) for the city's settlement system."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='SplitInstruction',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('export', fields.ForeignKeyField('estation.SplitExport', source_field='export_id', db_index=True, db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('transfer_id', fields.UUIDField()),
                ('payee_code', fields.CharField(max_length=32)),
                ('is_refund', fields.BooleanField()),
                ('amount_fen', FenField()),
                ('fee_fen', FenField()),
            ],
            options={'table': 'split_instruction', 'app': 'estation', 'unique_together': (('transfer_id', 'payee_code'),), 'pk_attr': 'id', 'table_description': 'What one payee is to get (or to give back) of one ledger transfer at a collecting account.'},
            bases=['Model'],
        ),
        ops.AlterField(
            model_name='Bill',
            name='state',
            field=fields.CharEnumField(description='PAYABLE: payable\nPAID: paid\nWITHDRAWN: withdrawn\nREFUNDED: refunded', enum_type=BillState, max_length=16),
        ),
        ops.AddField(
            model_name='Incident',
            name='assigned_to',
            field=fields.CharField(default='', max_length=64),
        ),
        ops.AlterField(
            model_name='PayAttempt',
            name='scene',
            field=fields.CharEnumField(description='NATIVE: native\nJSAPI: jsapi\nMINI_PROGRAM: mini_program\nH5: h5\nPRECREATE: precreate\nWAP: wap\nPAGE: page\nTRADE_CREATE: trade_create', enum_type=Scene, max_length=16),
        ),
        ops.AddField(
            model_name='PayAttempt',
            name='parts',
            field=fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads),
        ),
        ops.AddField(
            model_name='Session',
            name='appid',
            field=fields.CharField(null=True, max_length=32),
        ),
        ops.RunSQL("alter table bill drop constraint ck_bill_paid"),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
