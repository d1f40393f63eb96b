"""What lies beside the daily payments in the books is found without reading all of them.

The rules about suspense, refunds in flight, fees and claims look every five minutes, at a few
hundred entries among millions. A city with a large ledger builds it beforehand, `concurrently`
(config/production.md).
"""

from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ix_ledger_entry_apart": (
        "create index if not exists ix_ledger_entry_apart on ledger_entry (account, transfer_id)"
        " where starts_with(account, 'suspense:') or starts_with(account, 'refund_in_flight:')"
        " or starts_with(account, 'settled_outside:') or starts_with(account, 'overpaid_back:')"
        " or starts_with(account, 'channel_fee:')"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("estation", "0023_packing")]

    operations = [ops.RunSQL(sql) for sql in STATEMENTS.values()]
