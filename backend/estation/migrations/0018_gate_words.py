"""Whose word about a person counts."""

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

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


class Migration(migrations.Migration):
    dependencies = [("estation", "0015_sent_sources")]

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
    ]
