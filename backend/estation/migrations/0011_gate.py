from tortoise.migrations import operations as ops
from orjson import loads
from tortoise.fields.data import JSON_DUMPS
from uuid import uuid4
from tortoise import fields
from tortoise.indexes import Index

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    # gate: what was sent
    "ck_gate_sent_row": (
        "alter table gate_sent_row add constraint ck_gate_sent_row"
        " check (octet_length(digest) = 32 and version >= 1)"
    ),
    "uq_gate_snapshot_open": (
        "create unique index uq_gate_snapshot_open on gate_snapshot (stream)"
        " where state in ('planned', 'running')"
    ),
    "ck_gate_snapshot_state": (
        "alter table gate_snapshot add constraint ck_gate_snapshot_state"
        " check (state in ('planned', 'running', 'done'))"
    ),
    "uq_gate_repair_open": (
        "create unique index uq_gate_repair_open on gate_repair (stream, topic, source)"
        " where done_at is null"
    ),
    "ck_gate_proof": (
        "alter table gate_proof add constraint ck_gate_proof check (is_equal = (root = our_root))"
    ),
    "uq_gate_event_distinction": (
        "create unique index uq_gate_event_distinction on gate_event (stream, kind, distinction)"
        " where distinction <> ''"
    ),
    "uq_gate_parked_row_digest": (
        "create unique index uq_gate_parked_row_digest on gate_parked_row (stream, topic, digest)"
    ),
}

# Keys are ordered by their bytes everywhere, as the Merkle tree wants them.
BEFORE = [
    "alter table gate_sent_row alter column topic type varchar(64) collate \"C\"",
    "alter table gate_sent_row alter column source type varchar(32) collate \"C\"",
    "alter table gate_sent_row alter column key type varchar(160) collate \"C\"",
    # The same row twice is parked once; of doubles from before, the first stays.
    "update gate_parked_row set digest = sha256(convert_to(body, 'UTF8'))",
    "delete from gate_parked_row a using gate_parked_row b where a.stream = b.stream"
    " and a.topic = b.topic and a.digest = b.digest"
    " and (a.seq, a.line) > (b.seq, b.line)",
    """update gate_outgoing_packet p set bytes_upto = c.bytes, contents_upto = c.contents
       from (select id, sum(octet_length(body)) over w as bytes,
                    sum((rows > 0)::int) over w as contents
             from gate_outgoing_packet window w as (partition by stream order by seq)) c
       where c.id = p.id""",
    # The log is filled from the rows still kept, by the worker, bit by bit.
    """insert into gate_upkeep (stream, peer_seq, peer_is_behind, resent_from,
                                resend_pause_seconds, proof_is_due, paused_reason, backfill_id,
                                log_is_complete)
       select stream, peer_received_seq, false, 0, 0, false, '', 0,
              coalesce((select min(seq) = 1 from gate_outgoing_packet p
                        where p.stream = s.stream), true)
       from gate_outgoing_stream s""",
]

# Content columns of the copies. Whoever changes one past the gate makes the row's digest void:
# the next proof finds the row, whatever was written into it.
COPIES = {
    "bill": (
        "version", "region", "bill_no", "case_source_id", "payer_id", "title", "total_fen",
        "issued_at", "due_on",
    ),
    "case_record": (
        "version", "region", "case_no", "matter", "hall", "unit_code", "address", "state",
        "stages", "opened_at",
    ),
    "case_event": (
        "version", "region", "case_source_id", "seq", "what", "stage", "state", "at", "note",
    ),
    "registry_unit": (
        "version", "region", "unit_code", "parcel_code", "natural_building", "logical_building",
        "floor", "actual_floor", "room", "address", "usage", "structure", "building_area",
        "inner_area", "shared_area", "house_code", "project", "state",
    ),
    "registry_right": (
        "version", "region", "kind", "national_code", "unit_code", "holding", "certificate_no",
        "registered_at", "until", "state", "case_source_id", "secured_fen", "maximum",
        "debt_from", "debt_until", "rank", "transfer_limited",
    ),
    "registry_restriction": (
        "version", "region", "unit_code", "kind", "organ", "document_no", "since", "until",
        "scope", "queue_position", "state", "registered_at", "lifted_at", "lifted_by",
        "lifted_document_no",
    ),
    "registry_certificate": (
        "version", "region", "number", "kind", "print_no", "unit_codes", "issued_at", "state",
    ),
}


def _touched(table: str, columns: tuple[str, ...]) -> str:
    new, old = (
        ", ".join(f"{side}.{column}" for column in columns) for side in ("new", "old")
    )
    return (
        f"create trigger tr_{table}_touched before update of {', '.join(columns)} on {table}"
        f" for each row when (new.row_digest is not distinct from old.row_digest"
        f" and row({new}) is distinct from row({old}))"
        " execute function gate_copy_was_touched()"
    )


STATEMENTS |= {
    "gate_copy_was_touched": (
        "create function gate_copy_was_touched() returns trigger language plpgsql as $$"
        " begin new.row_digest := decode(repeat('00', 32), 'hex'); return new; end $$"
    ),
    **{f"tr_{table}_touched": _touched(table, columns) for table, columns in COPIES.items()},
    # A bill's items are its content, too.
    "gate_bill_items_were_touched": (
        "create function gate_bill_items_were_touched() returns trigger language plpgsql as $$"
        " begin update bill set row_digest = decode(repeat('00', 32), 'hex')"
        " where id = old.bill_id and coalesce(paid_version, version) = old.version;"
        " return null; end $$"
    ),
    "tr_bill_item_touched": (
        "create trigger tr_bill_item_touched after update or delete on bill_item"
        " for each row execute function gate_bill_items_were_touched()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [('estation', '0010_gate_peers')]

    initial = False

    operations = [
        ops.CreateModel(
            name='Event',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('stream', fields.CharField(max_length=64)),
                ('kind', fields.CharField(max_length=32)),
                ('distinction', fields.CharField(default='', max_length=128)),
                ('first_seq', fields.BigIntField(null=True)),
                ('last_seq', fields.BigIntField(null=True)),
                ('reason', fields.CharField(default='', max_length=64)),
                ('detail', fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'gate_event', 'app': 'estation', 'indexes': [Index(fields=['stream', 'kind', 'at'])], 'pk_attr': 'id', 'table_description': 'What happened to a stream that a person may ask about later: jumps, refused snapshots,'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Phantom',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('stream', fields.CharField(max_length=64)),
                ('topic', fields.CharField(max_length=64)),
                ('source', fields.CharField(max_length=32)),
                ('key', fields.CharField(max_length=160)),
                ('named_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'gate_phantom', 'app': 'estation', 'unique_together': (('topic', 'source', 'key'),), 'pk_attr': 'id', 'table_description': 'A row here that its source does not know. It stays, but is no part of the copy any more.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Proof',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('stream', fields.CharField(max_length=64)),
                ('seq', fields.BigIntField()),
                ('topic', fields.CharField(max_length=64)),
                ('source', fields.CharField(max_length=32)),
                ('rows', fields.BigIntField()),
                ('root', fields.CharField(max_length=64)),
                ('our_rows', fields.BigIntField()),
                ('our_root', fields.CharField(max_length=64)),
                ('is_equal', fields.BooleanField()),
                ('buckets', fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'gate_proof', 'app': 'estation', 'indexes': [Index(fields=['stream', 'topic', 'source', 'at']), Index(fields=['at'])], 'pk_attr': 'id', 'table_description': "What a proof of the sender's found here: the same, or which buckets are not."},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Repair',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('stream', fields.CharField(max_length=64)),
                ('topic', fields.CharField(max_length=64)),
                ('source', fields.CharField(max_length=32)),
                ('buckets', fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ('bucket_at', fields.IntField(default=0)),
                ('after_key', fields.CharField(default='', max_length=160)),
                ('rows', fields.IntField(default=0)),
                ('asked_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('done_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'gate_repair', 'app': 'estation', 'indexes': [Index(fields=['stream', 'done_at'])], 'pk_attr': 'id', 'table_description': 'Buckets the peer holds otherwise; `bucket_at` and `after_key` say what is sent already.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='SentRow',
            fields=[
                ('id', fields.BigIntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ('stream', fields.CharField(max_length=64)),
                ('topic', fields.CharField(max_length=64)),
                ('source', fields.CharField(max_length=32)),
                ('key', fields.CharField(max_length=160)),
                ('version', fields.BigIntField()),
                ('digest', fields.BinaryField()),
                ('body', fields.JSONField(encoder=JSON_DUMPS, decoder=loads)),
                ('at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'gate_sent_row', 'app': 'estation', 'unique_together': (('stream', 'topic', 'source', 'key'),), 'pk_attr': 'id', 'table_description': 'The newest version of everything ever sent, for snapshots, proofs and repairs.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Snapshot',
            fields=[
                ('id', fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True)),
                ('stream', fields.CharField(max_length=64)),
                ('why', fields.CharField(max_length=32)),
                ('state', fields.CharField(max_length=16)),
                ('topic', fields.CharField(default='', max_length=64)),
                ('source', fields.CharField(default='', max_length=32)),
                ('key', fields.CharField(default='', max_length=160)),
                ('is_exhausted', fields.BooleanField(default=False)),
                ('rows', fields.BigIntField(default=0)),
                ('first_seq', fields.BigIntField(null=True)),
                ('last_seq', fields.BigIntField(null=True)),
                ('planned_at', fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ('ended_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={'table': 'gate_snapshot', 'app': 'estation', 'indexes': [Index(fields=['stream', 'planned_at'])], 'pk_attr': 'id', 'table_description': 'Everything sent once more, in pieces: planned, running (up to a row of the log), done.'},
            bases=['Model'],
        ),
        ops.CreateModel(
            name='Upkeep',
            fields=[
                ('stream', fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ('peer_seq', fields.BigIntField(default=0)),
                ('peer_since', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('peer_is_behind', fields.BooleanField(default=False)),
                ('resent_from', fields.BigIntField(default=0)),
                ('resend_pause_seconds', fields.IntField(default=0)),
                ('resend_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('blind_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('snapshot_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('prove_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('proof_is_due', fields.BooleanField(default=False)),
                ('proved_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('paused_reason', fields.CharField(default='', max_length=32)),
                ('paused_at', fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ('backfill_id', fields.BigIntField(null=True)),
                ('log_is_complete', fields.BooleanField(default=True)),
            ],
            options={'table': 'gate_upkeep', 'app': 'estation', 'pk_attr': 'stream', 'table_description': 'When a stream we write is next looked after, and why it packs no further.'},
            bases=['Model'],
        ),
        ops.AddField(
            model_name='OutgoingPacket',
            name='bytes_upto',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='OutgoingPacket',
            name='contents_upto',
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name='ParkedRow',
            name='digest',
            field=fields.BinaryField(null=True),
        ),
        *(ops.RunSQL(sql) for sql in [*BEFORE, *STATEMENTS.values()]),
    ]
