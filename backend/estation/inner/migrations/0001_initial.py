from tortoise.migrations import operations as ops
from estation.inner.rules import BillState, CaseState, Role, StageState
from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration
from orjson import loads
from tortoise.fields.base import OnDelete
from tortoise.fields.data import JSON_DUMPS
from uuid import uuid4
from tortoise import fields
from tortoise.indexes import Index


class Migration(SwiftMigration):
    initial = True

    operations = [
        ops.CreateModel(
            name="District",
            fields=[
                (
                    "code",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=6),
                ),
                ("name", fields.CharField(max_length=32)),
            ],
            options={
                "table": "district",
                "app": "inner",
                "pk_attr": "code",
                "table_description": "A county-level region (GB/T 2260) of the city.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Hall",
            fields=[
                (
                    "code",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=16),
                ),
                ("name", fields.CharField(max_length=64)),
                (
                    "district",
                    fields.ForeignKeyField(
                        "inner.District",
                        source_field="district_id",
                        db_constraint=True,
                        to_field="code",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
            ],
            options={
                "table": "hall",
                "app": "inner",
                "pk_attr": "code",
                "table_description": "A registration hall (登记大厅).",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="IncomingFile",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("stream", fields.CharField(max_length=64)),
                ("seq", fields.BigIntField(null=True)),
                ("file_name", fields.CharField(max_length=128)),
                ("digest", fields.CharField(max_length=64)),
                ("state", fields.CharField(max_length=16)),
                ("reason", fields.CharField(default="", max_length=64)),
                ("detail", fields.TextField(default="", unique=False)),
                ("kept_as", fields.CharField(default="", max_length=160)),
                ("rows", fields.IntField(default=0)),
                ("times", fields.IntField(default=1)),
                ("received_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "gate_incoming_file",
                "app": "inner",
                "indexes": [Index(fields=["stream", "seq"]), Index(fields=["digest"])],
                "pk_attr": "id",
                "table_description": "What became of one file: `applied` or `quarantined` with a reason.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="IncomingStream",
            fields=[
                (
                    "stream",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64),
                ),
                ("last_seq", fields.BigIntField()),
                ("last_digest", fields.CharField(max_length=64)),
                ("watermark", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("applied_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("stopped_reason", fields.CharField(default="", max_length=64)),
                ("stopped_detail", fields.TextField(default="", unique=False)),
                ("stopped_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("failures", fields.IntField(default=0)),
                ("retry_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("parked_files", fields.IntField(default=0)),
                ("duplicates", fields.BigIntField(default=0)),
                ("content_seq", fields.BigIntField(default=0)),
                ("reported_seq", fields.BigIntField(default=0)),
                (
                    "reported_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
            ],
            options={
                "table": "gate_incoming_stream",
                "app": "inner",
                "pk_attr": "stream",
                "table_description": "The position of a stream we read; `stopped_reason` is empty while it runs.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="NumberSeries",
            fields=[
                (
                    "series",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32),
                ),
                ("last_number", fields.IntField()),
            ],
            options={
                "table": "number_series",
                "app": "inner",
                "pk_attr": "series",
                "table_description": "The last serial given out per kind and Beijing day; its row lock orders the desks.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="OutboxMessage",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("topic", fields.CharField(max_length=64)),
                ("body", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("not_before", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("tries", fields.IntField(default=0)),
                ("last_error", fields.TextField(default="", unique=False)),
                ("sent_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("dead_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "outbox_message",
                "app": "inner",
                "pk_attr": "id",
                "table_description": "One message a worker still has to deliver; `sent_at` is null until then.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="OutgoingPacket",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("stream", fields.CharField(max_length=64)),
                ("seq", fields.BigIntField()),
                ("digest", fields.CharField(max_length=64)),
                ("rows", fields.IntField()),
                ("manifest", fields.BinaryField()),
                ("body", fields.BinaryField()),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "gate_outgoing_packet",
                "app": "inner",
                "unique_together": (("stream", "seq"),),
                "pk_attr": "id",
                "table_description": "A sealed packet, byte for byte: its file can be written again at any time.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="OutgoingRow",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                ("stream", fields.CharField(max_length=64)),
                ("topic", fields.CharField(max_length=64)),
                ("body", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("packed_seq", fields.BigIntField(null=True)),
            ],
            options={
                "table": "gate_outgoing_row",
                "app": "inner",
                "pk_attr": "id",
                "table_description": "A row that must cross, written in the transaction of what it reports.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="OutgoingStream",
            fields=[
                (
                    "stream",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64),
                ),
                ("last_seq", fields.BigIntField()),
                ("last_digest", fields.CharField(max_length=64)),
                ("watermark", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("packed_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("written_seq", fields.BigIntField(default=0)),
                ("peer_received_seq", fields.BigIntField(default=0)),
                (
                    "peer_received_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                ("peer_trouble", fields.CharField(default="", max_length=64)),
            ],
            options={
                "table": "gate_outgoing_stream",
                "app": "inner",
                "pk_attr": "stream",
                "table_description": "The head of a stream we write, and what the peer says it has received of it.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="ParkedRow",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("stream", fields.CharField(max_length=64)),
                ("seq", fields.BigIntField()),
                ("line", fields.IntField()),
                ("topic", fields.CharField(max_length=64)),
                ("body", fields.TextField(unique=False)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "gate_parked_row",
                "app": "inner",
                "unique_together": (("stream", "seq", "line"),),
                "pk_attr": "id",
                "table_description": "A row of a topic this side does not handle yet: kept as it came, never dropped.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="StaffUser",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("login", fields.CharField(unique=True, max_length=32)),
                ("name", fields.CharField(max_length=64)),
                (
                    "role",
                    fields.CharEnumField(
                        description="REGISTRAR: registrar\nFEE_CLERK: fee_clerk",
                        enum_type=Role,
                        max_length=16,
                    ),
                ),
                ("password_hash", fields.CharField(max_length=256)),
                ("failed_logins", fields.IntField(default=0)),
                (
                    "locked_until",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                (
                    "disabled_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
            ],
            options={
                "table": "desk_user",
                "app": "inner",
                "pk_attr": "id",
                "table_description": "An officer of the internal platform.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Session",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("token_digest", fields.CharField(unique=True, max_length=64)),
                ("csrf_token", fields.CharField(max_length=64)),
                (
                    "staff",
                    fields.ForeignKeyField(
                        "inner.StaffUser",
                        source_field="staff_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("seen_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "desk_session",
                "app": "inner",
                "pk_attr": "id",
                "table_description": "One logged-in browser. Only the token's digest is stored.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Unit",
            fields=[
                (
                    "unit_code",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=28),
                ),
                (
                    "district",
                    fields.ForeignKeyField(
                        "inner.District",
                        source_field="district_id",
                        db_constraint=True,
                        to_field="code",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("address", fields.CharField(max_length=256)),
                ("usage", fields.CharField(max_length=16)),
                ("area_m2", fields.DecimalField(max_digits=10, decimal_places=2)),
            ],
            options={
                "table": "unit",
                "app": "inner",
                "pk_attr": "unit_code",
                "table_description": "A real-estate unit (不动产单元) by its 28-character code, GB/T 37346-2019.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Case",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("case_no", fields.CharField(unique=True, max_length=32)),
                ("version", fields.IntField()),
                ("matter", fields.CharField(max_length=32)),
                (
                    "hall",
                    fields.ForeignKeyField(
                        "inner.Hall",
                        source_field="hall_id",
                        db_constraint=True,
                        to_field="code",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "unit",
                    fields.ForeignKeyField(
                        "inner.Unit",
                        source_field="unit_id",
                        db_constraint=True,
                        to_field="unit_code",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "state",
                    fields.CharEnumField(
                        description="OPEN: open\nCLOSED: closed\nWITHDRAWN: withdrawn",
                        enum_type=CaseState,
                        max_length=16,
                    ),
                ),
                ("opened_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("changed_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "case_file",
                "app": "inner",
                "indexes": [Index(fields=["opened_at", "id"])],
                "pk_attr": "id",
                "table_description": "One matter (办件). `version` grows with each change that crosses the gate.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="CaseParty",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "case",
                    fields.ForeignKeyField(
                        "inner.Case",
                        source_field="case_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("seq", fields.IntField()),
                ("role", fields.CharField(max_length=16)),
                ("name", fields.CharField(db_index=True, max_length=64)),
                ("id_type", fields.CharField(max_length=8)),
                ("id_no", fields.CharField(max_length=64)),
                ("phone", fields.CharField(max_length=32)),
            ],
            options={
                "table": "case_party",
                "app": "inner",
                "unique_together": (("case_id", "seq"),),
                "pk_attr": "id",
                "table_description": "Who takes part, as identified at the counter; `seq` numbers them within the case.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="CaseStage",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "case",
                    fields.ForeignKeyField(
                        "inner.Case",
                        source_field="case_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("seq", fields.IntField()),
                ("stage", fields.CharField(max_length=32)),
                (
                    "state",
                    fields.CharEnumField(
                        description="WAITING: waiting\nDOING: doing\nDONE: done\nNOT_REQUIRED: not_required\nRETURNED: returned",
                        enum_type=StageState,
                        max_length=16,
                    ),
                ),
                ("at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("note", fields.CharField(max_length=512)),
            ],
            options={
                "table": "case_stage",
                "app": "inner",
                "unique_together": (("case_id", "stage"),),
                "pk_attr": "id",
                "table_description": "One box of the case's flow chart; `seq` is its place.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="FeeBill",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("bill_no", fields.CharField(unique=True, max_length=32)),
                (
                    "case",
                    fields.ForeignKeyField(
                        "inner.Case",
                        source_field="case_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "payer",
                    fields.ForeignKeyField(
                        "inner.CaseParty",
                        source_field="payer_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("title", fields.CharField(max_length=128)),
                (
                    "state",
                    fields.CharEnumField(
                        description="ISSUED: issued\nPAID: paid\nWITHDRAWN: withdrawn",
                        enum_type=BillState,
                        max_length=16,
                    ),
                ),
                ("version", fields.IntField()),
                ("total_fen", FenField()),
                ("issued_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("due_on", fields.DateField(null=True)),
                ("paid_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("paid_version", fields.IntField(null=True)),
                ("changed_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "fee_bill",
                "app": "inner",
                "indexes": [Index(fields=["case_id"]), Index(fields=["issued_at", "id"])],
                "pk_attr": "id",
                "table_description": "What one party of a case owes. `version` is the newest of its versions.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="FeeBillItem",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "bill",
                    fields.ForeignKeyField(
                        "inner.FeeBill",
                        source_field="bill_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("version", fields.IntField()),
                ("seq", fields.IntField()),
                ("code", fields.CharField(max_length=32)),
                ("name", fields.CharField(max_length=64)),
                ("payee_code", fields.CharField(max_length=32)),
                ("base_fen", fields.BigIntField(null=True)),
                ("rate", fields.CharField(max_length=32)),
                ("relief_fen", FenField()),
                ("amount_fen", FenField()),
                ("formula", fields.CharField(max_length=512)),
                ("legal_basis", fields.CharField(max_length=512)),
                ("note", fields.CharField(max_length=512)),
            ],
            options={
                "table": "fee_bill_item",
                "app": "inner",
                "unique_together": (("bill_id", "version", "seq"),),
                "pk_attr": "id",
                "table_description": "One tax or fee of one version of a bill.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="FeeBillVersion",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "bill",
                    fields.ForeignKeyField(
                        "inner.FeeBill",
                        source_field="bill_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("version", fields.IntField()),
                (
                    "state",
                    fields.CharEnumField(
                        description="ISSUED: issued\nPAID: paid\nWITHDRAWN: withdrawn",
                        enum_type=BillState,
                        max_length=16,
                    ),
                ),
                ("total_fen", FenField()),
                ("due_on", fields.DateField(null=True)),
                ("reason", fields.CharField(max_length=256)),
                ("made_by", fields.CharField(max_length=32)),
                ("made_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "fee_bill_version",
                "app": "inner",
                "unique_together": (("bill_id", "version"),),
                "pk_attr": "id",
                "table_description": "One version of a bill, never changed: what it said, who made it and why.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="FeeReceipt",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("source", fields.CharField(max_length=32)),
                ("source_id", fields.CharField(max_length=64)),
                ("order_no", fields.CharField(max_length=32)),
                (
                    "bill",
                    fields.ForeignKeyField(
                        "inner.FeeBill",
                        source_field="bill_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("bill_no", fields.CharField(max_length=32)),
                ("bill_version", fields.IntField()),
                ("channel", fields.CharField(max_length=32)),
                ("out_trade_no", fields.CharField(max_length=64)),
                ("channel_trade_no", fields.CharField(max_length=64)),
                ("transfer_id", fields.CharField(max_length=64)),
                ("amount_fen", FenField()),
                ("splits", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("paid_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("packet_seq", fields.BigIntField()),
                ("received_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("attention", fields.CharField(max_length=32)),
                ("handled_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("handled_by", fields.CharField(default="", max_length=32)),
                ("handled_note", fields.CharField(default="", max_length=256)),
            ],
            options={
                "table": "fee_receipt",
                "app": "inner",
                "unique_together": (("source", "source_id", "order_no"),),
                "indexes": [Index(fields=["bill_id"]), Index(fields=["received_at", "id"])],
                "pk_attr": "id",
                "table_description": "A payment that came back through the gate, as it came.",
            },
            bases=["Model"],
        ),
    ]
