"""What Tortoise's models cannot say: checks, partial indexes, and that history stays.

Tortoise silently drops `Meta.constraints` of new models (DESIGN §9), so they live here and a
test asks the database for each of them.
"""

from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "ck_case_file_state": (
        "alter table case_file add constraint ck_case_file_state"
        " check (state in ('open', 'closed', 'withdrawn') and version >= 1)"
    ),
    "ck_case_stage_state": (
        "alter table case_stage add constraint ck_case_stage_state"
        " check (state in ('waiting', 'doing', 'done', 'not_required', 'returned'))"
    ),
    "ck_fee_bill_state": (
        "alter table fee_bill add constraint ck_fee_bill_state check (case state"
        " when 'issued' then paid_at is null and paid_version is null"
        " when 'withdrawn' then paid_at is null and paid_version is null"
        " when 'paid' then paid_at is not null and paid_version = version"
        " else false end)"
    ),
    "ck_fee_bill_total": (
        "alter table fee_bill add constraint ck_fee_bill_total"
        " check (total_fen > 0 and version >= 1)"
    ),
    "ck_fee_bill_item_amounts": (
        "alter table fee_bill_item add constraint ck_fee_bill_item_amounts"
        " check (amount_fen >= 0 and relief_fen >= 0 and coalesce(base_fen, 0) >= 0)"
    ),
    "ck_fee_receipt_amount": (
        "alter table fee_receipt add constraint ck_fee_receipt_amount check (amount_fen >= 0)"
    ),
    "ck_fee_receipt_bill": (
        "alter table fee_receipt add constraint ck_fee_receipt_bill"
        " check (attention <> '' or bill_id is not null)"
    ),
    "ix_fee_receipt_attention": (
        "create index ix_fee_receipt_attention on fee_receipt (received_at desc)"
        " where attention <> '' and handled_at is null"
    ),
    "uq_fee_receipt_paid": (
        "create unique index uq_fee_receipt_paid on fee_receipt (bill_id)"
        " where attention = '' and bill_id is not null"
    ),
    "ix_fee_bill_payer": "create index ix_fee_bill_payer on fee_bill (payer_id)",
    "ix_case_party_name": ("create index ix_case_party_name on case_party (name text_pattern_ops)"),
    "ix_case_file_no": ("create index ix_case_file_no on case_file (case_no text_pattern_ops)"),
    "fee_bill_history_is_kept": (
        "create function fee_bill_history_is_kept() returns trigger language plpgsql as $$"
        " begin raise exception 'a version of a fee bill stays as it was issued'; end $$"
    ),
    "tr_fee_bill_version_kept": (
        "create trigger tr_fee_bill_version_kept before update or delete on fee_bill_version"
        " for each row execute function fee_bill_history_is_kept()"
    ),
    "tr_fee_bill_item_kept": (
        "create trigger tr_fee_bill_item_kept before update or delete on fee_bill_item"
        " for each row execute function fee_bill_history_is_kept()"
    ),
    # gate
    "ix_gate_row_waiting": (
        "create index ix_gate_row_waiting on gate_outgoing_row (stream, id)"
        " where packed_seq is null"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("inner", "0001_initial")]

    operations = [ops.RunSQL(sql) for sql in STATEMENTS.values()]
