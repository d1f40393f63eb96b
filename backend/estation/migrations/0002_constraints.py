"""What Tortoise's models cannot say: partial unique indexes, checks, append-only triggers.

Tortoise silently drops `Meta.constraints` of new models (DESIGN §9), so they live here and a
test asks the database for each of them.
"""

from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    # payments
    "uq_pay_order_bill_open": (
        "create unique index uq_pay_order_bill_open on pay_order_bill (bill_id) where is_open"
    ),
    "uq_pay_attempt_live": (
        "create unique index uq_pay_attempt_live on pay_attempt (order_id)"
        " where state in ('opening', 'open')"
    ),
    "ix_pay_attempt_due": (
        "create index ix_pay_attempt_due on pay_attempt (next_query_at)"
        " where next_query_at is not null"
    ),
    "ix_pay_order_bill_bill": "create index ix_pay_order_bill_bill on pay_order_bill (bill_id)",
    "ix_pay_attempt_order": "create index ix_pay_attempt_order on pay_attempt (order_id)",
    "ix_pay_notice_unhandled": (
        "create index ix_pay_notice_unhandled on pay_notice (next_try_at) where handled_at is null"
    ),
    "ck_pay_order_amount": (
        "alter table pay_order add constraint ck_pay_order_amount check (amount_fen > 0)"
    ),
    "ck_pay_attempt_amount": (
        "alter table pay_attempt add constraint ck_pay_attempt_amount check (amount_fen > 0)"
    ),
    "ck_pay_attempt_paid": (
        "alter table pay_attempt add constraint ck_pay_attempt_paid"
        " check (case when state = 'paid'"
        " then paid_at is not null and paid_fen > 0 and channel_trade_no is not null"
        " else paid_at is null and paid_fen is null and channel_trade_no is null end)"
    ),
    "ck_pay_attempt_state": (
        "alter table pay_attempt add constraint ck_pay_attempt_state"
        " check (state in ('opening', 'open', 'abandoned', 'paid', 'closed', 'refused'))"
    ),
    "ck_pay_order_state": (
        "alter table pay_order add constraint ck_pay_order_state check (case state"
        " when 'open' then paid_at is null and closed_at is null"
        " when 'paid' then paid_at is not null"
        " when 'closed' then closed_at is not null and close_reason <> ''"
        " else false end)"
    ),
    "ix_incident_open": (
        "create index ix_incident_open on incident (due_at) where state = 'open'"
    ),
    # ledger
    "ck_ledger_entry_one_side": (
        "alter table ledger_entry add constraint ck_ledger_entry_one_side"
        " check (debit_fen >= 0 and credit_fen >= 0 and (debit_fen > 0) <> (credit_fen > 0))"
    ),
    "ledger_is_append_only": (
        "create function ledger_is_append_only() returns trigger language plpgsql as $$"
        " begin raise exception 'the ledger is append-only'; end $$"
    ),
    "tr_ledger_transfer_append_only": (
        "create trigger tr_ledger_transfer_append_only before update or delete on ledger_transfer"
        " for each row execute function ledger_is_append_only()"
    ),
    "tr_ledger_entry_append_only": (
        "create trigger tr_ledger_entry_append_only before update or delete on ledger_entry"
        " for each row execute function ledger_is_append_only()"
    ),
    "ix_ledger_transfer_our_no": (
        "create index ix_ledger_transfer_our_no on ledger_transfer (our_no)"
    ),
    # identity
    "ck_session_one_kind": (
        "alter table session add constraint ck_session_one_kind"
        " check (person_id is null or staff_id is null)"
    ),
    "ix_session_end": "create index ix_session_end on session (expires_at)",
    "ix_login_code_made": "create index ix_login_code_made on login_code (created_at)",
    # fees
    "ck_bill_total": "alter table bill add constraint ck_bill_total check (total_fen >= 0)",
    "ck_bill_paid": (
        "alter table bill add constraint ck_bill_paid check (case state"
        " when 'paid' then paid_at is not null"
        " else paid_at is null and paid_version is null end)"
    ),
    "ck_bill_item_amount": (
        "alter table bill_item add constraint ck_bill_item_amount"
        " check (amount_fen >= 0 and relief_fen >= 0 and base_fen >= 0)"
    ),
    # reconciliation
    "ck_channel_bill_line_kind": (
        "alter table channel_bill_line add constraint ck_channel_bill_line_kind"
        " check (kind in ('payment', 'refund') and amount_fen >= 0)"
    ),
    "ix_reconciliation_run_newest": (
        "create index ix_reconciliation_run_newest on reconciliation_run (day, started_at desc)"
    ),
    "ix_reconciliation_difference_order": (
        "create index ix_reconciliation_difference_order"
        " on reconciliation_difference (run_id, kind, account_id, out_trade_no, id)"
    ),
    "raw_bill_is_kept": (
        "create function raw_bill_is_kept() returns trigger language plpgsql as $$"
        " begin raise exception 'a raw bill is evidence and stays as it came'; end $$"
    ),
    "tr_channel_bill_file_kept": (
        "create trigger tr_channel_bill_file_kept"
        " before delete or update of content, sha256, account_id, day on channel_bill_file"
        " for each row execute function raw_bill_is_kept()"
    ),
    "tr_channel_bill_line_kept": (
        "create trigger tr_channel_bill_line_kept before delete or update on channel_bill_line"
        " for each row execute function raw_bill_is_kept()"
    ),
    # outbox
    "ix_outbox_due": (
        "create index ix_outbox_due on outbox_message (not_before)"
        " where sent_at is null and dead_at is null"
    ),
    # gate
    "ix_gate_row_waiting": (
        "create index ix_gate_row_waiting on gate_outgoing_row (stream, id)"
        " where packed_seq is null"
    ),
}


# Room on each page for the one update a payment makes: it then touches no index (a HOT update).
TUNING = [
    f"alter table {table} set (fillfactor = 80)"
    for table in ("bill", "pay_order", "pay_attempt", "pay_order_bill")
]


class Migration(SwiftMigration):
    dependencies = [("estation", "0001_initial")]

    operations = [ops.RunSQL(sql) for sql in [*STATEMENTS.values(), *TUNING]]
