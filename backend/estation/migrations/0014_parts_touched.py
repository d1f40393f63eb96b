"""The parts of a copied thing are its content, too: who changes them past the gate voids it.

Parties of a case, holders of a right or certificate, items put into a bill, and whether a bill
is withdrawn. What the gate itself writes (`replicas.write_as_sent`) is no such change.
"""

from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

_NOT_AS_SENT = "current_setting('estation.writes_as_sent', true) is distinct from 'on'"
_VOID = "row_digest = decode(repeat('00', 32), 'hex')"

STATEMENTS = {
    # Paid and refunded are this side's own words; withdrawn is the centre's.
    "tr_bill_withdrawn": (
        "create trigger tr_bill_withdrawn before update of state on bill for each row"
        " when ((new.state = 'withdrawn') <> (old.state = 'withdrawn')"
        " and new.row_digest is not distinct from old.row_digest)"
        " execute function gate_copy_was_touched()"
    ),
    "gate_bill_item_was_added": (
        "create function gate_bill_item_was_added() returns trigger language plpgsql as $$"
        f" begin update bill set {_VOID}"
        " where id = new.bill_id and coalesce(paid_version, version) = new.version"
        " and row_digest is not null; return null; end $$"
    ),
    "tr_bill_item_added": (
        "create trigger tr_bill_item_added after insert on bill_item"
        f" for each row when ({_NOT_AS_SENT}) execute function gate_bill_item_was_added()"
    ),
    "gate_case_parties_were_touched": (
        "create function gate_case_parties_were_touched() returns trigger language plpgsql as $$"
        f" begin update case_record set {_VOID} where id in (old.case_id, new.case_id);"
        " return null; end $$"
    ),
    "tr_case_party_touched": (
        "create trigger tr_case_party_touched after insert or update or delete on case_party"
        f" for each row when ({_NOT_AS_SENT}) execute function gate_case_parties_were_touched()"
    ),
    "gate_holders_were_touched": (
        "create function gate_holders_were_touched() returns trigger language plpgsql as $$ begin"
        f" update registry_right set {_VOID} where id in (old.owner_id, new.owner_id);"
        f" update registry_certificate set {_VOID} where id in (old.owner_id, new.owner_id);"
        " return null; end $$"
    ),
    "tr_registry_holder_touched": (
        "create trigger tr_registry_holder_touched"
        " after insert or update or delete on registry_holder"
        f" for each row when ({_NOT_AS_SENT}) execute function gate_holders_were_touched()"
    ),
}

_AFTER_ALL = (
    f"update bill b set {_VOID} from gate_phantom p where b.state = 'withdrawn'"  # noqa: S608
    " and p.topic = 'fee_bill' and p.source = b.source and p.key = b.source_id"
)
# Taken out of use before their digest went with them: should they come back, they are written anew.


class Migration(SwiftMigration):
    dependencies = [("estation", "0013_second_person")]

    operations = [ops.RunSQL(sql) for sql in [_AFTER_ALL, *STATEMENTS.values()]]
