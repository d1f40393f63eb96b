"""A key of personal data may have a successor: what is sealed is sealed anew, and nothing else.

A bill file's content changes from one key to the next, never under the same: its digest, account
and day still never change, so that what was sealed is proved to be what came. Openids of bindings
and the phones of logins are kept sealed, so that another key can index them.
"""

from tortoise import fields
from tortoise.migrations import operations as ops

from estation.shared.migrating import SwiftMigration

STATEMENTS = {
    "bill_is_only_sealed": (
        "create or replace function bill_is_only_sealed() returns trigger language plpgsql as $$"
        " begin"
        " if not old.is_sealed and new.is_sealed then return new; end if;"
        # The key's name: two letters and four bytes.
        " if old.is_sealed and new.is_sealed and substring(new.content from 1 for 2) = 'k1'::bytea"
        " and substring(new.content from 1 for 6) <> substring(old.content from 1 for 6)"
        " then return new; end if;"
        " raise exception 'a raw bill is evidence and stays as it came'; end $$"
    ),
    "ck_wechat_binding_openid_sealed": (
        "alter table wechat_binding add constraint ck_wechat_binding_openid_sealed"
        " check (openid_sealed is null or openid_index is not null)"
    ),
    "ck_session_phone_sealed": (
        "alter table session add constraint ck_session_phone_sealed"
        " check (phone_sealed is null or phone_index is not null)"
    ),
}


class Migration(SwiftMigration):
    dependencies = [("estation", "0024_entries_apart")]

    initial = False

    operations = [
        ops.AddField(
            model_name="WechatBinding",
            name="openid_sealed",
            field=fields.BinaryField(null=True),
        ),
        ops.AddField(
            model_name="Session",
            name="phone_sealed",
            field=fields.BinaryField(null=True),
        ),
        *(ops.RunSQL(sql) for sql in STATEMENTS.values()),
    ]
