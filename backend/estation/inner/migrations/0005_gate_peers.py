"""The peers of the gate: several sources, their keys, further folders, and what people did."""

from tortoise import fields
from tortoise.migrations import operations as ops
from tortoise.indexes import Index

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_gate_peer_state": (
        "alter table gate_peer add constraint ck_gate_peer_state"
        " check (state in ('active', 'suspended') and stream_in <> stream_out"
        " and late_after_seconds > 0 and jsonb_typeof(regions) = 'array')"
    ),
    "uq_gate_peer_stream_in": (
        "create unique index uq_gate_peer_stream_in on gate_peer (stream_in)"
    ),
    "uq_gate_peer_stream_out": (
        "create unique index uq_gate_peer_stream_out on gate_peer (stream_out)"
    ),
    "uq_gate_peer_folder": "create unique index uq_gate_peer_folder on gate_peer (folder)",
    "fk_gate_peer_source_peer": (
        "alter table gate_peer_source add constraint fk_gate_peer_source_peer"
        " foreign key (peer) references gate_peer (name) on delete restrict"
    ),
    "fk_gate_key_peer": (
        "alter table gate_key add constraint fk_gate_key_peer"
        " foreign key (peer) references gate_peer (name) on delete restrict"
    ),
    "ck_gate_key": (
        "alter table gate_key add constraint ck_gate_key check (owner in ('ours', 'theirs')"
        " and (owner = 'ours') = (file <> '') and valid_until >= valid_from)"
    ),
    # One key for two peers would let each seal in the other's name.
    "uq_gate_key_theirs": (
        "create unique index uq_gate_key_theirs on gate_key (key_id) where owner = 'theirs'"
    ),
    "gate_deed_is_append_only": (
        "create function gate_deed_is_append_only() returns trigger language plpgsql as $$"
        " begin raise exception 'what was done at the gate stays written'; end $$"
    ),
    "tr_gate_deed_append_only": (
        "create trigger tr_gate_deed_append_only before update or delete on gate_deed"
        " for each row execute function gate_deed_is_append_only()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("inner", "0004_registry")]

    operations = [
        ops.CreateModel(
            name="GatePeer",
            fields=[
                ("name", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ("title", fields.CharField(max_length=64)),
                ("folder", fields.CharField(max_length=512)),
                ("stream_in", fields.CharField(max_length=64)),
                ("stream_out", fields.CharField(max_length=64)),
                ("regions", fields.JSONField()),
                ("late_after_seconds", fields.IntField()),
                ("state", fields.CharField(max_length=16)),
                ("trouble", fields.CharField(default="", max_length=64)),
                ("trouble_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("changed_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "gate_peer", "app": "inner", "pk_attr": "name", "table_description": "Another side we exchange files with: the city centre, a county, or the online side."},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="GatePeerSource",
            fields=[
                ("source", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32)),
                ("peer", fields.CharField(db_index=True, max_length=64)),
            ],
            options={"table": "gate_peer_source", "app": "inner", "pk_attr": "source", "table_description": "Which peer speaks for a source, and gets the rows that concern it: one."},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="GateKey",
            fields=[
                ("id", fields.UUIDField(primary_key=True, unique=True, db_index=True)),
                ("peer", fields.CharField(max_length=64)),
                ("owner", fields.CharField(max_length=8)),
                ("key_id", fields.CharField(max_length=64)),
                ("public_pem", fields.TextField(unique=False)),
                ("file", fields.CharField(default="", max_length=256)),
                ("valid_from", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("valid_until", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "gate_key", "app": "inner", "unique_together": (("peer", "owner", "key_id"),), "pk_attr": "id", "table_description": "A key between us and one peer, from `valid_from` until `valid_until` (None: no end)."},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="GateDestination",
            fields=[
                ("id", fields.UUIDField(primary_key=True, unique=True, db_index=True)),
                ("stream", fields.CharField(max_length=64)),
                ("folder", fields.CharField(max_length=512)),
                ("written_seq", fields.BigIntField(default=0)),
                ("passed_over", fields.BigIntField(default=0)),
                ("failure", fields.CharField(default="", max_length=128)),
                ("failed_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "gate_destination", "app": "inner", "unique_together": (("stream", "folder"),), "pk_attr": "id", "table_description": "A further folder that gets every file of a stream."},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="GateDeed",
            fields=[
                ("id", fields.UUIDField(primary_key=True, unique=True, db_index=True)),
                ("peer", fields.CharField(max_length=64)),
                ("what", fields.CharField(max_length=32)),
                ("about", fields.CharField(default="", max_length=128)),
                ("by", fields.CharField(max_length=128)),
                ("reason", fields.CharField(max_length=512)),
                ("at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "gate_deed", "app": "inner", "indexes": [Index(fields=["peer", "at"])], "pk_attr": "id", "table_description": "What a person did to a peer or stream, and why. Append-only."},
            bases=["Model"],
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
