"""Evidence of a payment that somebody changes past the gate is not what was sent any more.

As of receipts and refunds: its digest becomes void, and the next proof finds it.
"""

from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "tr_fee_payment_evidence_touched": (
        "create trigger tr_fee_payment_evidence_touched before update of version, said"
        " on fee_payment_evidence"
        " for each row when (new.row_digest is not distinct from old.row_digest"
        " and row(new.version, new.said) is distinct from row(old.version, old.said))"
        " execute function gate_copy_was_touched()"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("inner", "0012_packing")]

    operations = [ops.RunSQL(sql) for sql in STATEMENTS.values()]
