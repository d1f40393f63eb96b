"""Whose word about a person counts, which refund orders came, who gets symbols.

Orders that came before this are not in their copy yet: the first proof finds them, and the repair
puts them there. It starts none of them again (`payments.packets`).
"""

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from estation.shared.fields import FenField
from estation.shared.migrating import SwiftMigration

# Of persons of before: the peer with the widest reach that has a bill or case of theirs.
_SPOKE_BEFORE = """
with seen as (
    select payer_id as person_id, source from bill
    union
    select p.person_id, c.source from case_party p join case_record c on c.id = p.case_id
), spoke as (
    select distinct on (person_id) person_id, g.name,
           coalesce((select max(length(code)) from jsonb_array_elements_text(g.regions) as code), 0)
             as reach
    from seen join gate_peer_source s using (source) join gate_peer g on g.name = s.peer
    order by person_id, reach, g.created_at, g.name
)
update person set said_by = spoke.name, reach = spoke.reach
from spoke where person.id = spoke.person_id
"""


STATEMENTS = {
    "ck_centre_refund_order_copy": (
        "alter table centre_refund_order add constraint ck_centre_refund_order_copy"
        " check (octet_length(row_digest) = 32 and version >= 1 and amount_fen > 0)"
    ),
    # As of the other copies: whoever changes it past the gate makes its digest void.
    "tr_centre_refund_order_touched": (
        "create trigger tr_centre_refund_order_touched before update"
        " of version, region, bill_source_id, order_no, amount_fen on centre_refund_order"
        " for each row when (new.row_digest is not distinct from old.row_digest"
        " and row(new.version, new.region, new.bill_source_id, new.order_no, new.amount_fen)"
        " is distinct from"
        " row(old.version, old.region, old.bill_source_id, old.order_no, old.amount_fen))"
        " execute function gate_copy_was_touched()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("estation", "0017_channel_silence")]

    operations = [
        ops.AddField(
            model_name="Person",
            name="said_by",
            field=fields.CharField(default="", db_default="", max_length=64),
        ),
        ops.AddField(
            model_name="Person",
            name="reach",
            field=fields.SmallIntField(default=6, db_default=6),
        ),
        ops.CreateModel(
            name="PersonWord",
            fields=[
                ("id", fields.UUIDField(primary_key=True, unique=True, db_index=True)),
                ("person", fields.ForeignKeyField("estation.Person", source_field="person_id", db_constraint=True, to_field="id", related_name=False, on_delete=OnDelete.RESTRICT)),
                ("said_by", fields.CharField(max_length=64)),
                ("name_sealed", fields.BinaryField()),
                ("phone_index", fields.CharField(max_length=64)),
                ("phone_sealed", fields.BinaryField()),
                ("said_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
            ],
            options={"table": "person_word", "app": "estation", "unique_together": (("person_id", "said_by"),), "pk_attr": "id", "table_description": "What a peer says of a person that another one registered; nobody logs in by it."},
            bases=["Model"],
        ),
        ops.RunSQL(_SPOKE_BEFORE),
        ops.CreateModel(
            name="CentreRefundOrder",
            fields=[
                ("id", fields.UUIDField(primary_key=True, unique=True, db_index=True)),
                ("source", fields.CharField(max_length=32)),
                ("source_id", fields.CharField(max_length=64)),
                ("version", fields.IntField()),
                ("region", fields.CharField(max_length=6)),
                ("bill_source_id", fields.CharField(max_length=64)),
                ("order_no", fields.CharField(max_length=32)),
                ("amount_fen", FenField()),
                ("data_as_of", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("row_digest", fields.BinaryField()),
            ],
            options={"table": "centre_refund_order", "app": "estation", "unique_together": (("source", "source_id"),), "pk_attr": "id", "table_description": "A refund order of the centre's as it came: the copy that is proved equal to theirs."},
            bases=["Model"],
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
        ops.AddField(
            model_name="GatePeer",
            name="symbols_folder",
            field=fields.CharField(default="", db_default="", max_length=512),
        ),
        ops.AddField(
            model_name="GatePeer",
            name="symbols_repair_percent",
            field=fields.IntField(default=50, db_default=50),
        ),
    ]
