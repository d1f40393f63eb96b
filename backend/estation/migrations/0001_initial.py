from tortoise import migrations
from tortoise.migrations import operations as ops
from estation.fees.rules import BillState
from estation.identity.models import StaffRole
from estation.outside.pay_channels import Channel, Scene
from estation.payments.rules import AttemptState, IncidentState, OrderState
from estation.shared.fields import FenField
from orjson import loads
from tortoise.fields.base import OnDelete
from tortoise.fields.data import JSON_DUMPS
from uuid import uuid4
from tortoise import fields


class Migration(migrations.Migration):
    initial = True

    operations = [
        ops.CreateModel(
            name="Bill",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("source", fields.CharField(max_length=32)),
                ("source_id", fields.CharField(max_length=64)),
                ("version", fields.IntField()),
                ("region", fields.CharField(max_length=6)),
                ("bill_no", fields.CharField(db_index=True, max_length=32)),
                ("case_source_id", fields.CharField(max_length=64)),
                ("payer_id", fields.UUIDField(db_index=True)),
                ("title", fields.CharField(max_length=128)),
                (
                    "state",
                    fields.CharEnumField(
                        description="PAYABLE: payable\nPAID: paid\nWITHDRAWN: withdrawn",
                        enum_type=BillState,
                        max_length=16,
                    ),
                ),
                ("total_fen", FenField()),
                ("issued_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("due_on", fields.DateField(null=True)),
                ("paid_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("paid_version", fields.IntField(null=True)),
                ("data_as_of", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "bill",
                "app": "estation",
                "unique_together": (("source", "source_id"),),
                "pk_attr": "id",
                "table_description": "What one payer owes for one case. `version` is the newest received.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="BillFile",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("channel", fields.CharField(max_length=16)),
                ("account_id", fields.CharField(max_length=64)),
                ("day", fields.DateField()),
                ("sha256", fields.CharField(max_length=64)),
                ("content", fields.BinaryField()),
                ("fetched_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "channel_bill_file",
                "app": "estation",
                "unique_together": (("account_id", "day", "sha256"),),
                "pk_attr": "id",
                "table_description": "A channel bill exactly as received. A later, different file of a day is a new row.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="BillItem",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "bill",
                    fields.ForeignKeyField(
                        "estation.Bill",
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
                "table": "bill_item",
                "app": "estation",
                "unique_together": (("bill_id", "version", "seq"),),
                "pk_attr": "id",
                "table_description": "One tax or fee of one version of a bill.",
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
                ("source", fields.CharField(max_length=32)),
                ("source_id", fields.CharField(max_length=64)),
                ("version", fields.IntField()),
                ("region", fields.CharField(max_length=6)),
                ("case_no", fields.CharField(db_index=True, max_length=32)),
                ("matter", fields.CharField(max_length=32)),
                ("hall", fields.CharField(max_length=64)),
                ("unit_code", fields.CharField(max_length=28)),
                ("address", fields.CharField(max_length=256)),
                ("state", fields.CharField(max_length=16)),
                ("stages", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("opened_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("data_as_of", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "case_record",
                "app": "estation",
                "unique_together": (("source", "source_id"),),
                "pk_attr": "id",
                "table_description": "The present state of one matter (办件); `(source, source_id)` names it for ever.",
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
                        "estation.Case",
                        source_field="case_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("person_id", fields.UUIDField(db_index=True)),
                ("role", fields.CharField(max_length=16)),
            ],
            options={
                "table": "case_party",
                "app": "estation",
                "unique_together": (("case_id", "person_id", "role"),),
                "pk_attr": "id",
                "table_description": "Who takes part in a case, and as what.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Incident",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("dedupe_key", fields.CharField(unique=True, max_length=160)),
                ("kind", fields.CharField(max_length=48)),
                (
                    "state",
                    fields.CharEnumField(
                        description="OPEN: open\nRESOLVED: resolved",
                        enum_type=IncidentState,
                        max_length=16,
                    ),
                ),
                ("owner", fields.CharField(max_length=64)),
                ("channel", fields.CharField(max_length=16)),
                ("account_id", fields.CharField(max_length=64)),
                ("out_trade_no", fields.CharField(db_index=True, max_length=64)),
                ("channel_trade_no", fields.CharField(null=True, max_length=64)),
                ("amount_fen", FenField()),
                ("order_id", fields.UUIDField(null=True)),
                ("evidence", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("opened_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("due_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                (
                    "resolved_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                ("resolved_by", fields.CharField(default="", max_length=64)),
                ("resolution", fields.TextField(default="", unique=False)),
            ],
            options={
                "table": "incident",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "News about money that fits nothing: kept, owned, closed only by a person or a proof.",
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
                ("rows", fields.IntField(default=0)),
                ("received_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "gate_incoming_file",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "What became of one file: applied, duplicate, parked or quarantined with a reason.",
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
            ],
            options={
                "table": "gate_incoming_stream",
                "app": "estation",
                "pk_attr": "stream",
                "table_description": "The position of a stream we read; `stopped_reason` is empty while it runs.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="LoginCode",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("phone_index", fields.CharField(db_index=True, max_length=64)),
                ("code_digest", fields.CharField(max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("expires_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("tries", fields.IntField(default=0)),
                ("used_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "login_code",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "A short-message code for one phone: one use, five minutes, five tries.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Notice",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "channel",
                    fields.CharEnumField(
                        description="WECHAT_PAY: wechat_pay\nALIPAY: alipay",
                        enum_type=Channel,
                        max_length=16,
                    ),
                ),
                ("account_id", fields.CharField(max_length=64)),
                ("event_key", fields.CharField(max_length=160)),
                ("kind", fields.CharField(max_length=32)),
                ("out_trade_no", fields.CharField(db_index=True, max_length=64)),
                ("plaintext", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("received_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("handled_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("outcome", fields.CharField(default="", max_length=32)),
            ],
            options={
                "table": "pay_notice",
                "app": "estation",
                "unique_together": (("channel", "account_id", "event_key"),),
                "pk_attr": "id",
                "table_description": "The inbox: verified news from channels, stored before anything is done with it.",
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
                "app": "estation",
                "pk_attr": "id",
                "table_description": "One message a worker still has to deliver; `sent_at` is null until then.",
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
                "app": "estation",
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
            ],
            options={
                "table": "gate_outgoing_stream",
                "app": "estation",
                "pk_attr": "stream",
                "table_description": "The head of a stream we write.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="PayOrder",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("order_no", fields.CharField(unique=True, max_length=32)),
                ("region", fields.CharField(max_length=6)),
                ("payer_id", fields.UUIDField(db_index=True)),
                ("amount_fen", FenField()),
                (
                    "state",
                    fields.CharEnumField(
                        description="OPEN: open\nPAID: paid\nCLOSED: closed",
                        enum_type=OrderState,
                        max_length=16,
                    ),
                ),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("expires_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("paid_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("closed_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("close_reason", fields.CharField(default="", max_length=32)),
            ],
            options={
                "table": "pay_order",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "What one citizen pays at once: one or more bills, for several payees.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="PayAttempt",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "order",
                    fields.ForeignKeyField(
                        "estation.PayOrder",
                        source_field="order_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "channel",
                    fields.CharEnumField(
                        description="WECHAT_PAY: wechat_pay\nALIPAY: alipay",
                        enum_type=Channel,
                        max_length=16,
                    ),
                ),
                ("account_id", fields.CharField(max_length=64)),
                (
                    "scene",
                    fields.CharEnumField(
                        description="NATIVE: native\nJSAPI: jsapi\nPRECREATE: precreate\nWAP: wap",
                        enum_type=Scene,
                        max_length=16,
                    ),
                ),
                ("out_trade_no", fields.CharField(unique=True, max_length=32)),
                ("amount_fen", FenField()),
                (
                    "state",
                    fields.CharEnumField(
                        description="OPENING: opening\nOPEN: open\nPAID: paid\nCLOSED: closed\nREFUSED: refused",
                        enum_type=AttemptState,
                        max_length=16,
                    ),
                ),
                ("ticket", fields.JSONField(null=True, encoder=JSON_DUMPS, decoder=loads)),
                ("channel_trade_no", fields.CharField(null=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("expires_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("paid_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("closed_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                (
                    "next_query_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                ("queries", fields.IntField(default=0)),
                ("refusal", fields.CharField(default="", max_length=64)),
            ],
            options={
                "table": "pay_attempt",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "One try at one channel. At most one live (opening/open) per order (partial index).",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="PayOrderBill",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "order",
                    fields.ForeignKeyField(
                        "estation.PayOrder",
                        source_field="order_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "bill",
                    fields.ForeignKeyField(
                        "estation.Bill",
                        source_field="bill_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("bill_version", fields.IntField()),
                ("amount_fen", FenField()),
                ("is_open", fields.BooleanField()),
            ],
            options={
                "table": "pay_order_bill",
                "app": "estation",
                "unique_together": (("order_id", "bill_id"),),
                "pk_attr": "id",
                "table_description": "A bill in an order, in the version the citizen saw. One open order per bill (partial index).",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="PayOrderSplit",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "order",
                    fields.ForeignKeyField(
                        "estation.PayOrder",
                        source_field="order_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("bill_id", fields.UUIDField()),
                ("payee_code", fields.CharField(max_length=32)),
                ("amount_fen", FenField()),
                ("receipt_no", fields.CharField(unique=True, max_length=40)),
            ],
            options={
                "table": "pay_order_split",
                "app": "estation",
                "unique_together": (("order_id", "bill_id", "payee_code"),),
                "pk_attr": "id",
                "table_description": "What one payee gets of one bill of an order; the sum over an order is its amount.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Person",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("id_type", fields.CharField(max_length=8)),
                ("id_no_index", fields.CharField(max_length=64)),
                ("id_no_sealed", fields.BinaryField()),
                ("id_tail_index", fields.CharField(max_length=64)),
                ("name_sealed", fields.BinaryField()),
                ("phone_index", fields.CharField(db_index=True, max_length=64)),
                ("phone_sealed", fields.BinaryField()),
                ("updated_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "person",
                "app": "estation",
                "unique_together": (("id_type", "id_no_index"),),
                "pk_attr": "id",
                "table_description": "A citizen identified at a counter; personal data is sealed, found by blind index.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Run",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("day", fields.DateField(db_index=True)),
                ("state", fields.CharField(max_length=16)),
                ("started_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("finished_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("rules_version", fields.CharField(max_length=16)),
                ("legs", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ("matched", fields.IntField()),
                ("matched_fen", FenField()),
                ("result_digest", fields.CharField(max_length=64)),
            ],
            options={
                "table": "reconciliation_run",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "One reconciliation of one Beijing day; re-running makes a new row.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Difference",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "run",
                    fields.ForeignKeyField(
                        "estation.Run",
                        source_field="run_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("kind", fields.CharField(max_length=48)),
                ("channel", fields.CharField(max_length=16)),
                ("account_id", fields.CharField(max_length=64)),
                ("out_trade_no", fields.CharField(max_length=64)),
                ("our_fen", fields.BigIntField(null=True)),
                ("their_fen", fields.BigIntField(null=True)),
                ("evidence", fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
            ],
            options={
                "table": "reconciliation_difference",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "One finding of a run, typed.",
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
                    "person",
                    fields.ForeignKeyField(
                        "estation.Person",
                        source_field="person_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("staff_id", fields.UUIDField(null=True)),
                ("phone_index", fields.CharField(null=True, max_length=64)),
                ("openid", fields.CharField(null=True, max_length=128)),
                ("bind_tries", fields.IntField(default=0)),
                ("oauth_state", fields.CharField(null=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("expires_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "session",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "One logged-in (or logging-in) browser. Only the token's digest is stored.",
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
                        description="FINANCE_CLERK: finance_clerk\nFINANCE_CHECKER: finance_checker\nOPERATOR: operator",
                        enum_type=StaffRole,
                        max_length=32,
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
                "table": "staff_user",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "An officer of the online side.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Transfer",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("idempotency_key", fields.CharField(unique=True, max_length=96)),
                ("input_hash", fields.CharField(max_length=64)),
                ("kind", fields.CharField(max_length=32)),
                ("region", fields.CharField(max_length=6)),
                ("order_id", fields.UUIDField(null=True, db_index=True)),
                (
                    "occurred_at",
                    fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False),
                ),
                ("posted_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "ledger_transfer",
                "app": "estation",
                "pk_attr": "id",
                "table_description": "One balanced movement of money. The same key with another input is refused.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Entry",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                (
                    "transfer",
                    fields.ForeignKeyField(
                        "estation.Transfer",
                        source_field="transfer_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("account", fields.CharField(max_length=96)),
                ("debit_fen", FenField()),
                ("credit_fen", FenField()),
            ],
            options={
                "table": "ledger_entry",
                "app": "estation",
                "unique_together": (("transfer_id", "account"),),
                "pk_attr": "id",
                "table_description": "One leg of a transfer: exactly one of debit and credit is above zero.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="WechatBinding",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("appid", fields.CharField(max_length=32)),
                ("openid", fields.CharField(max_length=128)),
                (
                    "person",
                    fields.ForeignKeyField(
                        "estation.Person",
                        source_field="person_id",
                        db_constraint=True,
                        to_field="id",
                        related_name=False,
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("bound_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "wechat_binding",
                "app": "estation",
                "unique_together": (("appid", "openid"),),
                "pk_attr": "id",
                "table_description": "An openid of one appid belongs to one person.",
            },
            bases=["Model"],
        ),
    ]
