from tortoise.migrations import operations as ops
from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration
from tortoise.fields.base import OnDelete
from uuid import uuid4
from tortoise import fields

STATEMENTS = {
    "ck_ledger_transfer_reverses": (
        "alter table ledger_transfer add constraint ck_ledger_transfer_reverses"
        " check ((kind in ('reversal', 'hold_release')) = (reverses_id is not null)"
        " and reverses_id is distinct from id)"
    ),
    "uq_ledger_transfer_reverses": (
        "create unique index uq_ledger_transfer_reverses on ledger_transfer (reverses_id)"
        " where reverses_id is not null"
    ),
    # Where the sealer looks for what is new; see DECISIONS 17.
    "ix_ledger_transfer_posted_xid": (
        "create index ix_ledger_transfer_posted_xid on ledger_transfer (posted_xid)"
    ),
    "ck_ledger_block": (
        "alter table ledger_block add constraint ck_ledger_block"
        " check (height > 0 and transfer_count > 0 and debit_fen >= 0)"
    ),
    "tr_ledger_block_append_only": (
        "create trigger tr_ledger_block_append_only before update or delete on ledger_block"
        " for each row execute function ledger_is_append_only()"
    ),
    "tr_ledger_sealed_transfer_append_only": (
        "create trigger tr_ledger_sealed_transfer_append_only before update or delete"
        " on ledger_sealed_transfer for each row execute function ledger_is_append_only()"
    ),
    "tr_ledger_head_append_only": (
        "create trigger tr_ledger_head_append_only before update or delete on ledger_head"
        " for each row execute function ledger_is_append_only()"
    ),
}

# Columns that only the sealer reads and that no model knows.
COLUMNS = [
    "alter table ledger_transfer add column posted_xid xid8 not null default pg_current_xact_id()",
    "alter table ledger_block add column floor_xid xid8 not null",
]


class Migration(SwiftMigration):
    dependencies = [('estation', '0003_payments')]

    operations = [
        ops.CreateModel(
            name='LedgerBlock',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('book', fields.CharField(max_length=6)),
                ('height', fields.IntField()),
                ('first_transfer_id', fields.UUIDField()),
                ('last_transfer_id', fields.UUIDField()),
                ('transfer_count', fields.IntField()),
                ('debit_fen', FenField()),
                ('root', fields.CharField(max_length=64)),
                ('previous_digest', fields.CharField(max_length=64)),
                ('digest', fields.CharField(max_length=64)),
                ('sealed_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'ledger_block', 'app': 'estation', 'unique_together': (('book', 'height'),), 'pk_attr': 'id', 'table_description': 'Some transfers of one book (a region), chained to the block before. See `rules.chain`.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='LedgerHead',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('day', fields.DateField()),
                ('book', fields.CharField(max_length=6)),
                ('height', fields.IntField()),
                ('digest', fields.CharField(max_length=64)),
                ('transfers', fields.IntField()),
                ('debit_fen', FenField()),
                ('published_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('key_id', fields.CharField(max_length=16)),
                ('signature', fields.BinaryField()),
            ],
            options={'table': 'ledger_head', 'app': 'estation', 'unique_together': (('day', 'book'),), 'pk_attr': 'id', 'table_description': 'The newest block of a book as it was published on a Beijing day, signed.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='OpenHold',
            fields=[
                ('transfer_id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('order_id', fields.UUIDField()),
                ('order_no', fields.CharField(max_length=64)),
                ('occurred_at', fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'ledger_open_hold', 'app': 'estation', 'pk_attr': 'transfer_id', 'table_description': 'A hold that nothing has released yet: a list to work through, kept by the sealer.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='SealedTransfer',
            fields=[
                ('transfer_id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('block', fields.ForeignKeyField('estation.LedgerBlock', source_field='block_id', db_constraint=True, to_field='id', related_name=False, on_delete=OnDelete.RESTRICT)),
                ('position', fields.IntField()),
                ('digest', fields.BinaryField()),
            ],
            options={'table': 'ledger_sealed_transfer', 'app': 'estation', 'unique_together': (('block_id', 'position'),), 'pk_attr': 'transfer_id', 'table_description': 'Which block a transfer is in, and what it said when it was sealed.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Transfer',
            name='reverses_id',
            field=fields.UUIDField(null=True),
        ),
        *(ops.RunSQL(sql) for sql in [*COLUMNS, *STATEMENTS.values()]),
    ]
