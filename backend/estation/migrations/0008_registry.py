from tortoise.migrations import operations as ops
from orjson import loads
from tortoise.fields.data import JSON_DUMPS
from uuid import uuid4
from tortoise import fields
from tortoise.indexes import Index

from estation.shared.migrating import SwiftMigration
STATEMENTS = {
    # copies of the other side: `row_digest` is SHA-256, null where the row came before it
    **{
        f"ck_{table}_digest": (
            f"alter table {table} add constraint ck_{table}_digest"
            " check (octet_length(row_digest) = 32 and version >= 1)"
        )
        for table in (
            "bill", "case_record", "case_version", "case_event", "registry_unit",
            "registry_right", "registry_restriction", "registry_certificate", "registry_version",
        )
    },
    "ck_registry_unit_areas": (
        "alter table registry_unit add constraint ck_registry_unit_areas"
        " check (building_area >= 0 and inner_area >= 0 and shared_area >= 0)"
    ),
    "ck_registry_right_mortgage": (
        "alter table registry_right add constraint ck_registry_right_mortgage check (case"
        " when kind in ('mortgage', 'mortgage_prenotice') then secured_fen >= 0"
        " else secured_fen is null and not maximum and debt_from is null and debt_until is null"
        " and rank is null and transfer_limited is null end)"
    ),
    "ck_registry_restriction_lifted": (
        "alter table registry_restriction add constraint ck_registry_restriction_lifted"
        " check ((state = 'lifted') = (lifted_at is not null) and queue_position >= 0)"
    ),
    "ck_registry_holder_share": (
        "alter table registry_holder add constraint ck_registry_holder_share"
        " check (share_numerator >= 0 and share_numerator <= share_denominator)"
    ),
}


class Migration(SwiftMigration):
    dependencies = [('estation', '0007_invariants')]

    initial = False

    operations = [
        ops.CreateModel(
            name='BillAsSent',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('body_sealed', fields.BinaryField()),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'bill_as_sent', 'app': 'estation', 'unique_together': (('source', 'source_id', 'version'),), 'pk_attr': 'id', 'table_description': 'One version of a bill that said more than we know: the whole row as it came, sealed.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='CaseEvent',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField()),
                ('case_source_id', fields.CharField(max_length=64)),
                ('seq', fields.IntField()),
                ('what', fields.CharField(max_length=16)),
                ('stage', fields.CharField(max_length=32)),
                ('state', fields.CharField(max_length=16)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('note', fields.CharField(max_length=512)),
                ('body_sealed', fields.BinaryField()),
            ],
            options={'table': 'case_event', 'app': 'estation', 'unique_together': (('source', 'source_id'),), 'indexes': [Index(fields=['case_source_id', 'source'])], 'pk_attr': 'id', 'table_description': 'What happened in a case, and when. It may have come before its case.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='CaseVersion',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField()),
                ('body_sealed', fields.BinaryField()),
            ],
            options={'table': 'case_version', 'app': 'estation', 'unique_together': (('source', 'source_id', 'version'),), 'pk_attr': 'id', 'table_description': 'One version of a case exactly as it came, sealed: it names its parties.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RegistryCertificate',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField()),
                ('number', fields.CharField(max_length=128)),
                ('number_key', fields.CharField(db_index=True, max_length=128)),
                ('kind', fields.CharField(max_length=16)),
                ('print_no', fields.CharField(max_length=32)),
                ('unit_codes', fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ('issued_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('state', fields.CharField(max_length=16)),
            ],
            options={'table': 'registry_certificate', 'app': 'estation', 'unique_together': (('source', 'source_id'),), 'pk_attr': 'id', 'table_description': 'A certificate or proof; `number_key` is its one spelling.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RegistryHolder',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('owner_id', fields.UUIDField()),
                ('seq', fields.IntField()),
                ('name_index', fields.CharField(max_length=64)),
                ('name_sealed', fields.BinaryField()),
                ('id_type', fields.CharField(max_length=8)),
                ('id_no_index', fields.CharField(max_length=64)),
                ('id_no_sealed', fields.BinaryField()),
                ('kind', fields.CharField(max_length=8)),
                ('share_numerator', fields.IntField()),
                ('share_denominator', fields.IntField()),
            ],
            options={'table': 'registry_holder', 'app': 'estation', 'unique_together': (('owner_id', 'seq'),), 'indexes': [Index(fields=['id_no_index', 'id_type'])], 'pk_attr': 'id', 'table_description': 'Who holds a right, or stands in a certificate (`owner_id`), sealed.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RegistryRestriction',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField()),
                ('unit_code', fields.CharField(db_index=True, max_length=28)),
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
            options={'table': 'registry_restriction', 'app': 'estation', 'unique_together': (('source', 'source_id'),), 'pk_attr': 'id', 'table_description': 'A seizure, freeze, objection or lock on one unit.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RegistryRight',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField()),
                ('kind', fields.CharField(max_length=24)),
                ('national_code', fields.CharField(max_length=8)),
                ('unit_code', fields.CharField(db_index=True, max_length=28)),
                ('holding', fields.CharField(max_length=16)),
                ('certificate_no', fields.CharField(max_length=128)),
                ('certificate_key', fields.CharField(db_index=True, max_length=128)),
                ('registered_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('until', fields.DateField(null=True)),
                ('state', fields.CharField(max_length=16)),
                ('case_source_id', fields.CharField(max_length=64)),
                ('secured_fen', fields.BigIntField(null=True)),
                ('maximum', fields.BooleanField()),
                ('debt_from', fields.DateField(null=True)),
                ('debt_until', fields.DateField(null=True)),
                ('rank', fields.IntField(null=True)),
                ('transfer_limited', fields.BooleanField(null=True)),
            ],
            options={'table': 'registry_right', 'app': 'estation', 'unique_together': (('source', 'source_id'),), 'pk_attr': 'id', 'table_description': 'One right on one unit; its holders are in `registry_holder`.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RegistryUnit',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField()),
                ('unit_code', fields.CharField(db_index=True, max_length=28)),
                ('parcel_code', fields.CharField(max_length=19)),
                ('natural_building', fields.CharField(max_length=32)),
                ('logical_building', fields.CharField(max_length=32)),
                ('floor', fields.CharField(max_length=16)),
                ('actual_floor', fields.IntField(null=True)),
                ('room', fields.CharField(max_length=32)),
                ('address', fields.CharField(max_length=256)),
                ('usage', fields.CharField(max_length=8)),
                ('structure', fields.CharField(max_length=8)),
                ('building_area', fields.BigIntField(null=True)),
                ('inner_area', fields.BigIntField(null=True)),
                ('shared_area', fields.BigIntField(null=True)),
                ('house_code', fields.CharField(max_length=32)),
                ('project', fields.CharField(max_length=128)),
                ('state', fields.CharField(max_length=16)),
            ],
            options={'table': 'registry_unit', 'app': 'estation', 'unique_together': (('source', 'source_id'),), 'indexes': [Index(fields=['parcel_code', 'natural_building'])], 'pk_attr': 'id', 'table_description': 'One unit (不动产单元) of the building table; areas in 1/10000 m².'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='RegistryVersion',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('kind', fields.CharField(max_length=16)),
                ('source', fields.CharField(max_length=32)),
                ('source_id', fields.CharField(max_length=64)),
                ('version', fields.IntField()),
                ('region', fields.CharField(max_length=6)),
                ('data_as_of', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('row_digest', fields.BinaryField()),
                ('body_sealed', fields.BinaryField()),
            ],
            options={'table': 'registry_version', 'app': 'estation', 'unique_together': (('source', 'source_id', 'kind', 'version'),), 'pk_attr': 'id', 'table_description': 'One version of anything above exactly as it came, fields we do not know included.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='Bill',
            name='row_digest',
            field=fields.BinaryField(null=True),
        ),
        ops.AddField(
            model_name='Case',
            name='row_digest',
            field=fields.BinaryField(null=True),
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
